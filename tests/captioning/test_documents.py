"""One file per caption: names, folders, collisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from avocet.captioning.documents import document_paths, write_document
from avocet.errors import ConfigError
from avocet.records import Caption, ClipRef, Sampling


def clip(path: str, start: float | None = None, end: float | None = None) -> ClipRef:
    return ClipRef(id=f"{path}#{start}-{end}", path=path, start_seconds=start, end_seconds=end)


def places(*clips: ClipRef) -> list[str]:
    return [str(path) for path in document_paths(clips, "out", "vtt").values()]


def test_folders_below_the_common_one_are_kept() -> None:
    assert places(clip("clips/day1/a.mp4"), clip("clips/day2/a.mp4"), clip("clips/b.c.mov")) == [
        *("out/day1/a.vtt", "out/day2/a.vtt", "out/b.c.vtt")
    ]
    assert places(clip("/clips/day1/a.mp4")) == ["out/a.vtt"]
    assert places(clip("clips/../other/a.mp4"), clip("clips/b.mp4")) == ["out/other/a.vtt", "out/clips/b.vtt"]
    assert places() == []


def test_intervals_are_in_the_name() -> None:
    assert places(clip("a.mp4", 0.5, 2), clip("a.mp4", None, 3), clip("a.mp4", 4)) == [
        *("out/a_0.5-2.vtt", "out/a_0-3.vtt", "out/a_4-end.vtt")
    ]


def test_clips_that_differ_in_their_ending_keep_it() -> None:
    assert places(clip("a.mp4"), clip("a.wav"), clip("b.mp4")) == ["out/a.mp4.vtt", "out/a.wav.vtt", "out/b.vtt"]


def test_two_clips_never_share_a_file() -> None:
    with pytest.raises(ConfigError, match=r"a.mp4.mkv#.* and a.mp4#.* would both be written to out/a.mp4.vtt"):
        places(clip("a.mp4.mkv"), clip("a.mp4"), clip("a.wav"))


def test_writing_replaces(tmp_path: Path) -> None:
    made = Caption(
        clip_id="x",
        path="x.mp4",
        text="A bell.",
        model="toy",
        revision="r",
        instruction="Describe.",
        sampling=Sampling(),
        stop_reason="end",
        num_tokens=2,
        audio_used=True,
        audio_status="present",
        num_frames=2,
        fps=2.0,
        start_seconds=0.0,
        end_seconds=1.5,
        layout_rule="salmonn2_paper",
    )
    paths = {"x": tmp_path / "new" / "folder" / "x.srt"}
    for _ in range(2):
        assert write_document(paths, made, "srt") == paths["x"]
    assert paths["x"].read_text() == "1\n00:00:00,000 --> 00:00:01,500\nA bell.\n"
