"""The prompts of the teachers, and the forms of the replies that are more than prose."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, TypeVar

from avocet.curation.teachers.roles import TeacherTask
from avocet.errors import RecordError
from avocet.judging.errors import PromptError
from avocet.judging.messages import ReplySchema
from avocet.judging.parsing import last_record, schema_of
from avocet.judging.prompts import Prompt, RenderedPrompt, Untrusted
from avocet.records import Record

Dimension = Literal[
    "cross_modal_logic",
    "action_and_interaction",
    "auditory_elements",
    "space_time_and_camera",
    "static_entities",
]
"""The five dimensions of AVoCaDO's checklists (section 3.2.2)."""

NUMBER_FIELDS = frozenset({"num_questions", "start_seconds", "end_seconds"})
"""Fields that are numbers and stand in the prompt as such; all others are quoted."""

MEDIA_OPTIONAL = frozenset({"fuse_avocado"})
"""Prompts that may be asked with the clip or without it."""

MEDIA_NOTE = "media_note"
"""The variable in which a prompt is told what is sent with it; filled in by the teacher."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventsReply(Record):
    """Atomic events (appendix E), in the order of the caption."""

    reasoning: str
    events: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_texts("events", self.events)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventInterval(Record):
    """When an event happens, in seconds from the start of what was sent; both None when that could not be told."""

    number: int
    start_seconds: float | None
    end_seconds: float | None

    def __post_init__(self) -> None:
        start, end = self.start_seconds, self.end_seconds
        if (start is None) != (end is None):
            raise RecordError(f"event {self.number}: either both times are given or none")
        if start is not None and end is not None and not 0 <= start <= end < math.inf:
            raise RecordError(f"event {self.number}: needs 0 <= start <= end, got {start} and {end}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntervalsReply(Record):
    """One interval for each of the numbered events (appendix A)."""

    reasoning: str
    events: tuple[EventInterval, ...]

    def __post_init__(self) -> None:
        numbers = [event.number for event in self.events]
        if sorted(numbers) != list(range(1, len(numbers) + 1)):
            raise RecordError(f"events must have the numbers 1 to {len(numbers)}, each once, got {numbers}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keypoint(Record):
    """One thing that a good caption mentions."""

    dimension: Dimension
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChecklistReply(Record):
    """Keypoints that do not overlap."""

    reasoning: str
    keypoints: tuple[Keypoint, ...]

    def __post_init__(self) -> None:
        _check_texts("keypoints", tuple(keypoint.text for keypoint in self.keypoints))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpokenLine(Record):
    """Who says what."""

    speaker: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueReply(Record):
    """The utterances in their order; none where nobody speaks."""

    reasoning: str
    utterances: tuple[SpokenLine, ...]

    def __post_init__(self) -> None:
        if not all(line.speaker.strip() and line.text.strip() for line in self.utterances):
            raise RecordError("every utterance needs a speaker and a text")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionAnswer(Record):
    """A question that the caption answers."""

    question: str
    answer: str
    evidence: str
    """Words of the caption that contain the answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QaReply(Record):
    """Questions and answers; fewer than asked for where the caption yields no more."""

    reasoning: str
    pairs: tuple[QuestionAnswer, ...]

    def __post_init__(self) -> None:
        _check_texts("questions", tuple(pair.question for pair in self.pairs))
        if not all(pair.answer.strip() for pair in self.pairs):
            raise RecordError("every question needs an answer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contradiction(Record):
    """Two statements that cannot both be true of one video."""

    visual: str
    """What the visual caption says."""
    audio: str
    """What the audio caption says."""
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContradictionReply(Record):
    """What two captions of one video disagree about."""

    reasoning: str
    contradictions: tuple[Contradiction, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundName(Record):
    """A sound that the caption names."""

    name: str
    heard: bool
    """Whether the audio caption tells of it too."""
    evidence: str
    """Words of the audio caption; empty if it is not heard."""

    def __post_init__(self) -> None:
        if self.heard != bool(self.evidence.strip()):
            raise RecordError(f"sound {self.name!r}: evidence is given if and only if it is heard")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundNamesReply(Record):
    """The sounds that a caption names, checked against an audio-only caption."""

    reasoning: str
    sounds: tuple[SoundName, ...]


SHAPES: Mapping[str, type[Record]] = MappingProxyType(
    {
        "events": EventsReply,
        "local_intervals": IntervalsReply,
        "checklist": ChecklistReply,
        "dialogue": DialogueReply,
        "qa": QaReply,
        "contradiction": ContradictionReply,
        "sound_names": SoundNamesReply,
    }
)
"""Prompt -> the form of its reply; prompts that are not here ask for prose."""

ShapeT = TypeVar("ShapeT", bound=Record)


def read_reply(text: str, shape: type[ShapeT]) -> ShapeT:
    """The last JSON object of an answer as the given form, such as `EventsReply`.

    Raises `ParseError` (of `avocet.judging.errors`) saying what is wrong with it.
    """
    return last_record(text, shape)


def reply_schema(prompt: str) -> ReplySchema | None:
    """What servers that can enforce it hold the reply to."""
    shape = SHAPES.get(prompt)
    return None if shape is None else schema_of(shape)  # type: ignore[arg-type]  # classes are hashable


def prompt_version(name: str) -> str:
    """Changes with the wording. Raises `PromptError` naming the prompts that there are."""
    return load_teacher_prompt(name).version


def prompt_fields(name: str) -> frozenset[str]:
    """What a task has to fill in."""
    return load_teacher_prompt(name).variables - {MEDIA_NOTE}


@functools.cache
def load_teacher_prompt(name: str) -> Prompt:
    """The prompt `prompts/NAME.txt` of this package. Raises `PromptError` naming those that there are."""
    folder = importlib.resources.files("avocet.curation.teachers") / "prompts"
    names = sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt"))
    if name not in names:
        raise PromptError(f"there is no teacher's prompt {name!r}; there are {', '.join(names)}")
    return Prompt.from_text(name, (folder / f"{name}.txt").read_text(encoding="utf-8"))


def render_prompt(name: str, fields: Mapping[str, str], media_note: str = "") -> RenderedPrompt:
    """The messages of a question: numbers as they are, every other field quoted and neutralised.

    Raises `PromptError` for missing and superfluous fields and for numbers that are none.
    """
    prompt = load_teacher_prompt(name)
    values: dict[str, str | Untrusted] = {
        key: _number(name, key, value) if key in NUMBER_FIELDS else Untrusted(text=value)
        for key, value in fields.items()
    }
    if MEDIA_NOTE in prompt.variables:
        values[MEDIA_NOTE] = media_note
    return prompt.render(**values)


def check_task(task: TeacherTask) -> None:
    """Raises `ConfigError` for a prompt that there is not, and for fields and media that are not what it takes."""
    prompt = load_teacher_prompt(task.prompt)
    needed = prompt.variables - {MEDIA_NOTE}
    if set(task.fields) != needed:
        raise PromptError(f"prompt {task.prompt!r} takes the fields {_listed(needed)}, got {_listed(task.fields)}")
    wants_media = MEDIA_NOTE in prompt.variables
    if wants_media != (task.media != "none") and task.prompt not in MEDIA_OPTIONAL:
        wants = "needs a clip" if wants_media else "goes without a clip"
        raise PromptError(f"prompt {task.prompt!r} {wants}, got media {task.media!r}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "(none)"


def _number(prompt: str, field: str, value: str) -> str:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise PromptError(f"prompt {prompt!r}: {field} must be a number, got {value[:40]!r}")
    return f"{number:g}"


def _check_texts(what: str, texts: tuple[str, ...]) -> None:
    if not all(text.strip() for text in texts):
        raise RecordError(f"{what} must not be empty")
    if len({" ".join(text.casefold().split()) for text in texts}) < len(texts):
        raise RecordError(f"{what} must differ from each other")
