"""Run one stage of curation over a manifest: resumable, with retries, costs and yields counted.

A stage looks at one clip at a time and says what becomes of it (`avocet.curation.outcomes`). Its folder holds

    results.jsonl    the ledger: one line per finished look, in the order in which they finished
    attempts.jsonl   the ledger of looks that failed
    clips.jsonl      the manifest that goes on, in the order of the input
    dropped.jsonl    what was dropped, with reason code and detail, in the order of the input
    failed.jsonl     what failed in the latest run and will be tried again by the next
    summary.json     the `StageSummary`

A look is found again by the clip's id, the version of the stage (a hash of its settings) and a digest of what the
stage reads of the clip. Change a setting, the file or an earlier stage's finding, and it is made anew; change them
back, and the old one still counts. The last four files appear only when the whole input has been gone through.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from avocet.curation._stage_books import Books, Look, Outputs, Tried, Tries
from avocet.curation._stage_types import CurationStage, Progress, Stage, StageSummary, look_key
from avocet.curation.manifest import ManifestClip, read_manifest
from avocet.curation.outcomes import Cost, Dropped, Failed
from avocet.errors import ConfigError, RecordError

__all__ = ["CurationStage", "Progress", "Stage", "StageSummary", "go_through", "look_key", "run_stage", "run_stages"]

_WINDOW_PER_WORKER = 8
_SMALLEST_WINDOW = 32
"""How many clips are under way or wait for an earlier one to finish. It bounds the memory."""


def run_stage(
    stage: CurationStage,
    clips: Iterable[ManifestClip],
    folder: str | os.PathLike[str],
    *,
    workers: int = 1,
    max_attempts: int = 3,
    retry_wait_seconds: float = 0.5,
    progress: Progress | None = None,
) -> StageSummary:
    """Take `clips` through `stage` and write the files named above into `folder`.

    It can be killed at any instant; the next call does only what is missing and writes the same files as an
    undisturbed one. What is in memory does not grow with the clips, but for the keys of the ledger.

    Args:
        clips: the input, read once and one by one; ids must differ.
        workers: threads that look at clips. The order of the output does not depend on them.
        max_attempts: looks per clip in this run, when looks fail.
        retry_wait_seconds: before the second look; doubled before each further one.
        progress: see `Progress`.

    Raises:
        ConfigError: impossible numbers; another process works in the folder.
        RecordError: damaged files in the folder; an id that comes twice.
        Exception: whatever the stage raises, after the looks that were under way have been recorded.
    """
    tries = Tries(max_attempts=max_attempts, retry_wait_seconds=retry_wait_seconds)
    if workers < 1:
        raise ConfigError(f"run_stage: workers must be >= 1, got {workers}")

    def looks(books: Books) -> Generator[Look]:
        return _Looks(stage, books, workers, tries).in_order(clips)

    return go_through(stage, folder, looks, progress)


def go_through(
    stage: CurationStage,
    folder: str | os.PathLike[str],
    looks: Callable[[Books], Generator[Look]],
    progress: Progress | None = None,
) -> StageSummary:
    """Count and write what `looks` finds, however that is done: by the threads of `run_stage`, or by Ray.

    Args:
        looks: from the ledgers of the folder to the finished looks, in the order of the input.
    """
    began = time.monotonic()
    tally = Tally(stage)
    with Books(Path(folder)) as books, Outputs(Path(folder)) as outputs:
        with contextlib.closing(looks(books)) as finished:
            for look in finished:
                tally.enter(look, books)
                outputs.write(look, stage.name)
                if progress is not None:
                    progress(tally.summary(time.monotonic() - began))
        summary = tally.summary(time.monotonic() - began)
        outputs.finish(summary)
    return summary


def run_stages(
    stages: Sequence[CurationStage],
    clips: Iterable[ManifestClip],
    folder: str | os.PathLike[str],
    *,
    workers: int = 1,
    max_attempts: int = 3,
    retry_wait_seconds: float = 0.5,
    progress: Progress | None = None,
) -> list[StageSummary]:
    """One stage after the other, each in a folder of its name; what the last one lets through is in its `clips.jsonl`.

    Raises `ConfigError` for two stages of one name, and what `run_stage` raises.
    """
    names = Counter(stage.name for stage in stages)
    if not stages or max(names.values()) > 1:
        raise ConfigError(f"stages need names that differ, and at least one stage; got {[s.name for s in stages]}")
    summaries = []
    for stage in stages:
        place = Path(folder) / stage.name
        summaries.append(
            run_stage(
                stage,
                clips,
                place,
                workers=workers,
                max_attempts=max_attempts,
                retry_wait_seconds=retry_wait_seconds,
                progress=progress,
            )
        )
        clips = read_manifest(place / "clips.jsonl")
    return summaries


class _Looks:
    """Hands clips to workers and gives them back in the order of the input."""

    def __init__(self, stage: CurationStage, books: Books, workers: int, tries: Tries) -> None:
        self._stage = stage
        self._books = books
        self._workers = workers
        self._tries = tries
        self._running: dict[Future[Tried], Look] = {}
        self._ids: set[str] = set()

    def in_order(self, clips: Iterable[ManifestClip]) -> Generator[Look]:
        waiting: deque[Look] = deque()
        window = max(_SMALLEST_WINDOW, _WINDOW_PER_WORKER * self._workers)
        source = iter(clips)
        pool = ThreadPoolExecutor(max_workers=self._workers, thread_name_prefix=self._stage.name)
        try:
            more = True
            while more or waiting:
                while more and len(waiting) < window:
                    clip = next(source, None)
                    more = clip is not None
                    if clip is not None:
                        waiting.append(self._begin(clip, pool))
                while waiting and waiting[0].outcome is not None:
                    yield waiting.popleft()
                if waiting and self._running:
                    wait(self._running, return_when=FIRST_COMPLETED)
                self._collect()
        finally:
            pool.shutdown(cancel_futures=True)
            self._save_the_rest()

    def _begin(self, clip: ManifestClip, pool: ThreadPoolExecutor) -> Look:
        if clip.id in self._ids:
            raise RecordError(f"stage {self._stage.name}: id {clip.id!r} comes twice in the input; ids must differ")
        self._ids.add(clip.id)
        look = Look(clip=clip, key=look_key(self._stage, clip))
        if not self._books.reuse(look, self._stage.name):
            self._running[pool.submit(self._tries.look, self._stage, clip)] = look
        return look

    def _collect(self) -> None:
        """Record every look that has finished, also when another one raised."""
        errors: list[BaseException] = []
        for future in [future for future in self._running if future.done()]:
            look = self._running.pop(future)
            error = None if future.cancelled() else future.exception()
            if error is not None:
                errors.append(error)
            elif not future.cancelled():
                tried = future.result()
                self._books.enter(look, tried)
                look.finish(self._stage.name, tried.outcome, tried.seconds)
        if errors:
            raise errors[0]

    def _save_the_rest(self) -> None:
        for future, look in self._running.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                self._books.enter(look, future.result())
        self._running.clear()


class Tally:
    """Counts what has gone through."""

    def __init__(self, stage: CurationStage) -> None:
        self._stage = stage
        self._kinds: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._cost = Cost()
        self._counted: set[str] = set()
        self._numbers: Counter[str] = Counter()
        self._media = [0.0, 0.0]
        self._work_seconds = 0.0

    def enter(self, look: Look, books: Books) -> None:
        outcome = look.outcome
        assert outcome is not None
        self._kinds[outcome.kind] += 1
        self._numbers["reused"] += look.reused
        self._work_seconds += look.seconds
        attempts = books.failed_attempts(look.key)
        self._numbers["attempts"] += len(attempts)
        for attempt in attempts:
            self._pay(attempt.cost)
            self._work_seconds += attempt.seconds
        self._numbers["out"] += len(look.going_on)
        duration = look.clip.duration_seconds
        self._numbers["unknown"] += duration is None
        self._media[0] += duration or 0.0
        self._media[1] += sum(clip.duration_seconds or 0.0 for clip in look.going_on)
        if isinstance(outcome, Failed):
            self._failed[outcome.reason] += 1
        else:
            self._pay(outcome.cost)
        if isinstance(outcome, Dropped):
            self._dropped[outcome.reason] += 1

    def _pay(self, cost: Cost) -> None:
        """Count an answer once, also when it served several clips; the first of them bears its cost."""
        new = cost.without(self._counted)
        self._counted.update(new.answers)
        self._cost += dataclasses.replace(new, answers={})

    def summary(self, wall_seconds: float) -> StageSummary:
        return StageSummary(
            stage=self._stage.name,
            version=self._stage.version,
            num_in=self._kinds.total(),
            num_kept=self._kinds["kept"],
            num_split=self._kinds["split"],
            num_dropped=self._kinds["dropped"],
            num_failed=self._kinds["failed"],
            num_out=self._numbers["out"],
            dropped=_by_number(self._dropped),
            failed=_by_number(self._failed),
            num_failed_attempts=self._numbers["attempts"],
            cost=self._cost,
            media_seconds_in=round(self._media[0], 3),
            media_seconds_out=round(self._media[1], 3),
            num_unknown_duration=self._numbers["unknown"],
            num_reused=self._numbers["reused"],
            work_seconds=round(self._work_seconds, 3),
            wall_seconds=round(wall_seconds, 3),
        )


def _by_number(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
