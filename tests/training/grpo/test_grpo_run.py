"""Whole GRPO runs at tiny size: what is learnt, counted, kept on file, and what a kill costs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from vowels import Interrupted, assert_same, figures, read_lines, rubric, worth

from avocet.cli import main
from avocet.errors import ConfigError
from avocet.training.finetune import BatchSettings
from avocet.training.finetune.watch import METRICS_FILE, read_metrics
from avocet.training.grpo.config import Grpo, PolicySettings
from avocet.training.grpo.driver import run_grpo
from avocet.training.grpo.preview import dry_run


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"overlap": "next"},
        {"updates_per_batch": 2},
        {"policy": PolicySettings(variant="dapo", clip_high=0.28, kl_weight=0.0)},
    ],
    ids=["plain", "next", "two-updates", "dapo"],
)
def test_a_run_that_is_stopped_goes_on_to_the_last_digit(plan: Grpo, tmp_path: Path, changes: dict[str, Any]) -> None:
    plan = dataclasses.replace(plan, **changes)
    whole, reward = rubric()
    undisturbed = run_grpo(plan, tmp_path / "whole", whole)
    assert sum(reward.asked.values()) == 4 * 2 * 3
    stops, asked = (7, 8, 4), Counter[str]()
    for stop in stops:
        broken, reward = rubric(stop_at=stop)
        with pytest.raises(Interrupted):
            run_grpo(plan, tmp_path / "broken", broken, resume=True)
        asked += reward.asked
    rest, reward = rubric()
    resumed = run_grpo(plan, tmp_path / "broken", rest, resume=True)
    assert_same(undisturbed, resumed)
    asked += reward.asked
    # Groups of three are recorded whole: at each stop the one under judgement, and with it those that were submitted.
    assert sum(asked.values()) <= 4 * 2 * 3 + len(stops) * 4 * 3
    for ours, theirs in zip(figures(undisturbed), figures(resumed), strict=True):
        assert {key: value for key, value in ours.items() if not key.startswith("seconds")} == {
            key: value for key, value in theirs.items() if not key.startswith("seconds")
        }


def test_sampling_and_training_are_of_one_policy(plan: Grpo, tmp_path: Path) -> None:
    folder = run_grpo(dataclasses.replace(plan, trainable=(), max_steps=3), tmp_path, rubric()[0])
    lines = [line for line in read_metrics(folder / METRICS_FILE) if "loss" in line]
    # At first the policy is the reference.
    assert max(line["mean/mismatch"] for line in lines) < 1e-4
    assert lines[0]["mean/kl"] == pytest.approx(0, abs=1e-8)
    assert lines[-1]["mean/kl"] > 0
    assert all(line["mean/ratio"] == pytest.approx(1, abs=1e-5) for line in lines)


def test_what_cannot_be_judged_is_dropped_and_counted(plan: Grpo, tmp_path: Path) -> None:
    """Of 12 rollouts of 2 steps: one of group 0/a fails, all but one of another group, so that it teaches nothing."""
    known = run_grpo(dataclasses.replace(plan, max_steps=2), tmp_path / "known", rubric()[0])
    keys = [line["key"] for line in read_lines(known / "rollouts.jsonl")]
    first, second = keys[:2]
    failing, _ = rubric(fails=[f"{first}#0", f"{second}#1", f"{second}#2"])
    folder = run_grpo(dataclasses.replace(plan, max_steps=1), tmp_path / "failing", failing)
    [line] = figures(folder)
    assert line["rollouts/rollouts"] == 6
    assert line["rollouts/rollouts_unscored"] == 3
    assert line["rollouts/groups_too_small"] == 1
    scores = {line["key"]: line["scores"] for line in read_lines(folder / "rewards.jsonl")}
    assert scores[first][0]["total"] is None
    assert scores[first][0]["reasons"] == {"vowels": "no reply"}
    # What can teach nothing is not kept, so that a run that goes on asks again.
    assert scores.keys() == {first}
    # The mean is that of the three that have a number, not of six with zeros.
    assert line["reward_n/total"] == line["reward_n/vowels"] == 3
    texts = {line["key"]: [one["text"] for one in line["rollouts"]] for line in read_lines(folder / "rollouts.jsonl")}
    numbers = [worth(text) for text in (texts[first][1], texts[first][2], texts[second][0])]
    mean = sum(numbers) / 3
    assert line["reward/total"] == pytest.approx(mean)
    # The sample standard deviation, divided by the root of n.
    variance = sum((number - mean) ** 2 for number in numbers) / 2
    assert line["reward_error/vowels"] == pytest.approx((variance / 3) ** 0.5)
    assert line["reward_failed/vowels"] == line["unscored/vowels: no reply"] == 3
    assert line["reward_left_out/vowels"] == 0


def test_groups_without_spread_move_nothing(plan: Grpo, tmp_path: Path) -> None:
    start = run_grpo(dataclasses.replace(plan, max_steps=1), tmp_path / "a", rubric(constant=True)[0])
    later = run_grpo(dataclasses.replace(plan, max_steps=3), tmp_path / "b", rubric(constant=True)[0])
    assert_same(start, later)
    assert [line["rollouts/groups_without_spread"] for line in figures(later)] == [2, 2, 2]


def test_rollouts_do_not_depend_on_the_batch(plan: Grpo, tmp_path: Path) -> None:
    def sampled(folder: Path) -> dict[str, Any]:
        lines = read_lines(folder / "rollouts.jsonl")
        return {line["key"]: [one["token_ids"] for one in line["rollouts"]] for line in lines}

    one = dataclasses.replace(plan, max_steps=1)
    together = dataclasses.replace(one, batch=BatchSettings(max_examples=2, micro_examples=2))
    first = sampled(run_grpo(one, tmp_path / "one", rubric()[0]))
    assert first == sampled(run_grpo(together, tmp_path / "two", rubric()[0]))
    assert len({tuple(ids) for own in first.values() for ids in own}) > 3


def test_a_run_is_not_mixed_with_another(plan: Grpo, tmp_path: Path) -> None:
    plan = dataclasses.replace(plan, max_steps=1)
    run_grpo(plan, tmp_path, rubric()[0])
    with pytest.raises(ConfigError, match="already holds a run; add --resume"):
        run_grpo(plan, tmp_path, rubric()[0])
    with pytest.raises(ConfigError, match=r"started with other settings \(group_size changed\)"):
        run_grpo(dataclasses.replace(plan, group_size=4), tmp_path, rubric()[0], resume=True)
    assert "finished: step 1" in dry_run(plan, tmp_path, rubric()[0], None)


def test_an_engine_that_samples_from_another_policy_raises_the_alarm(plan: Grpo, tmp_path: Path) -> None:
    from avocet.training.grpo.rollouts.base import Rollout
    from avocet.training.grpo.rollouts.in_process import InProcessEngine

    class Stale(InProcessEngine):
        def sample(self, *arguments: Any) -> list[list[Rollout]]:
            groups = super().sample(*arguments)
            shifted = [tuple(value - 0.4 for value in one.log_probs or ()) for group in groups for one in group]
            rows = iter(shifted)
            return [[dataclasses.replace(one, log_probs=next(rows)) for one in group] for group in groups]

    plan = dataclasses.replace(plan, on_mismatch="stop")
    with pytest.raises(ConfigError, match=r"is not the trainer's model: 3 of 3 clips differ"):
        run_grpo(plan, tmp_path / "asked", rubric()[0], rollouts=Stale)
    with pytest.raises(ConfigError, match=r"differ by 0.400 per token on average, more than 0.1"):
        run_grpo(plan, tmp_path, rubric()[0], rollouts=Stale, parity=False)


RECIPE = """
import dataclasses
from avocet.records import Sampling
from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.grpo.config import Grpo

