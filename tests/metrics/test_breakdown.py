"""Rows per group, duration buckets, and answers with abstentions, by hand."""

from __future__ import annotations

import math

import pytest

from avocet.errors import ConfigError
from avocet.metrics import answer_rates, breakdown_means, breakdown_ratios, duration_bucket, share

VALUES = {"a": 1.0, "b": 0.0, "c": 0.5, "d": None, "e": None, "f": 1.0}
GROUPS = {"f": "music", "a": "speech", "b": "speech", "c": "text", "d": "speech", "e": "sight", "not asked": "text"}


def test_means_by_hand() -> None:
    rows = breakdown_means(VALUES, GROUPS)
    assert [(row.group, row.num_values, row.num_unscored) for row in rows] == [
        *(("speech", 2, 1), ("text", 1, 0), ("sight", 0, 1), ("music", 1, 0))
    ]
    assert rows[0].mean == 0.5
    assert rows[0].standard_error == pytest.approx(0.5)  # sqrt((1/4 + 1/4) / 1) / sqrt(2)
    assert rows[1].mean == 0.5
    assert math.isnan(rows[1].standard_error)
    assert math.isnan(rows[2].mean)
    assert breakdown_means({}, GROUPS) == ()


def test_ratios_by_hand() -> None:
    ratios = {"a": (1.0, 10.0), "b": (6.0, 20.0), "c": (0.0, 0.0), "d": None}
    speech, text = breakdown_ratios(ratios, GROUPS)
    assert (speech.mean, speech.num_values, speech.num_unscored) == (pytest.approx(7 / 30), 2, 1)
    assert speech.standard_error == pytest.approx(8 / 90)  # as in the test of pooled_interval
    assert math.isnan(text.mean)
    assert text.num_values == 1


def test_an_item_without_a_group() -> None:
    with pytest.raises(ConfigError, match="item 'x' has no group"):
        breakdown_means({"x": 1.0}, GROUPS)
    with pytest.raises(ConfigError, match="item 'x' has no group"):
        breakdown_ratios({"x": (1, 2)}, GROUPS)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0, "0-15 s"), (14.99, "0-15 s"), (15, "15-30 s"), (30, "30-60 s"), (599, "300-600 s"), (600, "600 s and more")],
)
def test_duration_buckets_are_half_open(seconds: float, bucket: str) -> None:
    assert duration_bucket(seconds) == bucket


def test_own_duration_buckets() -> None:
    assert [duration_bucket(seconds, (2.5,)) for seconds in (2.4, 2.5)] == ["0-2.5 s", "2.5 s and more"]
    for edges in ((), (0.0, 5.0), (5.0, 5.0)):
        with pytest.raises(ConfigError, match="edges_seconds must be positive and increase"):
            duration_bucket(1, edges)
    for seconds in (-1.0, math.nan):
        with pytest.raises(ConfigError, match="duration_seconds must be >= 0"):
            duration_bucket(seconds)


def test_answers_by_hand() -> None:
    rates = answer_rates(["right", "right", "wrong", "abstained", None])
    assert (rates.accuracy.mean, rates.accuracy.num_values) == (0.5, 4)
    assert (rates.answered_accuracy.mean, rates.answered_accuracy.num_values) == (pytest.approx(2 / 3), 3)
    assert (rates.abstained.rate, rates.abstained.num_hits, rates.abstained.num_unscored) == (0.25, 1, 1)
    assert math.isnan(answer_rates([None]).accuracy.mean)
    with pytest.raises(ConfigError, match="outcomes must be None or one of right, wrong, abstained, got 'N/A'"):
        answer_rates(["right", "N/A"])  # type: ignore[list-item]


def test_shares() -> None:
    none, every = share([False] * 4), share([True] * 4)
    assert (none.rate, none.standard_error, none.low) == (0.0, 0.0, 0.0)
    # Wilson with no hits in n: z² / (n + z²) = 3.8415 / 7.8415.
    assert none.high == pytest.approx(0.4899, abs=1e-4)
    assert (every.high, every.low) == (1.0, pytest.approx(1 - 0.4899, abs=1e-4))
    assert math.isnan(share([]).low)
    assert math.isnan(share([True]).standard_error)
