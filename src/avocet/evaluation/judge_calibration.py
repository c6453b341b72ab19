"""Everything that is known about a judge, in one report: planted errors, reference pairs, and another judge beside it.

    plan = make_plan(load_benchmark("vs2").read(FILE), theatre_level=2, num_clips=20)
    report = plan.calibrate([EventJudge(client)], folder=Path("runs/judge"))
    print(report.to_markdown())

The folder holds a ledger of verdicts per judge and set (a killed run goes on from there), `items.jsonl` (one line per
caption with the truth and every verdict), `calibration.json` and `calibration.md`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError
from avocet.evaluation.calibration_set import ERRORS, TheatreCalibrationItem, calibration_set
from avocet.evaluation.calibration_vs2 import VS2_ERRORS, case_of, vs2_calibration_set
from avocet.evaluation.exact_judge import ExactEventJudge
from avocet.evaluation.items import BenchmarkItem
from avocet.evaluation.reference_pairs import (
    REFERENCE_ERRORS,
    ReferencePair,
    Sensitivity,
    cases_of,
    reference_pairs,
    sensitivity,
)
from avocet.evaluation.verdicts import Case, collect_verdicts
from avocet.judging.calibration import CalibrationItem, calibrate
from avocet.judging.calibration_report import JudgeCalibration, judge_swap_table
from avocet.judging.judge import Judge
from avocet.judging.judge_swap import JudgeSwap, judge_swap
from avocet.records import Record, Verdict

REPORT_FILE = "calibration.json"
MARKDOWN_FILE = "calibration.md"
ITEMS_FILE = "items.jsonl"

THEATRE, VS2, REFERENCES = "theatre", "vs2", "references"
_FOLDERS = ("judge", "against")
"""Of the first and the second judge's verdicts."""
_TITLES = {
    THEATRE: "Captions of staged scripts with planted errors (theatre)",
    VS2: "Captions made of the events of real videos, with planted errors (vs2)",
    REFERENCES: "Reference captions of real videos, with and without a change (vs2)",
}