def recipe():
    return Recipe(name="tiny", grpo=Grpo(
        name="grpo", model="nano", sources=(DataSource(path={data!r}),), trainable=(),
        lora=LoraSettings(rank=2, alpha=4), optimizer=FineTuneOptimizer(learning_rate=1e-4),
        batch=BatchSettings(max_examples=2, micro_examples=2), group_size=2, length_soft=6, length_hard=12,
        sampling=Sampling(temperature=1.0, max_new_tokens=12, repetition_guard="off"), max_steps=1,
        precision="float32", read=ReadSettings(num_workers=0)))
"""


def test_from_the_command_line_with_the_exact_judge(
    staged_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(data=str(staged_clips / "train.jsonl")))
    flags = ["--run-dir", str(tmp_path / "run")]
    assert main(["train", "grpo", str(recipe), "--judge", "exact", "--dry-run", *flags]) == 0
    assert (
        "1 steps of 2 prompts x 2 captions from 4 examples, about 4 captions to be judged by checklist, dialogue"
        in (capsys.readouterr().out)
    )
    assert main(["train", "grpo", str(recipe), "--judge", "exact", *flags]) == 0
    [line] = figures(tmp_path / "run" / "grpo")
    assert {"reward/checklist", "reward/dialogue", "reward/length"} <= line.keys()
    assert main(["train", "export", str(recipe), *flags]) == 0
    assert (tmp_path / "run" / "export-grpo-merged" / "model.safetensors").exists()
    assert main(["train", "grpo", str(recipe), "--judge", "exact", *flags]) == 2
    assert "already holds a run" in capsys.readouterr().err
