"""Verdicts of a judge on many items, collected so that a run can be killed at any instant and goes on.

Each verdict is appended to a ledger as it arrives, under a key that names the item, the run, the judge (with its model
and the version of its prompt), how and where it is asked, and the exact content judged: a changed caption, prompt,
judge, temperature or server never meets an old verdict. Unscored items are not finished, and neither are those with a
question that may yet be answered (`Judge.is_final`): the next run judges them again. When everything is there, the
verdicts are also written in the order of the items, so that two runs over the same replies leave the same file.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from avocet.errors import ConfigError
from avocet.judging.judge import Job, Judge, Judgeable
from avocet.ledger import Ledger
from avocet.records import Verdict

ItemT = TypeVar("ItemT", bound=Judgeable)
Progress = Callable[[int, int], None]

LEDGER_FILE = "verdicts.ledger.jsonl"
VERDICTS_FILE = "verdicts.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case(Generic[ItemT]):
    """One thing to judge and the name it has in the files."""

    key: str
    """Unique in its run: a clip id, or clip id and question id."""
    item: ItemT
    """What the judge gets; a frozen dataclass."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgedCase(Generic[ItemT]):
    """A case with the verdicts of all runs, in their order."""

    case: Case[ItemT]
    verdicts: tuple[Verdict, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _KeyedJob(Job[ItemT]):
    key: str = ""
    place: tuple[int, int] = (0, 0)
    """(case, run)."""


def collect_verdicts(
    judge: Judge[ItemT],
    cases: Sequence[Case[ItemT]],
    *,
    runs: int = 1,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> list[JudgedCase[ItemT]]:
    """Judge every case `runs` times.

    Args:
        folder: where the ledger and the finished file are kept; None keeps nothing.
        progress: called with (finished, all) after each verdict.

    Raises:
        ConfigError: fewer than one run, or keys that are not unique.
        JudgeError: what concerns the whole run (credentials, cost ceiling); the ledger has everything until then.
    """
    if runs < 1:
        raise ConfigError(f"runs must be >= 1, got {runs}")
    keys = [case.key for case in cases]
    if len(set(keys)) != len(keys):
        raise ConfigError(f"keys of cases must be unique, got {len(keys)} with {len(set(keys))} different ones")
    jobs = [
        _KeyedJob(item=case.item, run_index=run, key=_key(judge, case, run), place=(number, run))
        for run in range(runs)
        for number, case in enumerate(cases)
    ]
    if folder is None:
        found = asyncio.run(_judge_missing(judge, jobs, None, progress))
    else:
        with Ledger(folder / LEDGER_FILE, key="key") as ledger:
            found = asyncio.run(_judge_missing(judge, jobs, ledger, progress))
        _write_in_order(folder / VERDICTS_FILE, jobs, found, keys)
    return [
        JudgedCase(case=case, verdicts=tuple(found[number, run] for run in range(runs)))
        for number, case in enumerate(cases)
    ]


def item_digest(item: Any) -> str:
    """First 12 hex digits of the SHA-256 of everything in a dataclass that the judge can see."""
    return _digest(dataclasses.asdict(item))


def _key(judge: Judge[ItemT], case: Case[ItemT], run: int) -> str:
    asked = _digest({"settings": judge.settings, "server": judge.server})
    return f"{case.key}|run {run}|{judge.identity}|{asked}|{item_digest(case.item)}"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


async def _judge_missing(
    judge: Judge[ItemT], jobs: Sequence[_KeyedJob[ItemT]], ledger: Ledger | None, progress: Progress | None
) -> dict[tuple[int, int], Verdict]:
    found: dict[tuple[int, int], Verdict] = {}
    done = {record["key"]: record["verdict"] for record in ledger.records()} if ledger is not None else {}
    found |= {job.place: Verdict.from_dict(done[job.key]) for job in jobs if job.key in done}
    missing = [job for job in jobs if job.key not in done]
    try:
        async for given, verdict in judge.verdicts(missing):
            assert isinstance(given, _KeyedJob)
            job: _KeyedJob[ItemT] = given
            found[job.place] = verdict
            if ledger is not None and judge.is_final(job.item, verdict):
                ledger.append({"key": job.key, "verdict": verdict.to_dict()})
            if progress is not None:
                progress(len(found), len(jobs))
    finally:
        await judge.disconnect()
    return found


def _write_in_order(
    path: Path, jobs: Sequence[_KeyedJob[Any]], found: Mapping[tuple[int, int], Verdict], keys: Sequence[str]
) -> None:
    """One line per item and run, in the order of the items; replaced at once, so that no reader sees half of it."""
    lines = []
    for job in sorted(jobs, key=lambda job: job.place):
        record = {"key": keys[job.place[0]], **found[job.place].to_dict()}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(lines), encoding="utf-8")
    os.replace(temporary, path)
