"""The repetition reward (not in AVoCaDO, which discourages collapse by length alone).

The repetition rate sees phrases between punctuation marks, and the signs of collapse see loops of 32 words and more. A
policy would find what lies between them: "the dog barks and the dog barks and ...", one endless word, a row of emoji.
So loops of characters count, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import numpy as np

from avocet.judging.events import has_words
from avocet.metrics import is_collapsed, repetition_rate
from avocet.records import StopReason
from avocet.rewards.items import RewardItem, Unscored

LOOP_ROUNDS = 4
LOOP_CHARS = 16
"""A loop of characters: so many rounds, and so many characters in all. "Ha ha ha ha!" is none."""
LOOP_PERIOD = 256
"""Characters of the longest round that is looked for; longer ones have words enough for the signs of collapse."""


def repetition_reward(text: str, stop_reason: StopReason | None = None) -> float:
    """1 - the larger of repetition rate and share of characters in loops; 0 for a caption that collapsed into a loop,
    and for one without words.

    A caption that says nothing repeats nothing, but to reward that would teach silence. Raises `ConfigError` for an
    unknown stop reason.
    """
    if is_collapsed(text, stop_reason) or not has_words(text):
        return 0.0
    return 1.0 - max(repetition_rate(text), loop_share(text))


def loop_share(text: str) -> float:
    """Characters in stretches that repeat what stands a period before / all characters, in 0..1.

    Case and white space are not looked at, so "dog dog dog dog dog dog " is a loop of period 3. 0 for an empty text.
    """
    codes = np.array([ord(mark) for mark in "".join(text.casefold().split())], dtype=np.int64)
    in_loop = np.zeros(len(codes), dtype=bool)
    for period in range(1, min(LOOP_PERIOD, len(codes) // LOOP_ROUNDS) + 1):
        breaks = np.flatnonzero(codes[period:] != codes[:-period])
        # Stretches of equal characters lie between the breaks, with a break before the first and after the last one.
        edges = np.concatenate(([-1], breaks, [len(codes) - period]))
        needed = max(LOOP_ROUNDS * period, LOOP_CHARS) - period
        for place in np.flatnonzero(np.diff(edges) > needed):
            in_loop[edges[place] + 1 : edges[place + 1] + period] = True
    return float(in_loop.mean()) if len(codes) else 0.0


class RepetitionReward:
    """`repetition_reward` of each rollout."""

    name: ClassVar[str] = "repetition"

    async def score(self, items: Sequence[RewardItem]) -> list[float | Unscored]:
        return [repetition_reward(item.text, cast(StopReason, item.stop_reason)) for item in items]
