"""Order-preserving alignment of generated with reference dialogue (AVoCaDO, section 3.2.3).

The similarity of two utterances is 1 - edit distance / length of the longer one, over characters of the
NFKC-casefolded text without outer quotation marks. Of all alignments that keep the order of both sides and use
only pairs at or above the threshold, the one with the largest sum of similarities is taken.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from avocet.errors import ConfigError
from avocet.records import Record

_QUOTES_AND_SPACE = "\"'`“”„‟‘’‚‛«»‹›「」『』 \t\r\n"
_UNITS = 10**12
"""Similarities are summed as whole multiples of 1e-12: sums of floats would make ties depend on the order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Utterance(Record):
    """One thing that somebody says."""

    speaker: str
    """A short description, or a name."""
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueAlignment:
    """Which generated utterance stands for which reference utterance."""

    pairs: list[tuple[int, int, float]]
    """(index in generated, index in reference, similarity), both indices increasing."""
    similarity_sum: float


def normalise_utterance(text: str) -> str:
    """NFKC, casefolded, without outer white space and quotation marks."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", folded).strip(_QUOTES_AND_SPACE)


def utterance_similarity(first: str, second: str) -> float:
    """1 - edit distance / length of the longer text, after `normalise_utterance`; 1 when both are empty."""
    return _similarity(normalise_utterance(first), normalise_utterance(second))


def align_dialogue(
    generated: Sequence[Utterance], reference: Sequence[Utterance], threshold: float = 0.6
) -> DialogueAlignment:
    """The best order-preserving alignment; of equally good ones the one that pairs earlier utterances.

    Speakers are not looked at. Raises `ConfigError` for a threshold outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold must be in [0, 1], got {threshold}")
    said = [normalise_utterance(utterance.text) for utterance in generated]
    expected = [normalise_utterance(utterance.text) for utterance in reference]
    similarity = [[_similarity(first, second) for second in expected] for first in said]
    gain = [[round(value * _UNITS) if value >= threshold else None for value in row] for row in similarity]
    pairs = [(i, j, similarity[i][j]) for i, j in _best_path(gain, len(said), len(expected))]
    return DialogueAlignment(pairs=pairs, similarity_sum=sum(value for _, _, value in pairs))


def _similarity(first: str, second: str) -> float:
    longer = max(len(first), len(second))
    return (longer - Levenshtein.distance(first, second)) / longer if longer else 1.0


def _best_path(gain: list[list[int | None]], rows: int, columns: int) -> list[tuple[int, int]]:
    """Pairs of strictly increasing indices with the largest summed gain; None marks a pair that is not allowed."""
    best = [[0] * (columns + 1) for _ in range(rows + 1)]  # best[i][j]: of the rows from i and the columns from j
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            best[i][j] = max(best[i + 1][j], best[i][j + 1])
            value = gain[i][j]
            if value is not None:
                best[i][j] = max(best[i][j], value + best[i + 1][j + 1])
    path = []
    i = j = 0
    while i < rows and j < columns:
        value = gain[i][j]
        if value is not None and value + best[i + 1][j + 1] == best[i][j]:
            path.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j + 1] == best[i][j]:
            j += 1
        else:
            i += 1
    return path
