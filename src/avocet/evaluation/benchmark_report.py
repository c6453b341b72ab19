"""The report of a benchmark run: scores with errors, what is missing or unscored and why, and every item's outcome.

`EvaluationReport` holds nothing that differs between two runs over the same replies (no times, no costs): those are
facts of a run and stand in `run.json`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from avocet.evaluation.captions import ImportedCaption
from avocet.evaluation.items import BenchmarkItem
from avocet.evaluation.published import PublishedRow, figures_under, published_rows, variant_under
from avocet.evaluation.scorers.base import Finding
from avocet.evaluation.scores import Breakdown, Score
from avocet.evaluation.text_scores import TextFacts
from avocet.metrics.events import Protocol
from avocet.records import Record, Verdict

ItemStatus = Literal["scored", "partly scored", "unscored", "missing"]
"""Every run scored with every question, some of them, none; or no caption."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemOutcome(Record):
    """One item of the benchmark, captioned or not."""

    item: BenchmarkItem
    status: ItemStatus
    reason: str | None = None
    """Why it is missing, or unscored in at least one run or question."""
    caption: ImportedCaption | None = None
    text: TextFacts | None = None
    values: dict[str, float | None] = dataclasses.field(default_factory=dict)
    ratios: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """(numerator, denominator) of the scores that are ratios."""
    verdicts: tuple[Verdict, ...] = ()
    findings: tuple[Finding, ...] = ()
    """Of the first scored run."""

    def line(self) -> dict[str, Any]:
        """As `items.jsonl` has it: what `avocet.evaluation.captions` reads as a caption, and all else that is known."""
        record = None if self.caption is None or self.caption.record is None else self.caption.record.to_dict()
        text = None if self.caption is None else self.caption.text
        return {
            "clip_id": self.item.id,
            "video": self.item.video,
            "start_seconds": self.item.start_seconds,
            "end_seconds": self.item.end_seconds,
            "status": self.status,
            "reason": self.reason,
            "caption": text if record is None else record,
            "values": self.values,
            "ratios": self.ratios,
            "text_facts": None if self.text is None else self.text.to_dict(),
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationReport(Record):
    """The figures of one captioner on one benchmark under one judge."""

    benchmark: str
    captioner: str
    """Model and revision where the captions say so, else the names of their files."""
    judge: str
    """Its identity: name, model and version of the prompt."""
    judge_settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """How it samples."""
    protocol: Protocol
    num_runs: int
    num_items: int
    num_published_items: int | None
    num_captioned: int
    num_scored: int
    """Items with at least one scored run."""
    num_partly_scored: int
    """Of these, the ones with a run or a question that is unscored."""
    num_unscored: int
    num_missing: int
    headline: str
    scores: tuple[Score, ...]
    """Of the judge first, then of the texts alone."""
    breakdowns: tuple[Breakdown, ...]
    unscored_reasons: dict[str, int]
    """Unscored verdicts by what stands before the first colon of their reason."""
    unscored_questions: dict[str, int] = dataclasses.field(default_factory=dict)
    """Questions without a score in verdicts that are scored, likewise. They are in no average."""
    missing: dict[str, str]
    """Item id -> why it has no caption."""
    warnings: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Score:
        """The score of a name. Raises `KeyError`."""
        for score in self.scores:
            if score.name == name:
                return score
        raise KeyError(name)

    def to_markdown(self, *, max_missing: int = 20) -> str:
        """The report for people; published rows below."""
        parts = [
            f"# {self.benchmark}: {self.captioner}",
            _facts(self),
            _score_table(self.scores),
            *(f"- {warning}" for warning in self.warnings),
            *(_breakdown_table(breakdown) for breakdown in self.breakdowns),
            _list("Unscored verdicts", (f"{count} × {reason}" for reason, count in self.unscored_reasons.items())),
            _list("Unscored questions", (f"{count} × {name}" for name, count in self.unscored_questions.items())),
            _list("Items without a caption", (f"{item}: {why}" for item, why in self.missing.items()), max_missing),
            published_table(self.scores, published_rows(self.benchmark)),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"


def _facts(report: EvaluationReport) -> str:
    published = report.num_published_items
    of = "" if published in (None, report.num_items) else f" of {published:,} published"
    runs = f"{report.num_runs} run{'s' if report.num_runs > 1 else ''}"
    settings = "".join(f", {name} {value}" for name, value in report.judge_settings.items())
    return (
        f"{report.num_items:,} items{of}: {report.num_captioned:,} with a caption, {report.num_scored:,} scored "
        f"({report.num_partly_scored:,} of them in part), {report.num_unscored:,} unscored, "
        f"{report.num_missing:,} without a caption.\nJudge: {report.judge}{settings}; {runs}; "
        f"protocol: {report.protocol}."
    )


def _score_table(scores: Sequence[Score]) -> str:
    rows = [(one.name, one.text(), one.interval_text() or "-", f"{one.num:,}", one.note) for one in scores]
    return _table(("score", "value ± standard error", "95 % interval", "n", ""), rows)


def _breakdown_table(breakdown: Breakdown) -> str:
    rows = [
        (
            group.name,
            Score(name="", value=group.value, standard_error=group.standard_error, num=group.num).text(),
            f"{group.num:,}",
            f"{group.num_unscored:,}",
        )
        for group in breakdown.groups
    ]
    header = (breakdown.by, breakdown.score, breakdown.of, "unscored")
    return f"## {breakdown.score} by {breakdown.by}\n\n{_table(header, rows)}"


def published_table(scores: Sequence[Score], rows: Sequence[PublishedRow]) -> str:
    """Own figures (first row) and published ones, one table for each source; "" when nothing is published."""
    parts = []
    for source in dict.fromkeys(row.source for row in rows):
        of_source = [row for row in rows if row.source == source]
        protocol = of_source[0].protocol
        own = figures_under(protocol, scores)
        names = list(dict.fromkeys(name for row in of_source for name in row.values))
        title = f"**this run**{variant_under(protocol, scores)}"
        lines = [(title, *(own[name].text() if name in own else "-" for name in names))]
        for row in of_source:
            cells = (_published(row.values.get(name), own.get(name)) for name in names)
            lines.append((row.model, *cells))
        parts.append(f"{source}; {of_source[0].note}:\n\n{_table(('model', *names), lines)}")
    return "## Published\n\n" + "\n\n".join(parts) if parts else ""


def _published(value: float | None, own: Score | None) -> str:
    unit = "percent" if own is None else own.unit
    return Score(name="", value=value, num=0, unit=unit).text()


def _list(title: str, entries: Iterable[str], at_most: int | None = None) -> str:
    lines = list(entries)
    shown = [f"- {_cell(line)}" for line in lines[:at_most]]
    if len(lines) > len(shown):
        shown.append(f"- and {len(lines) - len(shown):,} more (items.jsonl has all)")
    return f"## {title}\n\n" + "\n".join(shown) if lines else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in (header, *rows)]
    lines.insert(1, "|" + "---|" * len(header))
    return "\n".join(lines)


def _cell(text: str) -> str:
    """One line, without what would end the cell; ids and reasons come from files."""
    return " ".join(text.split()).replace("|", "\\|")


def count_reasons(reasons: Iterable[str | None]) -> dict[str, int]:
    """Reasons counted by what stands before their first colon, the most frequent first."""
    return dict(Counter((reason or "").partition(":")[0] for reason in reasons).most_common())
