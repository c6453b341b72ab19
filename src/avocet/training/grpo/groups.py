"""From rollouts and their rewards to what a step learns from."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import torch

from avocet.metrics import is_collapsed
from avocet.rewards.rubric import Scored
from avocet.training.finetune.module import GroupTokens, Item
from avocet.training.grpo.books import Group
from avocet.training.losses import group_advantages


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


def lesson_of(judged: JudgedGroup, *, divide_by_deviation: bool, drop_cut_off: bool) -> Lesson | None:
    """The lesson of a group, or None when it has none: fewer than two scored rollouts, or all of the same worth.

    Unscored rollouts are left out of mean and deviation. `drop_cut_off` leaves those that ran into the token limit out
    of the loss, not out of the mean.
    """
    scored = [place for place, score in enumerate(judged.scores) if score.total is not None]
    totals = [float(judged.scores[place].total or 0.0) for place in scored]
    if len(scored) < 2 or len(set(totals)) == 1:
        return None
    values = torch.tensor([totals], dtype=torch.float64)
    advantages = group_advantages(values)[0] if divide_by_deviation else (values - values.mean())[0]
    kept = [
        (place, value)
        for place, value in zip(scored, advantages.tolist(), strict=True)
        if not (drop_cut_off and judged.group.rollouts[place].stop_reason == "length")
    ]
    if not kept:
        return None
    return Lesson(
        item=judged.item,
        group=judged.group,
        places=tuple(place for place, _ in kept),
        advantages=tuple(value for _, value in kept),
    )


SUMS = (
    "groups",
    "groups_without_spread",
    "groups_too_small",
    "rollouts",
    "rollouts_missing",
    "rollouts_unscored",
    "rollouts_cut_off",
    "rollouts_collapsed",
    "tokens",
)
"""Counts of a step that are added up over processes."""


def count_groups(judged: Sequence[JudgedGroup], group_size: int) -> Counter[str]:
    """`SUMS` of the groups of a step."""
    counts: Counter[str] = Counter(dict.fromkeys(SUMS, 0))
    for one in judged:
        totals = [score.total for score in one.scores if score.total is not None]
        counts["groups"] += 1
        counts["groups_too_small"] += len(totals) < 2
        counts["groups_without_spread"] += len(totals) >= 2 and len(set(totals)) == 1
        counts["rollouts"] += len(one.group.rollouts)
        counts["rollouts_missing"] += group_size - len(one.group.rollouts)
        counts["rollouts_unscored"] += len(one.scores) - len(totals)
        for rollout in one.group.rollouts:
            counts["rollouts_cut_off"] += rollout.stop_reason == "length"
            counts["rollouts_collapsed"] += is_collapsed(rollout.text, rollout.stop_reason)
            counts["tokens"] += len(rollout.token_ids)
    return counts


def reward_sums(judged: Sequence[JudgedGroup], names: Sequence[str]) -> dict[str, tuple[float, float, int]]:
    """ "total" and each named part -> sum, sum of squares, and number of rollouts that have it."""
    found = {}
    for name in ("total", *names):
        values = [
            float(value)
            for one in judged
            for score in one.scores
            if (value := score.total if name == "total" else score.parts.get(name)) is not None
        ]
        found[name] = (math.fsum(values), math.fsum(value * value for value in values), len(values))
    return found
