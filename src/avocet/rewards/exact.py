"""The theatre's truth in place of every judge: each reward without a language model, a network or any doubt.

The keypoints of a script are its atomic events and what happens at once, in the paper's five dimensions:

- action: a figure and its motion; cinematography: a scene; entity: a word on the screen;
- audio: a sound, an utterance;
- narrative_logic: something seen (a figure, a word) and something heard that happen at once.

An event is mentioned when the exact judge finds it told rightly. The keypoint of a pair is mentioned when both are and
the caption tells them as simultaneous.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from avocet import __version__
from avocet.errors import ConfigError
from avocet.evaluation.exact_judge import TheatreCaption, event_texts, staged_caption, told_dialogue, true_dialogue
from avocet.judging.checklist import ChecklistFindings, Dimension, Keypoint
from avocet.judging.dialogue import DialogueFindings
from avocet.judging.judge import Judge
from avocet.judging.speakers import SpeakerFindings
from avocet.metrics import EventFindings, align_dialogue
from avocet.records import Record, Verdict
from avocet.rewards.items import RewardItem, Unscored
from avocet.rewards.judged import NO_KEYPOINTS
from avocet.rewards.sound_binding import BindingFindings
from avocet.theatre.judge import judge as judge_exactly
from avocet.theatre.language import HEARD_KINDS, perceivable
from avocet.theatre.script import Event, EventKind, Script

_DIMENSIONS: dict[EventKind, Dimension] = {
    "visual": "action",
    "scene": "cinematography",
    "text": "entity",
    "sound": "audio",
    "speech": "audio",
}


def theatre_item(item: RewardItem) -> TheatreCaption:
    """See `staged_caption`."""
    return staged_caption(item.example, item.text)


def theatre_checklist_item(item: RewardItem) -> TheatreCaption | Unscored:
    """As `theatre_item`; left out where nothing of the script can be perceived."""
    asked = theatre_item(item)
    return asked if _perceived(asked).events else NO_KEYPOINTS


def script_checklist(script: Script) -> tuple[Keypoint, ...]:
    """The keypoints of a script: its events in their order, then its pairs of seen and heard; see the module."""
    texts = event_texts(script)
    single = [
        Keypoint(text=text, dimension=_DIMENSIONS[event.kind]) for text, event in zip(texts, script.events, strict=True)
    ]
    pairs = [
        Keypoint(text=f"{texts[heard]} while {texts[seen]}", dimension="narrative_logic")
        for seen, heard in _simultaneous(script.events)
    ]
    return (*single, *pairs)


class _ExactJudge(Judge[TheatreCaption]):
    """Judges a caption by what can be perceived of its script. No caption is unscored for what it says."""

    @property
    def identity(self) -> str:
        """name/version of the package: another version may understand more captions."""
        return f"{self.name}/{__version__}"

    def _verdict(self, item: TheatreCaption, findings: Record | None, reason: str = "") -> Verdict:
        return Verdict(
            clip_id=item.clip_id,
            judge=self.identity,
            status="unscored" if findings is None else "scored",
            reason=reason if findings is None else None,
            findings={} if findings is None else _as_json(findings),
        )


class ExactChecklistJudge(_ExactJudge):
    """Findings: `ChecklistFindings` as JSON, on `script_checklist`, without quotations; unscored without keypoints."""

    name: ClassVar[str] = "exact-checklist"

    async def judge(self, item: TheatreCaption, run_index: int = 0) -> Verdict:
        script = _perceived(item)
        keypoints = script_checklist(script)
        if not keypoints:
            return self._verdict(item, None, "no keypoints: nothing happens in the script")
        right = _told_rightly(item.caption, script)
        hits = [
            *right,
            *(
                right[seen] and right[heard] and _told_at_once(item.caption, script, seen, heard)
                for seen, heard in _simultaneous(script.events)
            ),
        ]
        return self._verdict(item, ChecklistFindings.of(keypoints, hits, [""] * len(hits), ""))


class ExactDialogueJudge(_ExactJudge):
    """Findings: `DialogueFindings` as JSON: the utterances that the parser reads, against those of the script.

    Full stops at the end are not compared, and speakers are the same if the parser takes them for the same.
    """

    name: ClassVar[str] = "exact-dialogue"

    def __init__(self, threshold: float = 0.6) -> None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must be in [0, 1], got {threshold}")
        self.threshold = threshold

    async def judge(self, item: TheatreCaption, run_index: int = 0) -> Verdict:
        generated, reference = told_dialogue(item.caption), true_dialogue(_perceived(item).events)
        alignment = align_dialogue(generated, reference, self.threshold)
        same = tuple((i, j, generated[i].speaker == reference[j].speaker) for i, j, _ in alignment.pairs)
        found = DialogueFindings.of(generated, reference, alignment, SpeakerFindings(same_speaker=same))
        return self._verdict(item, found)


class ExactBindingJudge(_ExactJudge):
    """Findings: `BindingFindings` as JSON: seen and heard events that the caption tells as simultaneous, or should.

    A pair told as simultaneous that is not is wrong. What the caption invents is not looked at here.
    """

    name: ClassVar[str] = "exact-binding"

    async def judge(self, item: TheatreCaption, run_index: int = 0) -> Verdict:
        script = _perceived(item)
        right = _told_rightly(item.caption, script)
        texts = event_texts(script)
        ties = set(_simultaneous(script.events))
        told = [
            pair
            for pair in _seen_and_heard(script.events)
            if right[pair[0]] and right[pair[1]] and _told_at_once(item.caption, script, *pair)
        ]
        named = {pair: f"{texts[pair[1]]} while {texts[pair[0]]}" for pair in told}
        found = BindingFindings(
            num_ties=len(ties),
            right=tuple(named[pair] for pair in told if pair in ties),
            wrong=tuple(named[pair] for pair in told if pair not in ties),
        )
        return self._verdict(item, found)


def _perceived(item: TheatreCaption) -> Script:
    return dataclasses.replace(item.script, events=perceivable(item.script, item.see, item.hear))


def _told_rightly(caption: str, script: Script) -> list[bool]:
    """Per event. Of events that are alike, and of which some are missed, the first ones count as told."""
    findings: EventFindings = judge_exactly(caption, script)
    texts = event_texts(script)
    wrong = Counter(findings.missed)
    for text in set(texts):
        wrong[text] += sum(entry.startswith(f"{text}: described as ") for entry in findings.incorrect)
    right: list[bool] = []
    left = Counter(texts) - wrong
    for text in texts:
        right.append(left[text] > 0)
        left[text] -= 1
    return right


def _seen_and_heard(events: Sequence[Event]) -> list[tuple[int, int]]:
    """Index pairs of a figure or word and a sound or utterance. Scenes last too long to be tied to anything."""
    return [
        (seen, heard)
        for seen, first in enumerate(events)
        for heard, second in enumerate(events)
        if first.kind in ("visual", "text") and second.kind in HEARD_KINDS
    ]


def _simultaneous(events: Sequence[Event]) -> list[tuple[int, int]]:
    return [(seen, heard) for seen, heard in _seen_and_heard(events) if events[seen].beat == events[heard].beat]


def _told_at_once(caption: str, script: Script, first: int, second: int) -> bool:
    """Whether both are told, and as simultaneous."""
    # Which mention stands for which event does not depend on beats. So ask about a script in which these two happen
    # at once and nothing else does: its one pair is told exactly if these two are told as simultaneous.
    apart = tuple(
        dataclasses.replace(event, beat=0 if index in (first, second) else index + 1)
        for index, event in enumerate(script.events)
    )
    return judge_exactly(caption, dataclasses.replace(script, events=apart)).simultaneous_told == 1


def _as_json(record: Record) -> dict[str, Any]:
    return dict(json.loads(record.to_json_line()))
