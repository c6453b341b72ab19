"""From a finished stage to files that others read.

* `merged`: a model folder like the one that training began with, the adapter added to the weights. Loads with
  `avocet.load_captioner`; for Qwen-Omni it is a transformers folder that vLLM serves, for the released video-SALMONN 2
  layouts `avocet convert FOLDER OUT --to released` writes it anew.
* `adapter`: a PEFT folder with the LoRA tensors and everything else that was trained, bare parameters such as the query
  tokens included (which PEFT itself leaves out). `load_adapter_folder` puts it onto the base again.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from avocet.errors import CheckpointError, ConfigError
from avocet.models.lora import add_lora, merge_lora
from avocet.training.finetune.config import FineTune, Precision
from avocet.training.finetune.loop import build_model, put_weights

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def export_stage(stages: tuple[FineTune, ...], run_dir: Path, name: str | None, to: str) -> Path:
    """Export one of the stages (the last one if None) to `export-NAME-TO` in the run folder.

    Raises `ConfigError` for an unknown stage or kind, an unfinished stage, or an adapter of a stage without LoRA.
    """
    if to not in ("merged", "adapter"):
        raise ConfigError(f"unknown kind of export {to!r}; kinds are merged and adapter")
    known = {stage.name: stage for stage in stages}
    if name is not None and name not in known:
        raise ConfigError(f"no fine-tuning stage {name!r}; there are {', '.join(known)}")
    stage = stages[-1] if name is None else known[name]
    folder = run_dir / f"export-{stage.name}-{to}"
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} exists and is not empty; remove it first")
    if to == "merged":
        export_merged(stage, stages, run_dir, folder)
    else:
        export_adapter(stage, stages, run_dir, folder)
    print(f"wrote {folder}")
    return folder


def export_merged(
    stage: FineTune, stages: tuple[FineTune, ...], run_dir: Path, folder: Path, *, precision: Precision | None = None
) -> None:
    """Write the whole model, the adapter added to its weights.

    Args:
        precision: of the sum and of what is written; that of the frozen weights in training if None. An adapter may
            change weights by less than bfloat16 can tell: what is trained on is best kept in float32, at 4 bytes per
            weight.
    """
    stage = dataclasses.replace(stage, precision=precision or stage.precision)
    model: Any = build_model(stage, run_dir, stages, device="cpu").model
    put_weights(model, stage, run_dir / stage.name)
    if stage.lora is not None:
        merge_lora(model)
    model.save(folder, _DTYPES[stage.precision])


def export_adapter(stage: FineTune, stages: tuple[FineTune, ...], run_dir: Path, folder: Path) -> None:
    """Write what the stage trained as a PEFT folder; its base is the model that the stage started from."""
    if stage.lora is None:
        raise ConfigError(f"stage {stage.name!r} has no LoRA; export it with --to merged")
    if stage.starts_from:
        raise ConfigError(
            f"stage {stage.name!r} starts from {', '.join(stage.starts_from)}: an adapter alone would lack what they "
            "trained; export --to merged, or export the earlier stage and train on that folder"
        )
    model: Any = build_model(stage, run_dir, stages, device="cpu").model
    names = put_weights(model, stage, run_dir / stage.name)
    tensors = {_exported(name): model.get_parameter(name).detach().float().contiguous() for name in names}
    beside = [name for name in names if ".lora_" not in name]
    targets = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names if ".lora_" in name})
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": stage.model,
        "r": stage.lora.rank,
        "lora_alpha": stage.lora.alpha,
        "lora_dropout": stage.lora.dropout,
        "target_modules": targets,
        "modules_to_save": sorted({name.rsplit(".", 1)[0] for name in beside if "." in name}),
        "bias": "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def load_adapter_folder(model: Any, folder: Path, *, merge: bool = True) -> tuple[str, ...]:
    """Put an exported adapter onto its base; names of what it changed.

    Raises `CheckpointError` when the folder cannot be read or is of another model.
    """
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        stored = load_file(folder / ADAPTER_WEIGHTS)
        rank, alpha, targets = int(settings["r"]), float(settings["lora_alpha"]), settings["target_modules"]
        dropout = float(settings["lora_dropout"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: no readable adapter ({type(error).__name__}: {error})") from error
    add_lora(model, rank, alpha, dropout, targets)
    module: nn.Module = model
    parameters = dict(module.named_parameters())
    places = {_exported(name): name for name in parameters}
    wrong = [
        name for name, tensor in stored.items() if name not in places or parameters[places[name]].shape != tensor.shape
    ]
    missing = [name for name in places if ".lora_" in name and name not in stored]
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


def _exported(name: str) -> str:
    """PEFT leaves the adapter's own name out."""
    return _PREFIX + name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")
