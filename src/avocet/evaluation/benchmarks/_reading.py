"""Files of entries, and entries with checked fields: every error says which file, which entry and which field.

One reader for what the released files are: a JSON list of objects, one JSON object, one JSON object per line, objects
one after another over several lines; with or without a byte order mark, with either kind of line end.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avocet.captioning.instructions import first_entry, read_item
from avocet.errors import ConfigError, RecordError
from avocet.evaluation.items import Question

_LABEL = re.compile(r"\(?([A-Z])[.):]\s*(.*)", re.DOTALL)
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One object of a file and the words that say where it stands; its texts come without outer white space."""

    where: str
    value: dict[str, Any]
    is_mended: bool = False
    """Whether halves of surrogate pairs in it became U+FFFD."""

    def get(self, name: str, kind: type | tuple[type, ...], expected: str) -> Any:
        """A field of one of the types `kind`. Raises `RecordError` when it is missing or something else."""
        if name not in self.value:
            raise RecordError(f"{self.where} has no field {name!r}; expected {expected} ({self.field_names()})")
        value = self.value[name]
        # bool is an int to Python, not to a file format.
        if not isinstance(value, kind) or (isinstance(value, bool) and bool not in _as_tuple(kind)):
            raise self.wrong(name, expected)
        return value

    def wrong(self, name: str, expected: str) -> RecordError:
        """The error that a field is not what it should be."""
        return RecordError(f"{self.where}: field {name!r} must be {expected}, got {self.value.get(name)!r:.80}")

    def string(self, name: str) -> str:
        """A text that may be empty."""
        text: str = self.get(name, str, "a text").strip()
        return text

    def text(self, name: str) -> str:
        """A text with at least one character."""
        if not (text := self.string(name)):
            raise self.wrong(name, "a text that is not empty")
        return text

    def optional_text(self, name: str) -> str | None:
        """A text, or None where the field is missing, null or empty."""
        return None if self.value.get(name) is None else self.string(name) or None

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, none of them empty; the list may be."""
        expected = "a list of texts"
        values = self.get(name, list, expected)
        for number, value in enumerate(values, start=1):
            if not isinstance(value, str) or not value.strip():
                raise RecordError(
                    f"{self.where}: field {name!r} must be {expected} that are not empty, but number {number} is "
                    f"{value!r:.80}"
                )
        return tuple(value.strip() for value in values)

    def number(self, name: str) -> float:
        """A finite number."""
        expected = "a finite number"
        value = self.get(name, (int, float), expected)
        # An int of 400 digits is JSON too.
        if (isinstance(value, int) and abs(value) > 2**53) or not math.isfinite(value):
            raise self.wrong(name, expected)
        return float(value)

    def entries(self, name: str) -> list[Entry]:
        """A list of objects, as entries of their own."""
        values = self.get(name, list, "a list of objects")
        return [as_entry(f"{self.where}, {name!r} number {number}", value) for number, value in enumerate(values, 1)]

    def inner(self, name: str) -> Entry:
        """An object, as an entry of its own."""
        return as_entry(f"{self.where}, {name!r}", self.get(name, dict, "an object"))

    def rest(self, *known: str) -> dict[str, Any]:
        """The fields that are not among `known`: what an adapter keeps in `meta` without understanding it."""
        return {name: value for name, value in self.value.items() if name not in known}

    def field_names(self) -> str:
        """What fields it has, for messages."""
        names = list(self.value)
        more = ", ..." if len(names) > 8 else ""
        return f"its fields: {', '.join(repr(name)[:40] for name in names[:8])}{more}" if names else "it has no fields"


def as_entry(where: str, value: Any) -> Entry:
    """An entry of a parsed value. Raises `RecordError` when it is no object."""
    if not isinstance(value, dict):
        raise RecordError(f"{where} is no JSON object but {type(value).__name__} {value!r:.40}")
    return Entry(where=where, value=value)


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises `ConfigError` when it cannot be read."""
    try:
        # newline="": line ends inside of quoted table cells are content.
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def read_entries(path: str | Path, *, mend: bool = False) -> list[Entry]:
    """The objects of a JSON or JSONL file, whatever its ending.

    JSON can hold half of a surrogate pair ("\\ud83d", as a model leaves one that stops within an emoji), which is no
    character and which no file could hold: an error, or with `mend` U+FFFD, and the entry says so.

    Raises `ConfigError` when the file cannot be read, `RecordError` where it is not JSON, repeats a key in an object,
    or has something else than an object where one is expected.
    """
    text = read_text(path)
    values = _parse_all(text, path)
    # Only an escape can be half of a pair: the file itself is UTF-8.
    entry_of = functools.partial(_whole, mend=mend) if "\\u" in text else as_entry
    if len(values) == 1:
        _, value = values[0]
        if isinstance(value, list):
            return [entry_of(f"{path}: item {number}", item) for number, item in enumerate(value, start=1)]
        return [entry_of(str(path), value)]
    return [entry_of(f"{path}: line {line}", value) for line, value in values]


