"""Checks of texts by program: is every source sentence in the fused caption, is a transcript speech, do quotes agree.

None of these asks anybody, so they are cheap, repeatable, and say exactly what they compared: words, without case,
punctuation and quotation marks.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from avocet.errors import ConfigError
from avocet.judging._words import words_of
from avocet.metrics import repetition_rate
from avocet.metrics._quotes import quoted_mask
from avocet.records import Record

_SENTENCE_END = re.compile(r"[.!?…][\"”’»)\]]*(?=\s)|[。！？][”」』]*")
_QUOTE_MARK = re.compile('["“”„«»‹›「」『』《》〈〉＂]')
_CHARACTERS_PER_WORD = 3
"""Of scripts without spaces, for how fast somebody speaks: about 7 per second in Japanese, 5 in Chinese, 13 in Thai."""
_TAKEN = -1
"""In place of the code of a word."""
_INSIDE = re.compile(b"\x01+")

_GENERIC_WORDS = frozenset(
    words_of("""
    a an the this that there is are was were be been being can could it its his her their he she they you we i
    some someone somebody person persons people man men woman women male female boy boys girl girls child children kid
    kids speaker speakers narrator host human adult adults young old one two three several many multiple another other
    same first second and or as at to with in on of from by for while then who
    talk talks talking talked speak speaks speaking spoke spoken say says saying said speech voice voices conversation
    conversations converse conversing dialogue dialog monologue discussion discuss discusses discussing chat chatting
    narrate narrates narrating narration heard hear hears audio sound sounds clip recording segment video continues
    continue continuing only just
    """)
)
"""What is left of an audio caption that tells nothing but that somebody speaks. English only, as the paper's captions
are: a caption in another language never consists of these."""


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with at least one word."""
    lines = _SENTENCE_END.sub(r"\g<0>\n", text).splitlines()
    return [line.strip() for line in lines if words_of(line)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceCheck(Record):
    """Whether a fused caption holds the sentences of one source, in their order."""

    num_sentences: int
    lost: tuple[str, ...]
    """Nowhere in the fused caption."""
    out_of_order: tuple[str, ...]
    """There, but only before a sentence that precedes it in the source. A sentence that the source has twice must be
    there twice: with one of them left, the second is lost."""

    @property
    def kept(self) -> bool:
        return not self.lost and not self.out_of_order


def check_sentences(source: str, fused: str, similarity: float = 0.9) -> SentenceCheck:
    """Look for every sentence of `source` in `fused`, one after the other.

    A sentence is found where its words stand in a row, with at most (1 - similarity) of them changed, left out or put
    in between, rounded down: at 0.9 sentences of fewer than ten words must be whole. It may be a part of a longer
    sentence. Each is taken at its first place after the one before it, which finds an order if there is any.

    Raises `ConfigError` for a similarity outside (0, 1].
    """
    if not 0 < similarity <= 1:
        raise ConfigError(f"similarity must be above 0 and at most 1, got {similarity}")
    codes: dict[str, int] = {}
    text = _encode(words_of(fused), codes)
    taken: dict[bytes, list[slice]] = {}  # by the words of a sentence: where equal ones before it were found
    position = 0
    lost: list[str] = []
    misplaced: list[str] = []
    found = sentences(source)
    for sentence in found:
        words = _encode(words_of(sentence), codes)
        allowed = int(len(words) * (1 - similarity) + 1e-9)
        places = taken.setdefault(words.tobytes(), [])
        end = _first_end(words, text[position:], allowed)
        if end is not None:
            end = position = position + end
        else:
            end = _first_end(words, _without(text, places), allowed)
            (lost if end is None else misplaced).append(sentence)
        if end is not None:
            places.append(slice(max(0, end - len(words)), end))
    return SentenceCheck(num_sentences=len(found), lost=tuple(lost), out_of_order=tuple(misplaced))


def _without(text: np.ndarray, places: Sequence[slice]) -> np.ndarray:
    if not places:
        return text
    left = text.copy()
    for place in places:
        left[place] = _TAKEN
    return left


def _encode(words: Sequence[str], codes: dict[str, int]) -> np.ndarray:
    return np.array([codes.setdefault(word, len(codes)) for word in words], np.int64)


def _first_end(words: np.ndarray, text: np.ndarray, allowed: int) -> int | None:
    """Where the first passage of `text` ends that is within `allowed` changes of `words`; the best close to it."""
    exact = _exact_end(words, text)
    if allowed == 0 or exact == len(words):
        return exact
    # Only what ends before the exact passage could come first, so no more is compared.
    ends = np.flatnonzero((distances := _passage_distances(words, text[:exact])) <= allowed)
    if not len(ends):
        return None
    end = int(ends[0])
    while end + 1 < len(distances) and distances[end + 1] < distances[end]:
        end += 1
    return end


def _exact_end(words: np.ndarray, text: np.ndarray) -> int | None:
    """Where the first passage of `text` ends that is `words`."""
    for start in np.flatnonzero(text[: max(0, len(text) - len(words) + 1)] == words[0]).tolist():
        if np.array_equal(text[start : start + len(words)], words):
            return int(start) + len(words)
    return None


def _passage_distances(words: np.ndarray, text: np.ndarray) -> np.ndarray:
    """int (len(text) + 1,): the word edit distance between `words` and the best passage that ends there."""
    steps = np.arange(len(text) + 1)
    row = np.zeros(len(text) + 1, np.int64)  # a passage may begin anywhere
    for number, word in enumerate(words.tolist(), start=1):
        above = np.concatenate([[number], np.minimum(row[:-1] + (text != word), row[1:] + 1)])
        # Left neighbours: row[j] = min over k <= j of above[k] + (j - k).
        row = np.minimum.accumulate(above - steps) + steps
    return row


def word_error_rate(said: str, reference: str) -> float | None:
    """Word edits from `reference` to `said`, by the number of words of `reference`; None when it has none."""
    expected = words_of(reference)
    return Levenshtein.distance(words_of(said), expected) / len(expected) if expected else None


def passage_error_rate(quote: str, transcript: str) -> float:
    """Word edits from the most similar passage of `transcript` to `quote`, by the number of words of `quote`.

    0 for a quote that stands in the transcript, at most 1; 0 also for a quote without words.
    """
    codes: dict[str, int] = {}
    words, text = _encode(words_of(quote), codes), _encode(words_of(transcript), codes)
    return float(_passage_distances(words, text).min()) / len(words) if len(words) else 0.0


def quoted_passages(text: str) -> list[str]:
    """What stands in (double) quotation marks, in order: speech, and writing on the screen."""
    runs = (text[run.start() : run.end()] for run in _INSIDE.finditer(quoted_mask(text)))
    passages = (" ".join(piece.split()) for run in runs for piece in _QUOTE_MARK.split(run))
    return [passage for passage in passages if words_of(passage)]


def is_generic_speech(audio_caption: str) -> bool:
    """Whether a caption of a sound tells no more than that somebody speaks ("A man is speaking.").

    Also for a caption without words.
    """
    return all(word in _GENERIC_WORDS for word in words_of(audio_caption))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranscriptRules(Record):
    """When a transcript of a few seconds is no speech. The paper drops "too short or nonsensical" ones, without
    numbers; these are ours."""

    min_words: int = 3
    max_words_per_second: float = 7.0
    """Fast speakers reach about five. Three characters of a script without spaces count as a word."""
    max_repetition: float = 0.6
    """Repetition rate; looked at from eight words on."""
    max_compression: float = 2.4
    """Bytes by bytes after zlib, from 60 bytes on: recognisers that run in a loop go far above it."""
    min_letters: float = 0.6
    """Share of letters and digits among the characters other than white space."""

    def __post_init__(self) -> None:
        if self.min_words < 0 or not self.max_words_per_second > 0 or not self.max_compression > 1:
            raise ConfigError(
                "TranscriptRules: needs min_words >= 0, max_words_per_second > 0 and max_compression > 1, got "
                f"{self.min_words}, {self.max_words_per_second} and {self.max_compression}"
            )
        for name in ("max_repetition", "min_letters"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"TranscriptRules: {name} is a share from 0 to 1, got {getattr(self, name)}")


def transcript_nonsense(text: str, seconds: float, rules: TranscriptRules) -> str | None:
    """Why a transcript of `seconds` of sound cannot be what was said; None when nothing speaks against it."""
    words = words_of(text)
    # Letters that are neither large nor small, such as kana: scripts without spaces give them as words.
    alone = sum(len(word) == 1 and unicodedata.category(word) == "Lo" for word in words)
    count = len(words) - alone + alone / _CHARACTERS_PER_WORD
    if count > rules.max_words_per_second * seconds:
        return f"{count:.0f} words in {seconds:g} s, at most {rules.max_words_per_second:g} per second"
    if len(words) >= 8 and (rate := repetition_rate(text)) > rules.max_repetition:
        return f"{rate:.2f} of it are repetitions, at most {rules.max_repetition:g}"
    data = text.encode(errors="replace")
    if len(data) >= 60 and (ratio := len(data) / len(zlib.compress(data))) > rules.max_compression:
        return f"it compresses to a {ratio:.1f}th, at most {rules.max_compression:g}"
    characters = [character for character in text if not character.isspace()]
    letters = sum(unicodedata.category(character)[0] in "LMN" for character in characters)
    if letters < rules.min_letters * len(characters):
        return f"{letters} of {len(characters)} characters are letters, at least {rules.min_letters:g} of them"
    return None