Progress = Callable[[int, int], None]
Runs = list[list[Verdict]]
"""[run][caption]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationReport(Record):
    """One or two judges on the same captions."""

    num_clips: int
    seed: int
    num_runs: int
    num_captions: int
    num_scored: int
    """Verdicts, of all judges."""
    num_unscored: int
    calibrations: dict[str, tuple[JudgeCalibration, ...]]
    """Set -> the calibration of each judge."""
    sensitivities: tuple[Sensitivity, ...]
    """On reference pairs, of each judge; () without them."""
    swaps: dict[str, JudgeSwap]
    """Set -> the second judge beside the first."""
    costs: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Model -> `RunSummary` of this run, in which cached replies and verdicts of an earlier run cost nothing."""

    def to_markdown(self, cost_lines: Sequence[str] = ()) -> str:
        """The report for people; `cost_lines` stand at its end."""
        parts = ["# Calibration of a judge" if len(self._judges) == 1 else "# Calibration of two judges"]
        parts.append(
            f"{self.num_captions} captions from {self.num_clips} clips per set (seed {self.seed}), {self.num_runs} "
            f"runs; {self.num_scored} verdicts scored, {self.num_unscored} unscored"
        )
        for name, reports in self.calibrations.items():
            parts += [f"## {_TITLES[name]}", *(report.to_markdown().rstrip() for report in reports)]
            if len(reports) > 1:
                parts += ["### Recall / precision side by side", judge_swap_table(reports).rstrip()]
            parts += self._swap_part(name)
        if self.sensitivities:
            parts += [f"## {_TITLES[REFERENCES]}", *(each.to_markdown().rstrip() for each in self.sensitivities)]
            parts += self._swap_part(REFERENCES)
        if cost_lines:
            parts += ["## Cost of this run", "\n".join(f"- {line}" for line in cost_lines)]
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path, markdown: str) -> None:
        """`calibration.json` and `calibration.md`, each replaced at once."""
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / REPORT_FILE, json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n")
        _replace(folder / MARKDOWN_FILE, markdown)

    @property
    def _judges(self) -> tuple[str, ...]:
        reports: Sequence[JudgeCalibration | Sensitivity] = next(iter(self.calibrations.values()), self.sensitivities)
        return tuple(report.judge for report in reports)

    def _swap_part(self, name: str) -> list[str]:
        return ["### Another judge", self.swaps[name].to_markdown().rstrip()] if name in self.swaps else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationPlan:
    """The captions that judges are shown."""

    num_clips: int
    seed: int
    runs: int
    sets: Mapping[str, Sequence[CalibrationItem]]
    """Set -> captions with known errors."""
    pairs: Sequence[ReferencePair] = ()

    @property
    def num_captions(self) -> int:
        """How many captions each judge is shown, each once per run."""
        return sum(map(len, self.sets.values())) + len(cases_of(self.pairs))

    def judge_all(
        self, judge: Judge[Any], *, folder: Path | None = None, progress: Progress | None = None
    ) -> dict[str, Runs]:
        """Set -> verdicts of one judge. Raises what `collect_verdicts` raises."""
        items = {name: [_shown(judge, item) for item in each] for name, each in self.sets.items()}
        if self.pairs:
            items[REFERENCES] = list(cases_of(self.pairs))
        done = 0
        found: dict[str, Runs] = {}
        for name, each in items.items():
            cases = [Case(key=item.clip_id, item=item) for item in each]
            judged = collect_verdicts(
                judge,
                cases,
                runs=self.runs,
                folder=None if folder is None else folder / name,
                progress=_shifted(progress, done, self.runs * self.num_captions),
            )
            found[name] = [[case.verdicts[run] for case in judged] for run in range(self.runs)]
            done += len(cases) * self.runs
        return found

    def calibrate(
        self, judges: Sequence[Judge[Any]], *, folder: Path | None = None, progress: Progress | None = None
    ) -> CalibrationReport:
        """Judge all captions by one judge, or two, and compare.

        Args:
            folder: keeps verdicts and `items.jsonl`; see the module's description. None keeps nothing.
            progress: called with (finished, all) after each verdict of a judge.

        Raises `ConfigError` for no judges or more than two, and what `collect_verdicts` raises.
        """
        if not 1 <= len(judges) <= 2:
            raise ConfigError(f"one judge is calibrated, or two side by side; got {len(judges)}")
        verdicts = [
            self.judge_all(judge, folder=None if folder is None else folder / place, progress=progress)
            for place, judge in zip(_FOLDERS, judges, strict=False)
        ]
        if folder is not None:
            lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in self._lines(verdicts))
            _replace(folder / ITEMS_FILE, "".join(lines))
        flat = [verdict for by_set in verdicts for runs in by_set.values() for run in runs for verdict in run]
        num_scored = sum(verdict.status == "scored" for verdict in flat)
        return CalibrationReport(
            num_clips=self.num_clips,
            seed=self.seed,
            num_runs=self.runs,
            num_captions=self.num_captions,
            num_scored=num_scored,
            num_unscored=len(flat) - num_scored,
            calibrations={
                name: tuple(calibrate(items, by_set[name]) for by_set in verdicts) for name, items in self.sets.items()
            },
            sensitivities=tuple(sensitivity(self.pairs, by_set[REFERENCES]) for by_set in verdicts)
            if self.pairs
            else (),
            swaps=self._swaps(verdicts) if len(verdicts) == 2 else {},
        )

    def _swaps(self, verdicts: Sequence[Mapping[str, Runs]]) -> dict[str, JudgeSwap]:
        first, second = verdicts
        planted = {name: [item.error for item in items] for name, items in self.sets.items()}
        return {name: judge_swap(first[name], second[name], planted=planted.get(name)) for name in first}

    def _lines(self, verdicts: Sequence[Mapping[str, Runs]]) -> Iterator[dict[str, Any]]:
        for name, items in self.sets.items():
            for place, item in enumerate(items):
                facts = {key: value for key, value in item.to_dict().items() if key != "script"}
                yield {"set": name, **facts, "verdicts": _of_caption(verdicts, name, place)}
        planted = {pair.changed_id: pair for pair in self.pairs}
        for place, case in enumerate(cases_of(self.pairs)):
            pair = planted.get(case.clip_id)
            change = {"error": pair.error, "planted": pair.planted} if pair else {"error": "none", "planted": ""}
            yield {"set": REFERENCES, **case.to_dict(), **change, "verdicts": _of_caption(verdicts, REFERENCES, place)}


