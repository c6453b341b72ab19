"""Where a caption says what a judge objects to: `mark_findings`.

A judge tells its findings in its own words, so they are searched fuzzily, sentence by sentence. A finding stands where
it fits best, if it fits well enough (`MIN_FIT`); else it stands nowhere, and the page lists it below the caption. What
is marked is a help for the eye and never counted.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from rapidfuzz import fuzz, process

from avocet.evaluation.scorers.base import Finding

MARKED_KINDS = ("hallucinated", "incorrect")
"""Findings about what a caption says. All others are about what it does not say, or no statements at all."""

MIN_FIT = 75.0
"""0 to 100, see `_fits`. On the test set of video-SALMONN 2, 87 % of the events of a clip stand in the clip's own
reference caption by this measure, and 0.4 % in that of another clip (480 of each; 90 % and 2 % at 70, 83 % and 0.4 % at
80)."""

_MIN_LITERAL_FIT = 90.0
"""Where the words stand nearly as the judge gives them, they alone are marked instead of the whole sentence."""
_MIN_PARTIAL_WORDS = 3
"""Shorter findings must be found as whole words: "rain" is part of "train"."""
_MAX_SENTENCE = 300
"""Characters; a longer one is cut at a comma or space, since nearly everything is similar to some of a long text."""
_MAX_QUERY = 500
_UNSPACED_FROM = "\u0e00"
"""From Thai on, scripts that put no space between words (and some that do)."""
_DESCRIBED_AS = ": described as "
"""Between an event told wrongly and what the caption says instead, see `avocet.judging.events`."""

_Scorer = Callable[..., float]

_SENTENCE_END = re.compile(r"(?<![.!?])[.!?]++[\"'”’)\]*]*+(?=\s|\Z)|[。！？；]++[\"'”’」』）]*+|\n++")
"""Possessive, and only from the first mark of a row on: linear for a caption of nothing but full stops."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of a caption; all pieces together are the caption."""

    text: str
    kind: str | None = None
    """Of the first finding (in the given order) that stands here; None where none does."""
    findings: tuple[int, ...] = ()
    """Indices of the findings that stand here, increasing."""


def mark_findings(caption: str, findings: Sequence[Finding]) -> list[Segment]:
    """The caption in pieces, with the findings of `MARKED_KINDS` that stand in each.

    A finding stands in one sentence and in all its repetitions. Of an incorrect event "E: described as D", D is what
    the caption says and is searched first, then E. [] for an empty caption.
    """
    folded = _fold(caption)
    places: dict[str, list[tuple[int, int]]] = {}
    for start, end in _sentences(caption):
        if words := " ".join(folded[start:end].split()):
            places.setdefault(words, []).append((start, end))
    sentences = list(places)
    spans: list[tuple[int, int, int]] = []
    for index, finding in enumerate(findings):
        if finding.kind not in MARKED_KINDS or not sentences:
            continue
        for query in _queries(finding):
            fits, literal = _fits(query, sentences)
            best = _best(fits, literal)
            if best is not None:
                spans += (
                    (*_narrowed(query, folded, start, end, is_literal=literal[best] >= _MIN_LITERAL_FIT), index)
                    for start, end in places[sentences[best]]
                )
                break
    return list(_segments(caption, spans, findings))


def _fold(text: str) -> str:
    """Lower case, and a space for all but letters and digits; as long as the text, so that places stay."""
    return "".join(low if len(low := char.lower()) == 1 and char.isalnum() else " " for char in text)


def _sentences(caption: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each sentence without the white space around it, none longer than `_MAX_SENTENCE`."""
    start = 0
    for end in (*(match.end() for match in _SENTENCE_END.finditer(caption)), len(caption)):
        while end - start > _MAX_SENTENCE:
            window = caption[start : start + _MAX_SENTENCE]
            cut = max(window.rfind(mark, _MAX_SENTENCE // 2) for mark in (", ", "; ", "，", "、")) + 1
            cut = cut or window.rfind(" ", _MAX_SENTENCE // 2) + 1 or _MAX_SENTENCE
            yield from _stripped(caption, start, start + cut)
            start += cut
        yield from _stripped(caption, start, end)
        start = end


def _stripped(caption: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    piece = caption[start:end]
    if words := piece.strip():
        first = start + len(piece) - len(piece.lstrip())
        yield first, first + len(words)


def _queries(finding: Finding) -> list[str]:
    """What is searched, the best first."""
    event, sign, described = finding.text.partition(_DESCRIBED_AS)
    texts = (described, event) if sign and finding.kind == "incorrect" else (finding.text,)
    return [query for text in texts if (query := " ".join(_fold(text[:_MAX_QUERY]).split()))]


def _fits(query: str, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(how well the query fits into each sentence, how well literally), 0 to 100 each, of folded texts.

    In a sentence at least as long as the query: the larger of `token_set_ratio` (words in any order, more of them do
    no harm) and `partial_ratio` (the most similar stretch). A shorter sentence does not say all of the query, and is
    compared as a whole (`ratio`): both others would find "a man" in everything about a man.
    """
    is_longer = np.array([len(sentence) >= len(query) for sentence in sentences])
    words = _scores(fuzz.token_set_ratio, query, sentences)
    if len(query.split()) >= _MIN_PARTIAL_WORDS or max(query) >= _UNSPACED_FROM:
        literal = np.where(is_longer, _scores(fuzz.partial_ratio, query, sentences), 0)
    else:
        literal = np.zeros(len(sentences))
    whole = _scores(fuzz.ratio, query, sentences)
    return np.where(is_longer, np.maximum(words, literal), whole), literal


def _scores(scorer: _Scorer, query: str, sentences: Sequence[str]) -> np.ndarray:
    scores: np.ndarray = process.cdist([query], sentences, scorer=scorer, score_cutoff=MIN_FIT)[0]
    return scores


def _best(fits: np.ndarray, literal: np.ndarray) -> int | None:
    """The first of the best; of two that fit equally well, the more literal one."""
    best = int(np.lexsort((-np.arange(len(fits)), literal, fits))[-1])
    return best if fits[best] >= MIN_FIT else None


def _narrowed(query: str, folded: str, start: int, end: int, *, is_literal: bool) -> tuple[int, int]:
    """The words of a sentence that the query is most similar to, where it is literally there; else all of it."""
    found = fuzz.partial_ratio_alignment(query, folded[start:end]) if is_literal else None
    if found is None or found.dest_start == found.dest_end:
        return start, end
    first, last = start + found.dest_start, start + found.dest_end
    while first < last and folded[first] == " ":
        first += 1
    while first < last and folded[last - 1] == " ":
        last -= 1
    while first > start and _is_one_word(folded[first - 1 : first + 1]):
        first -= 1
    while last < end and _is_one_word(folded[last - 1 : last + 1]):
        last += 1
    return first, last


def _is_one_word(pair: str) -> bool:
    return " " not in pair and max(pair) < _UNSPACED_FROM


def _segments(caption: str, spans: Sequence[tuple[int, int, int]], findings: Sequence[Finding]) -> Iterator[Segment]:
    """Cut wherever a span begins or ends."""
    changes: dict[int, set[int]] = {0: set(), len(caption): set()}
    for start, end, index in spans:
        changes.setdefault(start, set()).symmetric_difference_update({index})
        changes.setdefault(end, set()).symmetric_difference_update({index})
    places = sorted(changes)
    here: set[int] = set()
    for start, end in itertools.pairwise(places):
        here ^= changes[start]
        numbers = tuple(sorted(here))
        yield Segment(text=caption[start:end], kind=findings[numbers[0]].kind if numbers else None, findings=numbers)
