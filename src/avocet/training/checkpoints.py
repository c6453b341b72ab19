"""Training checkpoints that resume to the bit: weights, optimizer moments and the step, without pickle.

A checkpoint is a folder `checkpoint-N` with `weights.safetensors` (float32, by parameter name),
`optimizer.safetensors` (AdamW moments, by parameter name) and `state.json`. It is written under another
name and renamed when complete, so a kill never leaves half a checkpoint. Everything random in training
is a function of the stage's seed and the step, so the step is all the state there is beside the tensors.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from avocet.errors import CheckpointError

_KEEP = 2
_NAME = re.compile(r"checkpoint-([0-9]+)")


def _own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """State by name, each storage once (tied weights appear under their first name)."""
    return {name: parameter.detach().contiguous() for name, parameter in module.named_parameters()}


def save_checkpoint(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Path:
    """Write `checkpoint-{step}` below `folder` and delete all but the newest two."""
    target = folder / f"checkpoint-{step}"
    partial = folder / f"checkpoint-{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_own_tensors(module), partial / "weights.safetensors")
    moments: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            moments[f"{key}/{name}"] = torch.as_tensor(value).detach().contiguous()
    save_file(moments, partial / "optimizer.safetensors")
    (partial / "state.json").write_text(json.dumps({"step": step}))
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for _, old in checkpoints(folder)[:-_KEEP]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints as (step, path), oldest first; copies under other names are not among them."""
    named = [(_NAME.fullmatch(path.name), path) for path in folder.glob("checkpoint-*")]
    return sorted((int(match[1]), path) for match, path in named if match is not None)


def load_weights(path: Path, module: nn.Module, prefixes: tuple[str, ...] = ()) -> int:
    """Copy the weights of a checkpoint (only those whose names start with one of `prefixes`, if given).

    Returns how many tensors were copied. Raises `CheckpointError` for unknown names or other shapes.
    """
    stored = load_file(path / "weights.safetensors")
    parameters = dict(module.named_parameters())
    count = 0
    for name, tensor in stored.items():
        if prefixes and not name.startswith(prefixes):
            continue
        if name not in parameters:
            raise CheckpointError(f"{path}: {name} is not a parameter of this model; was the recipe's model changed?")
        if parameters[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, the model wants {tuple(parameters[name].shape)}"
            )
        with torch.no_grad():
            parameters[name].copy_(tensor)
        count += 1
    return count


def restore(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bring module and optimizer back to the checkpoint; returns its step."""
    step = int(json.loads((path / "state.json").read_text())["step"])
    load_weights(path, module)
    stored = load_file(path / "optimizer.safetensors")
    for name, parameter in module.named_parameters():
        keys = {key.split("/", 1)[0]: key for key in stored if key.split("/", 1)[1] == name}
        if keys:
            optimizer.state[parameter] = {short: stored[key].clone() for short, key in keys.items()}
    return step
