"""Sampling from a decoder after an encoded prefix: one prefill, n samples, own loop.

Reproducible: the random numbers of a sample depend only on (seed, clip id, sample number), so a clip gets the same
samples alone and in any batch (up to floating-point differences of batched kernels).

Shapes: B prompts, R = B * n rows, L prefix positions, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from avocet.errors import ConfigError
from avocet.models.interface import Completion, Prefix
from avocet.records import Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class _State:
    """What the loop carries from one token to the next."""

    cache: Any
    mask: torch.Tensor | None
    """bool (R, seen positions), None when no row is padded."""
    position: torch.Tensor
    """(R,) position of the next token."""
    logits: torch.Tensor
    """float32 (R, V) for the next token."""


@torch.no_grad()
def sample_completions(
    decoder: Any,
    prefix: Prefix,
    n: int,
    sampling: Sampling,
    *,
    stop_id: int,
    pad_id: int,
    max_positions: int,
    decode: Callable[[Sequence[int]], str],
) -> list[list[Completion]]:
    """n completions of each prompt.

    A row ends with `stop_id` (reason "end"), or after `max_new_tokens` or at the decoder's last position (reason
    "length"). Greedy decoding (temperature 0) runs one row per prompt and hands it out n times.

    Raises:
        ConfigError: n below 1, or a prompt that leaves no position for a token.
    """
    if n < 1:
        raise ConfigError(f"generate needs n >= 1, got {n}")
    if len(prefix) == 0:
        return []
    limits = [min(sampling.max_new_tokens, max_positions - int(length)) for length in prefix.lengths]
    if min(limits) < 1:
        raise ConfigError(
            f"a prompt of {int(prefix.lengths.max())} tokens leaves no room to answer: the decoder has {max_positions} "
            "positions; caption a shorter interval or sample fewer frames"
        )
    copies = 1 if sampling.temperature == 0 else n
    keys = [f"{sampling.seed}/{clip_id}/{sample}" for clip_id in prefix.clip_ids for sample in range(copies)]
    row_limits = torch.tensor([limit for limit in limits for _ in range(copies)], device=prefix.embeddings.device)
    state = _prefill(decoder, prefix, copies)
    tokens, logps = _loop(decoder, state, sampling, keys, row_limits, stop_id, pad_id)

    completions = []
    for row, limit in enumerate(row_limits.tolist()):
        ids = tokens[row].tolist()[:limit]
        ended = stop_id in ids
        length = ids.index(stop_id) + 1 if ended else len(ids)
        completion = Completion(
            token_ids=tuple(ids[:length]),
            text=decode(ids[:length]),
            stop_reason="end" if ended else "length",
            logps=logps[row, :length],
        )
        completions.append(completion)
    if copies == 1:
        return [[completion] * n for completion in completions]
    return [completions[start : start + n] for start in range(0, len(completions), n)]


def top_p_filter(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero all but the smallest set of most likely tokens whose probability reaches `top_p` (at least one)."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.where(before < top_p, ordered, 0.0)
    return torch.zeros_like(probabilities).scatter(-1, order, kept)


def choose_tokens(logits: torch.Tensor, sampling: Sampling, uniform: torch.Tensor | None) -> torch.Tensor:
    """One token per row: the most likely one, or the one where the cumulative probability passes `uniform` (R,)."""
    if uniform is None:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        probabilities = top_p_filter(probabilities, sampling.top_p)
    cumulative = probabilities.cumsum(-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    # Rounding may leave the threshold at the very end of the line: take the last token that has probability.
    last = (cumulative < cumulative[:, -1:]).sum(-1)
    return torch.minimum(token, last)


def _prefill(decoder: Any, prefix: Prefix, copies: int) -> _State:
    """Forward each prefix once, padded on the left, and hand each row `copies` readers."""
    embeddings, lengths = prefix.embeddings, prefix.lengths.to(prefix.embeddings.device)
    size = embeddings.shape[1]
    mask = positions = None
    if int(prefix.lengths.min()) < size:
        place = torch.arange(size, device=embeddings.device) - (size - lengths)[:, None]
        mask = place >= 0
        positions = place.clamp(min=0)
        embeddings = embeddings.gather(1, positions[..., None].expand_as(embeddings)) * mask[..., None]
    output = decoder.model(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=True)
    logits = decoder.lm_head(output.last_hidden_state[:, -1]).float()
    cache = output.past_key_values
    if copies > 1:
        cache.batch_repeat_interleave(copies)
        mask = None if mask is None else mask.repeat_interleave(copies, dim=0)
        lengths, logits = lengths.repeat_interleave(copies), logits.repeat_interleave(copies, dim=0)
    return _State(cache=cache, mask=mask, position=lengths, logits=logits)


def _loop(
    decoder: Any,
    state: _State,
    sampling: Sampling,
    keys: list[str],
    limits: torch.Tensor,
    stop_id: int,
    pad_id: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (R, T) and their log-probabilities (R, T), on the CPU; `pad_id` after a row's end.

    Rows that have ended leave the batch once they are half of it, so that one long row does not cost all of them.
    """
    max_steps = int(limits.max())
    device = state.logits.device
    noise = None if sampling.temperature == 0 else _noise(keys, max_steps).to(device)
    tokens = torch.full((len(keys), max_steps), pad_id, dtype=torch.long, device=device)
    logps = torch.zeros((len(keys), max_steps), device=device)
    active = torch.arange(len(keys), device=device)
    done = torch.zeros(len(keys), dtype=torch.bool, device=device)
    for step in range(max_steps):
        token = choose_tokens(state.logits, sampling, None if noise is None else noise[active, step])
        token_logp = torch.log_softmax(state.logits, dim=-1).gather(-1, token[:, None]).squeeze(-1)
        tokens[active, step] = torch.where(done, pad_id, token)
        logps[active, step] = torch.where(done, 0.0, token_logp)
        done = done | (token == stop_id) | (step + 1 >= limits[active])
        num_done = int(done.sum())
        if num_done == len(done):
            return tokens[:, : step + 1].cpu(), logps[:, : step + 1].cpu()
        if 2 * num_done >= len(done):
            kept = (~done).nonzero().squeeze(-1)
            state, token, active, done = _keep_rows(state, kept), token[kept], active[kept], done[kept]
        state = _advance(decoder, state, token)
    raise AssertionError("every row ends at its limit")


def _keep_rows(state: _State, rows: torch.Tensor) -> _State:
    state.cache.batch_select_indices(rows)
    mask = None if state.mask is None else state.mask[rows]
    return _State(cache=state.cache, mask=mask, position=state.position[rows], logits=state.logits[rows])


def _advance(decoder: Any, state: _State, token: torch.Tensor) -> _State:
    mask = state.mask
    if mask is not None:
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    output = decoder.model(
        input_ids=token[:, None],
        attention_mask=mask,
        position_ids=state.position[:, None],
        past_key_values=state.cache,
        use_cache=True,
    )
    logits = decoder.lm_head(output.last_hidden_state[:, -1]).float()
    return _State(cache=output.past_key_values, mask=mask, position=state.position + 1, logits=logits)


def _noise(keys: list[str], num_steps: int) -> torch.Tensor:
    """Uniform float64 (R, T), one generator per row; on the CPU, so that every device draws the same."""
    rows = []
    for key in keys:
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
        rows.append(torch.rand(num_steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(rows)
