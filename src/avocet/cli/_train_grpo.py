"""`avocet train grpo RECIPE`: reinforcement on rewards of the captions that the model samples."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.cli._judge_options import JudgeOptions
from avocet.cli._shared import RecipeSettings
from avocet.errors import ConfigError

if TYPE_CHECKING:
    from avocet.judging.client import JudgeClient
    from avocet.rewards.rubric import Rubric
    from avocet.training.grpo.config import Grpo
    from avocet.training.grpo.driver import EngineMaker

EXACT = "exact"
_WITHOUT_JUDGE = {"length", "repetition"}
"""Rewards that read nothing but the caption."""
_ROLLOUT_KEY = "AVOCET_ROLLOUT_API_KEY"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutOptions:
    """Who samples the captions; see docs/rollouts.md."""

    rollouts: Literal["in_process", "server", "vllm"] = "in_process"
    """The trained model itself, a vLLM or SGLang server, or vLLM in this process."""
    rollout_url: str | None = None
    """Address of the server, with /v1."""
    rollout_key: str = _ROLLOUT_KEY
    """The environment variable that holds the server's key, where it wants one."""
    rollout_dialect: Literal["vllm", "sglang", "openai"] = "vllm"
    """Which kind of server it is. One of openai, which knows nothing beyond the standard, needs --rollout-sync
    adapter."""
    rollout_media: Literal["lossless", "path", "url"] = "lossless"
    """What the server is sent of a clip: what the trained model sees, or where it reads the clip in its own way."""
    rollout_model: str | None = None
    """The model as the server calls it; for vllm the checkpoint folder that it starts from."""
    rollout_folder: Path | None = None
    """Where new weights are written for the engine, which sees it under the same path; RUN/rollout_weights if not
    given."""
    rollout_sync: Literal["merged", "adapter"] = "merged"
    """What the engine takes over after each update: a whole checkpoint or the LoRA adapter."""
    rollout_keep_versions: int = 1
    """Written weights that are kept, the newest ones."""
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
                base_url=self.rollout_url,
                model=model,
                folder=folder,
                sync=self.rollout_sync,
                dialect=self.rollout_dialect,
                media=self.rollout_media,
                dtype=precision,
                keep_versions=self.rollout_keep_versions,
            )
            key = self._key()
            return lambda policy: ServerEngine(server, policy, api_key=key)
        from avocet.training.grpo.rollouts import VllmOfflineEngine, VllmSettings

        offline = VllmSettings(
            model=model,
            folder=folder,
            sync=self.rollout_sync,
            dtype=precision,
            keep_versions=self.rollout_keep_versions,
        )
        return lambda policy: VllmOfflineEngine(offline, policy)

    def _key(self) -> str | None:
        key = os.environ.get(self.rollout_key)
        if key is None and self.rollout_key != _ROLLOUT_KEY:
            raise ConfigError(f"--rollout-key {self.rollout_key}: there is no such environment variable; export it")
        return key


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """How rewards by a language model are taken; see docs/rewards.md."""

    speakers: Literal["text", "video", "labels"] = "text"
    """Who compares the speakers of dialogue: a judge that reads, one that watches, or the names themselves."""
    speaker_aliases: Path | None = None
    """For --speakers labels: a JSON file of {name: [other names of the same person]}."""
    dialogue_threshold: float = 0.6
    """Least similarity of two utterances that are taken for the same."""
    quoted_only: bool = False
    """Count only keypoints for which the judge quotes words that stand in the caption."""

    def aliases(self) -> dict[str, list[str]] | None:
        """The table of names, if there is one. Raises `ConfigError` for a file that holds none."""
        if self.speaker_aliases is None:
            return None
        try:
            found = json.loads(self.speaker_aliases.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"--speaker-aliases {self.speaker_aliases} cannot be read: {error}") from error
        if not isinstance(found, dict) or not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names) for names in found.values()
        ):
            raise ConfigError(
                f'--speaker-aliases {self.speaker_aliases} must hold {{"name": ["other name", ...], ...}}, got '
                f"{found!s:.80}"
            )
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoArguments:
    """Train a captioner on rewards of its own captions."""

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """A recipe below ./recipes, or the path of a recipe file; it says what is sampled, rewarded and learnt."""
    settings: RecipeSettings = ()
    judging: Annotated[JudgeOptions, arg(name="")] = dataclasses.field(default_factory=JudgeOptions)
    """--judge exact: the theatre's own judge, for staged clips. --dry-run says how many steps and captions it would be,
    and what judging them would cost."""
    rewarding: Annotated[RewardOptions, arg(name="")] = dataclasses.field(default_factory=lambda: RewardOptions())
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
    from avocet.training.grpo.driver import run_grpo
    from avocet.training.grpo.preview import dry_run
    from avocet.training.recipes import load_recipe, parse_settings, recipe_path

    recipe = load_recipe(recipe_path(arguments.recipe), parse_settings(arguments.settings))
    if recipe.grpo is None:
        raise ConfigError(f"recipe {recipe.name!r} has no `grpo`; see recipes/nano_grpo/recipe.py")
    run_dir = arguments.run_dir or Path("runs") / recipe.name
    with contextlib.ExitStack() as stack:
        rubric, client = _rubric(arguments, recipe.grpo, stack)
        if arguments.judging.dry_run:
            print(dry_run(recipe.grpo, run_dir, rubric, client))
            return 0
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


def _rubric(arguments: GrpoArguments, plan: Grpo, stack: contextlib.ExitStack) -> tuple[Rubric, JudgeClient | None]:
    from avocet.rewards.rubric import make_rubric

    options, rewarding = arguments.judging, arguments.rewarding
    exact = options.judge == EXACT
    client = None
    if not exact and set(plan.rewards) - _WITHOUT_JUDGE:
        client = options.open_client(stack)
    rubric = make_rubric(
        plan.rewards,
        judge=client,
        exact=exact,
        length_soft=plan.length_soft,
        length_hard=plan.length_hard,
        speakers=rewarding.speakers,
        speaker_aliases=rewarding.aliases(),
        dialogue_threshold=rewarding.dialogue_threshold,
        quoted_only=rewarding.quoted_only,
        parameters=options.parameters(),
    )
    return rubric, client
