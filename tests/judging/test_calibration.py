"""What calibration says of judges whose faults are known, worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from avocet.errors import ConfigError, RecordError
from avocet.judging.calibration import (
    CalibrationItem,
    calibrate,
    event_findings,
)
from avocet.judging.calibration_report import JudgeCalibration, judge_swap_table
from avocet.metrics import EventFindings
from avocet.records import Verdict

EVENTS = ("a ball falls", "a cat jumps", "a bell rings", 'a man says "Go"')
KINDS = ("visual", "visual", "sound", "speech")


def findings(*, missed: Sequence[str] = (), incorrect: Sequence[str] = (), hallucinated: Sequence[str] = ()) -> Any:
    return EventFindings(
        num_events=4, missed=tuple(missed), incorrect=tuple(incorrect), hallucinated=tuple(hallucinated)
    )


def item(name: str, error: str, truth: EventFindings, **given: Any) -> CalibrationItem:
    facts = {"events": EVENTS, "event_kinds": KINDS} | given
    return CalibrationItem(clip_id=name, caption=f"caption {name}", error=error, truth=truth, **facts)


TRUTHS = (
    findings(),
    findings(missed=[EVENTS[0]]),
    findings(hallucinated=["a dog barks"]),
    findings(
        missed=[EVENTS[1], EVENTS[2]],
        incorrect=[f"{EVENTS[3]}: described as a man says nothing"],
        hallucinated=["a car honks", "a star blinks"],
    ),
)
ITEMS = tuple(
    item(f"clip {number}", error, truth)
    for number, (error, truth) in enumerate(zip(("none", "dropped", "added", "poor"), TRUTHS, strict=True))
)


def run_of(found: Sequence[EventFindings | None], run_index: int = 0, judge: str = "some-judge") -> list[Verdict]:
    return [
        Verdict(clip_id=each.clip_id, judge=judge, run_index=run_index, findings=given.to_dict() | {"reasoning": "r"})
        if given is not None
        else Verdict(
            clip_id=each.clip_id, judge=judge, run_index=run_index, status="unscored", reason="unreadable reply: x"
        )
        for each, given in zip(ITEMS, found, strict=True)
    ]


def without_hallucinations(found: EventFindings) -> EventFindings:
    return findings(missed=found.missed, incorrect=found.incorrect)


def test_the_truth_itself_is_perfect() -> None:
    report = calibrate(ITEMS, [run_of(TRUTHS, run) for run in range(3)])
    assert (report.num_items, report.num_runs, report.num_scored, report.num_unscored) == (4, 3, 12, 0)
    assert report.overall.share_exact == 1
    for name, num_true in (("missed", 3), ("incorrect", 1), ("hallucinated", 3)):
        found = getattr(report.overall, name)
        assert (found.num_true, found.num_reported, found.num_agreed) == (3 * num_true,) * 3
        assert (found.recall, found.precision) == (1, 1)
        assert (found.mean_count_error, found.mean_absolute_count_error) == (0, 0)
    assert (report.overall.missed.num_by_events, report.overall.missed.num_by_counts) == (12, 0)
    assert (report.overall.hallucinated.num_by_events, report.overall.hallucinated.num_by_counts) == (0, 12)
    assert [row.error for row in report.by_error] == ["none", "dropped", "added", "poor"]
    assert [(bias.rate, bias.bias, bias.low, bias.high) for bias in report.biases] == [
        *[("miss", 0, 0, 0), ("hall", 0, 0, 0), ("total", 0, 0, 0)]
    ]
    assert [(spread.mean_deviation, spread.share_unchanged, spread.num_items) for spread in report.spreads] == [
        (0, 1, 4)
    ] * 3
    off_diagonal = [
        count
        for table in report.confusion.values()
        for true, row in table.items()
        for found, count in row.items()
        if true != found
    ]
    assert sum(off_diagonal) == 0


def test_a_judge_that_never_reports_hallucinations() -> None:
    report = calibrate(ITEMS, [run_of([without_hallucinations(truth) for truth in TRUTHS])])
    found = report.overall.hallucinated
    # One in clip 2, two in clip 3.
    assert (found.num_true, found.num_reported, found.recall, found.precision) == (3, 0, 0, None)
    assert (found.mean_count_error, found.mean_absolute_count_error) == (-3 / 4, 3 / 4)
    assert (report.overall.missed.recall, report.overall.incorrect.recall) == (1, 1)
    assert report.overall.share_exact == 0.5
    assert [row.share_exact for row in report.by_error] == [1, 1, 0, 0]
    miss, hall, total = report.biases
    # True rates: hall 0, 0, 1/4, 3/4; total 0, 1/4, 1/4, 5/4. Judged: hall 0, 0, 0, 1/4; total 0, 1/4, 0, 3/4.
    assert (miss.true_mean, miss.judge_mean, miss.bias) == (3 / 16, 3 / 16, 0)
    assert (hall.true_mean, hall.judge_mean, hall.bias) == (0.25, 0.0625, -0.1875)
    assert (total.true_mean, total.judge_mean, total.bias) == (0.4375, 0.25, -0.1875)
    # The mean of four draws from (0, 0, -1/4, -1/2) is -s/16 with P(s >= 7) = 5/256 = 2.0 % and P(s >= 6) = 7.4 %,
    # so the 2.5 % point is -6/16; and with P(s = 0) = 6.3 % the 97.5 % point is 0.
    assert (hall.low, hall.high) == (-0.375, 0)
    assert "| hall | 25.0 % | 6.2 % | -18.8 (-37.5 to +0.0) | 4 |" in report.to_markdown()


def test_a_judge_that_misses_every_second_one_and_sees_what_is_not_there() -> None:
    judged = [
        findings(incorrect=["A cat  jumps."]),  # not true
        TRUTHS[1],
        TRUTHS[2],
        findings(missed=[EVENTS[2]], incorrect=[EVENTS[3]], hallucinated=["x", "y", "z"]),
    ]
    report = calibrate(ITEMS, [run_of(judged)])
    # Of three missed events the second one is not noticed.
    assert (report.overall.missed.recall, report.overall.missed.precision) == (2 / 3, 1)
    assert (report.overall.incorrect.recall, report.overall.incorrect.precision) == (1, 1 / 2)
    # Of three (1 + 2) true hallucinations, 1 + 3 are reported.
    assert (report.overall.hallucinated.recall, report.overall.hallucinated.precision) == (1, 3 / 4)
    assert report.overall.hallucinated.mean_absolute_count_error == 1 / 4
    none = {"right": 0, "missed": 0, "incorrect": 0}
    assert report.confusion == {
        # The ball and the cat in four captions each: 6 right ones, of which the cat of clip 0 is called incorrect;
        # of the 2 missed ones, the cat of clip 3 goes unnoticed.
        "visual": {
            "right": {"right": 5, "missed": 0, "incorrect": 1},
            "missed": {"right": 1, "missed": 1, "incorrect": 0},
            "incorrect": none,
        },
        "sound": {"right": none | {"right": 3}, "missed": none | {"missed": 1}, "incorrect": none},
        "speech": {"right": none | {"right": 3}, "missed": none, "incorrect": none | {"incorrect": 1}},
    }
    assert "| visual | missed | 1 | 1 | 0 |" in report.to_markdown()


def test_the_right_number_of_wrong_events_is_not_right() -> None:
    judged = [TRUTHS[0], findings(missed=[EVENTS[1]]), TRUTHS[2], TRUTHS[3]]
    dropped = calibrate(ITEMS, [run_of(judged)]).by_error[1]
    assert (dropped.missed.recall, dropped.missed.precision, dropped.share_exact) == (0, 0, 1)


def test_statements_that_name_no_event_are_compared_by_number() -> None:
    judged = [TRUTHS[0], findings(missed=["something falls", "the end"]), TRUTHS[2], TRUTHS[3]]
    report = calibrate(ITEMS, [run_of(judged)])
    dropped = report.by_error[1].missed
    assert (dropped.num_by_events, dropped.num_by_counts) == (0, 1)
    assert (dropped.num_agreed, dropped.recall, dropped.precision) == (1, 1, 1 / 2)
    assert (report.overall.missed.num_by_events, report.overall.missed.num_by_counts) == (3, 1)
    assert "missed 1 of 4, incorrect 0 of 4, hallucinated 4 of 4" in report.to_markdown()
    # Its events cannot be told apart, so that caption is not in the confusion: 3 captions with 2 visual events.
    assert sum(sum(row.values()) for row in report.confusion["visual"].values()) == 6


def test_events_that_occur_twice() -> None:
    double = item("twice", "dropped", findings(missed=["x"]), events=("x", "x", "y", "z"))
    once = Verdict(clip_id="twice", judge="j", findings=findings(missed=["x"]).to_dict())
    report = calibrate([double], [[once]])
    assert (report.overall.missed.recall, report.overall.missed.num_by_events) == (1, 1)
    assert report.confusion["visual"]["missed"] == {"right": 0, "missed": 1, "incorrect": 0}
    thrice = Verdict(clip_id="twice", judge="j", findings=findings(missed=["x", "x", "x"]).to_dict())
    assert calibrate([double], [[thrice]]).overall.missed.num_by_counts == 1
    # The same event cannot be missed and incorrect: then nobody knows what became of it.
    both = Verdict(clip_id="twice", judge="j", findings=findings(missed=["y"], incorrect=["y"]).to_dict())
    assert calibrate([double], [[both]]).confusion == {}


def test_spread_over_runs() -> None:
    runs = [run_of(TRUTHS, 0), run_of([without_hallucinations(truth) for truth in TRUTHS], 1)]
    report = calibrate(ITEMS, runs)
    miss, hall, total = report.spreads
    assert (miss.mean_deviation, miss.share_unchanged) == (0, 1)
    # Two values d apart have a standard deviation of d/sqrt(2); d is 0, 0, 1/4, 1/2.
    for spread in (hall, total):
        assert spread.mean_deviation == pytest.approx((1 / 4 + 1 / 2) / math.sqrt(2) / 4)
        assert (spread.share_unchanged, spread.num_items) == (1 / 2, 4)
    assert hall.run_means == (0.25, 0.0625)
    assert report.biases[1].bias == -0.1875 / 2
    # One run says nothing about spread.
    alone = calibrate(ITEMS, runs[:1]).spreads[0]
    assert (alone.mean_deviation, alone.share_unchanged, alone.num_items) == (None, None, 0)


def test_unscored_verdicts_are_counted_and_nothing_else() -> None:
    runs = [run_of([None, TRUTHS[1], None, TRUTHS[3]]), run_of([None, *TRUTHS[1:]], 1)]
    report = calibrate(ITEMS, runs)
    assert (report.num_scored, report.num_unscored) == (5, 3)
    assert report.unscored_reasons == {"unreadable reply": 3}
    none, dropped, added, _ = report.by_error
    assert (none.num_scored, none.num_unscored, none.share_exact, none.missed.mean_count_error) == (0, 2, None, None)
    assert (dropped.num_scored, added.num_scored, added.num_unscored) == (2, 1, 1)
    assert report.overall.hallucinated.recall == 1
    assert [bias.num_items for bias in report.biases] == [3, 3, 3]
    assert [spread.num_items for spread in report.spreads] == [2, 2, 2]
    # Run 0 scored clips 1 and 3: miss 1/4 and 2/4.
    assert report.spreads[0].run_means[0] == 3 / 8
    assert "- 3 unscored: unreadable reply" in report.to_markdown()


def test_nothing_scored_has_no_figures() -> None:
    report = calibrate(ITEMS, [run_of([None] * 4)])
    assert (report.overall.share_exact, report.overall.missed.recall) == (None, None)
    assert [(bias.true_mean, bias.bias, bias.low, bias.num_items) for bias in report.biases] == [
        (None, None, None, 0)
    ] * 3
    assert JudgeCalibration.from_json(report.to_json_line()) == report
    assert "| total | - | - | - | 0 | - | - | - |" in report.to_markdown()


def test_clips_without_events_have_no_rates() -> None:
    truth = EventFindings(num_events=0, missed=(), incorrect=(), hallucinated=("x",))
    empty = CalibrationItem(clip_id="e", caption="c", events=(), error="added", truth=truth)
    verdict = Verdict(clip_id="e", judge="j", findings=truth.to_dict())
    report = calibrate([empty], [[verdict]])
    assert report.overall.hallucinated.recall == 1
    assert [bias.num_items for bias in report.biases] == [0, 0, 0]


def test_the_report_is_json_and_the_same_each_time() -> None:
    runs = [run_of([without_hallucinations(truth) for truth in TRUTHS])]
    report = calibrate(ITEMS, runs)
    assert calibrate(ITEMS, runs) == report
    assert JudgeCalibration.from_json(report.to_json_line()) == report
    json.loads(report.to_json_line(), parse_constant=pytest.fail)  # neither NaN nor infinity


def test_two_judges_side_by_side() -> None:
    good = calibrate(ITEMS, [run_of(TRUTHS, judge="good")])
    sloppy = calibrate(ITEMS, [run_of([without_hallucinations(truth) for truth in TRUTHS], judge="a|b")])
    table = judge_swap_table([good, sloppy])
    assert table.startswith("| planted |  | good | a\\|b |\n")
    assert "| added | hallucinated | 100.0 % / 100.0 % | 0.0 % / - |" in table
    assert "| all | missed | 100.0 % / 100.0 % | 100.0 % / 100.0 % |" in table
    assert "| bias | hall | +0.0 (+0.0 to +0.0) | -18.8 (-37.5 to +0.0) |" in table
    fewer = calibrate(ITEMS[:3], [run_of(TRUTHS)[:3]])
    with pytest.raises(ConfigError, match="on the same captions only, got 2 reports on 2 sets"):
        judge_swap_table([good, fewer])
    with pytest.raises(ConfigError, match="got 0 reports"):
        judge_swap_table([])


def test_runs_that_do_not_fit() -> None:
    run = run_of(TRUTHS)
    with pytest.raises(ConfigError, match="needs items and runs, got 0 items and 1 runs"):
        calibrate([], [[]])
    with pytest.raises(ConfigError, match="got 4 items and 0 runs"):
        calibrate(ITEMS, [])
    with pytest.raises(ConfigError, match="'clip 0' occurs more than once"):
        calibrate([ITEMS[0], ITEMS[0]], [run[:1] * 2])
    with pytest.raises(ConfigError, match="run 1: verdicts must be those on the 4 items, in their order"):
        calibrate(ITEMS, [run, run[::-1]])
    with pytest.raises(ConfigError, match=r"of different judges \(other, some-judge\)"):
        calibrate(ITEMS, [run, run_of(TRUTHS, judge="other")])
    short = EventFindings(num_events=3, missed=(), incorrect=(), hallucinated=())
    with pytest.raises(ConfigError, match="is about 3 events, but the item has 4"):
        calibrate(ITEMS, [run_of([short, *TRUTHS[1:]])])
    with pytest.raises(RecordError, match="missed: Field required"):
        event_findings(Verdict(clip_id="x", judge="vdc", findings={"num_events": 1, "accuracy": 1.0}))
    with pytest.raises(RecordError, match="the verdict on 'clip 0' is unscored: unreadable reply: x"):
        event_findings(run_of([None] * 4)[0])


def test_items_that_are_none() -> None:
    with pytest.raises(RecordError, match="1 events, but the truth is about 4"):
        item("x", "none", TRUTHS[0], events=("one",), event_kinds=())
    with pytest.raises(RecordError, match="1 kinds for 4 events; give one for each, or none"):
        item("x", "none", TRUTHS[0], event_kinds=("visual",))
    with pytest.raises(RecordError, match="error must be a name other than 'all'"):
        item("x", "all", TRUTHS[0])
