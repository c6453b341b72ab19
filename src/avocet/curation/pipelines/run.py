"""Take clips through the stages of a pipeline, each in a folder of its own below `stages/`.

    OUT/run.json            what was run: settings, teachers, judge, names of the stages
    OUT/stages/NAME/        the ledgers, manifests and summary of each stage (`avocet.curation.stage`)

It can be killed at any instant; the next call continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from avocet.curation._stage_types import CurationStage, Progress, StageSummary
from avocet.curation.manifest import ManifestClip, read_manifest, replacing
from avocet.curation.pipelines.plan import FindDuplicates, Step
from avocet.curation.stage import run_stage
from avocet.errors import ConfigError, RecordError
from avocet.records import Record

RUN_FILE = "run.json"
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


def run_steps(
    steps: Sequence[Step],
    clips: Iterable[ManifestClip],
    folder: str | os.PathLike[str],
    *,
    runner: StageRunner = run_stage,
    workers: int = 1,
    max_attempts: int = 3,
    retry_wait_seconds: float = 0.5,
    progress: Progress | None = None,
) -> list[StageSummary]:
    """One stage after the other; what the last one lets through is in its `clips.jsonl` (`last_manifest`).

    Args:
        folder: of the run; the stages have theirs in `stages/`.
        runner: how a stage is run over its clips.
        workers, max_attempts, retry_wait_seconds, progress: as in `run_stage`.

    Raises `ConfigError` for two steps of one name, and what the runner raises.
    """
    names = [step.name for step in steps]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"steps need names that differ, and at least one step; got {names}")
    summaries: list[StageSummary] = []
    previous: Path | None = None
    for step in steps:
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


def _stage(step: Step, previous: Path | None) -> CurationStage:
    if not isinstance(step, FindDuplicates):
        return step
    if previous is None:
        raise ConfigError("duplicates are found among measured clips; put the steps that measure before")
    return step.stage(read_manifest(previous))


def write_run_record(folder: str | os.PathLike[str], record: RunRecord) -> None:
    """Write `run.json`."""
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
    """The summaries of the stages that have been gone through, in order; those of an unfinished run end early."""
    found = []
    for name in stages:
        path = Path(folder) / STAGES_FOLDER / name / "summary.json"
        if not path.is_file():
            break
        found.append(StageSummary.from_json(path.read_text(encoding="utf-8")))
    return found


def last_manifest(folder: str | os.PathLike[str], stages: Sequence[str]) -> Path:
    """The manifest of the clips that went through all stages. Raises `ConfigError` when the run is not finished."""
    path = Path(folder) / STAGES_FOLDER / stages[-1] / "clips.jsonl"
    if len(read_summaries(folder, stages)) < len(stages) or not path.is_file():
        raise ConfigError(f"the run in {folder} has not gone through stage {stages[-1]!r} yet; run it again to finish")
    return path


def versions_of(source: object) -> Mapping[str, str]:
    """Role -> name and version of teachers that tell them."""
    versions = getattr(source, "versions", None)
    return dict(versions()) if callable(versions) else {}
