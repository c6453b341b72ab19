"""The phrases of the theatre's language: every way an event can be put into words."""

from __future__ import annotations

from types import MappingProxyType

from avocet.theatre.script import Event

MOTION_PHRASES = MappingProxyType(
    {
        "slide left": ("slides to the left", "moves to the left"),
        "slide right": ("slides to the right", "moves to the right"),
        "rise": ("rises", "moves up"),
        "fall": ("falls", "moves down"),
        "spin": ("spins", "spins around"),
        "blink": ("blinks", "blinks on and off"),
        "grow": ("grows", "gets bigger"),
        "shrink": ("shrinks", "gets smaller"),
    }
)
"""Motion -> its wordings; the first one is the plainest."""

SOUND_VERBS = MappingProxyType(
    {
        "bell": "rings",
        "siren": "wails",
        "drum": "beats",
        "whistle": "blows",
        "horn": "honks",
        "buzzer": "buzzes",
        "clock": "ticks",
        "rain": "patters",
        "bird": "chirps",
        "engine": "hums",
        "harp": "plays",
        "waves": "crash",
    }
)
"""Sound -> what its source does."""

_WITHOUT_ARTICLE = frozenset({"rain", "waves"})


def with_article(noun_phrase: str) -> str:
    """ "orange star" -> "an orange star"; rain and waves take no article."""
    if noun_phrase in _WITHOUT_ARTICLE:
        return noun_phrase
    return f"{'an' if noun_phrase[0] in 'aeiou' else 'a'} {noun_phrase}"


def capitalised(text: str) -> str:
    """The text with its first letter in upper case, the rest unchanged."""
    return text[:1].upper() + text[1:]


def clauses(event: Event, *, opening: bool = False) -> tuple[str, ...]:
    """Every wording of one event as a clause that can stand inside a sentence, without its full stop.

    A clause of speech ends with its closing quote. `opening` is for the scene in which a script begins.
    """
    if event.kind == "visual":
        actor = with_article(f"{event.colour} {event.shape}")
        return tuple(f"{actor} {motion}" for motion in MOTION_PHRASES[event.motion])
    if event.kind == "text":
        return (
            f"the word {event.word} appears on the screen",
            f"the screen reads {event.word}",
            f"the word {event.word} is shown",
        )
    if event.kind == "sound":
        source = with_article(event.sound)
        return (f"{source} {SOUND_VERBS[event.sound]}", f"{source} can be heard")
    if event.kind == "speech":
        speaker = with_article(event.speaker)
        return (f'{speaker} says, "{event.utterance}."', f'{speaker} is heard saying, "{event.utterance}."')
    place = with_article(event.scene)
    if opening:
        return (f"the scene is {place}", f"the setting is {place}")
    return (f"the scene changes to {place}", f"the setting changes to {place}")


def describe(event: Event) -> str:
    """The event in few words, for findings and reports: "red circle slides to the left"."""
    if event.kind == "visual":
        return f"{event.colour} {event.shape} {MOTION_PHRASES[event.motion][0]}"
    if event.kind == "text":
        return f"the word {event.word}"
    if event.kind == "sound":
        return f"{event.sound} {SOUND_VERBS[event.sound]}"
    if event.kind == "speech":
        return f'{event.speaker} says "{event.utterance}"'
    return f"the scene is {with_article(event.scene)}"
