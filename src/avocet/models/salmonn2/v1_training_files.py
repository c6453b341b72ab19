"""What the released v1 training code writes: `.bin` checkpoints, and LoRA tensors under the names of its wrapped model.

A training run folder holds `all_parameters.bin`, everything as it was at the first save, and `checkpoint-N.bin`, what
was trained as it is after N steps; a checkpoint is the second laid over the first. Names begin with `module.`
(DeepSpeed) and, with LoRA, `base_model.model.` (PEFT), where a wrapped layer's own weight is called `base_layer`.

`.bin` files are pickles. They are read only when the caller says so, and then by PyTorch's restricted unpickler, which
makes tensors and plain containers and refuses everything else.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from avocet.errors import CheckpointError
from avocet.models.loading import folder_tokenizer, listed, read_config
from avocet.models.lora import add_lora
from avocet.models.registry import ModelOptions
from avocet.models.salmonn2.v1 import V1Model
from avocet.models.salmonn2.v1_config import V1Rule
from avocet.models.salmonn2.v1_loading import (
    empty_model,
    our_name,
    reading_config,
    released_config,
    tied_keys,
)
from avocet.models.weights import StoredTensors, fill_model

ALL_PARAMETERS = "all_parameters.bin"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.bin")
_WRAPPERS = ("module.", "base_model.model.")
_LORA = re.compile(r"(.+)\.lora_([AB])\.(?:default\.)?weight")


def load_v1_bin(
    path: str | Path,
    base: str | Path | None = None,
    *,
    allow_pickle: bool = False,
    lora_alpha: float | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    layout: V1Rule | None = None,
    tokenizer: Any = None,
    sizes: Mapping[str, int] | None = None,
    options: ModelOptions | None = None,
) -> V1Model:
    """Read a training checkpoint, its LoRA merged (W + alpha / rank * B A, in float32), in evaluation mode.

    Args:
        path: a run folder (its latest checkpoint is taken), a `checkpoint-N.bin` or an `all_parameters.bin`.
        base: folder of the model that the run started from, whose `config.json` and tokenizer are taken; None for the
            run folder's own. Weights are taken from the `.bin` files only.
        allow_pickle: must be true: pickles of unknown origin are not to be opened unasked.
        lora_alpha: None takes that of the `model_args` in `config.json`.
        device, dtype, layout, tokenizer, sizes, options: as in `load_v1`.

    Raises:
        CheckpointError: pickles are not allowed, files are missing, hold more than tensors, or do not fit the config.
        ConfigError: as in `load_v1`.
    """
    path = Path(path)
    if not allow_pickle:
        raise CheckpointError(
            f"{path}: training checkpoints (.bin) are pickles, which are not opened unasked; if you trust their "
            "source, pass --allow-pickle (allow_pickle=True)"
        )
    files = _checkpoint_files(path)
    folder = files[0].parent if base is None else Path(base)
    data = read_config(folder)
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors |= _read_pickle(file)
    stored = _MergedTensors(tensors, lora_alpha if lora_alpha is not None else _config_alpha(data), files[-1])
    config = reading_config(released_config(data, stored, files[-1], sizes), layout, options)
    model = empty_model(config, tokenizer or folder_tokenizer(folder), device, dtype)
    fill_model(model, stored, files[-1], our_name, skipped=tied_keys(config))
    return model.eval()


def load_lora_weights(model: V1Model, path: str | Path, alpha: float) -> list[torch.nn.Parameter]:
    """Attach the LoRA tensors of a safetensors file to the decoder, scaled by alpha / rank, and return them.

    With the adapter the model is the policy; `avocet.models.lora` switches it off (the reference) or merges it.

    Raises:
        CheckpointError: an unreadable file, tensors that are no LoRA of this decoder, or layers without any.
        ConfigError: the decoder has an adapter already.
    """
    path = Path(path)
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    given, others = {}, []
    for name, tensor in stored.items():
        match = _LORA.fullmatch(_unwrapped(name))
        if match is None:
            others.append(name)
        else:
            given[match[1], match[2]] = tensor
    ranks = {len(tensor) for (_, part), tensor in given.items() if part == "A"}
    if others or len(ranks) != 1:
        raise CheckpointError(
            f"{path}: must hold LoRA tensors of one rank and nothing else, got ranks {sorted(ranks)} and these other "
            f"tensors: {listed(others) or 'none'}"
        )
    rank, targets = ranks.pop(), sorted({layer.rsplit(".", 1)[-1] for layer, _ in given})
    _check_lora(model, {place: tuple(tensor.shape) for place, tensor in given.items()}, rank, targets, path)
    added = add_lora(model, rank, alpha, target_modules=targets)
    parameters = dict(model.decoder.named_parameters())
    with torch.no_grad():
        for (layer, part), tensor in given.items():
            parameters[f"{layer}.lora_{part}.default.weight"].copy_(tensor)
    return added


def _check_lora(
    model: V1Model, given: Mapping[tuple[str, str], tuple[int, ...]], rank: int, targets: Sequence[str], path: Path
) -> None:
    """Raise `CheckpointError` unless each decoder layer of these names, and no other, has its two tensors."""
    expected: dict[tuple[str, str], tuple[int, ...]] = {}
    for name, part in model.decoder.named_modules():
        if isinstance(part, torch.nn.Linear) and name.rsplit(".", 1)[-1] in targets:
            expected[name, "A"], expected[name, "B"] = (rank, part.in_features), (part.out_features, rank)
    wrong = [place for place in sorted(expected.keys() | given.keys()) if expected.get(place) != given.get(place)]
    if wrong:
        problems = [
            f"{layer}.lora_{part} is {given.get((layer, part), 'missing')}, the decoder needs "
            f"{expected.get((layer, part), 'none')}"
            for layer, part in wrong
        ]
        raise CheckpointError(f"{path}: {len(wrong)} LoRA tensors do not fit: {listed(problems, 3)}")


class _MergedTensors(StoredTensors):
    """Training tensors as if their LoRA had never been apart; a sum is made when it is read."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], alpha: float | None, place: Path) -> None:
        named = {_unwrapped(name): tensor for name, tensor in tensors.items()}
        self._tensors = {name: tensor for name, tensor in named.items() if not _LORA.fullmatch(name)}
        super().__init__(self._tensors)
        self._lora: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in named.items():
            if match := _LORA.fullmatch(name):
                self._lora.setdefault(f"{match[1]}.weight", {})[match[2]] = tensor
        broken = sorted(
            name
            for name, pair in self._lora.items()
            if pair.keys() != {"A", "B"}
            or name not in self._tensors
            or len(pair["A"]) != pair["B"].shape[1]
            or self._tensors[name].shape != (len(pair["B"]), pair["A"].shape[1])
        )
        if broken:
            raise CheckpointError(f"{place}: LoRA tensors without their layer or of another shape: {listed(broken)}")
        if self._lora and alpha is None:
            raise CheckpointError(
                f"{place}: holds LoRA, whose scale config.json does not say (model_args.lora_alpha); give lora_alpha"
            )
        self._alpha = alpha or 0.0

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def read(self, name: str) -> torch.Tensor:
        weight = self._tensors[name]
        if name not in self._lora:
            return weight
        down, up = self._lora[name]["A"].float(), self._lora[name]["B"].float()
        return weight.float() + self._alpha / len(down) * (up @ down)


