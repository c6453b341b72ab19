"""DREAM-1K: short captions of 1,000 video clips, compared with reference events in both directions (AutoDQ).

`dream_example.jsonl`, one line per clip:

    {"messages": [{"role": "user", "content": [{"type": "video", "video": {"video_file": "135.mp4"}},
                                               {"type": "text", "text": instruction}]},
                  {"role": "assistant", "content": [{"type": "text", "reference": "...", "text": "..."}]}],
     "dataset": "DREAM/movie_animation", "vid": 135,
     "extra_info": {"events": ["...", ...], "n_events", "n_subjects", "n_shots", "duration"}}

An item's id is its `vid`; `meta["subset"]` is the part of the data set, over whose five parts the published score
averages. The assistant's `text` is some model's caption (already filled in, in the released file) and no truth: it is
not read here, but `avocet.evaluation.captions` reads it. Clips without reference events stay items with no events.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from avocet.errors import RecordError
from avocet.evaluation.benchmarks._reading import Entry, first_turn, read_entries, read_instruction
from avocet.evaluation.items import Benchmark, BenchmarkItem, InstructionSource, JudgeKind, check_unique


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dream1k(Benchmark):
    """F1 of entailed events, caption against reference and reference against caption."""

    name: ClassVar[str] = "dream1k"
    measures: ClassVar[str] = "precision and recall of the actions that captions tell"
    judge: ClassVar[JudgeKind] = "dream"
    uses_audio: ClassVar[bool] = False
    instruction_source: ClassVar[InstructionSource] = "item"
    file_names: ClassVar[tuple[str, ...]] = ("dream_example.jsonl", "dream_1k_example.jsonl")
    num_published_items: ClassVar[int | None] = 1000

    def read(self, path: str | Path) -> list[BenchmarkItem]:
        """The items of `dream_example.jsonl`; see `Benchmark.read`."""
        return check_unique([_item(entry) for entry in read_entries(path)], path)


def _item(entry: Entry) -> BenchmarkItem:
    video, instruction = read_instruction(entry)
    answer = first_turn(first_turn(entry, "messages", "role", "assistant"), "content", "type", "text")
    facts = entry.inner("extra_info")
    events = facts.texts("events")
    if "n_events" in facts.value and facts.number("n_events") != len(events):
        raise RecordError(f"{facts.where}: 'n_events' is {facts.value['n_events']}, but there are {len(events)} events")
    dataset, number = entry.text("dataset"), entry.get("vid", (int, str), "a number or a text")
    meta = {"subset": dataset.rsplit("/", 1)[-1], "dataset": dataset}
    return BenchmarkItem(
        id=str(number),
        video=video,
        instruction=instruction,
        reference=answer.text("reference"),
        events=events,
        meta=meta | entry.rest("messages", "dataset", "extra_info", "vid") | facts.rest("events", "n_events"),
    )
