"""Two captioners on the same items: differences with intervals and exact tests; the same for pooled rates.

Item by item, the two results are exchangeable if there is no difference. The permutation test therefore swaps them at
random: of all 2^n ways to swap it counts those whose difference is at least as large as the observed one. It is
counted completely up to 16 items that differ, and drawn from a seed beyond.

Pooled rates (sum of missed events / sum of events) have clips as their sampling unit, so bootstrap and swapping are
over clips, never over events.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from avocet.errors import ConfigError
from avocet.metrics.statistics import checked_ratio, mean_with_error, paired_bootstrap, ratio_of_sums
from avocet.records import Record

MAX_EXACT_ITEMS = 16
"""2^16 swaps are counted in milliseconds."""
_CHUNK_VALUES = 4_000_000
"""Drawn values held in memory at once."""
_TIE = 1e-9
"""Relative margin that keeps ties from being decided by rounding."""

_Value = TypeVar("_Value")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(Record):
    """Captioner A against captioner B."""

    num_pairs: int
    """Items that both have a value for; all figures rest on these."""
    num_only_a: int
    """Items that B has no entry for."""
    num_only_b: int
    num_unscored: int
    """Items of both that at least one has no value for."""
    mean_a: float
    mean_b: float
    difference: float
    """mean_a - mean_b; of `compare_pooled`, the difference of the pooled rates."""
    low: float
    """Bootstrap percentile interval of the difference, over items."""
    high: float
    confidence: float
    standard_error: float
    """Of the difference; nan with fewer than two pairs."""
    p_value: float
    """Of the permutation test, two-sided; nan without pairs."""
    is_exact: bool
    """Whether all swaps were counted; else they were drawn."""
    num_a_larger: int
    num_b_larger: int
    mcnemar_p_value: float | None
    """Exact two-sided McNemar test; None unless all values are 0 or 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PooledInterval(Record):
    """A ratio of two sums over clips with its bootstrap interval."""

    rate: float
    """nan without anything to divide by."""
    low: float
    high: float
    confidence: float
    standard_error: float
    """Linearised, see `ratio_of_sums`."""
    numerator: float
    denominator: float
    num_clips: int


