"""Training stages as short loops over shared parts; `run` is what the command line calls.

avocet train data nano        render the recipe's clips
avocet train towers nano      stage 0: encoders and decoder that real models get as pretrained weights
avocet train align nano       audio alignment: the audio aligner only
avocet train sft nano         audiovisual supervised fine-tuning
avocet train export nano      write the last stage's weights as a captioner folder
avocet train all nano         everything above, in order

Recipes whose align and sft stages are `finetune.FineTune` values train a loaded model on data sets:

avocet train sft salmonn2_7b
torchrun --nproc-per-node 8 --no-python avocet train sft avocado_7b --engine fsdp2
avocet train export avocado_7b --to adapter
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from avocet.errors import ConfigError

if TYPE_CHECKING:
    from avocet.training.config import Recipe

_PUBLIC = ("losses", "pairs")


def __getattr__(name: str) -> ModuleType:
    # `avocet.training.losses` works without an import of its own, and PyTorch loads only when it is used.
    if name in _PUBLIC:
        return importlib.import_module(f"avocet.training.{name}")
    raise AttributeError(f"module 'avocet.training' has no attribute {name!r}")


STAGES = ("data", "towers", "align", "sft", "dpo", "export", "all")


def run(
    stage: str,
    recipe: str,
    run_dir: str | None = None,
    resume: bool = False,
    part: str | None = None,
    engine: str = "auto",
    to: str = "merged",
    settings: Mapping[str, str] | None = None,
) -> int:
    """Run one stage (or `all`) of a recipe.

    Args:
        stage: one of `STAGES`.
        recipe: a name below `./recipes`, or the path of a recipe file.
        run_dir: where data, checkpoints and logs go; `runs/<recipe>` if not given.
        resume: go on with runs that are already there instead of refusing.
        part: run only the sub-stage (or data store) of this name.
        engine: how fine-tuning stages are spread over devices, see `finetune.engine.ENGINES`.
        to: what a fine-tuned model is exported as: "merged" or "adapter".
        settings: of the recipe, by name; see `recipes`.

    Returns 0. Raises `ConfigError` for an unknown stage, recipe or part.
    """
    from avocet.training.recipes import load_recipe, recipe_path

    if stage not in STAGES:
        raise ConfigError(f"unknown stage {stage!r}; stages are {', '.join(STAGES)}")
    path = recipe_path(recipe)
    plan = load_recipe(path, settings)
    if settings and plan.pretrains:
        raise ConfigError(f"recipe {plan.name!r} trains from scratch, in processes that load it themselves: no --set")
    folder = Path(run_dir) if run_dir else Path("runs") / plan.name
    for step in STAGES[:-1]:
        if stage not in (step, "all"):
            continue
        if step == "data":
            _render(path, folder, part)
        elif step == "export":
            _export(plan, folder, part, to, keep_finished=stage == "all")
        else:
            _train(path, plan, step, folder, part, engine, resume=resume, is_all=stage == "all")
    return 0


def _render(path: Path, folder: Path, part: str | None) -> None:
    from avocet.training.render import render_recipe

    render_recipe(path, folder / "data", workers=os.cpu_count() or 1, only=(part,) if part else ())


def _train(
    path: Path, plan: Recipe, step: str, folder: Path, part: str | None, engine: str, *, resume: bool, is_all: bool
) -> None:
    from avocet.training.config import StageConfig
    from avocet.training.loop import run_stage

    configs = [config for config in getattr(plan, step) if part in (None, config.name)]
    if not configs and not is_all:
        raise ConfigError(f"recipe {plan.name!r} has no part {part!r} in stage {step!r}")
    for config in configs:
        if isinstance(config, StageConfig):
            run_stage(path, config.name, folder, resume=resume or is_all)
        else:
            from avocet.training.finetune.loop import fine_tune

            fine_tune(config, folder, plan.fine_tunes(), resume=resume or is_all, engine=engine)


def _export(plan: Recipe, folder: Path, part: str | None, to: str, *, keep_finished: bool) -> None:
    if plan.fine_tunes():
        from avocet.training.finetune.export import export_stage

        export_stage(plan.fine_tunes(), folder, part, to, keep_finished=keep_finished)
    else:
        from avocet.training.export import export_model

        export_model(plan, folder, folder / "export")
