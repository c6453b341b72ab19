"""A transformers language model as `generation` and `scoring` use it: embeddings in, hidden states out.

Hides what differs between decoders: one position per token or three (time, height, width), features added after the
first layers (deepstack), and layers that live on several devices.

Shapes: B rows, L new tokens, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Decoder:
    """Backbone and output layer of a causal language model; holds no weights of its own."""

    backbone: Any
    """The transformers model without its output layer."""
    lm_head: Any
    num_axes: int = 1
    """Position axes: 1, or 3 for multimodal rotary positions."""

    @property
    def max_positions(self) -> int:
        """The longest sequence that the model was made for."""
        return int(self.backbone.config.max_position_embeddings)

    @property
    def embed_device(self) -> torch.device:
        """Where embeddings are made and hidden states are handed back."""
        device: torch.device = self.backbone.get_input_embeddings().weight.device
        return device

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(...,) -> (..., D)."""
        embedded: torch.Tensor = self.backbone.get_input_embeddings()(token_ids)
        return embedded

    def expand_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """(B, L) -> what `run` takes: the same on every axis."""
        return positions if self.num_axes == 1 else positions[None].expand(self.num_axes, -1, -1)

    def run(
        self,
        embeddings: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        cache: Any = None,
        use_cache: bool = False,
        deepstack: tuple[torch.Tensor, ...] = (),
    ) -> tuple[torch.Tensor, Any]:
        """Hidden states (B, L, D) of the last layer, and the cache (None without `use_cache`).

        Args:
            embeddings: (B, L, D).
            mask: bool (B, cached + L), None where nothing is padded.
            positions: (B, L) or (axes, B, L), None for 0 ... L - 1.
            cache: a transformers cache of the tokens before.
            deepstack: (B, L, D) each, added after the first layers.
        """
        extra: dict[str, Any] = {}
        if deepstack:
            everywhere = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
            levels = [level.to(embeddings.dtype).flatten(0, 1) for level in deepstack]
            extra = {"visual_pos_masks": everywhere, "deepstack_visual_embeds": levels}
        output = self.backbone(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=use_cache,
            **extra,
        )
        return output.last_hidden_state.to(embeddings.device), output.past_key_values

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) -> float32 (..., V)."""
        logits: torch.Tensor = self.lm_head(hidden)
        return logits.to(hidden.device).float()
