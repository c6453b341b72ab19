"""Frames to the patches that Qwen vision encoders read (Qwen2.5-VL, Qwen2.5-Omni, Qwen3-Omni)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

TEMPORAL_PATCH = 2
"""Frames of a temporal patch."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Pixel statistics of OpenAI's CLIP, which Qwen2-VL and its descendants took over."""


def resize_frames(frames: np.ndarray, height: int, width: int) -> torch.Tensor:
    """uint8 (T, 3, H, W) -> uint8 (T, 3, height, width), antialiased bicubic."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames))
    if pixels.shape[-2:] == (height, width):
        return pixels
    return F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)


def patchify(
    frames: torch.Tensor, mean: Sequence[float], std: Sequence[float], patch: int, merge: int
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """uint8 (T, 3, H, W) -> normalised float32 (patches, 3 * 2 * patch * patch) and the grid (t, h, w) of patches.

    Patches of one merged token stand together; an odd last frame is repeated.
    """
    if len(frames) % TEMPORAL_PATCH:
        frames = torch.cat([frames, frames[-1:]])
    shift = torch.tensor(mean, device=frames.device)[:, None, None]
    scale = torch.tensor(std, device=frames.device)[:, None, None]
    pixels = (frames.float() / 255 - shift) / scale
    time, rows, columns = len(frames) // TEMPORAL_PATCH, frames.shape[2] // patch, frames.shape[3] // patch
    blocks = pixels.view(time, TEMPORAL_PATCH, 3, rows // merge, merge, patch, columns // merge, merge, patch)
    blocks = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return blocks.reshape(time * rows * columns, -1), (time, rows, columns)
