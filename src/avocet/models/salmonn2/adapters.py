"""PEFT adapters of video-SALMONN 2+: LoRA on the decoder's q, k and v, and whole modules trained beside it.

The releases `video-SALMONN-2_plus_*` are such adapters for the `audioAlign` checkpoints. They lack one tensor that was
trained: the Q-Former's query token is a bare parameter, which PEFT does not store. A merged model therefore differs
from the released `_full` checkpoint there, and every caption says so.

A model with an attached adapter is the policy; inside `adapter_disabled` it is exactly the base, replaced modules
included: the reference of preference training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from avocet.errors import CheckpointError
from avocet.models.loading import listed
from avocet.models.lora import add_lora, lora_disabled, merge_lora
from avocet.models.salmonn2.plus import PlusModel
from avocet.models.salmonn2.plus_loading import QFORMER_PREFIX, check_position_ids, our_name
from avocet.models.salmonn2.released_keys import POSITION_IDS
from avocet.models.weights import StoredTensors, stored_tensors

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
QUERY_WARNING = (
    "the adapter has no query token (PEFT cannot store it): that of the base is used, which differs from the released "
    "_full checkpoint; use a _full checkpoint for published numbers"
)
TRAINED_MODULES = ("visual.merger.", "audio.qformer.", "audio.projection.")
"""What the release trains beside LoRA, in our names."""

_LORA = re.compile(r"model\.layers\.(\d+)\.self_attn\.([qkv]_proj)\.lora_([AB])\.weight")
_UNSUPPORTED = ("use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform", "trainable_token_indices")


def load_adapter(model: PlusModel, folder: str | Path, *, merge: bool = True) -> tuple[str, ...]:
    """Put a released adapter onto its base.

    Args:
        model: the base, an `audioAlign` checkpoint.
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        merge: add it to the weights (W + scale B A, computed in float32); else attach it, to be trained on or switched
            off with `adapter_disabled`.

    Returns:
        Warnings; captions of the model carry them too.

    Raises:
        CheckpointError: files are missing, tensors do not fit the model, or PEFT settings that change the arithmetic.
    """
    folder = Path(folder)
    settings = _read_settings(folder)
    with stored_tensors(folder, WEIGHTS_FILE) as stored:
        check_position_ids(stored, PREFIX + QFORMER_PREFIX + POSITION_IDS, folder)
        lora, modules = _sort_names(stored, folder)
        _check_shapes(model, stored, modules, folder)
        rank = _rank(stored, lora, settings, folder)
        add_lora(model, rank, settings["scale"] * rank, settings["dropout"], sorted({target for _, target, _ in lora}))
        _copy_lora(model, stored, lora, folder)
        originals = _replace_modules(model, stored, modules)
    warnings = () if "audio.query_tokens" in modules else (QUERY_WARNING,)
    model.add_notes(warnings)
    if merge:
        merge_lora(model)
    else:
        model.replaced = originals
    return warnings


@contextmanager
def adapter_disabled(model: PlusModel) -> Iterator[None]:
    """The base model: LoRA off and the replaced modules' own weights back, without gradients."""
    parameters = dict(model.named_parameters())
    trained = {name: parameters[name].data for name in model.replaced}
    try:
        for name, original in model.replaced.items():
            parameters[name].data = original
        with lora_disabled(model), torch.no_grad():
            yield
    finally:
        for name, data in trained.items():
            parameters[name].data = data


def train_released_parts(model: PlusModel) -> list[str]:
    """Make trainable what the release trains, freeze the rest, and return the names.

    LoRA, the Q-Former, its projection and the visual merger; not the query token, as in the release. (The release also
    leaves Whisper's layers marked as trainable, because they are set aside while PEFT freezes the model, but documents
    them as frozen and stores none of them.)
    """
    names = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".lora_" in name or name.startswith(TRAINED_MODULES)
        if parameter.requires_grad:
            names.append(name)
    return names


