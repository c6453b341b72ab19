"""The folder of a run: who may go on in it, and which of its rounds are done anew."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.scoring import CaptionScorer
from avocet.training.run_folder import claim_run

ANEW_FILE = "from_round.json"
"""What `--from-round` asked for, until it is done: a run that was killed meanwhile goes on instead of starting over."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgedPlan(MrDpo):
    """A plan as `run.json` keeps it, with whose verdicts the rounds are compared by."""

    judge: str
    """`Judge.identity`: numbers of two judges cannot be compared."""
    judge_runs: int
    """Verdicts on each caption."""


def round_folder(run_dir: Path, number: int) -> Path:
    """Where a round keeps its files. Round 0 is the model before the first one."""
    return run_dir / f"round-{number}"


def check_from_round(plan: MrDpo, from_round: int | None) -> None:
    """Raise `ConfigError` for a round that the plan does not have."""
    if from_round is not None and not 1 <= from_round <= plan.rounds:
        raise ConfigError(f"--from-round must be from 1 to {plan.rounds}, got {from_round}")


def open_run(run_dir: Path, plan: MrDpo, scorer: CaptionScorer, from_round: int | None) -> None:
    """Claim the folder for a plan and its judge, and delete the rounds that are to be done anew.

    Raises `ConfigError` for a folder of another plan or judge, for fewer rounds than are there, and for a `from_round`
    that the plan does not have.
    """
    check_from_round(plan, from_round)
    run_dir.mkdir(parents=True, exist_ok=True)
    fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    judged = JudgedPlan(**fields, judge=scorer.judge.identity, judge_runs=scorer.runs)
    claim_run(run_dir, judged, free=frozenset({"rounds"}), begun=bool(begun_rounds(run_dir)))
    _do_anew(run_dir, from_round)
    begun = begun_rounds(run_dir)
    if begun and begun[-1] > plan.rounds:
        raise ConfigError(
            f"{run_dir} holds rounds up to {begun[-1]}, more than the {plan.rounds} of the plan; give at least "
            f"{begun[-1]}, or --from-round {plan.rounds} to do that one anew and forget those after it"
        )
    facts = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    if facts["config"]["rounds"] != plan.rounds:
        facts["config"]["rounds"] = plan.rounds
        _put(run_dir / "run.json", facts)


def close_run(run_dir: Path) -> None:
    """What was asked for is done: the next `--from-round` is another request."""
    (run_dir / ANEW_FILE).unlink(missing_ok=True)


def begun_rounds(run_dir: Path) -> list[int]:
    """Numbers of the rounds that have a folder, rising."""
    names = (path.name.removeprefix("round-") for path in run_dir.glob("round-*") if path.is_dir())
    return sorted(int(name) for name in names if name.isdecimal())


def _do_anew(run_dir: Path, from_round: int | None) -> None:
    path = run_dir / ANEW_FILE
    request = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if from_round is not None and (request is None or request["from_round"] != from_round):
        request = {"from_round": from_round, "deleted": False}
        _put(path, request)
    if request is None or request["deleted"]:
        return
    # The last one first: what a kill leaves is then always rounds without a gap.
    for number in reversed(begun_rounds(run_dir)):
        if number >= request["from_round"]:
            shutil.rmtree(round_folder(run_dir, number))
    _put(path, {**request, "deleted": True})


def _put(path: Path, facts: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
