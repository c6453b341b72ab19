"""Segments: fixed ones and groups of shots by hand, shots of real and made videos, and the stages around them."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curation_media import write_video

from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Dropped, Kept, Split
from avocet.curation.segments import FixedStage, ShotStage, detect_shots, fixed_segments, group_shots
from avocet.errors import ConfigError, MissingExtraError
from avocet.media import open_clip


@pytest.mark.parametrize(
    ("end", "min_last", "bounds"),
    [
        (30.0, 1.0, [0, 10, 20, 30]),
        (31.4, 1.0, [0, 10, 20, 30, 31.4]),
        (31.4, 2.0, [0, 10, 20, 31.4]),
        (10.0000001, 1.0, [0, 10.0000001]),
        (0.5, 1.0, [0, 0.5]),
        (19.0, 10.0, [0, 19.0]),
    ],
)
def test_fixed_segments(end: float, min_last: float, bounds: list[float]) -> None:
    segments = fixed_segments(0.0, end, 10.0, min_last)
    assert [segments[0][0], *(segment[1] for segment in segments)] == pytest.approx(bounds, abs=1e-6)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(segments))


def test_fixed_segments_of_an_interval() -> None:
    assert fixed_segments(3.0, 28.0) == [(3.0, 13.0), (13.0, 23.0), (23.0, 28.0)]
    for wrong in ((5.0, 5.0, 10.0, 1.0), (0.0, 5.0, 0.0, 0.0), (0.0, 5.0, 2.0, 3.0), (-1.0, 5.0, 2.0, 1.0)):
        with pytest.raises(ConfigError):
            fixed_segments(*wrong)


def shots_of(*lengths: float) -> list[tuple[float, float]]:
    ends = np.cumsum(lengths).tolist()
    return list(zip([0.0, *ends[:-1]], ends, strict=True))


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([3, 4, 20, 2, 1], [(0, 7), (7, 17), (17, 27)]),  # 27 to 30 is too short, and 17 to 30 too long
        ([6, 3], [(0, 9)]),  # the rest goes with the clip before
        ([6, 6, 6], [(0, 6), (6, 12), (12, 18)]),
        ([4, 10, 6], [(4, 14), (14, 20)]),  # 4 + 10 is too long: the 4 are left out
        ([2, 2], []),
        ([12], [(0, 12)]),
        ([25], [(0, 25 / 3), (25 / 3, 50 / 3), (50 / 3, 25)]),
    ],
)
def test_groups_of_shots(lengths: list[float], groups: list[tuple[float, float]]) -> None:
    found = group_shots(shots_of(*lengths), 5.0, 12.0)
    assert np.array(found).ravel() == pytest.approx(np.array(groups).ravel())


def scenes(*colours: tuple[int, int, int], frames: int = 16) -> np.ndarray:
    """`frames` pictures per colour, with a square that moves."""
    pictures = []
    for colour in colours:
        for number in range(frames):
            picture = np.full((48, 64, 3), colour, np.uint8)
            picture[20:30, 2 * number : 2 * number + 10] = 255
            pictures.append(picture)
    return np.stack(pictures)


COLOURS = ((200, 30, 30), (30, 160, 40), (20, 30, 190))


def test_cuts_are_found_to_the_frame(tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    path = write_video(tmp_path / "a.mp4", scenes(*COLOURS), None, fps=8)
    assert detect_shots(str(path), 0.0, 6.0, average_fps=8.0) == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    assert detect_shots(str(path), 1.0, 3.5, whole_file=False, average_fps=8.0) == [(1.0, 2.0), (2.0, 3.5)]


def test_cuts_are_found_where_the_video_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scenedetect")
    import avocet.curation.segments as segments

    path = write_video(tmp_path / "a.mp4", scenes(*COLOURS), None, fps=8)
    # Parts end at 1, 2, ... s: the first cut stands where one ends.
    monkeypatch.setattr(segments, "_LOOK_SECONDS", 1.0)
    monkeypatch.setattr(segments, "_SHORTEST_LOOK_SECONDS", 0.25)
    assert detect_shots(str(path), 0.0, 6.0, average_fps=8.0) == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]


def test_cuts_of_a_film(media_dir: Path) -> None:
    pytest.importorskip("scenedetect")
    shots = detect_shots(str(media_dir / "big_buck_bunny_480p_30s.mp4"), 0.0, 30.0, average_fps=24.0)
    # The three largest changes between neighbouring frames (78, 80 and 100 levels on average; the next has 18) lead to
    # the frames 285, 378 and 553.
    assert [round(start * 24) for start, _ in shots] == [0, 285, 378, 553]


def test_the_stage_cuts_into_clips_of_length(tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    path = write_video(tmp_path / "a.mp4", scenes(*COLOURS), None, fps=8)
    clip = ManifestClip(id="a", path=str(path))
    split = ShotStage(min_seconds=1.5, max_seconds=3.0).process(clip)
    assert isinstance(split, Split)
    assert [(piece.start_seconds, piece.end_seconds) for piece in split.pieces] == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    joined = ShotStage(min_seconds=3.0, max_seconds=6.0).process(clip)
    # 2 + 2 s are long enough; the last 2 s go with them.
    assert isinstance(joined, Kept)
    assert joined.facts == {"duration_seconds": 6.0, "num_shots": 3, "cuts_seconds": [2.0, 4.0]}
    short = ShotStage(min_seconds=7.0, max_seconds=9.0).process(clip)
    assert isinstance(short, Dropped)
    assert (short.reason, short.detail) == (
        "no_clip_of_length",
        "3 shots, the longest of 2.00 s, make no clip that is long enough",
    )
    with pytest.raises(ConfigError, match="0 < min_seconds <= max_seconds"):
        ShotStage(min_seconds=5.0, max_seconds=4.0)


def test_pieces_begin_with_the_first_frame_of_their_shot(tmp_path: Path) -> None:
    """At 7 frames per second the third shot begins at 32/7 = 4.57143 s; at 4.571 s the second is still on screen."""
    pytest.importorskip("scenedetect")
    path = write_video(tmp_path / "a.mp4", scenes(*COLOURS), None, fps=7)
    split = ShotStage(min_seconds=2.0, max_seconds=3.0).process(ManifestClip(id="a", path=str(path)))
    assert isinstance(split, Split)
    third = split.pieces[2]
    assert (third.start_seconds, split.pieces[1].end_seconds) == (4.572, 4.572)
    frame = open_clip(path, start_seconds=third.start_seconds, end_seconds=third.end_seconds).frames[0]
    assert frame[:, 0, 0] == pytest.approx(COLOURS[2], abs=10)


def test_fixed_stage(tmp_path: Path, stage_play: Callable[..., Path]) -> None:
    play = stage_play(2)  # 4 s
    split = FixedStage(seconds=1.5).process(ManifestClip(id="a", path=str(play), start_seconds=0.5))
    assert isinstance(split, Split)
    assert [(piece.start_seconds, piece.end_seconds) for piece in split.pieces] == [(0.5, 2.0), (2.0, 4.0)]
    assert [piece.facts["duration_seconds"] for piece in split.pieces] == [1.5, 2.0]
    late = FixedStage().process(ManifestClip(id="a", path=str(play), start_seconds=4.5))
    assert isinstance(late, Dropped)
    assert late.reason == "outside_of_file"


def test_what_is_no_video_is_dropped_by_reason(tmp_path: Path, media_dir: Path) -> None:
    pytest.importorskip("scenedetect")
    (tmp_path / "broken.mp4").write_bytes(b"no video at all" * 100)
    reasons = []
    for path in (media_dir / "jfk.flac", tmp_path / "broken.mp4"):
        outcome = ShotStage().process(ManifestClip(id="a", path=str(path)))
        assert isinstance(outcome, Dropped)
        reasons.append(outcome.reason)
    assert reasons == ["no_video", "media_error"]


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name == "scenedetect":
            raise ImportError("No module named 'scenedetect'")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'avocet\[curate\]'"):
        ShotStage().process(ManifestClip(id="a", path=str(tmp_path / "a.mp4")))
