"""Rewards of AVoCaDO's GRPO (section 3.2): R = R_C + R_D + R_L, each a pure function of counts or texts."""

from __future__ import annotations

from avocet.rewards.checklist import checklist_reward
from avocet.rewards.dialogue import DialogueReward, dialogue_reward
from avocet.rewards.length import length_reward

__all__ = ["DialogueReward", "checklist_reward", "dialogue_reward", "length_reward"]
