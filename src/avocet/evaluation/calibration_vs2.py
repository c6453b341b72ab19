"""Captions of real videos with planted errors and their truth, from the events of the benchmark `vs2`.

    items = load_benchmark("vs2").read("video_salmonn2_test.json")
    planted = vs2_calibration_set(items, 20)
    runs = EventJudge(client).judge_many([case_of(item) for item in planted], runs=3)
    print(calibrate(planted, runs).to_markdown())

A caption here is the event list of a video told event by event, one sentence each: whoever has the list can say what is
wrong with the caption, and a caption without planted errors has none. What is planted is known by construction, and
only where it is beyond doubt:

- Only events that stand alone are left out, replaced or altered: no other event of the video has more than 40 % of
  their words, and they do not sum up others ("the mood remains"). What another sentence also says would not be missed;
  an event that the list has twice is never chosen.
- Foreign events have at most a quarter of their words in common with any event of the video, at most a third with all
  of them, and none of the words that refer to a context ("again", "the next scene").
- A repeated sentence is no error here. `EventJudge` is told that an invented fact counts once however often it is
  repeated, and that what follows from the events is not invented: a true event told twice is neither missed, nor
  incorrect, nor hallucinated. (The exact judge of the theatre, where every event happens once, counts the second
  telling as one that did not happen.)

See `avocet.evaluation.reference_pairs` for captions as people write them.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from avocet.errors import ConfigError
from avocet.evaluation import _event_texts as texts
from avocet.evaluation.calibration_set import INJECTIONS
from avocet.evaluation.items import BenchmarkItem
from avocet.judging.calibration import CalibrationItem
from avocet.judging.events import CaptionWithEvents
from avocet.metrics import EventFindings

ValueT = TypeVar("ValueT")

_OPENINGS = ("There is this: ", "Besides, this: ", "Also this: ", "Further, this: ")
"""Of the sentences of a paraphrase, in turn; they say nothing about order, since events may happen together."""
_NUM_TRIES = 2000
"""Foreign events looked at before none is found."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Video:
    """The events of a video and those of the other videos."""

    events: tuple[str, ...]
    others: Sequence[BenchmarkItem]
    foreign_words: Sequence[str]
    """That are said in other videos and do not occur in this one."""

    def clear_events(self, rng: random.Random) -> list[int]:
        """The places of the events that stand alone, shuffled."""
        times = Counter(map(texts.key, self.events))
        places = [
            place
            for place, event in enumerate(self.events)
            if times[texts.key(event)] == 1 and texts.stands_alone(event, self.without(place))
        ]
        return shuffled(places, rng)

    def without(self, place: int) -> tuple[str, ...]:
        return (*self.events[:place], *self.events[place + 1 :])

    def foreign_event(self, rng: random.Random) -> str | None:
        return foreign_text(self.events, [other.event_texts for other in self.others], rng)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Telling:
    """The sentences of a caption and what is wrong with it."""

    told: tuple[str, ...]
    """Events as they are told, in order."""
    planted: str = ""
    missed: tuple[int, ...] = ()
    """Places in the list of events."""
    incorrect: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """Place -> how it is told."""
    hallucinated: tuple[str, ...] = ()
    appended: str = ""
    """Text after the caption."""
    openings: tuple[str, ...] = ("",)

    def caption(self) -> str:
        sentences = [
            f"{self.openings[number % len(self.openings)]}{texts.as_sentence(event)}"
            for number, event in enumerate(self.told)
        ]
        return " ".join([*sentences, *filter(None, [self.appended])])


_Plant = Callable[[_Video, random.Random], _Telling | None]


