"""How wrong is a judge? Its verdicts beside the truth on the same captions.

    report = calibrate(items, judge.judge_many([...], runs=3))
    print(report.to_markdown())

`items` are captions whose errors are known: made so (`avocet.evaluation.calibration_set`), or found by people. The
report says, for all captions and for each kind of planted error, which of the errors the judge finds (recall) and how
many of those that it reports are errors (precision); how much its rates are off (bias, with bootstrap intervals over
captions); how much they change from run to run; and what it takes for what, by kind of event.

Missed and incorrect events are compared event by event where both sides name events of the clip's list: a statement
that is the event's text, or begins with it and a colon. Otherwise, and for hallucinations (free text, about which two
judges never use the same words), numbers are compared: of a reported and b true ones, min(a, b) count as agreed. That
is the best case, and the report says how many verdicts it rests on.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from avocet.errors import ConfigError, RecordError
from avocet.judging.calibration_report import (
    ALL_ERRORS,
    CATEGORIES,
    RATES,
    STATUSES,
    Agreement,
    Bias,
    Category,
    ErrorRow,
    EventStatus,
    JudgeCalibration,
    Rate,
    Spread,
)
from avocet.metrics import EventFindings, paired_bootstrap
from avocet.records import Record, Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationItem(Record):
    """A caption whose errors are known."""

    clip_id: str
    """Unique in its set, which may hold several captions of one clip."""
    caption: str
    events: tuple[str, ...]
    """The atomic events of the clip, as the judge gets them."""
    event_kinds: tuple[str, ...] = ()
    """The kind of each event, for the confusion by kind; () when kinds are not known."""
    error: str
    """The kind of error that was planted, such as "dropped"; any name for captions as they are found."""
    planted: str = ""
    """What was changed, for people."""
    truth: EventFindings

    def __post_init__(self) -> None:
        if self.truth.num_events != len(self.events):
            raise RecordError(
                f"CalibrationItem {self.clip_id!r}: {len(self.events)} events, but the truth is about "
                f"{self.truth.num_events}"
            )
        if self.event_kinds and len(self.event_kinds) != len(self.events):
            raise RecordError(
                f"CalibrationItem {self.clip_id!r}: {len(self.event_kinds)} kinds for {len(self.events)} events; give "
                "one for each, or none"
            )
        if not self.error or self.error == ALL_ERRORS:
            raise RecordError(f"CalibrationItem {self.clip_id!r}: error must be a name other than {ALL_ERRORS!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pair:
    """A caption and what the judge found in it in one run."""

    item: CalibrationItem
    found: EventFindings


def event_findings(verdict: Verdict) -> EventFindings:
    """The findings of any judge of events; what else it says (reasoning, notes) is left out.

    Raises `RecordError` for an unscored verdict and for one without "num_events", "missed", "incorrect" and
    "hallucinated".
    """
    if verdict.status != "scored":
        raise RecordError(f"the verdict on {verdict.clip_id!r} is unscored: {verdict.reason}")
    names = [field.name for field in dataclasses.fields(EventFindings)]
    return EventFindings.from_dict({name: verdict.findings[name] for name in names if name in verdict.findings})


def calibrate(
    items: Sequence[CalibrationItem],
    runs: Sequence[Sequence[Verdict]],
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> JudgeCalibration:
    """Compare `runs[run][i]`, the verdict on `items[i]` in that run (what `Judge.judge_many` gives), with the truth.

    Raises `ConfigError` for no items or runs, ids that are not unique, verdicts that do not belong to the items, are of
    different judges or rest on another number of events; `RecordError` for verdicts that are not about events.
    """
    judge = _checked_judge(items, runs)
    columns = [
        [_pair(item, run[index]) if run[index].status == "scored" else None for run in runs]
        for index, item in enumerate(items)
    ]
    unscored = Counter(
        (verdict.reason or "").partition(":")[0] for run in runs for verdict in run if verdict.status == "unscored"
    )
    everything = list(range(len(items)))
    places: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        places[item.error].append(index)
    return JudgeCalibration(
        judge=judge,
        num_items=len(items),
        num_runs=len(runs),
        num_scored=len(items) * len(runs) - unscored.total(),
        num_unscored=unscored.total(),
        unscored_reasons=dict(unscored.most_common()),
        overall=_row(ALL_ERRORS, columns, everything),
        by_error=tuple(_row(error, columns, indices) for error, indices in places.items()),
        biases=tuple(_bias(rate, columns, confidence, num_resamples, seed) for rate in RATES),
        spreads=tuple(_spread(rate, columns, len(runs)) for rate in RATES),
        confusion=_confusion(pair for column in columns for pair in column if pair is not None),
    )


_Columns = Sequence[Sequence[_Pair | None]]
"""[item][run]."""


def _checked_judge(items: Sequence[CalibrationItem], runs: Sequence[Sequence[Verdict]]) -> str:
    """The name of the judge. Raises `ConfigError`; see `calibrate`."""
    if not items or not runs:
        raise ConfigError(f"calibration needs items and runs, got {len(items)} items and {len(runs)} runs")
    ids = [item.clip_id for item in items]
    repeated = [clip_id for clip_id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ConfigError(f"ids of calibration items must be unique, but {repeated[0]!r} occurs more than once")
    for number, run in enumerate(runs):
        if [verdict.clip_id for verdict in run] != ids:
            raise ConfigError(
                f"run {number}: verdicts must be those on the {len(ids)} items, in their order; got {len(run)} verdicts"
            )
    judges = sorted({verdict.judge for run in runs for verdict in run})
    if len(judges) > 1:
        raise ConfigError(f"verdicts are of different judges ({', '.join(judges)}); calibrate them one by one")
    return judges[0]


def _pair(item: CalibrationItem, verdict: Verdict) -> _Pair:
    found = event_findings(verdict)
    if found.num_events != len(item.events):
        raise ConfigError(
            f"the verdict on {item.clip_id!r} is about {found.num_events} events, but the item has {len(item.events)}; "
            "give the judge the item's own list"
        )
    return _Pair(item=item, found=found)


def _named(statements: Iterable[str], events: Sequence[str]) -> Counter[str] | None:
    """How often statements name each event; None unless each names one, and none more often than there are such."""
    there = Counter(map(_normal, events))
    named = Counter(_event_named(statement, there) for statement in statements)
    return None if named - there else named


def _event_named(statement: str, events: Iterable[str]) -> str:
    """The event that a statement is or begins with, the longest one; "" when there is none."""
    text = _normal(statement)
    return max((event for event in events if text == event or text.startswith(f"{event}:")), key=len, default="")


def _statuses(findings: EventFindings, events: Sequence[str]) -> list[EventStatus] | None:
    """What became of each event; None where that cannot be told."""
    missed, incorrect = _named(findings.missed, events), _named(findings.incorrect, events)
    if missed is None or incorrect is None or (missed + incorrect) - Counter(map(_normal, events)):
        return None
    statuses: list[EventStatus] = []
    for event in map(_normal, events):
        statuses.append("missed" if missed[event] else "incorrect" if incorrect[event] else "right")
        missed[event] -= statuses[-1] == "missed"
        incorrect[event] -= statuses[-1] == "incorrect"
    return statuses


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _row(error: str, columns: _Columns, indices: Sequence[int]) -> ErrorRow:
    verdicts = [pair for index in indices for pair in columns[index]]
    scored = [pair for pair in verdicts if pair is not None]
    agreements = {category: _agreement(category, scored) for category in CATEGORIES}
    exact = [all(len(reported) == len(true) for reported, true in _lists(pair).values()) for pair in scored]
    return ErrorRow(
        error=error,
        num_items=len(indices),
        num_scored=len(scored),
        num_unscored=len(verdicts) - len(scored),
        share_exact=_ratio(sum(exact), len(scored)),
        **agreements,
    )


def _lists(pair: _Pair) -> dict[Category, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Per category, what is reported and what is true."""
    found, true = pair.found, pair.item.truth
    return {
        "missed": (found.missed, true.missed),
        "incorrect": (found.incorrect, true.incorrect),
        "hallucinated": (found.hallucinated, true.hallucinated),
    }


