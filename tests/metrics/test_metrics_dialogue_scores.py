"""Dialogue scores against numbers worked out by hand, and the sides that are empty."""

from __future__ import annotations

import dataclasses

import pytest

from avocet.errors import ConfigError, RecordError
from avocet.metrics import Utterance, align_dialogue
from avocet.metrics.dialogue_scores import DialogueScores, dialogue_scores, scores_of_alignment
from avocet.rewards import dialogue_reward


def said(*texts: str) -> list[Utterance]:
    return [Utterance(speaker="someone", text=text) for text in texts]


def test_by_hand() -> None:
    # "abcd" = "abcd" (1.0), "hello" and "hellp" (1 - 1/5 = 0.8), one right speaker: S = (1.8 + 1) / 2 = 1.4.
    generated, reference = said("abcd", "zzz", "hello"), said("abcd", "hellp")
    asked: list[tuple[int, int]] = []

    def same(i: int, j: int) -> bool:
        asked.append((i, j))
        return (i, j) == (0, 0)

    scores = dialogue_scores(generated, reference, same)
    assert asked == [(0, 0), (2, 1)]
    assert (scores.num_generated, scores.num_reference, scores.num_pairs, scores.num_same_speaker) == (3, 2, 2, 1)
    assert scores.similarity_sum == pytest.approx(1.8)
    assert scores.precision == pytest.approx(1.4 / 3)
    assert scores.recall == pytest.approx(0.7)
    assert scores.f1 == pytest.approx(0.56)  # 2 * 1.4 / 5
    assert scores.speaker_accuracy == 0.5
    assert DialogueScores.from_json(scores.to_json_line()) == scores
    assert dialogue_reward(generated, reference, same).value == pytest.approx(scores.f1)


def test_verbatim_with_and_without_the_right_speaker() -> None:
    both = said("one two", "three four")
    assert dialogue_scores(both, both, lambda i, j: True).f1 == 1.0
    # Words alone are half of it: S = (2 + 0) / 2 = 1 of 2.
    assert dialogue_scores(both, both, lambda i, j: False).f1 == 0.5


@pytest.mark.parametrize(
    ("generated", "reference", "expected"),
    [((), (), 1.0), (("a",), (), 0.0), ((), ("a",), 0.0), (("abc",), ("xyz",), 0.0)],
)
def test_nothing_to_align(generated: tuple[str, ...], reference: tuple[str, ...], expected: float) -> None:
    scores = dialogue_scores(said(*generated), said(*reference), lambda i, j: pytest.fail("nobody to compare"))
    assert (scores.precision, scores.recall, scores.f1) == (expected,) * 3
    assert scores.speaker_accuracy is None


def test_the_threshold_is_passed_on() -> None:
    # Three edits of seven letters: 4/7.
    assert dialogue_scores(said("kitten"), said("sitting"), lambda i, j: True).num_pairs == 0
    scores = dialogue_scores(said("kitten"), said("sitting"), lambda i, j: True, threshold=0.5)
    assert scores.f1 == pytest.approx((4 / 7 + 1) / 2)
    with pytest.raises(ConfigError, match=r"threshold must be in \[0, 1\]"):
        dialogue_scores([], [], lambda i, j: True, threshold=2)


def test_speakers_compared_elsewhere() -> None:
    generated, reference = said("a b c", "d e f"), said("a b c")
    alignment = align_dialogue(generated, reference)
    assert scores_of_alignment(alignment, 2, 1, 1).f1 == pytest.approx(2 / 3)  # P = 1/2, R = 1
    with pytest.raises(ConfigError, match="num_same_speaker must be from 0 to 1, got 2"):
        scores_of_alignment(alignment, 2, 1, 2)


def test_records_that_contradict_themselves() -> None:
    good = dialogue_scores(said("a b c", "d e f"), said("a b c"), lambda i, j: True)
    with pytest.raises(RecordError, match="precision, recall and f1 must be"):
        dataclasses.replace(good, f1=0.9)
    with pytest.raises(RecordError, match="counts must be 0 <= num_same_speaker <= num_pairs"):
        dataclasses.replace(good, num_same_speaker=2)
    with pytest.raises(RecordError, match=r"similarity_sum must be from 0 to 1, got 1\.5"):
        dataclasses.replace(good, similarity_sum=1.5)
