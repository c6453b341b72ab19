"""Rewards of AVoCaDO's GRPO (section 3.2), R = R_C + R_D + R_L, and optional ones on events, repetition and sound.

Each reward is a pure function of counts or texts (`checklist_reward`, `dialogue_reward`, `length_reward`, ...), and a
part of a `Rubric`, which asks judges for the counts. Only the pure functions are imported at once.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from avocet.rewards.checklist import checklist_reward
from avocet.rewards.dialogue import DialogueReward, dialogue_reward
from avocet.rewards.events import event_reward
from avocet.rewards.length import length_reward

if TYPE_CHECKING:
    from avocet.rewards.exact import script_checklist
    from avocet.rewards.items import Reward, RewardItem, Unscored
    from avocet.rewards.repetition import repetition_reward
    from avocet.rewards.rubric import Rubric, Scored, WeightedReward, make_rubric
    from avocet.rewards.scoring import BackgroundScorer
    from avocet.rewards.sound_binding import binding_reward
    from avocet.rewards.summary import RewardSummary, summarise

_HOMES = MappingProxyType(
    {
        "BackgroundScorer": "scoring",
        "Reward": "items",
        "RewardItem": "items",
        "RewardSummary": "summary",
        "Rubric": "rubric",
        "Scored": "rubric",
        "Unscored": "items",
        "WeightedReward": "rubric",
        "binding_reward": "sound_binding",
        "make_rubric": "rubric",
        "repetition_reward": "repetition",
        "script_checklist": "exact",
        "summarise": "summary",
    }
)

__all__ = [
    "BackgroundScorer",
    "DialogueReward",
    "Reward",
    "RewardItem",
    "RewardSummary",
    "Rubric",
    "Scored",
    "Unscored",
    "WeightedReward",
    "binding_reward",
    "checklist_reward",
    "dialogue_reward",
    "event_reward",
    "length_reward",
    "make_rubric",
    "repetition_reward",
    "script_checklist",
    "summarise",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"avocet.rewards.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'avocet.rewards' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
