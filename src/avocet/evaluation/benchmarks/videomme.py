"""Video-MME: multiple-choice questions that the model itself answers, on the short videos by default.

Read are the published table (`test-00000-of-00001.parquet`, or the same rows as JSON or JSONL), one row per question:

    {"video_id": "001", "duration": "short", "domain", "sub_category", "url", "videoID": name of the video file,
     "question_id": "001-1", "task_type", "question", "options": ["A. ...", ...], "answer": "C"}

and the grouped form {"video_id", "duration", ..., "questions": [{"question_id", "task_type", "question", "options",
"answer"}]}. (Formats from public readers of the files, not from the files themselves.)

Each question is an item of its own, since the model is asked each: the item's and the question's id are `question_id`,
the instruction is the question with its options. video-SALMONN 2 reports the short videos (under two minutes) only.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from avocet.errors import ConfigError, MissingExtraError, RecordError
from avocet.evaluation.benchmarks._reading import ChoiceFields, Entry, read_choice_question, read_entries
from avocet.evaluation.items import Benchmark, BenchmarkItem, InstructionSource, JudgeKind, Question, check_unique

DURATIONS = ("short", "medium", "long")
_FIELDS = ChoiceFields(text="question", choices="options", answer="answer", category="domain", type="task_type")
_QUESTION = ("question_id", "question", "options", "answer", "task_type")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoMme(Benchmark):
    """Accuracy of the letters that a model answers with."""

    name: ClassVar[str] = "videomme"
    measures: ClassVar[str] = "multiple-choice questions that the model answers directly (short videos)"
    judge: ClassVar[JudgeKind] = "videomme"
    uses_audio: ClassVar[bool] = True
    instruction_source: ClassVar[InstructionSource] = "item"
    file_names: ClassVar[tuple[str, ...]] = ("test-00000-of-00001.parquet", "videomme.json")
    num_published_items: ClassVar[int | None] = 900

    durations: tuple[str, ...] = ("short",)
    """Which videos: "short", "medium", "long"; each has 900 questions."""

    def __post_init__(self) -> None:
        if not self.durations or not set(self.durations) <= set(DURATIONS):
            raise ConfigError(f"durations must be among {', '.join(DURATIONS)}, got {self.durations}")

    def read(self, path: str | Path) -> list[BenchmarkItem]:
        """One item per question on videos of `durations`; see `Benchmark.read`."""
        entries = _read_parquet(path) if Path(path).suffix.lower() == ".parquet" else read_entries(path)
        rows = [row for entry in entries for row in _rows(entry)]
        kept = [row for row in rows if _duration(row) in self.durations]
        if rows and not kept:
            raise RecordError(f"{path} has {len(rows)} questions, but none on {' or '.join(self.durations)} videos")
        return check_unique([_item(row) for row in kept], path)


def _rows(entry: Entry) -> list[Entry]:
    """The rows of one entry: itself, or its questions with what it says about their video."""
    if "questions" not in entry.value:
        return [entry]
    common = entry.rest("questions")
    return [Entry(where=part.where, value={**common, **part.value}) for part in entry.entries("questions")]


def _duration(row: Entry) -> str:
    duration = row.text("duration")
    if duration not in DURATIONS:
        raise row.wrong("duration", f"one of {', '.join(DURATIONS)}")
    return duration


def _item(row: Entry) -> BenchmarkItem:
    question = read_choice_question(row, row.text("question_id"), _FIELDS)
    number, name = row.text("video_id"), row.optional_text("videoID")
    return BenchmarkItem(
        id=question.id,
        video=name or number,
        aliases=(number,) if name else (),
        instruction=direct_question(question) if question.defect is None else None,
        questions=(question,),
        meta=row.rest("videoID", *_QUESTION),
    )


def direct_question(question: Question) -> str:
    """What the model is asked: the question, its options, and to answer with a letter."""
    letters = question.letters
    allowed = f"{', '.join(letters[:-1])} or {letters[-1]}"
    return "\n".join([question.text, *question.choices, f"Answer with one letter only: {allowed}."])


def _read_parquet(path: str | Path) -> list[Entry]:
    try:
        # Not an import statement: only this one of all benchmark files needs the library.
        parquet: Any = importlib.import_module("pyarrow.parquet")
        errors: tuple[type[Exception], ...] = (OSError, importlib.import_module("pyarrow").ArrowException)
    except ImportError as error:
        raise MissingExtraError("reading .parquet files", "train") from error
    try:
        rows: Sequence[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except errors as error:
        raise ConfigError(f"{path} cannot be read as parquet: {error}") from error
    return [Entry(where=f"{path}: row {number}", value=row) for number, row in enumerate(rows, start=1)]