def make_plan(
    vs2_items: Sequence[BenchmarkItem] | None,
    *,
    theatre_level: int | None,
    num_clips: int = 20,
    runs: int = 3,
    seed: int = 0,
    errors: Sequence[str] | None = None,
    references: bool = True,
    repeated_is_error: bool = False,
) -> CalibrationPlan:
    """Captions with planted errors.

    Args:
        vs2_items: of the benchmark `vs2`; None leaves its sets out.
        theatre_level: of the scripts; None leaves the theatre out.
        num_clips: scripts, and videos; each gives one caption per kind of error.
        errors: kinds of error of any of the sets; each set has those that it knows. None for all.
        references: whether to add pairs of reference captions.
        repeated_is_error: whether the theatre's captions with a repeated event are among all kinds. Its exact judge
            takes the repetition for an error and judges of events are told not to; asked for by name they are there.

    Raises `ConfigError` for kinds that no set knows, fewer than one run or clip, and what the sets raise.
    """
    known: dict[str, Sequence[str]] = {}
    if theatre_level is not None:
        known[THEATRE] = list(ERRORS)
    if vs2_items is not None:
        known[VS2] = list(VS2_ERRORS)
    if vs2_items is not None and references:
        known[REFERENCES] = list(REFERENCE_ERRORS)
    if runs < 1:
        raise ConfigError(f"runs must be >= 1, got {runs}")
    chosen = _chosen(known, errors, repeated_is_error)
    sets: dict[str, Sequence[CalibrationItem]] = {}
    pairs: list[ReferencePair] = []
    if theatre_level is not None and chosen[THEATRE]:
        sets[THEATRE] = calibration_set(num_clips, level=theatre_level, seed=seed, errors=chosen[THEATRE])
    if vs2_items is not None and chosen[VS2]:
        sets[VS2] = vs2_calibration_set(vs2_items, num_clips, seed=seed, errors=chosen[VS2])
    if vs2_items is not None and chosen.get(REFERENCES):
        pairs = reference_pairs(vs2_items, num_clips, seed=seed, errors=chosen[REFERENCES])
    sets = {name: items for name, items in sets.items() if items}
    if not sets and not pairs:
        raise ConfigError(f"no clip has the events for errors of the kinds {', '.join(errors or ())}; take more clips")
    return CalibrationPlan(num_clips=num_clips, seed=seed, runs=runs, sets=sets, pairs=pairs)


def _chosen(
    known: Mapping[str, Sequence[str]], errors: Sequence[str] | None, repeated_is_error: bool
) -> dict[str, list[str]]:
    """Set -> the kinds of error that it gets."""
    everything = list(dict.fromkeys(kind for kinds in known.values() for kind in kinds))
    unknown = [kind for kind in errors or () if kind not in everything]
    if unknown or not everything:
        raise ConfigError(f"kinds of error are {', '.join(everything) or 'of some set'}; got {', '.join(unknown)}")
    if errors is not None:
        return {name: [kind for kind in kinds if kind in errors] for name, kinds in known.items()}
    left_out = {THEATRE: () if repeated_is_error else ("repeated",)}
    return {name: [kind for kind in kinds if kind not in left_out.get(name, ())] for name, kinds in known.items()}


def _shown(judge: Judge[Any], item: CalibrationItem) -> Any:
    if not isinstance(judge, ExactEventJudge):
        return case_of(item)
    if isinstance(item, TheatreCalibrationItem):
        return item.for_exact_judge()
    raise ConfigError(f"the exact judge knows scripts of the theatre only, and {item.clip_id!r} is none")


def _shifted(progress: Progress | None, done: int, total: int) -> Progress | None:
    return None if progress is None else lambda finished, _: progress(done + finished, total)


def _of_caption(verdicts: Sequence[Mapping[str, Runs]], name: str, place: int) -> list[list[dict[str, Any]]]:
    """[judge][run]."""
    return [[run[place].to_dict() for run in by_set[name]] for by_set in verdicts]


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
