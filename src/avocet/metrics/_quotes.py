"""Which characters of a text stand inside quotation marks: what people say, and what is written on the screen.

Captions are written by models and by hurried people, so marks are often left open. A line is read on its own, and in
doubt a character counts as quoted: who looks for oddities outside quotes then rather misses one than invents one.
"""

from __future__ import annotations

import re

_PAIRS = {"“": "”", "„": "”", "«": "»", "‹": "›", "「": "」", "『": "』", "《": "》", "〈": "〉", "【": "】"}
_CLOSERS = frozenset(_PAIRS.values())
_SINGLE = frozenset("'‘’`")
QUOTES = frozenset({'"', "＂", *_PAIRS, *_CLOSERS, *_SINGLE})
_MARK = re.compile("[\n" + "".join(sorted(QUOTES)) + "]")
_FIRST_EAST_ASIAN = "\u2e80"
"""These scripts put no space between words, so a mark between two of their letters may open or close."""


def quoted_mask(text: str) -> bytearray:
    """One byte per character, 1 inside quotation marks (the marks included). Linear in the length of the text."""
    mask = bytearray(len(text))
    line: list[int] = []
    start = 0
    for match in _MARK.finditer(text):
        if match[0] == "\n":
            _fill_line(text, line, start, match.start(), mask)
            line, start = [], match.end()
        else:
            line.append(match.start())
    _fill_line(text, line, start, len(text), mask)
    return mask


def _fill_line(text: str, marks: list[int], start: int, end: int, mask: bytearray) -> None:
    if not marks:
        return
    _fill_straight(text, [mark for mark in marks if text[mark] in '"＂'], start, end, mask)
    _fill_pairs(text, [mark for mark in marks if text[mark] in _PAIRS or text[mark] in _CLOSERS], end, mask)
    _fill_single(text, [mark for mark in marks if text[mark] in _SINGLE], mask)


def _fill_straight(text: str, marks: list[int], start: int, end: int, mask: bytearray) -> None:
    if len(marks) % 2:
        if not text[start : marks[0]].isspace() and not text[marks[0] + 1 : marks[0] + 2].strip():
            # It closes what an earlier line opened.
            _fill(mask, start, marks[0] + 1)
            marks = marks[1:]
        else:
            # One is missing, and nobody knows which: all after the first may be speech.
            _fill(mask, marks[0], end)
            return
    for opening, closing in zip(marks[::2], marks[1::2], strict=True):
        _fill(mask, opening, closing + 1)


def _fill_pairs(text: str, marks: list[int], end: int, mask: bytearray) -> None:
    depth, start = 0, 0
    for mark in marks:
        if text[mark] in _PAIRS:
            start = start if depth else mark
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                _fill(mask, start, mark + 1)
    if depth:
        _fill(mask, start, end)


def _fill_single(text: str, marks: list[int], mask: bytearray) -> None:
    """Single marks open before a word and close after one; inside a word they are apostrophes."""
    start: int | None = None
    for mark in marks:
        before, after = text[mark - 1 : mark] or " ", text[mark + 1 : mark + 2] or " "
        if start is None:
            if not _is_word(before) and not after.isspace():
                start = mark
        elif not before.isspace() and not _is_word(after):
            _fill(mask, start, mark + 1)
            start = None


def _is_word(mark: str) -> bool:
    return mark.isalnum() and mark < _FIRST_EAST_ASIAN


def _fill(mask: bytearray, start: int, stop: int) -> None:
    mask[start:stop] = b"\1" * (stop - start)
