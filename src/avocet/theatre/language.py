"""Captions, transcripts and instructions of theatre scripts in a small, regular English.

A caption is chronological. Events that happen at once share one sentence ("while", "as", "and"), events of
different beats never do; only a scene has a sentence of its own. Which of the paraphrases is taken follows from
the script's seed and `wording` alone, so the same call gives the same text on every machine.

The closing remark depends only on which events are left to tell and on `see` and `hear`: without sight "The
picture stays black."; with sight, but neither actors nor on-screen text, "Nothing moves on the screen."; and
without hearing, or without any sound or speech, "No sound is heard."
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from types import MappingProxyType

from avocet.errors import ConfigError
from avocet.theatre import world
from avocet.theatre._phrases import capitalised, clauses
from avocet.theatre.questions import question_vocabulary
from avocet.theatre.script import KIND_ORDER, Event, Script

SEEN_KINDS = frozenset({"scene", "visual", "text"})
"""Kinds of event that need the picture."""
HEARD_KINDS = frozenset({"sound", "speech"})
"""Kinds of event that need the sound."""

PICTURE_BLACK = "The picture stays black."
NOTHING_MOVES = "Nothing moves on the screen."
NO_SOUND = "No sound is heard."

INSTRUCTIONS = MappingProxyType(
    {
        "caption": (
            "Describe the video and its sound.",
            "What is seen and heard in this video?",
            "Tell what happens in the video, with sounds and speech.",
            "Write a caption of the video with its sound.",
        ),
        "local_caption": (
            "Describe the video and its sound from {start} to {end} seconds.",
            "What is seen and heard between {start} and {end} seconds?",
            "Tell what happens from second {start} to second {end}.",
        ),
        "audio_caption": (
            "Describe the sound.",
            "What is heard?",
            "Tell which sounds and speech are heard.",
        ),
        "asr": (
            "Write down what is said.",
            "Which words are spoken?",
            "Transcribe the speech.",
        ),
        "qa": (
            "Answer the question about the video. {question}",
            "Watch, listen and choose the right answer. {question}",
            "{question} Answer with one letter.",
        ),
    }
)
"""Task -> ways to ask for it. `local_caption` takes `start` and `end`, `qa` takes `question` (`Question.text`)."""

_FIRST = ("", "", "First,")
_MIDDLE = ("", "", "Then", "Next,", "After that,")
_LAST = ("", "", "Then", "Finally,", "After that,")


def perceivable(script: Script, see: bool = True, hear: bool = True) -> tuple[Event, ...]:
    """The events that remain without the picture (`see=False`) or without the sound (`hear=False`)."""
    return tuple(
        event
        for event in script.events
        if (see or event.kind not in SEEN_KINDS) and (hear or event.kind not in HEARD_KINDS)
    )


def reference_caption(script: Script, wording: int = 0, see: bool = True, hear: bool = True) -> str:
    """The whole script in words. Each `wording` (any int) picks among the paraphrases; see the module's text."""
    events = perceivable(script, see, hear)
    return " ".join([*_told(events, _wording_rng(script, wording)), *_closing(events, see, hear)])


def reference_captions(script: Script, count: int, see: bool = True, hear: bool = True) -> list[str]:
    """`count` captions, all different as long as the language has that many wordings of this script.

    Raises `ConfigError` for a negative count.
    """
    if count < 0:
        raise ConfigError(f"count must be >= 0, got {count}")
    found: dict[str, None] = {}
    for wording in range(20 * count):
        if len(found) == count:
            break
        found.setdefault(reference_caption(script, wording, see=see, hear=hear))
    return list(itertools.islice(itertools.cycle(found), count))


def sound_caption(script: Script, wording: int = 0) -> str:
    """Only what is heard, without a word about the picture: the target of the audio_caption task."""
    events = perceivable(script, see=False)
    return " ".join(_told(events, _wording_rng(script, wording)) or [NO_SOUND])


def transcript(script: Script) -> str:
    """Everything that is said, in order, one sentence per utterance; empty when nobody speaks (the asr task)."""
    return " ".join(f"{event.utterance}." for event in script.events if event.kind == "speech")


def local_events(script: Script, start_seconds: float, end_seconds: float) -> tuple[Event, ...]:
    """The events that overlap [start_seconds, end_seconds), however little. Raises `ConfigError` if it is empty."""
    if not 0 <= start_seconds < end_seconds:
        raise ConfigError(
            f"the interval [{start_seconds}, {end_seconds}) is no interval; give 0 <= start_seconds < end_seconds"
        )
    return tuple(
        event for event in script.events if event.start_seconds < end_seconds and event.end_seconds > start_seconds
    )


def local_script(script: Script, start_seconds: float, end_seconds: float) -> Script:
    """The script with only the events of the interval: what a local caption is written and judged by."""
    return dataclasses.replace(script, events=local_events(script, start_seconds, end_seconds))


