"""Which letter a free reply takes: every accepted form, and everything that is no certain answer."""

from __future__ import annotations

import contextlib
import time

import pytest

from avocet.judging.errors import ParseError
from avocet.judging.letters import read_letter


@pytest.mark.parametrize(
    "text",
    [
        *("B", "B.", "(B)", "b", "(b)", "[B]", "**B**", '"B"', "' B '", "Ｂ．", "（B）", "Option B", "Final answer: B"),
        *("B. some choice text", "B) text", "(B) text", "B: text", "**B. A cat**", "B. A man and a woman"),
        *("The answer is B", "The answer is B.", "Answer: (b)", "Answer:B", "**Answer:** B", "The answer is option B."),
        *("The correct option is B.", "B is correct.", "The best answer is: B) the cat", "Answer: B) a cat"),
        *("The correct answer is (B) because A is wrong.", "B, because A is wrong.", "The answer is B - a cat."),
        *("\\boxed{B}", "The answer is $\\boxed{\\text{B}}$.", "<answer>B</answer>", "<think>A. Or C?</think>B"),
        *("A. dog\nB. cat\nC. bird\nAnswer: B", "A. dog\nB. cat\n\nB", "B\n\nA man walks in.", "Let me see.\nB. A cat"),
        *("It is not A. The answer is B.", "I am not sure, but the answer is B.", "Answer: B. The A is first"),
    ],
)
def test_answers(text: str) -> None:
    assert read_letter(text, "ABCD") == "B"


@pytest.mark.parametrize("letter", "ABCDI")
@pytest.mark.parametrize(
    ("form", "is_answer"),
    [
        *((form, True) for form in ("{}", "({}) dog", "{}. dog", "The answer is {}.", "Answer: {}, since it barks")),
        *((form, False) for form in ("{} dog runs", "The answer is {} dog", "{}dog", "I think {} dog")),
    ],
)
def test_no_letter_is_treated_better_than_another(letter: str, form: str, is_answer: bool) -> None:
    # "A" and "I" are words of their own; a reader that looked away from that would prefer (or refuse) them.
    if is_answer:
        assert read_letter(form.format(letter), "ABCDI") == letter
    else:
        with pytest.raises(ParseError, match="names none for certain"):
            read_letter(form.format(letter), "ABCDI")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        *((text, "names none") for text in ("", "A or B", "A dog runs", "A/B", "A & B", "A, B, C", "B?", "AB", "1")),
        *((text, "names none") for text in ("The answer is a dog.", "The answer is A dog", "N/A", "A.M. is when")),
        *((text, "names none") for text in ("The answer is not B.", "Is the answer B?", "If the answer is B, then")),
        *((text, "names none") for text in ("I don't think the answer is B.", "Option B is wrong.", "Both A and B")),
        *((text, "names A and B") for text in ("(A) or (B)", "(a) and (b)", "A. or B.", "Answer: A, B", "A\nB")),
        *((text, "names A and B") for text in ("The answer is A or B", "Answer: A and maybe B", "A. dog\nB. cat")),
        ("The answer is A. No, the answer is B.", "names A and B"),
        ("B. cat. The answer is C.", "names B and C"),
        ("E", "names E"),
        ("The answer is E.", "names E"),
        ("First this.\nA. Then that.\nDone.", "names none"),
    ],
)
def test_no_certain_answer(text: str, problem: str) -> None:
    with pytest.raises(ParseError, match=rf"the letter of one choice \(A, B, C, D\), but it {problem}"):
        read_letter(text, "ABCD")


@pytest.mark.parametrize(
    "text",
    [
        *("answer: " * 20_000, "(A" * 50_000, "A. " * 30_000, " " * 100_000 + "B", "'" * 100_000, "\n" * 100_000),
        *("the answer is A, " * 10_000, "\\boxed{" * 30_000, "<answer>" + " " * 100_000, "answer is not " * 20_000),
    ],
)
def test_long_replies_take_no_time(text: str) -> None:
    start = time.monotonic()
    with contextlib.suppress(ParseError):
        read_letter(text, "ABCD")
    assert time.monotonic() - start < 2
