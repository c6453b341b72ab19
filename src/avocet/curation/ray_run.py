"""The same stages on Ray Data: on the cores of this machine, or on a cluster.

    run_steps(steps, clips, "out", runner=RayRunner(num_actors=8))

Ray only looks at the clips. The driver keeps the ledgers and writes the files as `run_stage` does, so a run can be
begun in one way and continued in the other, and both give the same files. Outcomes are recorded as they arrive; what a
killed driver had not recorded is looked at again, with the teachers' cache answering what was paid for. On several
machines that cache must lie on a file system that they share and that can hold a write-ahead log, or each machine pays
for itself once. A ceiling of costs holds in each process, not over all of them.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from avocet.curation._stage_books import Books, Look, Tried, Tries
from avocet.curation._stage_types import CurationStage, Progress, StageSummary, look_key
from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Failed, Outcome
from avocet.curation.stage import go_through
from avocet.errors import AvocetError, ConfigError, MissingExtraError, RecordError
from avocet.records import Record

CLIPS_AT_ONCE = 10_000
"""How many clips one Ray Data pipeline takes; it bounds the driver's memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Report(Record):
    """What an actor says about one clip: `Tried` as JSON, or the error that stops the run."""

    clip_id: str
    failures: tuple[Failed, ...] = ()
    failure_seconds: tuple[float, ...] = ()
    outcome: Outcome | None = None
    seconds: float = 0.0
    error: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RayRunner:
    """Runs a stage over a manifest; call it like `avocet.curation.run_stage`, whose `workers` are threads per actor.

    The stage travels to the actors, so its teachers must be able to (`avocet.curation.pipelines.session`).
    """

    num_actors: int | None = None
    """Processes; None: one per CPU of the cluster."""
    cpus_per_actor: float = 1.0
    address: str | None = None
    """Of a cluster ("auto" for the one that this machine belongs to); None starts Ray on this machine alone."""

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
    ) -> StageSummary:
        """See `run_stage`. Raises `MissingExtraError` without Ray, and `AvocetError` for what an actor raised."""
        tries = Tries(max_attempts=max_attempts, retry_wait_seconds=retry_wait_seconds)
        if workers < 1:
            raise ConfigError(f"RayRunner: workers must be >= 1, got {workers}")

        def looks(books: Books) -> Generator[Look]:
            return self._in_order(stage, clips, books, (stage, workers, tries))

        return go_through(stage, folder, looks, progress)

    def _in_order(
        self, stage: CurationStage, clips: Iterable[ManifestClip], books: Books, looker: tuple[Any, ...]
    ) -> Generator[Look]:
        source, ids = iter(clips), set[str]()
        while chunk := list(itertools.islice(source, CLIPS_AT_ONCE)):
            looks: dict[str, Look] = {}
            for clip in chunk:
                if clip.id in ids:
                    raise RecordError(f"stage {stage.name}: id {clip.id!r} comes twice in the input; ids must differ")
                ids.add(clip.id)
                looks[clip.id] = Look(clip=clip, key=look_key(stage, clip))
            waiting = [look for look in looks.values() if not books.reuse(look, stage.name)]
            if waiting:
                self._look(stage, waiting, looks, books, looker)
            yield from looks.values()

    def _look(
        self,
        stage: CurationStage,
        waiting: Sequence[Look],
        looks: dict[str, Look],
        books: Books,
        looker: tuple[Any, ...],
    ) -> None:
        """Let Ray look at clips, and record what it says. Raises the first error when all else is recorded."""
        errors: list[str] = []
        for line in self._reports([look.clip.to_json_line() for look in waiting], looker):
            report = _Report.from_json(line)
            if report.outcome is None:
                errors.append(str(report.error))
                continue
            look = looks[report.clip_id]
            failures = tuple(zip(report.failures, report.failure_seconds, strict=True))
            tried = Tried(failures=failures, outcome=report.outcome, seconds=report.seconds)
            books.enter(look, tried)
            look.finish(stage.name, tried.outcome, tried.seconds)
        if errors:
            raise AvocetError(f"stage {stage.name}: {errors[0]}")
        lost = [look.clip.id for look in waiting if look.outcome is None]
        if lost:
            raise AvocetError(f"stage {stage.name}: Ray reported nothing about {len(lost)} clips, such as {lost[0]!r}")

    def _reports(self, lines: list[str], looker: tuple[Any, ...]) -> Iterator[str]:
        ray = self._started()
        size = self.num_actors or max(1, int(ray.cluster_resources().get("CPU", 1) / self.cpus_per_actor))
        size = min(size, len(lines))
        batch = max(1, min(4 * looker[1], len(lines) // size))
        data = ray.data.from_items([{"line": line} for line in lines], override_num_blocks=max(1, len(lines) // batch))
        reports = data.map_batches(
            _Looker,
            fn_constructor_args=looker,
            batch_size=batch,
            compute=ray.data.ActorPoolStrategy(size=size),
            num_cpus=self.cpus_per_actor,
        )
        for row in reports.iter_rows():
            yield str(row["report"])

    def _started(self) -> Any:
        try:
            ray = importlib.import_module("ray")
            importlib.import_module("ray.data")
        except ImportError as error:
            raise MissingExtraError("running on Ray", "scale") from error
        if not ray.is_initialized():
            options = {"address": self.address} if self.address else {"include_dashboard": False}
            ray.init(log_to_driver=False, logging_level="warning", **options)
        ray.data.DataContext.get_current().enable_progress_bars = False
        return ray


class _Looker:
    """An actor: a stage and the threads that look at clips."""

    def __init__(self, stage: CurationStage, workers: int, tries: Tries) -> None:
        self._stage = stage
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix=stage.name)
        self._tries = tries

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        lines = [str(line) for line in batch["line"]]
        return {"report": [report.to_json_line() for report in self._pool.map(self._report, lines)]}

    def _report(self, line: str) -> _Report:
        clip = ManifestClip.from_json(line)
        try:
            tried = self._tries.look(self._stage, clip)
        except AvocetError as error:
            # As a value, so that what the other clips of the batch gave is not lost with it.
            return _Report(clip_id=clip.id, error=f"{type(error).__name__}: {error}")
        return _Report(
            clip_id=clip.id,
            failures=tuple(failed for failed, _ in tried.failures),
            failure_seconds=tuple(seconds for _, seconds in tried.failures),
            outcome=tried.outcome,
            seconds=tried.seconds,
        )
