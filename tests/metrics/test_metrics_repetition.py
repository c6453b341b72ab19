"""Repetition rate: words in phrases that return / all words, counted by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avocet.metrics import repetition_rate
from avocet.metrics.repetition import phrases


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        (" ... !", 0.0),
        ("A bell rings.", 0.0),
        ("A bell rings. A bell rings, then silence.", 6 / 8),  # "a bell rings" twice (3 + 3), "then silence" once (2)
        ("No, no. NO!", 1.0),
        ("a  bell\nrings; A BELL RINGS", 1.0),
        ("the end", 0.0),
        ("a b c, a b, a b", 4 / 7),  # "a b c" is another phrase
        ('He says, "Stop." He says, "Go."', 4 / 6),  # quotation marks split: he says x 2, stop, go
        ("don't, don't, can't", 2 / 3),
        ("well-known; well-known; known", 2 / 3),
        ("It is 3.5, 3.5 or 5", 0.0),  # "it is 3.5", "3.5 or 5"
        ("鐘が鳴る。鐘が鳴る。", 1.0),
        ("« oui » — oui — non", 2 / 3),
        ("Straße! STRASSE!", 1.0),
        ("x|y", 0.0),  # a symbol, not punctuation
    ],
)
def test_by_hand(text: str, expected: float) -> None:
    assert repetition_rate(text) == pytest.approx(expected)


def test_phrases() -> None:
    assert phrases("First,  a Bell\nrings... “Ben's 3.5” — 'well-known'!") == [
        *("first", "a bell rings", "ben's 3.5", "well-known")
    ]


@given(st.text())
def test_any_text_has_a_rate(text: str) -> None:
    assert 0 <= repetition_rate(text) <= 1


@given(st.text(alphabet="abc ,.", max_size=30))
def test_a_text_said_twice_is_all_repetition(text: str) -> None:
    assert repetition_rate(f"{text}. {text}") == (1.0 if phrases(text) else 0.0)
