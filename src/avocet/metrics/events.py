"""Event rates of captions: how many of a clip's events are missed, told wrongly or invented.

Miss = missed / events, Hall = (incorrect + hallucinated) / events, Total = Miss + Hall (video-SALMONN 2, section
4.2). The paper and the code released with the test set average differently; both protocols are here:

- `paper`: every caption is judged several times; each of its three rates is the median over the runs that
  scored it; the result is the mean over captions, with the standard error s / sqrt(n). Since medians do not add,
  Total may differ slightly from Miss + Hall.
- `released`: counts are pooled over captions in each run, and the run of median Total is reported (of an even
  number of runs the lower middle one; of equal totals the earlier run first). The standard error is that of a
  ratio of two sums over captions (linearised), since the captions are what was sampled.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from avocet.errors import ConfigError, RecordError
from avocet.metrics.statistics import mean_with_error, ratio_of_sums
from avocet.records import Record

Protocol = Literal["paper", "released"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventFindings(Record):
    """What one judge found in one caption. Lists are taken as tuples; their lengths are the counts."""

    num_events: int
    """Atomic events of the clip."""
    missed: tuple[str, ...]
    """Events that the caption does not mention."""
    incorrect: tuple[str, ...]
    """Events that it describes wrongly."""
    hallucinated: tuple[str, ...]
    """What it describes and the clip does not contain."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.num_events, int) or isinstance(self.num_events, bool) or self.num_events < 0:
            raise RecordError(f"{name}: num_events must be a whole number >= 0, got {self.num_events!r}")
        for field in ("missed", "incorrect", "hallucinated"):
            value: Any = getattr(self, field)
            if isinstance(value, str) or not all(isinstance(item, str) for item in value):
                raise RecordError(f"{name}: {field} must be a tuple of strings, one per event, got {value!r}")
            object.__setattr__(self, field, tuple(value))
        if len(self.missed) + len(self.incorrect) > self.num_events:
            raise RecordError(
                f"{name}: {len(self.missed)} missed and {len(self.incorrect)} incorrect events of only "
                f"{self.num_events}; a verdict like this should be recorded as unscored"
            )

    @property
    def miss(self) -> float:
        """missed / events; nan without events."""
        return _ratio(len(self.missed), self.num_events)

    @property
    def hall(self) -> float:
        """(incorrect + hallucinated) / events; nan without events."""
        return _ratio(len(self.incorrect) + len(self.hallucinated), self.num_events)

    @property
    def total(self) -> float:
        """(missed + incorrect + hallucinated) / events; nan without events."""
        return _ratio(len(self.missed) + len(self.incorrect) + len(self.hallucinated), self.num_events)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventRates(Record):
    """Rates over a set of captions (fractions, not percent) with what they rest on. nan: nothing to divide by."""

    protocol: Protocol
    miss: float
    hall: float
    total: float
    standard_error: float
    """Of `total`; nan with fewer than two scored captions."""
    miss_standard_error: float
    hall_standard_error: float
    num_scored: int
    """Captions that the rates rest on."""
    num_unscored: int
    """The other captions. `paper`: unscored in every run, or of a clip without events (which has no rate of its own).
    `released`: unscored in the reported run."""
    num_events: int
    """Events of the scored captions."""
    num_runs: int
    run_index: int | None
    """`released`: the run that is reported."""


Run = Sequence[EventFindings | None] | Mapping[str, EventFindings | None]


def event_rates(runs: Sequence[Run], protocol: Protocol = "paper") -> EventRates:
    """Rates of judge runs over the same captions; `runs[run][clip]` is the findings, or None when unscored.

    Runs are all sequences of one length, or all mappings from clip ids (a clip that one of them lacks is unscored
    there). Raises `ConfigError` for an unknown protocol, no runs, or runs that do not fit each other.
    """
    if protocol not in get_args(Protocol):
        raise ConfigError(f"protocol must be one of {', '.join(get_args(Protocol))}, got {protocol!r}")
    columns = _columns(runs)
    return _paper_rates(columns, len(runs)) if protocol == "paper" else _released_rates(columns, len(runs))


def _ratio(count: float, num_events: int) -> float:
    return count / num_events if num_events else math.nan


def _columns(runs: Sequence[Run]) -> list[list[EventFindings | None]]:
    """Per clip, its findings in every run."""
    if not runs:
        raise ConfigError("event_rates needs at least one run, got none")
    by_id = [run for run in runs if isinstance(run, Mapping)]
    in_order = [run for run in runs if not isinstance(run, Mapping)]
    if by_id and in_order:
        raise ConfigError("all runs must be sequences, or all mappings from clip ids; got both")
    if by_id:
        clip_ids = dict.fromkeys(clip_id for run in by_id for clip_id in run)
        return [[run.get(clip_id) for run in by_id] for clip_id in clip_ids]
    lengths = sorted({len(run) for run in in_order})
    if len(lengths) > 1:
        raise ConfigError(
            f"runs cover different numbers of captions ({lengths}); give None for an unscored one, "
            "or mappings from clip ids"
        )
    return [[run[index] for run in in_order] for index in range(lengths[0])]


def _paper_rates(columns: list[list[EventFindings | None]], num_runs: int) -> EventRates:
    scored = [[item for item in column if item is not None and item.num_events > 0] for column in columns]
    scored = [column for column in scored if column]
    miss = mean_with_error([statistics.median(item.miss for item in column) for column in scored])
    hall = mean_with_error([statistics.median(item.hall for item in column) for column in scored])
    total = mean_with_error([statistics.median(item.total for item in column) for column in scored])
    return EventRates(
        protocol="paper",
        miss=miss.mean,
        hall=hall.mean,
        total=total.mean,
        standard_error=total.standard_error,
        miss_standard_error=miss.standard_error,
        hall_standard_error=hall.standard_error,
        num_scored=len(scored),
        num_unscored=len(columns) - len(scored),
        num_events=sum(column[0].num_events for column in scored),
        num_runs=num_runs,
        run_index=None,
    )


def _released_rates(columns: list[list[EventFindings | None]], num_runs: int) -> EventRates:
    found = [[item for column in columns if (item := column[run]) is not None] for run in range(num_runs)]
    totals = [ratio_of_sums([_errors(item) for item in run], [item.num_events for item in run])[0] for run in found]
    usable = sorted((total, run) for run, total in enumerate(totals) if not math.isnan(total))
    run_index = usable[(len(usable) - 1) // 2][1] if usable else None
    chosen = found[run_index] if run_index is not None else []
    events = [item.num_events for item in chosen]
    miss, miss_error = ratio_of_sums([len(item.missed) for item in chosen], events)
    hall, hall_error = ratio_of_sums([len(item.incorrect) + len(item.hallucinated) for item in chosen], events)
    total, total_error = ratio_of_sums([_errors(item) for item in chosen], events)
    return EventRates(
        protocol="released",
        miss=miss,
        hall=hall,
        total=total,
        standard_error=total_error,
        miss_standard_error=miss_error,
        hall_standard_error=hall_error,
        num_scored=len(chosen),
        num_unscored=len(columns) - len(chosen),
        num_events=sum(events),
        num_runs=num_runs,
        run_index=run_index,
    )


def _errors(findings: EventFindings) -> int:
    return len(findings.missed) + len(findings.incorrect) + len(findings.hallucinated)
