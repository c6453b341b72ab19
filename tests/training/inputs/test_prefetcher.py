"""Work ahead in a thread: order, depth, exceptions in their place, and an end to it."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from avocet.errors import ConfigError
from avocet.training.inputs import Prefetcher


def wait_for(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert wait_for(lambda: threading.active_count() == before)


@pytest.mark.parametrize("depth", [0, 1, 3, 50])
def test_results_come_in_order(depth: int) -> None:
    with Prefetcher(lambda item: item * item, range(20), depth) as results:
        assert list(results) == [number * number for number in range(20)]
        assert list(results) == []


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_no_more_than_depth_ahead(depth: int) -> None:
    began: list[int] = []
    threads: set[int] = set()

    def function(item: int) -> int:
        began.append(item)
        threads.add(threading.get_ident())
        return item

    with Prefetcher(function, range(100), depth) as results:
        for taken in range(5):
            assert wait_for(lambda: len(began) == taken + depth)  # noqa: B023  # called at once
            time.sleep(0.01)
            assert len(began) == taken + depth
            assert next(results) == taken
    assert len(began) <= 5 + depth
    assert threads == {*threads} - {threading.get_ident()}
    assert len(threads) == 1


def test_without_depth_nothing_is_done_ahead() -> None:
    began: list[int] = []
    results = Prefetcher(began.append, range(5), depth=0)
    assert began == []
    next(results)
    assert began == [0]
    results.close()
    assert list(results) == []
    assert began == [0]


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_an_exception_comes_in_its_place_and_ends_it(depth: int) -> None:
    def function(item: int) -> float:
        return 12 / (item - 3)

    with Prefetcher(function, range(10), depth) as results:
        assert [next(results) for _ in range(3)] == [-4, -6, -12]
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert list(results) == []


@pytest.mark.parametrize("depth", [0, 2])
def test_an_exception_of_the_items_comes_in_its_place(depth: int) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("no more")

    with Prefetcher(str, items(), depth) as results:
        assert next(results) == "1"
        with pytest.raises(KeyError, match="no more"):
            next(results)


@pytest.mark.parametrize("depth", [0, 2])
def test_a_stray_stop_iteration_does_not_look_like_the_end(depth: int) -> None:
    empty: list[Iterator[int]] = [iter([1]), iter([]), iter([3])]
    with Prefetcher(next, empty, depth) as results:
        assert next(results) == 1
        with pytest.raises(RuntimeError, match="StopIteration"):
            next(results)


def test_closing_waits_for_the_call_that_runs_and_starts_no_other() -> None:
    began: list[int] = []
    release = threading.Event()

    def function(item: int) -> int:
        began.append(item)
        release.wait(5)
        return item

    results = Prefetcher(function, range(10), depth=2)
    assert wait_for(lambda: began == [0])
    threading.Timer(0.05, release.set).start()
    results.close()
    results.close()
    assert release.is_set()
    assert began == [0]
    assert list(results) == []


def test_a_dropped_prefetcher_stops_its_thread_and_frees_the_items() -> None:
    closed: list[bool] = []

    def items() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.append(True)

    results = Prefetcher(str, items(), depth=2)
    assert next(results) == "0"
    before = threading.active_count()
    del results
    gc.collect()
    assert wait_for(lambda: threading.active_count() == before - 1)
    assert wait_for(lambda: closed == [True])


def test_depth_must_not_be_negative() -> None:
    with pytest.raises(ConfigError, match="depth must be >= 0, got -1"):
        Prefetcher(str, [], depth=-1)
