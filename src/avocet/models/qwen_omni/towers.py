"""One view of the two generations' transformers classes, from version 5.16 to 5.23.

Before 5.20 a thinker holds its towers and decoder itself, later inside `thinker.model`; everything else that differs
between generations is here too, so that `modeling` need not ask.

Shapes: P patches, V visual tokens, D decoder width, M mel bins.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from avocet.errors import LayoutError
from avocet.models import trunks
from avocet.models.decoder import Decoder
from avocet.models.qwen_omni.config import QWEN3, Family


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of a checkpoint's configuration that layout and processing need."""

    patch: int
    """Pixels on a side of a vision patch."""
    merge: int
    """Patches on a side of a visual token."""
    num_mel_bins: int
    mel_chunk: int
    """Mel frames of an audio encoder chunk."""

    @property
    def factor(self) -> int:
        """Pixels on a side of a visual token."""
        return self.patch * self.merge


def read_sizes(config: Any) -> Sizes:
    """From a thinker's config."""
    return Sizes(
        patch=int(config.vision_config.patch_size),
        merge=int(config.vision_config.spatial_merge_size),
        num_mel_bins=int(config.audio_config.num_mel_bins),
        mel_chunk=2 * int(config.audio_config.n_window),
    )


def num_audio_tokens(num_mel_frames: int, family: Family, sizes: Sizes) -> int:
    """Tokens that the audio tower makes of so many mel frames."""
    if family is QWEN3:
        chunks, rest = divmod(num_mel_frames, sizes.mel_chunk)
        return chunks * _halved(sizes.mel_chunk, 3) + _halved(rest, 3)
    return _halved(num_mel_frames, 1) // 2


def _halved(length: int, times: int) -> int:
    for _ in range(times):
        length = -(-length // 2)
    return length


def core_of(thinker: Any) -> Any:
    """The module that holds `visual` and `audio_tower`."""
    return thinker.model if hasattr(thinker.model, "visual") else thinker


def language_model(thinker: Any) -> Any:
    """The decoder without its output layer."""
    return thinker.model.language_model if hasattr(thinker.model, "language_model") else thinker.model


def decoder_of(thinker: Any) -> Decoder:
    """The decoder as generation and scoring use it."""
    return Decoder(backbone=language_model(thinker), lm_head=thinker.lm_head, num_axes=3)


def vision_tokens(
    thinker: Any, patches: torch.Tensor, grid: tuple[int, int, int]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """(P, patch values) of one clip -> (V, D), and (V, D) for each level of deepstack."""
    output = _run_vision(thinker, patches, grid)
    return output.pooler_output, tuple(getattr(output, "deepstack_features", None) or ())


def audio_tokens(thinker: Any, mel: torch.Tensor, num_tokens: int, family: Family) -> torch.Tensor:
    """(M, mel frames) of one clip -> (num_tokens, D).

    Raises:
        LayoutError: the tower makes another number of tokens than planned.
    """
    tokens: torch.Tensor = _run_audio(thinker, mel, family).last_hidden_state
    if len(tokens) != num_tokens:
        raise LayoutError(f"{mel.shape[1]} mel frames became {len(tokens)} audio tokens, {num_tokens} were planned")
    return tokens


def vision_trunk(thinker: Any, patches: torch.Tensor, grid: tuple[int, int, int]) -> tuple[torch.Tensor, ...]:
    """(P, patch values) of one clip -> what the tower gives its mergers, see `trunks.vision_trunk`."""
    return trunks.vision_trunk(core_of(thinker).visual, lambda: _run_vision(thinker, patches, grid))


def audio_trunk(thinker: Any, mel: torch.Tensor, family: Family) -> tuple[torch.Tensor, ...]:
    """(M, mel frames) of one clip -> what the tower gives its projection, see `trunks.audio_trunk`."""
    return trunks.audio_trunk(core_of(thinker).audio_tower, lambda: _run_audio(thinker, mel, family))


def _run_vision(thinker: Any, patches: torch.Tensor, grid: tuple[int, int, int]) -> Any:
    visual = core_of(thinker).visual
    return visual(patches.to(visual.dtype), grid_thw=torch.tensor([grid], device=patches.device))


def _run_audio(thinker: Any, mel: torch.Tensor, family: Family) -> Any:
    tower = core_of(thinker).audio_tower
    lengths = torch.tensor([mel.shape[1]], device=mel.device)
    lengths_after = {} if family is QWEN3 else {"aftercnn_lens": (lengths - 1) // 2 + 1}
    return tower(mel.to(tower.dtype), feature_lens=lengths, **lengths_after)