def _read_settings(folder: Path) -> dict[str, Any]:
    """Scale and dropout of the adapter."""
    path = folder / CONFIG_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        rank, alpha = int(data["r"]), float(data["lora_alpha"])
        dropout = float(data.get("lora_dropout") or 0.0)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: no {CONFIG_FILE}; it is no PEFT adapter") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a LoRA configuration ({type(error).__name__}: {error})") from error
    wrong = [name for name in _UNSUPPORTED if data.get(name)]
    if data.get("peft_type") != "LORA" or data.get("bias", "none") != "none" or wrong or rank < 1:
        raise CheckpointError(
            f"{path}: only plain LoRA is supported (peft_type LORA, bias none, r >= 1, none of "
            f"{', '.join(_UNSUPPORTED)}); it has peft_type {data.get('peft_type')!r}, bias {data.get('bias')!r}, "
            f"r {rank}, {', '.join(wrong) or 'none of these'}"
        )
    scale = alpha / rank**0.5 if data.get("use_rslora") else alpha / rank
    return {"rank": rank, "scale": scale, "dropout": dropout}


def _sort_names(stored: StoredTensors, folder: Path) -> tuple[dict[tuple[int, str, str], str], dict[str, str]]:
    """LoRA tensors by (layer, target, "A" or "B"), and module tensors by our name; values are stored names."""
    lora, modules, unknown = {}, {}, []
    for name in sorted(stored.names()):
        inner = name.removeprefix(PREFIX)
        if inner == name:
            unknown.append(name)
        elif (match := _LORA.fullmatch(inner)) is not None:
            lora[int(match[1]), match[2], match[3]] = name
        elif (ours := our_name(inner)) is None or ".lora_" in inner:
            unknown.append(name)
        elif ours:
            modules[ours] = name
    if unknown:
        raise CheckpointError(f"{folder}: {len(unknown)} tensors that no part of the model takes: {listed(unknown)}")
    if not lora:
        raise CheckpointError(f"{folder}: no LoRA tensors of the decoder's q, k and v projections")
    return lora, modules


def _check_shapes(model: PlusModel, stored: StoredTensors, modules: Mapping[str, str], folder: Path) -> None:
    state = model.state_dict()
    wrong = [
        f"{name} is {stored.shape(name)}, the model has {tuple(state[ours].shape) if ours in state else 'no such part'}"
        for ours, name in modules.items()
        if ours not in state or stored.shape(name) != tuple(state[ours].shape)
    ]
    if wrong:
        raise CheckpointError(f"{folder}: the adapter is for another model: {listed(wrong)}")


def _rank(
    stored: StoredTensors, lora: Mapping[tuple[int, str, str], str], settings: Mapping[str, Any], folder: Path
) -> int:
    ranks = {stored.shape(name)[0 if part == "A" else 1] for (_, _, part), name in lora.items()}
    if ranks != {settings["rank"]}:
        raise CheckpointError(f"{folder}: LoRA tensors of rank {sorted(ranks)}, {CONFIG_FILE} says {settings['rank']}")
    return int(settings["rank"])


@torch.no_grad()
def _copy_lora(model: PlusModel, stored: StoredTensors, lora: Mapping[tuple[int, str, str], str], folder: Path) -> None:
    parameters = {
        name: parameter
        for name, parameter in model.decoder.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }
    missing = set(parameters)
    for (layer, target, part), name in lora.items():
        ours = f"model.layers.{layer}.self_attn.{target}.lora_{part}.default.weight"
        if ours not in parameters or tuple(parameters[ours].shape) != stored.shape(name):
            raise CheckpointError(f"{folder}: {name} {stored.shape(name)} fits no layer of the decoder")
        parameters[ours].copy_(stored.read(name))
        missing.discard(ours)
    if missing:
        raise CheckpointError(f"{folder}: the adapter lacks {len(missing)} LoRA tensors: {listed(sorted(missing))}")


@torch.no_grad()
def _replace_modules(model: PlusModel, stored: StoredTensors, modules: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Copy the module tensors into the model; returns what stood there."""
    parameters = dict(model.named_parameters())
    originals = {}
    for ours, name in modules.items():
        originals[ours] = parameters[ours].detach().clone()
        parameters[ours].copy_(stored.read(name))
    return originals
