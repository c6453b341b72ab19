"""Captions as a teacher model writes them: fluent, and with the faults that machine-labelled data has.

Preference training can only improve on captions that leave something out. These do, by known amounts: events are left
out (heard ones more often than seen ones), some are told wrongly, some sentences come twice. What is true only the
exact judge knows.
"""

from __future__ import annotations

import dataclasses
import random
import re
from typing import Any

from avocet.errors import ConfigError
from avocet.theatre import world
from avocet.theatre.language import reference_caption
from avocet.theatre.script import Event, Script

LOOPING = 0.15
"""Share of captions with a loop that `avocet theatre make --captions looping_teacher` writes."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherFaults:
    """How often a teacher errs; probabilities."""

    leaves_out_seen: float = 0.25
    """For each scene, figure and word on screen."""
    leaves_out_heard: float = 0.55
    """For each sound and utterance."""
    tells_wrongly: float = 0.05
    """For each event that is told: another colour, speaker, sound, ..."""
    repeats_itself: float = 0.15
    """For each caption: one of its sentences comes twice."""
    loops: float = 0.0
    """For each caption: it never gets past its last sentence, told until there are 80 to 110 words, thrice at least."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise ConfigError(f"TeacherFaults: {field.name} must be from 0 to 1, got {value}")


def teacher_caption(script: Script, seed: int = 0, faults: TeacherFaults | None = None) -> str:
    """A caption of `script` with faults; the same arguments give the same text.

    At least one event is always told.
    """
    faults = faults or TeacherFaults()
    rng = random.Random(f"avocet teacher {seed} about {script.id}")
    told = [event for event in script.events if rng.random() >= _leaving_out(event, faults)]
    told = told or [rng.choice(script.events)]
    told = [_another(event, script.level, rng) if rng.random() < faults.tells_wrongly else event for event in told]
    text = reference_caption(dataclasses.replace(script, events=tuple(told)), rng.randrange(1_000_000))
    sentences = _SENTENCE.split(text)
    if rng.random() < faults.repeats_itself:
        place = rng.randrange(len(sentences))
        sentences = [*sentences[: place + 1], *sentences[place:]]
    if faults.loops and rng.random() < faults.loops:
        num_words = rng.randint(80, 110) - len(" ".join(sentences).split())
        sentences += sentences[-1:] * max(3, num_words // len(sentences[-1].split()))
    return " ".join(sentences)


def _leaving_out(event: Event, faults: TeacherFaults) -> float:
    return faults.leaves_out_heard if event.kind in ("sound", "speech") else faults.leaves_out_seen


def _another(event: Event, level: int, rng: random.Random) -> Event:
    """The event with one attribute changed."""
    choices = {
        "visual": ("colour", tuple(world.COLOURS)),
        "sound": ("sound", world.level_part(tuple(world.SOUNDS), level)),
        "speech": ("speaker", world.level_part(world.SPEAKERS, level)),
        "text": ("word", world.level_part(world.SCREEN_WORDS, level)),
        "scene": ("scene", world.level_part(world.SCENES, level)),
    }
    field, values = choices[event.kind]
    others = [value for value in values if value != getattr(event, field)]
    change: dict[str, Any] = {field: rng.choice(others)} if others else {}
    return dataclasses.replace(event, **change)
