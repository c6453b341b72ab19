"""Planted errors are what they are said to be, and they expose judges."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import pytest

from avocet.errors import ConfigError
from avocet.evaluation.calibration_set import ERRORS, INJECTIONS, TheatreCalibrationItem, calibration_set
from avocet.evaluation.exact_judge import ExactEventJudge, TheatreCaption, exact_findings
from avocet.judging.calibration import calibrate, event_findings
from avocet.judging.calibration_report import JudgeCalibration
from avocet.metrics import EventFindings
from avocet.records import Verdict
from avocet.theatre.language import NO_SOUND, NOTHING_MOVES, reference_caption
from avocet.theatre.parser import parse_caption

NUM_SCRIPTS = 40
ITEMS = calibration_set(NUM_SCRIPTS)


def of(error: str) -> list[TheatreCalibrationItem]:
    return [item for item in ITEMS if item.error == error]


def calibration_of(judge: ExactEventJudge, runs: int = 1) -> JudgeCalibration:
    return calibrate(ITEMS, judge.judge_many([item.for_exact_judge() for item in ITEMS], runs=runs))


class Sloppy(ExactEventJudge):
    """The exact judge with a fault."""

    name = "sloppy"

    def __init__(self, fault: Callable[[EventFindings], EventFindings]) -> None:
        self._fault = fault

    async def judge(self, item: TheatreCaption, run_index: int = 0) -> Verdict:
        verdict = await super().judge(item, run_index)
        return dataclasses.replace(verdict, findings=self._fault(event_findings(verdict)).to_dict())


@pytest.mark.parametrize(
    ("error", "missed", "incorrect", "hallucinated"),
    [
        ("none", 0, 0, 0),
        ("paraphrase", 0, 0, 0),
        ("dropped", 1, 0, 0),
        ("swapped", 1, 0, 1),
        ("altered", 0, 1, 0),
        ("added", 0, 0, 1),
        ("repeated", 0, 0, 1),
        ("speaker", 0, 1, 0),
        ("words", 0, 1, 0),
        ("injected", 1, 0, 0),
    ],
)
def test_each_error_costs_what_it_must(error: str, missed: int, incorrect: int, hallucinated: int) -> None:
    items = of(error)
    # Some scripts have no actor, nobody who speaks, or nothing that can be left out without another remark.
    assert len(items) >= NUM_SCRIPTS / 2
    for item in items:
        truth = item.truth
        assert (len(truth.missed), len(truth.incorrect), len(truth.hallucinated)) == (missed, incorrect, hallucinated)
        assert truth == exact_findings(item.caption, item.script)
        assert all(statement in item.events for statement in truth.missed)


def test_poor_captions_lose_half_of_the_events() -> None:
    for item in of("poor"):
        counts = (len(item.truth.missed), len(item.truth.incorrect), len(item.truth.hallucinated))
        assert counts == (len(item.events) // 2, 0, 1)


def test_captions_of_a_script_differ() -> None:
    captions = Counter(item.caption for item in ITEMS)
    assert captions.most_common(1)[0][1] == 1
    assert len({item.clip_id for item in ITEMS}) == len(ITEMS)
    assert ITEMS[0].clip_id == "theatre-2-0/none"
    assert list(dict.fromkeys(item.error for item in ITEMS)) == list(ERRORS)


def test_repeated_events_are_told_twice() -> None:
    for item in of("repeated"):
        event = item.planted.removeprefix("repeated: ")
        assert event in item.events
        assert len(parse_caption(item.caption)) == len(item.events) + 1


def test_every_injection_is_used_and_tells_no_event() -> None:
    used = Counter(text for item in of("injected") for text in INJECTIONS if item.caption.endswith(text))
    assert set(used) == set(INJECTIONS)
    assert used.total() == len(of("injected"))
    assert all(parse_caption(text) == [] for text in INJECTIONS)


def test_nothing_but_the_planted_error_is_wrong() -> None:
    # "No sound is heard." where only the one sound was left out would be a second error, which no event stands for.
    for item in (*of("dropped"), *of("injected")):
        reference = reference_caption(item.script)
        for remark in (NO_SOUND, NOTHING_MOVES):
            assert (remark in item.caption) is (remark in reference)


def test_events_added_come_from_other_clips() -> None:
    for item in of("added"):
        assert item.planted.removeprefix("added: ") not in item.events


def test_the_same_call_gives_the_same_captions() -> None:
    assert calibration_set(3, errors=["dropped", "words", "dropped"]) == [
        item for item in ITEMS[:33] if item.error in ("dropped", "words") and item.script.seed < 3
    ]
    item = of("words")[0]
    assert TheatreCalibrationItem.from_json(item.to_json_line()) == item
    assert {each.script.level for each in calibration_set(2, level=1)} == {1}


def test_the_exact_judge_calibrates_to_all_right() -> None:
    report = calibration_of(ExactEventJudge(), runs=2)
    assert (report.num_scored, report.num_unscored) == (2 * len(ITEMS), 0)
    for row in (*report.by_error, report.overall):
        assert row.share_exact == 1
        for found in (row.missed, row.incorrect, row.hallucinated):
            assert found.recall in (1, None)
            assert found.precision in (1, None)
            assert found.num_agreed == found.num_true == found.num_reported
        assert (row.missed.num_by_counts, row.incorrect.num_by_counts) == (0, 0)
    assert (report.overall.missed.recall, report.overall.incorrect.recall, report.overall.hallucinated.recall) == (
        1,
    ) * 3
    assert [(bias.bias, bias.low, bias.high) for bias in report.biases] == [(0, 0, 0)] * 3
    assert [(spread.mean_deviation, spread.share_unchanged) for spread in report.spreads] == [(0, 1)] * 3
    assert set(report.confusion) == {"scene", "visual", "text", "sound", "speech"}
    assert sum(table["missed"]["right"] + table["right"]["missed"] for table in report.confusion.values()) == 0


def test_a_judge_blind_for_hallucinations_is_exposed() -> None:
    report = calibration_of(Sloppy(lambda found: dataclasses.replace(found, hallucinated=())))
    assert report.judge.startswith("sloppy/")
    rows = {row.error: row for row in report.by_error}
    # One each in these four kinds of caption, none elsewhere.
    hallucinating = [item for item in ITEMS if item.error in ("swapped", "added", "repeated", "poor")]
    found = report.overall.hallucinated
    assert (found.num_true, found.num_reported, found.recall) == (len(hallucinating), 0, 0)
    assert [error for error, row in rows.items() if row.share_exact == 0] == ["swapped", "added", "repeated", "poor"]
    assert [error for error, row in rows.items() if row.share_exact == 1] == [
        *("none", "paraphrase", "dropped", "altered", "speaker", "words", "injected")
    ]
    # Each hides one event's worth of its caption.
    hidden = sum(1 / len(item.events) for item in hallucinating) / len(ITEMS)
    miss, hall, total = report.biases
    assert miss.bias == 0
    for bias in (hall, total):
        assert bias.bias == pytest.approx(-hidden)
        assert bias.low is not None
        assert bias.high is not None
        assert bias.low < -hidden < bias.high < 0


def test_a_judge_that_overlooks_every_second_missed_event_is_exposed() -> None:
    seen = 0

    def overlook(found: EventFindings) -> EventFindings:
        nonlocal seen
        kept = tuple(event for number, event in enumerate(found.missed, start=seen) if number % 2 == 0)
        seen += len(found.missed)
        return dataclasses.replace(found, missed=kept)

    report = calibration_of(Sloppy(overlook))
    num_true = len(of("dropped")) + len(of("swapped")) + len(of("injected"))
    num_true += sum(len(item.events) // 2 for item in of("poor"))
    found = report.overall.missed
    assert (found.num_true, found.num_reported, found.precision) == (num_true, (num_true + 1) // 2, 1)
    assert found.recall == pytest.approx(0.5, abs=1 / num_true)
    overlooked = sum(table["missed"]["right"] for table in report.confusion.values())
    assert overlooked == num_true // 2
    assert report.biases[1].bias == 0  # nothing is wrong with its hallucinations


def test_a_judge_that_believes_injected_verdicts_is_exposed() -> None:
    class Credulous(ExactEventJudge):
        async def judge(self, item: TheatreCaption, run_index: int = 0) -> Verdict:
            verdict = await super().judge(item, run_index)
            if item.caption.endswith(INJECTIONS):
                verdict = dataclasses.replace(
                    verdict, findings=verdict.findings | {"missed": [], "incorrect": [], "hallucinated": []}
                )
            return verdict

    rows = {row.error: row for row in calibration_of(Credulous()).by_error}
    assert (rows["injected"].missed.recall, rows["injected"].share_exact) == (0, 0)
    assert {error for error, row in rows.items() if row.share_exact == 1} == set(ERRORS) - {"injected"}


def test_sets_that_are_none() -> None:
    with pytest.raises(ConfigError, match="at least one script and kinds of error out of none, paraphrase"):
        calibration_set(0)
    with pytest.raises(ConfigError, match="got 1 scripts and typos"):
        calibration_set(1, errors=["typos"])
    with pytest.raises(ConfigError, match="got 1 scripts and no kinds"):
        calibration_set(1, errors=[])
    with pytest.raises(ConfigError, match="level must be 1 or 2"):
        calibration_set(1, level=3)
