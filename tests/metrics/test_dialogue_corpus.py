"""Dialogue F1 over clips, by hand."""

from __future__ import annotations

import math

import pytest

from avocet.metrics import DialogueAlignment, DialogueScores, corpus_dialogue, scores_of_alignment


def scores(num_generated: int, num_reference: int, similarities: list[float], num_same: int) -> DialogueScores:
    pairs = [(index, index, value) for index, value in enumerate(similarities)]
    alignment = DialogueAlignment(pairs=pairs, similarity_sum=sum(similarities))
    return scores_of_alignment(alignment, num_generated, num_reference, num_same)


def test_by_hand() -> None:
    first = scores(3, 2, [1.0, 0.8], 1)  # S = (1.8 + 1) / 2 = 1.4; F1 = 2.8 / 5
    second = scores(1, 4, [0.6], 1)  # S = 0.8; F1 = 1.6 / 5
    only_one_side = scores(2, 0, [], 0)  # F1 = 0
    result = corpus_dialogue([first, None, second, scores(0, 0, [], 0), only_one_side])
    assert result.precision.rate == pytest.approx(2.2 / 6)
    assert result.recall.rate == pytest.approx(2.2 / 6)
    assert result.f1.rate == pytest.approx(4.4 / 12)
    assert result.content_f1.rate == pytest.approx(4.8 / 12)
    assert result.speaker_accuracy.rate == pytest.approx(2 / 3)
    assert (result.num_generated, result.num_reference, result.num_pairs) == (6, 6, 3)
    assert (result.num_clips, result.num_clips_without_dialogue, result.num_unscored) == (4, 1, 1)
    assert (result.mean_f1.mean, result.mean_f1.num_values) == (pytest.approx((0.56 + 0.32 + 0) / 3), 3)
    # R = 11/30; residuals 2.8 - 55/30, 1.6 - 55/30, 0 - 22/30; sqrt(3/2 * sum of squares) / 12.
    residuals = [2.8 - 55 / 30, 1.6 - 55 / 30, -22 / 30]
    assert result.f1.standard_error == pytest.approx(math.sqrt(1.5 * sum(value**2 for value in residuals)) / 12)


def test_one_clip_is_its_own_score() -> None:
    clip = scores(3, 2, [1.0, 0.8], 1)
    result = corpus_dialogue([clip])
    assert (result.precision.rate, result.recall.rate, result.f1.rate) == pytest.approx(
        (clip.precision, clip.recall, clip.f1)
    )
    assert result.mean_f1.mean == clip.f1
    assert math.isnan(result.f1.standard_error)
    assert result.speaker_accuracy.rate == clip.speaker_accuracy


def test_nobody_speaks() -> None:
    result = corpus_dialogue([scores(0, 0, [], 0)] * 3)
    assert (result.num_clips, result.num_clips_without_dialogue) == (3, 3)
    for pooled in (result.precision, result.recall, result.f1, result.content_f1, result.speaker_accuracy):
        assert math.isnan(pooled.rate)
    assert math.isnan(result.mean_f1.mean)
    assert corpus_dialogue([]).num_clips == 0


def test_dialogue_on_one_side_only_costs() -> None:
    said_nothing = corpus_dialogue([scores(0, 5, [], 0)])
    assert (said_nothing.recall.rate, said_nothing.f1.rate, said_nothing.mean_f1.mean) == (0.0, 0.0, 0.0)
    assert math.isnan(said_nothing.precision.rate)
