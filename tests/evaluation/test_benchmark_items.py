"""Items, questions and timed events check themselves and survive a JSON line."""

from __future__ import annotations

from typing import Any

import pytest

from avocet.errors import ConfigError, RecordError
from avocet.evaluation.benchmarks import BENCHMARKS, load_benchmark
from avocet.evaluation.items import BenchmarkItem, Question, TimedEvent

QUESTION = {"id": "v/0", "text": "Who speaks?", "choices": ("A. Ann", "B. Bob"), "answer": "B"}
ITEM: dict[str, Any] = {"id": "v", "video": "v.mp4"}


def test_an_item_survives_a_json_line() -> None:
    item = BenchmarkItem(
        id="v#t=1,2.5",
        video="video/v.mp4",
        aliases=("v",),
        instruction="Describe.",
        reference="A dog barks.",
        events=(TimedEvent(text="A dog barks", start_seconds=1.0, end_seconds=1.0), "A cat"),
        questions=(Question(**QUESTION), Question(id="v/1", text="", answer="", defect="the file has no question")),
        start_seconds=1.0,
        end_seconds=2.5,
        meta={"subset": "youtube"},
    )
    assert BenchmarkItem.from_json(item.to_json_line()) == item
    assert item.event_texts == ("A dog barks", "A cat")
    assert item.names == ("video/v.mp4", "v")


@pytest.mark.parametrize(
    ("start", "end", "overlaps"),
    # The interval is [10, 20).
    [
        *[(0, 10, False), (0, 10.01, True), (12, 13, True), (19.99, 30, True), (20, 30, False), (0, 30, True)],
        # Moments: an event without extent lies in the interval like a point.
        *[(10, 10, True), (19, 19, True), (20, 20, False), (9.99, 9.99, False)],
    ],
)
def test_which_events_an_interval_has(start: float, end: float, overlaps: bool) -> None:
    assert TimedEvent(text="bang", start_seconds=start, end_seconds=end).overlaps(10, 20) is overlaps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TimedEvent(text=" ", start_seconds=0, end_seconds=1), "text must not be empty"),
        (lambda: TimedEvent(text="a", start_seconds=2, end_seconds=1), "0 <= start <= end, got 2 to 1"),
        (lambda: TimedEvent(text="a", start_seconds=-1, end_seconds=1), "0 <= start <= end, got -1 to 1"),
        (lambda: TimedEvent(text="a", start_seconds=0, end_seconds=float("nan")), "0 <= start <= end"),
        (lambda: Question(**QUESTION | {"id": ""}), "id must not be empty"),
        (lambda: Question(**QUESTION | {"text": " "}), "'v/0': text and answer must not be empty unless `defect`"),
        (lambda: Question(**QUESTION | {"answer": "C"}), "answer 'C' is none of A, B"),
        (lambda: BenchmarkItem(**ITEM | {"video": ""}), "id and video must not be empty, got 'v' and ''"),
        (lambda: BenchmarkItem(**ITEM | {"start_seconds": 1.0}), "an interval needs both its start and its end"),
        (
            lambda: BenchmarkItem(**ITEM | {"start_seconds": 2.0, "end_seconds": 2.0}),
            "0 <= start < end, got 2.0 to 2.0",
        ),
    ],
)
def test_what_records_refuse(make: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        make()


def test_every_benchmark_says_what_it_is() -> None:
    assert list(BENCHMARKS) == ["vs2", "vs2-local", "ugc", "daily-omni", "worldsense", "vdc", "dream1k", "videomme"]
    facts = {
        name: (one.judge, one.uses_audio, one.instruction_source, one.num_published_items)
        for name, one in ((name, load_benchmark(name)) for name in BENCHMARKS)
        if one.name == name and one.measures
    }
    assert facts == {
        "vs2": ("events", True, "item", 483),
        "vs2-local": ("events", True, "item", None),
        "ugc": ("ugc", True, "item", 999),
        "daily-omni": ("qa", True, "style:full", 684),
        "worldsense": ("qa", True, "style:full", 1662),
        "vdc": ("vdc", False, "style:visual", 1027),
        "dream1k": ("dream", False, "item", 1000),
        "videomme": ("videomme", True, "item", 900),
    }


def test_an_unknown_benchmark() -> None:
    with pytest.raises(ConfigError, match=r"unknown benchmark 'vs3'; .* are vs2, vs2-local, ugc, daily-omni"):
        load_benchmark("vs3")
