"""What a folder of mrDPO rounds holds at this instant, also while a round is under way; nothing is written."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from avocet.errors import ConfigError, RecordError
from avocet.judging.calibration import event_findings
from avocet.metrics import mean_with_error, repetition_rate
from avocet.records import Record, Verdict
from avocet.training.finetune.watch import METRICS_FILE, read_metrics
from avocet.training.mrdpo.driver import MrDpoResult, RoundResult
from avocet.training.mrdpo.gate import HeldOutScores
from avocet.training.mrdpo.selection import SelectionReport

RUN_FILES = ("run.json", "rounds.json", "rounds.md", "best.json", "uncommitted.diff")
ROUND_FILES = (
    *("result.json", "selection.json", "samples.jsonl", "samples.failed.jsonl", "judged/verdicts.jsonl", "pairs.jsonl"),
    *("dpo/run.json", f"dpo/{METRICS_FILE}", "dpo/reference.jsonl", "dpo/left_out.jsonl"),
    *("held_out/captions.jsonl", "held_out/captions.failed.jsonl", "held_out/verdicts.jsonl"),
    *("held_out/answers.failed.jsonl", "model"),
)
_R = TypeVar("_R", bound=Record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a model on held-out clips."""

    value: float | None
    """A fraction (words: a number); None: nothing to divide by."""
    error: float | None = None
    """Standard error; None where it cannot be known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundState:
    """What is there of a round. Round 0 is the model before the first one."""

    number: int
    result: RoundResult | None
    """None: the round is not finished."""
    selection: SelectionReport | None
    figures: Mapping[str, Figure]
    """total, miss, hall, repetition, unnatural, collapse, qa, words; none of an unfinished round."""
    metrics: tuple[Mapping[str, Any], ...]
    """Lines that the training logged so far."""
    activity: str
    """What an unfinished round is at; "" when it is finished."""
    files: tuple[str, ...]
    """Paths below the run folder."""

    @property
    def decision(self) -> str:
        """start, kept, refused, or unfinished."""
        if self.result is None:
            return "unfinished"
        return "start" if self.result.decision is None else self.result.decision.decision


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunState:
    """All rounds that were begun."""

    folder: Path
    config: Mapping[str, Any]
    """The plan that the run was started with, as `run.json` has it."""
    commit: str | None
    num_rounds: int
    rounds: tuple[RoundState, ...]
    best: int
    """The best round that was kept; 0 before the first."""
    is_over: bool
    standing: str
    """Why there is no further round, or what is being done."""
    last_change: datetime.datetime
    """When a file of the run was written last."""
    files: tuple[str, ...]

    @property
    def finished(self) -> tuple[RoundState, ...]:
        """Rounds with a result."""
        return tuple(one for one in self.rounds if one.result is not None)

    def to_markdown(self) -> str:
        """The table of the rounds, their refusals, and where the run stands."""
        results = tuple(one.result for one in self.rounds if one.result is not None)
        table = MrDpoResult(rounds=results, best=self.best, stopped=self.standing).to_markdown()
        return table if self.is_over else table.replace("- stopped: ", "- not over: ")


def read_run(run_dir: Path, num_rounds: int | None = None) -> RunState:
    """Read a run folder.

    Args:
        run_dir: that of `run_mrdpo`.
        num_rounds: of the plan, where it now has others than it was started with.

    Raises:
        ConfigError: the folder holds no run.
        RecordError: a file of it is damaged.
    """
    path = run_dir / "run.json"
    if not path.is_file():
        raise ConfigError(f"{run_dir} holds no mrDPO run (no run.json); give its --run-dir, or start one")
    facts = _json(path)
    config = facts.get("config")
    if not isinstance(config, dict) or "rounds" not in config:
        raise ConfigError(f"{path} is of another kind of run; give the folder of `avocet train mrdpo`")
    rounds = tuple(_rounds(run_dir, int(config.get("min_pairs", 1))))
    # A run may be gone on with for more rounds than `run.json` speaks of.
    total = max(num_rounds or int(config["rounds"]), len(rounds) - 1)
    kept = [one.number for one in rounds if one.decision == "kept"]
    is_over, standing = _standing(rounds, total, int(config.get("min_pairs", 1)))
    return RunState(
        folder=run_dir,
        config=config,
        commit=facts.get("commit"),
        num_rounds=total,
        rounds=rounds,
        best=max(kept, default=0),
        is_over=is_over,
        standing=standing,
        last_change=_last_change(run_dir, rounds),
        files=tuple(name for name in RUN_FILES if (run_dir / name).exists()),
    )


def _rounds(run_dir: Path, min_pairs: int) -> Iterator[RoundState]:
    """The rounds in order, up to the first that is not finished or was refused."""
    for number in itertools.count():
        if not (run_dir / f"round-{number}").is_dir():
            return
        one = _round(run_dir, number, min_pairs)
        yield one
        if one.decision in ("unfinished", "refused"):
            return


def _round(run_dir: Path, number: int, min_pairs: int) -> RoundState:
    folder = run_dir / f"round-{number}"
    result = _record(folder / "result.json", RoundResult)
    selection = _record(folder / "selection.json", SelectionReport)
    metrics = folder / "dpo" / METRICS_FILE
    lines = tuple(read_metrics(metrics)) if metrics.is_file() else ()
    return RoundState(
        number=number,
        result=result,
        selection=selection,
        figures={} if result is None else _figures(result.scores, folder / "held_out"),
        metrics=lines,
        activity="" if result is not None else _activity(folder, selection, lines, min_pairs),
        files=tuple(f"round-{number}/{name}" for name in ROUND_FILES if (folder / name).exists()),
    )


def _activity(
    folder: Path, selection: SelectionReport | None, metrics: Sequence[Mapping[str, Any]], min_pairs: int
) -> str:
    """What a round without a result is at, by the files that are there."""
    if folder.name != "round-0" and selection is None:
        verdicts = _num_lines(folder / "judged" / "verdicts.ledger.jsonl")
        if verdicts:
            return f"judging, {verdicts:,} verdicts so far"
        return f"sampling, {_num_lines(folder / 'samples.jsonl'):,} clips so far"
    if selection is not None and selection.num_pairs < min_pairs:
        return f"{selection.num_pairs} pairs, fewer than {min_pairs}"
    if folder.name == "round-0" or (folder / "model").is_dir():
        return f"held-out clips, {_num_lines(folder / 'held_out' / 'captions.jsonl'):,} captions so far"
    if metrics:
        return f"training, step {max(int(line.get('step', 0)) for line in metrics):,} so far"
    return f"reference, {_num_lines(folder / 'dpo' / 'reference.jsonl'):,} pairs scored so far"


def _standing(rounds: Sequence[RoundState], total: int, min_pairs: int) -> tuple[bool, str]:
    if not rounds:
        return False, "nothing was written of round 0 yet"
    last = rounds[-1]
    if last.decision == "refused":
        return True, f"round {last.number} was refused"
    if last.decision == "unfinished":
        if last.selection is not None and last.selection.num_pairs < min_pairs:
            return True, f"round {last.number} has {last.activity}"
        return False, f"round {last.number}: {last.activity}"
    if last.number >= total:
        return True, f"all {total} rounds are done"
    return False, f"round {last.number + 1} of {total} has not begun"


def _figures(scores: HeldOutScores, folder: Path) -> dict[str, Figure]:
    """The scores with their standard errors; what `HeldOutScores` lacks of these is taken from the clips' own lines."""
    rates = _verdict_rates(folder / "verdicts.jsonl")
    texts = [str(line["captions"][0]["text"]) for line in _lines(folder / "captions.jsonl")]
    captions, questions = scores.num_captions, scores.num_questions
    return {
        "total": Figure(value=scores.total, error=scores.total_standard_error),
        "miss": Figure(value=scores.miss, error=_error(miss for miss, _ in rates)),
        "hall": Figure(value=scores.hall, error=_error(hall for _, hall in rates)),
        "repetition": Figure(value=scores.repetition, error=_error(repetition_rate(text) for text in texts)),
        "unnatural": _share(scores.unnatural, captions),
        "collapse": _share(scores.collapse, captions),
        "qa": _share(scores.qa_accuracy, questions),
        "words": Figure(value=scores.words, error=_error(float(len(text.split())) for text in texts)),
    }


