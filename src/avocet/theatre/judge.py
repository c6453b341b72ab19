"""The exact judge: what a caption of a theatre script misses, tells wrongly, invents, repeats or tells out of order.

No language model is asked: the caption is parsed into mentions, and mentions are assigned to the script's events, each
to at most one, so that first the number of right ones and then the summed likeness of the others is largest (of
equally good assignments the one with earlier mentions).

- right: all attributes agree; on-screen words whatever their case; speech by the right speaker with a word error of
  at most 1/3.
- incorrect: two of three visual attributes agree; an on-screen word with a similarity of at least 1/2; speech with a
  word error of at most 2/3 and either the wrong speaker or a word error above 1/3; the right speaker without any
  words ("a man speaks").
- anything else is a missed event and a hallucinated mention. A sound or scene of another class is never "incorrect".

The word error of an utterance is the edit distance in words / the number of words said, on casefolded words without
punctuation.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from avocet.metrics import EventFindings
from avocet.theatre._assignment import best_assignment, longest_ordered
from avocet.theatre._phrases import describe
from avocet.theatre.language import perceivable
from avocet.theatre.parser import Mention, parse_caption
from avocet.theatre.script import KIND_ORDER, Event, EventKind, Script

RIGHT_WORD_ERROR = 1 / 3
"""Speech with at most this word error (and the right speaker) is right."""
INCORRECT_WORD_ERROR = 2 / 3
"""Speech with at most this word error is told, though incorrectly."""
INCORRECT_TEXT_SIMILARITY = 1 / 2
"""On-screen words at least this similar are the same word misread."""

_RIGHT = 10**9
"""Worth of a right mention; more than all the likeness that incorrect ones can add up to."""
_WORDS = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class KindCounts:
    """The findings on events of one kind."""

    num_events: int
    missed: int
    incorrect: int
    hallucinated: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class UtterancePair:
    """An utterance of the script and what the caption makes of it."""

    speaker: str
    text: str
    told_speaker: str | None
    told_text: str | None
    """None: not told."""
    word_errors: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TheatreFindings(EventFindings):
    """The exact judge's findings on one caption."""

    repeated: tuple[str, ...]
    """The hallucinated mentions that only repeat what the caption had told already."""
    order_errors: int
    """Matched mentions minus the most of them that stand in the script's order."""
    binding_errors: int
    """Pairs of matched events, other than scenes, that happen at once and are told apart, or the other way round."""
    simultaneous_pairs: int
    """Pairs of events, other than scenes, that happen at once."""
    simultaneous_told: int
    """Those of them that are both matched and told as simultaneous."""
    reference_words: int
    word_errors: int
    """Of the dialogue as a whole: utterances aligned in order; an utterance that is not told costs all its words, a
    told one that was not said costs nothing here (it is hallucinated)."""
    speakers_total: int
    speakers_correct: int
    """Utterances told with the right speaker, in the same alignment."""
    exact_utterances: int
    """Utterances told with the right speaker and without any word error."""
    utterances: tuple[UtterancePair, ...]
    by_kind: dict[EventKind, KindCounts]
    notes: tuple[str, ...]
    """One line per error of order or binding."""


