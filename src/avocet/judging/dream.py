"""AutoDQ, the score of DREAM-1K (Tarsier, section 4): events entailed both ways between a caption and a reference.

Recall: how many events of the reference the caption entails. Precision: how many events of the caption the reference
entails. Three calls per caption: events of the caption, labels of the reference's events, labels of the caption's
events; a fourth when the reference comes without events. The prompts are our own. What differs from the released code:

- A direction without events has no value (None), where the released code gives it full marks: a caption that tells no
  event has no precision (and hardly any recall), a reference without events (4 clips of DREAM-1K) no recall. If neither
  tells any, the caption is unscored. Averages leave out what has no value and count it.
- Every event must be labelled by its number, exactly once.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Literal

from avocet.errors import RecordError
from avocet.judging.judge import Examination, LlmJudge, Unscorable
from avocet.judging.parsing import last_record, schema_of
from avocet.judging.prompts import Untrusted
from avocet.records import Record, Verdict

MAX_EVENTS = 10
"""Events taken from one text, as in the released code."""

EntailmentLabel = Literal["entailment", "neutral", "contradiction"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DreamItem(Record):
    """A caption and the reference that it is compared with."""

    clip_id: str
    caption: str
    reference: str
    events: tuple[str, ...] | None = None
    """Those of the reference; None lets the judge extract them."""

    def __post_init__(self) -> None:
        if not self.reference.strip():
            raise RecordError(f"DreamItem {self.clip_id!r}: the reference must not be empty")
        if any(not event.strip() for event in self.events or ()):
            raise RecordError(f"DreamItem {self.clip_id!r}: no event may be empty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DreamEventsReply(Record):
    """What the judge is to reply when asked for the events of a text."""

    reasoning: str
    events: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.events) > MAX_EVENTS:
            raise RecordError(f"there are {len(self.events)} events, but at most {MAX_EVENTS} are allowed")
        keys = [" ".join(event.casefold().split()).rstrip(".") for event in self.events]
        if not all(keys):
            raise RecordError("an event is empty")
        repeated = [event for place, event in enumerate(self.events) if keys[place] in keys[:place]]
        if repeated:
            raise RecordError(f"the event {repeated[0]!r:.80} is listed more than once")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumberedLabel(Record):
    """The label of one event."""

    number: int
    label: EntailmentLabel


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntailmentReply(Record):
    """What the judge is to reply when asked for labels."""

    reasoning: str
    labels: tuple[NumberedLabel, ...]

    def in_order(self, num_events: int) -> tuple[EntailmentLabel, ...]:
        """The labels of events 1 to `num_events`. Raises `RecordError` unless each number is there exactly once."""
        numbers = sorted(label.number for label in self.labels)
        if numbers != list(range(1, num_events + 1)):
            raise RecordError(
                f"labels must be given for the numbers 1 to {num_events}, each once; got {numbers!s:.200}"
            )
        return tuple(label.label for label in sorted(self.labels, key=lambda label: label.number))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledEvent(Record):
    """An event of one text and what the other text says of it."""

    event: str
    label: EntailmentLabel


@dataclasses.dataclass(frozen=True, kw_only=True)
class DreamFindings(Record):
    """The findings of `DreamJudge` on one caption."""

    reference_events: tuple[LabelledEvent, ...]
    """Labelled by the caption."""
    caption_events: tuple[LabelledEvent, ...]
    """Labelled by the reference."""
    num_reference_events: int
    num_recalled: int
    """Reference events that the caption entails."""
    num_caption_events: int
    num_supported: int
    """Caption events that the reference entails."""

    def __post_init__(self) -> None:
        told = (self.num_reference_events, self.num_recalled, self.num_caption_events, self.num_supported)
        true = (
            *(len(self.reference_events), _num_entailed(self.reference_events)),
            *(len(self.caption_events), _num_entailed(self.caption_events)),
        )
        if told != true:
            raise RecordError(f"DreamFindings: the lists hold {true} events and entailed ones, got counts {told}")

    @classmethod
    def of(cls, reference_events: Sequence[LabelledEvent], caption_events: Sequence[LabelledEvent]) -> DreamFindings:
        return cls(
            reference_events=tuple(reference_events),
            caption_events=tuple(caption_events),
            num_reference_events=len(reference_events),
            num_recalled=_num_entailed(reference_events),
            num_caption_events=len(caption_events),
            num_supported=_num_entailed(caption_events),
        )

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> DreamFindings:
        """Raises `RecordError` for an unscored verdict and for one of another judge."""
        if verdict.status != "scored":
            raise RecordError(f"the verdict on {verdict.clip_id!r} is unscored: {verdict.reason}")
        return cls.from_dict({name: value for name, value in verdict.findings.items() if name != "notes"})

    @property
    def recall(self) -> float | None:
        """None for a reference without events."""
        return self.num_recalled / self.num_reference_events if self.num_reference_events else None

    @property
    def precision(self) -> float | None:
        """None for a caption without events."""
        return self.num_supported / self.num_caption_events if self.num_caption_events else None

    @property
    def f1(self) -> float | None:
        """Of this caption alone; 0 when both are 0, None when one of them is. The published F1 is that of averages."""
        recall, precision = self.recall, self.precision
        if recall is None or precision is None:
            return None
        return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


class DreamJudge(LlmJudge[DreamItem]):
    """Findings: `DreamFindings` as JSON."""

    name = "dream"
    prompt_names = ("dream_extract", "dream_entail")

    async def examine(self, item: DreamItem, examination: Examination) -> dict[str, Any]:
        told = await self._events(item.caption, examination)
        true = item.events if item.events is not None else await self._events(item.reference, examination)
        if not told and not true:
            raise Unscorable("neither the caption nor the reference tells an event")
        findings = DreamFindings.of(
            reference_events=await self._labelled(true, item.caption, examination),
            caption_events=await self._labelled(told, item.reference, examination),
        )
        return dict(json.loads(findings.to_json_line()))

    async def _events(self, text: str, examination: Examination) -> tuple[str, ...]:
        prompt = self.prompts["dream_extract"].render(text=Untrusted(text=text), max_events=MAX_EVENTS)
        reply = await examination.ask(
            prompt,
            lambda reply: last_record(reply, DreamEventsReply),
            schema=schema_of(DreamEventsReply),
            # About as long as the events of a caption usually are, for the estimate of a dry run.
            assumed=DreamEventsReply(
                reasoning="", events=tuple(f"Somebody does the thing of number {number}." for number in range(1, 8))
            ),
        )
        return reply.events

    async def _labelled(self, events: Sequence[str], text: str, examination: Examination) -> tuple[LabelledEvent, ...]:
        if not events:
            return ()
        prompt = self.prompts["dream_entail"].render(
            text=Untrusted(text=text), events=Untrusted.listing(events), num_events=len(events)
        )
        undecided: EntailmentLabel = "neutral"
        labels = await examination.ask(
            prompt,
            lambda reply: last_record(reply, EntailmentReply).in_order(len(events)),
            schema=schema_of(EntailmentReply),
            assumed=(undecided,) * len(events),
        )
        return tuple(LabelledEvent(event=event, label=label) for event, label in zip(events, labels, strict=True))


def _num_entailed(events: Sequence[LabelledEvent]) -> int:
    return sum(event.label == "entailment" for event in events)
