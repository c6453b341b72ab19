"""What the gate keeps and refuses, and on which clips it compares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from avocet.errors import ConfigError
from avocet.training.mrdpo.gate import HeldOutScores, StopRules, gate, summarise
from avocet.training.mrdpo.records import Candidates, CaptionScore, SampledCaption

UNSCORED = math.nan


def held_out(
    totals: Sequence[float] = (0.3,) * 10,
    right: int = 4,
    num_questions: int = 5,
    num_failed: int = 0,
    first: int = 0,
    **text: Any,
) -> HeldOutScores:
    """Clips of these Total errors, and so many right answers."""
    told = [
        Candidates(
            key=f"clip-{first + place}",
            captions=(SampledCaption(text="A ball rolls.", stop_reason="end", num_tokens=4),),
        )
        for place in range(len(totals))
    ]
    facts = {"hall": 0.0, "repetition_rate": 0.01, "unnatural": False, **text}
    scores = [
        CaptionScore(miss=total, error_rate=total, reason="no reply" if math.isnan(total) else None, **facts)
        for total in totals
    ]
    return summarise(told, scores, [number < right for number in range(num_questions)], num_failed, num_questions)


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (held_out([0.25] * 10), None),
        (held_out([0.31] * 10), "Total error 0.310 is above 0.300 of the best model"),
        (held_out([UNSCORED] * 10), "Total error could not be measured"),
        (held_out(unnatural=True), "unnatural captions: 1.000"),
        (held_out(right=3), "QA accuracy 0.600, at first 0.800"),
        (held_out(right=5), None),
        (held_out(num_questions=0), "QA accuracy not measured"),
    ],
)
def test_gate(now: HeldOutScores, reason: str | None) -> None:
    decision = gate(now, held_out(), held_out(), StopRules())
    assert (decision.decision == "kept") == (reason is None)
    assert reason is None or decision.reasons[0].startswith(reason)


def test_rounds_are_compared_on_clips_that_both_scored() -> None:
    """Clips 0 to 8 are easy and clip 9 is hard. A round that did not have the hard one scored looks better by that."""
    best = held_out([*[0.2] * 9, 1.0])
    assert best.total == pytest.approx(0.28)
    without = held_out([*[0.21] * 9, UNSCORED])
    assert without.total == pytest.approx(0.21)
    (reason,) = gate(without, best, best, StopRules()).reasons
    assert reason == "Total error 0.210 is above 0.200 of the best model (allowed: +0), on 9 clips"
    # The same rates on other clips are the same mean to the last digit.
    swapped = held_out([1.0, *[0.2] * 9])
    assert gate(swapped, best, best, StopRules()).decision == "kept"


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        # One caption of a hundred was scored, and it is good.
        (
            held_out([0.1, *[UNSCORED] * 99]),
            "could not be compared on 99 of 100 held-out captions (allowed: 10%): 99 are unscored, the clips of 0",
        ),
        # Three clips of a hundred could be read.
        (
            held_out([0.1] * 3, num_failed=97),
            "could not be compared on 97 of 100 held-out captions (allowed: 10%): 0 are unscored, the clips of 97",
        ),
        # All of them other clips than those of the best model, but for ten.
        (held_out([0.1] * 100, first=90), "could not be compared on 90 of 100 held-out captions"),
    ],
)
def test_a_round_that_was_hardly_measured_is_refused(now: HeldOutScores, reason: str) -> None:
    best = held_out([0.4] * 100)
    (found,) = gate(now, best, best, StopRules()).reasons
    assert reason in found
    assert gate(now, best, best, StopRules(max_unmeasured=1.0)).decision == "kept"


def test_a_tenth_of_the_captions_may_be_missing_and_no_more() -> None:
    best = held_out([0.4] * 20)
    assert gate(held_out([0.4] * 18, num_failed=2), best, best, StopRules()).decision == "kept"
    assert gate(held_out([0.4] * 17, num_failed=3), best, best, StopRules()).decision == "refused"


def test_questions_that_were_not_answered() -> None:
    first = held_out(num_questions=20, right=16)
    scores = summarise([], [], [True] * 17, 0, 20)
    assert (scores.num_unanswered, scores.num_failed, scores.qa_accuracy) == (3, 3, 1.0)
    reasons = gate(scores, first, first, StopRules()).reasons
    assert "3 of 20 held-out questions were not answered (allowed: 10%)" in reasons


def test_limits_must_be_shares() -> None:
    with pytest.raises(ConfigError, match="max_unmeasured at most 1"):
        StopRules(max_unmeasured=1.5)
    with pytest.raises(ConfigError, match="limits must be >= 0"):
        StopRules(max_total_rise=-0.1)
