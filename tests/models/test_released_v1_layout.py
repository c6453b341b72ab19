"""The layouts of the released video-SALMONN 2 7B by hand; `test_golden_layout` compares them with the release."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from avocet.errors import ConfigError, LayoutError
from avocet.models.layout import AUDIO, VISUAL, salmonn2_paper
from avocet.models.salmonn2.released_layout import (
    AudioWindows,
    ReleasedPlan,
    sync_drift_seconds,
)
from avocet.models.salmonn2.released_v1_layout import (
    V1_RULES,
    nearest_source,
    v1_frame_indices,
    v1_layout,
    v1_num_samples,
    v1_time_padding,
    v1_time_texts,
    v1_token_kinds,
)
from avocet.records import SAMPLE_RATE

NONE = np.zeros(0)
NATIVE_FPS = 30


def samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def spelled(released: ReleasedPlan) -> str:
    """Visual tokens by their index, audio placeholders by the token that they show."""
    plan = released.plan
    pairs = zip(plan.stream, plan.index, strict=True)
    return " ".join(f"V{i}" if stream == VISUAL else f"A{released.audio_source[i]}" for stream, i in pairs)


def v1_clip(
    rule: str, seconds: float, sound_seconds: float | None = None, *, tokens_per_frame: int = 1
) -> ReleasedPlan:
    indices = v1_frame_indices(round(seconds * NATIVE_FPS), NATIVE_FPS, 1, 110)
    sound = seconds if sound_seconds is None else sound_seconds
    return v1_layout(rule, indices / NATIVE_FPS, tokens_per_frame, samples(sound), seconds)


def test_v1_example_of_the_module():
    # Three tokens become four by nearest neighbours: places 0, 0.75, 1.5, 2.25 of the three.
    windows = AudioWindows(kernel_frames=25, stride_frames=25, segment_frames=75, segment_seconds=2)
    assert spelled(v1_layout("released", np.arange(2.0), 1, samples(2), 2.0, windows)) == "V0 A0 A0 V1 A1 A2"


def test_v1_released_shares_whole_segments_evenly():
    # 10 s: 60 tokens for 10 frames, six each: the twenty tokens of the sound end behind the fourth frame.
    released = v1_clip("released", 10.0)
    assert spelled(released).startswith("V0 A0 A1 A2 A3 A4 A5 V1 A6 A7 A8 A9 A10 A11 V2 ")
    assert released.plan.num_audio_tokens == 60
    # Token 19 is [9.5, 10), the fourth frame [3, 4).
    assert sync_drift_seconds(released.plan, sound_seconds=10) == pytest.approx(5.5)
    # 110 s: 240 tokens become 330, three per frame. Token 219, of [109.5, 110), first stands at place
    # ceil(219 * 330 / 240) = 302, behind frame 100: 8.5 s early.
    released = v1_clip("released", 110.0)
    assert released.plan.num_audio_tokens == 330
    assert np.flatnonzero(released.audio_source == 219)[0] == 302
    assert sync_drift_seconds(released.plan, sound_seconds=110) == pytest.approx(8.5)


def test_v1_released_at_one_second_and_a_bit():
    # round(50 * 1.1) = 55 tokens are shared: 56 after upsampling, 28 behind each of two frames; five trail.
    released = v1_clip("released", 1.1)
    source = released.audio_source.tolist()
    assert source[:3] == [0, 0, 1]
    assert source[-7:] == [53, 54, 55, 56, 57, 58, 59]
    audio = np.flatnonzero(released.plan.stream == AUDIO)
    assert audio.tolist() == [*range(1, 29), *range(30, 63)]


def test_v1_upsampling_is_that_of_pytorch():
    for num_segments in range(1, 12):
        num_source = 60 * num_segments
        for num_frames in range(2, 111):
            num_target = -(-num_source // num_frames) * num_frames
            places = torch.arange(num_source, dtype=torch.float32)[None, None]
            expected = F.interpolate(places, size=num_target, mode="nearest")[0, 0].tolist()
            assert nearest_source(num_source, num_target).tolist() == expected
    assert nearest_source(0, 0).tolist() == []


@pytest.mark.parametrize("seconds", [10.0, 30.0, 45.0, 110.0])
def test_v1_corrected_is_the_papers_equation_where_that_is_in_sync(seconds):
    """Evenly spaced frames and sound as long as the picture: Eq. 7's even shares are the shares by time."""
    released = v1_clip("corrected", seconds, tokens_per_frame=3)
    paper = salmonn2_paper(np.arange(seconds), 3, round(2 * seconds), 0.5, seconds)
    assert released.plan.stream.tolist() == paper.stream.tolist()
    np.testing.assert_allclose(released.plan.start_seconds, paper.start_seconds)
    np.testing.assert_allclose(released.plan.end_seconds, paper.end_seconds)


