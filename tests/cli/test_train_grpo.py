"""`avocet train grpo`: what --dry-run says, and which options reach the judges and the server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro
from tyro.conf import FlagCreatePairsOff

from avocet.cli import main
from avocet.cli._train_grpo import GrpoArguments, RewardOptions, RolloutOptions, _rubric
from avocet.errors import ConfigError
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, LoraSettings
from avocet.training.grpo.config import Grpo
from avocet.training.grpo.rollouts import ServerEngine

RECIPE = """
from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, LoraSettings
from avocet.training.grpo.config import Grpo

def recipe():
    return Recipe(name="tiny", grpo=Grpo(
        name="grpo", model="nano", sources=(DataSource(path={data!r}),), trainable=(),
        lora=LoraSettings(rank=2, alpha=4), optimizer=FineTuneOptimizer(learning_rate=1e-4),
        batch=BatchSettings(max_examples=2), rewards={rewards!r}, group_size=4, epochs=3))
"""

MakeRecipe = Callable[..., list[str]]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRecipe:
    """The arguments of a dry run on two examples; `label` is theirs."""
    for name in ("AVOCET_JUDGE_API_KEY", "OPENAI_API_KEY", "AVOCET_JUDGE_BASE_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def make(*rewards: str, **labels: Any) -> list[str]:
        said = [{"speaker": "a man", "text": "Hello there."}]
        examples = [
            {
                "clip": {"id": name, "path": f"{name}.mp4"},
                "task": "caption",
                "instruction": "",
                "target": f"A dog called {name} barks.",
                "checklist": ["a dog barks"],
                "dialogue": said,
                **labels,
            }
            for name in ("Rex", "Rover")
        ]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
        path = tmp_path / "recipe.py"
        path.write_text(RECIPE.format(data=str(tmp_path / "train.jsonl"), rewards=dict.fromkeys(rewards, 1.0)))
        flags = ["--dry-run", "--cache", str(tmp_path / "judge.sqlite"), "--run-dir", str(tmp_path / "run")]
        return ["train", "grpo", str(path), *flags]

    return make


def test_a_dry_run_tells_calls_and_costs(recipe: MakeRecipe, capsys: pytest.CaptureFixture[str]) -> None:
    """Three epochs of two examples in groups of four: 24 captions. The checklist takes one call for each, the dialogue
    two, binding one, and one for the ties of each example."""
    assert main([*recipe("checklist", "length"), "--judge", "gpt-4.1"]) == 0
    told = capsys.readouterr().out
    assert "3 steps of 2 prompts x 4 captions from 2 examples, about 24 captions" in told
    assert "gpt-4.1 is asked about 24 times, " in told
    # 4,096 tokens of reply at most, $8 per million: $0.79 of 24 replies, and some for the questions.
    assert f"at most {24 * 4096:,} of replies, at most $0.8" in told
    assert main([*recipe("checklist", "dialogue", "sound_binding"), "--judge", "gpt-4.1"]) == 0
    assert f"is asked about {24 + 2 * 24 + 24 + 2} times" in capsys.readouterr().out
    assert main([*recipe("length"), "--judge", "gpt-4.1"]) == 0
    assert "no language model is asked" in capsys.readouterr().out


def test_a_dry_run_finds_what_would_stop_the_run(recipe: MakeRecipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*recipe("cheklist"), "--judge", "gpt-4.1"]) == 2
    assert "rewards must be some of checklist, dialogue, length, events" in capsys.readouterr().err
    assert main([*recipe("checklist", checklist=[]), "--judge", "gpt-4.1"]) == 2
    assert "reward 'checklist': it needs examples with `checklist`, and none of 2 has any" in capsys.readouterr().err
    assert main([*recipe("checklist", checklist=["a dog barks", " "]), "--judge", "gpt-4.1"]) == 2
    assert "checklist of clip 'Rex': Keypoint: text must not be empty" in capsys.readouterr().err
    assert main([*recipe("checklist"), "--judge", "exact"]) == 2
    assert "theatre" in capsys.readouterr().err
    assert main(recipe("checklist")) == 2
    assert "name the judge's model with --judge" in capsys.readouterr().err


def parsed(*flags: str) -> GrpoArguments:
    return tyro.cli(GrpoArguments, args=["nano_grpo", *flags], config=(FlagCreatePairsOff,))


def engine_of(options: RolloutOptions, folder: Path) -> ServerEngine:
    maker = options.engine_maker(folder, "float32")
    assert maker is not None
    engine = maker(tiny_model())
    assert isinstance(engine, ServerEngine)
    engine.close()
    return engine


def test_every_kind_of_server_can_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--rollouts", "server", "--rollout-url", "http://h:1/v1", "--rollout-model", "policy"]
    monkeypatch.delenv("AVOCET_ROLLOUT_API_KEY", raising=False)
    plain = engine_of(parsed(*flags).rollouts, tmp_path)
    assert (plain.settings.dialect, plain.settings.media, plain.settings.keep_versions) == ("vllm", "lossless", 1)
    assert plain._calls._key == "none"
    more = ["--rollout-dialect", "sglang", "--rollout-media", "path", "--rollout-keep-versions", "3"]
    monkeypatch.setenv("AVOCET_ROLLOUT_API_KEY", "secret")
    found = engine_of(parsed(*flags, *more).rollouts, tmp_path)
    assert (found.settings.dialect, found.settings.media, found.settings.keep_versions) == ("sglang", "path", 3)
    assert found.settings.reload_calls[0].path == "/update_weights_from_disk"
    assert found._calls._key == "secret"
    monkeypatch.setenv("OTHER_KEY", "another")
    assert engine_of(parsed(*flags, "--rollout-key", "OTHER_KEY").rollouts, tmp_path)._calls._key == "another"
    with pytest.raises(ConfigError, match="--rollout-key MISSING_KEY: there is no such environment variable"):
        parsed(*flags, "--rollout-key", "MISSING_KEY").rollouts.engine_maker(tmp_path, "float32")
    with pytest.raises(ConfigError, match='set reload, or sync="adapter"'):
        parsed(*flags, "--rollout-dialect", "openai").rollouts.engine_maker(tmp_path, "float32")
    with pytest.raises(ConfigError, match="--rollouts server needs --rollout-model and --rollout-url"):
        parsed("--rollouts", "server").rollouts.engine_maker(tmp_path, "float32")


def test_options_of_the_rewards_reach_the_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVOCET_JUDGE_API_KEY", "secret")
    aliases = tmp_path / "aliases.json"
    aliases.write_text('{"Emma": ["the woman", "she"]}')
    plan = Grpo(
        name="g",
        model="nano",
        sources=(DataSource(path="x.jsonl"),),
        trainable=(),
        lora=LoraSettings(rank=2, alpha=4),
        optimizer=FineTuneOptimizer(learning_rate=1e-4),
        batch=BatchSettings(max_examples=2),
        max_steps=1,
    )

    def identity(*flags: str) -> dict[str, str]:
        options = ["--judge", "m", "--cache", str(tmp_path / "judge.sqlite"), *flags]
        with contextlib.ExitStack() as stack:
            return _rubric(parsed(*options), plan, stack)[0].identity

    usual = identity()
    assert usual["dialogue"].startswith("dialogue/0.6/")
    warm = identity("--judge-temperature", "0.7", "--judge-max-tokens", "77")
    assert warm["checklist"] == f"{usual['checklist']}/temperature=0.7/max_tokens=77"
    assert identity("--judge-temperature", "-1")["checklist"].endswith("/temperature=None")
    assert identity("--quoted-only")["checklist"].endswith("/quoted only")
    assert identity("--dialogue-threshold", "0.8")["dialogue"].startswith("dialogue/0.8/")
    labels = identity("--speakers", "labels")["dialogue"]
    assert labels.endswith("/speakers-labels")
    assert identity("--speakers", "labels", "--speaker-aliases", str(aliases))["dialogue"].startswith(f"{labels}/")
    with pytest.raises(ConfigError, match='speaker_aliases are for speakers="labels"'):
        identity("--speaker-aliases", str(aliases))


def test_tables_of_names_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "aliases.json"
    assert RewardOptions().aliases() is None
    with pytest.raises(ConfigError, match=r"aliases\.json cannot be read"):
        RewardOptions(speaker_aliases=path).aliases()
    path.write_text('{"Emma": "she"}')
    with pytest.raises(ConfigError, match=r"must hold .*, got \{'Emma': 'she'\}"):
        RewardOptions(speaker_aliases=path).aliases()
