from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avocet.errors import LayoutError
from avocet.models.layout import AUDIO, VISUAL, TokenPlan, salmonn2_paper
from avocet.models.tmrope import TimeAxis, position_drift_seconds, prompt_positions, tmrope

QWEN25 = TimeAxis(order="chunks", positions_per_second=25, chunk_seconds=2.0, assumed_grid_seconds=1.0)
QWEN3 = TimeAxis(order="timeline", positions_per_second=13, assumed_grid_seconds=2.0)
# Slow clocks, so that plans are short enough to write down: 2 positions per second, chunks of 4 positions.
CHUNKS = TimeAxis(order="chunks", positions_per_second=2, chunk_seconds=2.0, assumed_grid_seconds=1.0)
TIMELINE = TimeAxis(order="timeline", positions_per_second=2, assumed_grid_seconds=2.0)

SECONDS = np.arange(4.0)
NONE = np.zeros(0)


def spelled(plan: TokenPlan) -> str:
    return " ".join(f"{'VA'[stream]}{index}" for stream, index in zip(plan.stream, plan.index, strict=True))


def numbered(letter: str, first: int, last: int) -> str:
    return " ".join(f"{letter}{index}" for index in range(first, last + 1))


def test_the_example_of_the_module():
    plan = tmrope(QWEN25, np.arange(3.0), 1, 2, 75, 3.0)
    assert spelled(plan) == f"V0 V1 V2 V3 {numbered('A', 0, 49)} V4 V5 {numbered('A', 50, 74)}"
    assert plan.positions[0].tolist() == [0, 0, 25, 25, *range(50), 50, 50, *range(50, 75)]
    # Height 0 and width 0, 1 for picture tokens; sound tokens have one position on all axes.
    assert plan.positions[1].tolist() == [0, 0, 0, 0, *range(50), 0, 0, *range(50, 75)]
    assert plan.positions[2].tolist() == [0, 1, 0, 1, *range(50), 0, 1, *range(50, 75)]
    assert plan.end_position == 75
    np.testing.assert_allclose(plan.start_seconds[:5], [0, 0, 1, 1, 0])
    np.testing.assert_allclose(plan.end_seconds[:5], [1, 1, 2, 2, 0.04])
    np.testing.assert_allclose([plan.start_seconds[-1], plan.end_seconds[-1]], [2.96, 3.0])


def test_the_same_clip_on_the_timeline():
    plan = tmrope(QWEN3, np.arange(3.0), 1, 2, 39, 3.0)
    middle = f"V2 V3 {numbered('A', 13, 25)} V4 V5 {numbered('A', 26, 38)}"
    assert spelled(plan) == f"V0 V1 {numbered('A', 0, 12)} {middle}"
    assert plan.positions[0].tolist() == [0, 0, *range(13), 13, 13, *range(13, 26), 26, 26, *range(26, 39)]
    assert plan.end_position == 39


