"""Whether a reply to a question of a data set agrees with the answer that the data set gives, without a judge.

Two forms of answers are told apart by the answer itself: the letter of a choice ("B", "(B)", "B. A cat"), and a few
words ("two men"). A reply agrees with a letter when it takes that choice (`read_letter`), and with words when it is
those words, but for capitals, punctuation, articles and white space: the exact match of SQuAD (Rajpurkar et al. 2016).
An answer in many words needs a judge; exact match would call a paraphrase wrong.
"""

from __future__ import annotations

import re
import unicodedata

from avocet.judging.errors import ParseError
from avocet.judging.letters import read_letter

LETTERS = tuple("ABCDEFGHIJ")

_CHOICE = re.compile(r"\s*(?:\((?P<bracketed>[A-J])\)|(?P<plain>[A-J])(?:[.:)]|\s*$))")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def answer_letter(answer: str) -> str | None:
    """The letter that a data set's answer begins with as a choice, or None when the answer is words.

    >>> answer_letter("(B) a cat"), answer_letter("C."), answer_letter("A man")
    ('B', 'C', None)
    """
    match = _CHOICE.match(answer)
    return None if match is None else match["bracketed"] or match["plain"]


def agrees(reply: str, answer: str) -> bool:
    """Whether `reply` gives `answer`. A reply that takes no choice, or several, does not."""
    letter = answer_letter(answer)
    if letter is None:
        return normalised_answer(reply) == normalised_answer(answer)
    try:
        return read_letter(reply, LETTERS) == letter
    except ParseError:
        return False  # no choice was taken, which is the model's failure


def normalised_answer(text: str) -> str:
    """Without capitals, punctuation, articles and repeated white space.

    >>> normalised_answer('"The red  STAR."')
    'red star'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(" " if unicodedata.category(mark)[0] in "PZC" else mark for mark in folded)
    plain = " ".join(_ARTICLES.sub(" ", words).split())
    return plain or " ".join(words.split())
