"""Theatre scripts: what happens on stage and when, drawn from a seed.

A script is a list of *beats*, stretches of time in which one or several events happen at once; beats
follow each other without overlap, so the order of a chronological caption is never in doubt. The same
seed and level give the same script on every machine (only `random.Random` seeded by a string is used).
"""

from __future__ import annotations

import dataclasses
import operator
import random
import re
from typing import Literal

from avocet.errors import ConfigError
from avocet.theatre import world

EventKind = Literal["scene", "visual", "text", "sound", "speech"]
KIND_ORDER: tuple[EventKind, ...] = ("scene", "visual", "text", "sound", "speech")
"""Order in which simultaneous events are listed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """One atomic event. Which attributes are set depends on `kind`; the others are empty."""

    kind: EventKind
    beat: int
    """Events of the same beat happen at once."""
    start_seconds: float
    end_seconds: float
    colour: str = ""
    """visual: a key of `world.COLOURS`."""
    shape: str = ""
    """visual: one of `world.SHAPES`."""
    motion: str = ""
    """visual: one of `world.MOTIONS`."""
    lane: int = 0
    """visual: 0 alone in the middle; 1 left and 2 right half when two actors share a beat (not captioned)."""
    word: str = ""
    """text: one of `world.SCREEN_WORDS`."""
    sound: str = ""
    """sound: one of `world.SOUNDS`."""
    speaker: str = ""
    """speech: one of `world.SPEAKERS`."""
    utterance: str = ""
    """speech: the words, sentence case, without a full stop."""
    scene: str = ""
    """scene: one of `world.SCENES`."""

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two events the same thing, apart from time."""
        return (
            *(self.kind, self.colour, self.shape, self.motion, self.word, self.sound, self.speaker),
            *(self.utterance.casefold(), self.scene),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Script:
    """A play: its events in order of beat (and of `KIND_ORDER` inside a beat) and how it is staged."""

    seed: int
    level: int
    duration_seconds: float
    """A whole number of seconds."""
    events: tuple[Event, ...]
    background: str
    """Plain cloth (level 1), or the first scene (level 2)."""
    camera_noise: float
    """Standard deviation of the picture noise in grey levels."""
    camera_shake_pixels: float
    """Standard deviation of the camera's jitter, in 1/192 of the picture's width."""
    audio_noise: float
    """Standard deviation of the sound's noise floor (full scale is 1)."""

    @property
    def id(self) -> str:
        return f"theatre-{self.level}-{self.seed}"

    def beats(self) -> list[tuple[Event, ...]]:
        """The events grouped by beat, in order."""
        count = 1 + max((event.beat for event in self.events), default=-1)
        return [tuple(event for event in self.events if event.beat == beat) for beat in range(count)]


_BEAT_TYPES: dict[int, tuple[tuple[tuple[EventKind, ...], float], ...]] = {
    1: (
        (("visual",), 2.0),
        (("sound",), 1.0),
        (("speech",), 1.5),
        (("text",), 1.0),
        (("visual", "sound"), 2.0),
        (("visual", "speech"), 2.5),
        (("text", "sound"), 0.7),
        (("text", "speech"), 0.8),
    ),
    2: (
        (("visual",), 1.5),
        (("visual", "visual"), 2.0),
        (("sound",), 0.6),
        (("speech",), 1.0),
        (("text",), 0.8),
        (("visual", "sound"), 1.5),
        (("visual", "speech"), 2.0),
        (("visual", "text"), 0.7),
        (("sound", "speech"), 1.0),
        (("visual", "sound", "speech"), 1.2),
        (("visual", "visual", "sound"), 0.7),
        (("text", "speech"), 0.7),
        (("sound", "sound"), 0.5),
    ),
}
_SOUND_KINDS = frozenset({"sound", "speech"})
_MIN_BEAT_SECONDS = 1.5
_SECONDS_PER_SPOKEN_WORD = 0.34


def make_script(seed: int, level: int = 1) -> Script:
    """Draw the script of `seed`.

    Level 1: one actor at a time, 4-8 s, 2-4 events. Level 2: up to two actors at once, 4-12 s, painted scenes that
    change, overlapping sounds, camera noise, and some scripts that are silent, speechless or without any change of
    picture. Raises `ConfigError` for another level, or a seed that is no integer >= 0.
    """
    # Of 1 and True, which are equal, the generator would be seeded with other texts.
    seed, level = _integer("seed", seed), _integer("level", level)
    if level not in (1, 2):
        raise ConfigError(f"theatre level must be 1 or 2, got {level!r}")
    if seed < 0:
        raise ConfigError(f"theatre seed must be >= 0, got {seed}")
    rng = random.Random(f"avocet theatre level {level} seed {seed}")
    while True:
        script = _draw(rng, seed, level)
        if script is not None:
            return script


def _integer(name: str, value: int) -> int:
    try:
        return int(operator.index(value))
    except TypeError as error:
        raise ConfigError(f"theatre {name} must be an integer, got {value!r}") from error


def _draw(rng: random.Random, seed: int, level: int) -> Script | None:
    """One attempt; None when what was drawn does not fit (too long, too many events, a repeated event)."""
    beat_types = _draw_beat_types(rng, level)
    events = [[_draw_event(rng, kind, level, beat) for kind in kinds] for beat, kinds in enumerate(beat_types)]
    background, scenes = _draw_scenes(rng, level, beat_types)
    for beat, scene in scenes.items():
        events[beat].insert(0, Event(kind="scene", beat=beat, start_seconds=0, end_seconds=0, scene=scene))
    flat = [event for beat_events in events for event in beat_events]
    if len({event.key for event in flat}) < len(flat):
        return None
    timed = _time_beats(rng, level, events)
    if timed is None:
        return None
    duration_seconds, placed = timed
    return Script(
        seed=seed,
        level=level,
        duration_seconds=duration_seconds,
        events=tuple(placed),
        background=background,
        camera_noise=rng.uniform(0, 2) if level == 1 else rng.uniform(0, 8),
        camera_shake_pixels=0.0 if level == 1 else rng.choice((0.0, 0.0, 0.7, 1.5)),
        audio_noise=rng.uniform(0, 0.002) if level == 1 else rng.uniform(0, 0.006),
    )


def _draw_beat_types(rng: random.Random, level: int) -> list[tuple[EventKind, ...]]:
    choices = _BEAT_TYPES[level]
    if level == 2:
        lack = rng.random()
        if lack < 0.06:  # a silent script
            choices = tuple(item for item in choices if not _SOUND_KINDS & set(item[0]))
        elif lack < 0.14:  # sound, but nobody speaks
            choices = tuple(item for item in choices if "speech" not in item[0])
        elif lack < 0.20:  # the picture never changes
            choices = tuple(item for item in choices if set(item[0]) <= _SOUND_KINDS)
    kinds = [item[0] for item in choices]
    weights = [item[1] for item in choices]
    limit = 4 if level == 1 else 8
    while True:
        drawn = rng.choices(kinds, weights, k=rng.randint(2, 4 if level == 1 else 5))
        if 2 <= sum(len(beat) for beat in drawn) <= limit:
            return drawn


def _draw_event(rng: random.Random, kind: EventKind, level: int, beat: int) -> Event:
    def pick(words: tuple[str, ...]) -> str:
        return rng.choice(world.level_part(words, level))

    event = Event(kind=kind, beat=beat, start_seconds=0, end_seconds=0)
    if kind == "visual":
        return dataclasses.replace(
            event, colour=rng.choice(tuple(world.COLOURS)), shape=pick(world.SHAPES), motion=rng.choice(world.MOTIONS)
        )
    if kind == "text":
        return dataclasses.replace(event, word=pick(world.SCREEN_WORDS))
    if kind == "sound":
        return dataclasses.replace(event, sound=pick(world.SOUNDS))
    sentence = re.sub(r"\{(\w+)\}", lambda match: pick(world.SLOTS[match[1]]), pick(world.SENTENCES))
    return dataclasses.replace(event, speaker=pick(world.SPEAKERS), utterance=sentence[0].upper() + sentence[1:])


def _draw_scenes(rng: random.Random, level: int, beat_types: list[tuple[EventKind, ...]]) -> tuple[str, dict[int, str]]:
    """The background at 0 s and, for level 2, the scene that opens at some beats (always one at beat 0)."""
    if level == 1:
        return rng.choice(world.PLAIN_BACKGROUNDS), {}
    scene = rng.choice(world.SCENES)
    scenes = {0: scene}
    picture_changes = any(not set(kinds) <= _SOUND_KINDS for kinds in beat_types)
    for beat in range(1, len(beat_types)):
        if picture_changes and rng.random() < 0.2:
            scenes[beat] = rng.choice([name for name in world.SCENES if name not in scenes.values()])
    return scene, scenes


def _needed_seconds(events: list[Event]) -> float:
    words = max((len(event.utterance.split()) for event in events), default=0)
    return max(_MIN_BEAT_SECONDS, 0.4 + _SECONDS_PER_SPOKEN_WORD * words)


def _time_beats(rng: random.Random, level: int, beats: list[list[Event]]) -> tuple[float, list[Event]] | None:
    """Whole-second duration and the events with their times; None when the beats do not fit."""
    needed = [_needed_seconds(events) for events in beats]
    shortest = max(4, -int(-sum(needed) // 1))
    longest = min(8 if level == 1 else 12, int(sum(needed) + 0.9 * len(beats)))
    if shortest > (8 if level == 1 else 12):
        return None
    duration = rng.randint(shortest, max(shortest, longest))
    shares = [rng.uniform(0.2, 1.0) for _ in beats]
    spare = duration - sum(needed)
    placed: list[Event] = []
    start = 0.0
    for events, need, share in zip(beats, needed, shares, strict=True):
        end = round(start + need + spare * share / sum(shares), 3)
        lanes = iter((1, 2)) if sum(event.kind == "visual" for event in events) > 1 else iter((0,))
        for event in sorted(events, key=lambda event: KIND_ORDER.index(event.kind)):
            lane = next(lanes) if event.kind == "visual" else 0
            placed.append(dataclasses.replace(event, start_seconds=start, end_seconds=end, lane=lane))
        start = end
    last = len(beats) - 1
    placed = [
        dataclasses.replace(event, end_seconds=float(duration)) if event.beat == last else event for event in placed
    ]
    return float(duration), _extend_scenes(placed, float(duration))


def _extend_scenes(events: list[Event], duration_seconds: float) -> list[Event]:
    """A scene lasts until the next one opens, not just for its beat."""
    openings = [event.start_seconds for event in events if event.kind == "scene"]
    extended = []
    for event in events:
        if event.kind == "scene":
            later = [start for start in openings if start > event.start_seconds]
            event = dataclasses.replace(event, end_seconds=min(later, default=duration_seconds))
        extended.append(event)
    return extended
