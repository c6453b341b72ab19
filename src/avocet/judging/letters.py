"""Which choice of a multiple-choice question a free reply takes, unless that is uncertain.

A reply may be nothing but the letter ("B", "(b).", "**B**", "Option B"), begin or end with a line for the choice
("B. A cat"), or state it anywhere ("The answer is B", "Answer: (b)", "B is correct", a boxed B). A capital letter that
merely begins a sentence ("A dog runs") is no answer, and a reply that names several ("A or B") has none. Nothing is
guessed, and no letter is treated better than another: what is refused for A ("the answer is A dog") is so for B.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from avocet.judging.errors import ParseError

_NOUN = r"(?:answer|option|choice)"
_LETTER = r"[(\[]?(?P<letter>[A-Z])[)\]]?"
_END = r"(?=[.,;:!)\]]|$| [-–—] | (?:because|since|as|which|due|with|or|and)\b)"
"""What may follow a letter that is an answer, and does not follow the article in "the answer is a dog"."""

_BOXED = re.compile(
    r"\\boxed\{ ?(?:\\text(?:bf|rm)?\{ ?)?\(?([A-Z])\)?\.? ?\}{1,2}|<answer>\s*\(?([A-Z])\)?\.?\s*</answer>",
    re.IGNORECASE,
)
_DECORATION = re.compile(r"""["“”„«»*`$_]|(?<!\w)['‘’]|['‘’](?!\w)""")
_LONE = re.compile(rf"^(?:(?:the |my )?(?:final |correct |best )?{_NOUN} )?{_LETTER}[.:,;!]?$", re.IGNORECASE)
_LABEL = re.compile(
    rf"^(?:{_NOUN} )?(?:[(\[](?P<bracketed>[A-Z])[)\]]|(?P<plain>[A-Z])(?:[.):]|,(?= because| since)))(?= |$)",
    re.IGNORECASE,
)
_STATED = re.compile(
    rf"\b{_NOUN}(?: to the question)?(?: (?:is|would be|should be|must be):?|:) ?(?:{_NOUN}:? |letter )?{_LETTER}{_END}"
    rf"|(?:^|(?<=[.,;:!] ))(?:{_NOUN} )?[(\[]?(?P<right>[A-Z])[)\]]? is (?:the )?(?:correct|right|best)\b",
    re.IGNORECASE,
)
_CONTINUED = re.compile(
    r"[.)\]]* ?(?:[,/&+] ?(?:or |and )?|(?:or|and|nor) )(?:\w+ )?"
    r"(?:[(\[][A-Za-z][)\]]|[A-Z](?=[.,;:!]|$| (?:is|are)\b))"
)
"""Another letter in the same breath: "A or B", "(A) and maybe (B)", "A, B"."""
_DOUBT = re.compile(r"\b(?:not|never|cannot|neither|nor|if|whether|unless|doubt|\w+n['’]t)\b", re.IGNORECASE)
_CLAUSE_END = re.compile(r"[.,;:!?]|\bbut\b", re.IGNORECASE)
_NEAR = 200
"""Characters around a letter that are looked at, so that the work on a long reply stays proportional to its length."""


def read_letter(text: str, letters: Sequence[str]) -> str:
    """The letter of the choice that a reply takes, one of `letters` (capitals).

    Statements count before what a line begins with, so a reply may repeat the choices before it decides; both must not
    disagree. Statements in a clause with a "not", "if" or "whether" are passed over. A reply that begins with `<think>`
    is read from the first `</think>` on. Raises `ParseError` when no letter, several, or one that is not among
    `letters` is named.
    """
    lines = _plain_lines(text)
    stated = sorted({letter for line in lines for letter in _stated(line)})
    labels = sorted({letter for line in lines for letter in _labels(line)})
    if not stated:
        # In the middle of a reply, "A." may number a thought.
        found = labels if any(_LABEL.match(line) for line in (lines[:1] + lines[-1:])) else []
    else:
        # One choice that a line begins with is an answer too; several are the choices repeated.
        found = sorted({*stated, *labels}) if len(labels) == 1 else stated
    expected = f"the letter of one choice ({', '.join(letters)})"
    if len(found) != 1:
        problem = f"it names {' and '.join(found)}" if found else "it names none for certain"
        raise ParseError(expected, problem, text)
    if found[0] not in letters:
        raise ParseError(expected, f"it names {found[0]}", text)
    return found[0]


def _plain_lines(text: str) -> list[str]:
    """The lines of a reply that are not empty, without decoration, each run of white space one space."""
    answer = text.partition("</think>")[2] if text.lstrip().startswith("<think>") else text
    boxed = _BOXED.sub(lambda match: f"\nAnswer: {match[1] or match[2]}\n", answer)
    plain = _DECORATION.sub("", unicodedata.normalize("NFKC", boxed))
    return [line for line in (" ".join(line.split()) for line in plain.splitlines()) if line]


def _stated(line: str) -> Iterator[str]:
    """Letters that a line says are the answer, without those that it says are not or may be."""
    matches = [match] if (match := _LONE.match(line)) else list(_STATED.finditer(line))
    for match in matches:
        groups = match.groupdict()
        before = _CLAUSE_END.split(line[max(0, match.start() - _NEAR) : match.start()])[-1]
        if not _DOUBT.search(before):
            yield str(groups["letter"] or groups["right"]).upper()
            yield from _others(line[match.end() : match.end() + _NEAR])


def _labels(line: str) -> Iterator[str]:
    match = None if _LONE.match(line) else _LABEL.match(line)
    if match:
        yield (match["bracketed"] or match["plain"]).upper()
        yield from _others(line[match.end() : match.end() + _NEAR])


def _others(rest: str) -> Iterator[str]:
    """The letter that follows a letter as in "A or B"."""
    if match := _CONTINUED.match(rest):
        yield re.findall("[A-Za-z]", match[0])[-1].upper()
