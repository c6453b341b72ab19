"""What training needs of a model beyond the four verbs: access to its encoders for auxiliary losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from avocet.models.interface import CaptionModel, Prompt


class TrainableModel(CaptionModel, Protocol):
    """A caption model with separately trainable encoders (a `torch.nn.Module`)."""

    def prompt_from_tensors(
        self,
        clip_id: str,
        instruction: str,
        frames: torch.Tensor | None,
        frame_times_seconds: np.ndarray,
        mel: torch.Tensor | None,
        duration_seconds: float,
    ) -> Prompt:
        """Build the prompt that `prepare` would build, from frames (T, 3, S, S) uint8 and mel (M, frames)."""

    def resize_frames(self, frames: np.ndarray) -> torch.Tensor:
        """(T, 3, H, W) uint8 -> (T, 3, S, S) uint8 as the model sees them."""

    def log_mel(self, waveform: np.ndarray) -> torch.Tensor:
        """(S,) float32 at 16 kHz -> (M, frames) float32."""

    def encode_text(self, text: str, *, end: bool = False) -> list[int]:
        """Token ids of an answer, with the token that ends it when `end`."""

    def vision_features(self, frames: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) uint8 -> (N, patches, width)."""

    def align_visual(self, features: torch.Tensor) -> torch.Tensor:
        """(N, patches, width) -> (N, tokens, decoder width)."""

    def audio_features(self, mels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(M, frames) each -> (encoder frames, width) each."""

    def align_audio(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(encoder frames, width) each -> (tokens, decoder width) each."""

    def text_log_probs(self, token_ids: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Log-probabilities of texts without media, (T - 1,) each."""

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config, tokenizer and weights."""


def as_module(model: TrainableModel) -> nn.Module:
    """The same object, typed as the `torch.nn.Module` it must be."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"a trainable model must be a torch.nn.Module, got {type(model).__name__}")
    return model
