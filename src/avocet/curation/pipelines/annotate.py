"""What belongs to a caption in training: events, local intervals, a checklist, the dialogue, questions.

A clip whose annotation cannot be read goes on without it, with the reason in the facts under "unread" and counted in
the data card: a caption that was paid for is not thrown away for it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Kept, Outcome
from avocet.curation.pipelines._asking import Asking, TeacherStage, Unread, clip_seconds, facts_of, media_ref, text_of
from avocet.curation.teachers import Role, TeacherTask, numbered
from avocet.curation.teachers.replies import (
    ChecklistReply,
    DialogueReply,
    EventInterval,
    EventsReply,
    IntervalsReply,
    QaReply,
)
from avocet.errors import ConfigError, RecordError
from avocet.judging._words import words_of

_ROUNDING_SECONDS = 1.0
"""How far a time may lie after the end of the clip; models round up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotateStage(TeacherStage):
    """Base: asks about the text of the stage `caption_of`."""

    caption_of: str = "caption"
    tries: int = 3
    """Answers that are bought until one can be read."""

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ConfigError(f"{type(self).__name__}: tries must be >= 1, got {self.tries}")

    @property
    def reads(self) -> tuple[str, ...] | None:
        return (self.caption_of,)

    @property
    def reads_media(self) -> bool:
        return False

    def look(self, clip: ManifestClip, asking: Asking) -> Outcome:
        try:
            facts = self.annotate(clip, text_of(clip, self.caption_of, self.name), asking)
        except Unread as error:
            facts = {"unread": str(error)}
        return Kept(facts=facts, cost=asking.cost)

    def annotate(self, clip: ManifestClip, caption: str, asking: Asking) -> dict[str, Any]:
        """The facts. May raise `Unread`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventsStage(AnnotateStage):
    """Atomic events of the caption (video-SALMONN 2, appendix E). Facts: events."""

    name: str = "events"
    asks: ClassVar[tuple[tuple[Role, str], ...]] = (("check", "events"),)

    def annotate(self, clip: ManifestClip, caption: str, asking: Asking) -> dict[str, Any]:
        task = TeacherTask(prompt="events", fields={"caption": caption})
        return {"events": list(asking.record("check", task, EventsReply, tries=self.tries).events)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChecklistStage(AnnotateStage):
    """Keypoints in the five dimensions of AVoCaDO (section 3.2.2). Facts: keypoints, with their dimensions."""

    name: str = "checklist"
    asks: ClassVar[tuple[tuple[Role, str], ...]] = (("check", "checklist"),)

    def annotate(self, clip: ManifestClip, caption: str, asking: Asking) -> dict[str, Any]:
        task = TeacherTask(prompt="checklist", fields={"caption": caption})
        reply = asking.record("check", task, ChecklistReply, tries=self.tries)
        return {"keypoints": [point.to_dict() for point in reply.keypoints]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueStage(AnnotateStage):
    """The reference dialogue: who says what in the caption. Facts: utterances.

    An utterance whose words do not stand in the caption is made up; the answer is then asked for anew.
    """

    name: str = "dialogue"
    asks: ClassVar[tuple[tuple[Role, str], ...]] = (("check", "dialogue"),)

    def annotate(self, clip: ManifestClip, caption: str, asking: Asking) -> dict[str, Any]:
        task = TeacherTask(prompt="dialogue", fields={"caption": caption})

        def check(reply: DialogueReply) -> None:
            for line in reply.utterances:
                if not stands_in(line.text, caption):
                    raise RecordError(f"the utterance {line.text!r:.80} does not stand in the caption")

        reply = asking.record("check", task, DialogueReply, check=check, tries=self.tries)
        return {"utterances": [line.to_dict() for line in reply.utterances]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QaStage(AnnotateStage):
    """Questions that the caption answers. Facts: pairs, and how many were left out.

    Left out are pairs whose evidence does not stand in the caption: nobody knows whether they are true.
    """

    name: str = "qa"
    num_questions: int = 3
    asks: ClassVar[tuple[tuple[Role, str], ...]] = (("check", "qa"),)

    def annotate(self, clip: ManifestClip, caption: str, asking: Asking) -> dict[str, Any]:
        task = TeacherTask(prompt="qa", fields={"caption": caption, "num_questions": str(self.num_questions)})
        reply = asking.record("check", task, QaReply, tries=self.tries)
        kept = [pair.to_dict() for pair in reply.pairs if stands_in(pair.evidence, caption)]
        return {"pairs": kept, "num_without_evidence": len(reply.pairs) - len(kept)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalStage(AnnotateStage):
    """Times for the events, and a caption of one interval of the clip (video-SALMONN 2, appendix A).

    A teacher that sees and hears the clip gives each event its start and end; the events that overlap an interval are
    the interval's. Which interval is drawn from the clip's id, so it is the same in every run. Facts: events (with
    times in seconds from the start of the clip, or null) and local, the interval with its events and its caption; null
    for clips that are too short to have a part, and where nothing happens in the interval.
    """

    name: str = "local"
    events_of: str = "events"
    interval_seconds: float = 10.0
    min_share: float = 1.5
    """Clips shorter than so many intervals have none."""
    fps: float = 1.0
    asks: ClassVar[tuple[tuple[Role, str], ...]] = (("visual", "local_intervals"), ("fuse", "local_caption"))

    def __post_init__(self) -> None:
        if not (self.interval_seconds > 0 and self.min_share >= 1 and self.fps > 0 and self.tries >= 1):
            raise ConfigError(
                "LocalStage: needs interval_seconds > 0, min_share >= 1, fps > 0 and tries >= 1, got "
                f"{self.interval_seconds}, {self.min_share}, {self.fps} and {self.tries}"
            )

    @property
    def reads(self) -> tuple[str, ...] | None:
        return ("probe", "measure", self.caption_of, self.events_of)

    @property
    def reads_media(self) -> bool:
        return True

    def annotate(self, clip: ManifestClip, caption: str, asking: Asking) -> dict[str, Any]:
        events = list(facts_of(clip, self.events_of, self.name).get("events", ()))
        start, end = clip_seconds(clip, self.name)
        if not events or end - start < self.min_share * self.interval_seconds:
            return {"events": [], "local": None}
        times = self._times(clip, events, end - start, asking)
        timed = [{"event": event, **_times_of(one)} for event, one in zip(events, times, strict=True)]
        return {"events": timed, "local": self._local(clip, caption, timed, end - start, asking)}

    def _times(
        self, clip: ManifestClip, events: Sequence[str], duration_seconds: float, asking: Asking
    ) -> list[EventInterval]:
        task = TeacherTask(
            prompt="local_intervals",
            fields={"events": numbered(events)},
            clip=media_ref(clip),
            media="both",
            fps=self.fps,
        )
        check = functools.partial(_check_intervals, count=len(events), duration_seconds=duration_seconds)
        reply = asking.record("visual", task, IntervalsReply, check=check, tries=self.tries)
        return sorted(reply.events, key=lambda event: event.number)

    def _local(
        self, clip: ManifestClip, caption: str, timed: Sequence[dict[str, Any]], duration_seconds: float, asking: Asking
    ) -> dict[str, Any] | None:
        latest = math.floor(10 * (duration_seconds - self.interval_seconds) + 1e-6)
        start = math.floor(_drawn_share(clip.id) * (latest + 1)) / 10
        end = start + self.interval_seconds
        inside = [one["event"] for one in timed if _overlaps(one, start, end)]
        if not inside:
            return None
        fields = {
            "caption": caption,
            "events": numbered(inside),
            "start_seconds": f"{start:g}",
            "end_seconds": f"{end:g}",
        }
        text = asking.text("fuse", TeacherTask(prompt="local_caption", fields=fields))
        return {"start_seconds": start, "end_seconds": end, "text": text, "events": inside}


def _check_intervals(reply: IntervalsReply, count: int, duration_seconds: float) -> None:
    if len(reply.events) != count:
        raise RecordError(f"{len(reply.events)} intervals for {count} events")
    for event in reply.events:
        if event.end_seconds is not None and event.end_seconds > duration_seconds + _ROUNDING_SECONDS:
            raise RecordError(f"event {event.number} ends at {event.end_seconds:g} s of {duration_seconds:g} s")


def _times_of(event: EventInterval) -> dict[str, float | None]:
    return {"start_seconds": event.start_seconds, "end_seconds": event.end_seconds}


def _overlaps(event: dict[str, Any], start: float, end: float) -> bool:
    """Whether an event happens in [start, end); a moment (start = end) too."""
    if event["start_seconds"] is None:
        return False
    return bool(event["start_seconds"] < end and (event["end_seconds"] > start or event["start_seconds"] >= start))


def _drawn_share(clip_id: str) -> float:
    """From 0 to 1, the same for an id on every machine."""
    return int.from_bytes(hashlib.sha256(f"local {clip_id}".encode()).digest()[:6], "big") / 2**48


def stands_in(passage: str, text: str) -> bool:
    """Whether the words of a passage stand in a row in a text."""
    words = " ".join(words_of(passage))
    return bool(words) and f" {words} " in f" {' '.join(words_of(text))} "
