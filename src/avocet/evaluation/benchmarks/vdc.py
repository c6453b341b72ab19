"""VDC, detailed subset: short questions about 1,027 videos, answered from captions and compared with short answers.

`detailed.jsonl`, from AuroraCap: one line per video, {video id: [{"question", "answer", "category"}, ...]}. An item's
id is the video's, a question's the place in the list: "ID/0". The file was made by a language model and has scars:

- one question is empty: it stays, with a `defect`, and counts as unscored;
- the 1,367 spellings of its categories (as in "object'", "Category: Object", "'object") are reduced to 958 in lower
  case without quotation marks and leading "category:" or "group:"; an empty category is None;
- questions and answers stay as they are, also where a closing quotation mark was left behind.

There are no reference captions: the published score does not use them.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import ClassVar

from avocet.evaluation.benchmarks._reading import Entry, read_entries
from avocet.evaluation.items import Benchmark, BenchmarkItem, InstructionSource, JudgeKind, Question, check_unique

_HEADING = re.compile(r"^(category|group)\s*:\s*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vdc(Benchmark):
    """Accuracy and score of short answers given from captions."""

    name: ClassVar[str] = "vdc"
    measures: ClassVar[str] = "short questions on the picture, answered from captions and compared with the truth"
    judge: ClassVar[JudgeKind] = "vdc"
    uses_audio: ClassVar[bool] = False
    instruction_source: ClassVar[InstructionSource] = "style:visual"
    file_names: ClassVar[tuple[str, ...]] = ("detailed.jsonl", "vdc_detailed.jsonl")
    num_published_items: ClassVar[int | None] = 1027

    def read(self, path: str | Path) -> list[BenchmarkItem]:
        """The items of `detailed.jsonl`; see `Benchmark.read`."""
        items = [
            BenchmarkItem(
                id=video_id,
                video=video_id,
                questions=tuple(
                    _question(part, f"{video_id}/{number}") for number, part in enumerate(entry.entries(video_id))
                ),
            )
            for entry in read_entries(path)
            for video_id in entry.value
        ]
        return check_unique(items, path)


def clean_category(text: str) -> str | None:
    """A category without the debris of its generation; None where nothing is left."""
    quotes = " \t'\"."
    return _HEADING.sub("", text.strip(quotes).casefold()).strip(quotes) or None


def _question(entry: Entry, question_id: str) -> Question:
    text, answer = entry.string("question"), entry.string("answer")
    missing = [name for name, value in (("question", text), ("answer", answer)) if not value]
    return Question(
        id=question_id,
        text=text,
        answer=answer,
        category=clean_category(entry.optional_text("category") or ""),
        defect=f"the file has no {' and no '.join(missing)}" if missing else None,
    )
