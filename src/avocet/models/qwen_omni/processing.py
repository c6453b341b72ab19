"""From a clip's arrays to what the towers read: frame sizes within the budget, spectrograms.

Equal to transformers' processors where those are right (`parity` checks it), without torchvision, and with three
differences: the total budget holds (theirs gives way to the minimum frame size), sound is never cut at 30 or 300 s, and
the size is always given, never a default that overrides the checkpoint's.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F

from avocet.errors import LayoutError
from avocet.models.patches import TEMPORAL_PATCH
from avocet.models.qwen_omni.config import ReadingSettings
from avocet.models.spectrogram import log_mel_spectrogram

N_FFT = 400
HOP_LENGTH = 160
MAX_ASPECT = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameSize:
    """The size that frames are resized to, and why."""

    height: int
    width: int
    num_patches: int
    tokens_per_patch: int
    budget_tokens: int
    """The most tokens per patch that the budget allows a clip of this many patches."""

    @property
    def num_tokens(self) -> int:
        return self.num_patches * self.tokens_per_patch


def plan_size(height: int, width: int, num_frames: int, factor: int, settings: ReadingSettings) -> FrameSize:
    """The frame size of a clip: aspect ratio kept as well as whole tokens allow, never above the budget.

    Args:
        height, width: of the decoded frames.
        num_frames: sampled; an odd last frame fills a patch alone.
        factor: pixels on a side of one visual token.
        settings: budgets in tokens.

    Raises:
        LayoutError: more temporal patches than `max_video_tokens`, or a picture over 200 times longer than wide.
    """
    num_patches = -(-num_frames // TEMPORAL_PATCH)
    most = min(float(settings.max_patch_tokens), settings.max_video_tokens / num_patches)
    if most < 1:
        raise LayoutError(
            f"{num_patches} temporal patches do not fit into max_video_tokens={settings.max_video_tokens}; "
            "sample fewer frames"
        )
    rows, columns = _fit(height, width, factor, min(settings.min_patch_tokens, most), most)
    return FrameSize(
        height=rows * factor,
        width=columns * factor,
        num_patches=num_patches,
        tokens_per_patch=rows * columns,
        budget_tokens=int(most),
    )


def _fit(height: int, width: int, factor: int, least: float, most: float) -> tuple[int, int]:
    """Rows and columns of tokens for a picture of height x width pixels (the "smart resize" of the Qwen models).

    The nearest whole numbers; enlarged (rounded up) below `least` tokens, shrunk (rounded down) above `most`. In the
    order of operations of transformers, so that exact quotients round as they do there.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise LayoutError(
            f"frames with an aspect ratio of 1:{max(height, width) / min(height, width):.0f} (limit 1:200)"
        )
    rows, columns = max(1, round(height / factor)), max(1, round(width / factor))
    if rows * columns < least:
        scale = math.sqrt(least * factor**2 / (height * width))
        rows, columns = math.ceil(height * scale / factor), math.ceil(width * scale / factor)
    if rows * columns > most:
        scale = math.sqrt(height * width / (most * factor**2))
        rows, columns = max(1, math.floor(height / scale / factor)), max(1, math.floor(width / scale / factor))
        # A long thin picture keeps one row, and that row can be longer than the budget.
        rows, columns = min(rows, int(most)), min(columns, int(most))
    return rows, columns


def patch_times(sample_times_seconds: np.ndarray) -> np.ndarray:
    """(T,) frame times -> (P,) times of the temporal patches: those of their first frames."""
    return sample_times_seconds[::TEMPORAL_PATCH]


def log_mel(waveform: np.ndarray, num_mel_bins: int, *, pad: bool) -> torch.Tensor:
    """float32 (S,) at 16 kHz -> float32 (mel bins, mel frames of 10 ms), however long the sound.

    With `pad` the spectrogram is that of the sound followed by silence and every started frame counts; without, the
    sound is mirrored at its end and only whole frames count.
    """
    samples = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
    count = -(-len(samples) // HOP_LENGTH) if pad else len(samples) // HOP_LENGTH
    if pad or len(samples) <= N_FFT // 2:
        samples = F.pad(samples, (0, -len(samples) % HOP_LENGTH + N_FFT))
    return log_mel_spectrogram(samples, num_mel_bins, N_FFT, HOP_LENGTH)[:, :count]
