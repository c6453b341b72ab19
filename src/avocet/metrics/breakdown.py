"""Results per group: per kind of event, question category, length of the video, domain.

Values and groups are mappings from item ids, so that nothing depends on an order. A value of None is unscored and
counted in its row.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from avocet.errors import ConfigError
from avocet.metrics.statistics import MeanWithError, Share, mean_with_error, ratio_of_sums, share
from avocet.records import Record

DURATION_EDGES_SECONDS = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0)

Outcome = Literal["right", "wrong", "abstained"]
"""What came of a question: "abstained" is the answer "N/A" of a judge who finds nothing about it in the caption."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BreakdownRow(Record):
    """One group."""

    group: str
    mean: float
    """Mean of the values, or pooled ratio; nan without any."""
    standard_error: float
    """Over items; nan with fewer than two."""
    num_values: int
    num_unscored: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerRates(Record):
    """Answers to questions about captions."""

    accuracy: MeanWithError
    """Right / scored; an abstention is not right."""
    answered_accuracy: MeanWithError
    """Right / answered: what the judge makes of what the caption does tell."""
    abstained: Share
    """The N/A rate: abstentions / scored."""


def breakdown_means(values: Mapping[str, float | None], groups: Mapping[str, str]) -> tuple[BreakdownRow, ...]:
    """Mean and standard error of each group's values, groups in the order of their first item.

    Args:
        values: item id -> value, None when unscored.
        groups: item id -> group, for all items of `values` at least.

    Raises `ConfigError` for an item without a group, or a value that is not finite.
    """
    rows = []
    for group, items in _grouped(values, groups).items():
        scored = [value for item in items if (value := values[item]) is not None]
        found = mean_with_error(scored)
        rows.append(
            BreakdownRow(
                group=group,
                mean=found.mean,
                standard_error=found.standard_error,
                num_values=len(scored),
                num_unscored=len(items) - len(scored),
            )
        )
    return tuple(rows)


def breakdown_ratios(
    ratios: Mapping[str, tuple[float, float] | None], groups: Mapping[str, str]
) -> tuple[BreakdownRow, ...]:
    """Pooled ratio sum(numerators) / sum(denominators) of each group, as in `ratio_of_sums`.

    Args:
        ratios: item id -> (numerator, denominator), None when unscored.
        groups: item id -> group, for all items of `ratios` at least.

    Raises `ConfigError` for an item without a group, and as `ratio_of_sums`.
    """
    rows = []
    for group, items in _grouped(ratios, groups).items():
        scored = [ratio for item in items if (ratio := ratios[item]) is not None]
        rate, standard_error = ratio_of_sums([above for above, _ in scored], [below for _, below in scored])
        rows.append(
            BreakdownRow(
                group=group,
                mean=rate,
                standard_error=standard_error,
                num_values=len(scored),
                num_unscored=len(items) - len(scored),
            )
        )
    return tuple(rows)


def duration_bucket(duration_seconds: float, edges_seconds: Sequence[float] = DURATION_EDGES_SECONDS) -> str:
    """The half-open interval that a duration lies in: 30.0 -> "30-60 s", 700 -> "600 s and more".

    Raises `ConfigError` for a negative duration, or edges that are not positive and increasing.
    """
    if not duration_seconds >= 0:
        raise ConfigError(f"duration_seconds must be >= 0, got {duration_seconds}")
    edges = [0.0, *edges_seconds]
    if not edges_seconds or any(not low < high for low, high in itertools.pairwise(edges)):
        raise ConfigError(f"edges_seconds must be positive and increase, got {list(edges_seconds)}")
    index = bisect.bisect_right(edges, duration_seconds)
    return f"{edges[-1]:g} s and more" if index == len(edges) else f"{edges[index - 1]:g}-{edges[index]:g} s"


def answer_rates(outcomes: Iterable[Outcome | None]) -> AnswerRates:
    """Accuracy and N/A rate of questions; None is unscored. Raises `ConfigError` for an unknown outcome."""
    known = list(outcomes)
    wrong = sorted({repr(outcome) for outcome in known if outcome is not None and outcome not in get_args(Outcome)})
    if wrong:
        raise ConfigError(f"outcomes must be None or one of {', '.join(get_args(Outcome))}, got {', '.join(wrong)}")
    scored = [outcome for outcome in known if outcome is not None]
    return AnswerRates(
        accuracy=mean_with_error([float(outcome == "right") for outcome in scored]),
        answered_accuracy=mean_with_error([float(outcome == "right") for outcome in scored if outcome != "abstained"]),
        abstained=share(None if outcome is None else outcome == "abstained" for outcome in known),
    )


def _grouped(items: Iterable[str], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Group -> its items, both in the order in which they come."""
    found: dict[str, list[str]] = {}
    for item in items:
        if item not in groups:
            raise ConfigError(f"item {item!r} has no group; give one for every item, for example 'unknown'")
        found.setdefault(groups[item], []).append(item)
    return found
