"""Read training data of any known format into `TrainingExample`s and `PreferencePair`s; nothing is dropped silently.

| format | what it is |
|---|---|
| native | JSONL (or a JSON list) of Avocet's own records |
| v1, plus, llava | video-SALMONN 2 v1 and plus, LLaVA: items with `conversations` (`formats_conversations`) |
| ms_swift | JSONL with `messages` (`formats_swift`) |
| trl | JSONL with `prompt`, `chosen` and `rejected` (`export_pairs_trl`) |
| librispeech, audiocaps | folders (`formats_folders`) |
| webdataset | tar shards (`shards`) |

A relative media path begins at `media_root`, by default at the folder of the file that names it.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

from avocet.errors import ConfigError, RecordError
from avocet.records import Task
from avocet.training.data.export_pairs import restored
from avocet.training.data.export_pairs_trl import is_trl, read_trl
from avocet.training.data.formats_common import Context
from avocet.training.data.formats_conversations import (
    Flavour,
    is_conversation,
    read_conversation,
    recognise_flavour,
)
from avocet.training.data.formats_folders import is_audiocaps, is_librispeech, read_audiocaps, read_librispeech
from avocet.training.data.formats_json import Item, read_items
from avocet.training.data.formats_native import is_native, read_native
from avocet.training.data.formats_swift import is_swift, read_swift
from avocet.training.data.records import ExampleSet, Outcome, Rejected, collect, join_sets
from avocet.training.data.shards import is_shard, read_shard, shard_files

Format = Literal["auto", "native", "v1", "plus", "llava", "ms_swift", "trl", "librispeech", "audiocaps", "webdataset"]

PathLike = str | os.PathLike[str]


def read_examples(
    paths: PathLike | Iterable[PathLike],
    *,
    format: Format = "auto",
    media_root: PathLike | None = None,
    task: Task | None = None,
    limit: int | None = None,
    cache: PathLike | None = None,
) -> ExampleSet:
    """Read files and folders of training data.

    Args:
        paths: one path or several; each is recognised for itself.
        format: "auto" recognises by content. A file of preference pairs tells v1 and plus apart by its roles.
        media_root: where relative media paths begin; by default the folder of the file that names them.
        task: the task of every example, instead of the item's own or the guess (`formats_common`).
        limit: at most this many examples and pairs of each path, the first ones; the rest is not read.
        cache: where the clips of shards are extracted to; by default `avocet-media` beside the shard.

    Returns:
        Examples, pairs, and each item that cannot be used as `Rejected` with its place and the reason.

    Raises:
        ConfigError: a path that is not there or cannot be read, an unknown format or task, a file of no known format.
        RecordError: a file with the preference roles of both v1 and plus.
    """
    if format not in get_args(Format):
        raise ConfigError(f"unknown format {format!r}; formats are {', '.join(get_args(Format))}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be >= 1 or None, got {limit}")
    given = [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    root = None if media_root is None else Path(media_root)
    if root is not None and not root.is_dir():
        raise ConfigError(f"media_root {root} is no folder")
    sets = []
    for name in given:
        path = Path(name)
        found = recognise(path) if format == "auto" else format
        context = Context(path=path, media_root=root, task=task, notes=Counter())
        outcomes = _read(path, found, context, None if cache is None else Path(cache))
        one = collect(_limited(outcomes, limit))
        sets.append(dataclasses.replace(one, notes=dict(context.notes), formats={name: found}))
    return join_sets(sets)


def recognise(path: PathLike) -> Format:
    """The format of a file or folder by its content.

    Raises `ConfigError` saying what was tried when it is none, and `RecordError` for mixed preference roles.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    if path.is_dir():
        for folder_format, fits in (("librispeech", is_librispeech), ("audiocaps", is_audiocaps)):
            if fits(path):
                return folder_format  # type: ignore[return-value]  # literals of Format
        if is_shard(path):
            return "webdataset"
        raise ConfigError(
            f"{path}: no data set is recognised in this folder; tried: librispeech (*.trans.txt), audiocaps (a .csv "
            "with audiocap_id, youtube_id, start_time, caption), webdataset (*.tar); of the other formats name the "
            "JSON or JSONL file"
        )
    if path.suffix.lower() == ".csv":
        if is_audiocaps(path):
            return "audiocaps"
        raise ConfigError(f"{path}: a table without the columns of audiocaps; no other table is known")
    if is_shard(path):
        return "webdataset"
    return _recognise_items(path)


def _recognise_items(path: Path) -> Format:
    """By the first item of a known shape; conversations need a look at all of them."""
    reasons: list[str] = []
    for item in read_items(path):
        if isinstance(item, Rejected):
            reasons.append(f"{item.where}: {item.reason}")
        elif is_native(item.value):
            return "native"
        elif is_swift(item.value):
            return "ms_swift"
        elif is_trl(item.value):
            return "trl"
        elif is_conversation(item.value):
            return recognise_flavour(
                (other.value for other in read_items(path) if isinstance(other, Item)), where=str(path)
            )
        else:
            reasons.append(f"{item.where}: fields {', '.join(repr(name)[:40] for name in list(item.value)[:6])}")
    raise ConfigError(
        f"{path}: no known format; tried: native ('clip' with 'target' or 'chosen'), ms_swift ('messages'), trl "
        "('prompt', 'chosen', 'rejected'), v1, plus and llava ('conversations'), webdataset (a tar file). "
        f"Found: {'; '.join(reasons[:2]) or 'nothing'}"
    )


def _read(path: Path, format: Format, context: Context, cache: Path | None) -> Iterator[Outcome]:
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    if format == "webdataset":
        for shard in shard_files(path):
            yield from read_shard(shard, context, _read_any, cache)
    elif format == "librispeech":
        yield from read_librispeech(path, context)
    elif format == "audiocaps":
        yield from read_audiocaps(path, context)
    elif path.is_dir():
        raise ConfigError(f"{path}: format {format} is a file, this is a folder")
    else:
        for item in read_items(path):
            yield from [item] if isinstance(item, Rejected) else _read_item(item, context, format)


def _read_item(item: Item, context: Context, format: Format) -> list[Outcome]:
    try:
        if format == "native":
            return read_native(item, context)
        if format == "ms_swift":
            return restored(read_swift(item, context), context)
        if format == "trl":
            return restored(read_trl(item, context), context)
        assert format in get_args(Flavour)
        return restored(read_conversation(item, context, format), context)  # type: ignore[arg-type]  # asserted
    except RecordError as error:
        return [Rejected(where=item.where, reason=str(error))]


def _read_any(item: Item, context: Context) -> list[Outcome]:
    """The record of a sample of a shard, recognised for itself."""
    if is_native(item.value):
        return _read_item(item, context, "native")
    if is_swift(item.value):
        return _read_item(item, context, "ms_swift")
    if is_trl(item.value):
        return _read_item(item, context, "trl")
    if is_conversation(item.value):
        try:
            return _read_item(item, context, recognise_flavour([item.value], item.where))
        except RecordError as error:
            return [Rejected(where=item.where, reason=str(error))]
    fields = ", ".join(repr(name)[:40] for name in list(item.value)[:6])
    return [Rejected(where=item.where, reason=f"of no known format: its fields are {fields or '(none)'}")]


def _limited(outcomes: Iterator[Outcome], limit: int | None) -> Iterator[Outcome]:
    taken = itertools.count(1)
    for outcome in outcomes:
        yield outcome
        if limit is not None and not isinstance(outcome, Rejected) and next(taken) >= limit:
            return
