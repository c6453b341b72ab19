"""TMRoPE: where picture and sound of a clip stand on the Qwen-Omni family's common time axis.

Pure functions of times and counts. Every media token has three rotary positions (time, height, width). Time runs at
`positions_per_second` (Qwen2.5-Omni: 25, one per audio token) for both streams, so that a picture and a sound of the
same second get the same time position. Token order:

* `chunks` (Qwen2.5-Omni): both streams are cut every 2 seconds; in each chunk the visual tokens come first, then the
  audio tokens.
* `timeline` (Qwen3-Omni): tokens ordered by time position, visual before audio where equal.

    chunks, patches at 0, 1, 2 s of 2 tokens, 75 audio tokens (A00 at 0 s ... A74 at 2.96 s):
    V0 V0 V1 V1 A00 ... A49 | V2 V2 A50 ... A74      time positions 0 0 25 25 0 ... 49 | 50 50 50 ... 74

Rule `tmrope` places each patch at its *true* second. `tmrope_released` places patch i at i times a fixed number of
seconds, as the released scripts do by never telling the processor how densely they sampled: at 300 s and 256 frames the
picture is laid out as 128 s against 300 s of sound.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from avocet.errors import LayoutError
from avocet.models.layout import AUDIO, VISUAL, TokenPlan

_SAME = 1e-6
"""Positions closer than this are the same: a time of k / 25 s must not fall to position k - 1 by rounding."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeAxis:
    """How a model family lays out time."""

    order: Literal["chunks", "timeline"]
    positions_per_second: float
    chunk_seconds: float = 2.0
    """Only with order "chunks"."""
    assumed_grid_seconds: float
    """Seconds per temporal patch that the released scripts take for granted."""

    @property
    def whole_positions(self) -> bool:
        """Whether positions are rounded down to whole numbers."""
        return self.order == "chunks"


def tmrope(
    axis: TimeAxis,
    patch_times_seconds: np.ndarray,
    grid_height: int,
    grid_width: int,
    num_audio_tokens: int,
    duration_seconds: float,
    *,
    assumed: bool = False,
) -> TokenPlan:
    """Lay out one clip.

    Args:
        axis: the family's time axis.
        patch_times_seconds: (P,) when each temporal patch begins, from the start of the clip.
        grid_height, grid_width: visual tokens of one temporal patch, after merging.
        num_audio_tokens: tokens of the real sound, 0 without sound.
        duration_seconds: of the clip; the last patch stands until then.
        assumed: place patch i at `i * axis.assumed_grid_seconds` instead (rule `tmrope_released`). The seconds of
            the plan stay the true ones.

    Raises:
        LayoutError: neither frames nor sound, or times that do not increase.
    """
    times = np.asarray(patch_times_seconds, dtype=np.float64)
    per_patch = grid_height * grid_width
    if not len(times) and not num_audio_tokens:
        raise LayoutError("nothing to lay out: the clip has neither frames nor sound")
    if len(times) and (per_patch < 1 or not bool(np.all(np.diff(times) > 0))):
        raise LayoutError(f"patches need at least one token and increasing times, got {per_patch} tokens at {times}")
    laid_out = np.arange(len(times)) * axis.assumed_grid_seconds if assumed else times
    patch_positions = laid_out * axis.positions_per_second
    if axis.whole_positions:
        patch_positions = np.floor(patch_positions + _SAME)

    visual_index, audio_index = np.arange(len(times) * per_patch), np.arange(num_audio_tokens)
    patch, place = np.divmod(visual_index, max(per_patch, 1))
    row, column = np.divmod(place, max(grid_width, 1))
    visual = np.stack([patch_positions[patch], row, column]) if len(times) else np.zeros((3, 0))
    audio = np.broadcast_to(audio_index, (3, num_audio_tokens))
    stream = np.repeat(np.array([VISUAL, AUDIO], dtype=np.uint8), [len(visual_index), num_audio_tokens])
    positions = np.concatenate([visual, audio], axis=1).astype(np.float64)
    block = _blocks(axis, positions[0])
    order = np.lexsort((stream, block))
    ends = np.append(times[1:], max(duration_seconds, times[-1])) if len(times) else times
    rate = axis.positions_per_second
    return TokenPlan(
        stream=stream[order],
        index=np.concatenate([visual_index, audio_index])[order],
        start_seconds=np.concatenate([times[patch], audio_index / rate])[order],
        end_seconds=np.concatenate([ends[patch], (audio_index + 1) / rate])[order],
        positions=positions[:, order],
        end_position=_end_position(stream[order], positions[:, order]),
    )


def _blocks(axis: TimeAxis, time_positions: np.ndarray) -> np.ndarray:
    """What tokens are ordered by before their stream: the chunk, or the time position itself."""
    if axis.order == "timeline":
        return time_positions
    return np.floor(time_positions / (axis.positions_per_second * axis.chunk_seconds) + _SAME)


def _end_position(stream: np.ndarray, positions: np.ndarray) -> float:
    """One past the largest position of the last run of tokens of one stream.

    Not of all tokens: the models were trained so that text after a clip whose sound ends first, inside the last chunk,
    goes on after the sound.
    """
    others = np.flatnonzero(stream != stream[-1])
    first = others[-1] + 1 if len(others) else 0
    return float(positions[:, first:].max()) + 1


def prompt_positions(
    plan: TokenPlan, num_before: int, num_after: int, num_markers: int, *, shared_markers: bool
) -> np.ndarray:
    """float64 (3, tokens): positions of a whole prompt.

    Args:
        plan: the media, with positions from 0.
        num_before: text tokens before the opening markers.
        num_after: text tokens after the closing markers.
        num_markers: opening markers, and as many closing ones: 2 where sound is inside a video, else 1.
        shared_markers: whether neighbouring markers share one position (Qwen2.5-Omni).
    """
    if plan.positions is None or plan.end_position is None:
        raise LayoutError("prompt_positions needs a plan with positions")
    markers = np.zeros(num_markers) if shared_markers else np.arange(num_markers)
    width = 1 if shared_markers else num_markers
    first = num_before + width
    end = first + plan.end_position
    text = [np.arange(num_before), num_before + markers]
    tail = [end + markers, end + width + np.arange(num_after)]
    parts = [*(np.broadcast_to(part, (3, len(part))) for part in text), plan.positions + first]
    parts += [np.broadcast_to(part, (3, len(part))) for part in tail]
    return np.concatenate(parts, axis=1).astype(np.float64)


def position_drift_seconds(plan: TokenPlan, axis: TimeAxis) -> tuple[float, float]:
    """How far the time positions of (visual, audio) tokens lie from their true seconds at most, in seconds."""
    if plan.positions is None:
        raise LayoutError("position_drift_seconds needs a plan with positions")
    drift = np.abs(plan.positions[0] / axis.positions_per_second - plan.start_seconds)
    visual, audio = drift[plan.stream == VISUAL], drift[plan.stream == AUDIO]
    return float(visual.max(initial=0.0)), float(audio.max(initial=0.0))
