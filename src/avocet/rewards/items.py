"""What is scored, what a reward says about it, and what a reward is.

A reward gives every rollout a number or says why there is none. Two reasons are kept apart, because training must treat
them differently:

- *failed*: this rollout could not be judged (no reply, an unreadable one). It is dropped from its group.
- *left out*: its example has nothing for this reward to look at (no keypoints, no events). That is a fact of the
  example, the same for every rollout of it, so the group is compared by the other rewards alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol, get_args, runtime_checkable

from avocet.errors import RecordError
from avocet.records import StopReason, TrainingExample


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardItem:
    """One rollout: a completion and the example that it is a completion of."""

    clip_id: str
    """Names the rollout in errors; judges see the id of the example's clip, so that equal texts are one question."""
    text: str
    num_tokens: int
    """Of the completion, by the policy's own tokenizer, as the length reward counts."""
    stop_reason: str
    """"end", "length" or "repetition" (`avocet.records.StopReason`)."""
    example: TrainingExample
    """Keypoints, dialogue and events to score against; a staged clip names its script in `clip.meta["theatre"]`."""

    def __post_init__(self) -> None:
        if self.num_tokens < 0:
            raise RecordError(f"RewardItem {self.clip_id!r}: num_tokens must be >= 0, got {self.num_tokens}")
        if self.stop_reason not in get_args(StopReason):
            raise RecordError(
                f"RewardItem {self.clip_id!r}: stop_reason must be one of {', '.join(get_args(StopReason))}, got "
                f"{self.stop_reason!r}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unscored:
    """No number, and why."""

    reason: str
    left_out: bool = False
    """True: a fact of the example; every rollout of it must get the same answer. False: this judgement failed."""

    def __post_init__(self) -> None:
        if not self.reason:
            raise RecordError("Unscored: needs a reason")


class Reward(Protocol):
    """One part of the sum. Higher is better; the parts here are in [0, 1]."""

    @property
    def name(self) -> str:
        """Unique in a rubric; the key of the breakdown."""
        ...

    async def score(self, items: Sequence[RewardItem]) -> list[float | Unscored]:
        """One answer per item, in their order.

        What concerns one item alone is `Unscored`; only what concerns the whole run is raised (`JudgeStop`).
        """
        ...


@runtime_checkable
class Checks(Protocol):
    """A reward that looks at labels of examples."""

    def check(self, examples: Sequence[TrainingExample]) -> str:
        """What is wrong with the examples as a whole: that none has what this reward looks at; "" for nothing.

        Raises `ConfigError`, naming the clip, for a label that cannot be judged by.
        """
        ...


@runtime_checkable
class Disconnects(Protocol):
    """A reward that holds connections of the running event loop."""

    async def disconnect(self) -> None:
        """Let go of them; the reward can be used again."""
        ...


@runtime_checkable
class Identified(Protocol):
    """A reward that can say what its numbers rest on (judge, model, prompt), for the record of a run."""

    @property
    def identity(self) -> str: ...
