"""The loss of supervised fine-tuning: cross-entropy of target tokens only, without a tensor of all logits.

Shapes: B prompts, L prefix positions, N target tokens of all rows, D decoder width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from avocet.errors import ConfigError
from avocet.models.interface import Prefix


class LanguageDecoder(Protocol):
    """What the loss needs of a decoder (`avocet.models.decoder.Decoder`)."""

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor: ...

    def run(
        self,
        embeddings: torch.Tensor,
        *,
        positions: torch.Tensor | None = None,
        deepstack: tuple[torch.Tensor, ...] = (),
    ) -> tuple[torch.Tensor, object]: ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...


def target_states(
    decoder: LanguageDecoder, prefix: Prefix, targets: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (N, D) that predict the tokens of one target per prompt, and those tokens (N,).

    One causal pass over [prefix, target], padded on the right, where padding needs no mask. The hidden state at p
    predicts the token at p + 1.

    Raises:
        ConfigError: the number of targets is not that of the prompts, or a target has no token.
    """
    if len(targets) != len(prefix) or not all(targets):
        raise ConfigError(
            f"{len(prefix)} prompts need as many targets of at least one token, got lengths {[*map(len, targets)]}"
        )
    device = prefix.embeddings.device
    lengths = prefix.lengths.tolist()
    total = max(length + len(target) for length, target in zip(lengths, targets, strict=True))
    places = [
        row * total + length + step
        for row, (length, target) in enumerate(zip(lengths, targets, strict=True))
        for step in range(len(target))
    ]
    place = torch.tensor(places, device=device)
    token = torch.tensor([token for target in targets for token in target], device=device)
    room = total - prefix.embeddings.shape[1]
    padded = F.pad(prefix.embeddings, (0, 0, 0, room))
    embedded = decoder.embed(token).to(padded.dtype)
    inputs = padded.flatten(0, 1).index_copy(0, place, embedded).view_as(padded)
    hidden, _ = decoder.run(
        inputs,
        positions=_positions(prefix, total),
        deepstack=tuple(F.pad(level, (0, 0, 0, room)) for level in prefix.deepstack),
    )
    return hidden.flatten(0, 1)[place - 1], token


def chunked_token_log_probs(
    decoder: LanguageDecoder, hidden_ND: torch.Tensor, targets_N: torch.Tensor, chunk: int
) -> torch.Tensor:
    """float32 (N,): log-probability of each target token; logits of at most `chunk` tokens exist at once.

    The backward pass computes each chunk's logits anew.
    """
    pieces = []
    for hidden, targets in zip(torch.split(hidden_ND, chunk), torch.split(targets_N, chunk), strict=True):
        if torch.is_grad_enabled() and len(targets_N) > chunk:
            pieces.append(checkpoint(_log_probs, decoder, hidden, targets, use_reentrant=False))
        else:
            pieces.append(_log_probs(decoder, hidden, targets))
    return torch.cat(pieces)


def _log_probs(decoder: LanguageDecoder, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    return -F.cross_entropy(decoder.logits(hidden_ND), targets_N, reduction="none")


def _positions(prefix: Prefix, total: int) -> torch.Tensor | None:
    """(3, B, total): those of the prefix, then first_positions, + 1, + 2, ... on every axis."""
    if prefix.positions is None:
        return None
    device, kind = prefix.positions.device, prefix.positions.dtype
    step = torch.arange(total, device=device) - prefix.lengths.to(device)[:, None]
    after = (prefix.first_positions.to(device)[:, None] + step).to(kind)
    before = F.pad(prefix.positions, (0, total - prefix.positions.shape[2]))
    return torch.where(step < 0, before, after)