def _verdict_rates(path: Path) -> list[tuple[float, float]]:
    """(Miss, Hall) of each scored clip, the median over its runs."""
    by_key: dict[str, list[tuple[float, float]]] = {}
    for line in _lines(path):
        key = str(line.pop("key"))
        verdict = Verdict.from_dict(line)
        if verdict.status != "scored":
            continue
        found = event_findings(verdict)
        if found.num_events:
            by_key.setdefault(key, []).append((found.miss, found.hall))
    return [(_median([miss for miss, _ in runs]), _median([hall for _, hall in runs])) for runs in by_key.values()]


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _error(values: Iterable[float]) -> float | None:
    error = mean_with_error(list(values)).standard_error
    return None if math.isnan(error) else error


def _share(rate: float | None, num: int) -> Figure:
    """A share of `num` items; its error is that of a mean of zeros and ones."""
    error = None if rate is None or num < 2 else math.sqrt(max(rate * (1 - rate), 0.0) / (num - 1))
    return Figure(value=rate, error=error)


def _last_change(run_dir: Path, rounds: Sequence[RoundState]) -> datetime.datetime:
    folders = [run_dir / f"round-{one.number}" for one in rounds]
    paths = [run_dir / "run.json", *(path for folder in folders for path in (folder, *folder.glob("*/*.jsonl")))]
    newest = max(path.stat().st_mtime for path in paths if path.exists())
    return datetime.datetime.fromtimestamp(int(newest), datetime.UTC)


def _record(path: Path, kind: type[_R]) -> _R | None:
    try:
        return kind.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise RecordError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSONL file; a last one that is just being written is left out."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            data = json.loads(line)
        except ValueError as error:
            raise RecordError(f"{path}:{number}: not JSON ({error})") from error
        yield data


def _num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0
