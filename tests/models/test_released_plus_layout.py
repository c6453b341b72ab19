"""The layouts of video-SALMONN 2+ by hand; `test_golden_layout` compares them with the release."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avocet.errors import ConfigError, LayoutError
from avocet.models.layout import AUDIO, VISUAL, salmonn2_paper
from avocet.models.salmonn2.released_layout import (
    RELEASED_WINDOWS,
    AudioWindows,
    ReleasedPlan,
    sync_drift_seconds,
)
from avocet.models.salmonn2.released_plus_layout import (
    PLUS_RULES,
    capped_audio_per_grid,
    even_audio_per_grid,
    generate_positions,
    plus_frame_indices,
    plus_frame_pixels,
    plus_grid_size,
    plus_layout,
    plus_seconds_per_grid,
    plus_stride_frame_indices,
    released_audio_per_grid,
    rope_delta,
)
from avocet.models.tmrope import prompt_positions
from avocet.records import SAMPLE_RATE

NONE = np.zeros(0)
NATIVE_FPS = 30
# Segments of 3 s, so that plans are short enough to write down: 6 audio tokens each.
SHORT = AudioWindows(kernel_frames=25, stride_frames=25, segment_frames=150, segment_seconds=3)
PLUS_SETTINGS = [(0.1, 16, 768), (0.2, 64, 128)]


def samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def spelled(released: ReleasedPlan) -> str:
    """Visual tokens by their index, audio placeholders by the token that they show."""
    plan = released.plan
    pairs = zip(plan.stream, plan.index, strict=True)
    return " ".join(f"V{i}" if stream == VISUAL else f"A{released.audio_source[i]}" for stream, i in pairs)


def plus_clip(
    rule: str,
    seconds: float,
    sound_seconds: float | None = None,
    *,
    setting: tuple[float, int, int] = PLUS_SETTINGS[0],
    rows: int = 1,
    columns: int = 1,
    even_split: bool = False,
) -> ReleasedPlan:
    indices = plus_frame_indices(round(seconds * NATIVE_FPS), NATIVE_FPS, *setting)
    sound = seconds if sound_seconds is None else sound_seconds
    step = plus_seconds_per_grid(len(indices), seconds)
    times = (indices / NATIVE_FPS)[::2]
    return plus_layout(rule, times, rows, columns, samples(sound), step, seconds, even_split=even_split)


def test_plus_example_of_the_module():
    def lay_out(rule: str, sound_seconds: float = 3.0) -> ReleasedPlan:
        return plus_layout(rule, np.arange(2.0), 1, 2, samples(sound_seconds), 1.0, 2.0, windows=SHORT)

    released = lay_out("train")
    assert spelled(released) == "V0 V1 A0 A1 V2 V3 A2 A3 A4 A5"
    assert released.plan.positions.tolist() == [
        [0, 0, 0, 1, 2, 2, 2, 3, 4, 5],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 0, 1, 0, 1, 2, 3, 4, 5],
    ]
    assert (released.plan.end_position, rope_delta(released.plan)) == (6, -4)
    released = lay_out("released_generate")
    assert spelled(released) == "V0 V1 A0 A1 V2 V3 A2 A3 A4 A5"
    assert released.plan.positions.tolist() == [
        [0, 0, 2, 2, 3, 4, 5, 6, 7, 8],
        [0, 0, 0, 0, 3, 4, 5, 6, 7, 8],
        [0, 1, 0, 1, 3, 4, 5, 6, 7, 8],
    ]
    assert (released.plan.end_position, rope_delta(released.plan)) == (9, -1)
    # 1.6 s of sound are four tokens, the released six less two of silence.
    assert spelled(lay_out("corrected", 1.6)) == "V0 V1 A0 A1 V2 V3 A2 A3"
    assert lay_out("corrected", 1.6).plan.positions[0].tolist() == [0, 0, 0, 1, 2, 2, 2, 3]


def test_plus_text_before_the_block():
    plan = plus_layout("train", np.arange(2.0), 1, 2, samples(1.6), 1.0, 2.0, windows=SHORT).plan
    positions = prompt_positions(plan, 3, 2, 1, shared_markers=False)
    # Text 0 1 2, start marker 3, block from 4, end marker one behind its last time (4 + 6), text.
    assert positions[0].tolist() == [0, 1, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 8, 9, 10, 11, 12]
    assert positions[2].tolist() == [0, 1, 2, 3, 4, 5, 4, 5, 4, 5, 6, 7, 8, 9, 10, 11, 12]


def test_plus_last_grid_takes_the_rest():
    # 10 s at 10 fps: s = 0.2; grids 0, 1, 2 begin at time positions 0, 0, 0 (0.8), then 1 (1.2), 1, 2, ...
    shares = released_audio_per_grid(60, 50, 0.2)
    assert shares[:6].tolist() == [0, 0, 1, 0, 1, 0]
    assert shares[-1] == 41
    assert shares.sum() == 60
    assert even_audio_per_grid(60, 50)[:6].tolist() == [1, 1, 1, 1, 2, 1]
    assert even_audio_per_grid(60, 50).sum() == 60
    assert even_audio_per_grid(60, 30).tolist() == [2] * 30
    counts = np.bincount(np.cumsum(plus_clip("train", 10, even_split=True).plan.stream == VISUAL))[1:] - 1
    assert counts.tolist() == even_audio_per_grid(60, 50).tolist()


@pytest.mark.parametrize("rule", ["train", "released_generate"])
@pytest.mark.parametrize(("seconds", "sound_seconds", "tokens"), [(65, 57, 120), (40, 0.3, 60), (300, 1, 60)])
def test_plus_sound_that_ends_before_the_picture(rule, seconds, sound_seconds, tokens):
    """Across a segment's end the released shares sum to more than there is; here each token stands once."""
    released = plus_clip(rule, seconds, sound_seconds)
    assert released.audio_source.tolist() == list(range(tokens))
    assert released.plan.num_audio_tokens == tokens
    assert "the released video-SALMONN 2+ fails here" in released.warnings[0]
    # Until the tokens are used up, each stands where it would with enough of them.
    enough = plus_clip(rule, seconds)
    assert not enough.warnings
    assert np.flatnonzero(released.plan.stream == AUDIO).tolist() == (
        np.flatnonzero(enough.plan.stream == AUDIO)[:tokens].tolist()
    )
    assert len(released.plan.positions[0]) == len(released.plan)


