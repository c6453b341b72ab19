"""Miss, Hall and Total from the verdicts of event judges, under both protocols (see `avocet.metrics.events`).

Whatever protocol leads, the figures of the other stand beside it under names that end in "(pooled)" or "(per
caption)": published totals differ by which of them was taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import ClassVar, get_args

from avocet.evaluation.items import BenchmarkItem
from avocet.evaluation.scorers.base import Finding, Judged, Scorer
from avocet.evaluation.scores import PROTOCOL_SUFFIX, Breakdown, Score, Scores, bootstrap_of, group_means, number
from avocet.judging.calibration import event_findings
from avocet.judging.client import JudgeClient
from avocet.judging.events import CaptionWithEvents, EventJudge
from avocet.judging.judge import Judge
from avocet.judging.messages import CallParameters
from avocet.metrics import EventFindings, EventRates, event_rates
from avocet.metrics.events import Protocol
from avocet.metrics.statistics import ratio_of_sums
from avocet.records import Verdict

_RATES = ("total", "miss", "hall")
_OTHER: dict[Protocol, Protocol] = {"paper": "released", "released": "paper"}
_SIZES = (("up to 24", 0, 24), ("25 to 34", 25, 34), ("35 to 44", 35, 44), ("45 and more", 45, 10**9))

Findings = list[EventFindings | None]
"""Of one caption, per run."""


class EventScorer(Scorer[CaptionWithEvents]):
    """For `vs2` and `vs2-local`."""

    default_runs: ClassVar[int] = 7
    protocols: ClassVar[tuple[Protocol, ...]] = get_args(Protocol)

    def judge(self, client: JudgeClient | None, parameters: CallParameters | None = None) -> Judge[CaptionWithEvents]:
        assert client is not None
        return EventJudge(client, parameters=parameters)

    def judge_item(self, item: BenchmarkItem, caption: str) -> CaptionWithEvents | str:
        if not item.event_texts:
            return "no events: there is nothing to compare the caption with"
        return CaptionWithEvents(clip_id=item.id, caption=caption, events=item.event_texts)

    def scores(self, judged: Sequence[Judged], protocol: Protocol) -> Scores:
        columns = {one.item.id: _findings(one.verdicts) for one in judged}
        num_runs = max((len(column) for column in columns.values()), default=1)
        runs = [{item: column[run] for item, column in columns.items()} for run in range(num_runs)]
        main, other = event_rates(runs, protocol), event_rates(runs, _OTHER[protocol])
        items = {item: _item_values(column) for item, column in columns.items()}
        scores = [
            *(_rate(name, main, list(columns.values())) for name in _RATES),
            *_parts(main, runs),
            *(_rate(name, other, list(columns.values()), PROTOCOL_SUFFIX[_OTHER[protocol]]) for name in _RATES),
        ]
        pooled = main if protocol == "released" else other
        ending = "" if protocol == "released" else PROTOCOL_SUFFIX["released"]
        return Scores(
            headline="total",
            scores=tuple(scores),
            breakdowns=(_by_size(judged, items),) if judged else (),
            items=items,
            ratios={
                item: {name + ending: _counts(name, found) for name in _RATES}
                for item, column in columns.items()
                if pooled.run_index is not None and (found := column[pooled.run_index]) is not None
            },
        )

    def findings(self, verdict: Verdict) -> list[Finding]:
        found = event_findings(verdict)
        return [
            *(Finding(kind="hallucinated", text=text) for text in found.hallucinated),
            *(Finding(kind="incorrect", text=text) for text in found.incorrect),
            *(Finding(kind="missed", text=text) for text in found.missed),
        ]


def _findings(verdicts: Sequence[Verdict]) -> Findings:
    return [event_findings(verdict) if verdict.status == "scored" else None for verdict in verdicts]


def _counts(name: str, findings: EventFindings) -> tuple[float, float]:
    """(what a rate counts, events)."""
    counts = {"miss": len(findings.missed), "hall": len(findings.incorrect) + len(findings.hallucinated)}
    return float(sum(counts.values()) if name == "total" else counts[name]), float(findings.num_events)


def _item_values(column: Findings) -> dict[str, float | None]:
    """The median over the runs that scored the caption: an item has one value, whatever the protocol."""
    scored = [findings for findings in column if findings is not None]
    return {
        name: statistics.median(getattr(findings, name) for findings in scored) if scored else None for name in _RATES
    }


def _rate(name: str, rates: EventRates, columns: Sequence[Findings], suffix: str = "") -> Score:
    error = rates.standard_error if name == "total" else getattr(rates, f"{name}_standard_error")
    statistic = _median_mean(name, columns) if rates.protocol == "paper" else _pooled_rate(name, columns, rates)
    low, high = bootstrap_of(len(columns), statistic)
    if rates.run_index is not None:
        note = f"pooled; run {rates.run_index + 1} of {rates.num_runs} has the median"
    else:
        note = (
            "mean over captions" if rates.num_runs == 1 else f"mean of each caption's median over {rates.num_runs} runs"
        )
        # The paper defines Total as Miss + Hall and does not say of which medians.
        if name == "total" and rates.num_runs > 1:
            note += f"; miss + hall is {100 * (rates.miss + rates.hall):.1f} %: medians do not add"
    return Score(
        name=name + suffix,
        value=number(getattr(rates, name)),
        standard_error=number(error),
        low=low,
        high=high,
        num=rates.num_scored,
        statistic="mean" if rates.run_index is None else "ratio",
        better="lower",
        note=note,
    )


def _median_mean(name: str, columns: Sequence[Findings]) -> Callable[[Sequence[int]], float | None]:
    values = [_item_values(column)[name] for column in columns]

    def statistic(indices: Sequence[int]) -> float | None:
        drawn = [value for index in indices if (value := values[index]) is not None]
        return sum(drawn) / len(drawn) if drawn else None

    return statistic


def _pooled_rate(name: str, columns: Sequence[Findings], rates: EventRates) -> Callable[[Sequence[int]], float | None]:
    found = [column[rates.run_index] if rates.run_index is not None else None for column in columns]
    pairs = [_counts(name, one) if one is not None else (0.0, 0.0) for one in found]

    def statistic(indices: Sequence[int]) -> float | None:
        events = sum(pairs[index][1] for index in indices)
        return sum(pairs[index][0] for index in indices) / events if events else None

    return statistic


def _parts(rates: EventRates, runs: Sequence[dict[str, EventFindings | None]]) -> list[Score]:
    """The two halves of Hall, pooled over the reported run (of the paper's protocol: over all runs)."""
    chosen = runs if rates.run_index is None else [runs[rates.run_index]]
    found = [findings for run in chosen for findings in run.values() if findings is not None]
    events = [findings.num_events for findings in found]
    scores = []
    for name in ("incorrect", "hallucinated"):
        rate, _ = ratio_of_sums([len(getattr(findings, name)) for findings in found], events)
        # Runs over the same captions are no independent samples, so there is no error to give.
        scores.append(
            Score(
                name=name,
                value=number(rate),
                num=rates.num_scored,
                better="lower",
                note=f"{name} / events, all verdicts together",
            )
        )
    return scores


def _by_size(judged: Sequence[Judged], items: dict[str, dict[str, float | None]]) -> Breakdown:
    entries = []
    for one in judged:
        count = len(one.item.event_texts)
        size = next(name for name, low, high in _SIZES if low <= count <= high)
        entries.append((size, items[one.item.id]["total"]))
    return group_means("total", "number of events", "captions", entries, [name for name, _, _ in _SIZES])
