"""Token layouts of the released video-SALMONN 2 7B ("v1": LLaVA-OneVision with Whisper).

Positions are places in the sequence. A frame is rows x columns pooled patches with the learned newline vector behind
each row (13 x 14 = 182 tokens), then

* with sound: audio tokens, the same number behind every frame;
* without sound: the frame's time as text ("12.0"), filled up with zero vectors to the longest text of the clip.

Both rules share this. What they differ in is which audio tokens stand behind which frame:

* `released` (`llava/model/language_model/video_salmonn_2.py`): all N audio tokens of whole 30-second segments, the
  silence at the end included, in equal shares. If N is no multiple of the frames F, tokens are repeated
  (nearest-neighbour upsampling) up to the next multiple. So the sound runs ahead of the picture or behind it: of a 10 s
  clip, the last sound stands behind the fourth of ten frames.
* `corrected`: Eq. 6-8 of the paper taken by time: each token of the real sound, once, behind the frame on screen in its
  middle. In sync at any length and frame rate.

    released, 2 frames, 3 audio tokens: V0 A0 A0 V1 A1 A2      (one visual token per frame)

The paper's Eq. 7 shares l tokens evenly over n frames, alpha_i = l * i / n, which is right when frames are evenly
spaced and sound and picture equally long. The time texts are lost in the released code when there is sound, and stay so
in `corrected`: the weights never saw both together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avocet.errors import ConfigError, LayoutError
from avocet.models.salmonn2.released_layout import (
    RELEASED_WINDOWS,
    AudioWindows,
    ReleasedPlan,
    interleave,
)
from avocet.records import SAMPLE_RATE

V1_RULES = ("released", "corrected")

FRONT_TOKENS_PER_SECOND = 50
"""The released code shares out only so many audio tokens per second of video and puts the others behind the last frame.
The number is the encoder's frame rate; with two audio tokens per second it only matters below about 1.2 s."""

PATCH, NEWLINE, TIME_TEXT = 0, 1, 2
"""What a visual token of v1 is."""


def v1_frame_indices(num_native: int, native_fps: float, video_fps: float, max_frames: int) -> np.ndarray:
    """int64: frames of the video file that the released sampler takes (`llava/dataset/av_dataset.py`).

    Every round(native_fps / video_fps)-th frame from the first on; if these are more than `max_frames`, that many
    evenly spaced ones from the first to the last frame of the file.
    """
    if num_native < 1 or max_frames < 1 or not native_fps > 0 or not video_fps > 0:
        raise LayoutError(
            f"sampling needs at least one frame and rates > 0, got {num_native} frames at {native_fps} per second, "
            f"video_fps {video_fps}, max_frames {max_frames}"
        )
    indices = np.arange(0, num_native, max(round(native_fps / video_fps), 1), dtype=np.int64)
    if len(indices) > max_frames:
        return np.linspace(0, num_native - 1, max_frames).astype(np.int64)
    return indices


def v1_num_samples(num_samples: int, limit_seconds: float) -> int:
    """Samples that the released code hears of a sound: those before the limit.

    The limit is the length of the video, or `max_time` (110 s) for sound alone.
    """
    return min(num_samples, round(SAMPLE_RATE * limit_seconds))


def v1_token_kinds(rows: int, columns: int, num_time_tokens: int = 0) -> np.ndarray:
    """uint8 (tokens per frame,): `PATCH`, `NEWLINE` or `TIME_TEXT` for each visual token of a frame, in order.

    Args:
        rows, columns: pooled patches of a frame (13 x 13).
        num_time_tokens: places for the time text, that of the clip's longest; 0 with sound.
    """
    if rows < 1 or columns < 1 or num_time_tokens < 0:
        raise LayoutError(
            f"a frame needs patches, and time tokens >= 0; got {rows} x {columns} patches and {num_time_tokens} time "
            "tokens"
        )
    row = np.append(np.full(columns, PATCH), NEWLINE)
    return np.append(np.tile(row, rows), np.full(num_time_tokens, TIME_TEXT)).astype(np.uint8)


def v1_time_texts(num_frames: int, duration_seconds: float) -> tuple[str, ...]:
    """The text behind frame k = 1 ... F of a clip without sound: k * (T / F) seconds with one decimal."""
    step = float(duration_seconds) / max(num_frames, 1)
    return tuple(str(round(step * k, 1)) for k in range(1, num_frames + 1))


