"""Captions of intervals, scored against the events that happen in them (video-SALMONN 2, "local").

Neither the timed events nor the intervals of the paper were released, so the file format is Avocet's own: a JSON list,
or one line each, of

    {"video": "video/0.mp4",
     "events": [{"event": "Man pours water", "start_seconds": 1.5, "end_seconds": 4.0}, ...],
     "intervals": [[0, 10], [20, 30.5]],
     "duration_seconds": 51.2}

Times are seconds of the video; an event without extent has its end equal to its start. `intervals` may be missing:
then the video, whose `duration_seconds` is needed, is cut into intervals of equal length of about ten seconds.

Each interval is one item with the id `video/0.mp4#t=0,10`. Its events are those that overlap the half-open interval,
as in the paper; an interval without events stays an item, for its reader to count. The paper shows the model the
whole video and names the interval, and so does the instruction here; a file may bring its own ("instruction").
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import ClassVar

from avocet.errors import ConfigError, RecordError
from avocet.evaluation.benchmarks._reading import Entry, read_entries
from avocet.evaluation.items import Benchmark, BenchmarkItem, InstructionSource, JudgeKind, TimedEvent, check_unique

_KNOWN = ("video", "events", "intervals", "duration_seconds", "instruction")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vs2Local(Benchmark):
    """Missed, incorrect and hallucinated events in captions of intervals."""

    name: ClassVar[str] = "vs2-local"
    measures: ClassVar[str] = "missed, incorrect and hallucinated atomic events in captions of intervals of videos"
    judge: ClassVar[JudgeKind] = "events"
    uses_audio: ClassVar[bool] = True
    instruction_source: ClassVar[InstructionSource] = "item"
    file_names: ClassVar[tuple[str, ...]] = ("video_salmonn2_local.json",)
    num_published_items: ClassVar[int | None] = None

    window_seconds: float = 10.0
    """Length aimed at where the file names no intervals."""

    def __post_init__(self) -> None:
        if not 0 < self.window_seconds < float("inf"):
            raise ConfigError(f"window_seconds must be > 0, got {self.window_seconds}")

    def read(self, path: str | Path) -> list[BenchmarkItem]:
        """One item per interval, videos and intervals in the order of the file; see `Benchmark.read`."""
        return check_unique([item for entry in read_entries(path) for item in self._items(entry)], path)

    def _items(self, entry: Entry) -> list[BenchmarkItem]:
        video = entry.text("video")
        events = [_read_event(part) for part in entry.entries("events")]
        instruction = entry.optional_text("instruction")
        return [
            BenchmarkItem(
                id=f"{video}#t={start:g},{end:g}",
                video=video,
                instruction=instruction or interval_instruction(start, end),
                events=tuple(event for event in events if event.overlaps(start, end)),
                start_seconds=start,
                end_seconds=end,
                meta=entry.rest(*_KNOWN),
            )
            for start, end in self._intervals(entry)
        ]

    def _intervals(self, entry: Entry) -> list[tuple[float, float]]:
        if entry.value.get("intervals") is not None:
            return _read_intervals(entry)
        duration = entry.number("duration_seconds")
        if duration <= 0:
            raise entry.wrong("duration_seconds", "a number > 0")
        count = max(1, round(duration / self.window_seconds))
        edges = [round(duration * index / count, 3) for index in range(count + 1)]
        return list(itertools.pairwise(edges))


def interval_instruction(start_seconds: float, end_seconds: float) -> str:
    """What is asked about an interval of a video that the model sees as a whole."""
    return (
        f"Describe in full detail what is seen and heard between second {start_seconds:g} and second {end_seconds:g} "
        "of this video, including all speech and other sounds, and nothing from before or after."
    )


def _read_intervals(entry: Entry) -> list[tuple[float, float]]:
    expected = "a list of [start, end] in seconds with 0 <= start < end"
    intervals = []
    for pair in entry.get("intervals", list, expected):
        if not isinstance(pair, list) or len(pair) != 2:
            raise entry.wrong("intervals", expected)
        numbers = Entry(where=f"{entry.where}, 'intervals'", value={"start": pair[0], "end": pair[1]})
        start, end = numbers.number("start"), numbers.number("end")
        if not 0 <= start < end:
            raise entry.wrong("intervals", expected)
        intervals.append((start, end))
    if not intervals:
        raise entry.wrong("intervals", f"{expected}, at least one")
    return intervals


def _read_event(entry: Entry) -> TimedEvent:
    text, start, end = entry.text("event"), entry.number("start_seconds"), entry.number("end_seconds")
    try:
        return TimedEvent(text=text, start_seconds=start, end_seconds=end)
    except RecordError as error:
        raise RecordError(f"{entry.where}: {error}") from error
