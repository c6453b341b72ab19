"""Towers cut before their aligner: what a frozen tower gives stays the same while the aligner behind it is trained.

A *trunk* is a tower (vision or audio encoder) without the module that maps its features into the decoder's space. In
the video-SALMONN 2 paper model, v1 and the hearing of plus, the two are separate modules. The Qwen towers end in their
aligners (`merger`, `deepstack_merger_list`, `proj`): here those are cut off by hooks, so that every version of
transformers gives the same.

Shapes: P patches, V visual tokens, D decoder width, M mel bins, T audio tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn

from avocet.errors import LayoutError

TrunkName = Literal["vision", "audio"]
_NO_MATTER = frozenset({"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"})
"""Entries of a transformers config that decide no output (the weights' own types are hashed)."""
_DEEPSTACK = ("deepstack_merger_list", "merger_list")
"""What Qwen3-Omni's list of deepstack mergers is called, by version of transformers."""
_ALIGNERS = ("merger", *_DEEPSTACK, "proj", "proj1", "proj2")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trunk:
    """A tower up to its aligner; holds no weights of its own.

    Make it anew for each use: it looks through its module's children only once.
    """

    name: TrunkName
    module: nn.Module
    aligners: tuple[str, ...] = ()
    """Children of the module that do not belong to the trunk: its aligner, and what is never run."""
    reading: str = ""
    """What else decides the outputs: how the inputs are normalised, and their type."""

    @functools.cached_property
    def tensors(self) -> tuple[tuple[str, torch.Tensor], ...]:
        """Parameters and buffers (also those that no checkpoint holds, since types and values of them matter)."""
        named = (*self.module.named_parameters(), *self.module.named_buffers())
        return tuple((name, tensor) for name, tensor in named if name.split(".", 1)[0] not in self.aligners)

    @property
    def device(self) -> torch.device:
        return self.tensors[0][1].device

    @property
    def is_frozen(self) -> bool:
        return not any(tensor.requires_grad for _, tensor in self.tensors)

    @property
    def is_sharded(self) -> bool:
        """Whether this process holds only a share of the weights (FSDP2, DeepSpeed ZeRO-3).

        Such a trunk runs on all processes together or not at all, so none of them may skip it.
        """
        return any(hasattr(tensor, "device_mesh") or hasattr(tensor, "ds_id") for _, tensor in self.tensors)

    def fingerprint(self) -> tuple[tuple[int, int], ...]:
        """Changes whenever a tensor is replaced or written to, except through `.data`; costs microseconds."""
        return tuple(
            (tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for _, tensor in self.tensors
        )

    def revision(self) -> str:
        """SHA-256 of the config and of every byte of the weights, in hexadecimal; about a second per gigabyte."""
        digest = hashlib.sha256(self.reading.encode())
        config: Any = getattr(self.module, "config", None)
        if config is not None:
            facts = {key: value for key, value in config.to_dict().items() if key not in _NO_MATTER}
            facts["attention"] = getattr(config, "_attn_implementation", None)
            digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.tensors, key=lambda item: item[0]):
            digest.update(name.encode())
            update_with_tensor(digest, tensor)
        return digest.hexdigest()

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Run the module as the fixed function that a frozen tower is: no gradients, and no dropout in it."""
        modes = [(module, module.training) for module in self.module.modules()]
        self.module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes:
                module.training = training


def require_values(media: torch.Tensor, tower: str) -> torch.Tensor:
    """The media again. Raises `LayoutError` for the meta device: a prompt of a feature store without its features."""
    if media.is_meta:
        raise LayoutError(
            f"the prompt holds no media, and no {tower} features of these weights and settings; read the clip again"
        )
    return media


def update_with_tensor(digest: Any, tensor: torch.Tensor) -> None:
    """Add type, shape and bytes of a tensor to a hash of `hashlib`."""
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(data.numpy().data)


def qwen_aligners(tower: nn.Module) -> tuple[str, ...]:
    """Names of the tower's children that are its aligner."""
    return tuple(name for name, _ in tower.named_children() if name in _ALIGNERS)


def vision_trunk(visual: Any, run: Callable[[], Any]) -> tuple[torch.Tensor, ...]:
    """What a Qwen vision tower gives its mergers.

    Args:
        visual: the tower.
        run: runs it on one clip and returns its output.

    Returns:
        int64 (V,): the place of each visual token among the rows of the merger; (P, width): the input of the merger;
        then the input of each deepstack merger.
    """
    inputs: list[torch.Tensor] = []

    def instead(module: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        # Row numbers in place of the merger's rows: the tower's own reordering of windows turns them into its order.
        return torch.arange(len(output), device=output.device)[:, None]

    with ExitStack() as hooks:
        hooks.callback(visual.merger.register_forward_hook(instead).remove)
        for merger in (visual.merger, *_deepstack_mergers(visual)):
            hooks.callback(merger.register_forward_pre_hook(lambda _, given: inputs.append(given[0])).remove)
        order = run().pooler_output[:, 0]
    # The tower calls its last merger last.
    return (order, inputs[-1], *inputs[:-1])


def align_vision(visual: Any, trunk: Sequence[torch.Tensor]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """What `vision_trunk` gave -> visual tokens (V, D), and (V, D) for each level of deepstack."""
    order, last, *levels = trunk
    tokens: torch.Tensor = visual.merger(last)
    deepstack = tuple(merger(level) for merger, level in zip(_deepstack_mergers(visual), levels, strict=True))
    return tokens[order], deepstack


def audio_trunk(tower: Any, run: Callable[[], Any]) -> tuple[torch.Tensor, ...]:
    """What a Qwen audio tower gives its projection: (T, width)."""
    inputs: list[torch.Tensor] = []
    first = tower.proj if hasattr(tower, "proj") else tower.proj1
    with ExitStack() as hooks:
        hooks.callback(first.register_forward_pre_hook(lambda _, given: inputs.append(given[0])).remove)
        run()
    return (torch.cat(inputs),)


def align_audio(tower: Any, trunk: Sequence[torch.Tensor]) -> torch.Tensor:
    """What `audio_trunk` gave -> audio tokens (T, D)."""
    (features,) = trunk
    tokens: torch.Tensor
    tokens = tower.proj(features) if hasattr(tower, "proj") else tower.proj2(tower.act(tower.proj1(features)))
    return tokens


def _deepstack_mergers(visual: nn.Module) -> tuple[nn.Module, ...]:
    for name in _DEEPSTACK:
        mergers = getattr(visual, name, None)
        if mergers is not None:
            return tuple(mergers)
    return ()
