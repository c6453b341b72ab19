"""From rollouts and their rewards to what a step learns from."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from avocet.metrics import is_collapsed
from avocet.rewards.rubric import Scored
from avocet.training.finetune.module import GroupTokens, Item
from avocet.training.grpo.books import Group
from avocet.training.losses import group_advantages

NoLesson = Literal["too_small", "without_spread", "cut_off"]
"""Why a group teaches nothing: fewer than two scored rollouts; all of the same worth; all that could count ran into the
token limit, and those are to be dropped."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class JudgedGroup:
    """A prompt with its rollouts and their scores."""

    item: Item
    group: Group
    scores: tuple[Scored, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """A group that has something to teach: some of its rollouts, with advantages."""

    item: Item
    group: Group
    places: tuple[int, ...]
    """Of the rollouts that count."""
    advantages: tuple[float, ...]

    @property
    def completions(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self.group.rollouts[place].token_ids for place in self.places)

    @property
    def num_tokens(self) -> int:
        """Prompt and completions together."""
        return len(self.item.prompt.token_ids) + sum(map(len, self.completions))

    def with_log_probs(self, old: Sequence[torch.Tensor] | None, reference: Sequence[torch.Tensor] | None) -> Item:
        """Ready for the objective."""
        tokens = GroupTokens(
            completions=self.completions,
            advantages=self.advantages,
            old=None if old is None else tuple(old),
            reference=None if reference is None else tuple(reference),
            sampled=tuple(
                None if (found := self.group.rollouts[place].log_probs) is None else torch.tensor(found)
                for place in self.places
            ),
        )
        return dataclasses.replace(self.item, group=tokens, target=())


def lesson_of(judged: JudgedGroup, *, divide_by_deviation: bool, drop_cut_off: bool) -> Lesson | NoLesson:
    """The lesson of a group, or why it has none.

    Unscored rollouts are left out of mean and deviation. `drop_cut_off` leaves those that ran into the token limit out
    of the loss, not out of the mean.
    """
    scored = [place for place, score in enumerate(judged.scores) if score.total is not None]
    totals = [float(judged.scores[place].total or 0.0) for place in scored]
    if len(scored) < 2:
        return "too_small"
    if len(set(totals)) == 1:
        return "without_spread"
    values = torch.tensor([totals], dtype=torch.float64)
    advantages = group_advantages(values)[0] if divide_by_deviation else (values - values.mean())[0]
    kept = [
        (place, value)
        for place, value in zip(scored, advantages.tolist(), strict=True)
        if not (drop_cut_off and judged.group.rollouts[place].stop_reason == "length")
    ]
    if not kept:
        return "cut_off"
    return Lesson(
        item=judged.item,
        group=judged.group,
        places=tuple(place for place, _ in kept),
        advantages=tuple(value for _, value in kept),
    )


def count_groups(judged: Sequence[JudgedGroup], lessons: Sequence[Lesson | NoLesson], group_size: int) -> Counter[str]:
    """What is counted of the groups of a step; `lessons` are what `lesson_of` makes of them."""
    names = ("groups", "lessons", *(f"groups_{reason}" for reason in get_args(NoLesson)), "rollouts")
    names += ("rollouts_missing", "rollouts_unscored", "rollouts_cut_off", "rollouts_collapsed", "tokens")
    counts: Counter[str] = Counter(dict.fromkeys(names, 0))
    for one, lesson in zip(judged, lessons, strict=True):
        counts["groups"] += 1
        counts["lessons" if isinstance(lesson, Lesson) else f"groups_{lesson}"] += 1
        counts["rollouts"] += len(one.group.rollouts)
        counts["rollouts_missing"] += group_size - len(one.group.rollouts)
        counts["rollouts_unscored"] += sum(score.total is None for score in one.scores)
        for rollout in one.group.rollouts:
            counts["rollouts_cut_off"] += rollout.stop_reason == "length"
            counts["rollouts_collapsed"] += is_collapsed(rollout.text, rollout.stop_reason)
            counts["tokens"] += len(rollout.token_ids)
    return counts


def packed(lengths: Sequence[int], max_examples: int, max_tokens: int | None) -> list[range]:
    """Places of prompts that pass the model together: runs of at most `max_examples`, and of `max_tokens` when padded
    to their longest. A prompt that alone is longer passes alone.

    packed([50, 60, 70, 10], max_examples=4, max_tokens=130) == [range(0, 2), range(2, 3), range(3, 4)]
    """
    runs: list[range] = []
    start = longest = 0
    for place, length in enumerate(lengths):
        longest = max(longest, length)
        count = place + 1 - start
        if place > start and (count > max_examples or (max_tokens is not None and longest * count > max_tokens)):
            runs.append(range(start, place))
            start, longest = place, length
    return [*runs, range(start, len(lengths))] if lengths else []
