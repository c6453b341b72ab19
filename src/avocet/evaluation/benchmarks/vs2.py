"""The video-SALMONN 2 test set: detailed captions of 483 videos, scored against 16,541 atomic events.

`video_salmonn2_test.json`, as released with AVoCaDO: a list of

    {"video": "video/0.mp4",
     "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value": reference caption}],
     "events": ["...", ...]}

An item's id is its `video`. Events stay as they are, also those that one video has several times (the published
denominators count them); only outer white space goes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from avocet.errors import RecordError
from avocet.evaluation.benchmarks._reading import first_turn, read_entries, read_instruction
from avocet.evaluation.items import Benchmark, BenchmarkItem, InstructionSource, JudgeKind, check_unique


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vs2(Benchmark):
    """Missed, incorrect and hallucinated events in captions of whole videos."""

    name: ClassVar[str] = "vs2"
    measures: ClassVar[str] = "missed, incorrect and hallucinated atomic events in audiovisual captions"
    judge: ClassVar[JudgeKind] = "events"
    uses_audio: ClassVar[bool] = True
    instruction_source: ClassVar[InstructionSource] = "item"
    file_names: ClassVar[tuple[str, ...]] = ("video_salmonn2_test.json",)
    num_published_items: ClassVar[int | None] = 483

    def read(self, path: str | Path) -> list[BenchmarkItem]:
        """The items of `video_salmonn2_test.json`; see `Benchmark.read`. Every item has at least one event."""
        items = []
        for entry in read_entries(path):
            video, instruction = read_instruction(entry)
            events = entry.texts("events")
            if not events:
                raise RecordError(f"{entry.where}: field 'events' is empty; a caption cannot be scored without events")
            items.append(
                BenchmarkItem(
                    id=video,
                    video=video,
                    instruction=instruction,
                    reference=first_turn(entry, "conversations", "from", "gpt").text("value"),
                    events=events,
                    meta=entry.rest("video", "conversations", "events"),
                )
            )
        return check_unique(items, path)
