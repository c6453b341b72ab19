"""Exact, differentiable log-probabilities of completions after an encoded prefix.

One completion per prompt: one causal forward over [prefix, completion], padded on the right, where padding needs no
mask. Several per prompt: each prefix is forwarded once into a key-value cache that all its completions read.

Shapes: B prompts, R completions of all prompts, L prefix positions, T completion tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from avocet.errors import ConfigError
from avocet.models.interface import Prefix

Tokens = Sequence[int]


def score_completions(
    decoder: Any, prefix: Prefix, completions: Sequence[Sequence[Tokens]]
) -> list[list[torch.Tensor]]:
    """Per prompt, per completion: float32 (T,) log-probabilities.

    Args:
        decoder: a transformers causal language model (`decoder.model`, `decoder.lm_head`).
        prefix: the encoded prompts.
        completions: per prompt, any number of token lists; an empty list of tokens scores as an empty tensor.

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
        flat = _score_single(decoder, prefix, rows, tokens)
    else:
        flat = _score_shared(decoder, prefix, rows, tokens)
    scores = iter(flat)
    return [[next(scores) for _ in texts] for texts in completions]


def token_log_probs(decoder: Any, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """float32 (N,): log-probability of each target given the hidden state that predicts it."""
    return -F.cross_entropy(decoder.lm_head(hidden_ND).float(), targets_N, reduction="none")


def _score_single(decoder: Any, prefix: Prefix, rows: list[int], tokens: list[list[int]]) -> list[torch.Tensor]:
    if rows != list(range(len(prefix))):
        prefix = prefix.select(rows)
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
    padded = F.pad(prefix.embeddings, (0, 0, 0, total - prefix.embeddings.shape[1]))
    embedded = decoder.model.embed_tokens(target).to(padded.dtype)
    inputs = padded.flatten(0, 1).index_copy(0, place, embedded).view_as(padded)
    hidden = decoder.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    logps = token_log_probs(decoder, hidden.flatten(0, 1)[place - 1], target)
    return list(torch.split(logps, [len(text) for text in tokens]))


def _score_shared(decoder: Any, prefix: Prefix, rows: list[int], tokens: list[list[int]]) -> list[torch.Tensor]:
    used = sorted(set(rows))
    if used != list(range(len(prefix))):
        prefix = prefix.select(used)
        rows = [used.index(row) for row in rows]
    device = prefix.embeddings.device
    prefill = decoder.model(inputs_embeds=prefix.embeddings, use_cache=True)
    row = torch.tensor(rows, device=device)
    length_R = prefix.lengths.to(device)[row]
    first_RD = prefill.last_hidden_state[row, length_R - 1]

    # All but the last token of each completion is read; each hidden state predicts the token after it.
    longest = max(max(len(text) for text in tokens) - 1, 1)
    padded = torch.tensor([text[:longest] + [0] * (longest - len(text)) for text in tokens], device=device)
    cache = prefill.past_key_values
    cache.batch_select_indices(row)
    step = torch.arange(longest, device=device)
    prefix_size = prefix.embeddings.shape[1]
    mask = None
    if int(prefix.lengths.min()) < prefix_size:
        real = torch.arange(prefix_size, device=device) < length_R[:, None]
        mask = F.pad(real, (0, longest), value=True)
    rest_RTD = decoder.model(
        inputs_embeds=decoder.model.embed_tokens(padded).to(prefix.embeddings.dtype),
        attention_mask=mask,
        position_ids=length_R[:, None] + step,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    hidden_RTD = torch.cat([first_RD[:, None], rest_RTD], dim=1)
    sizes = [len(text) for text in tokens]
    valid = torch.arange(longest + 1, device=device) < torch.tensor(sizes, device=device)[:, None]
    target = torch.tensor([token for text in tokens for token in text], device=device, dtype=torch.long)
    return list(torch.split(token_log_probs(decoder, hidden_RTD[valid], target), sizes))
