"""PEFT folders of any model: LoRA on the decoder, and what was trained beside it.

Names are those of the base that PEFT is given: our modules, or for a Qwen-Omni transformers' thinker. Layers are listed
by their whole names, since encoders have layers of the same last name. Whole layers that were trained beside LoRA are
`modules_to_save`; PEFT has no place for bare parameters (the query tokens of video-SALMONN 2) and skips them, although
the file holds them: `load_adapter_folder` is what puts everything back.

The adapters that video-SALMONN 2+ was released as have other names: see `salmonn2.adapters`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from avocet.errors import CheckpointError
from avocet.models.lora import add_lora, merge_lora

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


def save_adapter_folder(
    model: Any, folder: Path, names: Sequence[str], *, base: str, rank: int, alpha: float, dropout: float
) -> tuple[str, ...]:
    """Write the adapter of a model and everything else that was trained as a PEFT folder.

    Args:
        model: with its adapter attached.
        folder: is made.
        names: of the trained parameters.
        base: what `load_model` calls the model without the adapter.
        rank, alpha, dropout: of the adapter.

    Returns:
        Names of the bare parameters, which PEFT itself would leave out.
    """
    module: nn.Module = model
    root: str = model.adapter_root
    layers = {name.split(".lora_")[0] for name in names if ".lora_" in name}
    owners = {name.rpartition(".")[0] for name in names if ".lora_" not in name}
    # PEFT wants all that a saved module holds, so one that holds more than was trained cannot be saved.
    whole = {owner for owner in owners if owner and _all_of(module, owner) <= set(names)}
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": sorted(name.removeprefix(root) for name in layers),
        "modules_to_save": sorted(name.removeprefix(root) for name in whole),
        "bias": "none",
        "inference_mode": True,
    }
    tensors = {_exported(name.removeprefix(root)): module.get_parameter(name).detach() for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    save_file(
        {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()},
        folder / ADAPTER_WEIGHTS,
        metadata={"format": "pt"},
    )
    return tuple(name for name in names if ".lora_" not in name and name.rpartition(".")[0] not in whole)


def load_adapter_folder(model: Any, folder: Path, *, merge: bool = True) -> tuple[str, ...]:
    """Put an exported adapter onto its base; names of what it changed.

    Raises `CheckpointError` when the folder cannot be read or is of another model.
    """
    settings = read_adapter_config(folder)
    try:
        stored = load_file(folder / ADAPTER_WEIGHTS)
        rank, alpha, targets = int(settings["r"]), float(settings["lora_alpha"]), settings["target_modules"]
        dropout = float(settings["lora_dropout"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    add_lora(model, rank, alpha, dropout, sorted({target.rpartition(".")[2] for target in targets}))
    module: nn.Module = model
    parameters = dict(module.named_parameters())
    places = {_exported(name): name for name in parameters}
    places |= {_exported(name.removeprefix(model.adapter_root)): name for name in parameters}
    wrong = [
        name for name, tensor in stored.items() if name not in places or parameters[places[name]].shape != tensor.shape
    ]
    found = {places[name] for name in stored if name in places}
    missing = [name for name in parameters if ".lora_" in name and name not in found]
    if wrong or missing:
        raise CheckpointError(
            f"{folder}: the adapter is of another model: {len(wrong)} tensors fit no parameter "
            f"({', '.join(wrong[:3])}), {len(missing)} are missing ({', '.join(missing[:3])})"
        )
    with torch.no_grad():
        for name, tensor in stored.items():
            parameters[places[name]].copy_(tensor)
    if merge:
        merge_lora(model)
    return tuple(places[name] for name in stored)


def is_exported(folder: Path) -> bool:
    """Whether an adapter for a video-SALMONN 2 was written by Avocet and not by the release: by the names in it."""
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as stored:
            return any(name.startswith(f"{_PREFIX}decoder.") for name in stored.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise _unreadable(folder, error) from error


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The settings of a PEFT folder. Raises `CheckpointError` when they cannot be read."""
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{folder / ADAPTER_CONFIG}: not a JSON object")
    return settings


def _unreadable(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{folder}: no readable adapter ({type(error).__name__}: {error})")


def _all_of(module: nn.Module, owner: str) -> set[str]:
    """Names of all that a part of a module holds, buffers included."""
    return {f"{owner}.{name}" for name in module.get_submodule(owner).state_dict()}


def _exported(name: str) -> str:
    """PEFT leaves the adapter's own name out."""
    return _PREFIX + name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")
