"""From a finished stage to files that others read.

* `merged`: a model folder like the one that training began with, the adapter added to the weights. Loads with
  `avocet.load_captioner`; for Qwen-Omni it is a transformers folder that vLLM serves, for the released video-SALMONN 2
  layouts `avocet convert FOLDER OUT --to released` writes it anew.
* `adapter`: a PEFT folder with the LoRA tensors and everything else that was trained, see `avocet.models.adapters`.
  `PeftModel.from_pretrained` puts it onto its base, `avocet convert BASE OUT --adapter FOLDER` merges it, and a model's
  name may be this folder.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch

from avocet.errors import ConfigError
from avocet.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, load_adapter_folder, save_adapter_folder
from avocet.models.lora import merge_lora
from avocet.training.finetune.config import FineTune, Precision
from avocet.training.finetune.loop import build_model, put_weights

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "export_adapter",
    "export_merged",
    "export_stage",
    "load_adapter_folder",
]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def export_stage(
    stages: tuple[FineTune, ...], run_dir: Path, name: str | None, to: str, *, keep_finished: bool = False
) -> Path:
    """Export one of the stages (the last one if None) to `export-NAME-TO` in the run folder, which is complete or not
    there at any instant.

    Args:
        stages: all fine-tuning stages of the recipe.
        run_dir: of the run.
        name: of the stage.
        to: "merged" or "adapter".
        keep_finished: leave an export that is there as it is.

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
        if keep_finished:
            print(f"{folder} is there already")
            return folder
        raise ConfigError(f"{folder} exists and is not empty; remove it first")
    partial = folder.with_name(f"{folder.name}.partial")
    # Of an export that was killed.
    shutil.rmtree(partial, ignore_errors=True)
    if to == "merged":
        export_merged(stage, stages, run_dir, partial)
    else:
        export_adapter(stage, stages, run_dir, partial)
    partial.replace(folder)
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
    lora = stage.lora
    bare = save_adapter_folder(
        model, folder, names, base=stage.model, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout
    )
    if bare:
        print(
            f"PEFT has no place for {len(bare)} of the trained parameters ({', '.join(bare[:3])}) and skips them; "
            "`avocet convert --adapter` and `--model FOLDER` read them"
        )
