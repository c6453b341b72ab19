"""Strict reading of judges' replies.

The last verdict of a reply counts: a judge may think aloud, quote the caption (and whatever verdict the caption tries
to smuggle in) or correct itself before it. If the last thing that looks like a verdict is broken, the reply is
unreadable; an earlier one, or a fragment of the broken one, is not taken instead. A reply that begins with `<think>`
is read from the first `</think>` on.

Values are JSON, or Python literals as language models like to write them, and always plain data: dict, list, str, int,
float, bool or None. Nothing is evaluated. NaN, infinities and repeated keys are errors, since what they mean is
anybody's guess; so is whatever does not have the exact type that was asked for.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import io
import json
import math
import re
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

from avocet.judging.errors import ParseError
from avocet.judging.messages import ReplySchema
from avocet.records import Record

JsonKind = Literal["object", "array"]
ShapeT = TypeVar("ShapeT", bound=Record)

_KIND_NAMES = {"object": "a JSON object", "array": "a JSON array"}
_CLOSERS = {"{": "}", "[": "]"}
_MAX_DIGITS = 100
_MAX_ENDS = 5
"""Of the last closing brackets that are tried as the end of a value that is no JSON."""
_MAX_BROKEN = 20
"""Things that look like a verdict and are none, before a reply is given up; it bounds the work on hostile replies."""

_OPENER = re.compile(r"[{\[]")
_CLOSER = re.compile(r"[}\]]")
_LOCATOR = json.JSONDecoder(strict=False, parse_int=len)
"""Finds where a value ends; what it reads is not used."""
_LOOKS_LIKE_OBJECT = re.compile(r"""\{\s*(?:["'}#]|//|[A-Za-z_]\w*\s*:|\Z)""")
_LOOKS_LIKE_OBJECT_LIST = re.compile(r"\[\s*\{")
_LOOKS_LIKE_ARRAY = re.compile(r"""\[\s*(?:["'\[\]{\d#-]|//|(?:true|false|null|True|False|None)\b|\Z)""")
_STRING_OR_COMMA = re.compile(r'"(?:[^"\\]|\\.)*"|,(?=\s*[}\]])', re.DOTALL)
_YES_NO = re.compile(
    r"""(?:\A|[\n.:;!?("'*>_])[ \t]*(yes|no)(?=[ \t]*(?:[.,;:!?)"'*<_\r\n]|[-–—]\s|\Z))""", re.IGNORECASE
)
_NUMBER = re.compile(
    r"""(?P<list>^[ \t]*\d+[.)](?=[ \t]+\S))
    | (?<![\w.,/%])(?:
        (?P<part>[+-]?\d+)\s*(?:/|out\s+of)\s*(?P<whole>\d+)(?![\w/%]|[.,]\d)
        | (?P<first>\d+)\s*(?:-|–|—|to|…|\.\.\.?)\s*(?P<last>\d+)(?![\w/%]|[.,]\d)
        | (?P<integer>[+-]?\d+)(?![\w/%]|[.,]\d)
        | (?P<other>[+-]?\d[\w.,/%]*)
    )""",
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)


def last_json(reply: str, kind: JsonKind = "object") -> Any:
    """The last JSON object (or array) of a reply: fenced or not, with prose around it or not.

    Trailing commas and Python's spelling are read too. Raises `ParseError` without one, and when the last one is
    broken, incomplete, of the other kind, or ambiguous (repeated keys, NaN).
    """
    expected = _KIND_NAMES[kind]
    try:
        value = _last_value(_after_thinking(reply), kind)
    except _Unreadable as error:
        raise ParseError(expected, str(error), reply) from error
    if not _is_unicode(value):
        raise ParseError(expected, "the last one has a broken Unicode escape", reply)
    if not isinstance(value, dict if kind == "object" else list):
        raise ParseError(expected, f"the last value is {'an array' if kind == 'object' else 'an object'}", reply)
    return value


def last_record(reply: str, shape: type[ShapeT]) -> ShapeT:
    """The last JSON object of a reply as a record of type `shape`, its types taken strictly (True is no integer).

    Every field must be there and no other. Raises `ParseError`, also for what the record itself does not accept.
    """
    from pydantic import ValidationError

    value = last_json(reply, "object")
    try:
        # Through JSON: there, lists become the tuples that frozen records have, without laxer rules for the rest.
        record: ShapeT = _adapter(shape).validate_json(json.dumps(value), strict=True)  # type: ignore[arg-type]  # classes are hashable
        return record
    except ValidationError as error:
        problems = "; ".join(_problem(dict(item)) for item in error.errors(include_url=False))
        fields = ", ".join(field.name for field in dataclasses.fields(shape))
        raise ParseError(f"a JSON object with exactly the fields {fields}", problems, reply) from error


@functools.cache
def schema_of(shape: type[Record]) -> ReplySchema:
    """The schema by which servers hold a reply to `shape`."""
    return ReplySchema(name=shape.__name__, schema=_adapter(shape).json_schema())  # type: ignore[arg-type]  # as above


def last_yes_no(reply: str) -> bool:
    """The last "yes" or "no" that stands as an answer: by itself, or at the start of a sentence before a comma.

    In "Yes, there is no dog." that is the yes. Raises `ParseError` when there is none.
    """
    found = _YES_NO.findall(_after_thinking(reply))
    if not found:
        raise ParseError("yes or no", "the reply has neither as an answer", reply)
    return bool(found[-1].casefold() == "yes")


def last_integer(reply: str, low: int, high: int) -> int:
    """The last number of a reply, which must be an integer in [low, high].

    "4/5" and "4 out of 5" are 4 when 5 is `high`. Numbers of lists ("1. ..." at the start of a line) and repetitions of
    the range itself ("1-5") are passed over. Raises `ParseError` when there is none, or when the last one is something
    else: out of range, a decimal, a percentage, another range.
    """
    expected = f"an integer from {low} to {high}"
    found = None
    for match in _NUMBER.finditer(_after_thinking(reply)):
        is_same_range = (match["first"], match["last"]) == (str(low), str(high))
        if match["list"] is None and not is_same_range:
            found = match
    if found is None:
        raise ParseError(expected, "the reply has no integer", reply)
    digits = found["integer"]
    if found["part"] is not None and found["whole"] == str(high):
        digits = found["part"]
    # No number that is in range has more digits than the bounds; huge ones are not even converted.
    if digits is None or len(digits) > 30 or not low <= int(digits) <= high:
        raise ParseError(expected, f"the last number is {found[0].strip()[:30]!r}", reply)
    return int(digits)


class _Unreadable(Exception):
    """A value that cannot be read; the message completes "expected ..., but"."""


class _Ambiguous(_Unreadable):
    """A value that is complete, but means nothing certain."""


def _after_thinking(reply: str) -> str:
    # Only where the reply begins with it: the tag inside of a verdict is a quotation, and what follows it a trap.
    return reply.partition("</think>")[2] if reply.lstrip().startswith("<think>") else reply


def _last_value(text: str, kind: JsonKind) -> Any:
    """The outermost value that ends where the reply's values end.

    The reply is tried from its first opening bracket on, since only a value that is complete from its own start to the
    end can be trusted: counting brackets would follow a quotation with a stray quote into the strings of the verdict.
    """
    openers = [match.start() for match in _OPENER.finditer(text) if _is_candidate(text, match.start(), kind)]
    if not openers:
        raise _Unreadable("there is none")
    # Values that end before the last opening bracket are not the last.
    ends = [match.end() for match in _CLOSER.finditer(text, openers[-1] + 1)][-_MAX_ENDS:]
    broken: list[int] = []
    position = 0
    for start in openers:
        if start < position:  # inside of an earlier value
            continue
        end = _value_end(text, start, ends)
        if end is None:
            broken.append(start)
        elif end <= openers[-1]:
            position = end
        else:
            _check_independence(text, start, broken)
            return _read_value(text[start:end])
        if len(broken) > _MAX_BROKEN:
            break
    _explain(text, broken)
    raise AssertionError("whatever is not complete is broken")


def _value_end(text: str, start: int, likely_ends: Sequence[int]) -> int | None:
    """Where the value that begins at `start` ends (exclusive); None when it is none."""
    try:
        return _LOCATOR.raw_decode(text, start)[1]
    except RecursionError as error:
        raise _Unreadable("the last one is nested too deeply") from error
    except ValueError:
        closing = _closing(text, start)
    # Python literals, and JSON with commas too many.
    for end in (*reversed(likely_ends), closing):
        if end is not None and _reads(text[start:end]):
            return end
    return None


def _check_independence(text: str, start: int, broken: list[int]) -> None:
    """Refuse a value that may be a fragment of a broken one around it.

    What is broken before it may also be a quotation that never closes; then the value must begin a line of its own.
    """
    closings = [_closing(text, other) for other in broken]
    if any(closing is not None and closing > start for closing in closings) or (
        broken and start > 0 and text[start - 1] != "\n"
    ):
        _explain(text, broken)


def _explain(text: str, broken: list[int]) -> None:
    """Raise what is wrong with the first broken value, if there is any."""
    for start in broken:
        end = _closing(text, start)
        if end is None:
            raise _Unreadable("the last one does not end")
        _read_value(text[start:end])


def _reads(text: str) -> bool:
    """Whether a text is a value, be it one with ambiguities."""
    try:
        _read_value(text)
    except _Ambiguous:
        return True
    except _Unreadable:
        return False
    return True


def _is_candidate(text: str, start: int, kind: JsonKind) -> bool:
    # Prose has brackets too ("[1]", "{x}"): only what begins like a verdict counts.
    if text[start] == "{":
        return _LOOKS_LIKE_OBJECT.match(text, start) is not None
    looks = _LOOKS_LIKE_ARRAY if kind == "array" else _LOOKS_LIKE_OBJECT_LIST
    return looks.match(text, start) is not None


def _closing(text: str, start: int) -> int | None:
    """Where the value that opens at `start` ends (exclusive), brackets inside of strings not counted."""
    open_brackets: list[str] = []
    quote = ""
    position = start
    while position < len(text):
        character = text[position]
        if quote:
            if character == "\\":
                position += 1
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in _CLOSERS:
            open_brackets.append(_CLOSERS[character])
        elif character in "}]":
            if character != open_brackets.pop():
                return None
            if not open_brackets:
                return position + 1
        position += 1
    return None


def _read_value(text: str) -> Any:
    """A whole text as JSON, as JSON with commas too many, or as a Python literal. Raises `_Unreadable`."""
    try:
        return _read_json(text)
    except json.JSONDecodeError as error:
        problem = f"the last one is not valid: {error.msg} at character {error.pos}"
    without_commas = _STRING_OR_COMMA.sub(lambda match: "" if match[0] == "," else match[0], text)
    for read, variant in ((_read_json, without_commas), (_read_python, text)):
        try:
            return read(variant)
        except (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError):
            continue
    raise _Unreadable(problem)


def _read_json(text: str) -> Any:
    try:
        # strict=False: models put raw newlines into strings, which can mean nothing else.
        return json.loads(
            text,
            strict=False,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError as error:
        raise _Unreadable("the last one is nested too deeply") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_unique(key for key, _ in pairs)
    return dict(pairs)


def _check_unique(keys: Iterable[Any]) -> None:
    repeated = [key for key, count in Counter(keys).items() if count > 1]
    if repeated:
        raise _Ambiguous(f"the last one has the key {repeated[0]!r} more than once")


def _refuse_constant(name: str) -> None:
    raise _Ambiguous(f"the last one contains {name}, which is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _Ambiguous(f"the last one contains {digits[:30]}, which is too large a number")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _Ambiguous(f"the last one contains an integer of {len(digits)} digits")
    return int(digits)


def _read_python(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's opinion on the style of a reply
        tree = ast.parse(text, mode="eval")
    value = _plain(ast.literal_eval(tree))
    _refuse_joined_strings(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            _check_unique(key.value for key in node.keys if isinstance(key, ast.Constant))
    return value


def _refuse_joined_strings(text: str) -> None:
    """To Python, two strings without a comma between them are one; in a reply it is a forgotten comma."""
    previous = -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == previous == tokenize.STRING:
            raise _Ambiguous("the last one has two strings without a comma between them")
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            previous = token.type


def _plain(value: Any) -> Any:
    """A Python literal as JSON data. Raises `ValueError` for what JSON does not have (sets, bytes, complex)."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key that is no string")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise _Ambiguous("the last one contains a number that is too large")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{type(value).__name__} is not JSON")


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@functools.cache
def _adapter(shape: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(shape)


def _problem(item: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"])
    return f"{where}: {item['msg']}" if where else str(item["msg"])
