"""Frame sampling, token layouts and positions of video-SALMONN 2+ (3B, 7B, 72B: Qwen2.5-VL with Whisper).

Two frames make a grid of rows x columns visual tokens. Each grid is followed by audio tokens, two per second, and all
stand between one pair of vision markers. Every token has three rotary positions (time, height, width), here relative
to the first token after the start marker. Three rules:

* `train`: what the weights were trained with (`qwenvl/data/{dataset,rope2d}.py`). With s seconds per grid, a visual
  token of grid i is at (floor(2 s i), row, column) and audio token k at (k, 0, k); sound alone is at (k, k, 0). Grid i
  is followed by audio tokens floor(2 s i) to floor(2 s (i + 1)), the last grid by all that remain, the silence that
  fills a 30-second segment included. Text goes on one behind the largest *time*; without sound behind the largest
  position on any axis.
* `released_generate`: the same tokens with the positions of the released inference (`inference.py`), which loses s and
  the audio length on the way and takes the block for one silent video with s = 1: as many tokens as there are visual
  ones get patch positions in turn, audio tokens among them included, and the remaining ones continue as text. Sound
  alone is at (k, k, k). The released scripts always generate this way.
* `corrected`: only tokens of the real sound, each behind the grid of its own second, with the true time of each grid's
  first frame in place of s i (which is right only if the last frame stood one step before the end of the video: for 128
  frames in 110 s it is 0.8 s too early at the end). Positions as in `train`, but text always goes on behind the largest
  position on any axis: only the silence kept `train` clear of the rows and columns of short clips.

    train, s = 1, 2 grids of 1 x 2 tokens, 6 audio tokens:   V0 V1 A0 A1 V2 V3 A2 A3 A4 A5
    time positions                                            0  0  0  1  2  2  2  3  4  5   text at 6
    time positions of released_generate                       0  0  2  2  3  4  5  6  7  8   text at 9

The released code fails when the sound, filled up to whole segments, is shorter than the video: the last grid's share
becomes negative. Here each grid then takes what is left, so that every audio token stands exactly once.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from avocet.errors import ConfigError, LayoutError
from avocet.models.layout import AUDIO, VISUAL, TokenPlan
from avocet.models.salmonn2.released_layout import (
    RELEASED_WINDOWS,
    AudioWindows,
    ReleasedPlan,
    interleave,
)

PLUS_RULES = ("released_generate", "train", "corrected")

FRAMES_PER_GRID = 2
POSITIONS_PER_SECOND = 2
MAX_ASPECT = 200

_SAME = 1e-6
"""Positions closer than this are the same: a time of k / 2 s must not fall to position k - 1 by rounding."""


def plus_frame_indices(
    num_native: int, native_fps: float, interval_seconds: float, min_frames: int, max_frames: int
) -> np.ndarray:
    """int64: frames of the video file that the released sampler takes (`video_torchcodec` in `dataset.py`).

    round(T / interval) frames, at least `min_frames` and at most `max_frames`, evenly spaced from the first to the last
    one; a file with fewer frames gives each of its frames once.
    """
    _check_sampling(num_native, native_fps, interval_seconds, max_frames)
    wanted = min(max(round(num_native / native_fps / interval_seconds), min_frames, 1), max_frames)
    return np.unique(np.linspace(0, num_native - 1, wanted).astype(np.int64))


def plus_stride_frame_indices(
    num_native: int, native_fps: float, interval_seconds: float, max_frames: int
) -> np.ndarray:
    """int64: frames that the released second reader takes when the first one fails (`read_video_decord`).

    Every round(native_fps * interval)-th frame, or `max_frames` evenly spaced ones if these are fewer. No minimum.
    """
    _check_sampling(num_native, native_fps, interval_seconds, max_frames)
    indices = np.arange(0, num_native, max(round(native_fps * interval_seconds), 1), dtype=np.int64)
    if len(indices) > max_frames:
        return np.linspace(0, num_native - 1, max_frames).astype(np.int64)
    return indices


def _check_sampling(num_native: int, native_fps: float, interval_seconds: float, max_frames: int) -> None:
    if num_native < 1 or max_frames < 1 or not native_fps > 0 or not interval_seconds > 0:
        raise LayoutError(
            f"sampling needs at least one frame, a frame rate and an interval > 0; got {num_native} frames at "
            f"{native_fps} per second, interval {interval_seconds} s, max_frames {max_frames}"
        )


def plus_seconds_per_grid(num_frames: int, duration_seconds: float) -> float:
    """s: two frames at the effective frame rate, frames / duration."""
    if num_frames < 1 or not duration_seconds > 0:
        raise LayoutError(
            f"seconds per grid need frames and a duration > 0 s, got {num_frames} frames in {duration_seconds} s"
        )
    return FRAMES_PER_GRID / (num_frames / duration_seconds)


def plus_frame_pixels(num_frames: int, max_frames: int, frame_pixels: float) -> float:
    """The most pixels of one frame: the budget itself at `max_frames`, 95 % of the unused budget on top below."""
    return frame_pixels if num_frames >= max_frames else 0.95 * max_frames / num_frames * frame_pixels


def plus_grid_size(
    height: int, width: int, max_pixels: float, min_pixels: float = 4 * 28 * 28, token_pixels: int = 28
) -> tuple[int, int]:
    """Rows and columns of visual tokens for frames of height x width pixels (the "smart resize" of Qwen2-VL).

    The aspect ratio is kept as well as whole tokens of `token_pixels` x `token_pixels` allow: the nearest whole
    numbers, shrunk (rounded down) above `max_pixels`, enlarged (rounded up) below `min_pixels`.

    Raises:
        LayoutError: no pixels, or one side over 200 times the other.
    """
    if min(height, width) < 1 or max(height, width) > MAX_ASPECT * min(height, width):
        raise LayoutError(f"frames must have an aspect ratio of at most 1:{MAX_ASPECT}, got {height} x {width} pixels")
    rows, columns = round(height / token_pixels), round(width / token_pixels)
    pixels = rows * columns * token_pixels**2
    if pixels > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        return max(1, math.floor(height / scale / token_pixels)), max(1, math.floor(width / scale / token_pixels))
    if pixels < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        return math.ceil(height * scale / token_pixels), math.ceil(width * scale / token_pixels)
    return rows, columns


def grid_time_positions(num_grids: int, seconds_per_grid: float) -> np.ndarray:
    """int64 (grids,): floor(i * s * 2) in float32, as the released code computes it.

    In double precision some would come out one higher or lower.
    """
    positions = np.arange(num_grids, dtype=np.float32) * np.float32(seconds_per_grid) * np.float32(POSITIONS_PER_SECOND)
    return positions.astype(np.int64)


def released_audio_per_grid(num_audio_tokens: int, num_grids: int, seconds_per_grid: float) -> np.ndarray:
    """int64 (grids,): audio tokens behind each grid, exactly as released: the last count is negative when the others
    ask for more tokens than there are (the released code fails on such clips)."""
    shares = np.diff(grid_time_positions(num_grids, seconds_per_grid))
    return np.append(shares, num_audio_tokens - shares.sum())


def even_audio_per_grid(num_audio_tokens: int, num_grids: int) -> np.ndarray:
    """int64 (grids,): the even split of the released code before September 2025 (the weights named Version-2507)."""
    base, extra = divmod(num_audio_tokens, num_grids)
    shares = np.full(num_grids, base, dtype=np.int64)
    if extra:
        steps = np.arange(1, extra + 1) * (num_grids / extra)
        shares[np.minimum(np.floor(steps).astype(np.int64) - 1, num_grids - 1)] += 1
    return shares


def capped_audio_per_grid(shares: np.ndarray, num_audio_tokens: int) -> np.ndarray:
    """The same shares, each cut to what is left; the last grid gets the rest. No share is negative."""
    given = np.minimum(np.cumsum(shares[:-1]), num_audio_tokens)
    return np.diff(np.concatenate([[0], given, [num_audio_tokens]]))


def train_positions(plan: TokenPlan, time_positions: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, float]:
    """int64 (3, N) positions as in training, and that of the text behind the block.

    Args:
        plan: the tokens in order.
        time_positions: int64 (grids,): time position of each grid; empty for sound alone.
        rows, columns: visual tokens of a grid.
    """
    positions = np.zeros((3, len(plan)), dtype=np.int64)
    k = np.arange(plan.num_audio_tokens, dtype=np.int64)
    if not len(time_positions):
        positions[:] = np.stack([k, k, np.zeros_like(k)])
        return positions, float(len(k))
    positions[:, plan.stream == VISUAL] = _patch_positions(time_positions, rows, columns)
    positions[:, plan.stream == AUDIO] = np.stack([k, np.zeros_like(k), k])
    # With sound the released code takes the time axis alone, although wide pictures may reach further on the others.
    last = positions[0].max() if len(k) else positions.max()
    return positions, float(last + 1)


def generate_positions(num_grids: int, rows: int, columns: int, num_tokens: int) -> tuple[np.ndarray, float]:
    """int64 (3, num_tokens) positions of the released inference, and that of the text behind the block.

    Args:
        num_grids, rows, columns: of the picture; 0 grids for sound alone.
        num_tokens: of the block, visual and audio.
    """
    patches = _patch_positions(np.arange(num_grids, dtype=np.int64) * POSITIONS_PER_SECOND, rows, columns)
    text_start = int(patches.max(initial=-1)) + 1
    num_text = num_tokens - patches.shape[1]
    text = np.broadcast_to(text_start + np.arange(num_text, dtype=np.int64), (3, num_text))
    return np.concatenate([patches, text], axis=1), float(text_start + num_text)


def rope_delta(plan: TokenPlan) -> int:
    """What to add to a token's place in the sequence to get its position, for all text behind the block."""
    if plan.end_position is None:
        raise LayoutError("rope_delta needs a plan with positions")
    return int(plan.end_position) - len(plan)


