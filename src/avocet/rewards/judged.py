"""Rewards that come from the verdicts of a judge: checklist R_C, dialogue R_D, events, sound binding.

`JudgedReward` is the same for a language model and for the theatre's exact judge; only what the judge gets and how its
findings become a number differ. Rollouts of one text on one example are judged once: it is cheaper, and a judge that
wavers must not tell equal captions apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Generic

from avocet.errors import ConfigError, MediaError, RecordError
from avocet.judging.calibration import event_findings
from avocet.judging.checklist import CaptionWithChecklist, ChecklistFindings, Keypoint
from avocet.judging.dialogue import DialogueFindings, DialogueItem
from avocet.judging.events import CaptionWithEvents
from avocet.judging.judge import ItemT, Job, Judge
from avocet.media import probe
from avocet.metrics import Utterance
from avocet.records import DIALOGUE_UNKNOWN, TrainingExample, Verdict
from avocet.rewards.checklist import checklist_reward
from avocet.rewards.events import event_reward
from avocet.rewards.items import RewardItem, Unscored

NO_KEYPOINTS = Unscored(reason="no keypoints: the example has no checklist", left_out=True)
NO_DIALOGUE = Unscored(reason="no dialogue: nobody has looked for it in the example's clip", left_out=True)
NO_EVENTS = Unscored(reason="no events: the example has none to compare with", left_out=True)


class JudgedReward(Generic[ItemT]):
    """A reward made of verdicts.

    Args:
        name: of the reward.
        judge: an unscored verdict of it leaves the rollout unscored, with the verdict's reason.
        item_of: what the judge gets; `Unscored` where there is nothing to ask. Must be hashable.
        value_of: the reward of a scored verdict, given what was asked.
        labels: the field of examples that the judge compares with; "" where it takes none.
        notes: what else the numbers rest on, for the identity.
    """

    def __init__(
        self,
        name: str,
        judge: Judge[ItemT],
        item_of: Callable[[RewardItem], ItemT | Unscored],
        value_of: Callable[[ItemT, Verdict], float | Unscored],
        labels: str = "",
        notes: str = "",
    ) -> None:
        self.name = name
        self.judge = judge
        self._item_of = item_of
        self._value_of = value_of
        self._labels = labels
        self._notes = notes

    @property
    def identity(self) -> str:
        """That of the judge, with the notes."""
        return self.judge.identity + self._notes

    def check(self, examples: Sequence[TrainingExample]) -> str:
        """See `Checks`."""
        for example in examples:
            self._item_of(
                RewardItem(clip_id=example.clip.id, text="", num_tokens=0, stop_reason="end", example=example)
            )
        if not self._labels or any(getattr(example, self._labels) for example in examples):
            return ""
        return f"it needs examples with `{self._labels}`, and none of {len(examples)} has any"

    async def score(self, items: Sequence[RewardItem]) -> list[float | Unscored]:
        """Raises `ConfigError` for an example that cannot be judged as asked, and what the judge raises for the run."""
        asked = [self._item_of(item) for item in items]
        distinct = list(dict.fromkeys(each for each in asked if not isinstance(each, Unscored)))
        answers: dict[ItemT, float | Unscored] = {}
        async for job, verdict in self.judge.verdicts(Job(item=item) for item in distinct):
            failed = verdict.status == "unscored"
            answers[job.item] = Unscored(reason=str(verdict.reason)) if failed else self._value_of(job.item, verdict)
        return [each if isinstance(each, Unscored) else answers[each] for each in asked]

    async def disconnect(self) -> None:
        await self.judge.disconnect()


def checklist_item(item: RewardItem) -> CaptionWithChecklist | Unscored:
    """The caption with its example's keypoints. Raises `ConfigError` for an empty keypoint."""
    if not item.example.checklist:
        return NO_KEYPOINTS
    try:
        keypoints = tuple(Keypoint(text=text) for text in item.example.checklist)
    except RecordError as error:
        raise ConfigError(f"checklist of clip {item.example.clip.id!r}: {error}") from error
    return CaptionWithChecklist(clip_id=item.example.clip.id, caption=item.text, keypoints=keypoints)


def checklist_value(verdict: Verdict, caption: str | None = None) -> float | Unscored:
    """R_C of `ChecklistFindings`. With `caption`, hits whose quotation does not stand in it do not count."""
    findings = ChecklistFindings.from_verdict(verdict)
    misquoted = 0 if caption is None else len(findings.misquoted(caption))
    value = checklist_reward(findings.num_hit - misquoted, findings.num_keypoints)
    return NO_KEYPOINTS if value is None else value


def reference_dialogue(item: RewardItem) -> tuple[Utterance, ...]:
    """The example's dialogue; none means that nobody speaks."""
    return tuple(Utterance(speaker=said["speaker"], text=said["text"]) for said in item.example.dialogue)


def dialogue_item(item: RewardItem) -> DialogueItem | Unscored:
    """The caption with its example's dialogue, for speaker judges that do not watch; left out where it is unknown."""
    if item.example.clip.meta.get(DIALOGUE_UNKNOWN):
        return NO_DIALOGUE
    return DialogueItem(clip_id=item.example.clip.id, caption=item.text, dialogue=reference_dialogue(item))


def watched_dialogue_item(item: RewardItem) -> DialogueItem | Unscored:
    """With the video, for speaker judges that watch; unscored for a part of a file, which cannot be sent alone."""
    clip = item.example.clip
    if clip.meta.get(DIALOGUE_UNKNOWN):
        return NO_DIALOGUE
    if item.example.start_seconds is not None or clip.start_seconds is not None or clip.end_seconds is not None:
        return Unscored(reason="speakers: the clip is a part of its file; cut it out, or compare speakers by text")
    try:
        seconds = _duration_seconds(clip.path)
    except MediaError as error:
        return Unscored(reason=f"speakers: the video cannot be read: {error}")
    return DialogueItem(
        clip_id=item.example.clip.id,
        caption=item.text,
        dialogue=reference_dialogue(item),
        video=clip.path,
        video_seconds=seconds,
    )


def dialogue_value(verdict: Verdict) -> float:
    """R_D of `DialogueFindings`."""
    return DialogueFindings.from_verdict(verdict).f1


def event_item(item: RewardItem) -> CaptionWithEvents | Unscored:
    """The caption with its example's events. Raises `ConfigError` for an empty event."""
    if not item.example.events:
        return NO_EVENTS
    try:
        return CaptionWithEvents(clip_id=item.example.clip.id, caption=item.text, events=item.example.events)
    except RecordError as error:
        raise ConfigError(f"events of clip {item.example.clip.id!r}: {error}") from error


def event_value(verdict: Verdict) -> float | Unscored:
    """The event reward of `EventFindings`."""
    value = event_reward(event_findings(verdict))
    return NO_EVENTS if value is None else value


@functools.lru_cache(maxsize=4096)
def _duration_seconds(path: str) -> float:
    return probe(path).duration_seconds
