"""WorldSense: multiple-choice questions that need sound and picture together, answered from captions.

`worldsense_qa.json`: one object, video id -> {"video_duration": "60s", "duration": a range, "domain", "sub_category",
"audio_class": [...], "video_caption": reference caption, "task0": {"task_domain", "task_type", "question", "answer",
"candidates"}, "task1": ...}. (Format from public readers of the file, not from the file itself.) An item's id is the
video's, a question's is "ID/task0". The number of tasks differs from video to video.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import ClassVar

from avocet.errors import RecordError
from avocet.evaluation.benchmarks._reading import ChoiceFields, Entry, read_choice_question, read_entries
from avocet.evaluation.items import Benchmark, BenchmarkItem, InstructionSource, JudgeKind, check_unique

_FIELDS = ChoiceFields(text="question", choices="candidates", answer="answer", category="task_domain", type="task_type")
_TASK = re.compile(r"task(\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldSense(Benchmark):
    """Accuracy of questions answered from captions alone."""

    name: ClassVar[str] = "worldsense"
    measures: ClassVar[str] = "multiple-choice questions on videos whose sound matters, answered from captions"
    judge: ClassVar[JudgeKind] = "qa"
    uses_audio: ClassVar[bool] = True
    instruction_source: ClassVar[InstructionSource] = "style:full"
    file_names: ClassVar[tuple[str, ...]] = ("worldsense_qa.json",)
    num_published_items: ClassVar[int | None] = 1662

    def read(self, path: str | Path) -> list[BenchmarkItem]:
        """The items of `worldsense_qa.json`; see `Benchmark.read`."""
        videos = [(video_id, entry.inner(video_id)) for entry in read_entries(path) for video_id in entry.value]
        return check_unique([_item(video_id, entry) for video_id, entry in videos], path)


def _item(video_id: str, entry: Entry) -> BenchmarkItem:
    named = entry.optional_text("video_id")
    if named not in (None, video_id):
        raise RecordError(f"{entry.where}: field 'video_id' is {named!r}")
    # By number: "task10" follows "task9".
    tasks = sorted((name for name in entry.value if _TASK.fullmatch(name)), key=lambda name: int(name[4:]))
    if not tasks:
        raise RecordError(f"{entry.where} has no question; expected fields 'task0', 'task1', ...")
    return BenchmarkItem(
        id=video_id,
        video=video_id,
        reference=entry.optional_text("video_caption"),
        questions=tuple(read_choice_question(entry.inner(task), f"{video_id}/{task}", _FIELDS) for task in tasks),
        meta=entry.rest("video_id", "video_caption", *tasks),
    )
