"""Audio windows, plans, and whether sound and picture are in sync: what the released models' layouts share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avocet.errors import ConfigError, LayoutError
from avocet.models.layout import AUDIO, VISUAL, TokenPlan
from avocet.models.salmonn2.released_layout import (
    RELEASED_WINDOWS,
    AudioWindows,
    ReleasedPlan,
    sync_drift_seconds,
)
from avocet.models.salmonn2.released_plus_layout import (
    plus_frame_indices,
    plus_layout,
    plus_seconds_per_grid,
)
from avocet.models.salmonn2.released_v1_layout import (
    v1_frame_indices,
    v1_layout,
)
from avocet.records import SAMPLE_RATE

NONE = np.zeros(0)
NATIVE_FPS = 30
TOKEN_SECONDS = 0.5

DURATIONS = [tenths / 10 for tenths in range(10, 1101)]
PLUS_SETTINGS = [(0.1, 16, 768), (0.2, 64, 128)]
"""Interval, minimum and maximum of frames: of the released `inference.py` and of its scripts."""


def samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def v1_clip(rule: str, seconds: float, sound_seconds: float | None = None) -> ReleasedPlan:
    indices = v1_frame_indices(round(seconds * NATIVE_FPS), NATIVE_FPS, 1, 110)
    sound = seconds if sound_seconds is None else sound_seconds
    return v1_layout(rule, indices / NATIVE_FPS, 1, samples(sound), seconds)


def plus_clip(
    rule: str,
    seconds: float,
    sound_seconds: float | None = None,
    setting: tuple[float, int, int] = PLUS_SETTINGS[0],
) -> ReleasedPlan:
    indices = plus_frame_indices(round(seconds * NATIVE_FPS), NATIVE_FPS, *setting)
    sound = seconds if sound_seconds is None else sound_seconds
    step = plus_seconds_per_grid(len(indices), seconds)
    return plus_layout(rule, (indices / NATIVE_FPS)[::2], 1, 1, samples(sound), step, seconds)


def reading_offset_seconds(plan: TokenPlan, end_seconds: float) -> float:
    """How far, at most, the decoder has read further in one stream than in the other, after any picture and its sound.

    Of plans with one visual token per picture. After a picture and the audio tokens behind it, the picture read so far
    ends where the next picture begins, the sound read so far where its last token ends; both count until `end_seconds`,
    when the shorter stream is over.
    """
    picture_read = sound_read = worst = 0.0
    for place in range(len(plan)):
        if plan.stream[place] == AUDIO:
            sound_read = min(plan.end_seconds[place], end_seconds)
        else:
            picture_read = min(plan.end_seconds[place], end_seconds)
        if place + 1 == len(plan) or plan.stream[place + 1] == VISUAL:
            worst = max(worst, abs(picture_read - sound_read))
    return worst


def test_windows_of_the_released_checkpoints():
    assert (RELEASED_WINDOWS.kernel_frames, RELEASED_WINDOWS.stride_frames) == (25, 25)
    assert (RELEASED_WINDOWS.num_windows, RELEASED_WINDOWS.num_dropped_frames) == (60, 0)
    starts, ends = RELEASED_WINDOWS.seconds(np.array([0, 1, 59, 60, 61]))
    np.testing.assert_allclose(starts, [0, 0.5, 29.5, 30, 30.5])
    np.testing.assert_allclose(ends, [0.5, 1, 30, 30.5, 31])


def test_overlapping_windows_do_not_cross_segments():
    # Half a second every quarter: 25 frames every 12, the last of 123 at frame 1464, 11 frames unread.
    windows = AudioWindows.from_seconds(0.5, 0.25)
    assert (windows.num_windows, windows.starts[-1], windows.num_dropped_frames) == (123, 1464, 11)
    starts, ends = windows.seconds(np.array([122, 123]))
    np.testing.assert_allclose(starts, [29.28, 30])
    np.testing.assert_allclose(ends, [29.78, 30.5])
    # 30.1 s: a whole segment, and of the next one the window that begins at its start; 0.1 s is below the stride.
    assert windows.num_real_tokens(samples(30.1)) == 124
    # The last window begins at 29.28 s: sound until 29.9 s has no more than a whole segment.
    assert windows.num_real_tokens(samples(29.9)) == 123


def test_windows_of_an_encoder_with_another_frame_rate():
    windows = AudioWindows.from_seconds(0.5, 0.5, segment_frames=100, segment_seconds=4)
    assert (windows.kernel_frames, windows.num_windows, windows.num_dropped_frames) == (12, 8, 4)
    # 12 frames of 0.04 s; the second segment begins at 4 s.
    np.testing.assert_allclose(windows.seconds(np.array([1, 8])), [[0.48, 4], [0.96, 4.48]])


@pytest.mark.parametrize(
    ("num_samples", "segments", "tokens", "real"),
    [
        (0, 0, 0, 0),
        (1, 1, 60, 1),
        (8_000, 1, 60, 1),
        (8_001, 1, 60, 2),
        (480_000, 1, 60, 60),
        (480_001, 2, 120, 61),
        (300 * SAMPLE_RATE, 10, 600, 600),
    ],
)
def test_audio_token_counts(num_samples, segments, tokens, real):
    assert RELEASED_WINDOWS.num_segments(num_samples) == segments
    assert RELEASED_WINDOWS.num_tokens(num_samples) == tokens
    assert RELEASED_WINDOWS.num_real_tokens(num_samples) == real


def test_windows_that_cannot_be():
    with pytest.raises(ConfigError, match="do not fit into segments of 1500"):
        AudioWindows(kernel_frames=1501, stride_frames=25)
    with pytest.raises(ConfigError, match="at least one frame"):
        AudioWindows.from_seconds(0.5, 0.009)
    with pytest.raises(ConfigError, match="finite and > 0 s"):
        AudioWindows.from_seconds(0.5, float("nan"))
    with pytest.raises(LayoutError, match="must be >= 0"):
        RELEASED_WINDOWS.num_tokens(-1)


def test_a_plan_checks_its_sources():
    plan = v1_clip("corrected", 2.0).plan
    with pytest.raises(LayoutError, match="4 audio placeholders needs as many sources"):
        ReleasedPlan(plan=plan, audio_source=np.arange(3))
    with pytest.raises(LayoutError, match="in order"):
        ReleasedPlan(plan=plan, audio_source=np.array([0, 2, 1, 3]))
    released = ReleasedPlan(plan=plan, audio_source=np.array([0, 0, 1, 1]))
    assert "num_audio_tokens=4" in repr(released)
    assert "audio tokens shown=2" in repr(released)


def test_drift_is_the_gap_between_a_sound_and_its_picture():
    # Frame 0 stands for [0, 1), frame 1 for [1, 2); token k for half a second from k / 2 on.
    plan = v1_layout("corrected", np.arange(2.0), 1, samples(2), 2.0).plan
    assert sync_drift_seconds(plan) == 0
    # Frame 0 is followed by 30 tokens, the last of [14.5, 15): 13.5 s after it; frame 1 by 30, of up to [29.5, 30):
    # 27.5 s. Of the two seconds of sound, all stand behind frame 0, the last at [1.5, 2): 0.5 s.
    plan = v1_layout("released", np.arange(2.0), 1, samples(2), 2.0).plan
    assert sync_drift_seconds(plan) == 27.5
    assert sync_drift_seconds(plan, sound_seconds=2.0) == 0.5
    assert sync_drift_seconds(v1_layout("corrected", NONE, 0, samples(2), 2.0).plan) == 0
    assert sync_drift_seconds(v1_layout("corrected", np.arange(2.0), 1, 0, 2.0).plan) == 0


def assert_in_sync(plan: TokenPlan, sound_seconds: float, picture_seconds: float) -> None:
    """No token of silence, every sound beside its picture, and both read at one pace to within one token."""
    audio = plan.start_seconds[plan.stream == AUDIO]
    np.testing.assert_allclose(audio, np.arange(len(audio)) * TOKEN_SECONDS, atol=1e-9)
    num_windows, rest = divmod(samples(sound_seconds), samples(TOKEN_SECONDS))
    assert len(audio) == num_windows + (rest > 0)
    shorter = min(sound_seconds, picture_seconds)
    assert sync_drift_seconds(plan, sound_seconds=shorter) == 0
    assert reading_offset_seconds(plan, shorter) <= TOKEN_SECONDS


def test_the_released_layouts_are_not_in_sync():
    """What the corrected ones are held to would find the released ones out."""
    for seconds in (5.0, 10.0, 45.0, 65.0, 110.0, 300.0):
        plan = v1_clip("released", seconds).plan
        assert sync_drift_seconds(plan, seconds) > TOKEN_SECONDS
        assert reading_offset_seconds(plan, seconds) > TOKEN_SECONDS
    for seconds in (30.0, 60.0, 90.0):
        plan = v1_clip("released", seconds).plan
        assert sync_drift_seconds(plan) == reading_offset_seconds(plan, seconds) == 0
    # 128 frames in 110 s: the last grid's first frame is shown at 109.1 s and laid out at 108.28 s, with the sound from
    # 108 s on.
    plan = plus_clip("train", 110.0, setting=PLUS_SETTINGS[1]).plan
    assert plan.start_seconds[plan.stream == VISUAL][-1] == pytest.approx(109.1)
    assert plan.positions[0][plan.stream == VISUAL][-1] == 216
    assert reading_offset_seconds(plan, 110.0) > 2 * TOKEN_SECONDS


def test_v1_corrected_is_in_sync_at_any_duration():
    for seconds in [*DURATIONS, 300.0]:
        assert_in_sync(v1_clip("corrected", seconds).plan, seconds, seconds)


@pytest.mark.parametrize("setting", PLUS_SETTINGS)
def test_plus_corrected_is_in_sync_at_any_duration(setting):
    for seconds in [*DURATIONS, 300.0]:
        plan = plus_clip("corrected", seconds, setting=setting).plan
        assert_in_sync(plan, seconds, seconds)
        # Two positions per second; a picture's is rounded down.
        late = plan.start_seconds - plan.positions[0] / 2
        assert np.abs(late[plan.stream == AUDIO]).max() < 1e-9
        assert -1e-6 <= late[plan.stream == VISUAL].min() <= late[plan.stream == VISUAL].max() < TOKEN_SECONDS


@given(st.integers(10, 4000), st.integers(1, 4000))
@settings(max_examples=100, deadline=None)
def test_corrected_is_in_sync_where_lengths_differ(picture_tenths, sound_tenths):
    seconds, sound_seconds = picture_tenths / 10, sound_tenths / 10
    assert_in_sync(v1_clip("corrected", seconds, sound_seconds).plan, sound_seconds, seconds)
    assert_in_sync(plus_clip("corrected", seconds, sound_seconds).plan, sound_seconds, seconds)


@given(st.lists(st.floats(0.01, 5.0), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_corrected_is_in_sync_at_uneven_frame_times(steps):
    """As of files with a variable frame rate."""
    times = np.concatenate([[0.0], np.cumsum(steps)])
    seconds = times[-1]
    assert_in_sync(v1_layout("corrected", times[:-1], 1, samples(seconds), seconds).plan, seconds, seconds)
    plan = plus_layout("corrected", times[:-1], 1, 1, samples(seconds), 1.0, seconds).plan
    assert_in_sync(plan, seconds, seconds)
    assert (np.diff(plan.positions[0]) >= 0).all()