def test_plus_capped_shares():
    assert capped_audio_per_grid(np.array([2, 3, 2, -1]), 6).tolist() == [2, 3, 1, 0]
    assert capped_audio_per_grid(np.array([2, 3, 2, -6]), 1).tolist() == [1, 0, 0, 0]
    assert capped_audio_per_grid(np.array([2, 3, 2, 4]), 11).tolist() == [2, 3, 2, 4]
    assert capped_audio_per_grid(np.array([7]), 7).tolist() == [7]


@given(
    st.floats(0.5, 400),
    st.floats(0.01, 400),
    st.sampled_from(PLUS_SETTINGS),
    st.sampled_from(PLUS_RULES),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_plus_never_loses_or_invents_a_token(seconds, sound_seconds, setting, rule, even_split):
    even_split = even_split and rule != "corrected"
    released = plus_clip(rule, seconds, sound_seconds, setting=setting, rows=1, columns=2, even_split=even_split)
    whole, real = (
        count(samples(sound_seconds)) for count in (RELEASED_WINDOWS.num_tokens, RELEASED_WINDOWS.num_real_tokens)
    )
    assert released.audio_source.tolist() == list(range(real if rule == "corrected" else whole))
    plan = released.plan
    assert plan.positions.shape == (3, len(plan))
    assert plan.end_position > plan.positions[0].max()
    # Time never runs backwards, but for tokens that an even split put behind a later or earlier picture.
    assert even_split or (np.diff(plan.positions[0]) >= 0).all()


def test_plus_sound_alone():
    train, generate, corrected = (
        plus_layout(rule, NONE, 0, 0, samples(12), 1.0, 12.0) for rule in ("train", "released_generate", "corrected")
    )
    k = list(range(60))
    assert train.plan.positions.tolist() == [k, k, [0] * 60]
    assert generate.plan.positions.tolist() == [k, k, k]
    assert corrected.plan.positions.tolist() == [k[:24], k[:24], [0] * 24]
    assert [released.plan.end_position for released in (train, generate, corrected)] == [60, 60, 24]


@pytest.mark.parametrize("rule", PLUS_RULES)
def test_plus_without_sound(rule):
    # 4 s in 10 frames: s = 0.8, time positions 0, 1 (1.6), 3 (3.2), 4 (4.8), 6 (6.4). The true times of the grids are
    # those of frames 0, 26, 52, 79, 105 of 119: 0, 0.87, 1.73, 2.63 and 3.5 s.
    released = plus_clip(rule, 4.0, 0.0, setting=(0.4, 4, 768), columns=3)
    times = {"train": [0, 1, 3, 4, 6], "released_generate": [0, 2, 4, 6, 8], "corrected": [0, 1, 3, 5, 7]}[rule]
    assert released.plan.positions[0].tolist() == np.repeat(times, 3).tolist()
    assert released.plan.positions[2].tolist() == [0, 1, 2] * 5
    assert released.plan.end_position == times[-1] + 1
    # Where the picture is wider than the clip is long, text goes on behind the width.
    assert plus_clip(rule, 4.0, 0.0, setting=(0.4, 4, 768), columns=20).plan.end_position == 20


@pytest.mark.parametrize("rule", PLUS_RULES)
def test_plus_picture_with_sound(rule):
    released = plus_layout(rule, np.zeros(1), 2, 2, samples(3.1), 1.0, 0.04)
    count = 7 if rule == "corrected" else 60
    assert spelled(released) == " ".join(["V0 V1 V2 V3", *(f"A{k}" for k in range(count))])
    assert released.warnings == ()
    assert released.plan.positions[:, :4].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]]
    audio = released.plan.positions[:, 4:].tolist()
    if rule == "released_generate":
        # Text from behind the largest patch position on any axis, 1.
        assert audio == [list(range(2, 62))] * 3
    else:
        assert audio == [list(range(count)), [0] * count, list(range(count))]


