"""kill -9 at random instants: the same output, nothing that was answered is asked again, the same cost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from curation_runs import card, command, files_of, make_corpus, teaching
from scripted_teachers import Faults, ScriptedTeachers

from avocet.judging.cache import ReplyCache

FAULTS = Faults(
    loses_always=frozenset({9}),
    incomplete=frozenset({10}),
    repeats=frozenset({11}),
    generic=frozenset({16}),
    unread_always=frozenset({23}),
)
"""Those that do not depend on how often something was asked before: what was on its way is asked again."""
WORKERS = 4


def run(words: list[str]) -> subprocess.Popen[bytes]:
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-m", "avocet", *words], env=environment, **quiet)


def kill_at(process: subprocess.Popen[bytes], teachers: ScriptedTeachers, more_questions: int, seconds: float) -> bool:
    """Kill after so many more questions, and a moment; False when the process was faster."""
    wanted, deadline = len(teachers.asked) + more_questions, time.monotonic() + 60
    while len(teachers.asked) < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("pipeline", "kills"),
    [
        ("avocado", 3),
        pytest.param("avocado", 15, marks=pytest.mark.slow),
        pytest.param("vs2", 15, marks=pytest.mark.slow),
    ],
)
def test_killed_and_continued(
    tmp_path: Path, stage_play: Callable[..., Path], static_play: Path, pipeline: str, kills: int
) -> None:
    corpus = make_corpus(tmp_path / "corpus", stage_play, static_play)
    with teaching(FAULTS) as (server, teachers):
        calm, killed = tmp_path / "calm", tmp_path / "killed"
        assert run(command(pipeline, corpus, calm, server, cache="calm.sqlite")).wait() == 0
        once = teachers.bodies.copy()
        assert card(calm).cost.num_calls == len(once)
        teachers.bodies.clear()
        teachers.asked.clear()
        teachers.latency_seconds = 0.02
        words, draw, num_killed = command(pipeline, corpus, killed, server), random.Random(kills), 0
        for _ in range(kills):
            more = draw.randrange(0, max(2, 2 * len(once) // kills))
            num_killed += kill_at(run(words), teachers, more, draw.random() * 0.1)
        assert num_killed >= 2
        assert run(words).wait() == 0
        assert set(teachers.bodies) == set(once)
        num_lost = len(teachers.bodies) - len(once)
        # Only what was on its way when the process died: at most one question per worker.
        assert 0 <= num_lost <= WORKERS * num_killed
        with ReplyCache(tmp_path / "cache.sqlite") as cache:
            calls = sum(row["calls"] for row in cache.accounts())
            assert calls == len(cache) == len(once), "each answer was received, and accounted for, once"
        assert files_of(killed) == files_of(calm)
