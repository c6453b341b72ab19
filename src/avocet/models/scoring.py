"""Exact, differentiable log-probabilities of completions after an encoded prefix.

One completion per prompt: one causal forward over [prefix, completion], padded on the right, where padding needs no
mask. Several per prompt: each prefix is forwarded once into a key-value cache that all its completions read; training
goes through `avocet.models.prefix`, which also works under gradient checkpointing.

Shapes: B prompts, R completions of all prompts, L prefix positions, T completion tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from avocet.errors import ConfigError
from avocet.models.decoder import Decoder
from avocet.models.interface import Prefix

Tokens = Sequence[int]


def score_completions(
    decoder: Decoder, prefix: Prefix, completions: Sequence[Sequence[Tokens]], *, chunk: int | None = None
) -> list[list[torch.Tensor]]:
    """Per prompt, per completion: float32 (T,) log-probabilities.

    Args:
        decoder: the language model.
        prefix: the encoded prompts.
        completions: per prompt, any number of token lists; an empty list of tokens scores as an empty tensor.
        chunk: see `token_log_probs`.

    Raises:
        ConfigError: the number of lists is not the number of prompts.
    """
    if len(completions) != len(prefix):
        raise ConfigError(f"score got completions for {len(completions)} prompts, the prefix holds {len(prefix)}")
    rows = [row for row, texts in enumerate(completions) for _ in texts]
    tokens = [list(text) for texts in completions for text in texts]
    if not rows:
        return [[] for _ in completions]
    if len(set(rows)) == len(rows):
        flat = _score_single(decoder, prefix, rows, tokens, chunk)
    else:
        flat = _score_shared(decoder, prefix, rows, tokens, chunk)
    scores = iter(flat)
    return [[next(scores) for _ in texts] for texts in completions]


def next_token_log_probs(decoder: Decoder, prefix: Prefix, completion: Tokens) -> torch.Tensor:
    """float32 (T, V): the distribution before each token of the one completion of a one-prompt prefix."""
    if len(prefix) != 1:
        raise ConfigError(f"next_token_log_probs takes a prefix of one prompt, got {len(prefix)}")
    hidden, _ = completion_hidden(decoder, prefix, [list(completion)])
    return decoder.logits(hidden).log_softmax(-1)


class OutputLayer(Protocol):
    """What makes logits of hidden states (`avocet.models.decoder.Decoder`)."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...


def token_log_probs(
    decoder: OutputLayer, hidden_ND: torch.Tensor, targets_N: torch.Tensor, chunk: int | None = None
) -> torch.Tensor:
    """float32 (N,): log-probability of each target given the hidden state that predicts it.

    With `chunk`, logits of at most so many tokens exist at once; the backward pass computes each chunk's anew. Raises
    `ConfigError` for a chunk below 1.
    """
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk must be >= 1 tokens or None, got {chunk}")
    if chunk is None or len(targets_N) <= chunk:
        return _log_probs(decoder, hidden_ND, targets_N)
    pieces = []
    for hidden, targets in zip(torch.split(hidden_ND, chunk), torch.split(targets_N, chunk), strict=True):
        if torch.is_grad_enabled():
            pieces.append(checkpoint(_log_probs, decoder, hidden, targets, use_reentrant=False))
        else:
            pieces.append(_log_probs(decoder, hidden, targets))
    return torch.cat(pieces)


