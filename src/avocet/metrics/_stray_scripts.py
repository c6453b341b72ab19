"""Letters of a script that is foreign to a text, outside of quotations and glosses.

A captioner that falls out of its language writes a word or a sentence of another one into the running text:

    "The camera zooms in. 这个男人开始弹奏。 He smiles."

The following is left alone, since careful captions contain it: what stands in quotation marks (speech, writing on the
screen); a gloss, that is letters in brackets or right before brackets ("a kaiken (懐剣)"); what is announced as a name
or as writing ("the text 欢迎 appears"); Latin in texts of other scripts up to seven words (brands, units, titles);
single Greek letters that begin a word (μg, π).
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from avocet.metrics._quotes import QUOTES

_FAMILIES = {
    **dict.fromkeys(("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO"), "EAST ASIAN"),
    **dict.fromkeys(("MODIFIER", "COMBINING", "UNKNOWN"), ""),
}
"""Japanese mixes kana and Chinese characters; modifier letters belong to no script."""

_WEIGHTS = {"EAST ASIAN": 3, "HANGUL": 2}
"""A text is in the script that tells most of it; one such character says about as much as so many Latin letters."""
_MERGED_GAP = 12
"""Letters this close together are one passage: "2020 年 5 月" is one date."""
_ANNOUNCED_WINDOW = 64
_ANNOUNCED = re.compile(
    r"\b(?:call(?:ed|s)|named?|titled?|entitled|reads?|reading|says?|saying|sings?|singing|texts?|words?|characters?|"
    r"letters?|writ(?:es|ten|ing)|labell?ed|spell(?:s|ing|ed)|subtitles?|captions?|signs?|logo|hashtag|phrases?|lyrics?)"
    r"\b[^.!?\n]{0,32}$",
    re.IGNORECASE,
)
_LATIN_SENTENCE = re.compile(r"(?<![A-Za-z'’-])(?:[A-Za-z'’-]++[ ,;:]{1,3}+){7,}[A-Za-z'’-]++")
"""Eight words and more in a row are a sentence, not a name."""


def stray_passages(text: str, mask: bytearray) -> Iterator[tuple[int, int]]:
    """(start, end) of each passage in a foreign script. `mask`: `quoted_mask(text)`. Linear in the length."""
    if text.isascii():
        return
    families = {mark: family for mark in set(text) if mark.isalpha() and (family := _family(mark))}
    outside = Counter(itertools.compress(text, mask.translate(bytes([1, 0]) + bytes(254))))
    counts: Counter[str] = Counter()
    for mark, count in outside.items():
        if mark in families:
            counts[families[mark]] += count * _WEIGHTS.get(families[mark], 1)
    if not counts:
        return
    main = counts.most_common(1)[0][0]
    foreign = "".join(sorted(mark for mark, family in families.items() if family not in (main, "LATIN")))
    if foreign:
        for start, end in _merged(re.finditer(f"[{re.escape(foreign)}]+", text), text):
            if not _is_explained(text, start, end, mask) and not _is_symbol(text, start, end, families):
                yield start, end
    if main != "LATIN":
        for match in _LATIN_SENTENCE.finditer(text):
            if mask.find(1, match.start(), match.end()) < 0:
                yield match.span()


@functools.lru_cache(maxsize=1 << 16)
def _family(mark: str) -> str:
    """The script of a letter; "" for what belongs to none. A full-width or mathematical A is Latin."""
    plain = unicodedata.normalize("NFKC", mark)[0]
    script = unicodedata.name(plain, "UNKNOWN").split(" ", 1)[0]
    return _FAMILIES.get(script, script)


def _merged(matches: Iterable[re.Match[str]], text: str) -> Iterator[tuple[int, int]]:
    current: tuple[int, int] | None = None
    for match in matches:
        if current and match.start() - current[1] <= _MERGED_GAP and "\n" not in text[current[1] : match.start()]:
            current = current[0], match.end()
            continue
        if current:
            yield current
        current = match.span()
    if current:
        yield current


def _is_explained(text: str, start: int, end: int, mask: bytearray) -> bool:
    """Whether a passage is quoted, a gloss, or announced as a name or as writing."""
    before, after = text[max(0, start - _ANNOUNCED_WINDOW) : start], text[end : end + 3].lstrip()
    if mask.find(1, start, end) >= 0 or before[-1:] in QUOTES or after[:1] in QUOTES:
        return True
    if after[:1] in ("(", "（") or max(before.rfind("("), before.rfind("（")) > max(
        before.rfind(")"), before.rfind("）")
    ):
        return True
    return _ANNOUNCED.search(before) is not None


def _is_symbol(text: str, start: int, end: int, families: dict[str, str]) -> bool:
    return end - start == 1 and not text[start - 1 : start].isalpha() and families[text[start]] == "GREEK"
