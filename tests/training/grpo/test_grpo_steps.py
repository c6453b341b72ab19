"""What a step of GRPO draws, packs, counts and says, and when a run speaks up or stops."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vowels import VowelReward, figures, read_lines, rubric, worth

from avocet.errors import ConfigError
from avocet.rewards.rubric import RewardItem, Rubric, Scored, Unscored, WeightedReward
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTuneOptimizer
from avocet.training.finetune.engine import Engine, StepResult
from avocet.training.finetune.export import export_stage
from avocet.training.finetune.module import Item, MicroBatch
from avocet.training.finetune.watch import METRICS_FILE, Watch, read_metrics
from avocet.training.grpo.alarms import NothingLearntError
from avocet.training.grpo.books import Group
from avocet.training.grpo.config import Grpo
from avocet.training.grpo.driver import run_grpo
from avocet.training.grpo.figures import joined
from avocet.training.grpo.groups import JudgedGroup, Lesson, count_groups, lesson_of, packed
from avocet.training.grpo.objective import PolicyModule
from avocet.training.grpo.rollouts.base import Rollout
from avocet.training.grpo.rollouts.in_process import InProcessEngine
from avocet.training.grpo.steps import draws_of


def micro_batch(*places: int) -> MicroBatch:
    prompt: Any = SimpleNamespace(token_ids=(1,) * 10)
    return MicroBatch(items=tuple(Item(index=place, task="caption", prompt=prompt, target=()) for place in places))


def test_each_draw_of_an_example_has_its_own_name() -> None:
    """Place 3 is drawn four times, once of them by an earlier process."""
    parts = (micro_batch(3, 1), dataclasses.replace(micro_batch(9), is_filler=True), micro_batch(3, 3))
    names = [[draw.name for draw in part] for part in draws_of(parts, Counter({3: 1}))]
    assert names == [["3.1", "1"], ["3.2", "3.3"]]


def test_a_mixture_with_weights(plan: Grpo, staged_clips: Path, tmp_path: Path) -> None:
    """Of two sources of 8 : 1, examples of the first come twice in one step; each time with captions of its own."""
    lines = (staged_clips / "train.jsonl").read_text().splitlines(keepends=True)
    names = (("often", 8.0, lines[:2]), ("rarely", 1.0, lines[2:]))
    for name, _, own in names:
        (tmp_path / f"{name}.jsonl").write_text("".join(_with_whole_path(line, staged_clips) for line in own))
    sources = tuple(DataSource(path=str(tmp_path / f"{name}.jsonl"), weight=weight) for name, weight, _ in names)
    plan = dataclasses.replace(
        plan, sources=sources, batch=BatchSettings(max_examples=4, micro_examples=4), max_steps=2
    )
    folder = run_grpo(plan, tmp_path / "run", rubric()[0])
    sampled = {line["key"]: line for line in read_lines(folder / "rollouts.jsonl")}
    assert len(sampled) == 8
    twice = [key for key in sampled if "." in key]
    assert twice
    for key in twice:
        first, again = sampled[key.partition(".")[0]], sampled[key]
        assert first["clip_id"] == again["clip_id"]
        assert [one["token_ids"] for one in first["rollouts"]] != [one["token_ids"] for one in again["rollouts"]]


def _with_whole_path(line: str, folder: Path) -> str:
    example = json.loads(line)
    example["clip"]["path"] = str(folder / example["clip"]["path"])
    return json.dumps(example) + "\n"


def test_prompts_are_packed_by_both_limits() -> None:
    # 2 * 60 <= 130 < 3 * 70, 2 * 70.
    assert packed([50, 60, 70, 10], 4, 130) == [range(2), range(2, 3), range(3, 4)]
    assert packed([50, 60, 70, 10], 3, None) == [range(3), range(3, 4)]
    # What is too long alone passes alone.
    assert packed([200, 10], 4, 130) == [range(1), range(1, 2)]
    assert packed([], 4, 130) == []


def test_the_update_keeps_to_the_limit_of_tokens(plan: Grpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    forward = PolicyModule.forward

    def watched(self: PolicyModule, batch: MicroBatch) -> Any:
        if not batch.is_filler:
            passes.append(max(item.num_tokens for item in batch.items) * len(batch.items))
        return forward(self, batch)

    monkeypatch.setattr(PolicyModule, "forward", watched)
    batch = BatchSettings(max_examples=4, micro_examples=4, micro_tokens=200)
    run_grpo(dataclasses.replace(plan, batch=batch, max_steps=1), tmp_path, rubric()[0])
    assert passes
    assert max(passes) <= 200


def group_of(stops: Sequence[str], totals: Sequence[float | None]) -> JudgedGroup:
    rollouts = [Rollout(token_ids=(1, 2), text="x", stop_reason=stop, log_probs=None) for stop in stops]  # type: ignore[arg-type]
    scores = [
        Scored(total=total, parts={"a": total}, reasons={} if total is not None else {"a": "no reply"})
        for total in totals
    ]
    [item] = micro_batch(0).items
    return JudgedGroup(item=item, group=Group(key="0/0", rollouts=tuple(rollouts), old=None), scores=tuple(scores))


def test_groups_without_a_lesson_are_counted_by_reason() -> None:
    groups = [
        group_of(("end", "length"), (0.0, 1.0)),
        group_of(("end", "end"), (None, 1.0)),
        group_of(("end", "end"), (0.5, 0.5)),
        group_of(("length", "length"), (0.0, 1.0)),
    ]
    lessons = [lesson_of(one, divide_by_deviation=True, drop_cut_off=True) for one in groups]
    assert lessons[1:] == ["too_small", "without_spread", "cut_off"]
    assert isinstance(lessons[0], Lesson)
    # Prompt of ten tokens; the second caption was cut off.
    assert (lessons[0].places, lessons[0].num_tokens) == ((0,), 12)
    counts = count_groups(groups, lessons, group_size=3)
    assert counts == {
        "groups": 4,
        "lessons": 1,
        "groups_too_small": 1,
        "groups_without_spread": 1,
        "groups_cut_off": 1,
        "rollouts": 8,
        "rollouts_missing": 4,
        "rollouts_unscored": 1,
        "rollouts_cut_off": 3,
        "rollouts_collapsed": 0,
        "tokens": 16,
    }


def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(Watch, "say", lambda self, text: lines.append(text))
    return lines


class BrokenReward(VowelReward):
    """Cannot read any reply."""

    async def score(self, items: Sequence[RewardItem]) -> list[float | Unscored]:
        return [Unscored(reason="unreadable reply: nothing") for _ in items]


def test_a_judge_that_is_broken_stops_the_run(plan: Grpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dataclasses.replace(plan, max_steps=4, max_idle_steps=3)
    broken = Rubric([WeightedReward(reward=BrokenReward())])
    lines = said(monkeypatch)
    with pytest.raises(NothingLearntError, match=r"step 3 had nothing to learn from.* 3 steps in a row"):
        run_grpo(plan, tmp_path, broken)
    assert lines == [
        f"step {step} had nothing to learn from: of 2 groups 2 with fewer than two scored captions; "
        "vowels: unreadable reply (6)"
        for step in (1, 2)
    ]
    # Mended, it goes on from the step that failed: no failed judgement was kept.
    folder = run_grpo(plan, tmp_path, rubric()[0], resume=True)
    assert [line["step"] for line in figures(folder)] == [1, 2, 3, 4]
    assert figures(folder)[2]["rollouts/rollouts_unscored"] == 0


def test_rewards_that_are_all_the_same_are_said_and_may_be_allowed(
    plan: Grpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = said(monkeypatch)
    plan = dataclasses.replace(plan, max_steps=2, max_idle_steps=2)
    with pytest.raises(NothingLearntError, match="of 2 groups 2 in which all captions are worth the same"):
        run_grpo(plan, tmp_path, rubric(constant=True)[0])
    # How a run is watched may change from start to start.
    run_grpo(dataclasses.replace(plan, max_idle_steps=0), tmp_path, rubric(constant=True)[0], resume=True)
    assert len(lines) == 2


def test_a_policy_that_runs_away_raises_the_alarm(plan: Grpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios of e^9 and e^-9 have a mean that says little; the largest says it."""
    wild = dataclasses.replace(
        plan,
        optimizer=FineTuneOptimizer(learning_rate=0.05, clip_norm=0.0),
        updates_per_batch=4,
        max_steps=1,
        gradient_checkpointing=False,
    )
    with pytest.raises(
        ConfigError, match=r"times more or less likely since it was sampled, more than e\^5: the policy"
    ):
        run_grpo(dataclasses.replace(wild, on_mismatch="stop"), tmp_path / "stops", rubric()[0])
    lines = said(monkeypatch)
    folder = run_grpo(wild, tmp_path / "goes on", rubric()[0])
    assert any("the policy runs away" in line for line in lines)
    assert figures(folder)[0]["largest_log_ratio"] > 5
    quiet = run_grpo(dataclasses.replace(plan, max_steps=1), tmp_path / "quiet", rubric()[0])
    # One update of what was just sampled.
    assert figures(quiet)[0]["largest_log_ratio"] == 0


