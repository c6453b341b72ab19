from __future__ import annotations

import math

import pytest

from avocet.media._picture import display_size, fit_pixels
from avocet.media._sampling import FrameSelector, count_targets, plan_grid


def select(times: list[float], end: float, fps: float, start: float = 0.0, max_frames: int = 100) -> list[float]:
    selector = FrameSelector(plan_grid(start, end, fps, max_frames), end)
    return [time for time, until in zip(times, [*times[1:], math.inf], strict=True) if selector.shown_at_target(until)]


def test_variable_frame_rate_by_hand():
    # Targets 0, 0.5, 1, 1.5: on screen are 0.0, 0.4, 1.0 and again 1.0.
    assert select([0.0, 0.4, 0.6, 0.7, 1.0, 1.8], 2.0, 2.0) == [0.0, 0.4, 1.0]


def test_the_first_frame_serves_the_targets_before_it():
    # Targets 0, 0.5 and 1.0 fall before or on the first two frames: 0.7 stands in for 0 and 0.5.
    assert select([0.7, 0.95, 1.4], 1.2, 2.0) == [0.7, 0.95]


def test_a_frame_on_screen_at_the_start_may_have_begun_before_it():
    assert select([0.0, 1.0, 2.0, 3.0], 3.0, 1.0, start=1.5) == [1.0, 2.0]


def test_rounded_thirds_hit_their_frames():
    times = [k / 3 for k in range(9)]
    assert select(times, 3.0, 3.0) == times


@pytest.mark.parametrize(
    ("start", "end", "fps", "count"),
    # 13.013 s at 2 fps: 0 ... 13.0 are 27 targets. 0.1 s at 1 fps: still the one at 0.
    [(0, 30, 2, 60), (0, 13.013, 2, 27), (0, 0.1, 1, 1), (1.5, 3.0, 2, 3), (0, 0.3, 10, 3), (0, 1, 1 / 3, 1)],
)
def test_count_of_targets(start, end, fps, count):
    assert count_targets(start, end, fps) == count


def test_too_many_targets_are_spread_evenly_over_the_interval():
    # 10 s at 2 fps are 20 targets; 4 of them: 0, 2.5, 5, 7.5.
    grid = plan_grid(0.0, 10.0, 2.0, 4)
    assert [grid.target(k) for k in range(4)] == [0.0, 2.5, 5.0, 7.5]
    assert grid.thinned
    assert not plan_grid(0.0, 10.0, 2.0, 20).thinned


def test_more_frames_than_the_limit_are_not_kept():
    selector = FrameSelector(plan_grid(0.0, math.inf, 1.0, 2), math.inf)
    assert [selector.shown_at_target(float(time)) for time in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize(
    ("size", "max_pixels", "fitted"),
    [
        ((854, 480), None, (854, 480)),
        ((854, 480), 854 * 480, (854, 480)),
        # sqrt(100000 / 409920) = 0.49391: 421.8 x 237.07, rounded down.
        ((854, 480), 100_000, (421, 237)),
        ((100, 100), 1, (1, 1)),
        ((10_000, 1), 4, (4, 1)),
        ((1, 10_000), 4, (1, 4)),
        ((64, 48), 10**9, (64, 48)),
    ],
)
def test_pixel_limit(size, max_pixels, fitted):
    assert fit_pixels(*size, max_pixels) == fitted
    assert max_pixels is None or fitted[0] * fitted[1] <= max_pixels


def test_display_size_stretches_the_width():
    from fractions import Fraction

    assert display_size(720, 576, Fraction(64, 45)) == (1024, 576)
    assert display_size(720, 480, Fraction(8, 9)) == (640, 480)
    assert display_size(200, 112, Fraction(224, 225)) == (200, 112)
    assert display_size(64, 48, None) == (64, 48)


def test_short_clips_are_sampled_more_densely_for_min_frames():
    grid = plan_grid(2.0, 3.0, 2.0, 100, min_frames=4)  # 2 targets at 2 frames per second
    assert (grid.step_seconds, grid.thinned, grid.spread) == (0.25, False, True)
    assert [grid.target(index) for index in range(4)] == [2.0, 2.25, 2.5, 2.75]
    assert plan_grid(0.0, 2.0, 2.0, 100, min_frames=4).step_seconds == 0.5
    assert plan_grid(0.0, math.inf, 2.0, 100, min_frames=4).step_seconds == 0.5


def test_nothing_is_spread_over_an_interval_behind_the_pictures():
    """Sound may go on after them: [3.5 s, 3.0 s) has no room for min_frames."""
    grid = plan_grid(3.5, 3.0, 1.0, 100, min_frames=2)
    assert (grid.step_seconds, grid.thinned, grid.spread) == (1.0, False, False)
    assert plan_grid(3.0, 3.0, 2.0, 100, min_frames=2).step_seconds == 0.5