@pytest.mark.parametrize(
    ("axis", "num_audio", "order", "positions", "end"),
    [
        # Sound ends at 2.5 s, inside the second chunk: text goes on after the sound although the picture is further.
        (CHUNKS, 5, "V0 V1 A0 A1 A2 A3 V2 V3 A4", [0, 2, 0, 1, 2, 3, 4, 6, 4], 5),
        # Sound ends with the first chunk: the last run of tokens is picture.
        (CHUNKS, 4, "V0 V1 A0 A1 A2 A3 V2 V3", [0, 2, 0, 1, 2, 3, 4, 6], 7),
        # Sound ends inside the first chunk.
        (CHUNKS, 1, "V0 V1 A0 V2 V3", [0, 2, 0, 4, 6], 7),
        # Sound goes on for 1.5 s after the last patch's chunk.
        (CHUNKS, 11, "V0 V1 A0 A1 A2 A3 V2 V3 A4 A5 A6 A7 A8 A9 A10", [0, 2, 0, 1, 2, 3, 4, 6, *range(4, 11)], 11),
        (CHUNKS, 0, "V0 V1 V2 V3", [0, 2, 4, 6], 7),
        (TIMELINE, 5, "V0 A0 A1 V1 A2 A3 V2 A4 V3", [0, 0, 1, 2, 2, 3, 4, 4, 6], 7),
        (TIMELINE, 3, "V0 A0 A1 V1 A2 V2 V3", [0, 0, 1, 2, 2, 4, 6], 7),
        (TIMELINE, 8, "V0 A0 A1 V1 A2 A3 V2 A4 A5 V3 A6 A7", [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7], 8),
        (TIMELINE, 0, "V0 V1 V2 V3", [0, 2, 4, 6], 7),
    ],
)
def test_sound_of_every_length(axis, num_audio, order, positions, end):
    plan = tmrope(axis, SECONDS, 1, 1, num_audio, 4.0)
    assert spelled(plan) == order
    assert plan.positions[0].tolist() == positions
    assert plan.end_position == end
    assert position_drift_seconds(plan, axis) == (0.0, 0.0)


@pytest.mark.parametrize("axis", [CHUNKS, TIMELINE])
def test_sound_alone(axis):
    plan = tmrope(axis, NONE, 0, 0, 3, 1.5)
    assert spelled(plan) == "A0 A1 A2"
    assert plan.positions.tolist() == [[0, 1, 2]] * 3
    assert plan.end_position == 3
    np.testing.assert_allclose(plan.end_seconds, [0.5, 1.0, 1.5])


@pytest.mark.parametrize("axis", [CHUNKS, TIMELINE])
def test_an_image(axis):
    plan = tmrope(axis, np.zeros(1), 2, 3, 0, 0.5)
    assert plan.positions.tolist() == [[0] * 6, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]]
    # The next token comes after the largest position of all three axes: that of the width.
    assert plan.end_position == 3
    np.testing.assert_allclose(plan.end_seconds, 0.5)


def test_patches_stand_at_their_true_seconds():
    """0, 0.7 and 3.9 s: positions 0, 17.5 and 97.5 of 25 per second, whole in chunks."""
    times = np.array([0.0, 0.7, 3.9])
    plan = tmrope(QWEN25, times, 1, 1, 120, 4.8)
    assert plan.positions[0][plan.stream == VISUAL].tolist() == [0, 17, 97]
    audio = [numbered("A", first, last) for first, last in ((0, 49), (50, 99), (100, 119))]
    assert spelled(plan) == f"V0 V1 {audio[0]} V2 {audio[1]} {audio[2]}"
    np.testing.assert_allclose(plan.end_seconds[plan.stream == VISUAL], [0.7, 3.9, 4.8])
    # 9.1 and 50.7 of 13 per second stay fractions; they stand between sounds 9 and 10, 50 and 51.
    plan = tmrope(QWEN3, times, 1, 1, 62, 4.8)
    np.testing.assert_allclose(plan.positions[0][plan.stream == VISUAL], [0, 9.1, 50.7])
    audio = [numbered("A", first, last) for first, last in ((0, 9), (10, 50), (51, 61))]
    assert spelled(plan) == f"V0 {audio[0]} V1 {audio[1]} V2 {audio[2]}"


def test_the_released_rule_counts_patches_instead():
    times = np.array([0.0, 0.7, 3.9])
    plan = tmrope(QWEN25, times, 1, 1, 0, 4.8, assumed=True)
    assert plan.positions[0].tolist() == [0, 25, 50]
    np.testing.assert_allclose(plan.start_seconds, times)
    # 0.3 s at the second patch, 1.9 s at the third.
    assert position_drift_seconds(plan, QWEN25) == (pytest.approx(1.9), 0.0)
    assert tmrope(QWEN3, times, 1, 1, 0, 4.8, assumed=True).positions[0].tolist() == [0, 26, 52]


