"""Single events as texts: told as a sentence, told wrongly in one respect, and compared by their words.

For captions with planted errors (`avocet.evaluation.calibration_vs2`). The events are those of people, in English, with
speech and writing in quotation marks. A change is made only where its effect is beyond doubt; None where there is none.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Collection, Iterable, Sequence
from types import MappingProxyType

MIN_WORDS = 3
"""Events with fewer words of their own say too little to be told from others."""
MAX_SHARED = 0.4
"""Of the words of an event that another event of its video may have, if its absence is to be noticed."""
MAX_SHARED_FOREIGN = 0.25
"""Of the words of a foreign event that one event of the video may have, if it is to be an invention there."""
MAX_SHARED_FOREIGN_IN_ALL = 1 / 3
"""Of the words of a foreign event that all events of the video together may have."""
MIN_QUOTED_WORDS = 4


def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_UNIMPORTANT = _word_set(
    "a an the and or but of to in on at by for from with into as is are was were be been being has have had do does "
    "did not no it its his her him he she they them their this that these those there here then while who which what "
    "i you we us our your my me so just very can will would could should about out up down over under if than too "
    "it's i'm you're don't that's"
)
_SUMMARY = _word_set(
    "again aspect aspects atmosphere blend coherent concludes concluding consistent consistently continue continued "
    "continues continuous narrative overall maintain maintained maintains persists remain remaining remains repeated "
    "repeats same seamless seamlessly similar still throughout unchanged"
)
"""What sums up other events: whether it is told when they are is a matter of opinion."""
_CONTEXTUAL = _SUMMARY | _word_set(
    "another also back background camera caption echoes final finally first he her his him it its main meanwhile next "
    "other scene scenes second segment she shot sequence shift shifts subtitles that their them these they third this "
    "those transition transitions video view visuals"
)
"""What refers to the rest of its video, or could be said of any."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_QUOTATION = re.compile(
    r"(?<!\w)(?:'(?P<single>\S.*?)(?<!\s)'(?!\w)|\"(?P<double>\S.*?)(?<!\s)\"(?!\w)|“(?P<curly>[^“”]+)”)"
)
_ENDED = re.compile(r"[.!?…][\"'”’`)]*$")

_SPEECH = re.compile(
    r"\b(?:audio|voice\w*|narrat\w+|speak\w*|spoken|sa(?:ys?|ying|id)|ask\w*|states?|stating|explain\w*|shout\w*|"
    r"tell\w*|exclaim\w*|respon\w+|repl(?:y|ies)|answer\w*|announce\w*|whisper\w*|comment\w*|mention\w*)\b",
    re.IGNORECASE,
)
_WRITING = re.compile(
    r"\b(?:texts?|reads?|reading|sign\w*|captions?|captioned|subtitles?|titles?|titled|screen|on-screen|overlay\w*|"
    r"displays?|displayed|displaying|written|words?|labels?|labell?ed|logo\w*|letters?|lyrics?|sings?|singing|sung)\b",
    re.IGNORECASE,
)

_OTHER_COLOURS = MappingProxyType(
    {
        "red": ("blue", "green", "yellow"),
        "blue": ("red", "green", "yellow"),
        "green": ("red", "blue", "yellow"),
        "yellow": ("red", "blue", "green"),
        "pink": ("blue", "green", "yellow"),
        "purple": ("red", "green", "yellow"),
        "brown": ("blue", "green"),
        "black": ("red", "green", "yellow"),
        "white": ("red", "blue", "green"),
        "grey": ("red", "green", "yellow"),
        "gray": ("red", "green", "yellow"),
    }
)
"""Colours and those that nobody takes for them. (Orange is left out: it is a fruit as well.)"""
_COLOUR = re.compile(
    rf"\b({'|'.join(_OTHER_COLOURS)})\b(?!\s+(?:man|men|woman|women|person|people|boy|girl|guy|lady)\b)", re.IGNORECASE
)
_NUMBER_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER = re.compile(
    rf"(?<![\w.,:/$€£#%'’-])(?:(?P<word>{'|'.join(_NUMBER_WORDS)})|(?P<digits>\d{{1,6}}))(?![\w:/%'’-]|[.,]\d)",
    re.IGNORECASE,
)
_HEDGED = re.compile(r"\b(?:or|likely|possibly|perhaps|maybe|about|approximately|around)\b", re.IGNORECASE)
_OTHER_SEX = MappingProxyType(
    {
        "man": "woman",
        "woman": "man",
        "boy": "girl",
        "girl": "boy",
        "male": "female",
        "female": "male",
        "he": "she",
        "she": "he",
        "gentleman": "lady",
        "lady": "gentleman",
    }
)
_SEXED = re.compile(
    rf"\b(?:{'|'.join(_OTHER_SEX)}|men|women|boys|girls|males|females|him|his|her|hers|himself|herself|guys?|dad|mom|"
    r"father|mother|son|daughter|brother|sister|husband|wife|king|queen|mr|mrs|ms|sir|madam|ladies|gentlemen)\b",
    re.IGNORECASE,
)


def one_line(text: str) -> str:
    return " ".join(text.split())


def as_sentence(event: str) -> str:
    """The event as a sentence: capital letter, full stop."""
    text = one_line(event)
    return f"{text[:1].upper()}{text[1:]}{'' if _ENDED.search(text) else '.'}"


@functools.lru_cache(maxsize=50_000)
def all_words(text: str) -> frozenset[str]:
    """Casefolded."""
    return frozenset(_WORD.findall(text.casefold()))


