"""`avocet train rebirth RECIPE`: caption with the best model, drop unnatural captions, train the aligned model anew."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.cli._judge_options import JudgeOptions
from avocet.cli._shared import RecipeSettings
from avocet.cli._train_mrdpo import caption_scorer
from avocet.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RebirthArguments:
    """Train an aligned model on the natural captions of the best model of the rounds."""

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """A recipe below ./recipes, or the path of a recipe file; it says who teaches, what, and whom."""
    settings: RecipeSettings = ()
    judging: Annotated[JudgeOptions, arg(name="")] = dataclasses.field(default_factory=JudgeOptions)
    """Of the round of DPO at the end. --judge exact: the theatre's own judge, for staged clips. --dry-run says what
    would be done and sends nothing."""
    judge_runs: int = 1
    """How often each caption is judged; the median counts."""
    run_dir: Path | None = None
    """Where everything goes; runs/RECIPE if not given. A run that is there is gone on with."""


def main(argv: list[str]) -> int:
    """Run `avocet train rebirth`; what it raises reaches the caller."""
    arguments = tyro.cli(
        RebirthArguments,
        args=argv,
        prog="avocet train rebirth",
        config=(FlagCreatePairsOff,),
        description="Caption, filter, train anew from the aligned model, one more round; each step resumable.",
    )
    from avocet.training.rebirth import describe, run_rebirth
    from avocet.training.recipes import load_recipe, parse_settings, recipe_path

    recipe = load_recipe(recipe_path(arguments.recipe), parse_settings(arguments.settings))
    if recipe.rebirth is None:
        raise ConfigError(f"recipe {recipe.name!r} has no `rebirth`; see recipes/nano_rebirth/recipe.py")
    run_dir = arguments.run_dir or Path("runs") / recipe.name
    if arguments.judging.dry_run:
        print(describe(recipe.rebirth, run_dir))
        return 0
    with contextlib.ExitStack() as stack:
        scorer = None
        if recipe.rebirth.round is not None:
            scorer = caption_scorer(arguments.judging, arguments.judge_runs, stack)
        result = run_rebirth(recipe.rebirth, run_dir, scorer)
    if result.rounds is not None:
        print(result.rounds.to_markdown())
    print(f"final model: {result.final}")
    return 0
