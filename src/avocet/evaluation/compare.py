"""Two evaluated captioners on the same items: differences of every score, with intervals and tests.

    comparison = compare_runs("out/sft", "out/grpo")
    print(comparison.to_markdown())

Each item counts once, with its own value (of events: the median over the runs). Pooled rates have no value per item
and are left to the reports. Tests pair the items that both runs scored; the others are counted.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError, RecordError
from avocet.evaluation.evaluate import ITEMS_FILE, REPORT_FILE
from avocet.metrics import Comparison, compare
from avocet.records import Record

_TEXT_VALUES = {"repetition_rate": "repetition", "num_words": "words"}
_TEXT_FLAGS = {"collapse_sign": "collapse", "unnatural": "unnatural"}
_SETTINGS = ("benchmark", "judge", "protocol", "num_runs")

Values = dict[str, dict[str, float | None]]
"""Score -> item id -> value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunComparison(Record):
    """Run A against run B, score by score."""

    name_a: str
    name_b: str
    captioner_a: str
    captioner_b: str
    scores: dict[str, Comparison]
    warnings: tuple[str, ...] = ()
    """What makes the runs hard to compare."""

    def to_markdown(self) -> str:
        """The comparison for people; fractions as they are."""
        lines = [
            f"A: {self.captioner_a} ({self.name_a})",
            f"B: {self.captioner_b} ({self.name_b})",
            "",
            "| score | A | B | A - B | 95 % interval | p (permutation) | pairs | A larger / B larger | McNemar p |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, one in self.scores.items():
            exact = "" if one.is_exact else " (drawn)"
            mcnemar = "-" if one.mcnemar_p_value is None else f"{one.mcnemar_p_value:.4f}"
            cells = (
                name,
                _number(one.mean_a),
                _number(one.mean_b),
                _number(one.difference, "+"),
                f"{_number(one.low, '+')} to {_number(one.high, '+')}",
                f"{_number(one.p_value)}{exact}",
                str(one.num_pairs),
                f"{one.num_a_larger} / {one.num_b_larger}",
                mcnemar,
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines += [f"\nWarning: {warning}" for warning in self.warnings]
        return "\n".join(lines) + "\n"


def compare_runs(folder_a: str | Path, folder_b: str | Path) -> RunComparison:
    """Compare two folders of `avocet evaluate --out`.

    Raises `ConfigError` when a folder holds no finished evaluation or they are of different benchmarks, `RecordError`
    for damaged files.
    """
    report_a, report_b = _report(Path(folder_a)), _report(Path(folder_b))
    if report_a["benchmark"] != report_b["benchmark"]:
        raise ConfigError(
            f"{folder_a} is of {report_a['benchmark']} and {folder_b} of {report_b['benchmark']}; only runs on the "
            "same benchmark can be compared"
        )
    values_a, values_b = _values(Path(folder_a)), _values(Path(folder_b))
    scores = {name: compare(values_a[name], values_b[name]) for name in values_a if name in values_b}
    warnings = [
        f"{name.replace('num_', 'number of ')} is {report_a[name]!r} of A and {report_b[name]!r} of B"
        for name in _SETTINGS
        if report_a[name] != report_b[name]
    ]
    return RunComparison(
        name_a=str(folder_a),
        name_b=str(folder_b),
        captioner_a=report_a["captioner"],
        captioner_b=report_b["captioner"],
        scores={name: one for name, one in scores.items() if one.num_pairs},
        warnings=tuple(warnings),
    )


def _report(folder: Path) -> dict[str, Any]:
    try:
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{folder} holds no finished evaluation ({REPORT_FILE}: {error.strerror}); make one with "
            "`avocet evaluate BENCHMARK --out FOLDER`"
        ) from error
    except ValueError as error:
        raise RecordError(f"{folder / REPORT_FILE}: not JSON: {error}") from error
    needed = (*_SETTINGS, "captioner")
    if not isinstance(report, dict) or not all(name in report for name in needed):
        raise RecordError(f"{folder / REPORT_FILE}: expected an object with {', '.join(needed)}")
    return report


def _values(folder: Path) -> Values:
    values: Values = {}
    path = folder / ITEMS_FILE
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line:
            try:
                entry = json.loads(line)
                _add(values, entry["clip_id"], entry)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RecordError(f"{path}:{number}: no line of an evaluation: {error!r:.100}") from error
    return values


def _add(values: Values, item_id: str, entry: Mapping[str, Any]) -> None:
    own: dict[str, float | None] = dict(entry["values"])
    facts = entry["text_facts"]
    if facts is not None:
        own |= {name: float(facts[field]) for field, name in _TEXT_VALUES.items()}
        own |= {name: float(bool(facts[field])) for field, name in _TEXT_FLAGS.items()}
    for name, value in own.items():
        values.setdefault(name, {})[item_id] = value


def _number(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.4g}"
