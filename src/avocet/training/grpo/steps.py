"""One step of GRPO in its two halves: `sample` (rollouts, handed to the judge at once) and `update`."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from avocet.records import Failure, TrainingExample
from avocet.rewards.rubric import BackgroundScorer, RewardItem, Scored
from avocet.training.finetune.engine import Engine, StepResult
from avocet.training.finetune.module import Item, MicroBatch, filler
from avocet.training.grpo.books import Books, Group
from avocet.training.grpo.config import Grpo
from avocet.training.grpo.figures import StepShare, joined, step_figures
from avocet.training.grpo.groups import JudgedGroup, Lesson, NoLesson, count_groups, lesson_of, packed
from avocet.training.grpo.objective import GroupPolicy, Reference, score_groups
from avocet.training.grpo.rollouts.base import RolloutEngine, rollout_seed


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """One prompt of a step."""

    item: Item
    name: str
    """The item's place in the data; from the second draw of it in a step on, with the number of draws before it."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """The first half of a step: rollouts, with their judgement on its way."""

    step: int
    waiting: tuple[tuple[Item, Group, Future[list[Scored]] | list[Scored]], ...]
    failures: tuple[Failure, ...]
    rejected: Counter[str]
    """Reason -> rollouts that the engine did not hand out; of groups from the books nobody knows any more."""
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

    def sample(
        self, step: int, parts: Sequence[MicroBatch], failures: Sequence[Failure], shares: Sequence[Sequence[int]]
    ) -> Sampled:
        """Roll out the prompts of a step; what is sampled at once goes to the judge as soon as it is there.

        Args:
            step: its number.
            parts: what this process reads of it.
            failures: what of it could not be read.
            shares: places in the data that each process has of it; a mixture with weights may draw one several times.
        """
        began = time.perf_counter()
        rejected = Counter(self._sampler.rejections)
        draws = draws_of(parts, Counter(place for share in shares[: self._engine.rank] for place in share))
        if self._sampler.takes_steps:
            draws = [[draw for part in draws for draw in part]]
        waiting: list[tuple[Item, Group, Future[list[Scored]] | list[Scored]]] = []
        for part in draws:
            for draw, group in zip(part, self._groups(step, part), strict=True):
                known = self._books.scores(group)
                waiting.append((draw.item, group, self._submit(draw.item, group) if known is None else known))
        return Sampled(
            step=step,
            waiting=tuple(waiting),
            failures=tuple(failures),
            rejected=self._sampler.rejections - rejected,
            seconds=time.perf_counter() - began,
        )

    def update(self, sampled: Sampled, rate: float) -> tuple[StepResult | None, dict[str, float]]:
        """Wait for the judge, then learn.

        Returns:
            All updates as one result, None where no group of any process has anything to teach; and what the step is
            logged with.
        """
        began = time.perf_counter()
        judged = [self._judged(sampled.step, *one) for one in sampled.waiting]
        judge_seconds = time.perf_counter() - began
        began = time.perf_counter()
        found = [self._lesson(one) for one in judged]
        results = self._learn(sampled.step, [one for one in found if isinstance(one, Lesson)], rate)
        seconds = {
            "rollouts": sampled.seconds,
            "judge_wait": judge_seconds,
            "update": time.perf_counter() - began,
        }
        figures = self._figures(sampled, judged, found, results, seconds)
        return joined(results) if results else None, figures

    # Sampling.

    def _groups(self, step: int, draws: Sequence[Draw]) -> list[Group]:
        """The groups of some draws: from the books, else sampled."""
        known = {draw.name: self._books.group(f"{step}/{draw.name}") for draw in draws}
        missing = [draw for draw in draws if known[draw.name] is None]
        if missing:
            known |= dict(zip([draw.name for draw in missing], self._roll_out(step, missing), strict=True))
        groups = [known[draw.name] for draw in draws]
        return [group for group in groups if group is not None]

    def _roll_out(self, step: int, draws: Sequence[Draw]) -> list[Group]:
        plan, model = self._plan, self._engine.model
        items = [draw.item for draw in draws]
        examples = [self._examples[item.index] for item in items]
        rollouts = self._sampler.sample(
            [item.prompt for item in items],
            [example.clip for example in examples],
            [example.instruction or str(model.default_instruction) for example in examples],
            plan.group_size,
            plan.sampling,
            [rollout_seed(plan.seed, step, f"{draw.name}/{draw.item.prompt.clip_id}") for draw in draws],
        )
        old: list[list[torch.Tensor] | None] = [None] * len(draws)
        if plan.needs_old:
            old = list(self._old(items, [[one.token_ids for one in own] for own in rollouts]))
        return [
            self._books.enter(step, f"{step}/{draw.name}", draw.item.prompt.clip_id, own, values)
            for draw, own, values in zip(draws, rollouts, old, strict=True)
        ]

    def _old(self, items: Sequence[Item], completions: Sequence[Sequence[tuple[int, ...]]]) -> list[list[torch.Tensor]]:
        """Log-probabilities under the policy that samples, in passes of the size of those of the update."""
        found: list[list[torch.Tensor]] = [[] for _ in items]
        # An engine may hand out nothing for a prompt.
        places = [place for place, own in enumerate(completions) if own]
        lengths = [len(items[place].prompt.token_ids) + sum(map(len, completions[place])) for place in places]
        for run in packed(lengths, self._plan.batch.micro_examples, self._plan.batch.micro_tokens):
            part = [places[number] for number in run]
            scores, _ = self._scores(
                [items[place] for place in part], [completions[place] for place in part], policy=True, reference=None
            )
            assert scores is not None
            for place, own in zip(part, scores, strict=True):
                found[place] = own
        return found

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

    def _lesson(self, judged: JudgedGroup) -> Lesson | NoLesson:
        return lesson_of(
            judged,
            divide_by_deviation=self._plan.policy.divides_by_deviation,
            drop_cut_off=self._plan.drop_cut_off,
        )

    def _learn(self, step: int, lessons: Sequence[Lesson], rate: float) -> list[StepResult]:
        """The updates of a step; none where no process has a lesson."""
        batches = self._batches(lessons)
        if not self._engine.total([len(lessons)])[0]:
            return []
        results = []
        for number in range(self._plan.updates_per_batch):
            results.append(self._engine.step(batches, step * self._plan.updates_per_batch + number, rate))
            self.version += 1
        return results

    def _batches(self, lessons: Sequence[Lesson]) -> list[MicroBatch]:
        """The lessons with their log-probabilities, in as many passes as every other process makes."""
        limits = self._plan.batch
        runs = packed([lesson.num_tokens for lesson in lessons], limits.micro_examples, limits.micro_tokens)
        passes = max(self._of_all(len(runs)))
        batches = [MicroBatch(items=tuple(self._with_log_probs([lessons[place] for place in run]))) for run in runs]
        return batches + [self._filler] * (passes - len(runs))

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

    # Counting.

    def _figures(
        self,
        sampled: Sampled,
        judged: Sequence[JudgedGroup],
        lessons: Sequence[Lesson | NoLesson],
        results: Sequence[StepResult],
        seconds: Mapping[str, float],
    ) -> dict[str, float]:
        """What a step is logged with, over all processes."""
        objective = self._engine.objective
        assert isinstance(objective, GroupPolicy)
        own = StepShare(
            counts=count_groups(judged, lessons, self._plan.group_size),
            longest=max((len(one.token_ids) for group in judged for one in group.group.rollouts), default=0),
            scores=tuple(score for group in judged for score in group.scores),
            rejected=sampled.rejected,
            seconds=seconds,
            largest_log_ratio=objective.take_largest_log_ratio(),
            num_refused=sum(result.refused for result in results),
        )
        return step_figures(self._of_all(own), len(results))

    def _of_all(self, value: Any) -> list[Any]:
        """The value of every process."""
        if self._engine.num_processes == 1:
            return [value]
        found: list[Any] = [None] * self._engine.num_processes
        torch.distributed.all_gather_object(found, value)
        return found


def draws_of(parts: Sequence[MicroBatch], before: Counter[int]) -> list[list[Draw]]:
    """The draws of each micro-batch.

    Args:
        parts: of one process.
        before: place in the data -> draws of it that other processes count first.
    """
    seen = Counter(before)
    found: list[list[Draw]] = []
    for part in parts:
        if part.is_filler:
            continue
        draws = []
        for item in part.items:
            number = seen[item.index]
            draws.append(Draw(item=item, name=f"{item.index}.{number}" if number else str(item.index)))
            seen[item.index] += 1
        found.append(draws)
    return found
