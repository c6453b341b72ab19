"""Repetition rate of a caption (video-SALMONN 2, appendix B).

The paper leaves open what a phrase is. Here: a text is split at punctuation of any script (Unicode category P,
quotation marks included), phrases are casefolded and their white space is collapsed. A mark inside a word or number
("don't", "well-known", "3.5") does not split. Every occurrence of a phrase that occurs at least twice counts.
"""

from __future__ import annotations

import unicodedata
from collections import Counter

_IN_WORD_MARKS = frozenset("'’-‐‑")
_IN_NUMBER_MARKS = frozenset(".,:")


def phrases(text: str) -> list[str]:
    """The phrases of a text in order, casefolded, white space collapsed, empty ones left out."""
    punctuation = {mark for mark in set(text) if unicodedata.category(mark)[0] == "P"}
    pieces: list[str] = []
    start = 0
    for index, mark in enumerate(text):
        if mark in punctuation and not _is_inside_word(text, index):
            pieces.append(text[start:index])
            start = index + 1
    pieces.append(text[start:])
    collapsed = (" ".join(piece.casefold().split()) for piece in pieces)
    return [phrase for phrase in collapsed if phrase]


def repetition_rate(text: str) -> float:
    """Words in phrases that occur at least twice / all words, in 0..1; 0 for a text without words."""
    counts = Counter(phrases(text))
    num_words = {phrase: len(phrase.split()) * count for phrase, count in counts.items()}
    total = sum(num_words.values())
    return sum(num for phrase, num in num_words.items() if counts[phrase] > 1) / total if total else 0.0


def _is_inside_word(text: str, index: int) -> bool:
    if not 0 < index < len(text) - 1:
        return False
    mark, before, after = text[index], text[index - 1], text[index + 1]
    if mark in _IN_WORD_MARKS:
        return before.isalnum() and after.isalnum()
    return mark in _IN_NUMBER_MARKS and before.isdecimal() and after.isdecimal()
