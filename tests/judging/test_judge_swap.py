"""Two judges on the same captions: every number is worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from avocet.errors import ConfigError, RecordError
from avocet.judging.judge_swap import JudgeSwap, judge_swap, spearman
from avocet.metrics import EventFindings
from avocet.records import Verdict

EVENTS = tuple(f"Event {letter}" for letter in "abcdefghij")
Counts = tuple[str, str, int]
"""The letters of missed and of incorrect events, and the number of hallucinations."""

FIRST: list[Counts | None] = [("ab", "", 0), ("a", "c", 1), ("", "", 0), ("abc", "", 2), None, None]
SECOND: list[Counts | None] = [("ac", "", 0), ("a", "cd", 2), ("", "", 1), ("abcdef", "", 0), ("a", "", 0), None]
PLANTED = ["dropped", "poor", "none", "poor", "none", "none"]


def run_of(found: Sequence[Counts | None], judge: str, run_index: int = 0, num_events: int = 10) -> list[Verdict]:
    return [
        Verdict(clip_id=f"c{place}", judge=judge, run_index=run_index, status="unscored", reason="no reply: x")
        if each is None
        else Verdict(
            clip_id=f"c{place}",
            judge=judge,
            run_index=run_index,
            findings=EventFindings(
                num_events=num_events,
                missed=tuple(f"Event {letter}" for letter in each[0]),
                incorrect=tuple(f"event {letter}: described as {judge} says" for letter in each[1]),
                hallucinated=tuple(f"{judge} {number}" for number in range(each[2])),
            ).to_dict(),
        )
        for place, each in enumerate(found)
    ]


def swap_of(first: Sequence[Counts | None] = FIRST, second: Sequence[Counts | None] = SECOND) -> JudgeSwap:
    return judge_swap([run_of(first, "one")], [run_of(second, "two")], planted=PLANTED)


def test_rates() -> None:
    swap = swap_of()
    assert (swap.first, swap.second, swap.num_runs) == ("one", "two", (1, 1))
    assert (swap.num_captions, swap.num_only_first, swap.num_only_second, swap.num_neither) == (4, 0, 1, 1)
    miss, hall, total = swap.rates
    # Miss of four captions of ten events: 2, 1, 0, 3 and 2, 1, 0, 6 events.
    assert (miss.first_mean, miss.second_mean) == pytest.approx((0.15, 0.225))
    assert miss.difference == pytest.approx(0.075)
    assert miss.first_standard_error == pytest.approx(math.sqrt(5 / 3) / 10 / 2)  # 2, 1, 0, 3: squares sum to 5
    assert miss.correlation == pytest.approx(1)
    assert miss.share_within_one_event == 0.75  # 3 against 6
    # The mean of four draws from (0, 0, 0, 0.3) is 0 with P = (3/4)^4 = 32 %, and 0.3 with P = 0.4 %; three or four of
    # four with P = 5.1 %, so the 97.5 % point is that of three.
    assert (miss.low, miss.high) == pytest.approx((0, 0.225))
    # Hall: 0, 2, 0, 2 and 0, 4, 1, 0. Ranks 1.5, 3.5, 1.5, 3.5 and 1.5, 4, 3, 1.5; around their mean of 2.5:
    # -1, 1, -1, 1 and -1, 1.5, 0.5, -1: 1 + 1.5 - 0.5 - 1 = 1, by sqrt(4 * 4.5).
    assert hall.correlation == pytest.approx(1 / math.sqrt(18))
    assert hall.share_within_one_event == 0.5
    # Total: 2, 3, 0, 5 and 2, 5, 1, 6.
    assert (total.first_mean, total.second_mean) == pytest.approx((0.25, 0.35))
    assert (total.correlation, total.share_within_one_event) == (pytest.approx(1), 0.75)


def test_errors() -> None:
    rows = {(row.planted, row.category): row for row in swap_of().errors}
    found = {name: (row.num_pairs, row.num_both, row.num_only_first, row.num_only_second) for name, row in rows.items()}
    assert found == {
        ("dropped", "missed"): (1, 1, 1, 1),  # a; b; c
        ("dropped", "incorrect"): (1, 0, 0, 0),
        ("dropped", "hallucinated"): (1, 0, 0, 0),
        ("poor", "missed"): (2, 4, 0, 3),  # a and abc; def
        ("poor", "incorrect"): (2, 1, 0, 1),  # c; d
        ("poor", "hallucinated"): (2, 1, 2, 1),  # 1 and 2; 2 and 0
        ("none", "missed"): (1, 0, 0, 0),
        ("none", "incorrect"): (1, 0, 0, 0),
        ("none", "hallucinated"): (1, 0, 0, 1),
        ("all", "missed"): (4, 5, 1, 4),
        ("all", "incorrect"): (4, 1, 0, 1),
        ("all", "hallucinated"): (4, 1, 2, 2),
    }


def test_runs_have_their_median() -> None:
    runs = [run_of([("abc", "", 0)], "one", 0), run_of([None], "one", 1), run_of([("a", "", 0)], "one", 2)]
    swap = judge_swap(runs, [run_of([("ab", "", 0)], "two", run) for run in range(2)])
    # Median of 3 and 1 is 2, and run 1 of the first judge has nothing to be compared with.
    assert swap.rates[0].difference == 0
    assert swap.num_runs == (3, 2)
    missed = swap.errors[0]
    assert (missed.planted, missed.category, missed.num_pairs) == ("all", "missed", 1)
    assert (missed.num_both, missed.num_only_first, missed.num_only_second) == (2, 1, 0)


def test_a_judge_agrees_with_itself() -> None:
    swap = swap_of(FIRST, FIRST)
    for rate in swap.rates:
        assert (rate.difference, rate.low, rate.high, rate.share_within_one_event) == (0, 0, 0, 1)
        assert rate.correlation == pytest.approx(1)
    assert all(row.num_only_first == row.num_only_second == 0 for row in swap.errors)


def test_differences_of_one_event_are_within_one() -> None:
    # 0.3 - 0.2 is more than 0.1 in binary.
    swap = judge_swap([run_of([("abc", "", 0)], "one")], [run_of([("ab", "", 0)], "two")])
    assert swap.rates[0].share_within_one_event == 1
    assert (swap.rates[0].first_standard_error, swap.rates[0].correlation) == (None, None)


def test_nothing_in_common() -> None:
    swap = judge_swap([run_of([("a", "", 0), None], "one")], [run_of([None, ("", "", 0)], "two")])
    assert (swap.num_captions, swap.num_only_first, swap.num_only_second) == (0, 1, 1)
    assert (swap.rates, swap.errors) == ((), ())
    assert "0 captions scored by both" in swap.to_markdown()


def test_markdown_and_json() -> None:
    swap = swap_of()
    text = swap.to_markdown()
    assert "| miss | 15.0 % ± 6.5 | 22.5 % ± 13.1 | +7.5 (+0.0 to +22.5) | 1.000 | 75 % |" in text
    assert "| poor | missed | 2 | 4 | 0 | 3 |" in text
    assert "| none | hallucinated | 1 | 0 | 0 | 1 |" in text
    assert "| none | missed |" not in text
    assert JudgeSwap.from_json(swap.to_json_line()) == swap


def test_spearman() -> None:
    assert spearman([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)  # 1 - 6 * 2 / (3 * 8)
    assert spearman([1, 2, 3, 4], [8, 4, 2, 1]) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: (2.25 + 0 + 0 + 2.25) by sqrt(4.5 * 5), means taken off.
    assert spearman([0, 5, 5, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(22.5))
    assert spearman([1, 1], [1, 2]) is None
    assert spearman([], []) is None
    with pytest.raises(ConfigError, match="in pairs, got 1 and 2"):
        spearman([1], [1, 2])
    with pytest.raises(ConfigError, match="finite"):
        spearman([math.nan], [1])


def test_verdicts_that_do_not_fit() -> None:
    one, two = run_of(FIRST, "one"), run_of(SECOND, "two")
    with pytest.raises(ConfigError, match="on at least one caption"):
        judge_swap([], [two])
    with pytest.raises(ConfigError, match="same captions in the same order"):
        judge_swap([one], [two[::-1]])
    with pytest.raises(ConfigError, match="got one, two on one"):
        judge_swap([one, two], [two])
    with pytest.raises(ConfigError, match="got 1 kinds for 6 captions"):
        judge_swap([one], [two], planted=["none"])
    with pytest.raises(ConfigError, match=r"same events of a clip, got \[10, 11\] events"):
        judge_swap([one], [run_of(SECOND, "two", num_events=11)])
    with pytest.raises(RecordError, match="EventFindings"):
        judge_swap([one[:1]], [[Verdict(clip_id="c0", judge="two", findings={"score": 1})]])
