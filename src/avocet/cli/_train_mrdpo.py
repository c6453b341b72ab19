"""`avocet train mrdpo RECIPE`: rounds of sampling, judging, pair selection and guided DPO.

The state of the rounds is `rounds.html` in the run folder, written anew whenever there is something to say; `--status`
writes and tells it without doing anything else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.cli._judge_options import EXACT, JudgeOptions
from avocet.cli._shared import RecipeSettings
from avocet.errors import AvocetError, ConfigError

if TYPE_CHECKING:
    from avocet.training.mrdpo.scoring import CaptionScorer


@dataclasses.dataclass(frozen=True, kw_only=True)
class MrDpoArguments:
    """Train a captioner in rounds on pairs of its own captions."""

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """A recipe below ./recipes, or the path of a recipe file; it says what the rounds are."""
    settings: RecipeSettings = ()
    judging: Annotated[JudgeOptions, arg(name="")] = dataclasses.field(default_factory=JudgeOptions)
    """--judge exact: the theatre's own judge, for staged clips. --dry-run says what would be done and sends nothing."""
    judge_runs: int = 1
    """How often each caption is judged; the median counts."""
    run_dir: Path | None = None
    """Where everything goes; runs/RECIPE if not given. A run that is there is gone on with."""
    from_round: int | None = None
    """Do this round and those after it anew. Given again after a kill, it goes on with what it began."""
    status: bool = False
    """Say where the run stands and write its page; nothing is trained."""


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
    from avocet.training.recipes import load_recipe, parse_settings, recipe_path

    recipe = load_recipe(recipe_path(arguments.recipe), parse_settings(arguments.settings))
    if recipe.mrdpo is None:
        raise ConfigError(f"recipe {recipe.name!r} has no `mrdpo`; see recipes/nano_mrdpo/recipe.py")
    run_dir = arguments.run_dir or Path("runs") / recipe.name
    if arguments.judging.dry_run:
        print(dry_run(recipe.mrdpo, run_dir, arguments.from_round))
        return 0
    if arguments.status:
        return _status(run_dir, recipe.mrdpo.rounds)
    with contextlib.ExitStack() as stack:
        result = run_mrdpo(
            recipe.mrdpo,
            run_dir,
            caption_scorer(arguments.judging, arguments.judge_runs, stack),
            from_round=arguments.from_round,
            say=_Telling(run_dir, recipe.mrdpo.rounds),
        )
    print(result.to_markdown())
    print(f"best: round {result.best}, {run_dir / 'best.json'}", file=sys.stderr)
    return 0


class _Telling:
    """Prints what a run says, and keeps its page up to date."""

    def __init__(self, run_dir: Path, num_rounds: int) -> None:
        self._run_dir, self._num_rounds = run_dir, num_rounds

    def __call__(self, text: str) -> None:
        from avocet.review.mrdpo_page import write_mrdpo_page

        print(text, flush=True)
        try:
            write_mrdpo_page(self._run_dir, num_rounds=self._num_rounds)
        except (AvocetError, OSError) as error:
            # Days of training must not end because a picture of them cannot be drawn.
            print(f"the page of the rounds was not written: {error}", file=sys.stderr)


def _status(run_dir: Path, num_rounds: int) -> int:
    from avocet.review.mrdpo_page import read_run, write_mrdpo_page

    print(read_run(run_dir, num_rounds).to_markdown())
    print(f"wrote {write_mrdpo_page(run_dir, num_rounds=num_rounds)}", file=sys.stderr)
    return 0


def caption_scorer(options: JudgeOptions, runs: int, stack: contextlib.ExitStack) -> CaptionScorer:
    """What judges captions of rounds; its cache closes with `stack`."""
    from avocet.evaluation.exact_judge import ExactEventJudge
    from avocet.judging.events import EventJudge
    from avocet.training.mrdpo.scoring import CaptionScorer, item_with_events, theatre_item

    if options.judge == EXACT:
        return CaptionScorer(ExactEventJudge(), theatre_item, runs=runs)
    client = options.open_client(stack)
    return CaptionScorer(EventJudge(client, parameters=options.parameters()), item_with_events, runs=runs)