def compare(
    values_a: Mapping[str, float | None],
    values_b: Mapping[str, float | None],
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Is the mean value of A different from that of B, item by item?

    Args:
        values_a, values_b: item id -> value, None when unscored.
        num_resamples: of the bootstrap, and of the permutation test where it is drawn.

    Raises `ConfigError` for values that are not finite, a confidence outside (0, 1) or no resamples.
    """
    pairs, num_only_a, num_only_b, num_unscored = _paired(values_a, values_b)
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    interval = paired_bootstrap(first, second, confidence=confidence, num_resamples=num_resamples, seed=seed)
    mean_a, mean_b = mean_with_error(first), mean_with_error(second)
    differences = np.subtract(first, second, dtype=np.float64)
    p_value, is_exact = _swap_test(
        np.stack([differences]), lambda sums: sums[0], float(differences.sum()), num_resamples, seed
    )
    num_a_larger, num_b_larger = int((differences > 0).sum()), int((differences < 0).sum())
    is_binary = bool(pairs) and all(value in (0, 1) for value in (*first, *second))
    return Comparison(
        num_pairs=len(pairs),
        num_only_a=num_only_a,
        num_only_b=num_only_b,
        num_unscored=num_unscored,
        mean_a=mean_a.mean,
        mean_b=mean_b.mean,
        difference=interval.difference,
        low=interval.low,
        high=interval.high,
        confidence=confidence,
        standard_error=mean_with_error(differences.tolist()).standard_error,
        p_value=p_value,
        is_exact=is_exact,
        num_a_larger=num_a_larger,
        num_b_larger=num_b_larger,
        mcnemar_p_value=mcnemar_p_value(num_a_larger, num_b_larger) if is_binary else None,
    )


def mcnemar_p_value(num_only_a_right: int, num_only_b_right: int) -> float:
    """Exact two-sided McNemar test: 2 * P(at most the smaller count | n, 1/2), at most 1; 1 without discordant pairs.

    Raises `ConfigError` for negative counts.
    """
    if min(num_only_a_right, num_only_b_right) < 0:
        raise ConfigError(f"counts must be >= 0, got {num_only_a_right} and {num_only_b_right}")
    n = num_only_a_right + num_only_b_right
    term = tail = 1
    for count in range(1, min(num_only_a_right, num_only_b_right) + 1):
        term = term * (n - count + 1) // count
        tail += term
    # Whole numbers of any size divide exactly; 2**n as a float would overflow from 1024 on.
    p_value: float = 2 * tail / 2**n
    return min(1.0, p_value)


def pooled_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> PooledInterval:
    """sum(numerators) / sum(denominators) with a percentile interval under resampling of clips.

    Resamples without anything to divide by (all their denominators are 0) are left out. Raises `ConfigError` as
    `ratio_of_sums`, and for a confidence outside (0, 1) or no resamples.
    """
    sums = np.stack(checked_ratio(numerators, denominators))
    rate, standard_error = ratio_of_sums(numerators, denominators)
    low, high = _interval(_ratio(_resampled_sums(sums, num_resamples, seed)), confidence)
    return PooledInterval(
        rate=rate,
        low=low,
        high=high,
        confidence=confidence,
        standard_error=standard_error,
        numerator=float(sums[0].sum()),
        denominator=float(sums[1].sum()),
        num_clips=sums.shape[1],
    )


def compare_pooled(
    ratios_a: Mapping[str, tuple[float, float] | None],
    ratios_b: Mapping[str, tuple[float, float] | None],
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Is the pooled rate of A different from that of B on the same clips?

    Args:
        ratios_a, ratios_b: clip id -> (numerator, denominator), None when unscored.

    Of the result, `num_a_larger` and `num_b_larger` compare the clips' own ratios (a clip without a denominator on
    either side counts for neither), and the standard error is that of the linearised difference. Raises `ConfigError`
    as `pooled_interval`.
    """
    pairs, num_only_a, num_only_b, num_unscored = _paired(ratios_a, ratios_b)
    sides = [[pair[side][part] for pair in pairs] for side in (0, 1) for part in (0, 1)]
    data = np.stack([*checked_ratio(sides[0], sides[1]), *checked_ratio(sides[2], sides[3])])  # (4, n)
    rate_a, rate_b = float(_ratio(data[:2].sum(axis=1))), float(_ratio(data[2:].sum(axis=1)))
    low, high = _interval(_rate_difference(_resampled_sums(data, num_resamples, seed)), confidence)
    totals, swap = data.sum(axis=1), np.concatenate([data[2:] - data[:2], data[:2] - data[2:]])

    def swapped(signed: np.ndarray) -> np.ndarray:
        # A sign of +1 keeps a clip and -1 swaps it: half of (all - signed sum) is what the swapped clips change.
        change = (swap.sum(axis=1)[:, None] - signed) / 2
        return _rate_difference(totals[:, None] + change)

    p_value, is_exact = _swap_test(swap, swapped, rate_a - rate_b, num_resamples, seed)
    larger = np.where(data[1] * data[3] > 0, data[0] * data[3] - data[2] * data[1], 0)
    return Comparison(
        num_pairs=len(pairs),
        num_only_a=num_only_a,
        num_only_b=num_only_b,
        num_unscored=num_unscored,
        mean_a=rate_a,
        mean_b=rate_b,
        difference=rate_a - rate_b,
        low=low,
        high=high,
        confidence=confidence,
        standard_error=_linearised_error(data, rate_a, rate_b),
        p_value=p_value,
        is_exact=is_exact,
        num_a_larger=int((larger > 0).sum()),
        num_b_larger=int((larger < 0).sum()),
        mcnemar_p_value=None,
    )


def _paired(
    a: Mapping[str, _Value | None], b: Mapping[str, _Value | None]
) -> tuple[list[tuple[_Value, _Value]], int, int, int]:
    """Pairs of values in the order of A; items only in A, only in B, and in both without both values."""
    shared = [item for item in a if item in b]
    pairs = [(first, second) for item in shared if (first := a[item]) is not None and (second := b[item]) is not None]
    return pairs, len(a) - len(shared), len(b) - len(shared), len(shared) - len(pairs)


def _swap_test(
    data: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    observed: float,
    num_resamples: int,
    seed: int,
) -> tuple[float, bool]:
    """P-value of |observed| among the statistics of signed sums, and whether all signs were counted.

    Args:
        data: (k, n): what swapping changes, per item.
        statistic: signed sums (k, m) -> (m,).
    """
    if not data.shape[1] or math.isnan(observed):
        return math.nan, True
    # Where nothing changes a sign does nothing, except in the sum of all, which holds a zero.
    data = data[:, np.any(data != 0, axis=0)]
    n = data.shape[1]
    reach = abs(observed) * (1 - _TIE)
    if n <= MAX_EXACT_ITEMS:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[None, :] >> np.arange(n)[:, None]) & 1)
        return float(np.mean(np.abs(statistic(data @ signs)) >= reach)), True
    rng = np.random.default_rng(seed)
    exceeding = 0
    columns = max(1, _CHUNK_VALUES // n)
    for start in range(0, num_resamples, columns):
        signs = 1.0 - 2.0 * rng.integers(0, 2, (n, min(columns, num_resamples - start)), dtype=np.int8)
        exceeding += int(np.count_nonzero(np.abs(statistic(data @ signs)) >= reach))
    return (1 + exceeding) / (1 + num_resamples), False


def _resampled_sums(data: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Sums over draws with replacement of the columns: (k, n) -> (k, num_resamples), empty without columns."""
    if num_resamples < 1:
        raise ConfigError(f"num_resamples must be >= 1, got {num_resamples}")
    n = data.shape[1]
    if not n:
        return np.empty((len(data), 0))
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK_VALUES // (n * len(data)))
    counts = [min(rows, num_resamples - start) for start in range(0, num_resamples, rows)]
    return np.concatenate([data[:, rng.integers(0, n, (count, n))].sum(axis=2) for count in counts], axis=1)


def _ratio(sums: np.ndarray) -> np.ndarray:
    """(2, ...) -> (...): first / second, nan where that is 0."""
    below = np.where(sums[1] > 0, sums[1], np.nan)
    ratio: np.ndarray = sums[0] / below
    return ratio


def _rate_difference(sums: np.ndarray) -> np.ndarray:
    difference: np.ndarray = _ratio(sums[:2]) - _ratio(sums[2:])
    return difference


def _interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be between 0 and 1, got {confidence}")
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _linearised_error(data: np.ndarray, rate_a: float, rate_b: float) -> float:
    """Of the difference of two ratios over the same n clips, as in `ratio_of_sums` for one."""
    n = data.shape[1]
    if n < 2 or math.isnan(rate_a - rate_b):
        return math.nan
    residual = (data[0] - rate_a * data[1]) / data[1].sum() - (data[2] - rate_b * data[3]) / data[3].sum()
    return math.sqrt(n / (n - 1) * float(np.square(residual).sum()))
