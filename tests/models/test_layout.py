from __future__ import annotations

import importlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avocet.errors import ConfigError, LayoutError
from avocet.models.layout import AUDIO, VISUAL, TokenPlan, audio_boundaries, plan_layout, salmonn2_paper


@pytest.mark.parametrize(
    ("num_audio", "num_frames", "expected"),
    [
        (5, 2, [0, 3, 5]),  # 2.5 rounds up
        (3, 2, [0, 2, 3]),  # 1.5 rounds up
        (10, 4, [0, 3, 5, 8, 10]),  # 2.5, 5, 7.5
        (2, 5, [0, 0, 1, 1, 2, 2]),  # 0.4, 0.8, 1.2, 1.6: fewer audio tokens than frames
        (1, 3, [0, 0, 1, 1]),  # 1/3, 2/3
        (0, 3, [0, 0, 0, 0]),
        (7, 1, [0, 7]),
    ],
)
def test_audio_boundaries_by_hand(num_audio, num_frames, expected):
    assert audio_boundaries(num_audio, num_frames).tolist() == expected


def spelled(plan: TokenPlan) -> str:
    return " ".join(f"{'VA'[stream]}{index}" for stream, index in zip(plan.stream, plan.index, strict=True))


def test_each_frame_is_followed_by_its_share_of_the_sound():
    plan = salmonn2_paper(np.array([0.0, 0.5]), 2, 5, 0.2, 1.0)
    assert spelled(plan) == "V0 V1 A0 A1 A2 V2 V3 A3 A4"
    np.testing.assert_allclose(plan.start_seconds, [0, 0, 0, 0.2, 0.4, 0.5, 0.5, 0.6, 0.8])
    np.testing.assert_allclose(plan.end_seconds, [0.5, 0.5, 0.2, 0.4, 0.6, 1.0, 1.0, 0.8, 1.0])


def test_seconds_are_true_also_where_the_sound_is_shorter_than_the_picture():
    plan = salmonn2_paper(np.array([0.1, 2.0]), 1, 2, 0.2, 4.0)
    assert spelled(plan) == "V0 A0 V1 A1"
    np.testing.assert_allclose(plan.start_seconds, [0.1, 0.0, 2.0, 0.2])
    np.testing.assert_allclose(plan.end_seconds, [2.0, 0.2, 4.0, 0.4])


def test_only_picture_only_sound_and_nothing():
    assert spelled(salmonn2_paper(np.array([0.0, 1.0]), 2, 0, 0.2, 2.0)) == "V0 V1 V2 V3"
    sound = salmonn2_paper(np.zeros(0), 2, 3, 0.2, 0.6)
    assert spelled(sound) == "A0 A1 A2"
    np.testing.assert_allclose(sound.end_seconds, [0.2, 0.4, 0.6])
    with pytest.raises(LayoutError, match="neither frames nor sound"):
        salmonn2_paper(np.zeros(0), 2, 0, 0.2, 1.0)


@given(
    num_frames=st.integers(0, 40),
    tokens_per_frame=st.integers(1, 5),
    num_audio=st.integers(0, 300),
    fps=st.floats(1, 9),
)
def test_every_token_once_and_each_stream_in_order(num_frames, tokens_per_frame, num_audio, fps):
    if num_frames + num_audio == 0:
        return
    plan = salmonn2_paper(np.arange(num_frames) / fps, tokens_per_frame, num_audio, 0.2, num_frames / fps)
    visual, audio = plan.index[plan.stream == VISUAL], plan.index[plan.stream == AUDIO]
    assert visual.tolist() == list(range(num_frames * tokens_per_frame))
    assert audio.tolist() == list(range(num_audio))
    assert len(plan) == len(visual) + len(audio)
    if num_frames:
        first_after = np.flatnonzero(plan.stream == VISUAL)[::tokens_per_frame]
        heard = [int(np.count_nonzero(plan.stream[:place] == AUDIO)) for place in first_after]
        # Half-up rounding of l * i / n, computed another way.
        assert heard == [int(np.floor(num_audio * i / num_frames + 0.5)) for i in range(num_frames)]


def test_bad_arguments():
    with pytest.raises(ConfigError, match="unknown layout rule 'x'; available: salmonn2_paper"):
        plan_layout("x", np.zeros(1), 1, 1, 0.2, 1.0)
    for rule, place in (
        ("tmrope", "tmrope in avocet.models.tmrope"),
        ("salmonn2_v1", "v1_layout in avocet.models.salmonn2.released_v1_layout"),
        ("salmonn2_plus", "plus_layout in avocet.models.salmonn2.released_plus_layout"),
    ):
        with pytest.raises(ConfigError, match=f"unknown layout rule '{rule}'.*{re.escape(place)}"):
            plan_layout(rule, np.zeros(1), 1, 1, 0.2, 1.0)
        module, name = place.split(" in ")[1], place.split(" in ")[0]
        assert callable(getattr(importlib.import_module(module), name))
    with pytest.raises(LayoutError, match="increase strictly"):
        salmonn2_paper(np.array([1.0, 1.0]), 1, 0, 0.2, 2.0)
    with pytest.raises(LayoutError, match="got 0 and 1"):
        salmonn2_paper(np.zeros(1), 0, 1, 0.2, 1.0)
    with pytest.raises(LayoutError, match="got 1 and -1"):
        salmonn2_paper(np.zeros(1), 1, -1, 0.2, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": np.array([0])}, "of one length"),
        ({"index": np.array([0, 1])}, "each audio token must stand exactly once"),
        ({"stream": np.array([0, 2], dtype=np.uint8)}, "streams of a TokenPlan"),
        ({"end_seconds": np.array([-1.0, 1.0])}, "ends before it starts"),
    ],
)
def test_a_plan_checks_itself(changes, message):
    good = {
        "stream": np.array([VISUAL, AUDIO], dtype=np.uint8),
        "index": np.array([0, 0]),
        "start_seconds": np.zeros(2),
        "end_seconds": np.ones(2),
    }
    assert repr(TokenPlan(**good)) == "TokenPlan(num_visual_tokens=1, num_audio_tokens=1)"
    with pytest.raises(LayoutError, match=message):
        TokenPlan(**(good | changes))


def test_an_empty_plan_is_refused():
    empty = np.zeros(0)
    with pytest.raises(LayoutError, match="without tokens"):
        TokenPlan(stream=empty.astype(np.uint8), index=empty.astype(int), start_seconds=empty, end_seconds=empty)
