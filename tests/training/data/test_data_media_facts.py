"""Hostile input: workers that never come back, questions that take for ever."""

from __future__ import annotations

import time

import pytest

from avocet.training.data.check_media import MediaFacts, MediaJob, describe, gather_facts
from avocet.training.data.formats_common import guess_task


def hang_on_mute(job: MediaJob) -> MediaFacts:
    """In a worker process: a decoder without end."""
    while job.path.endswith("mute.mp4"):
        time.sleep(60)
    return describe(job)


def test_a_clip_without_end_costs_its_own_job_only(tmp_path, clip_writer):
    jobs = []
    for name in ("mute.mp4", "loud.mp4"):
        clip_writer(tmp_path / name, seconds=1.0)
        jobs.append(MediaJob(path=str(tmp_path / name), end_seconds=1.0, timeout_seconds=1.0))
    began = time.monotonic()
    found = gather_facts(jobs, workers=1, look=hang_on_mute)
    # 2 x (1 + 1 / 2) seconds, once among others and once alone.
    assert time.monotonic() - began > 6
    error = found[jobs[0].key].error
    assert error is not None
    assert "no end in sight" in error
    assert found[jobs[1].key].error is None


@pytest.mark.parametrize("piece", ["A. ", "tell ", "give a ", "describe from 1 ", "from 1" + " " * 1000, "(B) ", "12"])
def test_the_guess_of_a_task_takes_time_linear_in_the_question(piece):
    """Of 200,000 characters, for which a quadratic pattern takes minutes."""
    began = time.process_time()
    guess_task(piece * (200_000 // len(piece)), "video")
    assert time.process_time() - began < 5
