"""Atomic events: a reference caption split into them, and a caption judged by them (video-SALMONN 2, section 4.2).

`EventSplitter` lists what a text says about its video, one fact each. `EventJudge` says which events of such a list a
caption misses, which it tells wrongly, and what it tells besides that is not in the list: the findings behind Miss,
Hall and Total. The prompts are our own. What differs from the released judge:

- Events are named by their numbers. Lists and counts must agree, numbers must exist, and no event can be both missed
  and incorrect; there, counts are believed as they are.
- A reply that does not add up is asked for once more and then unscored; there is no second prompt for counts alone.
- Captions are shown whole: repetitions are not collapsed, and an invented statement counts once however often it is
  repeated (`avocet.metrics` measures repetition by itself).
- A caption without words misses every event by definition; nobody is asked.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from avocet.errors import RecordError
from avocet.judging.judge import Examination, LlmJudge, Unscorable
from avocet.judging.parsing import last_record, schema_of
from avocet.judging.prompts import Untrusted, neutralise
from avocet.metrics import EventFindings
from avocet.records import Record, Verdict

NO_WORDS = "caption: it has no words, so nothing was asked"
"""The note in the findings on such a caption."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DescribedClip(Record):
    """A clip and the caption that its events are to be taken from."""

    clip_id: str
    caption: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitEvent(Record):
    """One fact about a video, with its time in seconds where the caption states one; a moment ends when it starts.

    An event with times has the form of the files of the benchmark `vs2-local`.
    """

    event: str
    start_seconds: float | None
    end_seconds: float | None

    def __post_init__(self) -> None:
        if is_blank(self.event):
            raise RecordError("an event is empty")
        start, end = self.start_seconds, self.end_seconds
        if (start is None) != (end is None):
            raise RecordError(f"the event {self.event!r:.80} needs both a start and an end, or null for both")
        if start is not None and end is not None and not 0 <= start <= end < float("inf"):
            raise RecordError(f"the event {self.event!r:.80} must have 0 <= start <= end, got {start} to {end}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventSplit(Record):
    """What the judge is to reply when asked for the events of a caption, and the findings of `EventSplitter`."""

    reasoning: str
    events: tuple[SplitEvent, ...]
    """In the order of the caption; none for a text that says nothing about a video (a refusal)."""

    def __post_init__(self) -> None:
        check_statements("event", [event.event for event in self.events])

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> EventSplit:
        """Raises `RecordError` for an unscored verdict and for one of another judge."""
        if verdict.status != "scored":
            raise RecordError(f"the verdict on {verdict.clip_id!r} is unscored: {verdict.reason}")
        return cls.from_dict({name: value for name, value in verdict.findings.items() if name != "notes"})

    @property
    def texts(self) -> tuple[str, ...]:
        """The events without their times, as `CaptionWithEvents` takes them."""
        return tuple(event.event for event in self.events)


class EventSplitter(LlmJudge[DescribedClip]):
    """Findings: `EventSplit` as JSON ("reasoning"; "events" with "event", "start_seconds" and "end_seconds").

    A caption without words is unscored: there is nothing to split. Lists that training or a benchmark will rest on
    should be read by people; the authors of video-SALMONN 2 corrected theirs by hand.
    """

    name = "event-split"
    prompt_names = ("events_split",)

    async def examine(self, item: DescribedClip, examination: Examination) -> dict[str, Any]:
        if not has_words(item.caption):
            raise Unscorable("no words: the caption has none, so it tells no events")
        prompt = self.prompts["events_split"].render(caption=Untrusted(text=item.caption))
        reply = await examination.ask(prompt, lambda text: last_record(text, EventSplit), schema=schema_of(EventSplit))
        events = tuple(dataclasses.replace(event, event=" ".join(event.event.split())) for event in reply.events)
        return dict(json.loads(dataclasses.replace(reply, events=events).to_json_line()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionWithEvents(Record):
    """A caption and the events of its clip.

    An event may stand in the list twice, as 61 of the published test set do: it is judged and counted twice.
    """

    clip_id: str
    caption: str
    events: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.events or any(is_blank(event) for event in self.events):
            raise RecordError(
                f"CaptionWithEvents {self.clip_id!r}: needs at least one event, and none may be empty; a clip without "
                "events has no rates, so leave it out and count it"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class IncorrectEvent(Record):
    """An event that a caption tells wrongly."""

    event: int
    """Its number, from 1."""
    described: str
    """What the caption says instead."""

    def __post_init__(self) -> None:
        if is_blank(self.described):
            raise RecordError(f"the incorrect event {self.event} comes without what is said instead")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventReply(Record):
    """What the judge is to reply when asked about a caption. Events are numbered from 1."""

    reasoning: str
    missed: tuple[int, ...]
    incorrect: tuple[IncorrectEvent, ...]
    hallucinated: tuple[str, ...]
    num_missed: int
    num_incorrect: int
    num_hallucinated: int

    def __post_init__(self) -> None:
        for name in ("missed", "incorrect", "hallucinated"):
            count, length = getattr(self, f"num_{name}"), len(getattr(self, name))
            if count != length:
                raise RecordError(f"num_{name} is {count}, but the list {name!r} has {length} entries")
        check_statements("hallucinated statement", self.hallucinated)
        incorrect = [entry.event for entry in self.incorrect]
        for name, numbers in (("missed", self.missed), ("incorrect", incorrect)):
            repeated = _repeated(numbers)
            if repeated:
                raise RecordError(f"the list {name!r} has event {repeated[0]} more than once")
        both = sorted(set(self.missed) & set(incorrect))
        if both:
            raise RecordError(f"event {both[0]} is both missed and incorrect, but it can be only one of them")

    def findings(self, events: Sequence[str]) -> EventFindings:
        """With the texts of the events. Raises `RecordError` for a number that is none of them.

        Also for an event told wrongly in its own words, and for a hallucinated statement that is an event.
        """
        numbers = [*self.missed, *(entry.event for entry in self.incorrect)]
        unknown = sorted(number for number in numbers if not 1 <= number <= len(events))
        if unknown:
            raise RecordError(f"there is no event {unknown[0]}; events have the numbers 1 to {len(events)}")
        for entry in self.incorrect:
            if _key(entry.described) == _key(events[entry.event - 1]):
                raise RecordError(f"event {entry.event} is incorrect, but described as it is")
        known = {_key(event): number for number, event in enumerate(events, start=1)}
        for statement in self.hallucinated:
            if _key(statement) in known:
                raise RecordError(
                    f"the hallucinated statement {statement!r:.80} is event {known[_key(statement)]} itself"
                )
        return EventFindings(
            num_events=len(events),
            missed=tuple(events[number - 1] for number in sorted(self.missed)),
            incorrect=tuple(
                _told_wrongly(events[entry.event - 1], entry.described)
                for entry in sorted(self.incorrect, key=lambda entry: entry.event)
            ),
            hallucinated=tuple(" ".join(statement.split()) for statement in self.hallucinated),
        )


class EventJudge(LlmJudge[CaptionWithEvents]):
    """Findings: "num_events", "missed", "incorrect", "hallucinated" and "reasoning".

    All but the last are `avocet.metrics.EventFindings` as JSON, which `avocet.judging.calibration.event_findings`
    reads: events by their text, an incorrect one followed by ": described as ...". A caption without words is scored:
    it misses all events (see `NO_WORDS`), and no call is made for it.
    """

    name = "events"
    prompt_names = ("events_judge",)

    async def examine(self, item: CaptionWithEvents, examination: Examination) -> dict[str, Any]:
        reasoning = ""
        if has_words(item.caption):
            prompt = self.prompts["events_judge"].render(
                num_events=len(item.events),
                events=listing("events", item.events),
                caption=Untrusted(text=item.caption),
            )
            reasoning, findings = await examination.ask(
                prompt, lambda text: _read(text, item.events), schema=schema_of(EventReply)
            )
        else:
            examination.notes.append(NO_WORDS)
            findings = EventFindings(num_events=len(item.events), missed=item.events, incorrect=(), hallucinated=())
        return {**json.loads(findings.to_json_line()), "reasoning": reasoning}


def _read(text: str, events: Sequence[str]) -> tuple[str, EventFindings]:
    reply = last_record(text, EventReply)
    return reply.reasoning, reply.findings(events)


def _told_wrongly(event: str, described: str) -> str:
    # Without its full stop, so that the event can be recognised before the colon.
    return f"{' '.join(event.split()).rstrip('.')}: described as {' '.join(described.split())}"


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return not neutralise(text).text.strip()


def has_words(text: str) -> bool:
    """Whether a text has a letter or a digit that can be seen, in any script."""
    return any(character.isalnum() for character in neutralise(text).text)


def listing(what: str, items: Sequence[str]) -> Untrusted:
    """Items numbered from 1 for a prompt. Raises `Unscorable` rather than let the end of the list be cut off."""
    numbered = Untrusted.listing(items)
    if len(numbered.text) > numbered.max_chars:
        raise Unscorable(
            f"list too long: its {len(items)} {what} have {len(numbered.text)} characters, and a judge is shown at "
            f"most {numbered.max_chars}"
        )
    return numbered


def check_statements(what: str, statements: Sequence[str]) -> None:
    """Raise `RecordError` for an empty statement, and for one that is there twice but for case, space or full stop."""
    if any(is_blank(statement) for statement in statements):
        raise RecordError(f"{'an' if what[0] in 'aeiou' else 'a'} {what} is empty")
    repeated = _repeated([_key(statement) for statement in statements])
    if repeated:
        raise RecordError(f"the {what} {repeated[0]!r:.80} is listed more than once")


def _key(statement: str) -> str:
    return " ".join(neutralise(statement).text.casefold().split()).rstrip(".")


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]
