"""LoRA on the decoder through PEFT: add, switch off, merge in float32.

For round-wise preference training (the papers' "LoRA proxy"): W_t = W_{t-1} + scale * B A, scale = alpha / rank, then
a fresh random adapter for the next round. Switched off, the adapter leaves the merged model of the round before: the
reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from avocet.errors import ConfigError, MissingExtraError

DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ADAPTER = "default"


class HasDecoder(Protocol):
    """A model whose language model is its submodule `decoder`."""

    @property
    def decoder(self) -> nn.Module: ...


def add_lora(
    model: HasDecoder,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    target_modules: Sequence[str] | None = None,
) -> list[nn.Parameter]:
    """Add a fresh adapter to the decoder's linear layers of these names and return its parameters.

    Without names it goes to those of `DEFAULT_TARGETS` that the decoder has as linear layers: all of them in a dense
    decoder, the attention in a mixture of experts.
    The adapter starts as the identity (B = 0), its scale is alpha / rank. Every other decoder parameter is frozen;
    what lies outside the decoder keeps its `requires_grad`.

    Raises:
        ConfigError: an adapter is there already, or no layer has one of the names.
        MissingExtraError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtraError("LoRA", "train") from error
    if rank < 1:
        raise ConfigError(f"LoRA rank must be >= 1, got {rank}")
    if _lora_layers(model.decoder):
        raise ConfigError("the decoder already has an adapter; merge_lora it first")
    available = {name.rsplit(".", 1)[-1] for name, part in model.decoder.named_modules() if isinstance(part, nn.Linear)}
    if target_modules is None:
        target_modules = [name for name in DEFAULT_TARGETS if name in available]
    unknown = sorted(set(target_modules) - available)
    if unknown or not target_modules:
        raise ConfigError(
            f"no decoder layer named {', '.join(unknown) or '(none given)'}; there are: {sorted(available)}"
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT only divides it by r
        lora_dropout=dropout,
        target_modules=list(target_modules),
    )
    inject_adapter_in_model(config, model.decoder, adapter_name=_ADAPTER)
    # New layers come in training mode, where dropout would disturb a model that is being evaluated.
    for _, layer in _lora_layers(model.decoder):
        layer.train(model.decoder.training)
    return lora_parameters(model)


def lora_parameters(model: HasDecoder) -> list[nn.Parameter]:
    """The adapter's parameters, empty without one."""
    return [parameter for name, parameter in model.decoder.named_parameters() if ".lora_" in name]


@contextmanager
def lora_disabled(model: HasDecoder) -> Iterator[None]:
    """Run the decoder without its adapter: exactly the model before `add_lora`."""
    layers = _lora_layers(model.decoder)
    for _, layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for _, layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def merge_lora(model: HasDecoder) -> None:
    """Add the adapter to the weights, computed in float32, and remove it.

    The sum is kept in the type of the weights: to lose nothing of a small adapter, load the model in float32. The
    merged weights stay frozen, as `add_lora` left them. Raises `ConfigError` without an adapter.
    """
    layers = _lora_layers(model.decoder)
    if not layers:
        raise ConfigError("the decoder has no adapter to merge; add_lora first")
    for name, layer in layers:
        base = layer.get_base_layer()
        up, down = layer.lora_B[_ADAPTER].weight.float(), layer.lora_A[_ADAPTER].weight.float()
        base.weight.copy_(base.weight.float() + layer.scaling[_ADAPTER] * (up @ down))
        parent, _, child = name.rpartition(".")
        setattr(model.decoder.get_submodule(parent), child, base)
    # PEFT leaves its settings on the model, and warns of two adapters when the next one comes.
    del model.decoder.peft_config


def _lora_layers(decoder: nn.Module) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in decoder.named_modules() if hasattr(part, "lora_A")]