def _agreement(category: Category, pairs: Sequence[_Pair]) -> Agreement:
    num_true = num_reported = num_agreed = num_by_events = absolute = 0
    for pair in pairs:
        reported, true = _lists(pair)[category]
        num_true += len(true)
        num_reported += len(reported)
        absolute += abs(len(reported) - len(true))
        named = [None if category == "hallucinated" else _named(each, pair.item.events) for each in (reported, true)]
        if named[0] is None or named[1] is None:
            num_agreed += min(len(reported), len(true))
        else:
            num_agreed += (named[0] & named[1]).total()
            num_by_events += 1
    return Agreement(
        num_true=num_true,
        num_reported=num_reported,
        num_agreed=num_agreed,
        recall=_ratio(num_agreed, num_true),
        precision=_ratio(num_agreed, num_reported),
        mean_count_error=_ratio(num_reported - num_true, len(pairs)),
        mean_absolute_count_error=_ratio(absolute, len(pairs)),
        num_by_events=num_by_events,
        num_by_counts=len(pairs) - num_by_events,
    )


def _rates(columns: _Columns, rate: Rate) -> list[tuple[float, list[float]]]:
    """Per caption with events, its true rate and those of its scored runs."""
    return [
        (getattr(scored[0].item.truth, rate), [getattr(pair.found, rate) for pair in scored])
        for column in columns
        if (scored := [pair for pair in column if pair is not None]) and scored[0].item.events
    ]


