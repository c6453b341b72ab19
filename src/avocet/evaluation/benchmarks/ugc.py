"""UGC-VideoCap: captions of about a thousand short clips, graded for what is seen, what is heard, and details.

`final_caption_qa.json`: {"question": one instruction for all, "valid_count": number of samples,
"samples": [{"video_id": "PI-...", "path": a path on its makers' machine, "answer": reference caption}, ...]}. An item's
id is its `video_id`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from avocet.errors import RecordError
from avocet.evaluation.benchmarks._reading import read_object
from avocet.evaluation.items import Benchmark, BenchmarkItem, InstructionSource, JudgeKind, check_unique


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ugc(Benchmark):
    """Visual, audio and detail grades of captions against a reference."""

    name: ClassVar[str] = "ugc"
    measures: ClassVar[str] = "visual, audio and detail grades (1-5) of captions against a reference caption"
    judge: ClassVar[JudgeKind] = "ugc"
    uses_audio: ClassVar[bool] = True
    instruction_source: ClassVar[InstructionSource] = "item"
    file_names: ClassVar[tuple[str, ...]] = ("final_caption_qa.json", "ugc_videocap_final_caption_qa.json")
    num_published_items: ClassVar[int | None] = 999

    def read(self, path: str | Path) -> list[BenchmarkItem]:
        """The items of `final_caption_qa.json`; see `Benchmark.read`."""
        file = read_object(path)
        instruction, samples = file.text("question"), file.entries("samples")
        if "valid_count" in file.value and file.number("valid_count") != len(samples):
            raise RecordError(
                f"{path}: 'valid_count' is {file.value['valid_count']}, but there are {len(samples)} samples"
            )
        items = []
        for sample in samples:
            video_id = sample.text("video_id")
            items.append(
                BenchmarkItem(
                    id=video_id,
                    video=sample.optional_text("path") or video_id,
                    aliases=(video_id,),
                    instruction=instruction,
                    reference=sample.text("answer"),
                    meta=sample.rest("video_id", "path", "answer"),
                )
            )
        return check_unique(items, path)
