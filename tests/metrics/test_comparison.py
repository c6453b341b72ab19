"""Two captioners on the same items: hand-worked differences, all swaps written out, pooled rates over clips."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest

from avocet.errors import ConfigError
from avocet.metrics import compare, compare_pooled, mcnemar_p_value, pooled_interval, ratio_of_sums


def numbered(values: list[float]) -> dict[str, float | None]:
    return {f"clip {index}": value for index, value in enumerate(values)}


def test_by_hand() -> None:
    a = {"w": 3.0, "x": 5.0, "y": None, "z": 1.0, "only a": 9.0, "v": 4.0}
    b = {"x": 2.0, "w": 2.0, "y": 7.0, "z": 3.0, "v": None, "only b": 1.0, "b too": None}
    result = compare(a, b)
    # Pairs w, x, z with the differences 1, 3, -2: mean 2/3, variance ((1/3)² + (7/3)² + (8/3)²) / 2 = 114/18.
    assert (result.num_pairs, result.num_only_a, result.num_only_b, result.num_unscored) == (3, 1, 2, 2)
    assert (result.mean_a, result.mean_b) == (3.0, pytest.approx(7 / 3))
    assert result.difference == pytest.approx(2 / 3)
    assert result.standard_error == pytest.approx(math.sqrt(114 / 18 / 3))
    # |sums| of (±1 ±3 ±2): 6 2 0 4 4 0 2 6, of which 6 are at least 2.
    assert (result.p_value, result.is_exact) == (0.75, True)
    assert (result.num_a_larger, result.num_b_larger) == (2, 1)
    assert result.mcnemar_p_value is None
    assert result.low <= result.difference <= result.high
    # One in 27 resamples (3.7 %) is -2 three times, and one is 3 three times: the 2.5 % quantiles.
    assert (result.low, result.high) == (-2.0, 3.0)
    assert type(result).from_json(result.to_json_line()) == result


@pytest.mark.parametrize("seed", range(3))
def test_exact_p_value_is_the_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    differences = [*np.round(rng.normal(0.3, 1, 9), 2).tolist(), 0.0, 0.0]  # zeros change nothing
    observed = abs(sum(differences))
    signs = itertools.product((-1, 1), repeat=len(differences))
    sums = [abs(sum(sign * value for sign, value in zip(row, differences, strict=True))) for row in signs]
    expected = sum(value >= observed - 1e-9 for value in sums) / len(sums)
    result = compare(numbered(differences), numbered([0.0] * len(differences)))
    assert result.is_exact
    assert result.p_value == pytest.approx(expected)


def test_drawn_p_value_is_near_the_exact_one() -> None:
    # 17 differences of 1, of which k are negative: P(|17 - 2k| >= 9) with k binomial(17, 1/2).
    values = [1.0] * 13 + [-1.0] * 4
    result = compare(numbered(values), numbered([0.0] * 17), num_resamples=20_000)
    exact = 2 * sum(math.comb(17, k) for k in range(5)) / 2**17
    assert not result.is_exact
    assert result.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
    assert result == compare(numbered(values), numbered([0.0] * 17), num_resamples=20_000)
    assert compare(numbered([1.0] * 40), numbered([0.0] * 40), num_resamples=99).p_value == 0.01  # never zero


def test_right_and_wrong_answers() -> None:
    # Discordant: A right 6 times, B once. McNemar: 2 (C(7,0) + C(7,1)) / 2^7 = 16/128; the swaps give the same.
    a = numbered([1.0] * 6 + [0.0] + [1.0] * 5 + [0.0] * 4)
    b = numbered([0.0] * 6 + [1.0] + [1.0] * 5 + [0.0] * 4)
    result = compare(a, b)
    assert (result.num_a_larger, result.num_b_larger) == (6, 1)
    assert result.mcnemar_p_value == 0.125
    assert result.p_value == 0.125
    assert compare(b, a).difference == -result.difference


def test_mcnemar() -> None:
    assert mcnemar_p_value(0, 0) == 1.0
    assert mcnemar_p_value(5, 5) == 1.0
    assert mcnemar_p_value(0, 5) == 2 / 32
    assert mcnemar_p_value(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar_p_value(3000, 3000) == 1.0
    # 2^4000 is past what a float holds. Normal approximation with continuity correction: z = (200 - 1) / sqrt(4000).
    assert mcnemar_p_value(1900, 2100) == pytest.approx(math.erfc(199 / math.sqrt(4000) / math.sqrt(2)), rel=0.01)
    with pytest.raises(ConfigError, match="counts must be >= 0, got -1 and 2"):
        mcnemar_p_value(-1, 2)


def test_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="the enumeration above checks the same")
    assert mcnemar_p_value(10, 2) == pytest.approx(stats.binomtest(10, 12).pvalue)
    first, second = np.random.default_rng(5).normal(size=(2, 10))
    result = stats.permutation_test(
        (first, second), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True
    )
    assert compare(numbered(first.tolist()), numbered(second.tolist())).p_value == pytest.approx(result.pvalue)


def test_p_values_are_uniform_without_a_difference() -> None:
    rng = np.random.default_rng(7)
    values = [
        compare(
            numbered(rng.normal(size=12).tolist()), numbered(rng.normal(size=12).tolist()), num_resamples=10
        ).p_value
        for _ in range(400)
    ]
    assert np.mean(np.array(values) <= 0.05) == pytest.approx(0.05, abs=0.035)  # three standard errors


def test_nothing_in_common() -> None:
    result = compare({"x": 1.0}, {"y": 1.0})
    assert (result.num_pairs, result.num_only_a, result.num_only_b) == (0, 1, 1)
    assert all(math.isnan(value) for value in (result.difference, result.low, result.p_value, result.mean_a))
    assert result.mcnemar_p_value is None
    pooled = compare_pooled({"x": (1, 2)}, {"x": None})
    assert (pooled.num_pairs, pooled.num_unscored) == (0, 1)
    assert all(math.isnan(value) for value in (pooled.difference, pooled.low, pooled.p_value, pooled.mean_a))


def test_one_pair_and_no_difference() -> None:
    assert compare({"x": 3.0}, {"x": 1.0}).p_value == 1.0
    same = numbered([0.1, 0.7, 0.2])
    result = compare(same, same)
    assert (result.difference, result.low, result.high, result.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_many_items_are_fast() -> None:
    values = np.random.default_rng(0).random((2, 5_000))
    start = time.process_time()
    compare(numbered(values[0].tolist()), numbered(values[1].tolist()), num_resamples=1000)
    assert time.process_time() - start < 5


def test_pooled_interval_by_hand() -> None:
    # Two clips: 1 of 10 and 6 of 20. A draw of two clips gives 2/20, 7/30 (half of all draws) or 12/40.
    result = pooled_interval([1, 6], [10, 20])
    assert (result.rate, result.numerator, result.denominator) == (pytest.approx(7 / 30), 7, 30)
    assert (result.low, result.high) == (pytest.approx(0.1), pytest.approx(0.3))
    assert result.num_clips == 2
    # Residuals 1 - 7/3 = -4/3 and 6 - 14/3 = 4/3: sqrt(2 * 32/9) / 30 = (8/3) / 30.
    assert result.standard_error == pytest.approx(8 / 90)
    narrow = pooled_interval([1, 6], [10, 20], confidence=0.4)
    assert (narrow.low, narrow.high) == (pytest.approx(7 / 30), pytest.approx(7 / 30))  # the middle half
    with pytest.raises(ConfigError, match="confidence must be between 0 and 1"):
        pooled_interval([1], [2], confidence=0)
    with pytest.raises(ConfigError, match="num_resamples must be >= 1"):
        pooled_interval([1], [2], num_resamples=0)


def test_pooled_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(11)
    events = rng.integers(12, 66, 120)
    hits = 0
    for seed in range(100):
        missed = rng.binomial(events, rng.beta(2, 8, 120))  # clips differ; the true rate is 0.2
        interval = pooled_interval(missed.tolist(), events.tolist(), num_resamples=300, seed=seed)
        hits += interval.low <= 0.2 <= interval.high
    assert 87 <= hits <= 100


def test_ratio_edge_cases() -> None:
    assert math.isnan(pooled_interval([], []).rate)
    assert math.isnan(pooled_interval([1, 2], [0, 0]).rate)
    assert math.isnan(pooled_interval([1, 2], [0, 0]).low)
    # A clip without events may still hold inventions; resamples of it alone have no rate and are left out.
    result = pooled_interval([2, 1], [0, 4])
    assert (result.rate, result.low, result.high) == (0.75, 0.25, 0.75)
    assert ratio_of_sums([1], [4]) == (0.25, pytest.approx(math.nan, nan_ok=True))
    with pytest.raises(ConfigError, match="each numerator needs its denominator, got 1 and 2"):
        ratio_of_sums([1], [1, 2])
    with pytest.raises(ConfigError, match="denominators must be >= 0, got -1"):
        ratio_of_sums([1, 1], [1, -1])


def test_compare_pooled_by_hand() -> None:
    a = {"x": (2.0, 10.0), "y": (5.0, 20.0), "z": (1.0, 5.0), "w": None}
    b = {"x": (4.0, 10.0), "y": (5.0, 20.0), "z": (4.0, 5.0), "w": (1.0, 2.0)}
    result = compare_pooled(a, b)
    assert (result.mean_a, result.mean_b) == (pytest.approx(8 / 35), pytest.approx(13 / 35))
    assert result.difference == pytest.approx(-5 / 35)
    assert (result.num_pairs, result.num_unscored) == (3, 1)
    assert (result.num_a_larger, result.num_b_larger) == (0, 2)
    # y is the same on both sides. Swapping x, z: |±2 ±3| / 35 = 5, 1, 1, 5: half is at least 5.
    assert (result.p_value, result.is_exact) == (0.5, True)
    # Residuals of the difference, in 1/35: (a - 8/35 n) - (b - 13/35 n) = -2 + 50/35, 100/35, -3 + 25/35.
    residuals = [-2 + 50 / 35, 100 / 35, -3 + 25 / 35]
    assert result.standard_error == pytest.approx(math.sqrt(3 / 2 * sum(value**2 for value in residuals)) / 35)


def test_compare_pooled_enumerates_swaps_of_unequal_denominators() -> None:
    rng = np.random.default_rng(4)
    below = rng.integers(1, 9, (2, 7)).astype(float)
    above = np.floor(below * rng.random((2, 7)))
    rates = []
    for swap in itertools.product((False, True), repeat=7):
        order = [(1, 0) if flag else (0, 1) for flag in swap]
        sums = [
            [part[pair[side], clip] for clip, pair in enumerate(order)] for side in (0, 1) for part in (above, below)
        ]
        rates.append(abs(sum(sums[0]) / sum(sums[1]) - sum(sums[2]) / sum(sums[3])))
    expected = np.mean(np.array(rates) >= rates[0] - 1e-12)
    sides = [{str(clip): (above[side, clip], below[side, clip]) for clip in range(7)} for side in (0, 1)]
    assert compare_pooled(sides[0], sides[1]).p_value == pytest.approx(expected)


def test_compare_pooled_draws_when_there_are_many_clips() -> None:
    rng = np.random.default_rng(9)
    events = rng.integers(12, 66, 200)
    hard = rng.beta(2, 8, 200)  # shared by both, which only a paired test can use
    a = {str(clip): (float(rng.binomial(n, p)), float(n)) for clip, (n, p) in enumerate(zip(events, hard, strict=True))}
    b = {
        str(clip): (float(rng.binomial(n, min(1, p + 0.04))), float(n))
        for clip, (n, p) in enumerate(zip(events, hard, strict=True))
    }
    result = compare_pooled(a, b, num_resamples=1000)
    assert not result.is_exact
    assert result.p_value < 0.01
    assert result.low < result.difference < result.high < 0
    assert (result.high - result.low) / 2 == pytest.approx(1.96 * result.standard_error, rel=0.15)
    assert compare_pooled(a, a, num_resamples=100).p_value == 1.0


def test_wrong_values() -> None:
    with pytest.raises(ConfigError, match="finite numbers"):
        compare({"x": math.nan}, {"x": 1.0})
    with pytest.raises(ConfigError, match="confidence must be between 0 and 1, got 2"):
        compare({"x": 1.0}, {"x": 1.0}, confidence=2)
    with pytest.raises(ConfigError, match="denominators must be >= 0"):
        compare_pooled({"x": (1, -1)}, {"x": (1, 1)})
