"""The released annotation files as they are: counts, contents, and their known defects."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from avocet.captioning.instructions import InstructionFile
from avocet.evaluation.benchmarks import load_benchmark
from avocet.evaluation.captions import match, read_captions
from avocet.evaluation.items import BenchmarkItem
from avocet.records import ClipRef

FILES = {
    "vs2": "video_salmonn2_test.json",
    "ugc": "ugc_videocap_final_caption_qa.json",
    "daily-omni": "daily_omni_grouped_data.json",
    "vdc": "vdc_detailed.jsonl",
    "dream1k": "dream_1k_example.jsonl",
}


@pytest.fixture(scope="module")
def read(benchmark_data: Path) -> dict[str, list[BenchmarkItem]]:
    return {name: load_benchmark(name).read(benchmark_data / file) for name, file in FILES.items()}


def by_id(items: list[BenchmarkItem], item_id: str) -> BenchmarkItem:
    return next(item for item in items if item.id == item_id)


def num_defects(items: list[BenchmarkItem]) -> int:
    return sum(question.defect is not None for item in items for question in item.questions)


@pytest.mark.parametrize(
    ("name", "num_items", "num_events", "num_questions"),
    [
        ("vs2", 483, 16_541, 0),
        ("ugc", 999, 0, 0),
        ("daily-omni", 684, 0, 1_197),
        ("vdc", 1_027, 0, 19_811),
        ("dream1k", 1_000, 6_298, 0),
    ],
)
def test_counts(
    read: dict[str, list[BenchmarkItem]], name: str, num_items: int, num_events: int, num_questions: int
) -> None:
    items = read[name]
    assert len(items) == len({item.id for item in items}) == num_items == load_benchmark(name).num_published_items
    assert sum(len(item.events) for item in items) == num_events
    ids = [question.id for item in items for question in item.questions]
    assert len(ids) == len(set(ids)) == num_questions


def test_items_survive_json_lines(read: dict[str, list[BenchmarkItem]]) -> None:
    for items in read.values():
        for item in items[::97]:
            assert BenchmarkItem.from_json(item.to_json_line()) == item


def test_vs2(read: dict[str, list[BenchmarkItem]], benchmark_data: Path) -> None:
    items = read["vs2"]
    assert [item.id for item in items[:2]] + [items[-1].id] == ["video/0.mp4", "video/1.mp4", "video/482.mp4"]
    first = items[0]
    assert first.event_texts[0] == "Man in yellow shirt holding a clear plastic water bottle"
    assert first.reference is not None
    assert first.reference.startswith("The video begins with a man in a bright yellow shirt")
    assert first.instruction is not None
    assert first.instruction.startswith("Please provide a thorough description of all the content in the video")
    counts = [len(item.events) for item in items]
    assert (min(counts), max(counts)) == (12, 65)
    # Each of the seven wordings, and none with the marker of the model that it was written for.
    asked = Counter(item.instruction for item in items)
    assert sorted(asked.values()) == [59, 61, 62, 70, 71, 76, 84]
    assert not any("<image>" in (item.instruction or "") for item in items)
    rule = InstructionFile.read(benchmark_data / FILES["vs2"])
    assert all(rule(ClipRef(id=item.id, path=item.video)).text == item.instruction for item in items)
    # A defect of the file: 35 videos have an event more than once, 61 events in all are such repeats.
    repeats = [len(item.events) - len(set(item.events)) for item in items]
    assert (sum(count > 0 for count in repeats), sum(repeats)) == (35, 61)


def test_ugc(read: dict[str, list[BenchmarkItem]]) -> None:
    items = read["ugc"]
    first = items[0]
    assert first.id == "PI-b08991f9-66e2-4bc2-9de5-9228da3bc35d"
    assert first.video == f"/workspace/benchmark/video/{first.id}.mp4"
    assert first.aliases == (first.id,)
    assert first.reference is not None
    assert first.reference.startswith("The video captures a formal hearing or debate")
    assert {item.instruction for item in items} == {first.instruction}
    # The one video that the released script skips by name has no sample.
    assert not any(item.id.startswith("PI-0abb79ae") for item in items)


def test_daily_omni(read: dict[str, list[BenchmarkItem]]) -> None:
    items = read["daily-omni"]
    first = items[0]
    assert (first.id, first.names) == ("Ec_lQgZ9wlg", ("Ec_lQgZ9wlg", "Ec_lQgZ9wlg_video"))
    assert first.meta == {"video_duration": "30s", "video_category": "Howto & Style"}
    question = first.questions[0]
    assert (question.id, question.answer, question.type) == ("Ec_lQgZ9wlg/0", "B", "Event Sequence")
    assert question.choices[0] == "A. Still product bottle → Price text overlay"
    assert question.letters == ("A", "B", "C", "D")
    questions = [question for item in items for question in item.questions]
    assert Counter(question.answer for question in questions) == {"A": 278, "B": 318, "C": 306, "D": 295}
    assert Counter(question.type for question in questions) == {
        "Event Sequence": 306,
        "AV Event Alignment": 238,
        "Context understanding": 193,
        "Reasoning": 175,
        "Inference": 154,
        "Comparative": 131,
    }
    assert Counter(item.meta["video_duration"] for item in items) == {"30s": 375, "60s": 309}
    assert num_defects(items) == 0
    # A defect of the file: one video has the same question twice. Both count, as in the published total.
    twice = by_id(items, "qF_bybWcUoE").questions
    assert [question.id for question in twice] == ["qF_bybWcUoE/0", "qF_bybWcUoE/1"]
    assert twice[0].text == twice[1].text


def test_vdc(read: dict[str, list[BenchmarkItem]]) -> None:
    items = read["vdc"]
    first = items[0]
    assert first.id == first.video == "07309684-1f6e-4977-ab74-f3e63c361f36"
    question = first.questions[2]
    assert question.id == f"{first.id}/2"
    assert question.answer == "the lush textures of nature and the cold, hard lines of mechanical components"
    assert question.category == "reason"
    counts = [len(item.questions) for item in items]
    assert (min(counts), max(counts)) == (12, 28)
    # A defect of the file: one empty question. It stays, and says so.
    empty = [question for item in items for question in item.questions if question.defect]
    assert [(one.id, one.defect) for one in empty] == [
        ("mixkit-aerial-view-of-the-mouth-of-an-estuary-in-the-50214/21", "the file has no question and no answer")
    ]
    categories = Counter(question.category for item in items for question in item.questions)
    assert (len(categories) - 1, categories[None], categories["object"]) == (958, 40, 5_012)


def test_dream1k(read: dict[str, list[BenchmarkItem]]) -> None:
    items = read["dream1k"]
    first = items[0]
    assert (first.id, first.video, first.meta["subset"]) == ("135", "135.mp4", "movie_animation")
    assert first.instruction == "Describe the video in detail."
    assert first.event_texts[:2] == ("The little boy held a ball.", "The little boy tapped the glove.")
    assert first.reference is not None
    assert first.reference.startswith("The little boy held a ball in his right hand, tapped the glove")
    assert first.meta["duration"] == 4.0
    assert set(Counter(item.meta["subset"] for item in items).items()) == {
        (name, 200) for name in ("movie_animation", "movie_live_action", "vertical_video", "videvo", "youtube")
    }
    # A defect of the file: four clips have no reference events.
    assert sorted(item.id for item in items if not item.events) == ["649", "804", "980", "981"]


def test_the_captions_inside_the_dream_file_are_read_as_captions(
    read: dict[str, list[BenchmarkItem]], benchmark_data: Path
) -> None:
    captions = read_captions(benchmark_data / FILES["dream1k"])
    assert captions.formats == {"dream1k": 1_000}
    matched = match(read["dream1k"], captions)
    assert (len(matched.pairs), matched.missing_items, matched.unknown_captions, matched.ambiguous) == (
        1000,
        (),
        (),
        (),
    )
    pair = matched.pairs[0]
    assert pair.item.id == "135"
    assert pair.caption.text.startswith("A boy stands on a mound of dirt, wearing a white cap")
    assert pair.caption.instruction == "Describe the video in detail."


def test_outputs_of_the_released_scripts_fit_their_benchmarks(
    read: dict[str, list[BenchmarkItem]], tmp_path: Path
) -> None:
    def lines(name: str, suffix: str) -> None:
        rows = [{"video_id": item.id + suffix, "caption": f"Of {item.id}."} for item in reversed(read[name])]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    lines("ugc", "")
    lines("daily-omni", "_video")
    lines("vdc", "")
    rows = [{"id": [f"/data/testset/{item.id}"], "prompt": "?", "pred": f"Of {item.id}."} for item in read["vs2"]]
    (tmp_path / "vs2.jsonl").write_text(json.dumps(rows, indent=4))
    for name in ("ugc", "daily-omni", "vdc", "vs2"):
        matched = match(read[name], read_captions(tmp_path / f"{name}.jsonl"))
        assert [pair.caption.text for pair in matched.pairs] == [f"Of {item.id}." for item in read[name]]
        assert (matched.missing_items, matched.unknown_captions, matched.ambiguous) == ((), (), ())


@pytest.mark.parametrize("name", [name for name in FILES if name != "dream1k"])  # whose lines do hold captions
def test_annotations_are_not_taken_for_captions(benchmark_data: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"no caption of a known form|must be a text, got"):
        read_captions(benchmark_data / FILES[name])
