"""Prompts and their completions as one row through a transformers decoder, without padding or prompt-sized masks.

    row        [ prompt 1 | completion 1 | completion 2 | prompt 2 | completion 1 | ... ]
    positions    0 ... L-1  L, L+1, ...    L, L+1, ...    0 ...
    attention  a prompt token sees its prompt up to itself; a completion token sees its whole prompt and its own
               completion up to itself

Everything but attention runs through transformers' own layers. Their attention is switched, for these layers and this
forward only, to `_packed_attention`: each prompt by the fused causal kernel, as in a plain forward, and its completions
against it under a mask of completion tokens only. Kernel "flex" gives the whole row to FlexAttention instead.

Shapes: B prompts, N tokens of the row, M targets, D width, h heads, d head width.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from avocet.models.attention import attention_forward
from avocet.models.decoder import Decoder
from avocet.models.interface import Prefix

Tokens = Sequence[int]
Kernel = Literal["split", "flex"]

_NAME = "avocet_packed"
_MAX_GROUP_TOKENS = 1024
"""Completion tokens of one prompt under one mask. Within it, what completions must not see of each other is computed
and hidden; each further group costs a copy of the prompt's keys and values."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """One prompt and its completions in the row."""

    prompt: int
    """Tokens of the prompt."""
    branches: tuple[int, ...]
    """Tokens of each completion that are read: all but the last, which nothing follows."""

    @property
    def size(self) -> int:
        return self.prompt + sum(self.branches)

    def groups(self) -> list[tuple[int, ...]]:
        """Completions that share a mask, in order, without those of no token."""
        groups: list[list[int]] = []
        for branch in filter(None, self.branches):
            if not groups or sum(groups[-1]) + branch > _MAX_GROUP_TOKENS:
                groups.append([])
            groups[-1].append(branch)
        return [tuple(group) for group in groups]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Who sees whom in a row."""

    segments: tuple[Segment, ...]
    kernel: Kernel = "split"
    masks: dict[Any, Any] = dataclasses.field(default_factory=dict)
    """Made at the first layer; the others need the same."""

    @functools.cached_property
    def owners(self) -> torch.Tensor:
        """int64 (3, N): each token's segment, its branch (0: the prompt) and its place in [prompt, branch]."""
        columns = []
        for number, segment in enumerate(self.segments):
            parts = [(0, torch.arange(segment.prompt))]
            parts += [(1 + k, segment.prompt + torch.arange(size)) for k, size in enumerate(segment.branches)]
            for branch, place in parts:
                columns.append(torch.stack([torch.full_like(place, number), torch.full_like(place, branch), place]))
        return torch.cat(columns, dim=1)

    def prompt_mask(self, prompt: int, window: int | None, device: torch.device) -> torch.Tensor | None:
        """bool (1, 1, prompt, prompt); None where plain causal attention is meant."""
        if window is None or window >= prompt:
            return None
        return self._mask(prompt, (), window, device)

    def group_mask(self, prompt: int, group: tuple[int, ...], window: int | None, device: torch.device) -> torch.Tensor:
        """bool (1, 1, C, prompt + C), C tokens of the group: True where a token sees another."""
        return self._mask(prompt, group, window, device)

    def block_mask(self, window: int | None, device: torch.device) -> Any:
        """The whole row for FlexAttention."""
        key = ("flex", window, device)
        if key not in self.masks:
            from torch.nn.attention.flex_attention import create_block_mask

            # Three tensors: FlexAttention cannot trace a slice of one.
            owners = self.owners.to(device).unbind()
            size = len(owners[0])

            def visible(_batch: Any, _head: Any, query: Any, key: Any) -> Any:
                return _sees([part[query] for part in owners], [part[key] for part in owners], window)

            compiled = device.type == "cuda"
            self.masks[key] = create_block_mask(visible, None, None, size, size, device=str(device), _compile=compiled)
        return self.masks[key]

    def _mask(self, prompt: int, group: tuple[int, ...], window: int | None, device: torch.device) -> torch.Tensor:
        key = (prompt, group, window, device)
        if key not in self.masks:
            owners = Layout(segments=(Segment(prompt=prompt, branches=group),)).owners.to(device)
            queries = owners[:, prompt:] if group else owners
            self.masks[key] = _sees(queries[:, :, None].unbind(), owners[:, None, :].unbind(), window)[None, None]
        mask: torch.Tensor = self.masks[key]
        return mask


