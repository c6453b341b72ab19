"""`avocet train mrdpo RECIPE`: rounds of sampling, judging, pair selection and guided DPO."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.cli._judge_options import JudgeOptions
from avocet.errors import ConfigError

if TYPE_CHECKING:
    from avocet.training.mrdpo.scoring import CaptionScorer

EXACT = "exact"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MrDpoArguments:
    """Train a captioner in rounds on pairs of its own captions."""

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """A recipe below ./recipes, or the path of a recipe file; it says what the rounds are."""
    judging: Annotated[JudgeOptions, arg(name="")] = dataclasses.field(default_factory=JudgeOptions)
    """--judge exact: the theatre's own judge, for staged clips. --dry-run says what would be done and sends nothing."""
    judge_runs: int = 1
    """How often each caption is judged; the median counts."""
    run_dir: Path | None = None
    """Where everything goes; runs/RECIPE if not given. A run that is there is gone on with."""
    from_round: int | None = None
    """Do this round and those after it anew."""


def main(argv: list[str]) -> int:
    """Run `avocet train mrdpo`. Returns 0 when the rounds ended, whichever of them was the best."""
    arguments = tyro.cli(
        MrDpoArguments,
        args=argv,
        prog="avocet train mrdpo",
        config=(FlagCreatePairsOff,),
        description="Sample, judge, select, train, merge, gate: round after round, each step resumable.",
    )
    from avocet.training.mrdpo.driver import dry_run, run_mrdpo
    from avocet.training.run_folder import load_recipe, recipe_path

    recipe = load_recipe(recipe_path(arguments.recipe))
    if recipe.mrdpo is None:
        raise ConfigError(f"recipe {recipe.name!r} has no `mrdpo`; see recipes/nano_mrdpo/recipe.py")
    run_dir = arguments.run_dir or Path("runs") / recipe.name
    if arguments.judging.dry_run:
        print(dry_run(recipe.mrdpo, run_dir))
        return 0
    with contextlib.ExitStack() as stack:
        result = run_mrdpo(recipe.mrdpo, run_dir, _scorer(arguments, stack), from_round=arguments.from_round)
    print(result.to_markdown())
    print(f"best: round {result.best}, {run_dir / 'best.json'}", file=sys.stderr)
    return 0


def _scorer(arguments: MrDpoArguments, stack: contextlib.ExitStack) -> CaptionScorer:
    from avocet.evaluation.exact_judge import ExactEventJudge
    from avocet.judging.events import EventJudge
    from avocet.training.mrdpo.scoring import CaptionScorer, item_with_events, theatre_item

    options = arguments.judging
    if options.judge == EXACT:
        return CaptionScorer(ExactEventJudge(), theatre_item, runs=arguments.judge_runs)
    client = options.open_client(stack)
    return CaptionScorer(
        EventJudge(client, parameters=options.parameters()), item_with_events, runs=arguments.judge_runs
    )
