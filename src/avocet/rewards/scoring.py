"""Scoring in the background: judges work while the next rollouts are made.

A judge that takes two seconds costs training nothing as long as there is other work for two seconds. `BackgroundScorer`
runs the rubric in an event loop of its own thread; `submit` returns at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING

from avocet.errors import ConfigError

if TYPE_CHECKING:
    from avocet.rewards.items import RewardItem
    from avocet.rewards.rubric import Rubric, Scored


class BackgroundScorer:
    """Scores batches of rollouts in a thread of its own.

        with BackgroundScorer(rubric) as scorer:
            future = scorer.submit(items)
            ...
            scored = future.result()     # raises what concerns the whole run, such as `JudgeStop`

    Several batches may be under way; they share the limits of their judge's client. While the scorer is open, the
    rubric's judges belong to it: a client that was used in another event loop must be disconnected there first. Leave
    the `with` block, or call `close`.
    """

    def __init__(self, rubric: Rubric) -> None:
        self.rubric = rubric
        self._loop = asyncio.new_event_loop()
        self._pending: set[Future[list[Scored]]] = set()
        self._lock = threading.Lock()
        self._is_open = True
        # A daemon: a caller that dies without closing must not be kept alive by a judge.
        self._thread = threading.Thread(target=self._loop.run_forever, name="avocet-rewards", daemon=True)
        self._thread.start()

    def __enter__(self) -> BackgroundScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(cancel=error is not None)

    @property
    def num_pending(self) -> int:
        """Batches that are not finished."""
        with self._lock:
            return len(self._pending)

    def submit(self, items: Sequence[RewardItem]) -> Future[list[Scored]]:
        """Begin to score, and return at once.

        The future gives one result per item, in their order; `cancel` on it ends the judging. Raises `ConfigError`
        after `close`.
        """
        with self._lock:
            if not self._is_open:
                raise ConfigError("this BackgroundScorer is closed; make another one")
            future = asyncio.run_coroutine_threadsafe(self.rubric.score(tuple(items)), self._loop)
            self._pending.add(future)
        future.add_done_callback(self._forget)
        return future

    def close(self, *, cancel: bool = False) -> None:
        """End the thread, after all that was submitted is scored (or at once, with `cancel`). Twice is harmless."""
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            pending = set(self._pending)
        if cancel:
            for future in pending:
                future.cancel()
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _forget(self, future: Future[list[Scored]]) -> None:
        with self._lock:
            self._pending.discard(future)

    async def _finish(self) -> None:
        # Also of cancelled futures, which are done before their tasks are.
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.rubric.disconnect()
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()
