"""Groups of parameters by name: what of a model is trained, and what stays as it is.

| group | is |
|---|---|
| vision_tower, audio_tower | the encoders up to their aligners |
| visual_aligner | what maps pictures into the decoder's space |
| audio_aligner | the same for sound; video-SALMONN 2: audio_queries, audio_qformer, audio_projection, ... |
| audio_norm | the norm before v1's Q-Former (frozen in the release) |
| decoder, lm_head | the language model and its output layer |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from avocet.errors import ConfigError
from avocet.models.lora import add_lora
from avocet.training.finetune.config import LoraSettings

V1_ALIGN = ("audio_queries", "audio_qformer", "audio_projection", "audio_mlp")
V1_SFT = ("visual_aligner", "audio_queries", "audio_qformer", "audio_mlp")
"""As released: the projection behind the Q-Former stays frozen, the visual aligner does not. With LoRA on q, k, v."""
PLUS_ALIGN = ("audio_queries", "audio_qformer", "audio_projection")
PLUS_SFT = ("visual_aligner", "audio_qformer", "audio_projection")
"""As released: the query token stays frozen, because PEFT could not store it. With LoRA on q, k, v."""
PAPER_ALIGN = PAPER_SFT = ("audio_aligner",)
"""video-SALMONN 2, the paper: the audio aligner alone, then with LoRA."""
AVOCADO_SFT = ("visual_aligner", "audio_aligner", "decoder", "lm_head")
"""AVoCaDO: adapters and language model; both encoders frozen."""

_DECODER = r"decoder\.model\."
_HEAD = r"decoder\.lm_head\."
_QWEN = r"thinker\.(?:model\.)?"
_VISUAL_ALIGNERS = r"(?:merger|deepstack_merger_list|merger_list)\."
_AUDIO_ALIGNERS = r"(?:proj|proj1|proj2)\."

_GROUPS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "Salmonn2Model": {
            "vision_tower": r"vision\.",
            "visual_aligner": r"visual_aligner\.",
            "audio_tower": r"audio_encoder\.",
            "audio_segments": r"segment_embedding\.",
            "audio_queries": r"query_tokens$",
            "audio_qformer": r"qformer\.",
            "audio_projection": r"audio_projection\.",
            "decoder": _DECODER,
            "lm_head": _HEAD,
        },
        "V1Model": {
            "vision_tower": r"vision\.",
            "visual_aligner": r"(?:visual_projection\.|newline$)",
            "audio_tower": r"audio\.encoder\.",
            "audio_norm": r"audio\.norm\.",
            "audio_queries": r"audio\.query_tokens$",
            "audio_qformer": r"audio\.qformer\.",
            "audio_projection": r"audio\.projection\.",
            "audio_mlp": r"audio\.mlp\.",
            "decoder": _DECODER,
            "lm_head": _HEAD,
        },
        "PlusModel": {
            "vision_tower": rf"visual\.(?!{_VISUAL_ALIGNERS})",
            "visual_aligner": rf"visual\.{_VISUAL_ALIGNERS}",
            "audio_tower": r"audio\.encoder\.",
            "audio_queries": r"audio\.query_tokens$",
            "audio_qformer": r"audio\.qformer\.",
            "audio_projection": r"audio\.projection\.",
            "decoder": _DECODER,
            "lm_head": _HEAD,
        },
        "QwenOmniModel": {
            "vision_tower": rf"{_QWEN}visual\.(?!{_VISUAL_ALIGNERS})",
            "visual_aligner": rf"{_QWEN}visual\.{_VISUAL_ALIGNERS}",
            "audio_tower": rf"{_QWEN}audio_tower\.(?!{_AUDIO_ALIGNERS})",
            "audio_aligner": rf"{_QWEN}audio_tower\.{_AUDIO_ALIGNERS}",
            "decoder": r"thinker\.model\.(?!visual\.|audio_tower\.)",
            "lm_head": r"thinker\.lm_head\.",
        },
    }
)
"""Class of the model -> group -> start of the names of its parameters."""
_AUDIO_ALIGNER = ("audio_segments", "audio_queries", "audio_qformer", "audio_projection", "audio_mlp")
"""What `audio_aligner` stands for where it is no group of its own."""
_NEVER_RUN: Mapping[str, str] = MappingProxyType({"V1Model": r"vision\.post_layernorm\."})


def groups_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Group -> names of its parameters, in the model's order; `audio_aligner` is always there.

    Raises:
        ConfigError: a class of models that has no groups here, or a parameter that is in none.
    """
    kind = type(model).__name__
    if kind not in _GROUPS:
        raise ConfigError(f"no groups of parameters are known for {kind}; fine-tuning knows {', '.join(_GROUPS)}")
    patterns = {name: re.compile(pattern) for name, pattern in _GROUPS[kind].items()}
    never = re.compile(_NEVER_RUN.get(kind, r"(?!)"))
    groups: dict[str, list[str]] = {name: [] for name in patterns}
    homeless = []
    for name, _ in model.named_parameters():
        if ".lora_" in name or never.match(name):
            continue
        found = [group for group, pattern in patterns.items() if pattern.match(name)]
        if len(found) == 1:
            groups[found[0]].append(name)
        else:
            homeless.append(name)
    if homeless:
        raise ConfigError(f"{kind}: parameters in no group or in several: {', '.join(homeless[:5])}")
    if "audio_aligner" not in groups:
        groups["audio_aligner"] = [name for part in _AUDIO_ALIGNER for name in groups.get(part, ())]
    return {group: tuple(names) for group, names in groups.items()}


