"""What a benchmark asks about its videos: items, questions, timed events, and the adapter of one annotation file.

An item is one thing to caption (or, for direct question answering, one thing to ask) with the truth that its judge
needs. Items say nothing about where the videos are on this machine: `Benchmark.find_video` looks for them.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from avocet.errors import RecordError
from avocet.evaluation.benchmarks._names import VideoFolder
from avocet.records import Record

JudgeKind = Literal["events", "qa", "ugc", "vdc", "dream", "videomme"]
"""What scores a benchmark: event lists, caption -> multiple choice, the three-dimension rubric, caption -> short
answers, entailment both ways, or the letters a model itself gives."""

InstructionSource = Literal["item", "style:full", "style:visual"]
"""Where an item's instruction comes from by default: the item, or a style of `avocet.captioning`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimedEvent(Record):
    """An atomic event and when it happens, in seconds of its video; a moment has its end equal to its start."""

    text: str
    start_seconds: float
    end_seconds: float

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise RecordError("TimedEvent: text must not be empty")
        if not 0 <= self.start_seconds <= self.end_seconds < float("inf"):
            raise RecordError(
                f"TimedEvent {self.text!r:.60}: times must be 0 <= start <= end, got "
                f"{self.start_seconds} to {self.end_seconds}"
            )

    def overlaps(self, start_seconds: float, end_seconds: float) -> bool:
        """Whether any of it lies in the half-open interval [start_seconds, end_seconds)."""
        return self.start_seconds < end_seconds and (
            self.end_seconds > start_seconds or self.start_seconds >= start_seconds
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question(Record):
    """One question about a video, with its answer."""

    id: str
    """Unique in its benchmark file."""
    text: str
    choices: tuple[str, ...] = ()
    """Options as the judge should see them, each beginning with its letter ("A. ..."); none for open questions."""
    answer: str
    """The letter of the right choice, or the reference answer of an open question."""
    category: str | None = None
    type: str | None = None
    defect: str | None = None
    """Why the file's question cannot be scored (no text, an answer that is no choice): it counts as unscored."""

    def __post_init__(self) -> None:
        if not self.id:
            raise RecordError("Question: id must not be empty")
        if self.defect is None and not (self.text.strip() and self.answer.strip()):
            raise RecordError(f"Question {self.id!r}: text and answer must not be empty unless `defect` says why")
        if self.defect is None and self.choices and self.answer not in self.letters:
            raise RecordError(f"Question {self.id!r}: answer {self.answer!r} is none of {', '.join(self.letters)}")

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the choices: A, B, ..."""
        return tuple(choice.lstrip("(")[:1] for choice in self.choices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkItem(Record):
    """One video (or interval of it, or question about it) of a benchmark, with its truth."""

    id: str
    """Unique in its benchmark and the same on each reading; each adapter says what it is made of."""
    video: str
    """As the annotation file names it: a relative or foreign path, a file name or an id."""
    aliases: tuple[str, ...] = ()
    """Other names that its video file, or captions of it, may have."""
    instruction: str | None = None
    """What the benchmark itself asks about this item."""
    reference: str | None = None
    """A caption by people (or by the benchmark's makers)."""
    events: tuple[TimedEvent | str, ...] = ()
    questions: tuple[Question, ...] = ()
    start_seconds: float | None = None
    """The interval of the video that the item is about; both None for the whole video."""
    end_seconds: float | None = None
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What else the file says."""

    def __post_init__(self) -> None:
        if not self.id or not self.video:
            raise RecordError(f"BenchmarkItem: id and video must not be empty, got {self.id!r} and {self.video!r}")
        if (self.start_seconds is None) != (self.end_seconds is None):
            raise RecordError(f"BenchmarkItem {self.id!r}: an interval needs both its start and its end")
        start, end = self.start_seconds, self.end_seconds
        if start is not None and end is not None and not 0 <= start < end < float("inf"):
            raise RecordError(f"BenchmarkItem {self.id!r}: the interval must be 0 <= start < end, got {start} to {end}")

    @property
    def names(self) -> tuple[str, ...]:
        """All names of its video, the file's own first."""
        return (self.video, *self.aliases)

    @property
    def event_texts(self) -> tuple[str, ...]:
        """The events without their times."""
        return tuple(event if isinstance(event, str) else event.text for event in self.events)


class Benchmark(abc.ABC):
    """The adapter of one benchmark: reads its annotation file, says how it is scored, finds its videos."""

    name: ClassVar[str]
    """As typed after `avocet evaluate`."""
    measures: ClassVar[str]
    """One line for people."""
    judge: ClassVar[JudgeKind]
    uses_audio: ClassVar[bool]
    """Whether the published scores were made with sound."""
    instruction_source: ClassVar[InstructionSource]
    file_names: ClassVar[tuple[str, ...]]
    """What its annotation file is called where it is released, and other names that it goes by."""
    num_published_items: ClassVar[int | None]
    """How many items the published file has, to tell a partial copy; None where none is published."""

    @abc.abstractmethod
    def read(self, path: str | Path) -> list[BenchmarkItem]:
        """The items of an annotation file, in its order, with unique ids.

        Raises `ConfigError` when the file cannot be read, `RecordError` naming the file, the place in it and the field
        when it is malformed. Questions that cannot be scored are no error: they carry a `defect`.
        """

    def find_video(self, item: BenchmarkItem, videos_dir: str | Path | VideoFolder) -> Path | None:
        """The video file of `item` inside a folder, searched recursively; None when there is none.

        Pass a `VideoFolder` to look for many items: it lists the folder once. The longest common end of the paths
        decides, endings (.mp4, .mkv) may differ. Raises `ConfigError` when several files fit equally well, or the
        folder does not exist.
        """
        folder = videos_dir if isinstance(videos_dir, VideoFolder) else VideoFolder(videos_dir)
        return folder.find(item.names)


def check_unique(items: Sequence[BenchmarkItem], path: str | Path) -> list[BenchmarkItem]:
    """`items` as a list. Raises `RecordError` for an empty file and for ids of items or questions that occur twice."""
    if not items:
        raise RecordError(f"{path}: the file holds no items")
    _refuse_repeats((item.id for item in items), "items", path)
    _refuse_repeats((question.id for item in items for question in item.questions), "questions", path)
    return list(items)


def _refuse_repeats(ids: Iterable[str], what: str, path: str | Path) -> None:
    seen: set[str] = set()
    repeated = sorted({each for each in ids if each in seen or seen.add(each)})  # type: ignore[func-returns-value]
    if repeated:
        some = ", ".join(map(repr, repeated[:3])) + (", ..." if len(repeated) > 3 else "")
        raise RecordError(f"{path}: {len(repeated)} {what} occur more than once: {some}; ids must be unique")