def test_the_last_patch_never_ends_before_it_begins():
    plan = tmrope(CHUNKS, np.array([0.0, 3.0]), 1, 1, 0, 2.5)
    np.testing.assert_allclose(plan.end_seconds, [3.0, 3.0])


def test_times_are_not_rounded_into_the_position_before():
    # 0.1 + 0.2 + ... comes out a little under whole multiples of 1/25 s.
    times = np.cumsum(np.full(500, 1 / 25)) - 1 / 25
    assert np.any(np.floor(times * 25) != np.arange(500))
    plan = tmrope(QWEN25, times, 1, 1, 0, 20.0)
    assert plan.positions[0].tolist() == list(range(500))


def seconds_heard_before(plan: TokenPlan, rate: float) -> np.ndarray:
    """For each visual token in order: how many seconds of sound have been read before it."""
    heard = np.cumsum(plan.stream == AUDIO)
    return heard[plan.stream == VISUAL] / rate


FAR_APART = np.arange(128) * 600 / 256
"""256 frames of 300 s, two to a patch: 2.34375 s from patch to patch."""


def test_five_minutes_in_256_frames_stay_together():
    plan = tmrope(QWEN25, FAR_APART, 2, 2, 7500, 300.0)
    visual = plan.stream == VISUAL
    # Each patch has the very position of the sound token of its moment (25 tokens per second).
    assert plan.positions[0][visual].tolist() == np.repeat(np.floor(FAR_APART * 25), 4).tolist()
    assert plan.positions[0][~visual].tolist() == list(range(7500))
    # Patch i is at i * 1875 / 32 positions; rounding down loses 31/32 of one of 0.04 s at most.
    assert position_drift_seconds(plan, QWEN25) == (pytest.approx(31 / 32 / 25), 0.0)
    apart = seconds_heard_before(plan, 25) - plan.start_seconds[visual]
    assert np.abs(apart).max() <= 2.0

    plan = tmrope(QWEN3, FAR_APART, 2, 2, 3900, 300.0)
    visual = plan.stream == VISUAL
    assert max(position_drift_seconds(plan, QWEN3)) < 1e-9
    apart = seconds_heard_before(plan, 13) - plan.start_seconds[visual]
    assert np.abs(apart).max() <= 1 / 13


def test_five_minutes_in_256_frames_by_the_released_rule():
    plan = tmrope(QWEN25, FAR_APART, 2, 2, 7500, 300.0, assumed=True)
    # The last of 128 patches is shown at 127 * 2.34375 s and laid out at 127 s; the picture ends at 128 s of 300.
    assert position_drift_seconds(plan, QWEN25) == (pytest.approx(127 * 1.34375), 0.0)
    assert 127 * 1.34375 == 170.65625
    apart = seconds_heard_before(plan, 25) - plan.start_seconds[plan.stream == VISUAL]
    assert apart.min() == pytest.approx(126 - 127 * 2.34375)
    # Qwen3-Omni's processor assumes 2 s: 127 * 0.34375 s.
    plan = tmrope(QWEN3, FAR_APART, 2, 2, 3900, 300.0, assumed=True)
    assert position_drift_seconds(plan, QWEN3) == (pytest.approx(127 * 0.34375), 0.0)


def test_chunks_without_a_patch_keep_their_sound():
    """Patches at 0 and 5 s: the chunk from 2 to 4 s has sound only."""
    plan = tmrope(CHUNKS, np.array([0.0, 5.0]), 1, 1, 12, 6.0)
    assert spelled(plan) == "V0 A0 A1 A2 A3 A4 A5 A6 A7 V1 A8 A9 A10 A11"
    assert plan.positions[0].tolist() == [0, *range(8), 10, 8, 9, 10, 11]


