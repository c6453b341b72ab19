"""Questions about theatre scripts with four options, one of them right beyond doubt.

Distractors never happen in the script, or (for questions of order and simultaneity) happen at another time.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from avocet.errors import RecordError
from avocet.records import Record
from avocet.theatre import world
from avocet.theatre._phrases import MOTION_PHRASES, clauses, with_article
from avocet.theatre.script import Event, Script

QuestionKind = Literal["colour", "motion", "sound", "speaker", "word", "screen", "scene", "order", "while"]
LETTERS = ("A", "B", "C", "D")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question(Record):
    """A question with four different options."""

    question: str
    options: tuple[str, str, str, str]
    answer: int
    """Index of the right option."""
    kind: QuestionKind

    def __post_init__(self) -> None:
        if not (0 <= self.answer < 4 and len(set(self.options)) == 4 and self.kind in get_args(QuestionKind)):
            raise RecordError(
                f"Question {self.question!r} needs 4 different options, an answer in 0..3 and a known kind, got "
                f"{self.options}, {self.answer}, {self.kind!r}"
            )

    @property
    def text(self) -> str:
        """The question with its lettered options, as it stands in an instruction."""
        marked = (f"{mark}: {option}" for mark, option in zip(LETTERS, self.options, strict=True))
        return " ".join([self.question, *(text if text.endswith('"') else f"{text}." for text in marked)])

    @property
    def right_option(self) -> str:
        """The right answer in words."""
        return self.options[self.answer]

    @property
    def letter(self) -> str:
        """The right answer as a letter."""
        return LETTERS[self.answer]


def make_questions(script: Script, seed: int = 0) -> list[Question]:
    """Every question that the script answers without ambiguity, in a fixed order of kinds.

    `seed` draws the distractors and the place of the right option. A script may give no question of some kinds.
    """
    rng = random.Random(f"avocet questions {seed} about {script.id}")
    found = itertools.chain(
        _about_actors(script, rng),
        _about_single_words(script, rng),
        _about_speech(script, rng),
        _about_order(script, rng),
        _about_simultaneity(script, rng),
    )
    return [question for question in found if question is not None]


def open_questions(script: Script, seed: int = 0) -> list[Question]:
    """Those of `make_questions` that have exactly one answer even when no options are given."""
    questions = make_questions(script, seed)
    counts = Counter(question.kind for question in questions)
    alone = {kind for kind in ("sound", "screen", "scene") if counts[kind] == 1}
    return [question for question in questions if question.kind in {"colour", "motion", "speaker", *alone}]


def question_vocabulary() -> list[str]:
    """Texts that hold every word and mark of the questions and their options (see `language.vocabulary_text`)."""
    plain = [f"it {form[0]}." for form in MOTION_PHRASES.values()]
    plain += [", ".join(words) for words in (world.COLOURS, world.SHAPES, world.SOUNDS, world.SCREEN_WORDS)]
    plain += [with_article(word) for word in (*world.SPEAKERS, *world.SCENES, *world.SOUNDS)]
    return [
        *plain,
        "What colour is the that ?",
        "What does the do?",
        "Which sound is heard?",
        "Which word is on the screen?",
        "Where is the scene?",
        'Who says, "?"',
        "Which word is said?",
        "What happens first? What happens last?",
        "What is seen while ? What is heard while ?",
        "A: B: C: D:",
    ]


def _question(
    rng: random.Random, kind: QuestionKind, question: str, right: str, wrong: Sequence[str]
) -> Question | None:
    """None when there are not three distractors."""
    candidates = list(dict.fromkeys(option for option in wrong if option != right))
    if len(candidates) < 3:
        return None
    options = [right, *rng.sample(candidates, 3)]
    rng.shuffle(options)
    first, second, third, fourth = options
    return Question(question=question, options=(first, second, third, fourth), answer=options.index(right), kind=kind)


def _of_kind(script: Script, *kinds: str) -> list[Event]:
    return [event for event in script.events if event.kind in kinds]


def _about_actors(script: Script, rng: random.Random) -> Iterator[Question | None]:
    actors = _of_kind(script, "visual")
    for actor in actors:
        if sum((other.shape, other.motion) == (actor.shape, actor.motion) for other in actors) == 1:
            question = f"What colour is the {actor.shape} that {MOTION_PHRASES[actor.motion][0]}?"
            yield _question(rng, "colour", question, actor.colour, tuple(world.COLOURS))
        if sum((other.colour, other.shape) == (actor.colour, actor.shape) for other in actors) == 1:
            question = f"What does the {actor.colour} {actor.shape} do?"
            motions = [forms[0] for forms in MOTION_PHRASES.values()]
            yield _question(
                rng, "motion", question, f"it {MOTION_PHRASES[actor.motion][0]}", [f"it {m}" for m in motions]
            )


def _about_single_words(script: Script, rng: random.Random) -> Iterator[Question | None]:
    """One option happens in the script, the other three never do."""
    sounds = [event.sound for event in _of_kind(script, "sound")]
    words = [event.word for event in _of_kind(script, "text")]
    scenes = [event.scene for event in _of_kind(script, "scene")]
    for sound in dict.fromkeys(sounds):
        others = [with_article(other) for other in world.level_part(world.SOUNDS, script.level) if other not in sounds]
        yield _question(rng, "sound", "Which sound is heard?", with_article(sound), others)
    for word in dict.fromkeys(words):
        others = [other for other in world.level_part(world.SCREEN_WORDS, script.level) if other not in words]
        yield _question(rng, "screen", "Which word is on the screen?", word, others)
    for scene in dict.fromkeys(scenes):
        others = [with_article(other) for other in world.SCENES if other not in scenes]
        yield _question(rng, "scene", "Where is the scene?", with_article(scene), others)


def _about_speech(script: Script, rng: random.Random) -> Iterator[Question | None]:
    utterances = _of_kind(script, "speech")
    spoken = {word.casefold() for event in utterances for word in event.utterance.split()}
    for event in utterances:
        if sum(other.utterance == event.utterance for other in utterances) == 1:
            speakers = [with_article(other) for other in world.level_part(world.SPEAKERS, script.level)]
            yield _question(rng, "speaker", f'Who says, "{event.utterance}."?', with_article(event.speaker), speakers)
        slots = [world.level_part(words, script.level) for words in world.SLOTS.values()]
        said = event.utterance.split()
        asked = [(word, words) for word in said for words in slots if word in words]
        if asked:
            word, words = rng.choice(asked)
            silent = [other for other in words if other.casefold() not in spoken]
            yield _question(rng, "word", "Which word is said?", word, silent)


def _about_order(script: Script, rng: random.Random) -> Iterator[Question | None]:
    """What happens in the first (or last) beat; scenes last too long to have a place in the order."""
    events = [event for event in script.events if event.kind != "scene"]
    for position, beat in (("first", min), ("last", max)):
        numbers = [event.beat for event in events]
        if len(set(numbers)) < 2:
            continue
        right = [event for event in events if event.beat == beat(numbers)]
        wrong = [_option(event) for event in events if event.beat != beat(numbers)]
        wrong += _never(script, rng, events)
        yield _question(rng, "order", f"What happens {position}?", _option(rng.choice(right)), wrong[:3])


def _about_simultaneity(script: Script, rng: random.Random) -> Iterator[Question | None]:
    for beat in script.beats():
        seen = [event for event in beat if event.kind in ("visual", "text")]
        heard = [event for event in beat if event.kind in ("sound", "speech")]
        if not (seen and heard):
            continue
        for asked, answers, verb in ((seen, heard, "heard"), (heard, seen, "seen")):
            right = rng.choice(answers)
            same_stream = _of_kind(script, *(("sound", "speech") if verb == "heard" else ("visual", "text")))
            wrong = [_option(event) for event in same_stream if event.beat != right.beat]
            wrong += _never(script, rng, [right])
            yield _question(rng, "while", f"What is {verb} while {_option(asked[0])}?", _option(right), wrong[:3])


def _option(event: Event) -> str:
    return clauses(event)[0]


def _never(script: Script, rng: random.Random, like: Sequence[Event]) -> list[str]:
    """Three things of the same kinds as `like` that do not happen in the script."""
    happens = {event.key for event in script.events}
    found: dict[str, None] = {}
    while len(found) < 3:
        event = rng.choice(like)
        if event.kind == "visual":
            colour, motion = rng.choice(tuple(world.COLOURS)), rng.choice(world.MOTIONS)
            other = dataclasses.replace(event, colour=colour, motion=motion)
        elif event.kind == "text":
            other = dataclasses.replace(event, word=rng.choice(world.level_part(world.SCREEN_WORDS, script.level)))
        elif event.kind == "sound":
            other = dataclasses.replace(event, sound=rng.choice(world.level_part(world.SOUNDS, script.level)))
        else:
            name, thing = (rng.choice(world.level_part(slot, script.level)) for slot in (world.NAMES, world.THINGS))
            other = dataclasses.replace(event, utterance=f"{name} wants two {thing}")
        if other.key not in happens:
            found.setdefault(_option(other))
    return list(found)
