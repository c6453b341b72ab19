"""Open one clip by the name of a function, and move clips between processes without pickling them."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from avocet.errors import AvocetError, ConfigError, MediaError
from avocet.records import Clip, ClipRef, SourceFacts

Reason = Literal["media", "error", "timeout", "crash"]
"""Why there is no clip: the file cannot be read, another exception, the time was up, or the process died."""

Opener = Callable[..., Clip]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """Why there is no clip."""

    reason: Reason
    error: str
    """One line."""


def resolve_opener(name: str) -> Opener:
    """The function named "package.module:function". Raises `ConfigError` when there is none."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise ConfigError(f'opener must look like "package.module:function", got {name!r}')
    try:
        opener: Opener = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"opener {name!r} cannot be imported: {error}") from error
    return opener


def open_ref(opener: Opener, ref: ClipRef, open_arguments: Mapping[str, Any]) -> Clip | Problem:
    """The clip, or why there is none."""
    try:
        clip = opener(
            ref.path, start_seconds=ref.start_seconds, end_seconds=ref.end_seconds, clip_id=ref.id, **open_arguments
        )
        if not isinstance(clip, Clip):
            raise TypeError(f"the opener must return a Clip, got {type(clip).__name__}")
    except MediaError as error:
        return Problem(reason="media", error=one_line(error))
    except Exception as error:  # one file must not end a run over a million; every failure is counted and named
        return Problem(reason="error", error=one_line(error))
    return clip


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, AvocetError) else f"{type(error).__name__}: {text}"


def shared_file() -> int:
    """Descriptor of an empty file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):  # not bounded by the size of /dev/shm, which containers keep small
        return os.memfd_create("avocet-clip")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_clip(clip: Clip, descriptor: int) -> dict[str, Any]:
    """Write the arrays of `clip` to a file; everything else, and where they are, becomes JSON types."""
    fields: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    offset = 0
    for field in dataclasses.fields(clip):
        value = getattr(clip, field.name)
        if isinstance(value, np.ndarray):
            arrays[field.name] = {"dtype": value.dtype.str, "shape": value.shape, "offset": offset}
            offset = _write(descriptor, value, offset)
        else:
            fields[field.name] = value.to_dict() if isinstance(value, SourceFacts) else value
    os.ftruncate(descriptor, offset)
    return {"fields": fields, "arrays": arrays}


def read_clip(message: Mapping[str, Any], descriptor: int) -> Clip:
    """What `write_clip` wrote, with arrays of its own."""
    fields = dict(message["fields"])
    fields["source"] = SourceFacts(**fields["source"])
    fields["warnings"] = tuple(fields["warnings"])
    for name, place in message["arrays"].items():
        fields[name] = np.empty(place["shape"], np.dtype(place["dtype"]))
        _read(descriptor, fields[name], place["offset"])
    return Clip(**fields)


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _write(descriptor: int, array: np.ndarray, offset: int) -> int:
    """Returns the offset after it."""
    left = _bytes(np.ascontiguousarray(array))
    while left:
        written = os.pwrite(descriptor, left, offset)
        offset, left = offset + written, left[written:]
    return offset


def _read(descriptor: int, array: np.ndarray, offset: int) -> None:
    left = _bytes(array)
    while left:
        count = os.preadv(descriptor, [left], offset)
        if not count:
            raise OSError(f"{len(left)} bytes of a clip are missing in the memory shared with its worker")
        offset, left = offset + count, left[count:]