@given(
    axis=st.sampled_from([QWEN25, QWEN3, CHUNKS, TIMELINE]),
    gaps=st.lists(st.floats(0.01, 9), max_size=30),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    num_audio=st.integers(0, 300),
)
def test_every_token_once_in_order_and_in_time(axis, gaps, grid, num_audio):
    times = np.cumsum(np.array(gaps)) - (gaps[0] if gaps else 0)
    if not len(times) + num_audio:
        return
    plan = tmrope(axis, times, *grid, num_audio, float(times[-1] + 1) if gaps else 1.0)
    for stream, count in ((VISUAL, len(times) * grid[0] * grid[1]), (AUDIO, num_audio)):
        own = plan.stream == stream
        assert plan.index[own].tolist() == list(range(count))
        assert np.all(np.diff(plan.positions[0][own]) >= 0)
        assert np.all(np.diff(plan.start_seconds[own]) >= 0)
    assert max(position_drift_seconds(plan, axis)) < 1 / axis.positions_per_second
    # Chunk after chunk, or moment after moment; the picture of each comes first.
    block = plan.positions[0] // (axis.positions_per_second * 2) if axis.order == "chunks" else plan.positions[0]
    assert sorted(zip(block, plan.stream, strict=True)) == list(zip(block, plan.stream, strict=True))
    assert plan.end_position > plan.positions[:, -1].max()


@pytest.mark.parametrize("shared", [True, False])
def test_positions_of_a_whole_prompt(shared):
    """3 text tokens, 2 markers, V0 V1 A0 A1, 2 markers, 2 text tokens."""
    plan = tmrope(CHUNKS, np.zeros(1), 1, 2, 2, 1.0)
    assert spelled(plan) == "V0 V1 A0 A1"
    positions = prompt_positions(plan, 3, 2, 2, shared_markers=shared)
    assert positions.dtype == np.float64
    assert positions.shape == (3, 13)
    # Shared: the markers are one step (3), the media begins at 4 and ends before 6.
    expected = {
        True: ([0, 1, 2, 3, 3, 4, 4, 4, 5, 6, 6, 7, 8], [0, 1, 2, 3, 3, 4, 5, 4, 5, 6, 6, 7, 8]),
        False: ([0, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9, 10], [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9, 10]),
    }
    time, width = expected[shared]
    assert positions.tolist() == [time, time, width]


@pytest.mark.parametrize("shared", [True, False])
def test_one_marker_is_the_same_either_way(shared):
    plan = tmrope(CHUNKS, NONE, 0, 0, 2, 1.0)
    positions = prompt_positions(plan, 0, 1, 1, shared_markers=shared)
    assert positions.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_text_goes_on_after_sound_that_ended_first():
    plan = tmrope(CHUNKS, SECONDS, 1, 1, 5, 4.0)
    positions = prompt_positions(plan, 1, 2, 2, shared_markers=True)
    # The picture reaches 2 + 6, the sound ends at 2 + 4.
    assert positions[0].tolist() == [0, 1, 1, 2, 4, 2, 3, 4, 5, 6, 8, 6, 7, 7, 8, 9]


def test_what_cannot_be_laid_out():
    with pytest.raises(LayoutError, match="neither frames nor sound"):
        tmrope(QWEN25, NONE, 1, 1, 0, 1.0)
    with pytest.raises(LayoutError, match=r"increasing times, got 1 tokens at \[1\. 1\.\]"):
        tmrope(QWEN25, np.array([1.0, 1.0]), 1, 1, 0, 2.0)
    with pytest.raises(LayoutError, match="at least one token and increasing times, got 0 tokens"):
        tmrope(QWEN25, np.zeros(1), 0, 3, 0, 2.0)


def test_plans_of_other_rules_have_no_positions():
    plan = salmonn2_paper(np.zeros(1), 1, 0, 0.2, 1.0)
    with pytest.raises(LayoutError, match="prompt_positions needs a plan with positions"):
        prompt_positions(plan, 0, 0, 1, shared_markers=True)
    with pytest.raises(LayoutError, match="position_drift_seconds needs a plan with positions"):
        position_drift_seconds(plan, QWEN25)
