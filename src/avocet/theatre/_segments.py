"""Text -> sentences of words and quotations, in linear time, for any text however broken."""

from __future__ import annotations

import dataclasses
import re

from avocet.theatre import _lexicon as lexicon

_PIECES = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+|\n|[^\w\s]|_")
_DOUBLE_QUOTES = frozenset('"“”„‟«»＂')
_SINGLE_QUOTES = frozenset("'‘’‚‛")
_SENTENCE_ENDS = frozenset(".!?;…。！？")


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """A word, a number or a single mark."""

    text: str
    lower: str
    """Casefolded, without a possessive 's."""
    start: int
    end: int

    @property
    def is_word(self) -> bool:
        return self.text[0].isalnum()


@dataclasses.dataclass(frozen=True, slots=True)
class Quote:
    """A quotation; `text` is what stands between its marks."""

    text: str
    start: int
    end: int


Item = Word | Quote


def sentences(text: str) -> list[list[Item]]:
    """The sentences of a text without their end marks; no sentence is empty.

    A quotation is one item and never cut. One that is not closed ends with its first sentence, or where the next
    quotation opens.
    """
    pieces = [_word(match) for match in _PIECES.finditer(text)]
    return _cut(_with_quotes(text, pieces))


def _word(match: re.Match[str]) -> Word:
    lower = match[0].casefold().replace("’", "'")
    return Word(match[0], lower.removesuffix("'s"), match.start(), match.end())


def _with_quotes(text: str, pieces: list[Word]) -> list[Item]:
    items: list[Item] = []
    opened: int | None = None  # index of the piece that opened the current quotation
    stop: int | None = None  # its first sentence end
    index = 0
    while index < len(pieces):
        mark = pieces[index]
        role = _quote_role(text, pieces, index, opened)
        if opened is None:
            if role == "open":
                opened, stop = index, None
            elif role is None:
                items.append(mark)
        elif role == "close":
            items.append(_quote(text, pieces, opened, index, closed=True))
            opened = None
        elif role == "open":
            end = stop + 1 if stop is not None else _unclosed_end(pieces, opened, index)
            items.append(_quote(text, pieces, opened, end, closed=False))
            items.extend(pieces[end:index])
            opened, stop = index, None
        elif stop is None and (mark.text in _SENTENCE_ENDS or mark.text == "\n"):
            stop = index
        index += 1
    if opened is not None:
        end = stop + 1 if stop is not None else len(pieces)
        items.append(_quote(text, pieces, opened, end, closed=False))
        items.extend(piece for piece in pieces[end:] if piece.text not in _DOUBLE_QUOTES)
    return items


def _quote_role(text: str, pieces: list[Word], index: int, opened: int | None) -> str | None:
    """Does this piece "open" or "close" a quotation, or is it a stray mark ("none"), or no such mark (None)?"""
    mark = pieces[index].text
    single = opened is not None and pieces[opened].text in _SINGLE_QUOTES
    if mark not in (_SINGLE_QUOTES if single else _DOUBLE_QUOTES) and not (opened is None and mark in _SINGLE_QUOTES):
        return None
    start, end = pieces[index].start, pieces[index].end
    space_before = start == 0 or text[start - 1].isspace()
    space_after = end == len(text) or text[end].isspace()
    if opened is None:
        if mark in _SINGLE_QUOTES:  # else an apostrophe that stands alone
            return "open" if not space_after and _follows_cue(pieces, index) else None
        return "none" if mark in "”»" or (space_after and not space_before) else "open"
    if single:
        return "close" if not (space_before and not space_after) else None
    opens = mark in "„«" or (space_before and not space_after)
    return "open" if opens and mark not in "”»" else "close"


def _follows_cue(pieces: list[Word], index: int) -> bool:
    before = [piece.lower for piece in pieces[max(0, index - 2) : index]]
    cues = lexicon.SAYING_VERBS | lexicon.TEXT_NOUNS | lexicon.TEXT_VERBS | {":"}
    return any(word in cues for word in before)


def _quote(text: str, pieces: list[Word], opened: int, end: int, *, closed: bool) -> Quote:
    """The quotation from the mark `opened` to before piece `end`, or to that closing mark itself."""
    start = pieces[opened].end
    last = pieces[end].start if closed else pieces[end - 1].end
    return Quote(text[start : max(start, last)].strip(), pieces[opened].start, pieces[end].end if closed else last)


def _unclosed_end(pieces: list[Word], opened: int, next_open: int) -> int:
    """Where a quotation without any sentence end stops: before the next speaker, if one is announced."""
    for index in range(next_open - 1, max(opened, next_open - 8), -1):
        if pieces[index].lower in lexicon.SPEAKER_NOUNS:
            while index > opened + 1 and pieces[index - 1].lower in lexicon.ARTICLES | lexicon.JOINERS | lexicon.OLD:
                index -= 1
            return index
    return next_open


def _cut(items: list[Item]) -> list[list[Item]]:
    found: list[list[Item]] = [[]]
    spoken = False  # has the current sentence a verb of speech or a surface with text before its quotation?
    for index, item in enumerate(items):
        following = items[index + 1] if index + 1 < len(items) else None
        if isinstance(item, Quote):
            found[-1].append(item)
            ends = _quote_ends_sentence(item, following, spoken)
        elif item.text == "\n":
            ends = not (isinstance(following, Word) and following.text[0].islower())
        else:
            ends = item.text in _SENTENCE_ENDS
            if not ends:
                found[-1].append(item)
                spoken = spoken or item.lower in lexicon.SAYING_VERBS or item.lower in lexicon.TEXT_VERBS
        if ends:
            found.append([])
            spoken = False
    return [sentence for sentence in found if sentence]


def _quote_ends_sentence(quote: Quote, following: Item | None, spoken: bool) -> bool:
    if not isinstance(following, Word) or not following.is_word:
        return False
    if following.text[0].isupper() and not (following.text.isupper() and len(following.text) > 1):
        return True
    closed_sentence = quote.text[-1:] in _SENTENCE_ENDS and quote.text[-1:] != ""
    return closed_sentence and spoken and following.lower not in lexicon.JOINERS
