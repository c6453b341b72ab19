"""Take clips through the stages of a pipeline, each in a folder of its own below `stages/`.

    OUT/run.json            what was run: settings, inputs, teachers, judge, names of the stages, code
    OUT/run.lock            held by the process that works in the folder
    OUT/stages/NAME/        the ledgers, manifests and summary of each stage (`avocet.curation.stage`)

It can be killed at any instant; the next call continues where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from avocet.curation._stage_books import SUMMARY_FILE
from avocet.curation._stage_types import CurationStage, Progress, StageSummary
from avocet.curation.manifest import ManifestClip, read_manifest, replacing
from avocet.curation.pipelines.plan import FindDuplicates, Step
from avocet.curation.stage import run_stage
from avocet.errors import ConfigError, RecordError
from avocet.provenance import write_uncommitted
from avocet.records import Record

RUN_FILE = "run.json"
LOCK_FILE = "run.lock"
STAGES_FOLDER = "stages"


class StageRunner(Protocol):
    """`run_stage`, or another way to give the same files (`avocet.curation.ray_run`)."""

    def __call__(
        self,
        stage: CurationStage,
        clips: Iterable[ManifestClip],
        folder: str | os.PathLike[str],
        *,
        workers: int = 1,
        max_attempts: int = 3,
        retry_wait_seconds: float = 0.5,
        progress: Progress | None = None,
    ) -> StageSummary: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """What was run in a folder."""

    pipeline: str
    settings: dict[str, Any]
    teachers: dict[str, str]
    """Role -> name and version."""
    judge: str | None
    stages: tuple[str, ...]
    asking: dict[str, Any] = dataclasses.field(default_factory=dict)
    """How teachers and the judge were asked: sampling, form of the media."""
    inputs: tuple[str, ...] = ()
    """What was worked on, as absolute paths."""
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    """Why lines of the input did not become clips -> how many."""
    notes: tuple[str, ...] = ()
    """What this run does not do that its pipeline would do, and why."""
    output: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of the data set, its seed among them, and its formats."""
    code: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Commit, versions of libraries, machine (`avocet.provenance`)."""


@contextlib.contextmanager
def run_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Have the folder of a run for oneself; it is made when it is not there.

    Two processes in one folder would mix their stages. The lock goes with the process, however that ends.
    Raises `ConfigError` when another process has it and when the folder cannot be written.
    """
    path = Path(folder) / LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be used as the folder of a run: {error.strerror or error}; choose another --out"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another process works in {folder}; wait for it, or choose another --out folder"
            ) from error
        yield


def run_steps(
    steps: Sequence[Step],
    clips: Iterable[ManifestClip],
    folder: str | os.PathLike[str],
    *,
    gone_through: Sequence[StageSummary] = (),
    runner: StageRunner = run_stage,
    workers: int = 1,
    max_attempts: int = 3,
    retry_wait_seconds: float = 0.5,
    progress: Progress | None = None,
) -> list[StageSummary]:
    """One stage after the other; what the last one lets through is in its `clips.jsonl` (`last_manifest`).

    Summaries of an earlier run are removed first, so that those which are there are always of one run.

    Args:
        folder: of the run; the stages have theirs in `stages/`.
        gone_through: of the first steps, which this process has just run; they are not entered again.
        runner: how a stage is run over its clips.
        workers, max_attempts, retry_wait_seconds, progress: as in `run_stage`.

    Raises `ConfigError` for two steps of one name, and what the runner raises.
    """
    names = [step.name for step in steps]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"steps need names that differ, and at least one step; got {names}")
    assert [summary.stage for summary in gone_through] == names[: len(gone_through)]
    summaries = list(gone_through)
    _forget_summaries(Path(folder) / STAGES_FOLDER, names[: len(summaries)])
    previous = Path(folder) / STAGES_FOLDER / summaries[-1].stage / "clips.jsonl" if summaries else None
    for step in steps[len(summaries) :]:
        place = Path(folder) / STAGES_FOLDER / step.name
        stage = _stage(step, previous)
        summaries.append(
            runner(
                stage,
                clips if previous is None else read_manifest(previous),
                place,
                workers=workers,
                max_attempts=max_attempts,
                retry_wait_seconds=retry_wait_seconds,
                progress=progress,
            )
        )
        previous = place / "clips.jsonl"
    return summaries


def _forget_summaries(stages: Path, keep: Sequence[str]) -> None:
    for path in stages.glob(f"*/{SUMMARY_FILE}"):
        if path.parent.name not in keep:
            path.unlink()


def _stage(step: Step, previous: Path | None) -> CurationStage:
    if not isinstance(step, FindDuplicates):
        return step
    if previous is None:
        raise ConfigError("duplicates are found among measured clips; put the steps that measure before")
    return step.stage(read_manifest(previous))


def write_run_record(folder: str | os.PathLike[str], record: RunRecord) -> None:
    """Write `run.json`, and the uncommitted change of the code, if there is one."""
    (Path(folder) / "uncommitted.diff").unlink(missing_ok=True)
    write_uncommitted(Path(folder))
    with replacing(Path(folder) / RUN_FILE) as file:
        file.write(json.dumps(record.to_dict(), indent=2, ensure_ascii=False) + "\n")


def read_run_record(folder: str | os.PathLike[str]) -> RunRecord:
    """Raises `ConfigError` for a folder in which nothing was run, and `RecordError` for a damaged `run.json`."""
    path = Path(folder) / RUN_FILE
    try:
        return RunRecord.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror or error}); give the --out folder of an `avocet curate` run"
        ) from error
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error


def read_summaries(folder: str | os.PathLike[str], stages: Sequence[str]) -> list[StageSummary]:
    """The summaries of the stages that have been gone through, in order; those of an unfinished run end early.

    Raises `ConfigError` for stages that were not run one after the other.
    """
    found: list[StageSummary] = []
    for name in stages:
        path = Path(folder) / STAGES_FOLDER / name / SUMMARY_FILE
        if not path.is_file():
            break
        summary = StageSummary.from_json(path.read_text(encoding="utf-8"))
        if found and summary.num_in != found[-1].num_out:
            raise ConfigError(
                f"the run in {folder} is unfinished: stage {name!r} took {summary.num_in} clips, but "
                f"{found[-1].stage!r} before it let {found[-1].num_out} through; run it again to finish"
            )
        found.append(summary)
    return found


def last_manifest(folder: str | os.PathLike[str], stages: Sequence[str]) -> Path:
    """The manifest of the clips that went through all stages. Raises `ConfigError` when the run is not finished."""
    path = Path(folder) / STAGES_FOLDER / stages[-1] / "clips.jsonl"
    done = len(read_summaries(folder, stages))
    if done < len(stages) or not path.is_file():
        missing = stages[min(done, len(stages) - 1)]
        raise ConfigError(
            f"the run in {folder} is unfinished: it has not gone through stage {missing!r}; run it again to finish"
        )
    return path