def v1_time_padding(text_lengths: Sequence[int]) -> tuple[int, ...]:
    """Zero vectors behind each frame's time text, given the texts' lengths in tokens."""
    longest = max(text_lengths, default=0)
    return tuple(longest - length for length in text_lengths)


def nearest_source(num_source: int, num_target: int) -> np.ndarray:
    """int64 (num_target,): which source stands at each place after nearest-neighbour resampling.

    floor(place * (num_source / num_target)) in float32, as PyTorch's `interpolate` computes it.
    """
    if num_target == 0:
        return np.zeros(0, dtype=np.int64)
    scale = np.float32(num_source) / np.float32(num_target)
    places: np.ndarray = np.floor(np.arange(num_target, dtype=np.float32) * scale).astype(np.int64)
    places[places >= num_source] = num_source - 1
    return places


def released_v1_audio(num_audio_tokens: int, num_frames: int, duration_seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """int64 (A,) twice: the audio token that each placeholder shows, and the frame that it follows.

    The first round(50 * T) tokens are shared out evenly, after upsampling to a multiple of the frames; the others, if
    there are any, stand behind the last frame.
    """
    num_front = min(num_audio_tokens, round(duration_seconds * FRONT_TOKENS_PER_SECOND))
    per_frame = -(-num_front // num_frames)
    front = nearest_source(num_front, per_frame * num_frames)
    back = np.arange(num_front, num_audio_tokens, dtype=np.int64)
    frames = np.concatenate(
        [np.repeat(np.arange(num_frames, dtype=np.int64), per_frame), np.full_like(back, num_frames - 1)]
    )
    return np.concatenate([front, back]), frames


def v1_layout(
    rule: str,
    frame_times_seconds: np.ndarray,
    tokens_per_frame: int,
    num_samples: int,
    duration_seconds: float,
    windows: AudioWindows = RELEASED_WINDOWS,
) -> ReleasedPlan:
    """Lay out one clip.

    Args:
        rule: "released" or "corrected".
        frame_times_seconds: (F,) when each frame is first shown, from the start of the clip; empty for sound alone.
        tokens_per_frame: visual tokens of a frame, `len(v1_token_kinds(...))`.
        num_samples: of the sound at 16 kHz, 0 without. "released" lays out `v1_num_samples` of them where there is a
            video; the caller cuts the waveform likewise, and sound alone if it shall be cut.
        duration_seconds: of the clip; the released code shares sound out by the length of the video.
        windows: of the audio branch.

    Sound alone is its tokens in order. One frame with sound (a picture) is the frame, then all the sound; the released
    code refuses clips of one frame and crashes on clips without sound when it captions them, both are warnings here.

    Raises:
        ConfigError: an unknown rule.
        LayoutError: neither frames nor sound, or frame times that do not increase.
    """
    if rule not in V1_RULES:
        raise ConfigError(f"unknown layout rule {rule!r} of video-SALMONN 2 v1; available: {', '.join(V1_RULES)}")
    times = np.asarray(frame_times_seconds, dtype=np.float64)
    warnings = []
    if len(times) == 1:
        warnings.append("one frame: the released video-SALMONN 2 v1 refuses clips of one frame")
    if len(times) and not num_samples:
        warnings.append("no sound: the released video-SALMONN 2 v1 fails when it captions clips without sound")
    if rule == "released":
        heard = v1_num_samples(num_samples, duration_seconds) if len(times) > 1 else num_samples
        num_audio_tokens = windows.num_tokens(heard)
    else:
        num_audio_tokens = windows.num_real_tokens(num_samples)

    source = np.arange(num_audio_tokens, dtype=np.int64)
    frames = np.zeros_like(source)
    if len(times) and rule == "released":
        source, frames = released_v1_audio(num_audio_tokens, len(times), duration_seconds)
    elif len(times):
        starts, ends = windows.seconds(source)
        frames = np.maximum(np.searchsorted(times, (starts + ends) / 2, side="right") - 1, 0)
    plan = interleave(times, tokens_per_frame, frames, source, windows, duration_seconds)
    return ReleasedPlan(plan=plan, audio_source=source, warnings=tuple(warnings))
