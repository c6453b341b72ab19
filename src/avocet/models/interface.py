"""What every caption model offers: four verbs, and the three values that travel between them.

`prepare(clip, instruction) -> Prompt`, `encode(prompts) -> Prefix`, `generate(prefix, n, sampling) ->
completions`, `score(prefix, completions) -> log-probs`. Captioning, training and evaluation know nothing
else of a model, so that every stage runs with any of them.

Shapes: B prompts, L prefix positions, D decoder width, F frames, P patches per frame, T tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from avocet.errors import LayoutError
from avocet.models.layout import TokenPlan
from avocet.records import Clip, Sampling, StopReason


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """One clip and one instruction, ready to be encoded."""

    clip_id: str
    instruction: str
    token_ids: tuple[int, ...]
    """The whole prompt; every media token is a placeholder id."""
    layout: TokenPlan
    """What each placeholder stands for, in order."""
    frames: torch.Tensor
    """uint8 (T, 3, H, W), after the model's own resize; T is 0 without picture."""
    mel: torch.Tensor | None
    """float32 (mel bins, mel frames), or None without sound."""
    positions: np.ndarray | None = None
    """float64 (3, tokens): rotary positions (time, height, width); None: each token's place in the sequence."""
    audio_source: np.ndarray | None = None
    """int64 (audio placeholders,): which audio token of the encoder each shows; None: the k-th shows token k."""
    is_image: bool = False
    """Whether the frames are one still picture."""
    content_key: str = ""
    """What the media tensors were made from (`features.content_key`), so that a feature store need not hash them."""
    features: Mapping[str, tuple[torch.Tensor, ...]] = dataclasses.field(default_factory=dict)
    """Outputs of frozen towers that `FeatureStore.find` knew already, by the store's key. The media that they stand for
    are then on the meta device: shape and type without values."""
    media: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What was read of the clip and the limits it was held to, for the record of the caption."""
    warnings: tuple[str, ...] = ()

    @property
    def num_audio_tokens(self) -> int:
        return self.layout.num_audio_tokens

    def __repr__(self) -> str:
        mel = "None" if self.mel is None else str(tuple(self.mel.shape))
        return (
            f"Prompt(clip_id={self.clip_id!r}, instruction={self.instruction!r}, num_tokens={len(self.token_ids)}, "
            f"frames={tuple(self.frames.shape)}, mel={mel}, warnings={list(self.warnings)})"
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """Encoded prompts: what the decoder reads before the first caption token."""

    clip_ids: tuple[str, ...]
    embeddings: torch.Tensor
    """(B, L, D), right-padded with zeros; holds the autograd graph when gradients are enabled."""
    lengths: torch.Tensor
    """int64 (B,), on the CPU: the real positions of each row."""
    positions: torch.Tensor | None = None
    """(3, B, L): rotary positions (time, height, width); None: each token's place in its row."""
    next_positions: torch.Tensor | None = None
    """With `positions`: (B,), the position of each row's first completion token, on all three axes."""
    deepstack: tuple[torch.Tensor, ...] = ()
    """(B, L, D) each: what the decoder adds to the hidden states after its first, second, ... layer."""
    features: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Raw tower outputs for auxiliary losses: "vision" (sum of F, P, width), "audio" a list of (T_i, width)."""

    def __post_init__(self) -> None:
        batch = len(self.clip_ids)
        if self.embeddings.ndim != 3 or len(self.embeddings) != batch or self.lengths.shape != (batch,):
            raise LayoutError(
                f"a Prefix of {batch} prompts needs embeddings ({batch}, L, D) and lengths ({batch},), got "
                f"{tuple(self.embeddings.shape)} and {tuple(self.lengths.shape)}"
            )
        if (self.positions is None) != (self.next_positions is None):
            raise LayoutError("a Prefix has both positions and next_positions, or neither")
        if self.positions is not None and self.positions.shape != (3, *self.embeddings.shape[:2]):
            raise LayoutError(
                f"positions must be (3, B, L) = {(3, *self.embeddings.shape[:2])}, got {tuple(self.positions.shape)}"
            )

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def first_positions(self) -> torch.Tensor:
        """(B,), on the device of the embeddings: the position of each row's first completion token."""
        first = self.lengths if self.next_positions is None else self.next_positions
        return first.to(self.embeddings.device)

    def select(self, rows: Sequence[int]) -> Prefix:
        """Some of the prompts, cut to their longest; tower features are left out."""
        rows = list(rows)
        lengths = self.lengths[rows]
        longest = int(lengths.max()) if rows else 0
        return Prefix(
            clip_ids=tuple(self.clip_ids[row] for row in rows),
            embeddings=self.embeddings[rows, :longest],
            lengths=lengths,
            positions=None if self.positions is None else self.positions[:, rows, :longest],
            next_positions=None if self.next_positions is None else self.next_positions[rows],
            deepstack=tuple(level[rows, :longest] for level in self.deepstack),
        )

    def detach(self) -> Prefix:
        """The same embeddings without their graph and without tower features (what a cache holds)."""
        return dataclasses.replace(
            self,
            embeddings=self.embeddings.detach(),
            deepstack=tuple(level.detach() for level in self.deepstack),
            features={},
        )

    @staticmethod
    def join(prefixes: Sequence[Prefix]) -> Prefix:
        """Stack prefixes of one model into one batch; tower features are left out."""
        longest = max(prefix.embeddings.shape[1] for prefix in prefixes)
        positions = next_positions = None
        if all(prefix.positions is not None and prefix.next_positions is not None for prefix in prefixes):
            parts = [prefix.positions for prefix in prefixes if prefix.positions is not None]
            positions = torch.cat([F.pad(part, (0, longest - part.shape[2])) for part in parts], dim=1)
            next_positions = torch.cat(
                [prefix.next_positions for prefix in prefixes if prefix.next_positions is not None]
            )
        levels = max(len(prefix.deepstack) for prefix in prefixes)
        return Prefix(
            clip_ids=tuple(clip_id for prefix in prefixes for clip_id in prefix.clip_ids),
            embeddings=_stack_rows([prefix.embeddings for prefix in prefixes]),
            lengths=torch.cat([prefix.lengths for prefix in prefixes]),
            positions=positions,
            next_positions=next_positions,
            deepstack=tuple(_stack_rows([_level(prefix, level) for prefix in prefixes]) for level in range(levels)),
        )