def judge(caption_text: str, script: Script, see: bool = True, hear: bool = True) -> TheatreFindings:
    """Judge any text as a caption of `script`.

    `see=False` or `hear=False` judges against the events that can be perceived without the picture or the sound (of
    a black or muted copy); what is told of the others is hallucinated. Never raises for any text.
    """
    events = list(perceivable(script, see, hear))
    mentions = parse_caption(caption_text)
    matches = _match(events, mentions)
    told = {mention: event for event, mention in matches.items()}
    wrong = {event for event, mention in matches.items() if _worth(events[event], mentions[mention]) < _RIGHT}
    missed = [index for index in range(len(events)) if index not in matches]
    extra = [index for index in range(len(mentions)) if index not in told]
    pairs = _align_dialogue(events, mentions)
    order_errors, order_notes = _order(events, mentions, matches)
    binding = _binding(events, mentions, matches)
    return TheatreFindings(
        num_events=len(events),
        missed=tuple(describe(events[index]) for index in missed),
        incorrect=tuple(
            f"{describe(events[index])}: described as {mentions[matches[index]].describe()}" for index in sorted(wrong)
        ),
        hallucinated=tuple(mentions[index].describe() for index in extra),
        repeated=_repeated(events, mentions, extra),
        order_errors=order_errors,
        binding_errors=len(binding.notes),
        simultaneous_pairs=binding.pairs,
        simultaneous_told=binding.told,
        reference_words=sum(len(_words(pair.text)) for pair in pairs),
        word_errors=sum(pair.word_errors for pair in pairs),
        speakers_total=len(pairs),
        speakers_correct=sum(pair.told_speaker == pair.speaker for pair in pairs),
        exact_utterances=sum(pair.told_speaker == pair.speaker and not pair.word_errors for pair in pairs),
        utterances=tuple(pairs),
        by_kind=_by_kind(events, mentions, missed, wrong, extra),
        notes=(*order_notes, *binding.notes),
    )


def _words(text: str) -> list[str]:
    return [word.replace("’", "'") for word in _WORDS.findall(text.casefold())]


def _word_errors(said: str, told: str) -> int:
    return Levenshtein.distance(_words(said), _words(told))


def _worth(event: Event, mention: Mention) -> int:
    """`_RIGHT` or more when the mention is right, 1.._RIGHT-1 the more alike, 0 when they have nothing to do."""
    if event.kind != mention.kind:
        return 0
    if event.kind == "visual":
        told = (mention.colour, mention.shape, mention.motion)
        agreeing = sum(a == b for a, b in zip(told, (event.colour, event.shape, event.motion), strict=True))
        return _RIGHT if agreeing == 3 else 1000 if agreeing == 2 else 0
    if event.kind == "text":
        similarity = Levenshtein.normalized_similarity(event.word.casefold(), mention.word.casefold())
        if similarity == 1:
            return _RIGHT
        return round(1000 * similarity) if similarity >= INCORRECT_TEXT_SIMILARITY else 0
    if event.kind == "sound":
        return _RIGHT if event.sound == mention.sound else 0
    if event.kind == "scene":
        return _RIGHT if event.scene == mention.scene else 0
    return _speech_worth(event, mention)


def _speech_worth(event: Event, mention: Mention) -> int:
    same_speaker = event.speaker == mention.speaker
    told = _words(mention.utterance)
    if not told:
        return 1 if same_speaker else 0
    said = _words(event.utterance)
    error = Levenshtein.distance(said, told) / len(said)
    if error > INCORRECT_WORD_ERROR:
        return 0
    likeness = round(1000 * (1 - error)) + 100 * same_speaker
    return _RIGHT + likeness if same_speaker and error <= RIGHT_WORD_ERROR else likeness


def _match(events: Sequence[Event], mentions: Sequence[Mention]) -> dict[int, int]:
    """Index of event -> index of its mention."""
    by_kind: dict[EventKind, list[int]] = {kind: [] for kind in KIND_ORDER}
    for index, mention in enumerate(mentions):
        by_kind[mention.kind].append(index)
    matches: dict[int, int] = {}
    for kind, columns in by_kind.items():
        rows = [index for index, event in enumerate(events) if event.kind == kind]
        worth = [[_worth(events[row], mentions[column]) for column in columns] for row in rows]
        for row, column in best_assignment(worth).items():
            matches[rows[row]] = columns[column]
    return matches


def _repeated(events: Sequence[Event], mentions: Sequence[Mention], extra: Sequence[int]) -> tuple[str, ...]:
    """Extra mentions that are right for an event (which then has another mention), or the same as an earlier one."""
    first_told: dict[tuple[str, ...], int] = {}
    for index, mention in enumerate(mentions):
        first_told.setdefault(mention.key, index)
    return tuple(
        mentions[index].describe()
        for index in extra
        if first_told[mentions[index].key] < index or any(_worth(event, mentions[index]) >= _RIGHT for event in events)
    )