def test_v1_corrected_goes_by_the_frames_true_times():
    # Frames at 0, 0.1 and 3 s; tokens' middles at 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75.
    released = v1_layout("corrected", np.array([0, 0.1, 3.0]), 1, samples(4), 4.0)
    assert spelled(released) == "V0 V1 A0 A1 A2 A3 A4 A5 V2 A6 A7"
    np.testing.assert_allclose(released.plan.start_seconds[:3], [0, 0.1, 0])
    np.testing.assert_allclose(released.plan.end_seconds[-3:], [4, 3.5, 4])


@pytest.mark.parametrize("rule", V1_RULES)
def test_v1_sound_alone(rule):
    released = v1_layout(rule, NONE, 0, samples(70), 70.0)
    count = {"released": 180, "corrected": 140}[rule]
    assert released.plan.stream.tolist() == [AUDIO] * count
    assert released.audio_source.tolist() == list(range(count))
    assert released.warnings == ()


@pytest.mark.parametrize("rule", V1_RULES)
def test_v1_picture_with_sound(rule):
    # The duration of a picture says nothing about its sound: all 33.1 s of it are heard.
    released = v1_layout(rule, np.zeros(1), 2, samples(33.1), 0.04)
    count = {"released": 120, "corrected": 67}[rule]
    assert spelled(released) == " ".join(["V0 V1", *(f"A{k}" for k in range(count))])
    assert "refuses clips of one frame" in released.warnings[0]


@pytest.mark.parametrize("rule", V1_RULES)
def test_v1_without_sound(rule):
    released = v1_clip(rule, 5.0, 0.0, tokens_per_frame=4)
    assert released.plan.stream.tolist() == [VISUAL] * 20
    assert released.audio_source.shape == (0,)
    assert "without sound" in released.warnings[0]


def test_v1_five_minutes():
    released = v1_clip("released", 300.0)
    # 600 tokens for 110 frames: 660 after upsampling.
    assert (released.plan.num_visual_tokens, released.plan.num_audio_tokens) == (110, 660)
    assert np.unique(released.audio_source).tolist() == list(range(600))
    corrected = v1_clip("corrected", 300.0)
    assert corrected.audio_source.tolist() == list(range(600))
    # Frames are 2.7 s apart here: a multiple of neither half a second nor a whole one.
    assert sync_drift_seconds(corrected.plan) == 0


def test_v1_hears_no_more_than_the_video_is_long():
    assert v1_num_samples(samples(40), 25.0) == samples(25)
    assert v1_num_samples(samples(20), 25.0) == samples(20)
    # 40 s of sound with 25 s of video: one segment, 60 tokens, 75 after upsampling to 25 frames.
    assert v1_clip("released", 25.0, 40.0).plan.num_audio_tokens == 75
    # The corrected rule keeps what is heard after the picture, behind the last frame.
    corrected = v1_clip("corrected", 25.0, 40.0)
    assert spelled(corrected).endswith(f"V24 {' '.join(f'A{k}' for k in range(48, 80))}")


def test_v1_frame_is_rows_with_newlines_then_time():
    assert v1_token_kinds(2, 3).tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert v1_token_kinds(1, 2, 3).tolist() == [0, 0, 1, 2, 2, 2]
    assert len(v1_token_kinds(13, 13)) == 182
    with pytest.raises(LayoutError, match="0 x 13 patches"):
        v1_token_kinds(0, 13)


def test_v1_time_texts():
    # 12.4 / 12 * k: 1.033..., 2.066..., ..., 12.4
    texts = v1_time_texts(12, 12.4)
    assert texts[:2] == ("1.0", "2.1")
    assert texts[-1] == "12.4"
    assert v1_time_padding([len(text) for text in texts]) == (1,) * 9 + (0,) * 3
    assert v1_time_texts(0, 5.0) == v1_time_padding([]) == ()


def test_v1_sampler():
    # 25 frames per second for one: every 25th. 24.4 rounds to 24. Below the wanted rate, every frame.
    assert v1_frame_indices(76, 25, 1, 110).tolist() == [0, 25, 50, 75]
    assert v1_frame_indices(49, 24.4, 1, 110).tolist() == [0, 24, 48]
    assert v1_frame_indices(3, 0.3, 1, 110).tolist() == [0, 1, 2]
    # Four are too many: three from the first to the last, 37.5 rounded down.
    assert v1_frame_indices(76, 25, 1, 3).tolist() == [0, 37, 75]
    with pytest.raises(LayoutError, match="at least one frame"):
        v1_frame_indices(0, 25, 1, 3)
    with pytest.raises(LayoutError, match="rates > 0"):
        v1_frame_indices(10, float("nan"), 1, 3)


def test_v1_refuses():
    with pytest.raises(ConfigError, match="unknown layout rule 'exact' of video-SALMONN 2 v1; available: released"):
        v1_layout("exact", np.zeros(1), 1, 0, 1.0)
    with pytest.raises(LayoutError, match="neither frames nor sound"):
        v1_layout("released", NONE, 1, 0, 1.0)
    with pytest.raises(LayoutError, match="at least one token"):
        v1_layout("released", np.zeros(1), 0, 0, 1.0)
    with pytest.raises(LayoutError, match="increase strictly"):
        v1_layout("corrected", np.array([0, 1, 1]), 1, 0, 3.0)
