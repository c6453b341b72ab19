"""What changes when another judge judges the same captions.

    swap = judge_swap(first_judge.judge_many(cases, runs=3), second_judge.judge_many(cases, runs=3))
    print(swap.to_markdown())

Scores by different judges are not comparable: totals for one model differ by points between papers. This table says by
how much, on captions that both have judged: the mean rates of each and their difference (paired bootstrap over
captions), whether they put captions in the same order (Spearman's rank correlation), how often they count alike, and
on which errors they differ. It needs no truth; `avocet.judging.calibration` says who is right where one is known.

Per caption, a rate is the median over the judge's scored runs (protocol "paper"). Errors are compared run by run:
missed and incorrect events by the event, hallucinations by their number.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence

from avocet.errors import ConfigError
from avocet.judging.calibration import event_findings
from avocet.judging.calibration_report import ALL_ERRORS, CATEGORIES, RATES, Category, Rate
from avocet.metrics import EventFindings, mean_with_error, paired_bootstrap
from avocet.records import Record, Verdict

_DESCRIBED = ": described as "

Runs = Sequence[Sequence[Verdict]]
"""[run][caption], as `Judge.judge_many` gives them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateSwap(Record):
    """One rate of both judges over the captions that both have scored."""

    rate: Rate
    first_mean: float
    first_standard_error: float | None
    """Over captions; None for one caption."""
    second_mean: float
    second_standard_error: float | None
    difference: float
    """Second - first."""
    low: float
    """Bootstrap interval of the difference."""
    high: float
    confidence: float
    correlation: float | None
    """Spearman's, over captions; None where one judge gives all captions the same rate, or for one caption."""
    share_within_one_event: float
    """Captions with rates that differ by at most one event's worth."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorSwap(Record):
    """The errors of one category that both judges report, or only one of them; all runs together."""

    planted: str
    """The kind of planted error, or "all"."""
    category: Category
    num_pairs: int
    """Verdicts of both judges on the same caption in the same run."""
    num_both: int
    num_only_first: int
    num_only_second: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeSwap(Record):
    """Two judges on the same captions."""

    first: str
    second: str
    num_captions: int
    """Scored by both, in at least one run each."""
    num_only_first: int
    """Captions that only the first judge has scored."""
    num_only_second: int
    num_neither: int
    num_runs: tuple[int, int]
    rates: tuple[RateSwap, ...]
    """Of miss, hall and total; none without captions."""
    errors: tuple[ErrorSwap, ...]

    def to_markdown(self) -> str:
        """Tables for people, without the errors that neither judge reports."""
        parts = [
            f"First judge: {self.first} ({self.num_runs[0]} runs)\n"
            f"Second judge: {self.second} ({self.num_runs[1]} runs)",
            f"{self.num_captions} captions scored by both, {self.num_only_first} by the first only, "
            f"{self.num_only_second} by the second only, {self.num_neither} by neither",
            _rate_table(self.rates),
            _error_table(self.errors),
        ]
        return "\n\n".join(parts) + "\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Caption:
    """A caption that both judges have scored; a run is None where it is unscored."""

    planted: str
    first: tuple[EventFindings | None, ...]
    second: tuple[EventFindings | None, ...]

    @property
    def num_events(self) -> int:
        return next(found.num_events for found in self.first if found is not None)


def judge_swap(
    first: Runs,
    second: Runs,
    *,
    planted: Sequence[str] | None = None,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> JudgeSwap:
    """Compare two judges; `first[run][i]` and `second[run][i]` are their verdicts on the same caption.

    Args:
        planted: the kind of error in each caption, where it is known: differences are also shown by kind.

    Raises `ConfigError` for no runs, runs on other captions, several judges on one side, or other numbers of events;
    `RecordError` for verdicts that are not about events.
    """
    ids, names = _checked(first, second)
    if planted is not None and len(planted) != len(ids):
        raise ConfigError(f"each caption needs its kind of error, got {len(planted)} kinds for {len(ids)} captions")
    columns = [
        _Caption(
            planted=ALL_ERRORS if planted is None else planted[index],
            first=tuple(_findings(run[index]) for run in first),
            second=tuple(_findings(run[index]) for run in second),
        )
        for index in range(len(ids))
    ]
    known = Counter((any(column.first), any(column.second)) for column in columns)
    both = [column for column in columns if any(column.first) and any(column.second)]
    _check_events(both)
    return JudgeSwap(
        first=names[0],
        second=names[1],
        num_captions=len(both),
        num_only_first=known[True, False],
        num_only_second=known[False, True],
        num_neither=known[False, False],
        num_runs=(len(first), len(second)),
        rates=tuple(_rate_swap(rate, both, confidence, num_resamples, seed) for rate in RATES) if both else (),
        errors=tuple(_error_swaps(both)),
    )


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation of the ranks, ties with their mean rank; None where it is not defined.

    Raises `ConfigError` for lists of different length and values that are not finite.
    """
    if len(first) != len(second) or not all(map(math.isfinite, (*first, *second))):
        raise ConfigError(f"a rank correlation needs finite values in pairs, got {len(first)} and {len(second)}")
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return statistics.correlation(_ranks(first), _ranks(second))


def _ranks(values: Sequence[float]) -> list[float]:
    places: dict[float, list[int]] = defaultdict(list)
    for place, value in enumerate(sorted(values)):
        places[value].append(place)
    return [statistics.fmean(places[value]) for value in values]