def result(loss: float, **changes: Any) -> StepResult:
    settings: dict[str, Any] = {
        "loss": loss,
        "figures": {"kl": loss / 10, "ratio": 1.0, "entropy": loss},
        "task_losses": {},
        "gradient_norm": loss,
        "num_targets": 6,
        "num_tokens": 100,
        "num_examples": 2,
        "refused": False,
    }
    return StepResult(**settings | changes)


def test_several_updates_are_logged_as_one() -> None:
    refused = result(math.nan, refused=True)
    first = result(1.0, figures={"kl": 0.3, "ratio": 0.4, "entropy": 1.0, "mismatch": 0.2})
    second = result(2.0, figures={"kl": 0.1, "ratio": 1.5, "entropy": 2.0, "mismatch": 0.1})
    together = joined([refused, first, second])
    assert together == result(
        1.5,
        figures={"kl": 0.3, "ratio": 0.4, "entropy": 1.5, "mismatch": 0.2},
        gradient_norm=2.0,
        num_tokens=300,
        refused=True,
    )
    assert joined([first]) == first
    assert math.isnan(joined([refused]).loss)


def test_a_refused_update_among_others_is_counted(plan: Grpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, passes = Engine._forward, []

    def broken_first(self: Engine, batch: MicroBatch) -> Any:
        passes.append(batch)
        return forward(self, batch) * (math.nan if len(passes) == 1 else 1.0)

    monkeypatch.setattr(Engine, "_forward", broken_first)
    plan = dataclasses.replace(plan, updates_per_batch=2, max_steps=1)
    folder = run_grpo(plan, tmp_path, rubric()[0])
    [line] = figures(folder)
    assert (line["updates"], line["updates_refused"]) == (2, 1)
    [step] = [line for line in read_metrics(folder / METRICS_FILE) if "loss" in line]
    assert step["refused"]
    assert math.isfinite(step["loss"])


class OneClipReward:
    """Scores one clip; has nothing to look at in the others."""

    name = "keypoints"

    async def score(self, items: Sequence[RewardItem]) -> list[float | Unscored]:
        left_out = Unscored(reason="no keypoints: none", left_out=True)
        return [worth(item.text) if item.example.clip.id == "clip-0" else left_out for item in items]


def test_every_mean_has_its_number_and_what_it_leaves_out(plan: Grpo, tmp_path: Path) -> None:
    """Four groups of three, of which one has keypoints."""
    both = Rubric([WeightedReward(reward=OneClipReward()), WeightedReward(reward=VowelReward())])
    plan = dataclasses.replace(plan, batch=BatchSettings(max_examples=4, micro_examples=4), max_steps=1)
    [line] = figures(run_grpo(plan, tmp_path, both))
    assert (line["reward_n/keypoints"], line["reward_n/vowels"], line["reward_n/total"]) == (3, 12, 12)
    assert (line["reward_left_out/keypoints"], line["reward_failed/keypoints"]) == (9, 0)
    assert line["unscored/keypoints: no keypoints"] == 9


class RejectingEngine(InProcessEngine):
    """Hands out all but the first of each group."""

    def sample(self, *arguments: Any) -> list[list[Rollout]]:
        groups = super().sample(*arguments)
        self.rejections["no_end_token"] += len(groups)
        return [group[1:] for group in groups]


def test_rejections_are_those_of_the_step(plan: Grpo, tmp_path: Path) -> None:
    folder = run_grpo(
        dataclasses.replace(plan, max_steps=2), tmp_path, rubric()[0], rollouts=RejectingEngine, parity=False
    )
    assert [line["rejected/no_end_token"] for line in figures(folder)] == [2, 2]
    assert [line["rollouts/rollouts_missing"] for line in figures(folder)] == [2, 2]


def test_other_data_do_not_go_on_and_an_unfinished_run_is_no_result(plan: Grpo, tmp_path: Path) -> None:
    """Batches and seeds follow the list of examples; and what was cut off is not exported as if it had ended."""
    source = Path(plan.sources[0].path)
    file = source.with_name("one_more.jsonl")
    file.write_text(source.read_text())
    plan = dataclasses.replace(plan, max_steps=2, sources=(DataSource(path=str(file)),))
    folder = run_grpo(plan, tmp_path, rubric()[0])
    assert json.loads((folder / "run.json").read_text())["num_steps"] == 2
    shutil.rmtree(folder / "checkpoint-2")
    with pytest.raises(ConfigError, match="cut off at step 1 of 2"):
        export_stage((plan.stage(),), tmp_path, "grpo", "merged")
    first = json.loads(source.read_text().splitlines()[0])
    first["clip"]["id"] = "once more"
    file.write_text(f"{source.read_text()}{json.dumps(first)}\n")
    with pytest.raises(ConfigError, match="started with other data"):
        run_grpo(plan, tmp_path, rubric()[0], resume=True)


class NamedReward(VowelReward):
    def __init__(self, identity: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.identity = identity


def test_another_judge_does_not_go_on(plan: Grpo, tmp_path: Path) -> None:
    plan = dataclasses.replace(plan, max_steps=1)
    folder = run_grpo(plan, tmp_path, Rubric([WeightedReward(reward=NamedReward("first/1"))]))
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["judges"], facts["rollouts"]) == ({"vowels": "first/1"}, "in_process")
    with pytest.raises(ConfigError, match=r"begun with other judges \(vowels by first/1, now second/1\)"):
        run_grpo(plan, tmp_path, Rubric([WeightedReward(reward=NamedReward("second/1"))]), resume=True)
    # A record that a full disk cut short.
    (folder / "run.json").write_text('{"config": {"na')
    with pytest.raises(ConfigError, match=r"run\.json cannot be read .* choose another --run-dir"):
        run_grpo(plan, tmp_path, Rubric([WeightedReward(reward=NamedReward("first/1"))]), resume=True)
