"""Precision, recall and F1 of events (DREAM-1K, AutoDQ).

As published: mean recall and precision per part of the data set, their mean over the parts, and F1 of these two means.
A side without events has no rate of its own (the released code gives it 1.0) and is counted in the notes. With
several runs, a clip's value is the mean over the runs that scored it.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import ClassVar

from avocet.evaluation.items import BenchmarkItem
from avocet.evaluation.scorers.base import Finding, Judged, Scorer
from avocet.evaluation.scores import Breakdown, Score, Scores, bootstrap_of, group_means, mean_over_runs
from avocet.judging.client import JudgeClient
from avocet.judging.dream import DreamFindings, DreamItem, DreamJudge
from avocet.judging.judge import Judge
from avocet.judging.messages import CallParameters
from avocet.metrics.events import Protocol
from avocet.records import Verdict

_Values = dict[str, float | None]


class DreamScorer(Scorer[DreamItem]):
    """For `dream1k`."""

    default_runs: ClassVar[int] = 1

    def judge(self, client: JudgeClient | None, parameters: CallParameters | None = None) -> Judge[DreamItem]:
        assert client is not None
        return DreamJudge(client, parameters=parameters)

    def judge_item(self, item: BenchmarkItem, caption: str) -> DreamItem | str:
        if not item.reference:
            return "no reference caption"
        return DreamItem(clip_id=item.id, caption=caption, reference=item.reference, events=item.event_texts)

    def scores(self, judged: Sequence[Judged], protocol: Protocol) -> Scores:
        items = {one.item.id: _item_values(one.verdicts) for one in judged}
        subsets = [str(one.item.meta.get("subset", "")) for one in judged]
        values = list(items.values())
        scores = [
            _score("f1", values, subsets, _macro_f1),
            _score("recall", values, subsets, lambda values, subsets: _macro("recall", values, subsets)),
            _score("precision", values, subsets, lambda values, subsets: _macro("precision", values, subsets)),
        ]
        return Scores(
            headline="f1",
            scores=tuple(scores),
            breakdowns=(
                *(_by_subset(name, values, subsets) for name in ("recall", "precision")),
                *(_by_fact(fact, judged, values) for fact in ("n_subjects", "n_shots")),
            ),
            items=items,
        )

    def findings(self, verdict: Verdict) -> list[Finding]:
        found = DreamFindings.from_verdict(verdict)
        return [
            *(Finding(kind="missed", text=one.event) for one in found.reference_events if one.label == "neutral"),
            *(
                Finding(kind="incorrect", text=one.event)
                for one in found.reference_events
                if one.label == "contradiction"
            ),
            *(
                Finding(kind="hallucinated", text=one.event)
                for one in found.caption_events
                if one.label != "entailment"
            ),
        ]


def _item_values(verdicts: Sequence[Verdict]) -> _Values:
    runs = [DreamFindings.from_verdict(verdict) for verdict in verdicts if verdict.status == "scored"]
    return {name: mean_over_runs(getattr(run, name) for run in runs) for name in ("f1", "recall", "precision")}


def _macro(name: str, values: Sequence[_Values], subsets: Sequence[str]) -> float | None:
    groups: dict[str, list[float]] = {}
    for one, subset in zip(values, subsets, strict=True):
        value = one[name]
        if value is not None:
            groups.setdefault(subset, []).append(value)
    return statistics.fmean(statistics.fmean(group) for group in groups.values()) if groups else None


def _macro_f1(values: Sequence[_Values], subsets: Sequence[str]) -> float | None:
    recall, precision = _macro("recall", values, subsets), _macro("precision", values, subsets)
    if recall is None or precision is None:
        return None
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def _score(
    name: str,
    values: Sequence[_Values],
    subsets: Sequence[str],
    statistic: Callable[[Sequence[_Values], Sequence[str]], float | None],
) -> Score:
    def resampled(indices: Sequence[int]) -> float | None:
        return statistic([values[index] for index in indices], [subsets[index] for index in indices])

    low, high = bootstrap_of(len(values), resampled, num_resamples=500)
    num = sum(one[name] is not None for one in values)
    num_without = len(values) - num
    note = "mean over the parts of the data set" if name != "f1" else "of the two means"
    note += f"; {num_without} clips without such a rate" if num_without else ""
    return Score(name=name, value=statistic(values, subsets), low=low, high=high, num=num, better="higher", note=note)


def _by_subset(name: str, values: Sequence[_Values], subsets: Sequence[str]) -> Breakdown:
    entries = [(subset or None, one[name]) for one, subset in zip(values, subsets, strict=True)]
    return dataclasses.replace(group_means(name, "part of the data set", "captions", entries))


def _by_fact(fact: str, judged: Sequence[Judged], values: Sequence[_Values]) -> Breakdown:
    """F1 by what the file counts in the clip; four and more are one row."""
    order = ("1", "2", "3", "4 and more")
    entries: list[tuple[str | None, float | None]] = []
    for one, of_clip in zip(judged, values, strict=True):
        count = one.item.meta.get(fact)
        name = None if not isinstance(count, int) or count < 1 else order[min(count, len(order)) - 1]
        entries.append((name, of_clip["f1"]))
    return group_means("f1", fact.replace("n_", "number of "), "captions", entries, order)
