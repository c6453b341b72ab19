"""The length reward R_L (AVoCaDO, eq. 8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from avocet.errors import ConfigError
from avocet.rewards.items import RewardItem, Unscored


def length_reward(num_tokens: int, soft: int = 2048, hard: int = 4096) -> float:
    """1 below `soft` tokens, falling linearly to 0 at `hard` tokens.

    Raises `ConfigError` unless 0 <= num_tokens and 0 <= soft < hard.
    """
    if num_tokens < 0 or not 0 <= soft < hard:
        raise ConfigError(f"length_reward needs num_tokens >= 0 and 0 <= soft < hard, got {num_tokens}, {soft}, {hard}")
    return min(1.0, max(0.0, 1.0 - (num_tokens - soft) / (hard - soft)))


class LengthReward:
    """`length_reward` of each rollout. Raises `ConfigError` unless 0 <= soft < hard."""

    name: ClassVar[str] = "length"

    def __init__(self, soft: int = 2048, hard: int = 4096) -> None:
        length_reward(0, soft, hard)
        self.soft = soft
        self.hard = hard

    @property
    def identity(self) -> str:
        """With its limits."""
        return f"{self.name}/{self.soft}/{self.hard}"

    async def score(self, items: Sequence[RewardItem]) -> list[float | Unscored]:
        return [length_reward(item.num_tokens, self.soft, self.hard) for item in items]
