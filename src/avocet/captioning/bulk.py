"""Caption many clips: files and folders in, one record each, resumable, decoding ahead of the model.

A run appends finished captions to a ledger and can be killed at any instant; the next run with the
same output does only what is missing. Clips that fail are not finished: they are tried again, and the
failures of the latest run lie beside the captions (`failures_path`).
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from avocet.captioning.captioner import Captioner, OpenedClip, clip_name
from avocet.captioning.instructions import InstructionChoice
from avocet.captioning.retry import retry_sampling
from avocet.errors import ConfigError
from avocet.ledger import Ledger
from avocet.records import AudioPolicy, Caption, ClipRef, Failure, Sampling

MEDIA_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".3gp", ".wmv"),
        *(".wav", ".mp3", ".flac", ".m4a", ".ogg", ".opus", ".aac"),
    }
)
"""What counts as media inside a folder; a file that is named itself is always tried."""


def find_clips(
    paths: Iterable[str | Path], start_seconds: float | None = None, end_seconds: float | None = None
) -> tuple[list[ClipRef], list[Failure]]:
    """The clips that files and folders stand for, in order, each once; folders are searched recursively.

    A clip's id is its path, with `#t=start,end` after it when an interval is asked for. A folder without
    media is a `Failure`. Raises `RecordError` for an impossible interval.
    """
    found: dict[str, ClipRef] = {}
    failures: list[Failure] = []
    for given in paths:
        path = Path(given)
        # A URL stays as it is typed: as a Path its "//" would collapse.
        files = _media_inside(path) if path.is_dir() else [os.fspath(given)]
        if not files:
            reason = f"{path}: the folder holds no media files ({', '.join(sorted(MEDIA_SUFFIXES))})"
            failures.append(Failure(clip_id=str(path), path=str(path), stage="media", error=reason))
        for file in files:
            clip_id = file + _interval_suffix(start_seconds, end_seconds)
            ref = ClipRef(id=clip_id, path=file, start_seconds=start_seconds, end_seconds=end_seconds)
            found.setdefault(clip_id, ref)
    return list(found.values()), failures


def find_instructions(clips: Iterable[ClipRef], instruction: InstructionChoice) -> tuple[list[ClipRef], list[Failure]]:
    """The clips that there is an instruction for, and a `Failure` for each other one: before anything is decoded."""
    askable: list[ClipRef] = []
    failures: list[Failure] = []
    for clip in clips:
        try:
            if callable(instruction):
                instruction(clip_name(clip.id, clip.path))
            askable.append(clip)
        except ConfigError as error:
            failures.append(Failure(clip_id=clip.id, path=clip.path, stage="model", error=str(error)))
    return askable, failures


def caption_clips(
    captioner: Captioner,
    clips: Iterable[ClipRef],
    *,
    ledger: Ledger | None = None,
    batch_size: int = 8,
    instruction: InstructionChoice = None,
    sampling: Sampling | None = None,
    audio: AudioPolicy = "auto",
    keep_logps: bool = False,
) -> Iterator[Caption | Failure]:
    """Caption `clips` batch by batch, yielding each outcome as soon as it exists.

    While the model works on one batch, a thread decodes the next; at most two batches of decoded clips are
    in memory. With a `ledger`, clips whose id is in it are skipped and each caption is in it before it is
    yielded. `instruction` may be a rule that asks something else of each clip, also within a batch. Raises
    `ConfigError` for an impossible batch size or an empty instruction.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be >= 1, got {batch_size}")
    missing = iter([ref for ref in clips if ledger is None or ref.id not in ledger])
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
    try:
        ahead = deque(pool.submit(captioner.try_open, ref, audio) for ref in itertools.islice(missing, batch_size))
        while ahead:
            batch = _take_batch(ahead, batch_size)
            ahead.extend(pool.submit(captioner.try_open, ref, audio) for ref in itertools.islice(missing, batch_size))
            for outcome in captioner.caption_batch(batch, instruction, sampling, audio=audio, keep_logps=keep_logps):
                if ledger is not None and isinstance(outcome, Caption):
                    ledger.append(outcome)
                yield outcome
    finally:
        pool.shutdown(cancel_futures=True)


