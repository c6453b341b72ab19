"""One step of GRPO in its two halves: `sample` (rollouts, handed to the judge at once) and `update`."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import torch

from avocet.errors import ConfigError
from avocet.records import Failure, TrainingExample
from avocet.rewards.rubric import BackgroundScorer, RewardItem, Scored
from avocet.training.finetune.engine import Engine, StepResult
from avocet.training.finetune.module import Item, MicroBatch, filler
from avocet.training.grpo.books import Books, Group
from avocet.training.grpo.config import Grpo
from avocet.training.grpo.groups import SUMS, JudgedGroup, Lesson, count_groups, lesson_of, reward_sums
from avocet.training.grpo.objective import Reference, score_groups
from avocet.training.grpo.rollouts.base import RolloutEngine, rollout_seed


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """The first half of a step: rollouts, with their judgement on its way."""

    step: int
    waiting: tuple[tuple[Item, Group, Future[list[Scored]] | list[Scored]], ...]
    failures: tuple[Failure, ...]
    seconds: float


class StepMaker:
    """Samples, judges and learns, step by step, on one process."""

    def __init__(
        self,
        plan: Grpo,
        engine: Engine,
        examples: Sequence[TrainingExample],
        reference: Reference | None,
        sampler: RolloutEngine,
        scorer: BackgroundScorer,
        books: Books,
        first_step: int = 0,
    ) -> None:
        self._plan, self._engine, self._examples = plan, engine, examples
        self._reference, self._sampler, self._scorer, self._books = reference, sampler, scorer, books
        self._filler = filler(engine.model)
        self.version = first_step * plan.updates_per_batch
        """Updates that the policy has seen, at the most."""

    def sample(self, step: int, parts: Sequence[MicroBatch], failures: Sequence[Failure]) -> Sampled:
        """Roll out the prompts of a step; every micro-batch goes to the judge as soon as it is there."""
        began = time.perf_counter()
        waiting: list[tuple[Item, Group, Future[list[Scored]] | list[Scored]]] = []
        for part in parts:
            if part.is_filler:
                continue
            for item, group in zip(part.items, self._groups(step, part.items), strict=True):
                known = self._books.scores(group)
                waiting.append((item, group, self._submit(item, group) if known is None else known))
        return Sampled(
            step=step,
            waiting=tuple(waiting),
            failures=tuple(failures),
            seconds=time.perf_counter() - began,
        )

    def update(self, sampled: Sampled, rate: float) -> tuple[StepResult | None, dict[str, float]]:
        """Wait for the judge, then learn. No result where no group of any process has anything to teach."""
        began = time.perf_counter()
        judged = [self._judged(sampled.step, *one) for one in sampled.waiting]
        judge_seconds = time.perf_counter() - began
        began = time.perf_counter()
        lessons = [
            lesson
            for one in judged
            if (
                lesson := lesson_of(
                    one,
                    divide_by_deviation=self._plan.policy.divides_by_deviation,
                    drop_cut_off=self._plan.drop_cut_off,
                )
            )
        ]
        batches = self._batches(lessons)
        result = None
        if self._engine.total([len(lessons)])[0]:
            for number in range(self._plan.updates_per_batch):
                place = sampled.step * self._plan.updates_per_batch + number
                result = self._engine.step(batches, place, rate)
                self.version += 1
        seconds = {
            "seconds/rollouts": sampled.seconds,
            "seconds/judge_wait": judge_seconds,
            "seconds/update": time.perf_counter() - began,
        }
        return result, self._figures(judged, seconds)

    # Sampling.

    def _groups(self, step: int, items: Sequence[Item]) -> list[Group]:
        """The groups of a micro-batch: from the books, else sampled."""
        known = {item.index: self._books.group(step, item.index) for item in items}
        missing = [item for item in items if known[item.index] is None]
        if missing:
            for item, group in zip(missing, self._roll_out(step, missing), strict=True):
                known[item.index] = group
        groups = [known[item.index] for item in items]
        return [group for group in groups if group is not None]

    def _roll_out(self, step: int, items: Sequence[Item]) -> list[Group]:
        plan, model = self._plan, self._engine.model
        examples = [self._examples[item.index] for item in items]
        rollouts = self._sampler.sample(
            [item.prompt for item in items],
            [example.clip for example in examples],
            [example.instruction or str(model.default_instruction) for example in examples],
            plan.group_size,
            plan.sampling,
            [rollout_seed(plan.seed, step, f"{item.index}/{item.prompt.clip_id}") for item in items],
        )
        old: list[list[torch.Tensor]] | None = None
        if plan.needs_old:
            completions = [[one.token_ids for one in own] for own in rollouts]
            old, _ = self._scores(items, completions, policy=True, reference=None)
        return [
            self._books.enter(step, item.index, item.prompt.clip_id, own, None if old is None else old[place])
            for place, (item, own) in enumerate(zip(items, rollouts, strict=True))
        ]

    def _submit(self, item: Item, group: Group) -> Future[list[Scored]]:
        example = self._examples[item.index]
        return self._scorer.submit(
            [
                RewardItem(
                    clip_id=f"{group.key}#{place}",
                    text=rollout.text,
                    num_tokens=len(rollout.token_ids),
                    stop_reason=rollout.stop_reason,
                    example=example,
                )
                for place, rollout in enumerate(group.rollouts)
            ]
        )

    # Learning.

    def _judged(self, step: int, item: Item, group: Group, scores: Future[list[Scored]] | list[Scored]) -> JudgedGroup:
        if isinstance(scores, Future):
            found = scores.result()
            self._books.enter_scores(step, group, found)
        else:
            found = scores
        return JudgedGroup(item=item, group=group, scores=tuple(found))

    def _batches(self, lessons: Sequence[Lesson]) -> list[MicroBatch]:
        """The lessons with their log-probabilities, in as many passes as every other process makes."""
        size = self._plan.batch.micro_examples
        parts = [lessons[start : start + size] for start in range(0, len(lessons), size)]
        passes = len(parts)
        if self._engine.num_processes > 1:
            passes = max(int(value) for value in self._gather(float(len(parts))))
        batches = [MicroBatch(items=tuple(self._with_log_probs(part))) for part in parts]
        return batches + [self._filler] * (passes - len(parts))

    def _with_log_probs(self, lessons: Sequence[Lesson]) -> list[Item]:
        completions = [lesson.completions for lesson in lessons]
        items = [lesson.item for lesson in lessons]
        _, of_reference = self._scores(items, completions, policy=False, reference=self._reference)
        found = []
        for place, lesson in enumerate(lessons):
            old = None
            if lesson.group.old is not None:
                old = [lesson.group.old[rollout] for rollout in lesson.places]
            found.append(lesson.with_log_probs(old, None if of_reference is None else of_reference[place]))
        return found

    def _scores(
        self,
        items: Sequence[Item],
        completions: Sequence[Sequence[tuple[int, ...]]],
        *,
        policy: bool,
        reference: Reference | None,
    ) -> tuple[list[list[torch.Tensor]] | None, list[list[torch.Tensor]] | None]:
        device = self._engine.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._engine.uses_autocast):
            return score_groups(
                self._engine.model,
                [item.prompt for item in items],
                completions,
                reference,
                policy=policy,
                chunk=self._plan.loss_chunk,
            )

    def _gather(self, value: float) -> list[float]:
        """One number of every process."""
        own = [0.0] * self._engine.num_processes
        own[self._engine.rank] = value
        return self._engine.total(own)

    # Counting.

    def _figures(self, judged: Sequence[JudgedGroup], seconds: Mapping[str, float]) -> dict[str, float]:
        """What a step is logged with, over all processes."""
        counts = count_groups(judged, self._plan.group_size)
        names = tuple(self._plan.rewards)
        sums = reward_sums(judged, names)
        own = [float(counts[name]) for name in SUMS]
        own += [value for name in ("total", *names) for value in sums[name]]
        longest = max((len(one.token_ids) for group in judged for one in group.group.rollouts), default=0)
        own += seconds.values()
        numbers = iter(self._engine.total(own))
        figures: dict[str, float] = {f"rollouts/{name}": next(numbers) for name in SUMS}
        for name in ("total", *names):
            total, square, count = next(numbers), next(numbers), next(numbers)
            if count:
                mean = total / count
                figures[f"reward/{name}"] = mean
                figures[f"reward_deviation/{name}"] = math.sqrt(max(square / count - mean * mean, 0.0))
        figures["rollouts/mean_tokens"] = figures["rollouts/tokens"] / max(figures["rollouts/rollouts"], 1.0)
        figures["rollouts/longest"] = max(self._gather(float(longest)))
        for reason, count in self._sampler.rejections.items():
            figures[f"rejected/{reason}"] = float(count)
        figures |= {name: next(numbers) / self._engine.num_processes for name in seconds}
        return figures


def check_labels(plan: Grpo, examples: Sequence[TrainingExample]) -> None:
    """Raise `ConfigError` when no example has what a reward looks at."""
    wanted = {"checklist": "checklist", "dialogue": "dialogue", "events": "events"}
    for name, field in wanted.items():
        if plan.rewards.get(name) and not any(getattr(example, field) for example in examples):
            raise ConfigError(
                f"reward {name!r} needs examples with `{field}`, and none of {len(examples)} has any; make them with "
                "`avocet curate annotate`, or set its weight to 0"
            )
