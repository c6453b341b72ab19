"""Clips decoded ahead in worker processes; a file that hangs or crashes its decoder costs one clip, never the run."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import math
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

from avocet.errors import ConfigError, MediaError
from avocet.records import Clip, ClipRef, Failure, Record
from avocet.training.inputs._opening import Opener, Problem, open_ref, resolve_opener
from avocet.training.inputs._pool import Outcome, WorkerPool

OPEN_CLIP = "avocet.media:open_clip"

_FROM_THE_REF = frozenset({"path", "start_seconds", "end_seconds", "clip_id"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderStatistics(Record):
    """What a loader has done so far."""

    num_clips: int = 0
    """Clips delivered."""
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    """Failures delivered, by reason: "media" (the file cannot be read), "error" (another exception), "timeout" (it
    took too long and its process was killed), "crash" (its process died)."""
    elapsed_seconds: float = 0.0
    """From the start of each `load` to its last delivery, the consumer's own work in between included."""
    wait_seconds: float = 0.0
    """How much of it the consumer waited."""
    decode_seconds: float = 0.0
    """Time spent opening clips and failures, all workers together."""
    num_replaced_workers: int = 0
    """Worker processes that died or were killed for taking too long."""

    @property
    def num_failures(self) -> int:
        return sum(self.failures.values())

    @property
    def clips_per_second(self) -> float:
        return self.num_clips / self.elapsed_seconds if self.elapsed_seconds else 0.0


