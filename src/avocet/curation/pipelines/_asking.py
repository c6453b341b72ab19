"""What the stages that ask teachers have in common: their versions, their costs, and what they do with a bad reply."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Cost, Dropped, Outcome
from avocet.curation.stage import Stage
from avocet.curation.teachers import Role, Teacher, TeacherError, TeacherTask, prompt_version, read_reply
from avocet.errors import RecordError
from avocet.judging.errors import ParseError
from avocet.records import ClipRef, Record

ShapeT = TypeVar("ShapeT", bound=Record)

_UNTOLD = ("name", "teachers")
"""Fields that are no settings: the name says where facts are filed, and teachers have versions of their own."""


class TeacherSource(Protocol):
    """Teachers by role: `avocet.curation.teachers.Teachers`, or what loads them in each process."""

    def __getitem__(self, role: Role, /) -> Teacher: ...

    def __contains__(self, role: object, /) -> bool: ...


class Unread(Exception):
    """No reply of a teacher could be read; the message says what was wrong with the last one."""


class Asking:
    """The questions about one clip, and what the answers cost when they were bought."""

    def __init__(self, teachers: TeacherSource) -> None:
        self._teachers = teachers
        self.cost = Cost()

    def text(self, role: Role, task: TeacherTask) -> str:
        """The answer. Raises what `Teacher.ask` raises."""
        answer = self._teachers[role].ask(task)
        self.cost += answer.bought
        return answer.text

    def record(
        self,
        role: Role,
        task: TeacherTask,
        shape: type[ShapeT],
        *,
        check: Callable[[ShapeT], None] | None = None,
        tries: int,
    ) -> ShapeT:
        """The answer in the form that its prompt asks for.

        `check` may raise `RecordError` for an answer that does not fit the clip. Up to `tries` independent answers
        are bought until one can be read. Raises `Unread`, and what `Teacher.ask` raises.
        """
        problem = ""
        for index in range(tries):
            text = self.text(role, dataclasses.replace(task, index=task.index + index))
            try:
                reply = read_reply(text, shape)
                if check is not None:
                    check(reply)
                return reply
            except (ParseError, RecordError) as error:
                problem = " ".join(str(error).split())
        raise Unread(f"{tries} unreadable replies; the last: {problem}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherStage(Stage):
    """A stage that asks teachers.

    Its version covers its settings, the versions of the teachers that it asks and of the prompts that it asks with.
    A clip's cost is that of all answers that led to its outcome, whenever they were bought, so that a run that was
    killed and continued states the same. When a question gets no answer, the stage fails, and the answers to the
    questions before it are counted once it succeeds; what no other try can change drops the clip, with their cost.
    """

    teachers: TeacherSource = dataclasses.field(repr=False, compare=False)
    asks: ClassVar[tuple[tuple[Role, str], ...]] = ()
    """Role and prompt of its questions."""

    @functools.cached_property
    def version(self) -> str:
        told: dict[str, Any] = {"stage": type(self).__name__, "revision": self.revision, "settings": self.settings()}
        told["teachers"] = [[role, self.teachers[role].name, self.teachers[role].version] for role, _ in self.questions]
        told["prompts"] = [[prompt, prompt_version(prompt)] for _, prompt in self.questions]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def questions(self) -> tuple[tuple[Role, str], ...]:
        """Role and prompt of what this stage asks."""
        return self.asks

    def settings(self) -> dict[str, Any]:
        """The fields that decide what the stage does, as JSON types."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in _UNTOLD]
        values = {name: getattr(self, name) for name in names}
        return {name: value.to_dict() if isinstance(value, Record) else value for name, value in values.items()}

    def process(self, clip: ManifestClip) -> Outcome:
        asking = Asking(self.teachers)
        try:
            return self.look(clip, asking)
        except TeacherError as error:
            outcome = error.outcome()
            # Dropping is final, so nobody else will count the answers before it.
            return (
                dataclasses.replace(outcome, cost=outcome.cost + asking.cost)
                if isinstance(outcome, Dropped)
                else outcome
            )

    def look(self, clip: ManifestClip, asking: Asking) -> Outcome:
        """What becomes of the clip, with `asking.cost`."""
        raise NotImplementedError


def facts_of(clip: ManifestClip, stage: str, reader: str) -> Mapping[str, Any]:
    """What `stage` found. Raises `RecordError` when it did not run: stages stand in the wrong order."""
    if stage not in clip.facts:
        raise RecordError(
            f"stage {reader}: clip {clip.id!r} has no facts of {stage!r}, only of "
            f"{', '.join(clip.facts) or 'no stage'}; run that stage before"
        )
    return clip.facts[stage]


def text_of(clip: ManifestClip, stage: str, reader: str) -> str:
    """The text that `stage` found: of a caption, or of its segments one after the other. Raises `RecordError`."""
    facts = facts_of(clip, stage, reader)
    if "segments" in facts:
        return "\n".join(str(segment["text"]) for segment in facts["segments"] if segment["text"])
    return str(facts["text"])


def media_ref(clip: ManifestClip, part: tuple[float, float] | None = None) -> ClipRef:
    """The clip, or a part of it (seconds on the file's timeline), as teachers take it."""
    if part is None:
        return ClipRef(id=clip.id, path=clip.path, start_seconds=clip.start_seconds, end_seconds=clip.end_seconds)
    return ClipRef(id=clip.piece(*part).id, path=clip.path, start_seconds=part[0], end_seconds=part[1])


def clip_seconds(clip: ManifestClip, reader: str) -> tuple[float, float]:
    """Start and end of the clip on the file's timeline. Raises `RecordError` when nobody measured it."""
    duration = clip.duration_seconds
    if duration is None:
        raise RecordError(f"stage {reader}: the length of clip {clip.id!r} is not known; run MeasureStage before")
    start = clip.start_seconds or 0.0
    return start, start + duration
