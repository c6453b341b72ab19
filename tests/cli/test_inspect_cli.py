"""`avocet inspect`: the table, the JSON lines, and bad files among good ones."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from avocet.cli.inspect import layout_lines, main
from avocet.errors import ModelNotFoundError
from avocet.models.layout import salmonn2_paper


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """3 s of grey at 10 frames per second with the comment "two [red]words[/red]", and no sound."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as output:
        output.metadata["comment"] = "two [red]words[/red]\x1b[31m"
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 100, np.uint8), format="rgb24")
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.fixture
def beep(tmp_path: Path) -> Path:
    """1 s of a square wave at half of full scale: peak and RMS are both about -6.0 dBFS."""
    path = tmp_path / "beep.wav"
    wave = np.where(np.arange(16_000) // 80 % 2, 0.5, -0.5) * 32767
    with av.open(str(path), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def test_json_has_frames_sound_and_source(clip: Path, beep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clip), str(beep), "--json", "--fps", "1"]) == 0
    picture, sound = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert picture["path"] == str(clip)
    assert picture["frame_times_seconds"] == [0.0, 1.0, 2.0]
    assert (picture["num_frames"], picture["frame_width"], picture["frame_height"]) == (3, 64, 48)
    assert (picture["audio_status"], picture["num_samples"], picture["rms_dbfs"]) == ("absent", 0, None)
    assert picture["warnings"] == ["there is no audio stream"]
    assert (picture["source"]["video_codec"], picture["source"]["average_fps"]) == ("h264", 10.0)
    assert (sound["audio_status"], sound["num_samples"], sound["num_frames"]) == ("present", 16_000, 0)
    assert sound["source"]["audio_sample_rate"] == 16_000
    assert sound["peak_dbfs"] == sound["rms_dbfs"] == -6.0


def test_options_reach_the_decoder(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--start-seconds", "1", "--end-seconds", "2.5", "--fps", "4", "--max-frames", "3", "--max-pixels", "768"]
    assert main([str(clip), "--json", *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    # 1.5 s at 4 frames per second are 6 targets, so 3 spread evenly: 1.0, 1.5, 2.0.
    assert facts["frame_times_seconds"] == [1.0, 1.5, 2.0]
    assert (facts["start_seconds"], facts["duration_seconds"]) == (1.0, 1.5)
    assert (facts["frame_width"], facts["frame_height"]) == (32, 24)


def test_the_table_is_for_people_and_shows_foreign_text_as_it_is(
    clip: Path, beep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(clip), str(beep)]) == 0
    out = capsys.readouterr().out
    assert "h264, 64x48, 10 frames/s" in out
    assert "6 of 64x48 at 0 0.5 1 1.5 2 2.5 s" in out
    assert "two [red]words[/red] [31m" in out
    assert "\x1b" not in out
    assert "there is no audio stream" in out
    assert "peak -6.0 dBFS, RMS -6.0 dBFS" in " ".join(out.split())


def test_bad_files_give_one_line_each_and_the_good_ones_are_shown(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n")
    bad = [tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "gone.mp4"]
    assert main([str(bad[0]), str(clip), *map(str, bad[1:]), "--json"]) == 2
    captured = capsys.readouterr()
    assert [json.loads(line)["path"] for line in captured.out.splitlines()] == [str(clip)]
    lines = captured.err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [str(path) for path in bad]
    assert lines[0].endswith("the file is empty (0 bytes)")


def test_wrong_arguments_are_one_line(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clip), str(clip), "--fps", "0"]) == 2
    assert capsys.readouterr().err == "avocet inspect: fps must be a number > 0, got 0.0\n"
    assert main([]) == 2
    assert capsys.readouterr().err == "avocet inspect: name at least one media file\n"
    assert main([str(clip), "--audio", "require"]) == 2
    assert "audio: there is no audio stream, but audio='require'" in capsys.readouterr().err


def test_a_model_shows_its_token_plan(
    tiny_model_folder: Path, media_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(media_folder / "a.mp4")
    assert main([path, "--model", str(tiny_model_folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    layout = facts["layout"]
    assert layout["rule"] == "salmonn2_paper"
    assert len(layout["tokens"]) == layout["num_visual_tokens"] + layout["num_audio_tokens"]
    assert layout["num_visual_tokens"] % facts["num_frames"] == 0
    assert layout["tokens"][0][:2] == ["visual", 0.0]
    assert main([path, "--model", str(tiny_model_folder)]) == 0
    assert "visual" in capsys.readouterr().out


def test_layout_lines_by_hand() -> None:
    """2 frames of 4 tokens, 5 audio tokens of 0.2 s: alpha = 0, 3, 5."""
    plan = salmonn2_paper(np.array([0.0, 0.5]), 4, 5, 0.2, 1.0)
    assert [" ".join(line.split()) for line in layout_lines(plan)] == [
        "4 visual 0 to 0.5 s",
        "3 audio 0 to 0.6 s",
        "4 visual 0.5 to 1 s",
        "2 audio 0.6 to 1 s",
    ]


def test_a_model_that_is_not_there_is_one_clear_error(media_folder: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        main([str(media_folder / "a.mp4"), "--model", "no-such-model"])
