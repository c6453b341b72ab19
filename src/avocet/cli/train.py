"""`avocet train STAGE RECIPE`: run one stage of a training recipe, or all of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.cli._shared import RecipeSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Train a captioner from a recipe."""

    stage: Annotated[Positional[str], arg(metavar="STAGE")]
    """data, towers, align, sft, dpo, export, or all of them in this order: all. Of their own: mrdpo, rebirth, grpo,
    plot."""
    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """A recipe below ./recipes (for example nano), or the path of a recipe file."""
    settings: RecipeSettings = ()
    run_dir: str | None = None
    """Where data, checkpoints and logs go; runs/RECIPE if not given."""
    resume: bool = False
    """Go on with what an earlier, interrupted call left in the run folder."""
    part: str | None = None
    """Only the part of the stage with this name."""
    engine: Literal["auto", "ddp", "fsdp2", "deepspeed:2", "deepspeed:3"] = "auto"
    """How a fine-tuning stage is spread over the processes that torchrun or accelerate started."""
    to: Literal["merged", "adapter"] = "merged"
    """What `export` writes of a fine-tuned model: a model folder, or a PEFT adapter with all that was trained."""


def main(argv: list[str]) -> int:
    """Run `avocet train`; what the stage raises reaches the caller."""
    if argv[:1] == ["plot"]:
        return _plot(argv[1:])
    if argv[:1] == ["mrdpo"]:
        from avocet.cli import _train_mrdpo

        return _train_mrdpo.main(argv[1:])
    if argv[:1] == ["rebirth"]:
        from avocet.cli import _train_rebirth

        return _train_rebirth.main(argv[1:])
    if argv[:1] == ["grpo"]:
        from avocet.cli import _train_grpo

        return _train_grpo.main(argv[1:])
    arguments = tyro.cli(
        TrainArguments, args=argv, prog="avocet train", config=(FlagCreatePairsOff,), description=__doc__
    )
    from avocet.training import run
    from avocet.training.recipes import parse_settings

    return run(
        arguments.stage,
        arguments.recipe,
        arguments.run_dir,
        arguments.resume,
        arguments.part,
        arguments.engine,
        arguments.to,
        parse_settings(arguments.settings),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlotArguments:
    """Draw the curves of training runs into one HTML page."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN")]
    """Folders of stages (runs/RECIPE/STAGE), or run folders with all their stages."""
    out: Path | None = None
    """The page; RUN/plot.html of the first folder if not given."""


def _plot(argv: list[str]) -> int:
    arguments = tyro.cli(PlotArguments, args=argv, prog="avocet train plot", config=(FlagCreatePairsOff,))
    from avocet.training.finetune.plot import write_plot

    print(f"wrote {write_plot(arguments.runs, arguments.out)}")
    return 0
