"""The time axis of a clip page (zoom levels, ticks, what fits) and the numbers behind its pictures."""

from __future__ import annotations

import numpy as np
import pytest

from avocet.records import SAMPLE_RATE
from avocet.review._axis import TimeScale, levels_that_fit, tick_label, tick_times
from avocet.review._images import envelope, plain_spectrogram, pool_columns


def test_zoom_levels_are_as_many_as_help() -> None:
    """A level may show at most 500 of 1000 pixels per second: ×4 from 8 s on, ×16 from 32 s, ×64 from 128 s."""
    seconds = (1.0, 7.9, 8.0, 31.0, 32.0, 127.0, 128.0, 7200.0)
    assert [TimeScale(seconds=value).num_levels for value in seconds] == [1, 1, 2, 2, 3, 3, 4, 4]


def test_places_are_short_numbers() -> None:
    scale = TimeScale(seconds=3.0)
    assert [scale.percent(value) for value in (0.0, 1.0, 1.5, 3.0)] == ["0%", "33.3333%", "50%", "100%"]
    assert [scale.unit(value) for value in (0.0, 0.25, 1.23456)] == ["0", "250", "1234.6"]
    assert scale.pixels(1.5, 1) == 2000


def test_only_what_fits_is_shown_at_a_level() -> None:
    """40 s: 25 pixels per second at level 0, 100 at level 1; pictures of 60 pixels every second."""
    fitting = levels_that_fit(TimeScale(seconds=40.0), [float(second) for second in range(7)], 60)
    assert fitting == [[0, 1, 2], [1, 2], [1, 2], [0, 1, 2], [1, 2], [1, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("seconds", "level", "step", "last"),
    [(1.0, 0, 0.1, 1.0), (30.0, 0, 5, 30), (600.0, 0, 60, 600), (600.0, 3, 1, 600)],
)
def test_ticks(seconds: float, level: int, step: float, last: float) -> None:
    found, times = tick_times(TimeScale(seconds=seconds), level)
    assert found == step
    assert times[0] == 0
    assert times[-1] == pytest.approx(last)


def test_tick_labels() -> None:
    labels = [(0.25, 0.05), (0.5, 0.5), (12.0, 1), (75.0, 15), (3675.0, 15)]
    assert [tick_label(*label) for label in labels] == ["0.25 s", "0.5 s", "12 s", "1:15", "1:01:15"]


def test_columns_are_means() -> None:
    values = np.array([[1.0, 3.0, 5.0, 7.0, 9.0]])
    # 5 columns to 2: bounds 0, 2, 5
    assert pool_columns(values, 2).tolist() == [[2.0, 7.0]]
    assert pool_columns(values, 9) is values


def test_long_sounds_are_transformed_piece_by_piece() -> None:
    """301 s: a piece of 300 s and one of 1 s, 100 columns per second."""
    mel = plain_spectrogram(np.zeros(301 * SAMPLE_RATE, np.float32))
    assert mel is not None
    assert mel.shape == (80, 30_100)


def test_the_envelope_keeps_the_extremes() -> None:
    lows, highs = envelope(np.array([0.0, 0.5, -1.0, 0.25], np.float32), 2)
    assert (lows.tolist(), highs.tolist()) == ([0.0, -1.0], [0.5, 0.25])
    lows, highs = envelope(np.array([0.5, -0.5], np.float32), 600)
    assert (lows.tolist(), highs.tolist()) == ([0.5, -0.5], [0.5, -0.5])
