"""What checking needs of one media file, gathered in worker processes and kept in a ledger.

A file is described once per (path, size, time of change, interval, what was asked of it); a file that has changed is
described anew.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import functools
import hashlib
import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from avocet.errors import AvocetError, ConfigError
from avocet.ledger import Ledger
from avocet.media import open_clip, probe
from avocet.models.interface import CaptionModel
from avocet.models.registry import load_model
from avocet.records import AudioPolicy, Record, is_url


@dataclasses.dataclass(frozen=True, kw_only=True)
class MediaJob(Record):
    """One clip to look at."""

    path: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    policy: AudioPolicy = "auto"
    decode: bool = False
    """Decode the whole interval; otherwise only the header is read."""
    instructions: tuple[str, ...] = ()
    """With a model: the questions whose prompts are counted."""
    model: str | None = None
    revision: str = ""
    """Of the model, so that another version's counts are not taken for this one's."""
    timeout_seconds: float = 120.0
    size: int | None = None
    modified_ns: int | None = None
    """Of the file, None for URLs and missing files."""

    @property
    def key(self) -> str:
        """The name of the job's result in the ledger."""
        questions = hashlib.sha256("\0".join(self.instructions).encode(errors="surrogatepass")).hexdigest()[:12]
        asked = (self.start_seconds, self.end_seconds, self.policy, self.decode, self.model, self.revision, questions)
        return json.dumps([self.path, self.size, self.modified_ns, *asked])


@dataclasses.dataclass(frozen=True, kw_only=True)
class MediaFacts(Record):
    """What a file says, or why it cannot be read."""

    key: str
    error: str | None = None
    missing: bool = False
    transient: bool = False
    """Whether another try may go better: such results are not kept in a ledger."""
    duration_seconds: float = 0.0
    """Of the whole file; 0 for a still image."""
    has_video: bool = False
    has_audio: bool = False
    is_image: bool = False
    size: int | None = None
    audio_status: str | None = None
    """With decoding: present, silent, absent or undecodable."""
    num_frames: int | None = None
    """With decoding: frames that the model's sampling gives (2 per second without a model)."""
    prompt_tokens: tuple[int, ...] | None = None
    """With a model: tokens of the prompt with each of the job's questions."""
    prompt_error: str | None = None
    """Why the model cannot take the clip."""
    warnings: tuple[str, ...] = ()


_AHEAD = 2
"""Jobs per process that are handed out: enough to keep it busy."""

_LOOK_PIXELS = 65_536
"""Frames of a check without a model are scaled down to this, so that a long film does not fill the memory."""

Look = Callable[[MediaJob], MediaFacts]


def stamped(job: MediaJob) -> MediaJob:
    """The job with the size and the time of change of its file."""
    if is_url(job.path):
        return job
    try:
        status = os.stat(job.path)
    except (OSError, ValueError):
        return job
    return dataclasses.replace(job, size=status.st_size, modified_ns=status.st_mtime_ns)


def gather_facts(
    jobs: Sequence[MediaJob],
    *,
    workers: int,
    ledger: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    look: Look | None = None,
) -> dict[str, MediaFacts]:
    """Job key -> facts, from the ledger where they are there already.

    Args:
        jobs: stamped; equal keys are looked at once.
        workers: processes; 0 works in this one.
        ledger: a JSONL file that keeps finished facts; the next call with it does only what is missing.
        progress: called with (done, all) after each job.
        look: what is done for each job, `describe` by default; a function of a module, since processes import it.

    Raises `ConfigError` for a negative number of workers.
    """
    if workers < 0:
        raise ConfigError(f"workers must be >= 0, got {workers}")
    wanted = {job.key: job for job in jobs}
    facts: dict[str, MediaFacts] = {}
    book = None if ledger is None else Ledger(ledger, key="key")
    try:
        if book is not None:
            facts = {found.key: found for found in map(MediaFacts.from_dict, book.records()) if found.key in wanted}
        missing = [job for key, job in wanted.items() if key not in facts]
        for found in _run(missing, workers, look or describe):
            facts[found.key] = found
            if book is not None and not found.transient and not found.missing:
                book.append(found)
            if progress is not None:
                progress(len(facts), len(wanted))
    finally:
        if book is not None:
            book.close()
    return facts


