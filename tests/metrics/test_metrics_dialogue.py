"""Dialogue alignment against similarities and sums worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avocet.errors import ConfigError
from avocet.metrics import Utterance, align_dialogue, utterance_similarity


def said(*texts: str) -> list[Utterance]:
    return [Utterance(speaker="someone", text=text) for text in texts]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("kitten", "sitting", 4 / 7),  # three edits, longer text of seven
        ("Ben lost five keys.", "ben LOST five keys.", 1.0),
        ("“Stop!”", ' "stop!" ', 1.0),
        ("'don't'", "don't", 1.0),  # only the outer marks go
        ("ＡＢＣ", "abc", 1.0),  # full-width letters are NFKC-equal to plain ones
        ("ﬁne", "fine", 1.0),
        ("", "", 1.0),
        ('""', "a", 0.0),
        ("abc", "xyz", 0.0),
    ],
)
def test_similarity(first: str, second: str, expected: float) -> None:
    assert utterance_similarity(first, second) == pytest.approx(expected)
    assert utterance_similarity(second, first) == pytest.approx(expected)


def test_pairs_need_the_threshold() -> None:
    assert align_dialogue(said("kitten"), said("sitting")).pairs == []
    pairs = align_dialogue(said("kitten"), said("sitting"), threshold=0.5).pairs
    assert pairs == [(0, 0, pytest.approx(4 / 7))]
    # three of five letters: exactly 0.6 is enough
    assert align_dialogue(said("abcde"), said("abcxy")).pairs == [(0, 0, pytest.approx(0.6))]
    assert align_dialogue(said("abcde"), said("abxyz")).pairs == []


def test_order_is_kept() -> None:
    crossed = align_dialogue(said("first words", "second thing"), said("second thing", "first words"))
    assert crossed.pairs == [(0, 1, 1.0)]  # of the two equally good single pairs the one of the earlier utterance
    assert crossed.similarity_sum == 1.0


def test_the_sum_counts_not_the_best_single_pair() -> None:
    # g0~r0 8/10, g0~r1 1, g1~r1 9/10: pairing g0 with its twin r1 would leave g1 alone (1.0 < 1.7)
    generated = said("abcdefghij", "abcdefghiX")
    reference = said("abcdefghYZ", "abcdefghij")
    result = align_dialogue(generated, reference)
    assert [(i, j) for i, j, _ in result.pairs] == [(0, 0), (1, 1)]
    assert result.similarity_sum == pytest.approx(1.7)


def test_extra_utterances_stay_alone() -> None:
    result = align_dialogue(said("hello there", "noise", "good bye"), said("hello there", "good bye"))
    assert [(i, j) for i, j, _ in result.pairs] == [(0, 0), (2, 1)]
    assert align_dialogue([], said("hello")).pairs == []
    assert align_dialogue(said("hello"), []).similarity_sum == 0


def test_ties_go_to_the_earliest() -> None:
    assert [(i, j) for i, j, _ in align_dialogue(said("yes"), said("yes", "yes")).pairs] == [(0, 0)]
    assert [(i, j) for i, j, _ in align_dialogue(said("yes", "yes"), said("yes")).pairs] == [(0, 0)]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_wrong_threshold(threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"threshold must be in \[0, 1\]"):
        align_dialogue([], [], threshold=threshold)


texts = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=4)


@settings(max_examples=100, deadline=None)
@given(texts, texts)
def test_equals_exhaustive_search(first: list[str], second: list[str]) -> None:
    result = align_dialogue(said(*first), said(*second))
    best = 0.0
    for size in range(1, min(len(first), len(second)) + 1):
        for rows in itertools.combinations(range(len(first)), size):
            for columns in itertools.combinations(range(len(second)), size):
                values = [utterance_similarity(first[i], second[j]) for i, j in zip(rows, columns, strict=True)]
                if min(values) >= 0.6:
                    best = max(best, sum(values))
    assert result.similarity_sum == pytest.approx(best)
    assert result.pairs == sorted(result.pairs)
