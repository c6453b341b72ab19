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
import torch.nn.functional as F
from transformers import DynamicCache

from avocet.errors import ConfigError
from avocet.models.decoder import Decoder
from avocet.models.interface import Completion, Prefix
from avocet.models.loops import CHECK_EVERY, loop_period
from avocet.records import Sampling, StopReason

_MAX_PADDED_PREFILL = 2048
"""Longer prompts of unequal length are forwarded one by one: the mask of a padded batch is quadratic in the length,
and a prompt this long fills the device alone."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows:
    """What the loop has produced, on the CPU."""

    tokens: torch.Tensor
    """int64 (R, T)."""
    logps: torch.Tensor
    """float32 (R, T)."""
    lengths: list[int]
    reasons: list[StopReason]


@torch.no_grad()
def sample_completions(
    decoder: Decoder,
    prefix: Prefix,
    n: int,
    sampling: Sampling,
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    decode: Callable[[Sequence[int]], str],
    first_sample: int = 0,
) -> list[list[Completion]]:
    """n completions of each prompt: samples number `first_sample` and following.

    A row ends with one of `stop_ids` (reason "end"), when it runs in a loop and the sampling's guard is on (reason
    "repetition"), or after `max_new_tokens` or at the decoder's last position (reason "length"). Greedy decoding
    (temperature 0) runs one row per prompt and hands it out n times.

    Raises:
        ConfigError: n below 1, or a prompt that leaves no position for a token.
    """
    if n < 1:
        raise ConfigError(f"generate needs n >= 1, got {n}")
    if len(prefix) == 0:
        return []
    limits = [min(sampling.max_new_tokens, decoder.max_positions - int(length)) for length in prefix.lengths]
    if min(limits) < 1:
        raise ConfigError(
            f"a prompt of {int(prefix.lengths.max())} tokens leaves no room to answer: the decoder has "
            f"{decoder.max_positions} positions; caption a shorter interval or sample fewer frames"
        )
    copies = 1 if sampling.temperature == 0 else n
    samples = range(first_sample, first_sample + copies)
    keys = [f"{sampling.seed}/{clip_id}/{sample}" for clip_id in prefix.clip_ids for sample in samples]
    row_limits = [limit for limit in limits for _ in range(copies)]
    rows = _loop(decoder, _prefill(decoder, prefix, copies), sampling, keys, row_limits, stop_ids, pad_id)
    completions = []
    for row, (length, reason) in enumerate(zip(rows.lengths, rows.reasons, strict=True)):
        ids = tuple(rows.tokens[row, :length].tolist())
        logps = rows.logps[row, :length]
        completions.append(Completion(token_ids=ids, text=decode(ids), stop_reason=reason, logps=logps))
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


def penalise(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Make tokens of `seen` (bool (R, V)) less likely (Keskar et al. 2019): positive logits / penalty, else * it."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _prefill(decoder: Decoder, prefix: Prefix, copies: int) -> _State:
    """Forward each prefix once, padded on the left, and hand each row `copies` readers."""
    size = prefix.embeddings.shape[1]
    position, mask = prefix.first_positions, None
    if int(prefix.lengths.min()) == size:
        hidden, cache = decoder.run(
            prefix.embeddings, positions=prefix.positions, use_cache=True, deepstack=prefix.deepstack
        )
        last = hidden[:, -1]
    else:
        lengths = prefix.lengths.to(prefix.embeddings.device)
        place = torch.arange(size, device=lengths.device) - (size - lengths)[:, None]
        mask = place >= 0
        padded = _prefill_padded if size <= _MAX_PADDED_PREFILL else _prefill_rows
        last, cache = padded(decoder, prefix, place, mask)
    logits = decoder.logits(last)
    if copies > 1:
        cache.batch_repeat_interleave(copies)
        mask = None if mask is None else mask.repeat_interleave(copies, dim=0)
        position, logits = position.repeat_interleave(copies), logits.repeat_interleave(copies, dim=0)
    return _State(cache=cache, mask=mask, position=position, logits=logits)


def _prefill_padded(
    decoder: Decoder, prefix: Prefix, place: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, Any]:
    """Last hidden states (B, D) and cache of one forward of all rows; `place` (B, L) is each position's old place."""
    source = place.clamp(min=0)

    def moved(values: torch.Tensor) -> torch.Tensor:
        return values.gather(1, source[..., None].expand_as(values)) * mask[..., None]

    positions = source if prefix.positions is None else prefix.positions.gather(2, source.expand(3, -1, -1))
    deepstack = tuple(moved(level) for level in prefix.deepstack)
    hidden, cache = decoder.run(
        moved(prefix.embeddings), mask=mask, positions=positions, use_cache=True, deepstack=deepstack
    )
    return hidden[:, -1], cache


