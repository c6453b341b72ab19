"""Scoring in the background: it overlaps with the caller's work, and ends cleanly however it ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

import pytest
from judge_server import Asked, JudgeServer, Step
from reading_judge import literal, rollout, told

from avocet.errors import ConfigError
from avocet.judging import JudgeClient
from avocet.judging.errors import AccessDenied
from avocet.rewards import BackgroundScorer, Scored, make_rubric

MakeClient = Callable[..., JudgeClient]
JUDGED = {"checklist": 1.0, "events": 1.0}


def slow(seconds: float) -> Callable[[Asked], Step]:
    def script(asked: Asked) -> Step:
        return Step(text=literal(asked).text, latency_seconds=seconds)

    return script


def test_judging_overlaps_with_the_caller_and_itself(server: JudgeServer, make_client: MakeClient) -> None:
    """Two batches of two questions, 0.3 s each, beside 0.5 s of work: 0.5 s and a little, not 0.8 or 1.7 s."""
    with BackgroundScorer(make_rubric(JUDGED, judge=make_client(), exact=False)) as scorer:
        server.script = literal
        scorer.submit([rollout("The first call loads what it needs.")]).result(30)
        server.script = slow(0.3)
        start = time.perf_counter()
        first, second = scorer.submit([rollout(told(1, 2, 3))]), scorer.submit([rollout(told(4))])
        submitted = time.perf_counter() - start
        time.sleep(0.5)  # the next rollouts
        worked = time.perf_counter() - start
        found = first.result(30) + second.result(30)
        waited = time.perf_counter() - start - worked
    assert submitted < 0.2
    assert waited < 0.25  # one after the other it would be 0.3 at least
    assert server.peak == 4
    # Three of six keypoints and three missed events; one and five.
    assert [one.total for one in found] == [pytest.approx(1 / 2 + 1 / 2), pytest.approx(1 / 6 + 1 / 6)]


def test_closing_waits_for_what_was_submitted(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = slow(0.1)
    scorer = BackgroundScorer(make_rubric(JUDGED, judge=make_client(), exact=False))
    futures = [scorer.submit([rollout(told(number))]) for number in (1, 2, 3)]
    assert scorer.num_pending == 3
    scorer.close()
    scorer.close()
    assert [future.result(0)[0].total for future in futures] == [pytest.approx(1 / 3)] * 3
    assert scorer.num_pending == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "avocet-rewards"]
    with pytest.raises(ConfigError, match="is closed"):
        scorer.submit([])


def test_an_error_of_the_caller_cancels(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = slow(30.0)
    start = time.perf_counter()
    futures: list[Future[list[Scored]]] = []

    def train() -> None:
        with BackgroundScorer(make_rubric(JUDGED, judge=make_client(), exact=False)) as scorer:
            futures.append(scorer.submit([rollout(told(1))]))
            raise RuntimeError("an error of the trainer")

    with pytest.raises(RuntimeError, match="of the trainer"):
        train()
    assert time.perf_counter() - start < 10
    with pytest.raises(CancelledError):
        futures[0].result(0)


def test_what_concerns_the_whole_run_reaches_the_caller(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = lambda asked: Step(status=401)
    with BackgroundScorer(make_rubric(JUDGED, judge=make_client(), exact=False)) as scorer:
        with pytest.raises(AccessDenied):
            scorer.submit([rollout(told(1))]).result(30)
        # The next batch is tried anew: a person may have acted.
        server.script = literal
        assert scorer.submit([rollout(told(1))]).result(30)[0].total == pytest.approx(1 / 3)


def test_the_rubric_is_free_again_afterwards(server: JudgeServer, make_client: MakeClient) -> None:
    """A client belongs to one event loop at a time; closing gives it back."""
    server.script = literal
    rubric = make_rubric(JUDGED, judge=make_client(), exact=False)
    for _ in range(2):
        with BackgroundScorer(rubric) as scorer:
            assert scorer.submit([rollout(told(1))]).result(30)[0].total is not None

    async def here() -> float | None:
        try:
            return (await rubric.score([rollout(told(1))]))[0].total
        finally:
            await rubric.disconnect()

    assert asyncio.run(here()) == pytest.approx(1 / 3)