def _level(prefix: Prefix, level: int) -> torch.Tensor:
    # Prompts without a picture have nothing to add.
    return prefix.deepstack[level] if level < len(prefix.deepstack) else torch.zeros_like(prefix.embeddings)


def _stack_rows(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B_i, L_i, D) each -> (sum of B_i, longest L, D), zeros on the right."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Completion:
    """One answer of the model."""

    token_ids: tuple[int, ...]
    """Ends with the stop token when `stop_reason` is "end"."""
    text: str
    stop_reason: StopReason
    logps: torch.Tensor | None = None
    """float32 (T,) on the CPU: log-probability of each token under the model itself (temperature 1, no top-p),
    that is what `score` returns for these tokens."""


class CaptionModel(Protocol):
    """The only way into a model."""

    @property
    def tokenizer(self) -> Any:
        """A transformers tokenizer."""

    @property
    def device(self) -> torch.device: ...

    @property
    def default_instruction(self) -> str: ...

    @property
    def default_sampling(self) -> Sampling: ...

    @property
    def layout_rule(self) -> str: ...

    @property
    def clip_fps(self) -> float:
        """`open_clip(fps=...)` for this model."""

    @property
    def max_frames(self) -> int:
        """`open_clip(max_frames=...)` for this model."""

    @property
    def min_frames(self) -> int:
        """`open_clip(min_frames=...)` for this model."""

    @property
    def max_pixels(self) -> int | None:
        """`open_clip(max_pixels=...)` for this model."""

    @property
    def world(self) -> str | None:
        """The only kind of video the model knows, None for a general model."""

    def prepare(self, clip: Clip, instruction: str) -> Prompt: ...

    def encode(self, prompts: Sequence[Prompt]) -> Prefix: ...

    def generate(self, prefix: Prefix, n: int, sampling: Sampling) -> list[list[Completion]]:
        """n completions of each prompt, from one prefill."""

    def next_token_log_probs(self, prefix: Prefix, completion: Sequence[int]) -> torch.Tensor:
        """float32 (T, vocabulary): the distribution before each token of one completion of a one-prompt prefix."""

    def score(
        self, prefix: Prefix, completions: Sequence[Sequence[Completion | Sequence[int]]]
    ) -> list[list[torch.Tensor]]:
        """Per prompt, per completion (what `generate` gave, or token ids): float32 (T,) log-probabilities of its
        tokens, differentiable."""
