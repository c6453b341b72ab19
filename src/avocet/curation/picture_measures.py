"""Numbers about sampled frames: how bright, how much moves. Pure functions of small pictures."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from avocet.records import Record

_BLACK_LUMA = 24.0
"""Brightest percentile of a black frame, of 255. Studio black is 16 before and 0 after conversion; what codecs leave
on black stays under 10, and a picture in which something can be seen is above 40."""
_BLACK_PERCENTILE = 99
_NUM_BLOCKS = 8
"""Blocks per side in which motion is looked for: a small thing that moves fills one of 64, but not the mean."""
_MOVING_LEVELS = 3.0
"""Mean change of a block, in levels of 255, above which something moves. Re-encoding changes blocks of a still
picture by less than 2."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureMeasures(Record):
    """What sampled frames say; shares are of frames, or of pairs of neighbouring frames."""

    luma_mean: float
    """BT.601 luma over all frames, 0 to 255."""
    black_share: float
    """Frames in which hardly a pixel is brighter than black."""
    static_share: float
    """Pairs in which no part of the picture changes; 1 for a single frame."""
    motion_mean: float
    """Mean change between neighbours of the part that changes most, in levels of 255."""


def measure_pictures(frames: np.ndarray) -> PictureMeasures | None:
    """Measure uint8 (T, 3, H, W) frames, best of some 10,000 pixels; None without frames."""
    if not len(frames):
        return None
    luma = to_luma(frames)
    flat = luma.reshape(len(luma), -1)
    black = np.percentile(flat, _BLACK_PERCENTILE, axis=1) < _BLACK_LUMA
    changes = np.array([_largest_change(before, after) for before, after in itertools.pairwise(luma)])
    return PictureMeasures(
        luma_mean=round(float(flat.mean()), 3),
        black_share=round(float(black.mean()), 4),
        static_share=round(float((changes < _MOVING_LEVELS).mean()), 4) if len(changes) else 1.0,
        motion_mean=round(float(changes.mean()), 3) if len(changes) else 0.0,
    )


def to_luma(frames: np.ndarray) -> np.ndarray:
    """uint8 (T, 3, H, W) RGB to float32 (T, H, W), 0 to 255, by BT.601."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    luma = np.empty((len(frames), *frames.shape[2:]), np.float32)
    for index, frame in enumerate(frames):
        luma[index] = np.tensordot(weights, frame, axes=(0, 0))
    return luma


def block_means(pictures: np.ndarray, num_rows: int, num_columns: int) -> np.ndarray:
    """Means over a grid of blocks, (..., H, W) to (..., num_rows, num_columns); blocks differ by one pixel at most.

    Pictures smaller than the grid have their pixels repeated.
    """
    for axis, parts in ((-2, num_rows), (-1, num_columns)):
        size = pictures.shape[axis]
        if size < parts:
            pictures = np.take(pictures, np.arange(parts) * size // parts, axis=axis)
            continue
        edges = np.arange(parts + 1) * size // parts
        sums = np.add.reduceat(pictures, edges[:-1], axis=axis)
        counts = np.diff(edges).astype(np.float32)
        pictures = sums / (counts[:, None] if axis == -2 else counts)
    return pictures


def _largest_change(before: np.ndarray, after: np.ndarray) -> float:
    return float(block_means(np.abs(after - before), _NUM_BLOCKS, _NUM_BLOCKS).max())
