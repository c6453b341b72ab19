"""Finding the video files of items below a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from avocet.errors import ConfigError
from avocet.evaluation.benchmarks import load_benchmark
from avocet.evaluation.benchmarks._names import NameIndex, VideoFolder
from avocet.evaluation.items import BenchmarkItem


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def find(folder: Path, video: str, *aliases: str) -> str | None:
    item = BenchmarkItem(id="x", video=video, aliases=aliases)
    found = load_benchmark("vs2").find_video(item, folder)
    return None if found is None else str(found.relative_to(folder))


def test_paths_names_and_ids(tmp_path: Path) -> None:
    touch(tmp_path, "video/0.mp4", "old/0.mp4", "deep/er/PI-1.MP4", "one.mkv", "notes.txt", "noon.v2.mp4")
    assert find(tmp_path, "video/0.mp4") == "video/0.mp4"
    assert find(tmp_path, "/workspace/benchmark/old/0.mp4") == "old/0.mp4"
    assert find(tmp_path, "PI-1") == "deep/er/PI-1.MP4"
    assert find(tmp_path, "one.mp4") == "one.mkv"
    assert find(tmp_path, "noon.v2") == "noon.v2.mp4"
    # "v2" is part of the name, not an ending that may differ.
    assert find(tmp_path, "noon.v1") is None
    assert find(tmp_path, "notes.txt") is None
    assert find(tmp_path, "two.mp4") is None


def test_the_folder_itself_may_be_the_one_that_the_file_names(tmp_path: Path) -> None:
    touch(tmp_path, "video/0.mp4", "video/old/0.mp4")
    assert find(tmp_path / "video", "video/0.mp4") == "0.mp4"


def test_daily_omni_puts_each_video_in_a_folder_with_its_sound(tmp_path: Path) -> None:
    touch(tmp_path, "Videos/abc/abc_video.mp4", "Videos/abc/abc_audio.wav")
    assert find(tmp_path, "abc", "abc_video") == "Videos/abc/abc_video.mp4"


def test_sound_beside_a_video_is_not_the_video(tmp_path: Path) -> None:
    touch(tmp_path, "0.wav", "0.mp4")
    assert find(tmp_path, "0") == "0.mp4"


def test_several_files_that_fit_equally_well(tmp_path: Path) -> None:
    touch(tmp_path, "a/0.mp4", "b/0.mp4", "one.mkv", "one.avi")
    with pytest.raises(ConfigError, match=r"2 files that may be 'video/0.mp4': .*a.0.mp4, .*b.0.mp4; keep only one"):
        find(tmp_path, "video/0.mp4")
    with pytest.raises(ConfigError, match=r"2 files that may be 'one.mp4': .*one.avi, .*one.mkv"):
        find(tmp_path, "one.mp4")


def test_nothing_outside_of_the_folder_is_found(tmp_path: Path) -> None:
    touch(tmp_path, "secret.mp4", "videos/0.mp4")
    assert find(tmp_path / "videos", "../secret.mp4") is None
    assert find(tmp_path / "videos", str(tmp_path / "secret.mp4")) is None


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "store/0.mp4", "videos/1.mp4")
    os.symlink(tmp_path / "store", tmp_path / "videos" / "linked")
    os.symlink(tmp_path / "videos", tmp_path / "videos" / "again")
    folder = VideoFolder(tmp_path / "videos")
    assert [str(path.relative_to(folder.path)) for path in folder.files] == ["1.mp4", "linked/0.mp4"]


def test_a_folder_is_listed_once_for_many_items(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.mp4" for number in range(50)))
    folder = VideoFolder(tmp_path)
    assert len(folder) == 50
    (tmp_path / "7.mp4").unlink()
    benchmark = load_benchmark("vs2")
    found = [benchmark.find_video(BenchmarkItem(id="x", video=f"video/{number}.mp4"), folder) for number in range(50)]
    assert found == [tmp_path / f"{number}.mp4" for number in range(50)]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    touch(tmp_path, "0.mp4")
    for path in (tmp_path / "gone", tmp_path / "0.mp4"):
        with pytest.raises(ConfigError, match="is no folder; expected the folder that holds the benchmark's videos"):
            find(path, "0.mp4")


@pytest.mark.parametrize("name", ["", "/", "#", "."])
def test_names_without_a_name_fit_nothing(name: str) -> None:
    index = NameIndex([("a.mp4", 1), (".mp4", 2), ("", 3)])
    assert index.find(name) in (([], None),)


def test_letters_that_can_be_written_in_two_ways() -> None:
    # "é" as one character and as "e" with an accent, as file systems of Apple store it.
    assert NameIndex([("caf\u00e9.mp4", 1)]).find("cafe\u0301.mp4")[0] == [1]