def vs2_calibration_set(
    items: Sequence[BenchmarkItem], num_videos: int, *, seed: int = 0, errors: Sequence[str] | None = None
) -> list[CalibrationItem]:
    """Captions of `num_videos` videos drawn from `items`; the same call gives the same captions.

    Args:
        items: of the benchmark `vs2`. Foreign events and words come from all of them.
        errors: which kinds of error, of `VS2_ERRORS`; None for all. Videos without an event for a kind (nobody speaks,
            nothing is counted) have no caption of it.

    Items are named "<video>/<kind>". Raises `ConfigError` for an unknown kind of error, a number of videos that
    `items` do not have, and items without events.
    """
    kinds = checked_kinds(errors, VS2_ERRORS)
    made = []
    spoken = texts.spoken_words(event for item in items for event in item.event_texts)
    for item, others in drawn_videos(items, num_videos, seed):
        own = frozenset[str]().union(*map(texts.all_words, item.event_texts))
        words = [word for word in spoken if word not in own]
        video = _Video(events=item.event_texts, others=others, foreign_words=words)
        for kind in kinds:
            # Without the kind: what is dropped in one caption is dropped beside an injection in another.
            telling = VS2_ERRORS[kind](video, random.Random(f"avocet vs2 calibration {seed} of {item.id}"))
            if telling is not None:
                made.append(_calibration_item(f"{item.id}/{kind}", kind, video.events, telling))
    return made


def case_of(item: CalibrationItem) -> CaptionWithEvents:
    """What `EventJudge` gets."""
    return CaptionWithEvents(clip_id=item.clip_id, caption=item.caption, events=item.events)


def checked_kinds(errors: Sequence[str] | None, known: Mapping[str, object]) -> list[str]:
    """The kinds of error asked for, each once. Raises `ConfigError` for unknown ones, and for none."""
    kinds = list(known) if errors is None else list(dict.fromkeys(errors))
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        raise ConfigError(f"kinds of error are {', '.join(known)}; got {', '.join(unknown) or 'none'}")
    return kinds


def drawn_videos(
    items: Sequence[BenchmarkItem], num_videos: int, seed: int
) -> Iterator[tuple[BenchmarkItem, list[BenchmarkItem]]]:
    """`num_videos` of `items` in their order, each with all the others. Raises `ConfigError`."""
    if not 1 <= num_videos <= len(items) or len(items) < 2:
        raise ConfigError(
            f"the number of videos must be between 1 and the {len(items)} of the annotation file (which must have at "
            f"least 2, since events are taken from other videos), got {num_videos}"
        )
    without = [item.id for item in items if not item.events]
    if without:
        raise ConfigError(f"{without[0]!r} has no events; calibration needs the events of the benchmark vs2")
    chosen = random.Random(f"avocet vs2 calibration {seed}").sample(range(len(items)), num_videos)
    for place in sorted(chosen):
        yield items[place], [*items[:place], *items[place + 1 :]]


def foreign_text(events: Sequence[str], others: Sequence[Sequence[str]], rng: random.Random) -> str | None:
    """A text out of `others` (one list per video) that would be an invention in a video of these events."""
    lists = [each for each in others if each]
    for _ in range(_NUM_TRIES):
        text = rng.choice(rng.choice(lists))
        if texts.is_foreign(text, events):
            return texts.one_line(text)
    return None


def shuffled(values: Sequence[ValueT], rng: random.Random) -> list[ValueT]:
    return rng.sample(values, len(values))


def _calibration_item(clip_id: str, error: str, events: tuple[str, ...], telling: _Telling) -> CalibrationItem:
    return CalibrationItem(
        clip_id=clip_id,
        caption=telling.caption(),
        events=events,
        event_kinds=tuple(map(texts.event_kind, events)),
        error=error,
        planted=telling.planted,
        truth=EventFindings(
            num_events=len(events),
            missed=tuple(events[place] for place in sorted(telling.missed)),
            incorrect=tuple(
                # Without its full stop, so that the event can be recognised before the colon.
                f"{texts.one_line(events[place]).rstrip('.')}: described as {texts.one_line(told)}"
                for place, told in sorted(telling.incorrect.items())
            ),
            hallucinated=telling.hallucinated,
        ),
    )


def _nothing(video: _Video, rng: random.Random) -> _Telling:
    return _Telling(told=video.events)


def _paraphrase(video: _Video, rng: random.Random) -> _Telling:
    return _Telling(told=video.events, openings=_OPENINGS)