def _bias(rate: Rate, columns: _Columns, confidence: float, num_resamples: int, seed: int) -> Bias:
    true, judged = [], []
    for true_rate, rates in _rates(columns, rate):
        true.append(true_rate)
        judged.append(statistics.fmean(rates))
    difference = paired_bootstrap(judged, true, confidence=confidence, num_resamples=num_resamples, seed=seed)
    return Bias(
        rate=rate,
        true_mean=_mean(true),
        judge_mean=_mean(judged),
        bias=_known(difference.difference),
        low=_known(difference.low),
        high=_known(difference.high),
        confidence=confidence,
        num_items=len(true),
    )


def _spread(rate: Rate, columns: _Columns, num_runs: int) -> Spread:
    repeated = [rates for _, rates in _rates(columns, rate) if len(rates) > 1]
    by_run = [[[column[run]] for column in columns] for run in range(num_runs)]
    return Spread(
        rate=rate,
        run_means=tuple(_mean([rates[0] for _, rates in _rates(of_run, rate)]) for of_run in by_run),
        mean_deviation=_mean([statistics.stdev(rates) for rates in repeated]),
        share_unchanged=_ratio(sum(len(set(rates)) == 1 for rates in repeated), len(repeated)),
        num_items=len(repeated),
    )


def _confusion(pairs: Iterable[_Pair]) -> dict[str, dict[str, dict[str, int]]]:
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for pair in pairs:
        true_statuses = _statuses(pair.item.truth, pair.item.events)
        statuses = _statuses(pair.found, pair.item.events)
        if true_statuses is None or statuses is None:
            continue
        # Without kinds there is nothing to go through.
        for kind, true, found in zip(
            pair.item.event_kinds, true_statuses, statuses, strict=bool(pair.item.event_kinds)
        ):
            table = counts.setdefault(kind, {status: dict.fromkeys(STATUSES, 0) for status in STATUSES})
            table[true][found] += 1
    return counts


def _ratio(count: float, whole: int) -> float | None:
    return count / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _known(value: float) -> float | None:
    """JSON knows no nan."""
    return None if math.isnan(value) else value
