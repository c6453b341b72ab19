"""Letters and words as answers of data sets, and replies that agree with them or not."""

from __future__ import annotations

import pytest

from avocet.judging.answers import agrees, answer_letter, normalised_answer


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" (C) ", "C"),
        ("D.", "D"),
        ("A: a cat", "A"),
        ("A man", None),
        ("a", None),  # data sets write letters as capitals; this is a word
        ("K", None),
        ("STOP", None),
        ("", None),
    ],
)
def test_letter_of_an_answer(answer: str, letter: str | None) -> None:
    assert answer_letter(answer) == letter


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("B", "B", True),
        ("The answer is (B).", "B. a cat", True),
        ("b)", "B", True),
        ("A", "B", False),
        ("A or B", "B", False),
        ("a cat", "B. a cat", False),  # asked for a letter
        ("", "B", False),
        ("A red  star.", "the red star", True),
        ("“Stop”", "STOP", True),
        ("a blue star", "a red star", False),
        ("It is a red star", "a red star", False),
        ("", "the", False),
        ("The", "the", True),
        ("Ｓtop", "stop", True),  # full-width
    ],
)
def test_agreement(reply: str, answer: str, right: bool) -> None:
    assert agrees(reply, answer) is right


def test_an_answer_of_articles_alone_is_kept() -> None:
    assert normalised_answer("The A") == "the a"
