"""What every caption model offers: four verbs, and the three values that travel between them.

`prepare(clip, instruction) -> Prompt`, `encode(prompts) -> Prefix`, `generate(prefix, n, sampling) ->
completions`, `score(prefix, completions) -> log-probs`. Captioning, training and evaluation know nothing
else of a model, so that every stage runs with any of them.

Shapes: B prompts, L prefix positions, D decoder width, F frames, P patches per frame, T tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

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
    """uint8 (T, 3, S, S), after the model's own resize; T is 0 without picture."""
    mel: torch.Tensor | None
    """float32 (mel bins, mel frames), or None without sound."""
    warnings: tuple[str, ...] = ()

    @property
    def num_audio_tokens(self) -> int:
        return self.layout.num_audio_tokens

    def __repr__(self) -> str:
        mel = "None" if self.mel is None else tuple(self.mel.shape)
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
    features: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Raw tower outputs for auxiliary losses: "vision" (sum of F, P, width), "audio" a list of (T_i, width)."""

    def __post_init__(self) -> None:
        batch = len(self.clip_ids)
        if self.embeddings.ndim != 3 or len(self.embeddings) != batch or self.lengths.shape != (batch,):
            raise LayoutError(
                f"a Prefix of {batch} prompts needs embeddings ({batch}, L, D) and lengths ({batch},), got "
                f"{tuple(self.embeddings.shape)} and {tuple(self.lengths.shape)}"
            )

    def __len__(self) -> int:
        return len(self.clip_ids)

    def select(self, rows: Sequence[int]) -> Prefix:
        """Some of the prompts, cut to their longest; tower features are left out."""
        lengths = self.lengths[list(rows)]
        longest = int(lengths.max()) if len(rows) else 0
        clip_ids = tuple(self.clip_ids[row] for row in rows)
        return Prefix(clip_ids=clip_ids, embeddings=self.embeddings[list(rows), :longest], lengths=lengths)

    def detach(self) -> Prefix:
        """The same embeddings without their graph and without tower features (what a cache holds)."""
        return Prefix(clip_ids=self.clip_ids, embeddings=self.embeddings.detach(), lengths=self.lengths)

    @staticmethod
    def join(prefixes: Sequence[Prefix]) -> Prefix:
        """Stack prefixes of one model into one batch; tower features are left out."""
        longest = max(prefix.embeddings.shape[1] for prefix in prefixes)
        padded = [F.pad(prefix.embeddings, (0, 0, 0, longest - prefix.embeddings.shape[1])) for prefix in prefixes]
        return Prefix(
            clip_ids=tuple(clip_id for prefix in prefixes for clip_id in prefix.clip_ids),
            embeddings=torch.cat(padded),
            lengths=torch.cat([prefix.lengths for prefix in prefixes]),
        )


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
    def max_pixels(self) -> int | None:
        """`open_clip(max_pixels=...)` for this model."""

    @property
    def world(self) -> str | None:
        """The only kind of video the model knows, None for a general model."""

    def prepare(self, clip: Clip, instruction: str) -> Prompt: ...

    def encode(self, prompts: Sequence[Prompt]) -> Prefix: ...

    def generate(self, prefix: Prefix, n: int, sampling: Sampling) -> list[list[Completion]]:
        """n completions of each prompt, from one prefill."""

    def score(self, prefix: Prefix, completions: Sequence[Sequence[Sequence[int]]]) -> list[list[torch.Tensor]]:
        """Per prompt, per completion: float32 (T,) log-probabilities of its tokens, differentiable."""