def _unwrapped(name: str) -> str:
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name.replace(".base_layer.", ".")


def _checkpoint_files(path: Path) -> list[Path]:
    """`all_parameters.bin`, then the checkpoint to lay over it."""
    folder = path if path.is_dir() else path.parent
    whole = folder / ALL_PARAMETERS
    if not whole.is_file():
        raise CheckpointError(
            f"{folder}: no {ALL_PARAMETERS}; a checkpoint-N.bin holds only what was trained and needs it beside it"
        )
    if path.is_dir():
        steps = {int(match[1]): file for file in path.iterdir() if (match := _CHECKPOINT.fullmatch(file.name))}
        return [whole, steps[max(steps)]] if steps else [whole]
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return [whole] if path.name == ALL_PARAMETERS else [whole, path]


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        # Mapped, not read: a tensor takes memory only while it is copied into the model.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        text = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: not a PyTorch file of tensors alone ({text})") from error
    if not isinstance(content, Mapping) or not all(isinstance(part, torch.Tensor) for part in content.values()):
        raise CheckpointError(f"{path}: must hold tensors by name, got {type(content).__name__}")
    return {str(name): tensor for name, tensor in content.items()}


def _config_alpha(data: Mapping[str, Any]) -> float | None:
    arguments = data.get("model_args")
    alpha = arguments.get("lora_alpha") if isinstance(arguments, Mapping) else None
    return float(alpha) if isinstance(alpha, int | float) else None
