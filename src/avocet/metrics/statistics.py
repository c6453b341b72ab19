"""Means with their errors, bootstrap intervals, and the paired bootstrap test for two captioners on the same clips.

Everything that is drawn is drawn from a seed. Without enough values a result is nan, never zero.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from avocet.errors import ConfigError
from avocet.records import Record

_CHUNK_VALUES = 4_000_000
"""Resampled values held in memory at once."""
_WILSON_Z = 1.959963984540054
"""The normal distribution has 95 % within so many standard deviations."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanWithError(Record):
    """A mean and what it rests on."""

    mean: float
    """nan without values."""
    standard_error: float
    """Sample standard deviation / sqrt(n); nan with fewer than two values."""
    num_values: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share(Record):
    """How many of some items have a property."""

    rate: float
    """num_hits / num_values; nan without values."""
    standard_error: float
    """sqrt(rate * (1 - rate) / (n - 1)): that of a mean of zeros and ones; nan with fewer than two values."""
    low: float
    """Wilson's 95 % interval, which also holds for rates of 0 and 1, where the standard error is 0."""
    high: float
    num_hits: int
    num_values: int
    num_unscored: int
    """Items of which nobody knows; not among the values."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BootstrapInterval(Record):
    """A percentile bootstrap interval of a mean."""

    mean: float
    low: float
    high: float
    confidence: float
    num_values: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedDifference(Record):
    """The mean of first - second over the same items."""

    difference: float
    low: float
    high: float
    confidence: float
    p_value: float
    """Two-sided: how often a difference at least this large comes about when the true one is zero; nan with fewer
    than two pairs, and too small with only a handful."""
    num_pairs: int


def mean_with_error(values: Sequence[float]) -> MeanWithError:
    """Mean and standard error. Raises `ConfigError` for values that are not finite."""
    data = _checked("values", values)
    n = len(data)
    return MeanWithError(
        mean=float(data.mean()) if n else math.nan,
        standard_error=float(data.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan,
        num_values=n,
    )


def share(hits: Iterable[bool | None]) -> Share:
    """The share of True among True and False; None is unscored."""
    known = list(hits)
    num_unscored = sum(hit is None for hit in known)
    num_values, num_hits = len(known) - num_unscored, sum(hit is not None and bool(hit) for hit in known)
    rate = num_hits / num_values if num_values else math.nan
    low, high = _wilson(num_hits, num_values)
    return Share(
        rate=rate,
        standard_error=math.sqrt(rate * (1 - rate) / (num_values - 1)) if num_values > 1 else math.nan,
        low=low,
        high=high,
        num_hits=num_hits,
        num_values=num_values,
        num_unscored=num_unscored,
    )


def ratio_of_sums(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float]:
    """R = sum(numerators) / sum(denominators) over clips, and its standard error by linearisation.

    The error is sqrt(n / (n - 1) * sum((numerator - R * denominator)^2)) / sum(denominators): the clips are what was
    sampled. nan without anything to divide by, the error also with fewer than two clips. Raises `ConfigError` for
    lists of different length, values that are not finite, or a negative denominator.
    """
    above, below = checked_ratio(numerators, denominators)
    total = float(below.sum())
    if not total:
        return math.nan, math.nan
    rate, n = float(above.sum()) / total, len(above)
    if n < 2:
        return rate, math.nan
    return rate, math.sqrt(n / (n - 1) * float(np.square(above - rate * below).sum())) / total


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> BootstrapInterval:
    """Percentile interval of the mean under resampling of the values.

    Raises `ConfigError` for values that are not finite, a confidence outside (0, 1) or no resamples.
    """
    data = _checked("values", values)
    means = _resampled_means(data, confidence, num_resamples, seed)
    low, high = _percentiles(means, confidence)
    return BootstrapInterval(
        mean=float(data.mean()) if len(data) else math.nan,
        low=low,
        high=high,
        confidence=confidence,
        num_values=len(data),
    )


def paired_bootstrap(
    first: Sequence[float],
    second: Sequence[float],
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Is the mean of `first` different from that of `second`, item by item?

    The p-value is (1 + number of resampled differences that lie at least as far from the observed difference as zero
    does) / (1 + resamples), so it is never zero. Raises `ConfigError` as `bootstrap_interval`, and for lists of
    different length.
    """
    if len(first) != len(second):
        raise ConfigError(f"paired values must have one partner each, got {len(first)} and {len(second)}")
    data = _checked("first", first) - _checked("second", second)
    means = _resampled_means(data, confidence, num_resamples, seed)
    low, high = _percentiles(means, confidence)
    difference = float(data.mean()) if len(data) else math.nan
    # A relative margin keeps ties (as in data of few distinct values) from being decided by rounding.
    reach = abs(difference) * (1 - 1e-9)
    exceeding = int(np.count_nonzero(np.abs(means - difference) >= reach))
    return PairedDifference(
        difference=difference,
        low=low,
        high=high,
        confidence=confidence,
        p_value=(1 + exceeding) / (1 + num_resamples) if len(data) > 1 else math.nan,
        num_pairs=len(data),
    )


def checked_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (n,). Raises `ConfigError` as `ratio_of_sums`."""
    if len(numerators) != len(denominators):
        raise ConfigError(f"each numerator needs its denominator, got {len(numerators)} and {len(denominators)}")
    above, below = _checked("numerators", numerators), _checked("denominators", denominators)
    if np.any(below < 0):
        raise ConfigError(f"denominators must be >= 0, got {float(below.min())}")
    return above, below


def _wilson(num_hits: int, num_values: int) -> tuple[float, float]:
    if not num_values:
        return math.nan, math.nan
    rate, shrink = num_hits / num_values, 1 + _WILSON_Z**2 / num_values
    centre = (rate + _WILSON_Z**2 / (2 * num_values)) / shrink
    spread = math.sqrt(rate * (1 - rate) / num_values + (_WILSON_Z / (2 * num_values)) ** 2) * _WILSON_Z / shrink
    # At the ends one side is exact; rounding would leave it beside 0 or 1.
    return centre - spread if num_hits else 0.0, centre + spread if num_hits < num_values else 1.0


def _checked(name: str, values: Sequence[float]) -> np.ndarray:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not np.all(np.isfinite(data)):
        raise ConfigError(
            f"{name} must be a flat list of finite numbers, got {list(values)[:5]}...; leave unscored items out and "
            "count them beside the mean"
        )
    return data


def _resampled_means(data: np.ndarray, confidence: float, num_resamples: int, seed: int) -> np.ndarray:
    """Means of `num_resamples` draws with replacement: (num_resamples,), or empty without data."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be between 0 and 1, got {confidence}")
    if num_resamples < 1:
        raise ConfigError(f"num_resamples must be >= 1, got {num_resamples}")
    if not len(data):
        return np.empty(0)
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK_VALUES // len(data))
    chunks = [min(rows, num_resamples - start) for start in range(0, num_resamples, rows)]
    return np.concatenate([data[rng.integers(0, len(data), (count, len(data)))].mean(axis=1) for count in chunks])


def _percentiles(means: np.ndarray, confidence: float) -> tuple[float, float]:
    if not len(means):
        return math.nan, math.nan
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
