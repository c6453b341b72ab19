"""Daily-Omni: multiple-choice questions about sound and picture of daily-life videos, answered from captions.

`grouped_data.json`, as released with AVoCaDO: a list of

    {"video_id": "...", "video_duration": "30s" or "60s", "video_category": "...",
     "questions": [{"Question": "...", "Choice": ["A. ...", ...], "Answer": "A", "Type": "..."}, ...]}

The benchmark's own `qa.json`, a flat list of such questions that name their `video_id`, is read too; its questions are
grouped by video, and what all questions of a video agree on is the video's `meta`. An item's id is its `video_id`,
a question's id the place in the video's questions: "ID/0", "ID/1", ... The videos are called `ID_video.mp4`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from avocet.evaluation.benchmarks._reading import ChoiceFields, Entry, read_choice_question, read_entries
from avocet.evaluation.items import Benchmark, BenchmarkItem, InstructionSource, JudgeKind, check_unique

_FIELDS = ChoiceFields(text="Question", choices="Choice", answer="Answer", type="Type")
_QUESTION = ("Question", "Choice", "Answer", "Type")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DailyOmni(Benchmark):
    """Accuracy of questions answered from captions alone."""

    name: ClassVar[str] = "daily-omni"
    measures: ClassVar[str] = "multiple-choice questions on daily-life videos with sound, answered from captions"
    judge: ClassVar[JudgeKind] = "qa"
    uses_audio: ClassVar[bool] = True
    instruction_source: ClassVar[InstructionSource] = "style:full"
    file_names: ClassVar[tuple[str, ...]] = ("grouped_data.json", "daily_omni_grouped_data.json", "qa.json")
    num_published_items: ClassVar[int | None] = 684

    def read(self, path: str | Path) -> list[BenchmarkItem]:
        """The items of `grouped_data.json` or `qa.json`; see `Benchmark.read`."""
        entries = read_entries(path)
        if entries and "questions" not in entries[0].value and "Question" in entries[0].value:
            return check_unique(_flat_items(entries), path)
        items = [
            _item(entry.text("video_id"), entry.entries("questions"), entry.rest("video_id", "questions"))
            for entry in entries
        ]
        return check_unique(items, path)


def _flat_items(entries: Sequence[Entry]) -> list[BenchmarkItem]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.text("video_id"), []).append(entry)
    return [_item(video_id, group, _agreed(group)) for video_id, group in groups.items()]


def _agreed(group: Sequence[Entry]) -> dict[str, Any]:
    common = group[0].rest("video_id", *_QUESTION)
    return {name: value for name, value in common.items() if all(one.value.get(name) == value for one in group)}


def _item(video_id: str, questions: Sequence[Entry], meta: dict[str, Any]) -> BenchmarkItem:
    return BenchmarkItem(
        id=video_id,
        video=video_id,
        aliases=(f"{video_id}_video",),
        questions=tuple(
            read_choice_question(entry, f"{video_id}/{number}", _FIELDS) for number, entry in enumerate(questions)
        ),
        meta=meta,
    )