def test_plus_text_after_a_short_clip_with_sound():
    # 1 s: two tokens of sound, and frames of 3 x 20 tokens. In training 60 tokens of silence and sound came first.
    assert plus_clip("train", 1.0, rows=3, columns=20).plan.end_position == 60
    assert plus_clip("corrected", 1.0, rows=3, columns=20).plan.end_position == 20
    assert plus_clip("corrected", 60.0, rows=3, columns=20).plan.end_position == 120
    # The released code looks at the time axis alone: columns beyond 60 overlap with the text behind them.
    assert plus_clip("train", 1.0, columns=70).plan.end_position == 60
    assert plus_clip("corrected", 1.0, columns=70).plan.end_position == 70


def test_plus_corrected_forgives_rounding_of_frame_times():
    almost_one = sum([0.1] * 10)
    assert almost_one < 1.0
    released = plus_layout("corrected", np.array([0, almost_one]), 1, 1, samples(2), 1.0, 2.0)
    assert spelled(released) == "V0 A0 A1 V1 A2 A3"
    assert released.plan.positions[0].tolist() == [0, 0, 1, 2, 2, 3]


def test_plus_five_minutes():
    for rule in PLUS_RULES:
        released = plus_clip(rule, 300.0)
        assert (released.plan.num_visual_tokens, released.plan.num_audio_tokens) == (384, 600)
        assert released.warnings == ()
    # 384 patch positions up to 766, then 600 tokens as text.
    assert plus_clip("released_generate", 300.0).plan.end_position == 767 + 600
    corrected = plus_clip("corrected", 300.0).plan
    assert sync_drift_seconds(corrected) == 0
    assert corrected.end_position == 600


