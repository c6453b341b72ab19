"""Checkpoints of fine-tuning that resume to the last digit, on however many processes.

A checkpoint is a folder `checkpoint-N`: `weights.safetensors` (trained parameters by name, whole and in float32),
`optimizer.safetensors` (their moments), `ema.safetensors` where there is one, and `state.json`. It is written under
another name and renamed when complete, so a kill never leaves half a checkpoint in use. Which examples step N reads and
what dropout draws are functions of the seed and N, so the step is all the position there is.

Under FSDP2 and ZeRO every tensor is put together on all processes and written by the first one.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from avocet.errors import CheckpointError
from avocet.training.checkpoints import checkpoints
from avocet.training.finetune.engine import Engine

WEIGHTS_FILE = "weights.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
EMA_FILE = "ema.safetensors"
STATE_FILE = "state.json"
_FORMAT = 1
_Moments = dict[str, dict[str, torch.Tensor]]
"""Name of the parameter -> name of the moment -> value."""
_OF_DEEPSPEED = ("exp_avg", "exp_avg_sq")


def save_checkpoint(folder: Path, engine: Engine, step: int, keep: int) -> Path:
    """Write `checkpoint-{step}` and delete all but the newest `keep`; called by all processes together."""
    weights = _on_main(engine, ((name, _whole_weight(engine, value)) for name, value in engine.parameters().items()))
    moments = _on_main(engine, _moments(engine))
    average = _on_main(engine, ((name, _whole(value)) for name, value in engine.ema.items()))
    target = folder / f"checkpoint-{step}"
    if engine.is_main:
        partial = folder / f"checkpoint-{step}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(weights, partial / WEIGHTS_FILE)
        save_file(moments, partial / OPTIMIZER_FILE)
        if average:
            save_file(average, partial / EMA_FILE)
        state = {
            "format": _FORMAT,
            "step": step,
            "seed": engine.config.seed,
            "optimizer": engine.config.optimizer.kind,
            "refused_in_a_row": engine.refused_in_a_row,
        }
        (partial / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        _put_in_place(partial, target)
        for _, old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    engine.accelerator.wait_for_everyone()
    return target


def load_weights(path: Path, model: nn.Module, names: tuple[str, ...], file: str = WEIGHTS_FILE) -> None:
    """Copy the weights of a checkpoint into a model, before it is wrapped.

    Raises:
        CheckpointError: the checkpoint does not hold exactly these parameters, or in other shapes.
    """
    stored = _read(path / file)
    _check_names(path, stored, names)
    for name in names:
        parameter = model.get_parameter(name)
        if parameter.shape != stored[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(stored[name].shape)}, the model wants {tuple(parameter.shape)}"
            )
        with torch.no_grad():
            # The stored float32 must not be rounded to what the frozen weights are kept in.
            parameter.data = stored[name].to(parameter.device, torch.float32)


def restore_optimizer(path: Path, engine: Engine) -> int:
    """Give a prepared engine the moments (and the average) of a checkpoint; returns its step.

    Raises `CheckpointError` for a checkpoint of another kind of optimizer.
    """
    state = read_state(path)
    if state["optimizer"] != engine.config.optimizer.kind:
        raise CheckpointError(f"{path} is of the optimizer {state['optimizer']}, not {engine.config.optimizer.kind}")
    by_name: _Moments = {}
    for key, tensor in _read(path / OPTIMIZER_FILE).items():
        short, _, name = key.partition("/")
        by_name.setdefault(name, {})[short] = tensor
    if engine.is_deepspeed:
        _restore_deepspeed(engine, _read(path / WEIGHTS_FILE), by_name)
    else:
        inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
        for name, parameter in engine.parameters().items():
            if name in by_name:
                inner.state[parameter] = {short: _share(tensor, parameter) for short, tensor in by_name[name].items()}
    if engine.ema:
        average = _read(path / EMA_FILE)
        engine.ema = {name: _share(average[name], parameter) for name, parameter in engine.parameters().items()}
    engine.refused_in_a_row = int(state["refused_in_a_row"])
    return int(state["step"])


def read_state(path: Path) -> dict[str, Any]:
    """The facts of a checkpoint. Raises `CheckpointError` when they cannot be read."""
    try:
        state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        if state["format"] != _FORMAT:
            raise CheckpointError(f"{path}: written in format {state['format']}, this version reads {_FORMAT}")
        return {key: state[key] for key in ("step", "seed", "optimizer", "refused_in_a_row")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: no readable {STATE_FILE} ({type(error).__name__}: {error})") from error


def _on_main(engine: Engine, tensors: Iterator[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """All processes put each tensor together, one after another; only the first one keeps it."""
    kept = {}
    for name, tensor in tensors:
        if engine.is_main:
            kept[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return kept


def _moments(engine: Engine) -> Iterator[tuple[str, torch.Tensor]]:
    if engine.is_deepspeed:
        yield from _deepspeed_moments(engine)
        return
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for name, parameter in engine.parameters().items():
        for key, value in inner.state.get(parameter, {}).items():
            yield f"{key}/{name}", _whole(torch.as_tensor(value))


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    full: Any = tensor
    return full.full_tensor() if hasattr(full, "full_tensor") else tensor


def _whole_weight(engine: Engine, parameter: nn.Parameter) -> torch.Tensor:
    if not engine.is_deepspeed:
        return _whole(parameter)
    weight: torch.Tensor = _deepspeed_utils().safe_get_full_fp32_param(parameter)
    return weight.view(_whole_shape(parameter))


def _whole_shape(parameter: Any) -> torch.Size:
    shape: torch.Size = parameter.ds_shape if hasattr(parameter, "ds_shape") else parameter.shape
    return shape


def _deepspeed_moments(engine: Engine) -> Iterator[tuple[str, torch.Tensor]]:
    _link_deepspeed(engine)
    inner = _deepspeed_optimizer(engine).optimizer
    steps = [float(state["step"]) for state in inner.state.values()]
    for name, parameter in engine.parameters().items():
        for key in _OF_DEEPSPEED:
            moment = _deepspeed_utils().safe_get_full_optimizer_state(parameter, key)
            yield f"{key}/{name}", moment.view(_whole_shape(parameter))
        yield f"step/{name}", torch.tensor(max(steps, default=0.0))


def _deepspeed_utils() -> Any:
    return importlib.import_module("deepspeed.utils")


def _deepspeed_optimizer(engine: Engine) -> Any:
    return engine.accelerator.deepspeed_engine_wrapped.engine.optimizer


def _link_deepspeed(engine: Engine) -> None:
    """Tell ZeRO-1 and -2 where the moments of each parameter are.

    DeepSpeed does so after the step of the first group of parameters, when those of the second have none yet.
    """
    zero = _deepspeed_optimizer(engine)
    if not hasattr(zero, "bit16_groups"):
        return
    linkage: Any = importlib.import_module("deepspeed.utils.mixed_precision_linkage")
    for parameters, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        state = zero.optimizer.state[flat]
        if not state:
            state["step"] = torch.tensor(0.0)
            state |= {key: torch.zeros_like(flat) for key in _OF_DEEPSPEED}
        linkage.lazy_init_hp_params_optimizer_state(parameters, flat, zero.optimizer.state)


def _restore_deepspeed(engine: Engine, weights: Mapping[str, torch.Tensor], moments: _Moments) -> None:
    utils = _deepspeed_utils()
    _link_deepspeed(engine)
    for name, parameter in engine.parameters().items():
        utils.safe_set_full_fp32_param(parameter, weights[name])
        for key in _OF_DEEPSPEED:
            utils.safe_set_full_optimizer_state(parameter, moments[name][key], key)
    step = next(iter(moments.values()))["step"]
    for state in _deepspeed_optimizer(engine).optimizer.state.values():
        state["step"] = step.clone()


def _share(tensor: torch.Tensor, parameter: Any) -> torch.Tensor:
    """A stored tensor as this process holds it: sharded like its parameter where that is."""
    on_device = tensor.to(parameter.device) if tensor.ndim else tensor.clone()
    if not hasattr(parameter, "device_mesh") or tensor.shape != parameter.shape:
        return on_device
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(on_device, parameter.device_mesh, parameter.placements)


def _put_in_place(partial: Path, target: Path) -> None:
    for file in partial.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _check_names(path: Path, stored: Mapping[str, torch.Tensor], names: tuple[str, ...]) -> None:
    missing, unknown = sorted(set(names) - stored.keys()), sorted(stored.keys() - set(names))
    if missing or unknown:
        raise CheckpointError(
            f"{path}: holds other parameters than are trained: {len(missing)} are missing ({', '.join(missing[:3])}), "
            f"{len(unknown)} are too many ({', '.join(unknown[:3])})"
        )