def _order(
    events: Sequence[Event], mentions: Sequence[Mention], matches: dict[int, int]
) -> tuple[int, tuple[str, ...]]:
    # Sorted by the script's beat within a told beat: what is told as simultaneous has no order of its own.
    told = sorted(matches, key=lambda event: (mentions[matches[event]].beat, events[event].beat))
    kept = set(longest_ordered([events[index].beat for index in told]))
    moved = [index for place, index in enumerate(told) if place not in kept]
    return len(moved), tuple(f"{describe(events[index])}: told out of order" for index in moved)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Binding:
    notes: tuple[str, ...]
    pairs: int
    told: int


def _binding(events: Sequence[Event], mentions: Sequence[Mention], matches: dict[int, int]) -> _Binding:
    notes: list[str] = []
    pairs = told = 0
    bound = [index for index, event in enumerate(events) if event.kind != "scene"]
    for place, first in enumerate(bound):
        for second in bound[place + 1 :]:
            at_once = events[first].beat == events[second].beat
            pairs += at_once
            if first not in matches or second not in matches:
                continue
            told_at_once = mentions[matches[first]].beat == mentions[matches[second]].beat
            told += at_once and told_at_once
            if at_once != told_at_once:
                how = "told apart, but happen at once" if at_once else "told as simultaneous, but are not"
                notes.append(f"{describe(events[first])} and {describe(events[second])}: {how}")
    return _Binding(notes=tuple(notes), pairs=pairs, told=told)


def _align_dialogue(events: Sequence[Event], mentions: Sequence[Mention]) -> list[UtterancePair]:
    """The order-preserving alignment of fewest word errors, of equal ones that of most right speakers."""
    said = [event for event in events if event.kind == "speech"]
    told = [mention for mention in mentions if mention.kind == "speech"]
    lengths = [len(_words(event.utterance)) for event in said]
    # cost[i][j] of the utterances from i and the mentions from j: (word errors, -right speakers)
    cost = [[(sum(lengths[i:]), 0)] * (len(told) + 1) for i in range(len(said) + 1)]
    errors = [[_word_errors(event.utterance, mention.utterance) for mention in told] for event in said]

    def paired(i: int, j: int) -> tuple[int, int] | None:
        if errors[i][j] >= lengths[i]:  # no word in common is worth an alignment
            return None
        after = cost[i + 1][j + 1]
        return after[0] + errors[i][j], after[1] - (said[i].speaker == told[j].speaker)

    for i in range(len(said) - 1, -1, -1):
        for j in range(len(told) - 1, -1, -1):
            skipped = (cost[i + 1][j][0] + lengths[i], cost[i + 1][j][1])
            cost[i][j] = min(skipped, cost[i][j + 1], paired(i, j) or skipped)
    pairs = []
    j = 0
    for i, event in enumerate(said):
        while j < len(told) and cost[i][j] == cost[i][j + 1] and paired(i, j) != cost[i][j]:
            j += 1
        match = told[j] if j < len(told) and paired(i, j) == cost[i][j] else None
        pairs.append(
            UtterancePair(
                speaker=event.speaker,
                text=event.utterance,
                told_speaker=match.speaker if match else None,
                told_text=match.utterance if match else None,
                word_errors=errors[i][j] if match else lengths[i],
            )
        )
        j += match is not None
    return pairs


def _by_kind(
    events: Sequence[Event],
    mentions: Sequence[Mention],
    missed: Sequence[int],
    wrong: set[int],
    extra: Sequence[int],
) -> dict[EventKind, KindCounts]:
    return {
        kind: KindCounts(
            num_events=sum(event.kind == kind for event in events),
            missed=sum(events[index].kind == kind for index in missed),
            incorrect=sum(events[index].kind == kind for index in wrong),
            hallucinated=sum(mentions[index].kind == kind for index in extra),
        )
        for kind in KIND_ORDER
    }
