"""The repetition reward (not in AVoCaDO, which discourages collapse by length alone)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from avocet.judging.events import has_words
from avocet.metrics import is_collapsed, repetition_rate
from avocet.records import StopReason
from avocet.rewards.items import RewardItem, Unscored


def repetition_reward(text: str, stop_reason: StopReason | None = None) -> float:
    """1 - repetition rate; 0 for a caption that collapsed into a loop, and for one without words.

    A caption that says nothing repeats nothing, but to reward that would teach silence. Raises `ConfigError` for an
    unknown stop reason.
    """
    if is_collapsed(text, stop_reason) or not has_words(text):
        return 0.0
    return 1.0 - repetition_rate(text)


class RepetitionReward:
    """`repetition_reward` of each rollout."""

    name: ClassVar[str] = "repetition"

    async def score(self, items: Sequence[RewardItem]) -> list[float | Unscored]:
        return [repetition_reward(item.text, cast(StopReason, item.stop_reason)) for item in items]