def _sees(query: Sequence[torch.Tensor], key: Sequence[torch.Tensor], window: int | None) -> torch.Tensor:
    """Whether the query token sees the key token: each (segment, branch, place) as in `Layout.owners`, broadcast."""
    own = (query[0] == key[0]) & ((key[1] == 0) | (key[1] == query[1]))
    seen = own & (key[2] <= query[2])
    return seen if window is None else seen & (key[2] > query[2] - window)


# Building the row.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PackedRow:
    """Prompts and completions, ready for `run`."""

    embeddings: torch.Tensor
    """(1, N, D)."""
    positions: torch.Tensor
    """(1, N) or (axes, 1, N)."""
    deepstack: tuple[torch.Tensor, ...]
    """(1, N, D) each; nothing is added to completions."""
    layout: Layout
    predictors: torch.Tensor
    """int64 (M,): the place in the row of the hidden state that predicts each target."""
    targets: torch.Tensor
    """int64 (M,): the tokens of all completions, in order."""

    def run(self, decoder: Decoder) -> torch.Tensor:
        """Hidden states (M, D) that predict the targets."""
        with _switched(decoder.backbone, self.layout):
            hidden, _ = decoder.run(self.embeddings, positions=self.positions, deepstack=self.deepstack)
        return hidden[0, self.predictors]


def pack_row(
    decoder: Decoder, prefix: Prefix, completions: Sequence[Sequence[Tokens]], kernel: Kernel = "split"
) -> PackedRow:
    """Lay out all prompts that have a completion of at least one token (there must be one)."""
    device = prefix.embeddings.device
    rows = [row for row, texts in enumerate(completions) if any(len(text) for text in texts)]
    lengths = prefix.lengths.tolist()
    segments = [
        Segment(prompt=lengths[row], branches=tuple(max(len(text) - 1, 0) for text in completions[row])) for row in rows
    ]
    predictors: list[int] = []
    start = 0
    for row, segment in zip(rows, segments, strict=True):
        end = start + segment.prompt
        first = end
        for text, size in zip(completions[row], segment.branches, strict=True):
            # The prompt's last token predicts the first of each completion.
            predictors += [end - 1, *range(first, first + size)][: len(text)]
            first += size
        start = first
    read = [token for row in rows for text in completions[row] for token in text[:-1]]
    embedded = decoder.embed(torch.tensor(read, device=device, dtype=torch.long)).to(prefix.embeddings.dtype)
    answers = torch.split(embedded, [sum(segment.branches) for segment in segments])
    targets = [token for texts in completions for text in texts for token in text]
    return PackedRow(
        embeddings=_alternate(prefix.embeddings, rows, lengths, answers),
        positions=_positions(decoder, prefix, rows, segments),
        deepstack=tuple(
            _alternate(level, rows, lengths, [torch.zeros_like(part, dtype=level.dtype) for part in answers])
            for level in prefix.deepstack
        ),
        layout=Layout(segments=tuple(segments), kernel=kernel),
        predictors=torch.tensor(predictors, device=device, dtype=torch.long),
        targets=torch.tensor(targets, device=device, dtype=torch.long),
    )


def _alternate(
    values: torch.Tensor, rows: Sequence[int], lengths: Sequence[int], answers: Sequence[torch.Tensor]
) -> torch.Tensor:
    """(B, L, D) and a (tokens, D) for each of `rows` -> (1, N, D)."""
    parts = [part for row, answer in zip(rows, answers, strict=True) for part in (values[row, : lengths[row]], answer)]
    return torch.cat(parts)[None]


