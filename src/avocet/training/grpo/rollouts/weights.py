"""The policy of now as files, for engines that read them; the trainer's model is left as it was.

`write_merged` writes what `training.finetune.export` would write as "merged", without reading a run folder;
`write_adapter` a PEFT folder. Both appear at once under their final name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from avocet.errors import ConfigError
from avocet.training.finetune.export import ADAPTER_CONFIG, ADAPTER_WEIGHTS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ADAPTER = "default"
_PEFT = "base_model.model."
_INNER = "_thinker"
"""How the `model_type` of a checkpoint ends that is the thinker of an omni model alone."""


@torch.no_grad()
def write_merged(model: Any, folder: Path, dtype: str) -> None:
    """Write the whole model with its adapter added (in float32, then rounded).

    A checkpoint that is the thinker of an omni model is written as the whole model's, weights under `thinker.`: engines
    know only that form.

    Raises `ConfigError` for an unknown dtype or a folder that is there.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    with _new_folder(folder) as place:
        with _merged(model):
            model.save(place, DTYPES[dtype])
        _wrap_thinker(place)


@torch.no_grad()
def write_adapter(model: Any, folder: Path, base: str, renames: Sequence[tuple[str, str]] = ()) -> None:
    """Write the adapter alone as a PEFT folder.

    Args:
        model: with an adapter.
        folder: to be made.
        base: name of the base model, for `adapter_config.json`.
        renames: (old, new) beginnings of layer names, where the engine spells them in another way; the first that fits
            counts.

    Raises `ConfigError` without an adapter, when other weights than the adapter's are trained (the engine would go on
    with the old ones), and for a folder that is there.
    """
    layers = adapter_layers(model)
    if not layers:
        raise ConfigError("the policy has no adapter; synchronise it as a merged checkpoint")
    other = [name for name, part in model.named_parameters() if part.requires_grad and ".lora_" not in name]
    if other:
        raise ConfigError(
            f"{len(other)} weights beside the adapter are trained ({', '.join(other[:3])}); an adapter alone would "
            'leave them behind in the engine. Set sync="merged"'
        )
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in layers:
        place = _PEFT + _renamed(name, renames)
        tensors[f"{place}.lora_A.weight"] = layer.lora_A[_ADAPTER].weight.float().cpu().contiguous()
        tensors[f"{place}.lora_B.weight"] = layer.lora_B[_ADAPTER].weight.float().cpu().contiguous()
    first = layers[0][1]
    rank = int(first.r[_ADAPTER])
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": float(first.scaling[_ADAPTER]) * rank,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name, _ in layers}),
        "bias": "none",
        "inference_mode": True,
    }
    with _new_folder(folder) as place_:
        (place_ / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, place_ / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def adapter_layers(model: Any) -> list[tuple[str, Any]]:
    """(name, layer) of every layer with an adapter."""
    module: nn.Module = model
    return [(name, part) for name, part in module.named_modules() if hasattr(part, "lora_A")]


@contextmanager
def _merged(model: Any) -> Iterator[None]:
    """The model with plain layers in the place of adapted ones; the adapted ones come back as they were."""
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for name, layer in adapter_layers(model):
            base = layer.get_base_layer()
            up, down = layer.lora_B[_ADAPTER].weight.float(), layer.lora_A[_ADAPTER].weight.float()
            weight = (base.weight.float() + layer.scaling[_ADAPTER] * (up @ down)).to(base.weight.dtype)
            parent, _, child = name.rpartition(".")
            holder = model.get_submodule(parent)
            # On the CPU: a second copy of the decoder may not fit beside the training.
            plain = nn.Linear(weight.shape[1], weight.shape[0], bias=base.bias is not None, device="meta")
            plain.weight = nn.Parameter(weight.cpu(), requires_grad=False)
            if base.bias is not None:
                plain.bias = nn.Parameter(base.bias.detach().cpu(), requires_grad=False)
            replaced.append((holder, child, layer))
            setattr(holder, child, plain)
        yield
    finally:
        for holder, child, layer in replaced:
            setattr(holder, child, layer)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that gets its name when all is in it."""
    if folder.exists():
        raise ConfigError(f"{folder} exists; give each run its own folder for weights")
    place = folder.with_name(folder.name + ".writing")
    shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
    place.mkdir(parents=True)
    yield place
    place.rename(folder)


def _wrap_thinker(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    kind = str(config.get("model_type", ""))
    if not kind.endswith(_INNER):
        return
    outer = kind.removesuffix(_INNER)
    names = {"qwen2_5_omni": "Qwen2_5OmniModel", "qwen3_omni_moe": "Qwen3OmniMoeForConditionalGeneration"}
    whole = {"model_type": outer, "thinker_config": config, "enable_audio_output": False, "enable_talker": False}
    if outer in names:
        whole["architectures"] = [names[outer]]
    for shard in sorted(folder.glob("*.safetensors")):
        tensors = {f"thinker.{name}": tensor for name, tensor in load_file(shard).items()}
        # Not over the file itself: what was loaded may still be mapped from it.
        renamed = shard.with_name(shard.name + ".renamed")
        save_file(tensors, renamed, metadata={"format": "pt"})
        del tensors
        renamed.replace(shard)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        data = json.loads(index.read_text(encoding="utf-8"))
        data["weight_map"] = {f"thinker.{name}": shard for name, shard in data["weight_map"].items()}
        index.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def _renamed(name: str, renames: Sequence[tuple[str, str]]) -> str:
    for old, new in renames:
        if name.startswith(old):
            return new + name[len(old) :]
    return name
