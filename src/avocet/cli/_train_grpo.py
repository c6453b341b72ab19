"""`avocet train grpo RECIPE`: reinforcement on rewards of the captions that the model samples."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.cli._judge_options import JudgeOptions
from avocet.errors import ConfigError

if TYPE_CHECKING:
    from avocet.rewards.rubric import Rubric
    from avocet.training.grpo.config import Grpo
    from avocet.training.grpo.driver import EngineMaker

EXACT = "exact"
_WITHOUT_JUDGE = {"length", "repetition"}
"""Rewards that read nothing but the caption."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutOptions:
    """Who samples the captions; see docs/rollouts.md."""

    rollouts: Literal["in_process", "server", "vllm"] = "in_process"
    """The trained model itself, a vLLM or SGLang server, or vLLM in this process."""
    rollout_url: str | None = None
    """Address of the server, with /v1."""
    rollout_model: str | None = None
    """The model as the server calls it; for vllm the checkpoint folder that it starts from."""
    rollout_folder: Path | None = None
    """Where new weights are written for the engine, which sees it under the same path; RUN/rollout_weights if not
    given."""
    rollout_sync: Literal["merged", "adapter"] = "merged"
    """What the engine takes over after each update: a whole checkpoint or the LoRA adapter."""
    skip_parity: bool = False
    """Train on the engine's samples even where it disagrees with the trained model."""

    def engine_maker(self, run_dir: Path, precision: Literal["float32", "bfloat16"]) -> EngineMaker | None:
        """What makes the engine; None for the trained model itself. Raises `ConfigError` for missing options."""
        if self.rollouts == "in_process":
            return None
        if self.rollout_model is None or (self.rollouts == "server" and self.rollout_url is None):
            raise ConfigError(
                f"--rollouts {self.rollouts} needs --rollout-model"
                + (" and --rollout-url" if self.rollouts == "server" else "")
            )
        model, folder = self.rollout_model, str((self.rollout_folder or run_dir / "rollout_weights").absolute())
        if self.rollouts == "server":
            from avocet.training.grpo.rollouts import ServerEngine, ServerSettings

            assert self.rollout_url is not None
            server = ServerSettings(
                base_url=self.rollout_url, model=model, folder=folder, sync=self.rollout_sync, dtype=precision
            )
            return lambda policy: ServerEngine(server, policy)
        from avocet.training.grpo.rollouts import VllmOfflineEngine, VllmSettings

        offline = VllmSettings(model=model, folder=folder, sync=self.rollout_sync, dtype=precision)
        return lambda policy: VllmOfflineEngine(offline, policy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoArguments:
    """Train a captioner on rewards of its own captions."""

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """A recipe below ./recipes, or the path of a recipe file; it says what is sampled, rewarded and learnt."""
    judging: Annotated[JudgeOptions, arg(name="")] = dataclasses.field(default_factory=JudgeOptions)
    """--judge exact: the theatre's own judge, for staged clips. --dry-run says what would be done and sends nothing."""
    speakers: Literal["text", "video", "labels"] = "text"
    """Who compares the speakers of dialogue: a judge that reads, one that watches, or the names themselves."""
    run_dir: Path | None = None
    """Where everything goes; runs/RECIPE if not given."""
    resume: bool = False
    """Go on with what an earlier, interrupted call left in the run folder."""
    rollouts: Annotated[RolloutOptions, arg(name="")] = dataclasses.field(default_factory=lambda: RolloutOptions())
    engine: Literal["auto", "ddp", "deepspeed:2"] = "auto"
    """How training is spread over the processes that torchrun or accelerate started."""


def main(argv: list[str]) -> int:
    """Run `avocet train grpo`; what it raises reaches the caller."""
    arguments = tyro.cli(
        GrpoArguments,
        args=argv,
        prog="avocet train grpo",
        config=(FlagCreatePairsOff,),
        description="Sample a group of captions per clip, reward them, move the policy towards the better ones.",
    )
    from avocet.training.data.mixture import load_mixture
    from avocet.training.grpo.driver import dry_run, run_grpo
    from avocet.training.grpo.steps import check_labels
    from avocet.training.run_folder import load_recipe, recipe_path

    recipe = load_recipe(recipe_path(arguments.recipe))
    if recipe.grpo is None:
        raise ConfigError(f"recipe {recipe.name!r} has no `grpo`; see recipes/nano_grpo/recipe.py")
    run_dir = arguments.run_dir or Path("runs") / recipe.name
    if arguments.judging.dry_run:
        print(dry_run(recipe.grpo, run_dir))
        return 0
    with contextlib.ExitStack() as stack:
        if arguments.judging.judge != EXACT:
            check_labels(recipe.grpo, load_mixture(recipe.grpo.sources)[0])
        rubric = _rubric(arguments, recipe.grpo, stack)
        folder = run_grpo(
            recipe.grpo,
            run_dir,
            rubric,
            rollouts=arguments.rollouts.engine_maker(run_dir, recipe.grpo.precision),
            parity=not arguments.rollouts.skip_parity,
            resume=arguments.resume,
            engine=arguments.engine,
        )
    print(f"{folder} holds the result; a model is made of it by")
    print(f"  avocet train export {arguments.recipe} --part {recipe.grpo.name} --run-dir {run_dir}")
    return 0


def _rubric(arguments: GrpoArguments, plan: Grpo, stack: contextlib.ExitStack) -> Rubric:
    from avocet.rewards.rubric import make_rubric

    options = arguments.judging
    exact = options.judge == EXACT
    client = None
    if not exact and set(plan.rewards) - _WITHOUT_JUDGE:
        client = options.open_client(stack)
    return make_rubric(
        plan.rewards,
        judge=client,
        exact=exact,
        length_soft=plan.length_soft,
        length_hard=plan.length_hard,
        speakers=arguments.speakers,
    )
