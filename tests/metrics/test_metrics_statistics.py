"""Means with errors, bootstrap intervals and the paired test."""

from __future__ import annotations

import math

import numpy as np
import pytest

from avocet.errors import ConfigError
from avocet.metrics import bootstrap_interval, mean_with_error, paired_bootstrap


def test_mean_with_error() -> None:
    result = mean_with_error([1, 2, 3, 6])
    # mean 3; squared distances 4 + 1 + 0 + 9 = 14; sqrt(14 / 3) / sqrt(4)
    assert (result.mean, result.num_values) == (3.0, 4)
    assert result.standard_error == pytest.approx(math.sqrt(14 / 3) / 2)


def test_too_few_values_are_nan() -> None:
    assert math.isnan(mean_with_error([]).mean)
    assert mean_with_error([2.0]).mean == 2.0
    assert math.isnan(mean_with_error([2.0]).standard_error)
    assert math.isnan(bootstrap_interval([]).low)
    empty = paired_bootstrap([], [])
    assert math.isnan(empty.difference)
    assert math.isnan(empty.p_value)


def test_bootstrap_interval_is_seeded_and_near_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400).tolist()
    interval = bootstrap_interval(values, seed=3)
    assert interval == bootstrap_interval(values, seed=3)
    assert interval != bootstrap_interval(values, seed=4)
    assert interval.low < interval.mean < interval.high
    # the half width of a 95 % interval is 1.96 standard errors
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * mean_with_error(values).standard_error, rel=0.1)
    wider = bootstrap_interval(values, confidence=0.99, seed=3)
    assert wider.low < interval.low < interval.high < wider.high


def test_constant_values_have_no_spread() -> None:
    interval = bootstrap_interval([0.25] * 10)
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)


def test_paired_bootstrap_sees_a_shift_that_is_small_beside_the_spread() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(0, 10, 100)
    first, second = (base + 0.5 + rng.normal(0, 0.5, 100)).tolist(), base.tolist()
    result = paired_bootstrap(first, second)
    assert result.difference == pytest.approx(float(np.mean(first) - np.mean(second)))
    assert result.p_value < 0.001
    assert 0 < result.low < result.difference < result.high
    assert paired_bootstrap(second, first).difference == pytest.approx(-result.difference)


def test_paired_bootstrap_without_difference() -> None:
    assert paired_bootstrap([1, 2, 3], [1, 2, 3]).p_value == 1.0
    # differences +1 and -1: every resampled mean is at least 0 away from the observed mean 0
    assert paired_bootstrap([1, 0], [0, 1]).p_value == 1.0


def test_paired_p_value_is_about_uniform_without_a_difference() -> None:
    rng = np.random.default_rng(3)
    values = [
        paired_bootstrap(rng.normal(size=40).tolist(), rng.normal(size=40).tolist(), num_resamples=300).p_value
        for _ in range(200)
    ]
    assert 0.01 <= np.mean(np.array(values) < 0.05) <= 0.11


def test_one_pair_proves_nothing() -> None:
    result = paired_bootstrap([3], [1])
    assert result.difference == 2
    assert math.isnan(result.p_value)


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="must be a flat list of finite numbers"):
        mean_with_error([1.0, math.nan])
    with pytest.raises(ConfigError, match="confidence must be between 0 and 1, got 1"):
        bootstrap_interval([1.0], confidence=1)
    with pytest.raises(ConfigError, match="num_resamples must be >= 1, got 0"):
        bootstrap_interval([1.0], num_resamples=0)
    with pytest.raises(ConfigError, match="one partner each, got 1 and 2"):
        paired_bootstrap([1.0], [1.0, 2.0])