@functools.lru_cache(maxsize=50_000)
def own_words(text: str) -> frozenset[str]:
    """The words that say something, casefolded."""
    return all_words(text) - _UNIMPORTANT


def key(text: str) -> str:
    """Equal for events that differ in case, space or a full stop only."""
    return one_line(text).casefold().rstrip(".")


def stands_alone(text: str, others: Iterable[str]) -> bool:
    """Whether the event says what none of the others says, so that it is missed when it is gone."""
    words = own_words(text)
    if len(words) < MIN_WORDS or words & _SUMMARY:
        return False
    return all(len(words & own_words(other)) <= MAX_SHARED * len(words) for other in others)


def is_foreign(text: str, events: Sequence[str]) -> bool:
    """Whether the event is an invention in a video of these events, whoever reads it."""
    words = own_words(text)
    if len(words) <= MIN_WORDS or all_words(text) & _CONTEXTUAL:
        return False
    there = [own_words(event) for event in events]
    return len(words & frozenset().union(*there)) <= MAX_SHARED_FOREIGN_IN_ALL * len(words) and all(
        len(words & each) <= MAX_SHARED_FOREIGN * len(words) for each in there
    )


def quotation(event: str) -> re.Match[str] | None:
    """The one quotation of an event; None when there is none, or several, or marks that do not pair."""
    found = list(_QUOTATION.finditer(event))
    if len(found) != 1 or "\\" in event:
        return None
    # An apostrophe may be a mark that lacks its partner; only those inside of words are none.
    rest = event[: found[0].start()] + " " + event[found[0].end() :]
    return None if re.search(r"[\"“”]|(?<!\w)['‘`]|['’`](?!\w)", rest) else found[0]


def event_kind(event: str) -> str:
    """ "speech", "text" (writing in the picture) or "other", by the words that tell it."""
    found = quotation(event)
    told = event if found is None else event[: found.start()] + event[found.end() :]
    if _WRITING.search(told):
        return "text"
    return "speech" if _SPEECH.search(told) else "other"


def with_other_colour(event: str, rng: random.Random) -> str | None:
    found = _pick(_COLOUR, event, rng)
    if found is None:
        return None
    # With "a blue and red tie" a change to blue would be hard to tell.
    there = own_words(event)
    others = [colour for colour in _OTHER_COLOURS[found[0].casefold()] if colour not in there]
    return _replaced(event, found, rng.choice(others)) if others else None


def with_other_number(event: str, rng: random.Random) -> str | None:
    found = _pick(_NUMBER, event, rng)
    if found is None:
        return None
    if found["word"]:
        other = rng.choice([word for word in _NUMBER_WORDS if word != found[0].casefold()])
    else:
        other = str(int(found[0]) + rng.randint(2, 9))
    return _replaced(event, found, other)


def with_other_speaker(event: str, rng: random.Random) -> str | None:
    """A man in place of a woman, or the other way round. Only where one person of known sex is named."""
    if event_kind(event) != "speech":
        return None
    named = _unquoted(_SEXED, event)
    if len(named) != 1 or named[0][0].casefold() not in _OTHER_SEX:
        return None
    return _replaced(event, named[0], _OTHER_SEX[named[0][0].casefold()])


def with_other_words(event: str, words: Sequence[str], rng: random.Random) -> str | None:
    """Speech with more than a third of the quoted words replaced by some of `words`."""
    found = quotation(event)
    if found is None or event_kind(event) != "speech":
        return None
    start, end = found.span(found.lastgroup or 0)
    spoken = list(_WORD.finditer(event, start, end))
    places = [match for match in spoken if match[0].isalpha() and match[0].casefold() not in _UNIMPORTANT]
    known = {match[0].casefold() for match in spoken}
    others = [word for word in words if word not in known]
    count = len(spoken) // 3 + 1
    if len(spoken) < MIN_QUOTED_WORDS or len(places) < count or len(others) < count:
        return None
    chosen = sorted(rng.sample(places, count), key=lambda match: match.start(), reverse=True)
    for match, word in zip(chosen, rng.sample(others, count), strict=True):
        event = _replaced(event, match, word)
    return event


def spoken_words(events: Iterable[str]) -> list[str]:
    """Plain words that are said in the events, for `with_other_words`; sorted, each once."""
    words: set[str] = set()
    for event in events:
        found = quotation(event)
        if found is not None and event_kind(event) == "speech":
            quoted = own_words(found[found.lastgroup or 0])
            words |= {word for word in quoted if word.isascii() and word.isalpha() and len(word) > 3}
    return sorted(words)


def _unquoted(pattern: re.Pattern[str], event: str) -> list[re.Match[str]]:
    """Matches outside of the quotation. None in an event whose marks are not understood."""
    found = quotation(event)
    if found is None:
        return [] if re.search(r"[\"“”]|(?<!\w)['‘`]|['’`](?!\w)", event) else list(pattern.finditer(event))
    start, end = found.span()
    return [match for match in pattern.finditer(event) if match.end() <= start or match.start() >= end]


def _pick(pattern: re.Pattern[str], event: str, rng: random.Random) -> re.Match[str] | None:
    """The only match: with "a red and a red one", or two numbers, one changed might go for the other."""
    found = [] if _HEDGED.search(event) else _unquoted(pattern, event)
    different: Collection[str] = {match[0].casefold() for match in found}
    return rng.choice(found) if found and len(different) == len(found) else None


def _replaced(text: str, match: re.Match[str], other: str) -> str:
    if match[0][:1].isupper():
        other = other.upper() if match[0].isupper() and len(match[0]) > 1 else other[:1].upper() + other[1:]
    return text[: match.start()] + other + text[match.end() :]
