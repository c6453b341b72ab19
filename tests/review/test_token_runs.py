"""Runs, readings and distances of token plans, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from avocet.models.layout import TokenPlan, salmonn2_paper
from avocet.models.salmonn2 import build_word_tokenizer
from avocet.models.tmrope import TimeAxis, tmrope
from avocet.review.token_runs import (
    largest_position_distance,
    largest_reading_gap,
    positions_per_second,
    prompt_pieces,
    readings,
    token_runs,
)

AXIS = TimeAxis(order="chunks", positions_per_second=25, assumed_grid_seconds=1.0)


def two_second_patches(*, assumed: bool) -> TokenPlan:
    """Patches of 2 tokens at 0, 2 and 4 s, and 6 s of sound (150 tokens)."""
    return tmrope(AXIS, np.array([0.0, 2.0, 4.0]), 1, 2, 150, 6.0, assumed=assumed)


def test_runs_follow_the_order_of_reading() -> None:
    """2 frames of 4 tokens and 5 audio tokens of 0.2 s: alpha = 0, 3, 5."""
    runs = token_runs(salmonn2_paper(np.array([0.0, 0.5]), 4, 5, 0.2, 1.0))
    assert [(run.name, run.first, run.count) for run in runs] == [
        ("visual", 0, 4),
        ("audio", 4, 3),
        ("visual", 7, 4),
        ("audio", 11, 2),
    ]
    assert [(run.start_seconds, round(run.end_seconds, 9)) for run in runs] == [
        (0.0, 0.5),
        (0.0, 0.6),
        (0.5, 1.0),
        (pytest.approx(0.6), 1.0),
    ]
    assert all(run.positions == () for run in runs)


def test_runs_have_the_range_of_their_positions() -> None:
    runs = token_runs(two_second_patches(assumed=False))
    # chunk 1 (2 to 4 s): the patch stands at position 50, its two tokens side by side; the sound is at 50 to 99
    assert (runs[2].name, runs[2].positions) == ("visual", ((50, 50), (0, 0), (0, 1)))
    assert (runs[3].name, runs[3].positions) == ("audio", ((50, 99), (50, 99), (50, 99)))


def test_patches_of_one_chunk_are_runs_of_their_own_and_read_together() -> None:
    """Patches at 0, 1, 2 s: the first two share the chunk of 0 to 2 s with 50 audio tokens."""
    runs = token_runs(tmrope(AXIS, np.array([0.0, 1.0, 2.0]), 1, 2, 75, 3.0))
    assert [(run.name, run.count) for run in runs] == [
        ("visual", 2),
        ("visual", 2),
        ("audio", 50),
        ("visual", 2),
        ("audio", 25),
    ]
    assert [(len(reading.visual), len(reading.audio)) for reading in readings(runs)] == [(2, 1), (1, 1)]


def test_sound_shorter_than_the_picture_is_read_beside_later_frames() -> None:
    """4 frames 1 s apart, 1 s of sound (5 tokens): alpha = 0, 1, 3, 4, 5, so token 4 (0.8 s) follows frame 3."""
    gap = largest_reading_gap(token_runs(salmonn2_paper(np.arange(4.0), 1, 5, 0.2, 4.0)))
    assert gap is not None
    assert (gap.value, gap.at_seconds) == (pytest.approx(2.2), 3.0)


def test_one_stream_alone_has_no_distances() -> None:
    silent = tmrope(AXIS, np.array([0.0, 2.0]), 1, 2, 0, 4.0)
    unseen = tmrope(AXIS, np.zeros(0), 0, 0, 50, 2.0)
    for plan in (silent, unseen):
        assert largest_reading_gap(token_runs(plan)) is None
        assert largest_position_distance(plan) is None
    assert [(len(reading.visual), len(reading.audio)) for reading in readings(token_runs(unseen))] == [(0, 1)]


def test_true_positions_lie_together_and_assumed_ones_part() -> None:
    true = largest_position_distance(two_second_patches(assumed=False))
    assert true is not None
    assert true.value == 0
    # The patch of 4 s is placed at 2 x 1 s x 25 = 50; the sound of 4 s is at 100.
    assumed = largest_position_distance(two_second_patches(assumed=True))
    assert assumed is not None
    assert (assumed.value, assumed.at_seconds) == (50, 4.0)
    # Read together: chunk 0 has the patches placed at 0 and 25, chunk 1 that of 4 s and the sound from 2 s on.
    gap = largest_reading_gap(token_runs(two_second_patches(assumed=True)))
    assert gap is not None
    assert (gap.value, gap.at_seconds) == (2.0, 4.0)


def test_only_pictures_that_begin_with_sound_are_compared() -> None:
    """Sound to 2 s only (50 tokens): the patches of 2 and 4 s have nothing to be compared with."""
    distance = largest_position_distance(tmrope(AXIS, np.array([0.0, 2.0, 4.0]), 1, 2, 50, 6.0, assumed=True))
    assert distance is not None
    assert (distance.value, distance.at_seconds) == (0, 0.0)


def test_the_rate_of_positions_is_that_of_the_sound() -> None:
    assert positions_per_second(two_second_patches(assumed=True)) == pytest.approx(25)
    assert positions_per_second(salmonn2_paper(np.arange(2.0), 1, 5, 0.2, 2.0)) is None
    assert positions_per_second(tmrope(AXIS, np.zeros(1), 1, 1, 1, 1.0)) is None


def test_placeholders_stand_once_per_row() -> None:
    tokenizer = build_word_tokenizer(["Describe the video."])
    words = tokenizer.encode("Describe the video.")
    video, audio = tokenizer.convert_tokens_to_ids(["<|video_pad|>", "<|audio_pad|>"])
    assert prompt_pieces([*words, *[video] * 4, *[audio] * 3, *[video] * 4, audio, audio, *words], tokenizer) == [
        ("Describe the video.", 1),
        ("<|video_pad|>", 4),
        ("<|audio_pad|>", 3),
        ("<|video_pad|>", 4),
        ("<|audio_pad|>", 2),
        ("Describe the video.", 1),
    ]
    # Two equal tokens are text, three are a row.
    assert prompt_pieces([*words, *words], tokenizer) == [("Describe the video.Describe the video.", 1)]
