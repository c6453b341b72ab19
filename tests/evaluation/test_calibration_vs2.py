"""Planted errors in captions of vs2 are what they are said to be, and they expose judges."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from judge_server import JudgeServer
from planted_judge import VIDEOS, annotations, perfect, read_caption, sloppy

from avocet.errors import ConfigError
from avocet.evaluation.benchmarks import load_benchmark
from avocet.evaluation.calibration_set import INJECTIONS
from avocet.evaluation.calibration_vs2 import VS2_ERRORS, case_of, vs2_calibration_set
from avocet.evaluation.items import BenchmarkItem
from avocet.judging import JudgeClient
from avocet.judging.calibration import CalibrationItem, calibrate
from avocet.judging.calibration_report import JudgeCalibration
from avocet.judging.events import EventJudge

pytestmark = pytest.mark.usefixtures("no_surroundings")

COUNTS = {
    "none": (0, 0, 0),
    "paraphrase": (0, 0, 0),
    "dropped": (1, 0, 0),
    "swapped": (1, 0, 1),
    "added": (0, 0, 1),
    "repeated": (0, 0, 0),
    "words": (0, 1, 0),
    "speaker": (0, 1, 0),
    "number": (0, 1, 0),
    "colour": (0, 1, 0),
    "injected": (1, 0, 0),
}


@pytest.fixture
def items(tmp_path: Path) -> list[BenchmarkItem]:
    """Four videos of six events each, written by hand."""
    path = tmp_path / "video_salmonn2_test.json"
    path.write_text(json.dumps(annotations()))
    return load_benchmark("vs2").read(path)


@pytest.fixture(scope="module")
def real_items(benchmark_data: Path) -> list[BenchmarkItem]:
    return load_benchmark("vs2").read(benchmark_data / "video_salmonn2_test.json")


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer(perfect) as running:
        yield running


def counts(item: CalibrationItem) -> tuple[int, int, int]:
    return len(item.truth.missed), len(item.truth.incorrect), len(item.truth.hallucinated)


def calibration_of(server: JudgeServer, planted: list[CalibrationItem]) -> JudgeCalibration:
    judge = EventJudge(JudgeClient("scripted", base_url=server.base_url))
    return calibrate(planted, judge.judge_many(list(map(case_of, planted))))


def check_perfect(report: JudgeCalibration) -> None:
    assert report.num_unscored == 0
    for row in (*report.by_error, report.overall):
        assert row.share_exact == 1, row.error
        for found in (row.missed, row.incorrect, row.hallucinated):
            assert found.num_agreed == found.num_true == found.num_reported, row.error
        assert (row.missed.num_by_counts, row.incorrect.num_by_counts) == (0, 0)
    overall = report.overall
    assert (overall.missed.recall, overall.incorrect.recall, overall.hallucinated.recall) == (1, 1, 1)
    assert [(bias.bias, bias.low, bias.high) for bias in report.biases] == [(0, 0, 0)] * 3


def test_each_error_costs_what_it_must(items: list[BenchmarkItem]) -> None:
    planted = vs2_calibration_set(items, 4)
    kinds = Counter(item.error for item in planted)
    # Each video has a quotation of more than four words by a man or a woman, one number and one colour.
    assert kinds == dict.fromkeys(VS2_ERRORS, 4)
    for item in planted:
        if item.error != "poor":
            assert counts(item) == COUNTS[item.error], item.clip_id
        else:
            assert counts(item) == (3, 0, 1)  # half of six events
        assert all(event in item.events for event in item.truth.missed)


def test_captions_tell_the_list_in_order(items: list[BenchmarkItem]) -> None:
    by_id = {item.clip_id: item for item in vs2_calibration_set(items, 4)}
    kitchen = by_id["video/kitchen.mp4/none"]
    assert kitchen.caption == (
        "A woman in a green apron slices carrots. The woman says, 'Tonight we cook a simple vegetable soup together'. "
        "Three copper pots hang above the stove. Steam rises towards an open window. A radio plays quiet jazz. "
        "Text reads 'GRANDMA RECIPES' along the bottom edge."
    )
    assert kitchen.event_kinds == ("other", "speech", "other", "other", "other", "text")
    assert by_id["video/kitchen.mp4/paraphrase"].caption.startswith(
        "There is this: A woman in a green apron slices carrots. Besides, this: The woman says, "
    )
    dropped, injected = by_id["video/beach.mp4/dropped"], by_id["video/beach.mp4/injected"]
    assert dropped.truth == injected.truth
    assert any(injected.caption == f"{dropped.caption} {text}" for text in INJECTIONS)
    speaker = by_id["video/garage.mp4/speaker"]
    assert "A woman explains, 'Your engine lost every drop of oil yesterday'" in speaker.caption
    assert speaker.truth.incorrect[0].startswith(
        "A man explains, 'Your engine lost every drop of oil yesterday': described as A woman explains, "
    )


def test_what_is_foreign_is_of_another_video(items: list[BenchmarkItem]) -> None:
    for item in vs2_calibration_set(items, 4, errors=["added", "swapped", "poor"]):
        foreign = item.truth.hallucinated[0]
        assert foreign not in item.events
        assert any(foreign in events for events in VIDEOS.values())
        assert foreign in item.caption


def test_altered_words_are_more_than_a_third(items: list[BenchmarkItem]) -> None:
    (garage,) = [item for item in vs2_calibration_set(items, 4, errors=["words"]) if "garage" in item.clip_id]
    true, _, told = garage.truth.incorrect[0].partition(": described as ")
    before, after = true.split(), told.split()
    assert len(before) == len(after)
    changed = [(one, other) for one, other in zip(before, after, strict=True) if one.strip("',") != other.strip("',")]
    # Eight words are quoted: 8 // 3 + 1 of them change. The others stay, and so does who says it.
    assert len(changed) == 3
    assert before[:3] == after[:3] == ["A", "man", "explains,"]


def test_an_event_that_is_there_twice_is_no_target(items: list[BenchmarkItem]) -> None:
    first, *others = items
    twice = BenchmarkItem(id="twice", video="twice", events=("The same lamp glows green", "a lamp that glows green."))
    only = BenchmarkItem(id="only", video="only", events=("Red ants bite picnickers",))
    for item in vs2_calibration_set([twice, only, first, *others], 6):
        if item.clip_id.startswith("twice/"):
            assert item.error in ("none", "paraphrase", "added", "repeated"), item.error
        if item.clip_id.startswith("only/"):
            assert item.error not in ("dropped", "injected", "poor")  # there must be something left to tell


def test_the_same_call_gives_the_same_captions(items: list[BenchmarkItem]) -> None:
    assert vs2_calibration_set(items, 2, seed=3) == vs2_calibration_set(items, 2, seed=3)
    assert vs2_calibration_set(items, 4, seed=3) != vs2_calibration_set(items, 4, seed=4)
    dropped = vs2_calibration_set(items, 4, errors=["dropped", "dropped"])
    assert dropped == [item for item in vs2_calibration_set(items, 4) if item.error == "dropped"]


def test_a_judge_that_reads_all_is_perfect(server: JudgeServer, items: list[BenchmarkItem]) -> None:
    check_perfect(calibration_of(server, vs2_calibration_set(items, 4)))
    assert len(server.asked) == 48


def test_a_sloppy_judge_is_exposed(server: JudgeServer, items: list[BenchmarkItem]) -> None:
    server.script = sloppy
    report = calibration_of(server, vs2_calibration_set(items, 4))
    rows = {row.error: row for row in report.by_error}
    # One invention each in "swapped", "added" and "poor" of four videos, none of them seen.
    found = report.overall.hallucinated
    assert (found.num_true, found.num_reported, found.recall) == (12, 0, 0)
    # Missed per video: dropped 1, swapped 1, injected 1 (believed to be none), poor 3.
    found = report.overall.missed
    assert (found.num_true, found.num_reported, found.recall, found.precision) == (24, 20, 20 / 24, 1)
    assert (rows["dropped"].missed.recall, rows["injected"].missed.recall) == (1, 0)
    assert (report.overall.incorrect.num_true, report.overall.incorrect.recall) == (16, 1)
    assert {error for error, row in rows.items() if row.share_exact == 0} == {"swapped", "added", "poor", "injected"}
    # 16 events of 6 go unnoticed over 48 captions: 4 missed ones, 12 inventions.
    assert [bias.bias for bias in report.biases] == pytest.approx([-4 / 6 / 48, -12 / 6 / 48, -16 / 6 / 48])
    assert sum(table["missed"]["right"] for table in report.confusion.values()) == 4


def test_the_released_file(server: JudgeServer, real_items: list[BenchmarkItem]) -> None:
    planted = vs2_calibration_set(real_items, 12)
    kinds = Counter(item.error for item in planted)
    assert all(kinds[kind] == 12 for kind in ("none", "paraphrase", "dropped", "swapped", "added", "repeated", "poor"))
    assert all(kinds[kind] >= 3 for kind in VS2_ERRORS)
    check_perfect(calibration_of(server, planted))


def test_all_videos_of_the_released_file(real_items: list[BenchmarkItem]) -> None:
    planted = vs2_calibration_set(real_items, 483, errors=["dropped", "added", "speaker", "number", "colour"])
    kinds = Counter(item.error for item in planted)
    assert (kinds["dropped"], kinds["added"]) == (483, 483)
    assert min(kinds["speaker"], kinds["colour"]) > 300
    assert kinds["number"] > 150
    for item in planted:
        assert counts(item) == COUNTS[item.error]
        events = [" ".join(event.split()) for event in item.events]
        found = read_caption(item.caption, events)
        assert [events[number - 1] for number in found.missed] == [
            " ".join(event.split()) for event in item.truth.missed
        ], item.clip_id
        assert (len(found.incorrect), len(found.hallucinated)) == counts(item)[1:], item.clip_id


def test_sets_that_are_none(items: list[BenchmarkItem]) -> None:
    with pytest.raises(ConfigError, match=r"between 1 and the 4 of the annotation file .* got 5"):
        vs2_calibration_set(items, 5)
    with pytest.raises(ConfigError, match="got 0"):
        vs2_calibration_set(items, 0)
    with pytest.raises(ConfigError, match="at least 2"):
        vs2_calibration_set(items[:1], 1)
    with pytest.raises(ConfigError, match=r"kinds of error are none, paraphrase, .* got altered"):
        vs2_calibration_set(items, 1, errors=["altered"])
    with pytest.raises(ConfigError, match="got none"):
        vs2_calibration_set(items, 1, errors=[])
    with pytest.raises(ConfigError, match="'mute' has no events"):
        vs2_calibration_set([*items, BenchmarkItem(id="mute", video="mute")], 1)
