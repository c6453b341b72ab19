"""Questions about scripts: well formed, deterministic, and with exactly one right option."""

from __future__ import annotations

import collections

import pytest

from avocet.errors import RecordError
from avocet.theatre import make_script, world
from avocet.theatre._phrases import MOTION_PHRASES, clauses, with_article
from avocet.theatre.questions import LETTERS, Question, make_questions, open_questions
from avocet.theatre.script import Script


def right_options(script: Script, question: Question) -> set[str]:
    """The options that the script makes true, found without the generator's help."""
    events = script.events
    if question.kind == "colour":
        subject = question.question.removeprefix("What colour is the ").removesuffix("?")
        return {
            e.colour
            for e in events
            if e.kind == "visual" and f"{e.shape} that {MOTION_PHRASES[e.motion][0]}" == subject
        }
    if question.kind == "motion":
        subject = question.question.removeprefix("What does the ").removesuffix(" do?")
        return {f"it {MOTION_PHRASES[e.motion][0]}" for e in events if f"{e.colour} {e.shape}" == subject}
    if question.kind == "speaker":
        return {with_article(e.speaker) for e in events if e.utterance and f'"{e.utterance}."' in question.question}
    if question.kind == "word":
        return {word for e in events for word in e.utterance.split()}
    if question.kind in ("sound", "screen", "scene"):
        names = {"sound": "sound", "screen": "word", "scene": "scene"}
        values = [getattr(e, names[question.kind]) for e in events]
        return {value if question.kind == "screen" else with_article(value) for value in values if value}
    told = [e for e in events if e.kind != "scene"]
    if question.kind == "order":
        beat = min(e.beat for e in told) if "first" in question.question else max(e.beat for e in told)
        return {clauses(e)[0] for e in told if e.beat == beat}
    asked = question.question.split(" while ", 1)[1].removesuffix("?")
    beat = next(e.beat for e in told if clauses(e)[0] == asked)
    return {clauses(e)[0] for e in told if e.beat == beat and clauses(e)[0] != asked}


@pytest.mark.parametrize("level", [1, 2])
def test_exactly_one_option_is_right(level: int) -> None:
    kinds: collections.Counter[str] = collections.Counter()
    answers: collections.Counter[int] = collections.Counter()
    for seed in range(300):
        script = make_script(seed, level)
        for question in make_questions(script, seed):
            right = right_options(script, question)
            assert [option in right for option in question.options].count(True) == 1, question
            assert question.options[question.answer] in right
            kinds[question.kind] += 1
            answers[question.answer] += 1
    expected = {"colour", "motion", "sound", "speaker", "word", "screen", "order", "while"} | (
        {"scene"} if level == 2 else set()
    )
    assert set(kinds) == expected
    assert min(kinds.values()) > 50
    assert max(answers.values()) < 1.2 * min(answers.values())


@pytest.mark.parametrize("level", [1, 2])
def test_open_questions_have_one_answer_without_options(level: int) -> None:
    kinds: collections.Counter[str] = collections.Counter()
    for seed in range(300):
        script = make_script(seed, level)
        asked = open_questions(script, seed)
        assert len({question.question for question in asked}) == len(asked)
        for question in asked:
            assert right_options(script, question) == {question.right_option}, question
            kinds[question.kind] += 1
    expected = {"colour", "motion", "sound", "speaker", "screen"} | ({"scene"} if level == 2 else set())
    assert set(kinds) == expected
    assert min(kinds.values()) > 50


def test_same_seed_same_questions() -> None:
    script = make_script(3, 2)
    assert make_questions(script, 1) == make_questions(script, 1)
    assert make_questions(script, 1) != make_questions(script, 2)


def test_text_and_letter() -> None:
    question = Question(
        question="What is heard?", options=("a bell", "rain", 'a man says, "Hi."', "waves"), answer=2, kind="sound"
    )
    assert question.text == 'What is heard? A: a bell. B: rain. C: a man says, "Hi." D: waves.'
    assert question.letter == LETTERS[2] == "C"
    assert Question.from_json(question.to_json_line()) == question


def test_options_of_level_1_stay_in_level_1() -> None:
    later = set(world.SOUNDS) - set(world.level_part(world.SOUNDS, 1))
    for seed in range(100):
        for question in make_questions(make_script(seed, 1), seed):
            if question.kind == "sound":
                assert not later & {option.split()[-1] for option in question.options}


def test_malformed_questions_are_refused() -> None:
    with pytest.raises(RecordError, match="needs 4 different options"):
        Question(question="?", options=("a", "a", "b", "c"), answer=0, kind="sound")
    with pytest.raises(RecordError, match="needs 4 different options"):
        Question(question="?", options=("a", "b", "c", "d"), answer=4, kind="sound")