def _patch_positions(time_positions: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """int64 (grids,) -> int64 (3, grids * rows * columns): (time, row, column) in reading order."""
    grid, row, column = np.indices((len(time_positions), rows, columns)).reshape(3, -1)
    return np.stack([time_positions[grid], row, column])


def plus_layout(
    rule: str,
    grid_times_seconds: np.ndarray,
    rows: int,
    columns: int,
    num_samples: int,
    seconds_per_grid: float,
    duration_seconds: float,
    *,
    windows: AudioWindows = RELEASED_WINDOWS,
    even_split: bool = False,
) -> ReleasedPlan:
    """Lay out one clip; the plan has positions (3, N) from 0, see the rules above.

    `avocet.models.tmrope.prompt_positions` with one unshared marker makes those of a whole prompt of it: text before
    the block counts 0, 1, 2, ... in every rule.

    Args:
        rule: "released_generate", "train" or "corrected".
        grid_times_seconds: (grids,) when each grid's first frame is shown, from the start of the clip; an odd last
            frame is a grid of its own, a picture is one grid, empty for sound alone.
        rows, columns: visual tokens of a grid.
        num_samples: of the sound at 16 kHz, 0 without.
        seconds_per_grid: s, which the faithful rules lay out by; any number > 0 for a picture.
        duration_seconds: of the clip; the last grid stands until then.
        windows: of the audio branch.
        even_split: share audio tokens evenly over the grids, as Version-2507 did. Not with "corrected".

    Raises:
        ConfigError: an unknown rule, or an even split of the corrected one.
        LayoutError: neither frames nor sound, no tokens in a grid, or times that do not increase.
    """
    if rule not in PLUS_RULES:
        raise ConfigError(f"unknown layout rule {rule!r} of video-SALMONN 2+; available: {', '.join(PLUS_RULES)}")
    if rule == "corrected" and even_split:
        raise ConfigError("the corrected layout goes by time; an even split is one of 'released_generate' and 'train'")
    times = np.asarray(grid_times_seconds, dtype=np.float64)
    if rule == "corrected":
        source = np.arange(windows.num_real_tokens(num_samples), dtype=np.int64)
        time_positions = np.floor(times * POSITIONS_PER_SECOND + _SAME).astype(np.int64)
        # Token k has time position k: it stands behind the last grid that is not later.
        grids = np.maximum(np.searchsorted(time_positions, source, side="right") - 1, 0)
        warnings: tuple[str, ...] = ()
    else:
        source = np.arange(windows.num_tokens(num_samples), dtype=np.int64)
        time_positions = grid_time_positions(len(times), seconds_per_grid)
        grids, warnings = _faithful_grids(len(source), len(times), seconds_per_grid, even_split)

    plan = interleave(times, rows * columns, grids, source, windows, duration_seconds)
    if rule == "released_generate":
        positions, end = generate_positions(len(times), rows, columns, len(plan))
    else:
        positions, end = train_positions(plan, time_positions, rows, columns)
    if rule == "corrected" and len(times):
        end = float(positions.max() + 1)
    plan = dataclasses.replace(plan, positions=positions.astype(np.float64), end_position=end)
    return ReleasedPlan(plan=plan, audio_source=source, warnings=warnings)


def _faithful_grids(
    num_audio_tokens: int, num_grids: int, seconds_per_grid: float, even_split: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """int64 (A,): the grid that each audio token stands behind, and what the released code cannot do here."""
    if not num_grids or not num_audio_tokens:
        return np.zeros(num_audio_tokens, dtype=np.int64), ()
    warnings: tuple[str, ...] = ()
    if even_split:
        shares = even_audio_per_grid(num_audio_tokens, num_grids)
    else:
        shares = released_audio_per_grid(num_audio_tokens, num_grids, seconds_per_grid)
        if shares[-1] < 0:
            warnings = (
                f"the sound ends before the picture: {num_audio_tokens} audio tokens for {shares[:-1].sum()} places; "
                "the released video-SALMONN 2+ fails here, this layout leaves the last places empty",
            )
        shares = capped_audio_per_grid(shares, num_audio_tokens)
    return np.repeat(np.arange(num_grids, dtype=np.int64), shares), warnings