def read_object(path: str | Path) -> Entry:
    """The single object that a JSON file is. Raises what `read_entries` raises, and `RecordError` for several."""
    entries = read_entries(path)
    if len(entries) != 1:
        raise RecordError(f"{path}: expected one JSON object, got {len(entries)} objects")
    return entries[0]


def read_instruction(entry: Entry) -> tuple[str, str]:
    """(video, instruction) of an entry of a form that `InstructionFile` reads too. Raises `ConfigError`."""
    return read_item(entry.value, entry.where)


def first_turn(entry: Entry, name: str, field: str, value: str) -> Entry:
    """The first object of the list `name` whose `field` is `value`. Raises `RecordError` when there is none."""
    entry.get(name, list, "a list of objects")
    found = first_entry(entry.value[name], field, value)
    if not found:
        raise entry.wrong(name, f"a list with an object whose {field!r} is {value!r}")
    return Entry(where=f"{entry.where}, {name!r} ({value})", value=found)


def read_choice_question(entry: Entry, question_id: str, names: ChoiceFields) -> Question:
    """A multiple-choice question. The choices keep their wording; letters are put before them where the file has none.

    The answer may be a letter, or a choice in words. Raises `RecordError` for missing fields, wrong types, less than
    two choices, and letters that contradict the order; an empty question or an answer that is no choice is a `defect`.
    """
    choices = _label(entry, names.choices)
    text, given = entry.string(names.text), entry.string(names.answer)
    answer, defect = _letter(given, choices), None
    if not text:
        defect = "the question has no text"
    elif answer is None:
        defect = f"the answer {given!r:.60} is none of the choices"
    return Question(
        id=question_id,
        text=text,
        choices=choices,
        answer=given if answer is None else answer,
        category=names.category and entry.optional_text(names.category),
        type=names.type and entry.optional_text(names.type),
        defect=defect,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceFields:
    """What a file calls the parts of a multiple-choice question."""

    text: str
    choices: str
    answer: str
    category: str | None = None
    type: str | None = None


def _label(entry: Entry, name: str) -> tuple[str, ...]:
    choices = entry.texts(name)
    if not 2 <= len(choices) <= 26:
        raise entry.wrong(name, "a list of 2 to 26 choices")
    letters = [chr(ord("A") + index) for index in range(len(choices))]
    own = [_split_label(choice)[0] == letter for choice, letter in zip(choices, letters, strict=True)]
    if all(own):
        return choices
    if any(own):
        raise entry.wrong(name, "choices that all begin with their letters A, B, ... in order, or none of them")
    return tuple(f"{letter}. {choice}" for choice, letter in zip(choices, letters, strict=True))


def _letter(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer means; None when it means none of the choices, or several."""
    letters = [choice.lstrip("(")[:1] for choice in choices]
    if (bare := answer.strip("().: ")) in letters:
        return bare
    fitting = [
        letter
        for letter, choice in zip(letters, choices, strict=True)
        if answer and answer in (choice, _split_label(choice)[1])
    ]
    return fitting[0] if len(fitting) == 1 else None


def _split_label(choice: str) -> tuple[str | None, str]:
    found = _LABEL.fullmatch(choice)
    return (found[1], found[2]) if found else (None, choice)


def _parse_all(text: str, path: str | Path) -> list[tuple[int, Any]]:
    """The JSON values of a text, each with the number of the line that it begins in."""
    decoder = json.JSONDecoder(object_pairs_hook=_refuse_repeated_keys)
    values: list[tuple[int, Any]] = []
    position, line = 0, 1
    while True:
        space = _SPACE.match(text, position)
        assert space is not None
        start = space.end()
        line += text.count("\n", position, start)
        if start == len(text):
            return values
        try:
            value, position = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:  # RecursionError: brackets nested thousands deep
            raise RecordError(f"{path}: line {line} is not JSON: {error}") from error
        values.append((line, value))
        line += text.count("\n", start, position)


def _whole(where: str, value: Any, *, mend: bool) -> Entry:
    """An entry that can be written again. Raises `RecordError` where it cannot, unless it is mended."""
    entry = as_entry(where, value)
    text = json.dumps(value, ensure_ascii=False)
    if not _HALF_PAIR.search(text):
        return entry
    if not mend:
        raise RecordError(f"{where} holds half of a surrogate pair, which is no character; repair or remove it by hand")
    return Entry(where=where, value=json.loads(_HALF_PAIR.sub("\N{REPLACEMENT CHARACTER}", text)), is_mended=True)


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} occurs more than once in one object")
    return found


def _as_tuple(kind: type | tuple[type, ...]) -> tuple[type, ...]:
    return kind if isinstance(kind, tuple) else (kind,)
