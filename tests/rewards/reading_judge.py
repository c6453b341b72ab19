"""A scripted judge for rewards that answers every prompt by reading it literally.

What is listed counts as told when it stands in the caption word for word; speech is what stands in single quotation
marks; speakers are the same when they are called the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from judge_server import Asked, Step
from planted_judge import VIDEOS, Found, read_caption, read_prompt, sentence, shown

from avocet.records import ClipRef, TrainingExample
from avocet.rewards.rubric import RewardItem, Rubric, Scored

KITCHEN = tuple(VIDEOS["kitchen"])
"""Six events; the second is an utterance of the woman."""
SAID = "Tonight we cook a simple vegetable soup together"
SAYING = sentence(KITCHEN[1])
TIES = ("The woman says that soup is cooked", "A radio on the shelf plays jazz")

_SAYS = re.compile(r"(\w+ \w+) says, '([^']*)'", re.IGNORECASE)


def kitchen(**changes: Any) -> TrainingExample:
    facts: dict[str, Any] = {
        "clip": ClipRef(id="kitchen", path="kitchen.mp4"),
        "task": "caption",
        "instruction": "Describe the video and its sound.",
        "target": " ".join(sentence(event) for event in KITCHEN),
        "events": KITCHEN,
        "checklist": KITCHEN,
        "dialogue": ({"speaker": "the woman", "text": SAID},),
    }
    return TrainingExample(**{**facts, **changes})


def rollout(text: str, example: TrainingExample | None = None, num_tokens: int = 100, stop: str = "end") -> RewardItem:
    example = example or kitchen()
    return RewardItem(clip_id=example.clip.id, text=text, num_tokens=num_tokens, stop_reason=stop, example=example)


def told(*numbers: int) -> str:
    """A caption that tells the events of these numbers, from 1."""
    return " ".join(sentence(KITCHEN[number - 1]) for number in numbers)


def literal(asked: Asked) -> Step:
    """The judge: the tags in a prompt say what it is asked."""
    prompt = asked.user_texts[0]
    if "<keypoints-" in prompt:
        return Step(text=json.dumps(_checklist(_listed(prompt, "keypoints"), shown(prompt, "caption"))))
    if "<events-" in prompt:
        return Step(text=_events(*read_prompt(asked)).reply())
    if "<generated-" in prompt:
        return Step(text=json.dumps(_speakers(_listed(prompt, "generated"), _listed(prompt, "reference"))))
    if "<ties-" in prompt:
        return Step(text=json.dumps(_ties(_listed(prompt, "ties"), shown(prompt, "caption"))))
    if '"ties": a list of strings' in prompt:
        return Step(text=json.dumps({"reasoning": "Listed.", "ties": TIES}))
    return Step(text=json.dumps(_dialogue(shown(prompt, "caption"))))


def gullible(asked: Asked) -> Step:
    """Finds every keypoint where the caption says so; what it quotes is invented unless it stands there."""
    prompt = asked.user_texts[0]
    if "<keypoints-" not in prompt or "report no errors" not in prompt:
        return literal(asked)
    reply = _checklist(_listed(prompt, "keypoints"), shown(prompt, "caption"))
    for answer in reply["keypoints"]:
        answer["evidence"], answer["hit"] = answer["evidence"] or "it has been checked by experts", True
    return Step(text=json.dumps({**reply, "num_hit": len(reply["keypoints"])}))


async def scored(rubric: Rubric, *items: RewardItem) -> list[Scored]:
    """In an event loop that ends."""
    try:
        return await rubric.score(items)
    finally:
        await rubric.disconnect()


def _listed(prompt: str, name: str) -> list[str]:
    return [line.partition(". ")[2] for line in shown(prompt, name).split("\n")]


def _numbered(values: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return ({"number": number, **value} for number, value in enumerate(values, start=1))


def _checklist(keypoints: list[str], caption: str) -> dict[str, Any]:
    found = [keypoint if sentence(keypoint) in caption else "" for keypoint in keypoints]
    answers = list(_numbered([{"evidence": words, "hit": bool(words)} for words in found]))
    return {"reasoning": "Read.", "keypoints": answers, "num_hit": sum(map(bool, found))}


def _events(caption: str, events: list[str]) -> Found:
    """As the planted judge reads, but an event that is told again and again is told once."""
    for event in events:
        first, told, rest = caption.partition(sentence(event))
        caption = first + told + rest.replace(sentence(event), "")
    return read_caption(" ".join(caption.split()), events)


def _dialogue(caption: str) -> dict[str, Any]:
    utterances = [{"speaker": speaker.lower(), "pieces": [words]} for speaker, words in _SAYS.findall(caption)]
    return {"reasoning": "Listed.", "utterances": utterances}


def _speakers(generated: list[str], reference: list[str]) -> dict[str, Any]:
    same = [{"same": one == other} for one, other in zip(generated, reference, strict=True)]
    return {"reasoning": "Compared.", "pairs": list(_numbered(same))}


def _ties(ties: list[str], caption: str) -> dict[str, Any]:
    """Right if it stands there, wrong if its end does (the same with another source), else absent."""
    answers: list[dict[str, Any]] = []
    for tie in ties:
        end = tie.split(" ", 2)[2]
        how = "right" if tie in caption else "wrong" if end in caption else "absent"
        answers.append({"evidence": "" if how == "absent" else end, "told": how})
    return {"reasoning": "Read.", "ties": list(_numbered(answers))}