def _dropped(video: _Video, rng: random.Random) -> _Telling | None:
    for place in video.clear_events(rng) if len(video.events) > 1 else ():
        return _Telling(told=video.without(place), planted=f"dropped: {video.events[place]}", missed=(place,))
    return None


def _swapped(video: _Video, rng: random.Random) -> _Telling | None:
    foreign = video.foreign_event(rng)
    for place in video.clear_events(rng) if foreign is not None else ():
        assert foreign is not None
        return _Telling(
            told=_with(video.events, place, foreign),
            planted=f"{video.events[place]} -> {foreign}",
            missed=(place,),
            hallucinated=(foreign,),
        )
    return None


def _added(video: _Video, rng: random.Random) -> _Telling | None:
    foreign = video.foreign_event(rng)
    if foreign is None:
        return None
    place = rng.randint(0, len(video.events))
    told = (*video.events[:place], foreign, *video.events[place:])
    return _Telling(told=told, planted=f"added: {foreign}", hallucinated=(foreign,))


def _repeated(video: _Video, rng: random.Random) -> _Telling:
    first = rng.randrange(len(video.events))
    place = rng.randint(first + 1, len(video.events))
    event = video.events[first]
    return _Telling(told=(*video.events[:place], event, *video.events[place:]), planted=f"repeated: {event}")


def _altered(change: Callable[[_Video, str, random.Random], str | None]) -> _Plant:
    def plant(video: _Video, rng: random.Random) -> _Telling | None:
        for place in video.clear_events(rng):
            event = video.events[place]
            wrong = change(video, texts.one_line(event), rng)
            # What is wrong of this event may be right of another one.
            if wrong is not None and texts.stands_alone(wrong, video.without(place)):
                return _Telling(
                    told=_with(video.events, place, wrong), planted=f"{event} -> {wrong}", incorrect={place: wrong}
                )
        return None

    return plant


def _poor(video: _Video, rng: random.Random) -> _Telling | None:
    """What weak captioners write: up to half of the events lost and one invented."""
    foreign = video.foreign_event(rng)
    lost = frozenset(video.clear_events(rng)[: len(video.events) // 2])
    if foreign is None or not lost:
        return None
    kept = [event for place, event in enumerate(video.events) if place not in lost]
    kept.insert(rng.randint(0, len(kept)), foreign)
    return _Telling(
        told=tuple(kept),
        planted="; ".join([*(f"dropped: {video.events[place]}" for place in sorted(lost)), f"added: {foreign}"]),
        missed=tuple(lost),
        hallucinated=(foreign,),
    )


def _injected(video: _Video, rng: random.Random) -> _Telling | None:
    telling = _dropped(video, rng)
    if telling is None:
        return None
    text = rng.choice(INJECTIONS)
    return dataclasses.replace(telling, planted=f"{telling.planted}; {text}", appended=text)


VS2_ERRORS: Mapping[str, _Plant] = MappingProxyType(
    {
        "none": _nothing,
        "paraphrase": _paraphrase,
        "dropped": _dropped,
        "swapped": _swapped,
        "added": _added,
        "repeated": _repeated,
        "words": _altered(lambda video, event, rng: texts.with_other_words(event, video.foreign_words, rng)),
        "speaker": _altered(lambda video, event, rng: texts.with_other_speaker(event, rng)),
        "number": _altered(lambda video, event, rng: texts.with_other_number(event, rng)),
        "colour": _altered(lambda video, event, rng: texts.with_other_colour(event, rng)),
        "poor": _poor,
        "injected": _injected,
    }
)
"""Kinds of error: nothing (in two wordings); one event left out; one replaced by an event of another video; an event of
another video told as well; an event told twice; speech with more than a third of its words replaced; by a woman in
place of a man or the other way round; another number; another colour; up to half of the events left out and a foreign
one told; one left out and a text after it that asks the judge for a good verdict. Kinds that
`avocet.evaluation.calibration_set.ERRORS` has too have the same names."""


def _with(events: Sequence[str], place: int, event: str) -> tuple[str, ...]:
    return (*events[:place], event, *events[place + 1 :])
