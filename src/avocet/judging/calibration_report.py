"""What a calibration comes to: how often a judge agrees with the truth, its bias and its spread, as tables for people.

`avocet.judging.calibration` fills these records in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from avocet.errors import ConfigError
from avocet.records import Record

Category = Literal["missed", "incorrect", "hallucinated"]
EventStatus = Literal["right", "missed", "incorrect"]
Rate = Literal["miss", "hall", "total"]

ALL_ERRORS = "all"
"""Name of the row about all captions."""

CATEGORIES: tuple[Category, ...] = get_args(Category)
STATUSES: tuple[EventStatus, ...] = get_args(EventStatus)
RATES: tuple[Rate, ...] = get_args(Rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement(Record):
    """The errors of one category in the verdicts of one row. Ratios are None where there is nothing to divide by."""

    num_true: int
    num_reported: int
    num_agreed: int
    recall: float | None
    """Agreed / true."""
    precision: float | None
    """Agreed / reported."""
    mean_count_error: float | None
    """Mean over verdicts of reported - true."""
    mean_absolute_count_error: float | None
    num_by_events: int
    """Verdicts compared event by event."""
    num_by_counts: int
    """Verdicts of which only the numbers could be compared."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorRow(Record):
    """The verdicts on captions with one kind of planted error, all runs together."""

    error: str
    num_items: int
    num_scored: int
    """Verdicts."""
    num_unscored: int
    missed: Agreement
    incorrect: Agreement
    hallucinated: Agreement
    share_exact: float | None
    """Scored verdicts with the right number in each category."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bias(Record):
    """How much one rate is off: the judge's mean over runs minus the true rate, averaged over captions."""

    rate: Rate
    true_mean: float | None
    judge_mean: float | None
    bias: float | None
    low: float | None
    """Bootstrap interval of `bias` over captions."""
    high: float | None
    confidence: float
    num_items: int
    """Captions with at least one scored run and at least one event."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread(Record):
    """How much one rate changes when the same captions are judged again."""

    rate: Rate
    run_means: tuple[float | None, ...]
    """Mean over the scored captions of each run; runs with different unscored captions are about different ones."""
    mean_deviation: float | None
    """Mean over captions of the sample standard deviation over runs."""
    share_unchanged: float | None
    """Captions with the same rate in all of their runs."""
    num_items: int
    """Captions with at least two scored runs and at least one event."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeCalibration(Record):
    """How wrong a judge is."""

    judge: str
    num_items: int
    num_runs: int
    num_scored: int
    num_unscored: int
    """Verdicts; nothing below includes unscored ones."""
    unscored_reasons: dict[str, int]
    """By what stands before the first colon, such as "unreadable reply"; the rest differs from verdict to verdict."""
    overall: ErrorRow
    by_error: tuple[ErrorRow, ...]
    """In the order in which kinds of error first occur in the set."""
    biases: tuple[Bias, ...]
    """Of miss, hall and total."""
    spreads: tuple[Spread, ...]
    confusion: dict[str, dict[str, dict[str, int]]]
    """[kind of event][true status][the judge's status] -> events, over the verdicts compared event by event. Statuses
    are "right", "missed" and "incorrect"."""

    def to_markdown(self) -> str:
        """The report for people: tables of agreement, of bias and spread, and of confusion."""
        parts = [
            f"Judge: {self.judge}",
            f"{self.num_items} captions, {self.num_runs} runs: {self.num_scored} verdicts scored, "
            f"{self.num_unscored} unscored"
            + "".join(f"\n- {count} unscored: {reason}" for reason, count in self.unscored_reasons.items()),
            _agreement_table([*self.by_error, self.overall]),
            _rate_table(self.biases, self.spreads),
        ]
        return "\n\n".join([*parts, *([_confusion_table(self.confusion)] if self.confusion else [])]) + "\n"


def judge_swap_table(calibrations: Sequence[JudgeCalibration]) -> str:
    """Several judges side by side, in Markdown: what changes when the same captions are given to another judge.

    Raises `ConfigError` for judges whose captions were not of the same kinds and number.
    """
    shapes = {tuple((row.error, row.num_items) for row in report.by_error) for report in calibrations}
    if len(shapes) != 1:
        raise ConfigError(
            f"judges can be compared on the same captions only, got {len(calibrations)} reports on {len(shapes)} sets"
        )
    rows = [
        [row.error, category, *(_recall_precision(getattr(row_of, category)) for row_of in same)]
        for same in zip(*([*report.by_error, report.overall] for report in calibrations), strict=True)
        for row in same[:1]
        for category in CATEGORIES
    ]
    for place, rate in enumerate(RATES):
        rows.append(["bias", rate, *(_bias_text(report.biases[place]) for report in calibrations)])
        rows.append(["spread", rate, *(_percent(report.spreads[place].mean_deviation) for report in calibrations)])
    rows.append(["unscored", "", *(str(report.num_unscored) for report in calibrations)])
    return _table(["planted", "", *(report.judge for report in calibrations)], rows) + "\n"


def _agreement_table(rows: Sequence[ErrorRow]) -> str:
    columns = ["planted", "captions", "verdicts", "unscored", "counts exact"]
    columns += [f"{category}: true, reported, recall / precision" for category in CATEGORIES]
    lines = [
        [row.error, str(row.num_items), str(row.num_scored), str(row.num_unscored), _percent(row.share_exact)]
        + [
            f"{found.num_true}, {found.num_reported}, {_recall_precision(found)}"
            for found in (row.missed, row.incorrect, row.hallucinated)
        ]
        for row in rows
    ]
    overall = rows[-1]
    by_counts = [f"{name} {getattr(overall, name).num_by_counts} of {overall.num_scored}" for name in CATEGORIES]
    return f"{_table(columns, lines)}\n\nVerdicts compared by numbers only (the best case): {', '.join(by_counts)}."


def _rate_table(biases: Sequence[Bias], spreads: Sequence[Spread]) -> str:
    columns = ["rate", "true", "judge", "bias", "captions", "spread over runs", "unchanged", "means of runs"]
    lines = [
        [
            *(bias.rate, _percent(bias.true_mean), _percent(bias.judge_mean), _bias_text(bias), str(bias.num_items)),
            *(_percent(spread.mean_deviation), _percent(spread.share_unchanged)),
            ", ".join(map(_percent, spread.run_means)),
        ]
        for bias, spread in zip(biases, spreads, strict=True)
    ]
    return _table(columns, lines)


def _confusion_table(confusion: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    lines = [
        [kind, true, *(str(found[status]) for status in STATUSES)]
        for kind, table in confusion.items()
        for true, found in table.items()
    ]
    return _table(["events", "truth", *(f"judged {status}" for status in STATUSES)], lines)


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells)


def _recall_precision(found: Agreement) -> str:
    return f"{_percent(found.recall)} / {_percent(found.precision)}"


def _bias_text(bias: Bias) -> str:
    if bias.bias is None or bias.low is None or bias.high is None:
        return "-"
    return f"{100 * bias.bias:+.1f} ({100 * bias.low:+.1f} to {100 * bias.high:+.1f})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