def test_plus_samplers():
    # 4 s: round(4 / 0.5) = 8 frames, 119 / 7 = 17 apart.
    assert plus_frame_indices(120, 30, 0.5, 4, 768).tolist() == [0, 17, 34, 51, 68, 85, 102, 119]
    assert plus_frame_indices(120, 30, 0.5, 4, 3).tolist() == [0, 59, 119]
    # More wanted than there are: each frame once.
    assert plus_frame_indices(5, 30, 0.5, 16, 768).tolist() == [0, 1, 2, 3, 4]
    assert plus_frame_indices(1, 30, 0.5, 16, 768).tolist() == [0]
    # Strides of 15 and of round(29.97 * 0.1) = 3; at most three, 119 / 2 rounded down.
    assert plus_stride_frame_indices(46, 30, 0.5, 768).tolist() == [0, 15, 30, 45]
    assert plus_stride_frame_indices(8, 29.97, 0.1, 768).tolist() == [0, 3, 6]
    assert plus_stride_frame_indices(120, 30, 0.5, 3).tolist() == [0, 59, 119]
    for sample in (
        lambda n, fps: plus_frame_indices(n, fps, 0.1, 4, 8),
        lambda n, fps: plus_stride_frame_indices(n, fps, 0.1, 8),
    ):
        with pytest.raises(LayoutError, match="at least one frame"):
            sample(0, 30)
        with pytest.raises(LayoutError, match="interval > 0"):
            sample(10, 0)


def test_plus_seconds_per_grid_and_budget():
    assert plus_seconds_per_grid(16, 1.0) == 0.125
    with pytest.raises(LayoutError, match="0 frames in 1"):
        plus_seconds_per_grid(0, 1.0)
    assert plus_frame_pixels(768, 768, 61_250) == 61_250
    assert plus_frame_pixels(384, 768, 61_250) == pytest.approx(1.9 * 61_250)


def test_plus_grid_size():
    # 360 x 640 is 12.9 x 22.9 tokens: 13 x 23 of 234,416 pixels.
    assert plus_grid_size(360, 640, 300_000) == (13, 23)
    # Shrunk to 61,250: by sqrt(230,400 / 61,250) = 1.9395 to 6.6 x 11.8, rounded down.
    assert plus_grid_size(360, 640, 61_250) == (6, 11)
    # 28 x 28 pixels are below four tokens: doubled.
    assert plus_grid_size(28, 28, 61_250) == (2, 2)
    # A line is 0.2 tokens high: no token, so enlarged to 3,136 pixels, by sqrt(3136 / 4500) = 0.83 to 0.15 x 26.8.
    assert plus_grid_size(5, 900, 61_250) == (1, 27)
    # One row of 6000 / 28 tokens is over the budget: by sqrt(180,000 / 50,000) = 1.9 to 0.6 x 112.9, but one row stays.
    assert plus_grid_size(30, 6_000, 50_000) == (1, 112)
    with pytest.raises(LayoutError, match="at most 1:200, got 3 x 601"):
        plus_grid_size(3, 601, 61_250)
    with pytest.raises(LayoutError, match="got 0 x 0"):
        plus_grid_size(0, 0, 61_250)


def test_plus_refuses():
    with pytest.raises(ConfigError, match=r"unknown layout rule 'released' of video-SALMONN 2\+; available"):
        plus_layout("released", np.zeros(1), 1, 1, 0, 1.0, 1.0)
    with pytest.raises(ConfigError, match="even split"):
        plus_layout("corrected", np.zeros(1), 1, 1, 0, 1.0, 1.0, even_split=True)
    with pytest.raises(LayoutError, match="neither frames nor sound"):
        plus_layout("train", NONE, 1, 1, 0, 1.0, 1.0)
    with pytest.raises(LayoutError, match="at least one token"):
        plus_layout("train", np.zeros(1), 0, 1, 0, 1.0, 1.0)
    with pytest.raises(LayoutError, match="rope_delta needs a plan with positions"):
        rope_delta(salmonn2_paper(np.zeros(1), 1, 2, 0.5, 1.0))


def test_plus_generate_positions_of_wide_pictures():
    # Two grids of one row of five: text from behind the width, 5, not behind the time, 3.
    positions, end = generate_positions(2, 1, 5, 12)
    assert positions[0].tolist() == [0] * 5 + [2] * 5 + [5, 6]
    assert end == 7