def _log_probs(decoder: OutputLayer, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    return -F.cross_entropy(decoder.logits(hidden_ND), targets_N, reduction="none")


def _score_single(
    decoder: Decoder, prefix: Prefix, rows: list[int], tokens: list[list[int]], chunk: int | None
) -> list[torch.Tensor]:
    if rows != list(range(len(prefix))):
        prefix = prefix.select(rows)
    hidden, target = completion_hidden(decoder, prefix, tokens)
    return list(torch.split(token_log_probs(decoder, hidden, target, chunk), [len(text) for text in tokens]))


def completion_hidden(decoder: Decoder, prefix: Prefix, tokens: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (N, D) that predict the tokens of one completion per prompt, and those tokens (N,)."""
    device = prefix.embeddings.device
    lengths = prefix.lengths.tolist()
    total = max(length + len(text) for length, text in zip(lengths, tokens, strict=True))
    # Hidden state p predicts the token at position p + 1, so that the last token of a completion need not be read.
    places = [
        row * total + length + step
        for row, (length, text) in enumerate(zip(lengths, tokens, strict=True))
        for step in range(len(text))
    ]
    place = torch.tensor(places, device=device, dtype=torch.long)
    target = torch.tensor([token for text in tokens for token in text], device=device, dtype=torch.long)
    room = total - prefix.embeddings.shape[1]
    padded = F.pad(prefix.embeddings, (0, 0, 0, room))
    embedded = decoder.embed(target).to(padded.dtype)
    inputs = padded.flatten(0, 1).index_copy(0, place, embedded).view_as(padded)
    hidden, _ = decoder.run(
        inputs,
        positions=_positions_with_completion(prefix, total),
        deepstack=tuple(F.pad(level, (0, 0, 0, room)) for level in prefix.deepstack),
    )
    return hidden.flatten(0, 1)[place - 1], target


def _positions_with_completion(prefix: Prefix, total: int) -> torch.Tensor | None:
    """(3, B, total): the prefix's positions, then first_positions, + 1, + 2, ... on every axis."""
    if prefix.positions is None:
        return None
    lengths = prefix.lengths.to(prefix.positions.device)
    step = torch.arange(total, device=prefix.positions.device) - lengths[:, None]
    after = (prefix.first_positions[:, None] + step).to(prefix.positions.dtype)
    before = F.pad(prefix.positions, (0, total - prefix.positions.shape[2]))
    return torch.where(step < 0, before, after)


def _score_shared(
    decoder: Decoder, prefix: Prefix, rows: list[int], tokens: list[list[int]], chunk: int | None
) -> list[torch.Tensor]:
    used = sorted(set(rows))
    if used != list(range(len(prefix))):
        prefix = prefix.select(used)
        rows = [used.index(row) for row in rows]
    if int(prefix.lengths.min()) < prefix.embeddings.shape[1] and _has_window(decoder):
        return _score_by_length(decoder, prefix, rows, tokens, chunk)
    device = prefix.embeddings.device
    prefill_BLD, cache = decoder.run(
        prefix.embeddings, positions=prefix.positions, use_cache=True, deepstack=prefix.deepstack
    )
    if cache is None or cache.get_seq_length() == 0:
        raise ConfigError(
            "the decoder kept no keys and values of the prompt, as under gradient checkpointing; score with "
            'avocet.models.prefix.score_shared and method "packed" or "plain"'
        )
    row = torch.tensor(rows, device=device)
    length_R = prefix.lengths.to(device)[row]
    first_RD = prefill_BLD[row, length_R - 1]

    # All but the last token of each completion is read; each hidden state predicts the token after it.
    longest = max(max(len(text) for text in tokens) - 1, 1)
    padded = torch.tensor([text[:longest] + [0] * (longest - len(text)) for text in tokens], device=device)
    cache.batch_select_indices(row)
    step = torch.arange(longest, device=device)
    prefix_size = prefix.embeddings.shape[1]
    mask = None
    if int(prefix.lengths.min()) < prefix_size:
        real = torch.arange(prefix_size, device=device) < length_R[:, None]
        mask = F.pad(real, (0, longest), value=True)
    rest_RTD, _ = decoder.run(
        decoder.embed(padded).to(prefix.embeddings.dtype),
        mask=mask,
        positions=decoder.expand_positions(prefix.first_positions[row][:, None] + step),
        cache=cache,
        use_cache=True,
    )
    hidden_RTD = torch.cat([first_RD[:, None], rest_RTD], dim=1)
    sizes = [len(text) for text in tokens]
    valid = torch.arange(longest + 1, device=device) < torch.tensor(sizes, device=device)[:, None]
    target = torch.tensor([token for text in tokens for token in text], device=device, dtype=torch.long)
    return list(torch.split(token_log_probs(decoder, hidden_RTD[valid], target, chunk), sizes))


def _has_window(decoder: Decoder) -> bool:
    """Whether any layer sees only so many tokens back."""
    return getattr(decoder.backbone.config, "sliding_window", None) is not None


def _score_by_length(
    decoder: Decoder, prefix: Prefix, rows: list[int], tokens: list[list[int]], chunk: int | None
) -> list[torch.Tensor]:
    """`_score_shared`, prompts of one length at a time: a window counts places of the cache, padding included."""
    lengths = prefix.lengths.tolist()
    scores: dict[int, torch.Tensor] = {}
    for length in sorted(set(lengths)):
        own = [place for place, row in enumerate(rows) if lengths[row] == length]
        chosen = sorted({rows[place] for place in own})
        found = _score_shared(
            decoder,
            prefix.select(chosen),
            [chosen.index(rows[place]) for place in own],
            [tokens[place] for place in own],
            chunk,
        )
        scores |= dict(zip(own, found, strict=True))
    return [scores[place] for place in range(len(rows))]