def _positions(decoder: Decoder, prefix: Prefix, rows: Sequence[int], segments: Sequence[Segment]) -> torch.Tensor:
    """Those of each prompt, then in each branch first_positions, + 1, + 2, ... on every axis."""
    device = prefix.embeddings.device if prefix.positions is None else prefix.positions.device
    first = prefix.first_positions.to(device)
    parts = []
    for row, segment in zip(rows, segments, strict=True):
        if prefix.positions is None:
            parts.append(torch.arange(segment.prompt, device=device)[None])
        else:
            parts.append(prefix.positions[:, row, : segment.prompt])
        for size in segment.branches:
            after = (first[row] + torch.arange(size, device=device)).to(parts[0].dtype)
            parts.append(after.expand(len(parts[0]), -1))
    whole = torch.cat(parts, dim=1)
    return decoder.expand_positions(whole) if prefix.positions is None else whole[:, None]


# Attention.

_LAYOUT: ContextVar[Layout] = ContextVar("avocet_packed_layout")


def _packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """(1, h, N, d), (1, kv heads, N, d) twice -> (1, N, h, d); `sliding_window` is None in layers that see all."""
    layout = _LAYOUT.get()
    if layout.kernel == "flex":
        from transformers.integrations.flex_attention import flex_attention_forward

        block_mask = layout.block_mask(sliding_window, query.device)
        output, _ = flex_attention_forward(module, query, key, value, block_mask, scaling=scaling, dropout=dropout)
        return output, None

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return attention_forward(module, q, k, v, mask, dropout=dropout, scaling=scaling, is_causal=mask is None)[0]

    sizes = [segment.size for segment in layout.segments]
    outputs = []
    for segment, q, k, v in zip(
        layout.segments, *(torch.split(tensor, sizes, dim=2) for tensor in (query, key, value)), strict=True
    ):
        outputs += _attend_segment(layout, segment, q, k, v, sliding_window, attend)
    return torch.cat(outputs, dim=1), None


def _attend_segment(
    layout: Layout,
    segment: Segment,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int | None,
    attend: Callable[..., torch.Tensor],
) -> list[torch.Tensor]:
    groups = segment.groups()
    prompt = segment.prompt
    sizes = [prompt, *(sum(group) for group in groups)]
    queries, keys, values = (torch.split(tensor, sizes, dim=2) for tensor in (query, key, value))
    outputs = [attend(queries[0], keys[0], values[0], layout.prompt_mask(prompt, window, query.device))]
    for number, group in enumerate(groups, start=1):
        own_key, own_value = key, value
        if len(groups) > 1:
            own_key = torch.cat([keys[0], keys[number]], dim=2)
            own_value = torch.cat([values[0], values[number]], dim=2)
        mask = layout.group_mask(prompt, group, window, query.device)
        outputs.append(attend(queries[number], own_key, own_value, mask))
    return outputs


AttentionInterface.register(_NAME, _packed_attention)


def checkpointed_layers(backbone: nn.Module) -> list[Any]:
    """The layers that gradient checkpointing is switched on for (it acts in training mode only)."""
    layers = [module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)]
    return [layer for layer in layers if layer.gradient_checkpointing]


@contextmanager
def _switched(backbone: Any, layout: Layout) -> Iterator[None]:
    """Packed attention in the layers of the backbone, also when checkpointing runs them again in the backward pass."""
    found = [getattr(module, "config", None) for module in backbone.modules()]
    configs = {id(config): config for config in found if hasattr(config, "_attn_implementation")}
    layers = checkpointed_layers(backbone)
    before = [layer._gradient_checkpointing_func for layer in layers]

    def checkpoint_packed(original: Callable[..., Any], layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def run(*inner: Any, **named: Any) -> Any:
            with _attention(list(configs.values()), layout):
                return layer(*inner, **named)

        return original(run, *args, **kwargs)

    for layer, original in zip(layers, before, strict=True):
        layer._gradient_checkpointing_func = functools.partial(checkpoint_packed, original)
    try:
        with _attention(list(configs.values()), layout):
            yield
    finally:
        for layer, original in zip(layers, before, strict=True):
            layer._gradient_checkpointing_func = original


@contextmanager
def _attention(configs: Sequence[Any], layout: Layout) -> Iterator[None]:
    before = [config._attn_implementation for config in configs]
    token = _LAYOUT.set(layout)
    for config in configs:
        config._attn_implementation = _NAME
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
        _LAYOUT.reset(token)
