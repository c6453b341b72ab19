"""Two evaluated captioners on the same items: differences of every score, with intervals and tests.

    comparison = compare_runs("out/sft", "out/grpo")
    print(comparison.to_markdown())

A score of the reports is compared as they make it: by the mean of the items' values (of events: the median over the
runs), or by the ratio of the sums of what each item adds (pooled rates, accuracies over questions), always over the
items that both runs scored; the others are counted. A score that is made in another way (the F1 of DREAM-1K, from means
per part of the data set) is not compared: its items' mean is, under the name "NAME (mean over items)".
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError, RecordError
from avocet.evaluation.evaluate import ITEMS_FILE, REPORT_FILE, RUN_FILE
from avocet.evaluation.scores import PROTOCOL_SUFFIX
from avocet.metrics import Comparison, compare, compare_pooled
from avocet.records import Record

_TEXT_VALUES = {"repetition_rate": "repetition", "num_words": "words"}
_TEXT_FLAGS = {"collapse_sign": "collapse", "unnatural": "unnatural"}
_SETTINGS = ("benchmark", "judge", "protocol", "num_runs")


@dataclasses.dataclass(kw_only=True)
class _Run:
    """One folder."""

    report: dict[str, Any]
    base_url: str | None
    values: dict[str, dict[str, float | None]] = dataclasses.field(default_factory=dict)
    """Score -> item id -> value."""
    ratios: dict[str, dict[str, tuple[float, float] | None]] = dataclasses.field(default_factory=dict)
    """Score -> item id -> (numerator, denominator)."""

    @property
    def statistics(self) -> dict[str, str]:
        """Score -> how it comes from the items; reports of older versions do not say."""
        return {score["name"]: score.get("statistic", "other") for score in self.report["scores"]}


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
            "| score | A | B | A - B | 95 % interval | p (permutation) | pairs | left out: only A / only B / unscored "
            "| A larger / B larger | McNemar p |",
            "|---|---|---|---|---|---|---|---|---|---|",
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
                f"{one.num_only_a} / {one.num_only_b} / {one.num_unscored}",
                f"{one.num_a_larger} / {one.num_b_larger}",
                mcnemar,
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines += [f"\nWarning: {warning}" for warning in self.warnings]
        return "\n".join(lines) + "\n"


def compare_runs(folder_a: str | Path, folder_b: str | Path, benchmark: str | None = None) -> RunComparison:
    """Compare two folders of `avocet evaluate --out`.

    Raises `ConfigError` when a folder holds no finished evaluation or they are of different benchmarks (or of another
    than `benchmark`), `RecordError` for damaged files.
    """
    a, b = _read(Path(folder_a)), _read(Path(folder_b))
    names = [run.report["benchmark"] for run in (a, b)]
    if names[0] != names[1]:
        raise ConfigError(
            f"{folder_a} is of {names[0]} and {folder_b} of {names[1]}; only runs on the same benchmark can be compared"
        )
    if benchmark not in (None, names[0]):
        raise ConfigError(f"{folder_a} and {folder_b} are of {names[0]}, not of {benchmark}; name that benchmark")
    return RunComparison(
        name_a=str(folder_a),
        name_b=str(folder_b),
        captioner_a=a.report["captioner"],
        captioner_b=b.report["captioner"],
        scores={name: one for name, one in _comparisons(a, b).items() if one.num_pairs},
        warnings=tuple(_warnings(a, b)),
    )


def _comparisons(a: _Run, b: _Run) -> dict[str, Comparison]:
    found = {}
    for name, statistic in a.statistics.items():
        plain = name.removesuffix(PROTOCOL_SUFFIX["paper"])
        if b.statistics.get(name) != statistic:
            continue  # the other protocol's; a warning says that they differ
        if statistic == "ratio":
            found[name] = _compare_ratios(a.ratios.get(name, {}), b.ratios.get(name, {}))
        elif plain in a.values and plain in b.values:
            shown = name if statistic == "mean" else f"{name} (mean over items)"
            found[shown] = compare(a.values[plain], b.values[plain])
    return found


def _compare_ratios(
    a: Mapping[str, tuple[float, float] | None], b: Mapping[str, tuple[float, float] | None]
) -> Comparison:
    ratios = [ratio for side in (a, b) for ratio in side.values() if ratio is not None]
    if all(below == 1 for _, below in ratios):
        # One question per item: the ratio is a mean of zeros and ones, which has McNemar's test.
        first, second = ({item: ratio and ratio[0] for item, ratio in side.items()} for side in (a, b))
        return compare(first, second)
    return compare_pooled(a, b)


def _warnings(a: _Run, b: _Run) -> list[str]:
    facts = {name.replace("num_", "number of "): (a.report[name], b.report[name]) for name in _SETTINGS}
    facts["judge's sampling"] = (a.report.get("judge_settings"), b.report.get("judge_settings"))
    facts["judge's server"] = (a.base_url, b.base_url)
    return [f"{name} is {one!r} of A and {other!r} of B" for name, (one, other) in facts.items() if one != other]


def _read(folder: Path) -> _Run:
    run = _Run(report=_report(folder), base_url=_base_url(folder))
    path = folder / ITEMS_FILE
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line:
            try:
                entry = json.loads(line)
                _add(run, entry["clip_id"], entry)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RecordError(f"{path}:{number}: no line of an evaluation: {error!r:.100}") from error
    return run


def _base_url(folder: Path) -> str | None:
    """Where the judge was asked; None when no file says so."""
    try:
        facts = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RecordError(f"{folder / RUN_FILE} cannot be read: {error}") from error
    url = facts.get("base_url") if isinstance(facts, dict) else None
    return url if isinstance(url, str) else None


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
    needed = (*_SETTINGS, "captioner", "scores")
    if not isinstance(report, dict) or not all(name in report for name in needed):
        raise RecordError(f"{folder / REPORT_FILE}: expected an object with {', '.join(needed)}")
    return report


def _add(run: _Run, item_id: str, entry: Mapping[str, Any]) -> None:
    own: dict[str, float | None] = dict(entry["values"])
    facts = entry["text_facts"]
    if facts is not None:
        own |= {name: float(facts[field]) for field, name in _TEXT_VALUES.items()}
        own |= {name: float(bool(facts[field])) for field, name in _TEXT_FLAGS.items()}
        own["cut off"] = None if facts["is_cut_off"] is None else float(facts["is_cut_off"])
    for name, value in own.items():
        run.values.setdefault(name, {})[item_id] = value
    if entry["status"] == "missing":
        return
    ratios = entry.get("ratios", {})
    for name, statistic in run.statistics.items():
        if statistic == "ratio":
            above, below = ratios.get(name, (0.0, 0.0))
            run.ratios.setdefault(name, {})[item_id] = (float(above), float(below)) if below else None


def _number(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.4g}"
