"""Reference captions with a change: what is changed, and judges that do not notice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from judge_server import JudgeServer
from planted_judge import annotations, perfect, sentence, sloppy

from avocet.errors import ConfigError, RecordError
from avocet.evaluation.benchmarks import load_benchmark
from avocet.evaluation.calibration_set import INJECTIONS
from avocet.evaluation.items import BenchmarkItem
from avocet.evaluation.reference_pairs import (
    REFERENCE_ERRORS,
    ReferencePair,
    Sensitivity,
    cases_of,
    reference_pairs,
    sensitivity,
    sentences,
)
from avocet.judging import JudgeClient
from avocet.judging.events import EventJudge
from avocet.metrics import EventFindings
from avocet.records import Verdict

pytestmark = pytest.mark.usefixtures("no_surroundings")

EVENTS = ("a", "b", "c", "d")


@pytest.fixture
def items(tmp_path: Path) -> list[BenchmarkItem]:
    path = tmp_path / "video_salmonn2_test.json"
    path.write_text(json.dumps(annotations()))
    return load_benchmark("vs2").read(path)


def pair(video: str, error: str) -> ReferencePair:
    return ReferencePair(
        video=video, error=error, events=EVENTS, reference=f"{video} is.", changed=f"{video} {error}.", planted="x"
    )


def verdict(name: str, missed: int | None, hallucinated: int = 0, run_index: int = 0) -> Verdict:
    if missed is None:
        return Verdict(clip_id=name, judge="j", run_index=run_index, status="unscored", reason="no reply: x")
    found = EventFindings(num_events=4, missed=EVENTS[:missed], incorrect=(), hallucinated=("x",) * hallucinated)
    return Verdict(clip_id=name, judge="j", run_index=run_index, findings=found.to_dict())


def test_sentences() -> None:
    text = 'It is 3.5 m. He says, "Stop. Go!" Then\n\nnothing… (Or so.) end. no new one. "Yes," he nods'
    assert sentences(text) == [
        "It is 3.5 m.",
        'He says, "Stop.',
        'Go!"',
        "Then nothing…",
        "(Or so.) end. no new one.",
        '"Yes," he nods',
    ]
    assert sentences(" ") == []


def test_changes(items: list[BenchmarkItem]) -> None:
    pairs = reference_pairs(items, 4)
    assert Counter(each.error for each in pairs) == dict.fromkeys(REFERENCE_ERRORS, 4)
    assert pairs == reference_pairs(items, 4)
    for item in items:
        told = [sentence(event) for event in item.event_texts]
        by_error = {each.error: each for each in pairs if each.video == item.id}
        assert {each.reference for each in by_error.values()} == {item.reference}
        dropped = by_error["dropped"].changed
        assert dropped in (" ".join(told[::2]), " ".join(told[1::2]))
        assert by_error["injected"].changed in [f"{dropped} {text}" for text in INJECTIONS]
        repeated = by_error["repeated"].changed
        assert repeated in [f"{item.reference} {each}" for each in told]
        added = by_error["added"]
        foreign = added.planted.removeprefix("added: ")
        assert foreign not in told
        assert added.changed.replace(f"{foreign} ", "").replace(f" {foreign}", "") == item.reference
        assert any(foreign in (other.reference or "") for other in items if other is not item)


def test_each_reference_is_judged_once(items: list[BenchmarkItem]) -> None:
    cases = cases_of(reference_pairs(items, 3))
    assert len(cases) == len({case.clip_id for case in cases}) == 3 * 5
    assert cases[0].clip_id == f"{cases[1].clip_id.partition('+')[0]}"


def test_ways_by_hand() -> None:
    pairs = [pair("v", "dropped"), pair("w", "dropped"), pair("x", "dropped"), pair("v", "repeated")]
    runs = [
        [
            *(verdict("v/reference", 1), verdict("v/reference+dropped", 3)),
            *(verdict("w/reference", 2), verdict("w/reference+dropped", 1)),
            *(verdict("x/reference", 0), verdict("x/reference+dropped", None)),
            verdict("v/reference+repeated", 0, hallucinated=1),
        ],
        [
            *(verdict("v/reference", 1), verdict("v/reference+dropped", 3)),
            *(verdict("w/reference", 2), verdict("w/reference+dropped", 2)),
            *(verdict("x/reference", 0), verdict("x/reference+dropped", None)),
            verdict("v/reference+repeated", 1),
        ],
        [
            *(verdict("v/reference", 1), verdict("v/reference+dropped", 0)),
            *(verdict("w/reference", 2), verdict("w/reference+dropped", 2)),
            *(verdict("x/reference", 0), verdict("x/reference+dropped", None)),
            verdict("v/reference+repeated", 1),
        ],
    ]
    report = sensitivity(pairs, runs)
    dropped, repeated = report.rows
    # Medians of miss: v 1/4 -> 3/4, w 2/4 -> 2/4; x has no changed one.
    assert (dropped.error, dropped.rate, dropped.num_pairs, dropped.num_unscored) == ("dropped", "miss", 2, 1)
    assert dropped.mean_change == 0.25
    assert [way.num_pairs for way in (dropped.rose, dropped.stayed, dropped.fell)] == [1, 1, 0]
    assert dropped.right_way == dropped.rose
    # Wilson, 1 of 2, z^2 = 3.8415: 0.5 -+ 1.96 * sqrt(0.125 + 3.8415/16) / (1 + 3.8415/2).
    assert (dropped.rose.rate, dropped.rose.low, dropped.rose.high) == pytest.approx((0.5, 0.0945, 0.9055), abs=1e-4)
    # Total: 1/4 without and 1/4 with the repetition, in every run.
    assert (repeated.rate, repeated.expected, repeated.right_way.num_pairs) == ("total", "stays", 1)
    assert "| dropped | miss | rise | 2 | 1 | +25.0 | 50 % (9 to 91) | 50 % (9 to 91) | 0 % (0 to 66) |" in (
        report.to_markdown()
    )
    assert Sensitivity.from_json(report.to_json_line()) == report


def test_rows_without_scored_pairs() -> None:
    only = [pair("v", "added")]
    report = sensitivity(only, [[verdict("v/reference", None), verdict("v/reference+added", 1)]])
    assert (report.rows[0].num_pairs, report.rows[0].num_unscored, report.rows[0].mean_change) == (0, 1, None)
    assert "| added | hall | rise | 0 | 1 | - | - | - | - |" in report.to_markdown()
    assert Sensitivity.from_json(report.to_json_line()) == report


@pytest.mark.parametrize(
    ("script", "rising"),
    # Inventions are not seen by the sloppy judge, and where it is asked to find nothing it finds nothing.
    [(perfect, {"dropped", "added", "injected"}), (sloppy, {"dropped"})],
)
def test_judges(script: Callable[..., object], rising: set[str], items: list[BenchmarkItem]) -> None:
    pairs = reference_pairs(items, 4)
    with JudgeServer(script) as server:  # type: ignore[arg-type]
        runs = EventJudge(JudgeClient("scripted", base_url=server.base_url)).judge_many(cases_of(pairs))
    report = sensitivity(pairs, runs)
    for row in report.rows:
        assert (row.num_pairs, row.num_unscored) == (4, 0)
        assert (row.rose if row.error in rising else row.stayed).num_pairs == 4, row.error
    changes = {row.error: row.mean_change for row in report.rows}
    # Half of six events are dropped; one invention is a sixth.
    assert changes["dropped"] == pytest.approx(0.5)
    assert changes["added"] == pytest.approx(1 / 6 if "added" in rising else 0)


def test_the_released_file(benchmark_data: Path) -> None:
    items = load_benchmark("vs2").read(benchmark_data / "video_salmonn2_test.json")
    pairs = reference_pairs(items, 483)
    assert Counter(each.error for each in pairs) == dict.fromkeys(REFERENCE_ERRORS, 483)
    assert all(each.changed != each.reference for each in pairs)


def test_pairs_that_are_none(items: list[BenchmarkItem]) -> None:
    with pytest.raises(ConfigError, match="kinds of error are dropped, added, repeated, injected; got colour"):
        reference_pairs(items, 1, errors=["colour"])
    with pytest.raises(ConfigError, match="needs its reference caption"):
        reference_pairs([*items, BenchmarkItem(id="x", video="x", events=("a",))], 1)
    with pytest.raises(RecordError, match="must be of dropped"):
        pair("v", "colour")
    with pytest.raises(ConfigError, match="got 0 pairs and judges: none"):
        sensitivity([], [])
    with pytest.raises(ConfigError, match="there is no verdict on 'v/reference'"):
        sensitivity([pair("v", "added")], [[verdict("v/reference+added", 1)]])
    short = BenchmarkItem(id="s", video="s", events=("a",), reference="One. Two. Three.")
    assert reference_pairs([short, short], 2) == []