class ClipLoader:
    """Opens clips ahead of their use, in order; what cannot be opened is a `Failure` in its place.

    Worker processes start on first use, need about 0.2 s for it and hold the media package only, no PyTorch. They are
    gone after `close` (use a `with` block), when the loader is dropped, and when this process ends in whatever way.

    Args:
        open_arguments: what to pass to `avocet.open_clip` besides what a `ClipRef` says: fps, max_frames, max_pixels,
            audio, min_frames, timeout_seconds.
        num_workers: processes. 0 opens clips in this process when they are asked for.
        timeout_seconds: the most time for one clip; then its worker is killed and replaced. Unless `open_arguments`
            say otherwise, `open_clip` itself is told to give up at half of it (plus half the playing time), which
            needs no killing and is all that holds without workers.
        prefetch: how many clips may be open or in the making besides the one delivered last; two per worker by
            default. What bounds memory.
        opener: "package.module:function" to use in place of `open_clip`; it gets the same arguments.

    Raises:
        ConfigError: an argument is outside of what is allowed, those of `open_clip` included.
    """

    def __init__(
        self,
        open_arguments: Mapping[str, Any] | None = None,
        num_workers: int = 2,
        timeout_seconds: float = 300.0,
        prefetch: int | None = None,
        *,
        opener: str = OPEN_CLIP,
    ) -> None:
        if num_workers < 0:
            raise ConfigError(f"num_workers must be >= 0, got {num_workers}")
        if not (timeout_seconds > 0 and math.isfinite(timeout_seconds)):
            raise ConfigError(f"timeout_seconds must be a number > 0, got {timeout_seconds}")
        if prefetch is not None and prefetch < 1:
            raise ConfigError(f"prefetch must be >= 1 or None, got {prefetch}")
        self._open_arguments = {"timeout_seconds": timeout_seconds / 2, **(open_arguments or {})}
        self._opener = resolve_opener(opener)
        _check_open_arguments(self._opener if opener == OPEN_CLIP else None, self._open_arguments)
        self._prefetch = 2 * num_workers if prefetch is None else prefetch
        self._loading = False
        self._closed = False
        self._statistics = LoaderStatistics()
        self._pool: WorkerPool | None = None
        if num_workers:
            self._pool = WorkerPool(
                opener=opener,
                open_arguments=self._open_arguments,
                num_workers=num_workers,
                timeout_seconds=timeout_seconds,
            )
            weakref.finalize(self, self._pool.close)

    def load(self, refs: Iterable[ClipRef]) -> Iterator[Clip | Failure]:
        """A clip or a failure for each of `refs`, in their order.

        With workers, `refs` is read up to `prefetch` items ahead. Dropping the iterator drops what was loaded ahead.

        Raises:
            ConfigError: the loader is closed, or another `load` of it has not ended.
            WorkerError: worker processes cannot be started, or were closed meanwhile.
        """
        if self._closed:
            raise ConfigError("this loader is closed; make a new one")
        if self._loading:
            raise ConfigError("this loader is in use; finish or close its iterator first, or make another loader")
        self._loading = True
        last = time.perf_counter()
        try:
            for ref, outcome, waited in self._outcomes(refs):
                now = time.perf_counter()
                self._count(outcome, waited, elapsed_seconds=now - last)
                last = now
                if isinstance(outcome.result, Clip):
                    yield outcome.result
                else:
                    yield Failure(clip_id=ref.id, path=ref.path, stage="media", error=outcome.result.error)
        finally:
            self._loading = False

    @property
    def statistics(self) -> LoaderStatistics:
        """Counted over all `load` calls; of clips that were delivered, not of those loaded ahead."""
        replaced = self._pool.num_replaced if self._pool is not None else 0
        return dataclasses.replace(self._statistics, num_replaced_workers=replaced)

    def close(self) -> None:
        """End the worker processes, whatever they are doing. May be called twice."""
        self._closed = True
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _outcomes(self, refs: Iterable[ClipRef]) -> Iterator[tuple[ClipRef, Outcome, float]]:
        """Each ref with what became of it and the seconds that it was waited for."""
        if self._pool is None:
            for ref in refs:
                began = time.perf_counter()
                result = open_ref(self._opener, ref, self._open_arguments)
                seconds = time.perf_counter() - began
                yield ref, Outcome(result=result, worker_seconds=seconds), seconds
            return
        pool, remaining = self._pool, iter(refs)
        ahead: collections.deque[tuple[ClipRef, int]] = collections.deque()
        try:
            for ref in itertools.islice(remaining, self._prefetch):
                ahead.append((ref, pool.submit(ref)))
            while ahead:
                ref, number = ahead[0]
                began = time.perf_counter()
                outcome = pool.take(number)
                waited = time.perf_counter() - began
                ahead.popleft()
                for following in itertools.islice(remaining, 1):
                    ahead.append((following, pool.submit(following)))
                yield ref, outcome, waited
        finally:
            pool.discard(number for _, number in ahead)

    def _count(self, outcome: Outcome, waited: float, elapsed_seconds: float) -> None:
        before = self._statistics
        failures = dict(before.failures)
        if isinstance(outcome.result, Problem):
            failures[outcome.result.reason] = failures.get(outcome.result.reason, 0) + 1
        self._statistics = dataclasses.replace(
            before,
            num_clips=before.num_clips + isinstance(outcome.result, Clip),
            failures=failures,
            elapsed_seconds=before.elapsed_seconds + elapsed_seconds,
            wait_seconds=before.wait_seconds + waited,
            decode_seconds=before.decode_seconds + outcome.worker_seconds,
        )


def _check_open_arguments(open_clip: Opener | None, open_arguments: Mapping[str, Any]) -> None:
    """Raises `ConfigError` now for what would otherwise fail for each clip. `open_clip` is None for other openers."""
    taken = sorted(_FROM_THE_REF & open_arguments.keys())
    if taken:
        raise ConfigError(f"open_arguments must not set {', '.join(taken)}; each ClipRef says it")
    try:
        json.dumps(dict(open_arguments), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"open_arguments must be plain numbers and strings, got {open_arguments!r}") from error
    if open_clip is None:
        return
    try:
        # It checks its arguments before it looks for the file, and there is none of this name.
        open_clip("", **open_arguments)
    except TypeError as error:
        raise ConfigError(f"open_arguments do not fit open_clip: {error}") from error
    except MediaError:
        return
