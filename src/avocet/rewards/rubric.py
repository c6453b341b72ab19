"""The rubric: a weighted sum of rewards with its breakdown (AVoCaDO, eq. 9: R = R_C + R_D + R_L).

    rubric = make_rubric({"checklist": 1, "dialogue": 1, "length": 1}, judge=JudgeClient("gpt-4.1"), exact=False)
    with BackgroundScorer(rubric) as scorer:
        scores = scorer.submit(items)      # returns at once; the next rollouts are made meanwhile
        ...
        scored = scores.result()

What the paper leaves open: a judgement that fails leaves its rollout without a total (never a zero), with a reason; a
reward whose example gives it nothing to look at is left out of the sum of the whole group, with a reason.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import TypeVar

from avocet.errors import ConfigError, RecordError
from avocet.judging.client import JudgeClient
from avocet.judging.errors import JudgeStop
from avocet.judging.messages import CallParameters
from avocet.records import Record, TrainingExample
from avocet.rewards.items import Checks, Disconnects, Identified, Reward, RewardItem, Unscored
from avocet.rewards.making import REWARD_NAMES, SpeakerCheck, make_rewards
from avocet.rewards.scoring import BackgroundScorer

__all__ = [
    "REWARD_NAMES",
    "BackgroundScorer",
    "Reward",
    "RewardItem",
    "Rubric",
    "Scored",
    "Unscored",
    "WeightedReward",
    "make_rubric",
]

ValueT = TypeVar("ValueT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored(Record):
    """The result for one rollout."""

    total: float | None
    """Weighted sum of the parts that are there. None: unscored, and `reasons` says why; never zero by failure."""
    parts: dict[str, float | None]
    """Reward -> its value before the weight; None: failed or left out."""
    reasons: dict[str, str]
    """Reward -> why it has no value."""
    left_out: tuple[str, ...] = ()
    """Rewards that the example gives nothing to look at; those do not unscore a rollout."""

    def __post_init__(self) -> None:
        without = {name for name, value in self.parts.items() if value is None}
        if without != set(self.reasons) or not set(self.left_out) <= without:
            raise RecordError(
                f"Scored: exactly the parts without a value need a reason, got values for "
                f"{sorted(set(self.parts) - without)} and reasons for {sorted(self.reasons)}"
            )

    @property
    def failed(self) -> tuple[str, ...]:
        """Rewards whose judgement of this rollout failed."""
        return tuple(name for name in self.reasons if name not in self.left_out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedReward:
    """A reward and what it counts for."""

    reward: Reward
    weight: float = 1.0
    """0: only logged; its failures unscore nothing."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ConfigError(
                f"the weight of reward {self.reward.name!r} must be a number >= 0, got {self.weight}; 0 logs a reward "
                "without training on it"
            )


class Rubric:
    """Scores rollouts by all rewards at once.

    Raises `ConfigError` without a reward of positive weight, and for two rewards of one name.
    """

    def __init__(self, rewards: Sequence[WeightedReward]) -> None:
        names = [weighted.reward.name for weighted in rewards]
        if len(set(names)) != len(names):
            raise ConfigError(f"rewards of a rubric need different names, got {', '.join(names)}")
        if not any(weighted.weight > 0 for weighted in rewards):
            raise ConfigError("a rubric needs at least one reward with a weight > 0")
        self.rewards = tuple(rewards)

    @property
    def weights(self) -> dict[str, float]:
        """Reward -> weight."""
        return {weighted.reward.name: weighted.weight for weighted in self.rewards}

    @property
    def identity(self) -> dict[str, str]:
        """Reward -> what its numbers rest on, for the record of a run."""
        found = {weighted.reward.name: weighted.reward for weighted in self.rewards}
        return {name: reward.identity if isinstance(reward, Identified) else name for name, reward in found.items()}

    def check(self, examples: Sequence[TrainingExample]) -> None:
        """Look at the labels of all examples before anything is paid for.

        Raises `ConfigError` for one that a reward cannot use, naming the clip, and when no example has what a reward
        with a weight looks at.
        """
        for weighted in self.rewards:
            reward = weighted.reward
            wrong = reward.check(examples) if isinstance(reward, Checks) else ""
            if wrong and weighted.weight > 0:
                raise ConfigError(
                    f"reward {reward.name!r}: {wrong}; make them with `avocet curate annotate`, or set its weight to 0"
                )

    async def score(self, items: Sequence[RewardItem]) -> list[Scored]:
        """One result per item, in their order; all rewards work at the same time.

        Raises what a reward raises for the whole run (`JudgeStop` first), when all have finished what they had begun,
        and `ConfigError` for a reward that gives the wrong number of answers, a number that is none, or is left out
        for only some rollouts of an example.
        """
        if not items:
            return []
        answers = await _all(weighted.reward.score(items) for weighted in self.rewards)
        examples = [item.example.to_json_line() for item in items]
        for weighted, column in zip(self.rewards, answers, strict=True):
            _check_answers(weighted.reward.name, items, examples, column)
        return [self._result(row) for row in zip(*answers, strict=True)]

    async def disconnect(self) -> None:
        """Let go of what belongs to the running event loop. The rubric can be used again, also in another one."""
        for weighted in self.rewards:
            if isinstance(weighted.reward, Disconnects):
                await weighted.reward.disconnect()

    def _result(self, row: Sequence[float | Unscored]) -> Scored:
        total, num_counted, has_failed = 0.0, 0, False
        parts: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        left_out: list[str] = []
        for weighted, answer in zip(self.rewards, row, strict=True):
            name = weighted.reward.name
            if isinstance(answer, Unscored):
                parts[name], reasons[name] = None, answer.reason
                left_out += [name] * answer.left_out
                has_failed |= not answer.left_out and weighted.weight > 0
            else:
                parts[name] = answer
                total += weighted.weight * answer
                num_counted += weighted.weight > 0
        scored = num_counted and not has_failed
        return Scored(total=total if scored else None, parts=parts, reasons=reasons, left_out=tuple(left_out))


