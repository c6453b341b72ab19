"""Append-only result files that survive being killed at any instant.

A ledger is a JSONL file in which every record has a key. Opening it reads the finished keys, so a job
asks `key in ledger` and does only what is missing; a record counts as finished once its line, newline
included, is in the file. A writer killed in the middle of a line leaves a torn last line: the next
opening cuts it off (or, when only the newline is missing, completes it). Damage anywhere else is not
ours and stops with an error rather than being guessed at.

One process writes at a time, held by a file lock; within it one thread appends.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from avocet.errors import ConfigError, RecordError
from avocet.records import Record, json_line

_log = logging.getLogger(__name__)

_BLOCK_BYTES = 2**16

KeyRule = str | Callable[[Mapping[str, Any]], str]


class Ledger:
    """The finished records of one job, in one file.

    Args:
        path: the JSONL file; it and its folder are created when missing.
        key: the name of the field that identifies a record, or a function from the record's
            dictionary to its key.
        fsync: force every line to the disk before `append` returns. It survives a power cut, not just
            a killed process, and costs milliseconds per record.

    Raises `RecordError` for damaged lines and repeated keys, naming file and line, and `ConfigError`
    when another process is writing to the same file or the file cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str], key: KeyRule = "clip_id", *, fsync: bool = False) -> None:
        self.path = Path(path)
        self._key_rule = key
        self._fsync = fsync
        self._lines_of_keys: dict[str, int] = {}
        self.num_repaired = 0
        """Torn last lines that opening cut off or completed: 0 or 1."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be written: {error.strerror or error}; choose another place for it"
            ) from error
        try:
            self._lock()
            self._repair_tail()
            self._read_keys()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._lines_of_keys)

    def __contains__(self, key: object) -> bool:
        return key in self._lines_of_keys

    def keys(self) -> Iterator[str]:
        """The finished keys in the order of the file."""
        return iter(self._lines_of_keys)

    def records(self) -> Iterator[dict[str, Any]]:
        """The finished records as dictionaries, in the order of the file."""
        for _, record in self._parsed_lines():
            yield record

    def append(self, record: Record | Mapping[str, Any]) -> None:
        """Write one record as one line.

        The line is with the operating system when this returns. Raises `RecordError` when its key is
        already there; a failed write (a full disk) leaves no partial line behind.
        """
        if self._fd < 0:
            raise RecordError(f"{self.path}: the ledger is closed")
        data = record.to_dict() if isinstance(record, Record) else dict(record)
        key = self._key_of(data, "the new record")
        if key in self._lines_of_keys:
            raise RecordError(f"{self.path}: {key!r} is already recorded in line {self._lines_of_keys[key]}")
        self._write(json_line(data).encode() + b"\n")
        self._lines_of_keys[key] = len(self._lines_of_keys) + 1

    def close(self) -> None:
        """Release the file and its lock. Closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{self.path}: another process is writing to this file; wait for it or choose another output file"
            ) from error

    def _key_of(self, record: Mapping[str, Any], where: str) -> str:
        if callable(self._key_rule):
            return self._key_rule(record)
        key = record.get(self._key_rule)
        if not isinstance(key, str) or not key:
            raise RecordError(
                f"{self.path}: {where} has no key: field {self._key_rule!r} is {key!r}, expected a string"
            )
        return key

    def _repair_tail(self) -> None:
        start, tail = _last_line(self._fd)
        if not tail:
            return
        self.num_repaired = 1
        # A proper beginning of a JSON object is never a JSON object, so a tail that parses is whole.
        if _parse_object(tail) is not None:
            self._write(b"\n")
            _log.warning("%s: completed the last line, which lacked its newline", self.path)
        else:
            os.ftruncate(self._fd, start)
            _log.warning("%s: cut off a torn last line (%d bytes) of a writer that was killed", self.path, len(tail))

    def _read_keys(self) -> None:
        for number, record in self._parsed_lines():
            key = self._key_of(record, f"line {number}")
            if key in self._lines_of_keys:
                raise RecordError(
                    f"{self.path}:{number}: {key!r} was already recorded in line {self._lines_of_keys[key]}"
                )
            self._lines_of_keys[key] = number

    def _parsed_lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                record = _parse_object(line)
                if record is None:
                    raise RecordError(
                        f"{self.path}:{number}: not a JSON object: {line[:60]!r}; repair or remove this line by hand"
                    )
                yield number, record

    def _write(self, data: bytes) -> None:
        size = os.fstat(self._fd).st_size
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            if self._fsync:
                os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, size)
            raise


def _last_line(fd: int) -> tuple[int, bytes]:
    """Where the last line begins and what is there of it, if it lacks its newline; read backwards from the end."""
    end = start = os.fstat(fd).st_size
    tail = b""
    while start > 0:
        size = min(_BLOCK_BYTES, start)
        start -= size
        block = os.pread(fd, size, start)
        cut = block.rfind(b"\n")
        tail = block[cut + 1 :] + tail
        if cut >= 0:
            break
    return end - len(tail), tail


def _parse_object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:  # covers JSONDecodeError and UnicodeDecodeError
        return None
    return value if isinstance(value, dict) else None
