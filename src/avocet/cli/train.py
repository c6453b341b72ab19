"""`avocet train STAGE RECIPE`: run one stage of a training recipe, or all of them."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Train a captioner from a recipe."""

    stage: Annotated[Positional[str], arg(metavar="STAGE")]
    """data, towers, align, sft, export, or all of them in this order: all."""
    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """A recipe below ./recipes (for example nano), or the path of a recipe file."""
    run_dir: str | None = None
    """Where data, checkpoints and logs go; runs/RECIPE if not given."""
    resume: bool = False
    """Go on with what an earlier, interrupted call left in the run folder."""
    part: str | None = None
    """Only the part of the stage with this name."""


def main(argv: list[str]) -> int:
    """Run `avocet train`; what the stage raises reaches the caller."""
    arguments = tyro.cli(
        TrainArguments, args=argv, prog="avocet train", config=(FlagCreatePairsOff,), description=__doc__
    )
    from avocet.training import run

    return run(arguments.stage, arguments.recipe, arguments.run_dir, arguments.resume, arguments.part)
