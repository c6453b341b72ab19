"""Tensors in files under content keys: atomic, checked, capped, shared by several processes.

A folder holds `objects/ab/<key>.safetensors`. A file appears under its name only when it is whole (written beside it,
then renamed), and its metadata holds a SHA-256 of everything in it: a damaged file is found out and thrown away. Above
the cap the files that were used longest ago go (a file's modification time is its last use). Readers hold a shared lock
on the file they read, and nothing that is being read is deleted.

Locks are `flock`: the folder must be on a file system that has them (a local disk, NFS version 4).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError

from avocet.errors import ConfigError
from avocet.models.trunks import update_with_tensor

_MARKER = "AVOCET_FEATURES_1"
_MARKER_TEXT = "Outputs of frozen towers, kept by Avocet to save time. Deleting this folder loses nothing else.\n"
_KEPT_SHARE = 0.9
"""Share of the cap that an eviction leaves, so that not every write has to list the folder."""
_ABANDONED_SECONDS = 3600.0
"""After this long an unfinished file belongs to a process that was killed."""
_UNREADABLE = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError)
"""What parsing a damaged file raises."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StoredEntry:
    """One file's content."""

    tensors: dict[str, torch.Tensor]
    """On the CPU, contiguous and aligned as PyTorch allocates."""
    metadata: dict[str, str]
    num_bytes: int


class DamagedEntryError(Exception):
    """A file is not what was written; it has been deleted. Never leaves the feature store."""


class StoreFiles:
    """The files of one folder, which is created when missing.

    Raises `ConfigError` when the folder holds other things, or the cap is not positive.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        if max_bytes < 1:
            raise ConfigError(f"max_bytes must be >= 1, got {max_bytes}")
        self.folder, self.max_bytes = Path(folder), max_bytes
        self.num_evicted = 0
        """Files that this object deleted to make room."""
        self._claim()
        with self._locked() as lock:
            self._write_total(lock, self._make_room(self._scan(), 0))

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    @property
    def num_bytes(self) -> int:
        """Of all files together, also those of other processes."""
        with self._locked() as lock:
            return self._read_total(lock)

    def read(self, key: str) -> StoredEntry | None:
        """The entry, or None. Raises `DamagedEntryError` when it is not what was written."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                data = file.read()
        except FileNotFoundError:
            return None
        try:
            entry = _parse(key, data)
        except _UNREADABLE as error:
            self._discard(path)
            raise DamagedEntryError(f"{path}: {error}") from error
        now = time.time_ns()
        with contextlib.suppress(FileNotFoundError):  # evicted since
            os.utime(path, ns=(now, now))
        return entry

    def write(self, key: str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> int:
        """Store CPU tensors and return the bytes written: 0 when the key is there already or exceeds the cap.

        What another process wrote first stays. Raises `OSError` when the disk is full or cannot be written.
        """
        facts = dict(metadata) | {"key": key}
        packed = {name: tensor.contiguous() for name, tensor in tensors.items()}
        data = safetensors.torch.save(packed, facts | {"digest": _digest(tensors, facts)})
        path = self._path(key)
        if len(data) > self.max_bytes or path.is_file():
            return 0
        unfinished = self.folder / "unfinished" / f"{key}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            unfinished.write_bytes(data)
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked() as lock:
                if path.is_file():
                    return 0
                total = self._read_total(lock)
                if total + len(data) > self.max_bytes:
                    total = self._make_room(self._scan(), len(data))
                unfinished.rename(path)
                self._write_total(lock, total + len(data))
        finally:
            unfinished.unlink(missing_ok=True)
        return len(data)

    # Internals.

    def _path(self, key: str) -> Path:
        return self.folder / "objects" / key[:2] / f"{key}.safetensors"

    def _claim(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        marker = self.folder / _MARKER
        if not marker.is_file() and any(self.folder.iterdir()) and not marker.is_file():
            raise ConfigError(
                f"{self.folder} holds other files; features are deleted when they take too much room, so give them a "
                "folder of their own"
            )
        marker.write_text(_MARKER_TEXT, encoding="utf-8")
        (self.folder / "objects").mkdir(exist_ok=True)
        (self.folder / "unfinished").mkdir(exist_ok=True)
        (self.folder / "lock").touch()
        for path in (self.folder / "unfinished").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """Alone among processes and threads. The lock's file holds the bytes of all files together."""
        with (self.folder / "lock").open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock

    def _read_total(self, lock: BinaryIO) -> int:
        lock.seek(0)
        text = lock.read()
        # Empty after a process was killed while it wrote.
        return int(text) if text.isdigit() else sum(size for _, size, _ in self._scan())

    def _write_total(self, lock: BinaryIO, total: int) -> None:
        lock.seek(0)
        lock.truncate()
        lock.write(str(max(total, 0)).encode())
        lock.flush()

    def _scan(self) -> list[tuple[int, int, Path]]:
        """Last use in nanoseconds, size and path of every file, the longest unused first."""
        found = []
        for path in (self.folder / "objects").glob("*/*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                found.append((facts.st_mtime_ns, facts.st_size, path))
        return sorted(found)

    def _make_room(self, files: list[tuple[int, int, Path]], num_bytes: int) -> int:
        """Delete until `num_bytes` more fit; returns the bytes that are left."""
        total = sum(size for _, size, _ in files)
        if total + num_bytes <= self.max_bytes:
            return total
        wanted = max(int(self.max_bytes * _KEPT_SHARE) - num_bytes, 0)
        for _, size, path in files:
            if total <= wanted:
                break
            if _delete_unread(path):
                total -= size
                self.num_evicted += 1
        return total

    def _discard(self, path: Path) -> None:
        with self._locked() as lock, contextlib.suppress(FileNotFoundError):
            total, size = self._read_total(lock), path.stat().st_size
            path.unlink()
            self._write_total(lock, total - size)


def _delete_unread(path: Path) -> bool:
    """Delete a file unless it is being read."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _parse(key: str, data: bytes) -> StoredEntry:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = dict(header["__metadata__"])
    digest = metadata.pop("digest")
    tensors = safetensors.torch.load(data)
    if metadata["key"] != key or digest != _digest(tensors, metadata):
        raise ValueError("the checksum is wrong")
    # Cloned: sums over memory that PyTorch did not align may be taken in another order, and differ in the last bit.
    aligned = {name: tensor.clone() for name, tensor in tensors.items()}
    return StoredEntry(tensors=aligned, metadata=metadata, num_bytes=len(data))


def _digest(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        update_with_tensor(digest, tensors[name])
    return digest.hexdigest()
