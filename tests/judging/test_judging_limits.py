"""Pace and pauses on a clock that the test moves; waits that servers ask for."""

from __future__ import annotations

import pytest

from avocet.errors import ConfigError
from avocet.judging._transport import retry_after_seconds
from avocet.judging.limits import CostCeiling, Pace, Pause


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_pace_spreads_evenly() -> None:
    clock = Clock()
    pace = Pace(120, clock)  # two a second
    assert [pace.book(1) for _ in range(4)] == pytest.approx([0, 0.5, 1.0, 1.5])
    clock.now += 2.0
    assert pace.book(1) == 0


def test_pace_lets_through_a_second_that_was_not_used() -> None:
    clock = Clock()
    pace = Pace(120, clock)
    clock.now += 60
    assert [pace.book(1) for _ in range(4)] == pytest.approx([0, 0, 0, 0.5])


def test_pace_takes_large_amounts_and_corrections() -> None:
    clock = Clock()
    pace = Pace(6000, clock)  # 100 tokens a second
    assert pace.book(1000) == 0  # more than fits into a second passes, and the next one waits for it
    assert pace.book(10) == pytest.approx(10)
    pace.correct(-910)  # the 1000 were only 90
    assert pace.book(10) == pytest.approx(1.0)
    assert Pace(None, clock).book(10**9) == 0


def test_pauses_do_not_shorten_each_other() -> None:
    clock = Clock()
    pause = Pause(clock)
    pause.extend(5)
    pause.extend(2)
    assert pause.seconds_left == 5
    clock.now += 6
    assert pause.seconds_left == 0


def test_an_impossible_ceiling() -> None:
    with pytest.raises(ConfigError, match="max_cost_usd must be >= 0, got -1"):
        CostCeiling(max_usd=-1)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 60),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:10 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, now=40.0) == seconds