def _prefill_rows(
    decoder: Decoder, prefix: Prefix, place: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, Any]:
    """The same, one row after the other; their caches are padded on the left and stacked."""
    size = prefix.embeddings.shape[1]
    last, caches = [], []
    for row in range(len(prefix)):
        single = prefix.select([row])
        hidden, cache = decoder.run(
            single.embeddings, positions=single.positions, use_cache=True, deepstack=single.deepstack
        )
        last.append(hidden[:, -1])
        caches.append(cache)
    stacked = DynamicCache()
    for layer in range(len(caches[0].layers)):
        parts = [cache.layers[layer] for cache in caches]
        keys = torch.cat([F.pad(part.keys, (0, 0, size - part.keys.shape[2], 0)) for part in parts])
        values = torch.cat([F.pad(part.values, (0, 0, size - part.values.shape[2], 0)) for part in parts])
        stacked.update(keys, values, layer)
        for part in parts:  # long prompts: one copy of the cache at a time
            part.keys = part.values = None
    return torch.cat(last), stacked


def _loop(
    decoder: Decoder,
    state: _State,
    sampling: Sampling,
    keys: list[str],
    limits: list[int],
    stop_ids: Sequence[int],
    pad_id: int,
) -> _Rows:
    """Token after token until every row has ended.

    Rows that have ended leave the batch once they are half of it, so that one long row does not cost all of them.
    """
    device = state.logits.device
    max_steps = max(limits)
    row_limits, stops = torch.tensor(limits, device=device), torch.tensor(list(stop_ids), device=device)
    noise = None if sampling.temperature == 0 else _noise(keys, max_steps).to(device)
    tokens = torch.full((len(keys), max_steps), pad_id, dtype=torch.long, device=device)
    logps = torch.zeros((len(keys), max_steps), device=device)
    lengths = torch.zeros(len(keys), dtype=torch.long, device=device)
    reasons: list[StopReason] = ["length"] * len(keys)
    seen = torch.zeros_like(state.logits, dtype=torch.bool) if sampling.repetition_penalty != 1 else None
    active = torch.arange(len(keys), device=device)
    done = torch.zeros(len(keys), dtype=torch.bool, device=device)
    for step in range(max_steps):
        logits = state.logits if seen is None else penalise(state.logits, seen[active], sampling.repetition_penalty)
        token = choose_tokens(logits, sampling, None if noise is None else noise[active, step])
        token_logp = torch.log_softmax(state.logits, dim=-1).gather(-1, token[:, None]).squeeze(-1)
        tokens[active, step] = torch.where(done, pad_id, token)
        logps[active, step] = torch.where(done, 0.0, token_logp)
        lengths[active] += ~done
        if seen is not None:
            seen[active, token] = True
        done = done | torch.isin(token, stops) | (step + 1 >= row_limits[active])
        if sampling.repetition_guard != "off" and (step + 1) % CHECK_EVERY == 0:
            done = done | _mark_loops(tokens[active, : step + 1], active, done, reasons)
        num_done = int(done.sum())
        if num_done == len(done):
            break
        if 2 * num_done >= len(done):
            kept = (~done).nonzero().squeeze(-1)
            state, token, active, done = _keep_rows(state, kept), token[kept], active[kept], done[kept]
        state = _advance(decoder, state, token)
    tokens, counts = tokens.cpu(), lengths.tolist()
    for row, count in enumerate(counts):
        if int(tokens[row, count - 1]) in stop_ids:
            reasons[row] = "end"
    return _Rows(tokens=tokens, logps=logps.cpu(), lengths=counts, reasons=reasons)


def _mark_loops(
    tokens: torch.Tensor, active: torch.Tensor, done: torch.Tensor, reasons: list[StopReason]
) -> torch.Tensor:
    """bool (rows,): which of the running rows loop; their reasons are set."""
    loops = [
        not ended and loop_period(ids) is not None for ids, ended in zip(tokens.tolist(), done.tolist(), strict=True)
    ]
    for row, loop in zip(active.tolist(), loops, strict=True):
        if loop:
            reasons[row] = "repetition"
    return torch.tensor(loops, device=done.device)


def _keep_rows(state: _State, rows: torch.Tensor) -> _State:
    state.cache.batch_select_indices(rows)
    mask = None if state.mask is None else state.mask[rows]
    return _State(cache=state.cache, mask=mask, position=state.position[rows], logits=state.logits[rows])


def _advance(decoder: Decoder, state: _State, token: torch.Tensor) -> _State:
    mask = state.mask
    if mask is not None:
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    hidden, cache = decoder.run(
        decoder.embed(token[:, None]),
        mask=mask,
        positions=decoder.expand_positions(state.position[:, None]),
        cache=state.cache,
        use_cache=True,
    )
    return _State(cache=cache, mask=mask, position=state.position + 1, logits=decoder.logits(hidden[:, -1]))


def _noise(keys: list[str], num_steps: int) -> torch.Tensor:
    """Uniform float64 (R, T), one generator per row; on the CPU, so that every device draws the same."""
    rows = []
    for key in keys:
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
        rows.append(torch.rand(num_steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(rows)