def open_caption_ledger(
    path: str | Path,
    captioner: Captioner,
    instruction: InstructionChoice = None,
    sampling: Sampling | None = None,
    *,
    keep_logps: bool | None = None,
) -> Ledger:
    """The ledger of a bulk run, refusing to mix captions that were made in different ways in one file.

    Raises `ConfigError` when `path` already holds captions that this run would have made in another way (see
    `check_same_settings`), and what `Ledger` raises.
    """
    ledger = Ledger(path, key="clip_id")
    try:
        for record in ledger.records():
            check_same_settings(record, captioner, instruction, sampling, path, keep_logps=keep_logps)
    except BaseException:
        ledger.close()
        raise
    return ledger


def check_same_settings(
    record: Mapping[str, Any],
    captioner: Captioner,
    instruction: InstructionChoice,
    sampling: Sampling | None,
    path: str | Path,
    *,
    keep_logps: bool | None = None,
) -> None:
    """Raise `ConfigError` when a caption record of `path` was made in another way than this run would make it.

    Compared are model, revision, layout rule, reading options, sampling (of the first or of a second try), and what
    this run would ask about the record's clip: text and source. `keep_logps` None means that log-probabilities do
    not matter.
    """
    clip_id = str(record.get("clip_id"))
    try:
        asked = captioner.rule(instruction)(clip_name(clip_id, str(record.get("path") or "")))
    except ConfigError as error:
        raise ConfigError(
            f"{path} holds a caption of {clip_id!r}, about which this run would ask nothing ({error}); choose another "
            "output file or the same settings"
        ) from error
    sampling = sampling or captioner.model.default_sampling
    wanted: dict[str, Any] = {
        "model": captioner.model_id,
        "revision": captioner.revision,
        "layout_rule": captioner.model.layout_rule,
        "options": captioner.options.given(),
        "instruction": asked.text,
        "instruction_source": asked.source,
        "sampling": sampling.to_dict(),
    }
    found = {name: record.get(name) for name in wanted} | {"options": _part(record, "media").get("options", {})}
    second = retry_sampling(sampling)
    if second is not None and found["sampling"] == second.to_dict():
        found["sampling"] = wanted["sampling"]
    if keep_logps is not None and record.get("num_tokens"):
        wanted["log-probabilities"], found["log-probabilities"] = keep_logps, bool(record.get("token_logps"))
    for name, value in wanted.items():
        if found[name] != value:
            raise ConfigError(
                f"{path} holds a caption of {clip_id!r} with {name} {found[name]!r}, this run has {value!r}; choose "
                "another output file or the same settings"
            )


def failures_path(captions_path: str | Path) -> Path:
    """Where the failures of a run are written: captions.jsonl -> captions.failures.jsonl."""
    path = Path(captions_path)
    return path.with_name(f"{path.stem}.failures{path.suffix}")


def write_failures(captions_path: str | Path, failures: Sequence[Failure]) -> None:
    """Replace the failures beside `captions_path` by those of this run; no failures, no file."""
    path = failures_path(captions_path)
    if failures:
        path.write_text("".join(failure.to_json_line() + "\n" for failure in failures), encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def _part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name)
    return value if isinstance(value, Mapping) else {}


def _take_batch(ahead: deque[Future[OpenedClip | Failure]], batch_size: int) -> list[OpenedClip | Failure]:
    return [ahead.popleft().result() for _ in range(min(batch_size, len(ahead)))]


def _media_inside(folder: Path) -> list[str]:
    """Media by their suffix; links that lead nowhere are among them, so that opening them fails on record."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in MEDIA_SUFFIXES)
    return sorted(str(path) for path in found if path.is_file() or (path.is_symlink() and not path.exists()))


def _interval_suffix(start_seconds: float | None, end_seconds: float | None) -> str:
    if start_seconds is None and end_seconds is None:
        return ""
    start = "" if start_seconds is None else f"{start_seconds:g}"
    end = "" if end_seconds is None else f",{end_seconds:g}"
    return f"#t={start}{end}"
