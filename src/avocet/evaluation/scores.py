"""What a benchmark run comes to: scores with their errors, breakdowns, and the figures of each item.

Values are fractions (0.137 is 13.7 %) unless a score says otherwise. None is "nothing to divide by", never zero.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from avocet.metrics import bootstrap_interval, breakdown_means, mean_with_error
from avocet.metrics.events import Protocol
from avocet.records import Record

Unit = Literal["percent", "grade", "words"]
"""How people read a value: as percent of 1, as a grade, as a number of words."""
Better = Literal["lower", "higher"]
Statistic = Literal["mean", "ratio", "other"]
"""How a score comes from the items: the mean of their values, the sum of numerators / the sum of denominators, or in a
way that no figures of single items can give."""

PROTOCOL_SUFFIX: Mapping[Protocol, str] = {"paper": " (per caption)", "released": " (pooled)"}
"""What scores of a protocol are called beside those of the one that leads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(Record):
    """One figure of a run."""

    name: str
    value: float | None
    standard_error: float | None = None
    low: float | None = None
    """Bootstrap 95 % interval over items."""
    high: float | None = None
    num: int
    """What it rests on: items, unless the note says otherwise."""
    num_unscored: int = 0
    """Of benchmarks of questions: questions that it leaves out, without a score in any run."""
    statistic: Statistic = "other"
    unit: Unit = "percent"
    better: Better | None = None
    """None for what is neither good nor bad by itself."""
    note: str = ""

    def text(self) -> str:
        """For people: value and standard error."""
        if self.value is None:
            return "-"
        factor, digits, ending = _FORMATS[self.unit]
        error = "" if self.standard_error is None else f" ± {factor * self.standard_error:.{digits}f}"
        return f"{factor * self.value:.{digits}f}{error}{ending}"

    def interval_text(self) -> str:
        """For people: the interval; "" without one."""
        if self.low is None or self.high is None:
            return ""
        factor, digits, _ = _FORMATS[self.unit]
        return f"{factor * self.low:.{digits}f} to {factor * self.high:.{digits}f}"


_FORMATS: Mapping[Unit, tuple[float, int, str]] = {
    "percent": (100.0, 1, " %"),
    "grade": (1.0, 2, ""),
    "words": (1.0, 1, ""),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group(Record):
    """One row of a breakdown."""

    name: str
    value: float | None
    standard_error: float | None
    num: int
    """Scored items (or questions)."""
    num_unscored: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Breakdown(Record):
    """One score by groups."""

    score: str
    by: str
    """What the groups are: "type", "number of events", ..."""
    of: str
    """What is counted in them: "captions", "questions"."""
    groups: tuple[Group, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores(Record):
    """All figures of a run over the captions that were judged."""

    headline: str
    """Name of the score that items are ranked by."""
    scores: tuple[Score, ...]
    breakdowns: tuple[Breakdown, ...] = ()
    items: dict[str, dict[str, float | None]]
    """Per item id, its own values of the scores that items have; None where it is unscored."""
    ratios: dict[str, dict[str, tuple[float, float]]] = dataclasses.field(default_factory=dict)
    """Per item id, (numerator, denominator) of the scores that are ratios; none where it is unscored."""

    def __getitem__(self, name: str) -> Score:
        """The score of a name. Raises `KeyError`."""
        for score in self.scores:
            if score.name == name:
                return score
        raise KeyError(name)


def number(value: float) -> float | None:
    """A number for a record: None for nan, which JSON does not have."""
    return None if math.isnan(value) else value


def mean_score(
    name: str,
    values: Sequence[float],
    *,
    unit: Unit = "percent",
    better: Better | None = None,
    note: str = "",
) -> Score:
    """The mean of one value per item, with standard error and bootstrap interval."""
    interval = bootstrap_interval(values)
    mean = mean_with_error(values)
    return Score(
        name=name,
        value=number(mean.mean),
        standard_error=number(mean.standard_error),
        low=number(interval.low),
        high=number(interval.high),
        num=mean.num_values,
        statistic="mean",
        unit=unit,
        better=better,
        note=note,
    )


def group_means(
    score: str, by: str, of: str, entries: Iterable[tuple[str | None, float | None]], order: Sequence[str] = ()
) -> Breakdown:
    """Means by group of (group, value) entries; a value of None is unscored, a group of None in no row.

    Rows stand in `order`, else in that of the alphabet.
    """
    known = {str(place): entry for place, entry in enumerate(entries)}
    groups = {key: name for key, (name, _) in known.items() if name is not None}
    rows = {row.group: row for row in breakdown_means({key: known[key][1] for key in groups}, groups)}
    names = [name for name in order if name in rows] + sorted(set(rows) - set(order))
    return Breakdown(
        score=score,
        by=by,
        of=of,
        groups=tuple(
            Group(
                name=name,
                value=number(rows[name].mean),
                standard_error=number(rows[name].standard_error),
                num=rows[name].num_values,
                num_unscored=rows[name].num_unscored,
            )
            for name in names
        ),
    )


def mean_over_runs(values: Iterable[float | None]) -> float | None:
    """The mean of an item's values in the runs that scored it; None when no run did."""
    scored = [value for value in values if value is not None]
    return sum(scored) / len(scored) if scored else None


def bootstrap_of(
    num_items: int, statistic: Callable[[Sequence[int]], float | None], *, num_resamples: int = 1000, seed: int = 0
) -> tuple[float | None, float | None]:
    """The 95 % percentile interval of a statistic of items, given by their indices, under resampling of the items."""
    import numpy as np

    if num_items < 2:
        return None, None
    rng = np.random.default_rng(seed)
    drawn = (statistic(rng.integers(0, num_items, num_items).tolist()) for _ in range(num_resamples))
    values = [value for value in drawn if value is not None]
    if not values:
        return None, None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