def local_caption(
    script: Script, start_seconds: float, end_seconds: float, wording: int = 0, see: bool = True, hear: bool = True
) -> str:
    """The reference caption of one interval; a scene that opened earlier is told as where the interval plays."""
    return reference_caption(local_script(script, start_seconds, end_seconds), wording, see=see, hear=hear)


def vocabulary_text() -> list[str]:
    """Texts that together hold every word and mark of any caption, transcript, instruction, question or answer."""
    texts = [
        f"{form} {capitalised(form)}."
        for event in _every_event()
        for opening in (False, True)
        for form in clauses(event, opening=opening)
    ]
    texts += [f"{word} {capitalised(word)}." for words in world.SLOTS.values() for word in words]
    texts += [f"{part} {capitalised(part)}" for sentence in world.SENTENCES for part in sentence.split()]
    texts += [*_FIRST, *_MIDDLE, *_LAST, *(connector.lower() for connector in (*_FIRST, *_MIDDLE, *_LAST))]
    texts += ["As, as, while and", PICTURE_BLACK, NOTHING_MOVES, NO_SOUND, "0 1 2 3 4 5 6 7 8 9 ."]
    texts += [text for forms in INSTRUCTIONS.values() for text in forms]
    texts += question_vocabulary()
    return [text.replace("{", "").replace("}", "") for text in texts if text]


def _every_event() -> Iterator[Event]:
    """Events that together use every word of the world (not every combination of words)."""
    plain = Event(kind="scene", beat=0, start_seconds=0, end_seconds=1)
    colours, motions = itertools.cycle(world.COLOURS), itertools.cycle(world.MOTIONS)
    for shape in world.SHAPES:
        yield dataclasses.replace(plain, kind="visual", colour=next(colours), shape=shape, motion=next(motions))
    for word in world.SCREEN_WORDS:
        yield dataclasses.replace(plain, kind="text", word=word)
    for sound in world.SOUNDS:
        yield dataclasses.replace(plain, kind="sound", sound=sound)
    for speaker in world.SPEAKERS:
        yield dataclasses.replace(plain, kind="speech", speaker=speaker, utterance=world.NAMES[0])
    for scene in world.SCENES:
        yield dataclasses.replace(plain, scene=scene)


def _wording_rng(script: Script, wording: int) -> random.Random:
    return random.Random(f"avocet wording {wording} of {script.id}")


def _told(events: Sequence[Event], rng: random.Random) -> list[str]:
    """One sentence per scene and per beat, in order."""
    sentences: list[str] = []
    used: set[str] = set()
    beats = [list(group) for _, group in itertools.groupby(events, key=lambda event: event.beat)]
    for number, beat in enumerate(beats):
        scenes = [event for event in beat if event.kind == "scene"]
        others = [event for event in beat if event.kind != "scene"]
        for event in scenes:
            opening = event is events[0]
            sentence = rng.choice(clauses(event, opening=opening))
            connector = "" if opening else _connector(rng, number, len(beats), used)
            sentences.append(_sentence(connector, sentence))
        if others:
            follows_scene_change = bool(scenes) and scenes[0] is not events[0]
            connector = "" if follows_scene_change else _connector(rng, number, len(beats), used)
            sentences.append(_sentence(connector, _together(others, rng)))
    return sentences


def _connector(rng: random.Random, number: int, count: int, used: set[str]) -> str:
    """How the sentence of beat `number` of `count` begins; those with a comma at most once per caption.

    (A comma makes the connector a phrase of its own, and one that returns would count as a repetition.)
    """
    words = _FIRST if number == 0 else _LAST if number == count - 1 else _MIDDLE
    connector = rng.choice([word for word in words if word not in used])
    if connector.endswith(","):
        used.add(connector)
    return connector


def _sentence(connector: str, body: str) -> str:
    text = f"{connector} {body}" if connector else capitalised(body)
    return text if text.endswith('"') else f"{text}."


def _together(events: list[Event], rng: random.Random) -> str:
    """Simultaneous events as one sentence without its beginning and end: what is seen, then what is heard."""
    chosen = [(event, rng.choice(clauses(event))) for event in sorted(events, key=_place_in_sentence)]
    seen = " and ".join(clause for event, clause in chosen if event.kind in SEEN_KINDS)
    heard = " and ".join(clause for event, clause in chosen if event.kind in HEARD_KINDS)
    as_first = rng.random() < 0.4
    if not (seen and heard):
        return seen or heard
    return f"as {seen}, {heard}" if as_first else f"{seen} while {heard}"


def _place_in_sentence(event: Event) -> int:
    return KIND_ORDER.index(event.kind)


def _closing(events: Sequence[Event], see: bool, hear: bool) -> list[str]:
    """The closing remarks; the rule stands in the module's text."""
    remarks = []
    if not see:
        remarks.append(PICTURE_BLACK)
    elif not any(event.kind in ("visual", "text") for event in events):
        remarks.append(NOTHING_MOVES)
    if not any(event.kind in HEARD_KINDS for event in events):
        remarks.append(NO_SOUND)
    return remarks
