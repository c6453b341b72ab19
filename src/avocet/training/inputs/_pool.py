"""Worker processes that open clips, and the thread that watches over them.

The processes are started afresh (no fork) and run `_worker.main` alone. `multiprocessing` would load the caller's main
program, with PyTorch and all, into each of them, and would break programs without `if __name__ == "__main__"`.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import logging
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from avocet.errors import AvocetError, ConfigError
from avocet.records import Clip, ClipRef
from avocet.training.inputs._opening import Problem, one_line, read_clip, shared_file

_START_SECONDS = 120.0
"""How long a worker may take to import what it needs."""

_MAX_FAILED_STARTS = 3
"""So many workers in a row that die before they are ready mean that none will ever be."""

_END_SECONDS = 1.0
"""How long to wait for a killed process to be gone."""

_COMMAND = (
    "import sys; control, shared = int(sys.argv[1]), int(sys.argv[2]); sys.path[:] = sys.argv[3:]; "
    "from avocet.training.inputs._worker import main; main(control, shared)"
)

_logger = logging.getLogger(__name__)


class WorkerError(AvocetError):
    """Worker processes cannot be started, or were closed while somebody waited for them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one job."""

    result: Clip | Problem
    worker_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    number: int
    ref: ClipRef


@dataclasses.dataclass(kw_only=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    control: socket.socket
    shared_descriptor: int
    deadline: float
    """When it has to be ready or done with its job, on the monotonic clock; infinite while it is idle."""
    ready: bool = False
    job: _Job | None = None
    job_began: float = 0.0
    received: bytes = b""

    def send(self, message: Mapping[str, Any]) -> None:
        # A worker always reads, so this does not block; one that has died is found by the end of its stream.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.control.sendall(json.dumps(message).encode("ascii") + b"\n")


class WorkerPool:
    """Opens clips in up to `num_workers` processes; `submit` and `take` may be called from any thread.

    A worker that takes longer than `timeout_seconds` for a clip is killed, one that dies is replaced when there is
    more to do; the clip at hand becomes a `Problem`, the others are not touched.
    """

    def __init__(
        self, *, opener: str, open_arguments: Mapping[str, Any], num_workers: int, timeout_seconds: float
    ) -> None:
        self._settings = {"opener": opener, "open_arguments": dict(open_arguments)}
        self._num_workers = num_workers
        self._timeout_seconds = timeout_seconds
        self.num_replaced = 0
        """Workers that were killed or died."""
        self._changed = threading.Condition()
        self._queue: collections.deque[_Job] = collections.deque()
        self._wanted: set[int] = set()
        self._done: dict[int, Outcome] = {}
        self._next_number = 0
        self._closing = False
        self._fatal: BaseException | None = None
        self._thread: threading.Thread | None = None
        # From here on only the thread touches what it uses.
        self._workers: list[_Worker] = []
        self._unkillable: list[subprocess.Popen[bytes]] = []
        """Kept, since a dropped one warns that its process still runs."""
        self._failed_starts = 0
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)

    def submit(self, ref: ClipRef) -> int:
        """Queue a clip; returns the number to `take` it with."""
        with self._changed:
            self._check_working()
            job = _Job(number=self._next_number, ref=ref)
            self._next_number += 1
            self._wanted.add(job.number)
            self._queue.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._supervise, name="avocet-clip-workers", daemon=True)
                self._thread.start()
        self._wake()
        return job.number

    def take(self, number: int) -> Outcome:
        """Wait for a clip. Raises `WorkerError` when workers cannot be started or the pool is closed."""
        with self._changed:
            self._changed.wait_for(lambda: number in self._done or self._fatal is not None or self._closing)
            if number in self._done:
                self._wanted.discard(number)
                return self._done.pop(number)
            self._check_working()
            raise AssertionError("woken without a reason")

    def discard(self, numbers: Iterable[int]) -> None:
        """Forget clips that nobody will take; those being opened are dropped when they are there."""
        with self._changed:
            unwanted = set(numbers)
            self._wanted -= unwanted
            self._queue = collections.deque(job for job in self._queue if job.number not in unwanted)
            for number in unwanted:
                self._done.pop(number, None)

    def close(self) -> None:
        """Kill all workers and wait until they are gone. May be called twice."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._wake()
        if self._thread is None:  # no clip was asked for
            self._wake_sender.close()
            self._wake_receiver.close()
        elif self._thread is not threading.current_thread():
            self._thread.join()

    def _check_working(self) -> None:
        if self._fatal is not None:
            raise WorkerError(f"clips cannot be loaded: {one_line(self._fatal)}") from self._fatal
        if self._closing:
            raise WorkerError("the worker processes are closed; make a new loader")

    def _wake(self) -> None:
        # A full buffer wakes as well as one more byte, and a closed socket means that nobody is left to wake.
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_sender.send(b"!")

    def _supervise(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._wake_receiver, selectors.EVENT_READ)
        try:
            while not self._closing:
                self._assign(selector)
                self._listen(selector)
                self._end_overdue(selector)
        except BaseException as error:  # whoever waits must hear of it
            with self._changed:
                self._fatal = error
                self._changed.notify_all()
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            for worker in list(self._workers):
                self._end(worker, selector)
            selector.close()
            self._wake_sender.close()
            self._wake_receiver.close()

    def _assign(self, selector: selectors.BaseSelector) -> None:
        with self._changed:
            for worker in self._workers:
                if worker.ready and worker.job is None and self._queue:
                    worker.job = self._queue.popleft()
                    worker.job_began = time.monotonic()
                    worker.deadline = worker.job_began + self._timeout_seconds
                    ref = dataclasses.replace(worker.job.ref, meta={})  # may hold anything; opening needs none of it
                    worker.send({"job": worker.job.number, "ref": ref.to_dict()})
            num_starting = sum(not worker.ready for worker in self._workers)
            missing = min(len(self._queue) - num_starting, self._num_workers - len(self._workers))
        for _ in range(missing):
            worker = self._start()
            self._workers.append(worker)
            selector.register(worker.control, selectors.EVENT_READ, worker)

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        shared = shared_file()
        descriptors = (theirs.fileno(), shared)
        try:
            process = subprocess.Popen(  # noqa: S603  # this interpreter and constant text
                [sys.executable, "-c", _COMMAND, *map(str, descriptors), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                process_group=0,  # an interrupt from the keyboard is for the caller, who then closes the pool
            )
        except OSError as error:
            ours.close()
            os.close(shared)
            raise WorkerError(f"a worker process cannot be started: {error}") from error
        finally:
            theirs.close()
        deadline = time.monotonic() + _START_SECONDS
        worker = _Worker(process=process, control=ours, shared_descriptor=shared, deadline=deadline)
        worker.send(self._settings)
        return worker

    def _listen(self, selector: selectors.BaseSelector) -> None:
        deadline = min((worker.deadline for worker in self._workers), default=math.inf)
        wait_seconds = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        for key, _ in selector.select(wait_seconds):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._wake_receiver.recv(4096)
                continue
            worker: _Worker = key.data
            try:
                received = worker.control.recv(1 << 16)
            except ConnectionResetError:
                received = b""
            if received:
                *lines, worker.received = (worker.received + received).split(b"\n")
                for line in lines:
                    self._handle(worker, json.loads(line))
            else:
                self._replace(worker, selector, "crash")

    def _handle(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        if "unusable" in message:
            raise ConfigError(message["unusable"])
        if "ready" in message:
            worker.ready, worker.deadline = True, math.inf
            self._failed_starts = 0
            return
        result: Clip | Problem
        if "clip" in message:
            result = read_clip(message["clip"], worker.shared_descriptor)
        else:
            result = Problem(reason=message["reason"], error=message["error"])
        self._finish(worker, result, message["seconds"])

    def _finish(self, worker: _Worker, result: Clip | Problem, worker_seconds: float) -> None:
        job = worker.job
        assert job is not None
        worker.job, worker.deadline = None, math.inf
        with self._changed:
            if job.number in self._wanted:
                self._done[job.number] = Outcome(result=result, worker_seconds=worker_seconds)
                self._changed.notify_all()

    def _end_overdue(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker.deadline <= now]:
            self._replace(worker, selector, "timeout")

    def _replace(self, worker: _Worker, selector: selectors.BaseSelector, reason: str) -> None:
        """End a worker that died or hangs; the next `_assign` starts another one if there is more to do."""
        ending = self._end(worker, selector, hurry=reason == "timeout")
        self.num_replaced += 1
        if worker.job is not None:
            seconds = time.monotonic() - worker.job_began
            if reason == "timeout":
                error = (
                    f"{worker.job.ref.path}: reading was stopped after {seconds:.1f} s; check the file and its disk, "
                    f"or raise timeout_seconds (now {self._timeout_seconds:g}) if the clip is only long"
                )
                self._finish(worker, Problem(reason="timeout", error=error), seconds)
            else:
                error = f"{worker.job.ref.path}: the process that read it died after {seconds:.1f} s ({ending})"
                self._finish(worker, Problem(reason="crash", error=error), seconds)
        elif not worker.ready:
            ending = f"no answer for {_START_SECONDS:g} s" if reason == "timeout" else ending
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILED_STARTS:
                raise WorkerError(
                    f"{self._failed_starts} worker processes in a row did not start ({ending}); "
                    "see the messages above, or load without workers (num_workers=0)"
                )

    def _end(self, worker: _Worker, selector: selectors.BaseSelector, *, hurry: bool = True) -> str:
        """Make sure that a process is gone; returns how it ended. `hurry` does not wait for it to end by itself."""
        self._workers.remove(worker)
        selector.unregister(worker.control)
        worker.control.close()
        os.close(worker.shared_descriptor)
        for kill in (True,) if hurry else (False, True):
            if kill:
                worker.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return _describe_exit(worker.process.wait(_END_SECONDS))
        _logger.warning("process %d waits for its disk or network and cannot be killed", worker.process.pid)
        self._unkillable.append(worker.process)
        return "it cannot be killed"


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    hint = ", perhaps for lack of memory" if -code == signal.SIGKILL else ""
    return f"killed by {name}{hint}"
