"""Untrusted JSON and JSONL files, item by item: one bad item never takes the others with it.

Read are a JSON list of objects, one object, one object per line, and objects one after another over several lines; with
or without a byte order mark. An item that is no object, repeats a key, holds half of a surrogate pair or is too large
becomes a `Rejected`. Where a list is broken so badly that the next item cannot be found, one `Rejected` says from which
line on nothing was read.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError
from avocet.training.data.records import Rejected

MAX_ITEM_BYTES = 16 * 2**20
"""A longer line (or item of a list) is refused: no conversation about one clip is that long."""
MAX_LIST_BYTES = 8 * 2**30
"""A JSON list has to be in memory as a whole; a longer one should be JSONL."""

_SPACE = re.compile(r"[ \t\r\n]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One JSON object of a file and the words that say where it stands."""

    where: str
    value: dict[str, Any]


class _Objects(json.JSONDecoder):
    """A decoder that remembers whether an object of the last value repeated a key."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._build)
        self.repeated: str | None = None

    def _build(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            self.repeated = next(key for key in keys if keys.count(key) > 1)
        return found


def read_items(path: Path) -> Iterator[Item | Rejected]:
    """The objects of a JSON or JSONL file. Raises `ConfigError` when the file cannot be read at all."""
    try:
        with path.open("rb") as file:
            head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not head:
            yield Rejected(where=str(path), reason="the file is empty")
        elif head.startswith(b"[") or (path.suffix.lower() == ".json" and not _first_line_is_whole(path)):
            yield from _of_text(path)
        else:
            yield from _of_lines(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def parse_item(where: str, data: bytes) -> Item | Rejected:
    """One object of UTF-8 bytes."""
    if len(data) > MAX_ITEM_BYTES:
        return Rejected(where=where, reason=f"{len(data)} bytes; an item may have at most {MAX_ITEM_BYTES}")
    decoder = _Objects()
    try:
        value = decoder.decode(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested thousands deep
        return Rejected(where=where, reason=f"not JSON: {error}")
    return _checked(where, value, decoder.repeated)


def _of_lines(path: Path) -> Iterator[Item | Rejected]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_ITEM_BYTES + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > MAX_ITEM_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_ITEM_BYTES)
                yield Rejected(where=where, reason=f"the line is longer than {MAX_ITEM_BYTES} bytes")
            elif line.removeprefix(b"\xef\xbb\xbf").strip():
                yield parse_item(where, line.strip())


def _of_text(path: Path) -> Iterator[Item | Rejected]:
    """The items of a list, or objects one after another."""
    if (size := path.stat().st_size) > MAX_LIST_BYTES:
        yield Rejected(where=str(path), reason=f"a JSON list of {size} bytes; above {MAX_LIST_BYTES} use JSONL")
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        yield Rejected(where=str(path), reason=f"not UTF-8: {error}")
        return
    position = _skip(text, 0)
    is_list = text[position] == "["
    position, line, counted, number = _skip(text, position + is_list), 1, 0, 0
    while position < len(text):
        if is_list and text[position] == "]":
            rest = _skip(text, position + 1)
            if rest < len(text):
                yield Rejected(where=f"{path}:{_line(text, rest)}", reason="text after the end of the list")
            return
        line, counted = line + text.count("\n", counted, position), position
        number += 1
        where = f"{path}: item {number} (line {line})"
        decoder = _Objects()
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            yield Rejected(where=where, reason=f"not JSON: {error}; nothing after this place was read")
            return
        if end - position > MAX_ITEM_BYTES:
            yield Rejected(where=where, reason=f"longer than {MAX_ITEM_BYTES} characters")
        else:
            yield _checked(where, value, decoder.repeated)
        position = _skip(text, end)
        if is_list and position < len(text) and text[position] == ",":
            position = _skip(text, position + 1)
        elif is_list and position < len(text) and text[position] != "]":
            place = f"{path}:{_line(text, position)}"
            yield Rejected(where=place, reason="no comma between two items; nothing after this place was read")
            return
    if is_list:
        yield Rejected(where=str(path), reason="the list has no end: the file is cut off; the items before were read")


def _checked(where: str, value: Any, repeated: str | None) -> Item | Rejected:
    if not isinstance(value, dict):
        return Rejected(where=where, reason=f"no JSON object but {type(value).__name__} {_short(value)}")
    if repeated is not None:
        return Rejected(where=where, reason=f"the key {repeated!r:.60} occurs more than once in one object")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Rejected(where=where, reason="holds half of a surrogate pair, which no file could hold again")
    return Item(where=where, value=value)


def _first_line_is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        line = file.readline(MAX_ITEM_BYTES)
    return isinstance(parse_item("", line.strip()), Item)


def _skip(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    assert space is not None
    return space.end()


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _short(value: Any) -> str:
    return repr(value)[:40]
