"""A scripted judge of events that reads captions made of event sentences, as vs2 calibration makes them.

It knows nothing of what was planted: it has the list and the caption of the prompt, crosses each event's sentence out
of the caption once, and judges what is left on either side.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from typing import Any

from judge_server import Asked, Step

from avocet.evaluation.calibration_set import INJECTIONS
from avocet.judging.prompts import neutralise

OPENING = re.compile(r"(?:There is|Besides,|Also|Further,) this: ")


def shown(prompt: str, name: str) -> str:
    """What stands between the tags of a variable in a prompt."""
    tag = next(line for line in prompt.splitlines() if line.startswith(f"<{name}-"))
    return prompt.split(f"{tag}\n", 1)[1].partition(f"\n</{tag[1:]}")[0]


def sentence(event: str) -> str:
    ended = re.search(r"[.!?…][\"'”’`)]*$", event)
    return event[0].upper() + event[1:] + ("" if ended else ".")


def closeness(one: str, other: str) -> float:
    """Of two texts, word by word."""
    return difflib.SequenceMatcher(None, one.casefold().split(), other.casefold().split(), autojunk=False).ratio()


@dataclasses.dataclass(frozen=True)
class Found:
    missed: list[int]
    incorrect: dict[int, str]
    hallucinated: list[str]

    def reply(self) -> str:
        incorrect = [{"event": number, "described": text} for number, text in self.incorrect.items()]
        lists: dict[str, Any] = {
            "missed": self.missed,
            "incorrect": incorrect,
            "hallucinated": self.hallucinated,
        }
        return json.dumps({"reasoning": "read", **lists, **{f"num_{name}": len(each) for name, each in lists.items()}})


def read_caption(caption: str, events: list[str]) -> Found:
    for text in INJECTIONS:
        caption = caption.removesuffix(neutralise(text).text)
    rest = OPENING.sub("", caption)
    absent = []
    for number, event in sorted(enumerate(events, start=1), key=lambda pair: -len(pair[1])):
        if sentence(event) in rest:
            rest = rest.replace(sentence(event), "\0", 1)
        else:
            absent.append(number)
    told = [part.strip() for part in rest.split("\0") if part.strip()]
    incorrect: dict[int, str] = {}
    hallucinated = []
    for part in told:
        if part in map(sentence, events):
            continue  # told twice
        close = [number for number in absent if closeness(part, sentence(events[number - 1])) > 0.5]
        if close:
            incorrect[close[0]] = part
        else:
            hallucinated.append(part)
    return Found(sorted(set(absent) - set(incorrect)), incorrect, hallucinated)


def read_prompt(asked: Asked) -> tuple[str, list[str]]:
    """The caption and the events that a prompt shows."""
    prompt = asked.user_texts[0]
    events = [line.partition(". ")[2] for line in shown(prompt, "events").split("\n")]
    return shown(prompt, "caption"), events


def perfect(asked: Asked) -> Step:
    return Step(text=read_caption(*read_prompt(asked)).reply())


def sloppy(asked: Asked) -> Step:
    """Sees no inventions, and reports nothing where the caption asks for that."""
    caption, events = read_prompt(asked)
    found = read_caption(caption, events)
    if any(neutralise(text).text in caption for text in INJECTIONS):
        found = Found([], {}, [])
    return Step(text=dataclasses.replace(found, hallucinated=[]).reply())


VIDEOS = {
    "kitchen": [
        "A woman in a green apron slices carrots",
        "The woman says, 'Tonight we cook a simple vegetable soup together'",
        "Three copper pots hang above the stove.",
        "Steam rises towards an open window",
        "A radio plays quiet jazz",
        "Text reads 'GRANDMA RECIPES' along the bottom edge",
    ],
    "garage": [
        "A mechanic in blue overalls lifts the hood of a rusty truck",
        "A man explains, 'Your engine lost every drop of oil yesterday'",
        "Two spare tyres lean against brick masonry",
        "Sparks fly from an angle grinder",
        "An impatient customer checks his wristwatch",
        "Loud hammering echoes outside",
    ],
    "beach": [
        "Five children build a castle from wet sand",
        "A yellow kite climbs into cloudless sky",
        "A girl shouts, 'Look mother, dolphins jump behind those rocks'",
        "Seagulls steal somebody's french fries",
        "Waves crash against the wooden pier",
        "An ice cream vendor rings his brass bell",
    ],
    "stadium": [
        "Ten drummers march across an empty pitch",
        "The goalkeeper wears pink gloves",
        "A female commentator says, 'Nobody expected this penalty before halftime'",
        "Fireworks explode over the north stand",
        "A mascot dressed as badger dances",
        "The referee waves a torn flag",
    ],
}


def annotations() -> list[dict[str, Any]]:
    """In the form of the released file; each reference is the events, as sentences."""
    return [
        {
            "video": f"video/{name}.mp4",
            "conversations": [
                {"from": "human", "value": "<image>\nDescribe the video."},
                {"from": "gpt", "value": " ".join(sentence(event) for event in events)},
            ],
            "events": events,
        }
        for name, events in VIDEOS.items()
    ]
