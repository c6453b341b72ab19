"""Work ahead in one background thread: the next batch is prepared while the model learns from this one."""

from __future__ import annotations

import collections
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from avocet.errors import ConfigError

_ItemT = TypeVar("_ItemT")
_ResultT = TypeVar("_ResultT")


class _Shared(Generic[_ResultT]):
    """What the thread and its reader both hold. The thread must not hold the `Prefetcher`, or it would never go."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.changed = threading.Condition()
        self.ready: collections.deque[_ResultT] = collections.deque()
        self.error: BaseException | None = None
        self.finished = False
        """No result comes any more."""
        self.stopping = False

    def stop(self) -> None:
        with self.changed:
            self.stopping = True
            self.ready.clear()
            self.changed.notify_all()

    def wait_for_room(self) -> bool:
        """False when it is time to stop."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopping or len(self.ready) < self.depth)
            return not self.stopping

    def put(self, result: _ResultT) -> None:
        with self.changed:
            if not self.stopping:
                self.ready.append(result)
                self.changed.notify_all()

    def finish(self, error: BaseException | None) -> None:
        with self.changed:
            self.finished, self.error = True, error
            self.changed.notify_all()


class Prefetcher(Generic[_ItemT, _ResultT]):
    """An iterator over `function(item)` for each of `items`, in order, computed ahead in one thread.

    At most `depth` results exist that were not asked for yet, the one in the making included. Both `items` and
    `function` run in the thread; an exception of either is raised here after the results before it, and ends the
    iteration. With `depth=0` there is no thread and everything runs when it is asked for.

    Close it (or use it in a `with` block) to stop early: closing waits for the call that is running. A prefetcher
    that is dropped without being closed stops its thread too, after that call.

    Raises:
        ConfigError: `depth` is negative.
    """

    def __init__(self, function: Callable[[_ItemT], _ResultT], items: Iterable[_ItemT], depth: int = 1) -> None:
        if depth < 0:
            raise ConfigError(f"depth must be >= 0, got {depth}")
        self._shared: _Shared[_ResultT] = _Shared(depth)
        self._thread: threading.Thread | None = None
        self._direct = _results(function, items) if depth == 0 else None
        if depth:
            arguments = (self._shared, _results(function, items))
            self._thread = threading.Thread(target=_work, args=arguments, name="avocet-prefetch", daemon=True)
            self._thread.start()
        weakref.finalize(self, self._shared.stop)

    def __iter__(self) -> Iterator[_ResultT]:
        return self

    def __next__(self) -> _ResultT:
        shared = self._shared
        if shared.stopping:
            raise StopIteration
        if self._direct is not None:
            return next(self._direct)
        with shared.changed:
            shared.changed.wait_for(lambda: shared.ready or shared.finished or shared.stopping)
            if shared.ready:
                shared.changed.notify_all()
                return shared.ready.popleft()
            error, shared.error = shared.error, None
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stop; no result comes after this. May be called twice."""
        self._shared.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Prefetcher[_ItemT, _ResultT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _results(function: Callable[[_ItemT], _ResultT], items: Iterable[_ItemT]) -> Iterator[_ResultT]:
    # A generator, unlike `map`, lets no StopIteration of `function` pass for the end of the items.
    for item in items:
        yield function(item)


def _work(shared: _Shared[_ResultT], results: Iterator[_ResultT]) -> None:
    error: BaseException | None = None
    try:
        while shared.wait_for_room():
            try:
                result = next(results)
            except StopIteration:
                break
            shared.put(result)
            del result
    except BaseException as caught:  # the reader raises it
        error = caught
    shared.finish(error)