def make_rubric(
    weights: Mapping[str, float],
    *,
    judge: JudgeClient | None,
    exact: bool,
    length_soft: int = 2048,
    length_hard: int = 4096,
    speakers: SpeakerCheck = "text",
    speaker_aliases: Mapping[str, Sequence[str]] | None = None,
    dialogue_threshold: float = 0.6,
    quoted_only: bool = False,
    parameters: CallParameters | None = None,
) -> Rubric:
    """The rubric of some named rewards; see `docs/rewards.md` for what each one measures.

    Args:
        weights: of `REWARD_NAMES`. The paper's are 1 each for "checklist", "dialogue" and "length".
        judge: asks the language model. None when no reward needs one.
        exact: judge by the theatre's exact judge instead; every clip must then be a staged one.
        length_soft, length_hard: in tokens. Let `length_hard` be no more than the policy's limit of new tokens, else a
            caption that never ends keeps part of its reward.
        speakers: who compares speakers: a judge that watches ("video", as in the paper), one that reads ("text"), or
            a table of names ("labels"). The exact judge compares names.
        speaker_aliases: for "labels": name -> other names of the same person.
        dialogue_threshold: least similarity of aligned utterances.
        quoted_only: count only keypoints for which the judge quotes words that stand in the caption (ours).
        parameters: how the judge samples; None: as judges do by default.

    Raises `ConfigError` for unknown names, no names, a judge that is missing or superfluous, and impossible settings.
    """
    rewards = make_rewards(
        tuple(weights),
        client=judge,
        exact=exact,
        length_soft=length_soft,
        length_hard=length_hard,
        speakers=speakers,
        speaker_aliases=speaker_aliases,
        dialogue_threshold=dialogue_threshold,
        quoted_only=quoted_only,
        parameters=parameters,
    )
    return Rubric([WeightedReward(reward=rewards[name], weight=weight) for name, weight in weights.items()])


def _check_answers(
    name: str, items: Sequence[RewardItem], examples: Sequence[str], answers: Sequence[float | Unscored]
) -> None:
    if len(answers) != len(items):
        raise ConfigError(
            f"reward {name!r} gave {len(answers)} answers on {len(items)} rollouts; it must give one each"
        )
    left_out: dict[str, bool] = {}
    for item, example, answer in zip(items, examples, answers, strict=True):
        if not isinstance(answer, Unscored) and not math.isfinite(answer):
            raise ConfigError(
                f"reward {name!r} gave {answer} on clip {item.clip_id!r}; where there is no number it must say Unscored"
            )
        # A failed judgement says nothing about its example.
        if not isinstance(answer, Unscored) or answer.left_out:
            found = isinstance(answer, Unscored)
            if left_out.setdefault(example, found) != found:
                raise ConfigError(
                    f"reward {name!r} is left out for some rollouts of clip {item.clip_id!r} and not for others, so "
                    "their totals cannot be compared; leave it out by what the example says, or call it failed"
                )


async def _all(calls: Iterable[Awaitable[ValueT]]) -> list[ValueT]:
    """The results when all are there, so that replies on their way are not thrown away for another's error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise min(errors, key=lambda error: not isinstance(error, JudgeStop))
    return [result for result in results if not isinstance(result, BaseException)]