def _checked(first: Runs, second: Runs) -> tuple[list[str], tuple[str, str]]:
    """The ids of the captions and the names of the judges."""
    if not first or not second or not first[0]:
        raise ConfigError("a judge swap needs verdicts of both judges on at least one caption")
    ids = [verdict.clip_id for verdict in first[0]]
    for run in (*first, *second):
        if [verdict.clip_id for verdict in run] != ids:
            raise ConfigError("all runs of both judges must be about the same captions in the same order")
    names = [sorted({verdict.judge for run in runs for verdict in run}) for runs in (first, second)]
    several = [name for name in names if len(name) > 1]
    if several:
        raise ConfigError(f"each side must be one judge, got {', '.join(several[0])} on one")
    return ids, (names[0][0], names[1][0])


def _findings(verdict: Verdict) -> EventFindings | None:
    """None where there are none, also of a clip without events, which has no rates."""
    if verdict.status != "scored":
        return None
    found = event_findings(verdict)
    return found if found.num_events else None


def _check_events(columns: Sequence[_Caption]) -> None:
    for column in columns:
        numbers = {found.num_events for found in (*column.first, *column.second) if found is not None}
        if len(numbers) > 1:
            raise ConfigError(f"both judges must have the same events of a clip, got {sorted(numbers)} events")


def _rate_swap(rate: Rate, columns: Sequence[_Caption], confidence: float, num_resamples: int, seed: int) -> RateSwap:
    first = [_median(rate, column.first) for column in columns]
    second = [_median(rate, column.second) for column in columns]
    difference = paired_bootstrap(second, first, confidence=confidence, num_resamples=num_resamples, seed=seed)
    means = [mean_with_error(first), mean_with_error(second)]
    # A margin keeps 0.3 - 0.2 of ten events from being more than one of them.
    within = [abs(a - b) * column.num_events <= 1 + 1e-9 for a, b, column in zip(first, second, columns, strict=True)]
    errors = [mean.standard_error if mean.num_values > 1 else None for mean in means]
    return RateSwap(
        rate=rate,
        first_mean=means[0].mean,
        first_standard_error=errors[0],
        second_mean=means[1].mean,
        second_standard_error=errors[1],
        difference=difference.difference,
        low=difference.low,
        high=difference.high,
        confidence=confidence,
        correlation=spearman(first, second),
        share_within_one_event=sum(within) / len(within),
    )


def _median(rate: Rate, runs: Sequence[EventFindings | None]) -> float:
    values: list[float] = [getattr(found, rate) for found in runs if found is not None]
    return statistics.median(values)


def _error_swaps(columns: Sequence[_Caption]) -> list[ErrorSwap]:
    kinds = list(dict.fromkeys(column.planted for column in columns))
    groups = {kind: [column for column in columns if column.planted == kind] for kind in kinds if kind != ALL_ERRORS}
    groups[ALL_ERRORS] = list(columns)
    return [_error_swap(kind, category, of) for kind, of in groups.items() if of for category in CATEGORIES]


def _error_swap(planted: str, category: Category, columns: Sequence[_Caption]) -> ErrorSwap:
    both = only_first = only_second = num_pairs = 0
    for column in columns:
        # A judge with more runs has some that nothing is there to be compared with.
        for first, second in zip(column.first, column.second, strict=False):
            if first is None or second is None:
                continue
            num_pairs += 1
            named = [_named(category, getattr(found, category)) for found in (first, second)]
            common = (named[0] & named[1]).total()
            both += common
            only_first += named[0].total() - common
            only_second += named[1].total() - common
    return ErrorSwap(
        planted=planted,
        category=category,
        num_pairs=num_pairs,
        num_both=both,
        num_only_first=only_first,
        num_only_second=only_second,
    )


def _named(category: Category, statements: Sequence[str]) -> Counter[str]:
    """What each statement is about. All hallucinations count alike: no two judges use the same words for one."""
    if category == "hallucinated":
        return Counter({"": len(statements)})
    # Both judges name the event first, and begin its text with a capital or not as the list does.
    return Counter(" ".join(each.partition(_DESCRIBED)[0].casefold().split()).rstrip(".") for each in statements)


def _rate_table(rates: Sequence[RateSwap]) -> str:
    lines = [
        "| rate | first | second | second - first | correlation | within one event |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for rate in rates:
        correlation = "-" if rate.correlation is None else f"{rate.correlation:.3f}"
        first = _mean(rate.first_mean, rate.first_standard_error)
        second = _mean(rate.second_mean, rate.second_standard_error)
        difference = f"{100 * rate.difference:+.1f} ({100 * rate.low:+.1f} to {100 * rate.high:+.1f})"
        lines.append(
            f"| {rate.rate} | {first} | {second} | {difference} | {correlation} | "
            f"{100 * rate.share_within_one_event:.0f} % |"
        )
    return "\n".join(lines)


def _error_table(errors: Sequence[ErrorSwap]) -> str:
    lines = ["| planted | errors | verdicts | by both | first only | second only |", "|" + " --- |" * 6]
    lines += [
        f"| {row.planted} | {row.category} | {row.num_pairs} | {row.num_both} | {row.num_only_first} | "
        f"{row.num_only_second} |"
        for row in errors
        if row.num_both or row.num_only_first or row.num_only_second
    ]
    return "\n".join(lines)


def _mean(mean: float, error: float | None) -> str:
    return f"{100 * mean:.1f} %" + ("" if error is None else f" ± {100 * error:.1f}")