def _run(jobs: Sequence[MediaJob], workers: int, look: Look) -> Iterator[MediaFacts]:
    if workers == 0:
        yield from map(look, jobs)
        return
    waiting = deque(jobs)
    while waiting:
        # A dying process takes the jobs of its neighbours with it; one at a time, only the guilty one fails.
        suspects = deque((yield from _run_pool(waiting, workers, _AHEAD * workers, look)))
        while suspects:
            for job in (yield from _run_pool(suspects, 1, 1, look)):
                reason = "the process that read it died (out of memory, a crash of the decoder, or no end in sight)"
                yield MediaFacts(key=job.key, error=reason, transient=True)


def _run_pool(
    waiting: deque[MediaJob], workers: int, most_running: int, look: Look
) -> Generator[MediaFacts, None, list[MediaJob]]:
    """Take jobs from `waiting` and yield their facts until none is left or a process dies.

    Returns the jobs that were under way when it died, at most `most_running`.
    """
    lost: list[MediaJob] = []
    running: dict[Future[MediaFacts], MediaJob] = {}
    # Forked children of a process with threads of PyTorch may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(waiting)), mp_context=context, initializer=_one_thread)
    try:
        while running or (waiting and not lost):
            while waiting and not lost and len(running) < most_running:
                job = waiting.popleft()
                try:
                    running[pool.submit(_watched, look, job)] = job
                except BrokenProcessPool:
                    lost.append(job)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    lost.append(job)
    finally:
        # Also when the caller stops in the middle: what has not begun must not run on.
        pool.shutdown(cancel_futures=True)
    return lost


def _watched(look: Look, job: MediaJob) -> MediaFacts:
    """In a worker: end the process when a job takes twice as long as its clip may take to read."""
    limit = 2 * (job.timeout_seconds + _playing_seconds(job) / 2)
    with open(os.devnull, "w") as nowhere:
        # Unlike a signal or a thread of Python, it also ends what never comes back from a library.
        faulthandler.dump_traceback_later(limit, exit=True, file=nowhere)
        try:
            return look(job)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _playing_seconds(job: MediaJob) -> float:
    if job.end_seconds is not None:
        return job.end_seconds - (job.start_seconds or 0.0)
    try:
        return probe(job.path, timeout_seconds=job.timeout_seconds).duration_seconds
    except (AvocetError, OSError):
        return 0.0


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def describe(job: MediaJob) -> MediaFacts:
    """Look at one clip; what goes wrong is in the facts."""
    if not is_url(job.path) and not Path(job.path).is_file():
        return MediaFacts(key=job.key, error="no such file", missing=True)
    model = None if job.model is None else _model(job.model)
    facts = MediaFacts(key=job.key, size=job.size)
    try:
        header = probe(job.path, timeout_seconds=job.timeout_seconds)
        facts = MediaFacts(
            key=job.key,
            duration_seconds=header.duration_seconds,
            has_video=header.video_codec is not None,
            has_audio=header.audio_codec is not None,
            is_image=header.is_image,
            size=job.size,
        )
        return _decoded(job, facts, model) if job.decode or model is not None else facts
    except (AvocetError, OSError) as error:
        reason = " ".join(str(error).split())
        return dataclasses.replace(facts, error=reason, transient="gave up after" in reason)


def _decoded(job: MediaJob, facts: MediaFacts, model: CaptionModel | None) -> MediaFacts:
    # All frames are decoded whatever their size is afterwards; without a model nobody looks at them.
    reading: Mapping[str, Any] = {"max_pixels": _LOOK_PIXELS}
    if model is not None:
        reading = {
            "fps": model.clip_fps,
            "max_frames": model.max_frames,
            "min_frames": model.min_frames,
            "max_pixels": model.max_pixels,
        }
    clip = open_clip(
        job.path,
        start_seconds=job.start_seconds,
        end_seconds=job.end_seconds,
        # A missing track is reported by itself, not as a broken file.
        audio="ignore" if job.policy == "ignore" else "auto",
        timeout_seconds=job.timeout_seconds,
        **reading,
    )
    facts = dataclasses.replace(
        facts, audio_status=clip.audio_status, num_frames=clip.num_frames, warnings=clip.warnings
    )
    if model is None:
        return facts
    try:
        counts = tuple(len(model.prepare(clip, instruction).token_ids) for instruction in job.instructions)
    except AvocetError as error:
        return dataclasses.replace(facts, prompt_error=" ".join(str(error).split()))
    return dataclasses.replace(facts, prompt_tokens=counts)


@functools.cache
def _model(name: str) -> CaptionModel:
    # On the meta device a model of any size takes no memory, and preparing a prompt needs no weights.
    return load_model(name, device="meta").model