def set_trainable(model: nn.Module, groups: Sequence[str], lora: LoraSettings | None = None) -> tuple[str, ...]:
    """Freeze the model but for the groups and a fresh adapter; names of the trained parameters, in the model's order.

    Raises:
        ConfigError: an unknown group, a group without parameters, or `decoder` together with LoRA.
        MissingExtraError: PEFT is not installed.
    """
    known = groups_of(model)
    unknown = sorted(set(groups) - known.keys())
    if unknown:
        raise ConfigError(f"unknown groups {', '.join(unknown)}; {type(model).__name__} has {', '.join(sorted(known))}")
    if lora is not None and "decoder" in groups:
        raise ConfigError("the decoder is trained through LoRA or as a whole; drop `lora` or the group `decoder`")
    empty = [group for group in groups if not known[group]]
    # Tied to the embeddings, which are trained with the decoder.
    empty = [group for group in empty if group != "lm_head"]
    if empty:
        raise ConfigError(f"this {type(model).__name__} has no parameters in {', '.join(empty)}")
    if lora is not None:
        decoder: Any = model
        add_lora(decoder, lora.rank, lora.alpha, lora.dropout, lora.targets)
    chosen = {name for group in groups for name in known[group]}
    names = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen or (lora is not None and ".lora_" in name))
        if parameter.requires_grad:
            names.append(name)
    return tuple(names)


def set_modes(model: nn.Module, backbone: nn.Module) -> None:
    """Training mode where something is trained, evaluation mode for the rest: a frozen part is a fixed function.

    Args:
        model: parameters as `set_trainable` left them.
        backbone: the decoder; its layers stay marked as training, without which transformers' gradient checkpointing
            does nothing.
    """
    model.train()
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
    for layer in decoder_layers(backbone):
        layer.training = True
    backbone.training = True


def decoder_layers(backbone: nn.Module) -> tuple[nn.Module, ...]:
    """The decoder's layers."""
    layers: Any = backbone.get_submodule("layers")
    return tuple(layers)


def describe_trainable(model: nn.Module, names: Sequence[str]) -> list[str]:
    """One line per group of what is trained and of what is frozen, to print before training."""
    trained = set(names)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    lines = []
    shown: set[str] = set()
    for group, members in groups_of(model).items():
        fresh = [name for name in members if name not in shown]
        shown.update(fresh)
        count = sum(sizes[name] for name in fresh if name in trained)
        if fresh:
            lines.append(f"{group}: {count:,} of {sum(sizes[name] for name in fresh):,} parameters are trained")
    adapter = sum(sizes[name] for name in names if ".lora_" in name)
    if adapter:
        lines.append(f"LoRA: {adapter:,} parameters are trained")
    return lines
