"""Event rates under both protocols, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from avocet.errors import ConfigError, RecordError
from avocet.metrics import EventFindings, event_rates


def findings(num_events: int, missed: int = 0, incorrect: int = 0, hallucinated: int = 0) -> EventFindings:
    return EventFindings(
        num_events=num_events,
        missed=tuple(f"m{i}" for i in range(missed)),
        incorrect=tuple(f"i{i}" for i in range(incorrect)),
        hallucinated=tuple(f"h{i}" for i in range(hallucinated)),
    )


RUNS = [
    [findings(10, 2, 1, 1), findings(5, 1), None],
    [findings(10, 4), None, None],
    [findings(10, 3, 2), findings(5, 3, 0, 2), None],
]
"""
Rates of clip A: miss .2 .4 .3, hall .2 0 .2, total .4 .4 .5; of clip B: miss .2 .6, hall 0 .4, total .2 1.
Clip C is unscored in every run.
"""


def test_paper_protocol() -> None:
    rates = event_rates(RUNS, protocol="paper")
    # medians of A: miss .3, hall .2, total .4; of B (two runs, so the middle): .4, .2, .6
    assert rates.miss == pytest.approx(0.35)
    assert rates.hall == pytest.approx(0.2)
    assert rates.total == pytest.approx(0.5)
    # sample standard deviation of (.4, .6) = .2 / sqrt(2); divided by sqrt(2): .1
    assert rates.standard_error == pytest.approx(0.1)
    assert rates.miss_standard_error == pytest.approx(0.05)
    assert rates.hall_standard_error == pytest.approx(0.0)
    assert (rates.num_scored, rates.num_unscored, rates.num_events, rates.num_runs) == (2, 1, 15, 3)
    assert rates.run_index is None


def test_released_protocol() -> None:
    rates = event_rates(RUNS, protocol="released")
    # pooled totals: run 0 (4 + 1) / 15, run 1 4 / 10, run 2 (5 + 5) / 15; the median is run 1
    assert rates.run_index == 1
    assert (rates.miss, rates.hall, rates.total) == (0.4, 0.0, 0.4)
    assert (rates.num_scored, rates.num_unscored, rates.num_events) == (1, 2, 10)
    assert math.isnan(rates.standard_error)  # one caption says nothing about the spread


def test_released_standard_error_is_that_of_a_ratio() -> None:
    rates = event_rates(RUNS[:1], protocol="released")
    assert rates.total == pytest.approx(1 / 3)
    assert (rates.miss, rates.hall) == pytest.approx((3 / 15, 2 / 15))
    # residuals 4 - 10/3 = 2/3 and 1 - 5/3 = -2/3; sqrt(2/1 * 8/9) / 15 = (4/3) / 15
    assert rates.standard_error == pytest.approx(4 / 45)


def test_released_protocol_takes_the_lower_middle_of_an_even_number_of_runs() -> None:
    runs = [[findings(10, missed)] for missed in (5, 1, 3, 4)]  # sorted totals: .1 .3 .4 .5
    rates = event_rates(runs, protocol="released")
    assert (rates.total, rates.run_index) == (0.3, 2)
    equal = event_rates([[findings(10, 2)], [findings(10, 1, 1)]], protocol="released")
    assert (equal.run_index, equal.miss, equal.hall) == (0, 0.2, 0.0)


def test_the_protocols_weigh_captions_differently() -> None:
    run = [findings(10, 1), findings(2, 1)]
    assert event_rates([run], protocol="paper").total == pytest.approx((0.1 + 0.5) / 2)
    assert event_rates([run], protocol="released").total == pytest.approx(2 / 12)


def test_runs_as_mappings() -> None:
    named = [dict(zip("abc", run, strict=True)) for run in RUNS]
    for protocol in ("paper", "released"):
        assert repr(event_rates(named, protocol=protocol)) == repr(event_rates(RUNS, protocol=protocol))
    lacking = [{"a": findings(10, 1)}, {"b": findings(10, 3), "a": findings(10, 1)}]
    rates = event_rates(lacking)
    assert (rates.total, rates.num_scored, rates.num_unscored) == (0.2, 2, 0)


@pytest.mark.parametrize("protocol", ["paper", "released"])
def test_nothing_scored_is_nan_and_never_zero(protocol: str) -> None:
    for runs in ([[None, None]], [[]], [[None], [None]]):
        rates = event_rates(runs, protocol=protocol)  # type: ignore[arg-type]
        assert all(math.isnan(value) for value in (rates.miss, rates.hall, rates.total, rates.standard_error))
        assert (rates.num_scored, rates.num_unscored, rates.num_events) == (0, len(runs[0]), 0)


def test_clips_without_events() -> None:
    runs = [[findings(0, 0, 0, 2), findings(4, 1)]]
    paper = event_rates(runs, protocol="paper")
    assert (paper.total, paper.num_scored, paper.num_unscored) == (0.25, 1, 1)
    pooled = event_rates(runs, protocol="released")
    assert (pooled.total, pooled.num_scored) == (3 / 4, 2)
    assert math.isnan(event_rates([[findings(0, 0, 0, 2)]], protocol="released").total)


def test_findings_have_rates() -> None:
    item = findings(8, 2, 1, 3)
    assert (item.miss, item.hall, item.total) == (2 / 8, 4 / 8, 6 / 8)
    assert math.isnan(findings(0).total)


def test_findings_take_lists_and_refuse_what_cannot_be() -> None:
    item = EventFindings(num_events=2, missed=["a"], incorrect=(), hallucinated=[])  # type: ignore[arg-type]
    assert item.missed == ("a",)
    assert EventFindings.from_json(item.to_json_line()) == item
    for wrong in (-1, 2.5, math.nan, True, "3"):
        with pytest.raises(RecordError, match=f"num_events must be a whole number >= 0, got {wrong!r}"):
            EventFindings(num_events=wrong, missed=(), incorrect=(), hallucinated=())  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="2 missed and 1 incorrect events of only 2"):
        findings(2, 2, 1)
    with pytest.raises(RecordError, match="missed must be a tuple of strings, one per event, got 'ab'"):
        EventFindings(num_events=3, missed="ab", incorrect=(), hallucinated=())  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="hallucinated must be a tuple of strings"):
        EventFindings(num_events=3, missed=(), incorrect=(), hallucinated=(1,))  # type: ignore[arg-type]


def test_runs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="protocol must be one of paper, released, got 'median'"):
        event_rates(RUNS, protocol="median")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least one run"):
        event_rates([])
    with pytest.raises(ConfigError, match=r"different numbers of captions \(\[1, 2\]\)"):
        event_rates([[None], [None, None]])
    with pytest.raises(ConfigError, match="got both"):
        event_rates([[None], {"a": None}])
