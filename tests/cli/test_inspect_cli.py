"""`avocet inspect`: the table, the JSON lines, the pages, and bad files among good ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from avocet.cli.inspect import layout_lines, main, page_paths
from avocet.errors import ConfigError, ModelNotFoundError
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


@pytest.fixture(scope="module")
def omni_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the real Qwen2.5-Omni class with few random weights."""
    from avocet.models.qwen_omni.tiny import tiny_model

    folder = tmp_path_factory.mktemp("models") / "omni"
    tiny_model("qwen2.5-omni").save(folder)
    return folder


def test_json_has_the_prompt_and_its_model(
    tiny_model_folder: Path, clip_writer: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 s: 2 frames of 1 token and 5 audio tokens of 0.2 s, read as V A3 V A2; sound of 0.6 s with frame 0.5 s."""
    path = str(clip_writer(tmp_path / "a.mp4", seconds=1.0))
    assert main([path, "--model", str(tiny_model_folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"]["id"] == "tiny"
    assert len(facts["model"]["revision"]) == 12
    prompt, layout = facts["prompt"], facts["layout"]
    assert (prompt["num_visual_tokens"], prompt["num_audio_tokens"]) == (2, 5)
    assert prompt["num_tokens"] == 7 + prompt["num_text_tokens"]
    # 16 bins; 1 s in steps of 20 ms
    assert (prompt["frames_shape"], prompt["mel_shape"]) == ([2, 3, 48, 48], [16, 50])
    placeholders = [(text, count) for text, count in prompt["text"] if count > 1]
    assert placeholders == [("<|audio_pad|>", 3), ("<|audio_pad|>", 2)]
    assert prompt["instruction"] in prompt["text"][-1][0]
    assert layout["largest_reading_gap_seconds"] == pytest.approx(0.1)
    assert (layout["positions_range"], layout["largest_position_distance"]) == (None, None)
    assert layout["tokens"][-1] == ["audio", 0.8, 1.0]


def test_model_options_change_the_layout(
    omni_folder: Path, clip_writer: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """4 s at 1 frame per second: patches of 2 frames at 0 and 2 s; `released` takes 1 s per patch, 25 positions."""
    path = str(clip_writer(tmp_path / "a.mp4", seconds=4.0))
    arguments = [path, "--model", str(omni_folder), "--fps", "1", "--json"]
    assert main(arguments) == 0
    assert main([*arguments, "--layout", "released", "--patch-pixels", str(28 * 28 * 2)]) == 0
    true, released = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (true["layout"]["rule"], released["layout"]["rule"]) == ("tmrope", "tmrope_released")
    assert (true["layout"]["largest_position_distance"], released["layout"]["largest_position_distance"]) == (0, 25)
    # 100 audio tokens at 25 per second
    assert true["layout"]["positions_range"]["time"] == [0, 99]
    assert true["layout"]["end_position"] == 100
    assert true["layout"]["tokens"][-1] == ["audio", 3.96, 4.0, 99.0, 99.0, 99.0]
    assert released["prompt"]["media"]["max_tokens_per_patch"] == 2
    assert released["prompt"]["num_visual_tokens"] <= 4 < true["prompt"]["num_visual_tokens"]


def test_model_options_need_a_model_that_has_them(clip: Path, tiny_model_folder: Path) -> None:
    with pytest.raises(ConfigError, match="--layout, --total-pixels: only with --model"):
        main([str(clip), "--layout", "released", "--total-pixels", "1000"])
    with pytest.raises(ConfigError, match="has no settings layout"):
        main([str(clip), "--model", str(tiny_model_folder), "--layout", "released"])


def test_a_page_per_file(clip: Path, beep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "new" / "page.html"
    for _ in range(2):  # the second call replaces the page
        assert main([str(clip), "--html", str(page), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"avocet inspect: wrote {page}\n" * 2
    assert all(json.loads(line) for line in captured.out.splitlines())
    text = page.read_text(encoding="utf-8")
    # 3 s at 2 frames per second; and the comment of the file
    assert text.count("data:image/jpeg") == 6
    assert "two [red]words[/red]" in text
    out = tmp_path / "pages"
    assert main([str(clip), str(beep), "--html", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["beep.html", "clip.html"]
    assert "data:image/png" in (out / "beep.html").read_text(encoding="utf-8")
    capsys.readouterr()


def test_a_page_shows_what_the_shipped_model_gets(
    tmp_path: Path, media_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from avocet.theatre.script import make_script
    from avocet.theatre.stage import stage

    stage(make_script(3, 1), tmp_path / "theatre.mp4")
    out = tmp_path / "pages"
    assert (
        main([str(tmp_path / "theatre.mp4"), str(media_folder / "a.mp4"), "--model", "nano", "--html", str(out)]) == 0
    )
    staged, foreign = ((out / f"{name}.html").read_text(encoding="utf-8") for name in ("theatre", "a"))
    for page in (staged, foreign):
        assert "What nano sees and hears" in page
        assert "64 bins, 20 ms" in page
        assert "&lt;|video_pad|&gt;" in page
    warning = "knows only the procedural theatre"
    assert (warning in staged, warning in foreign) == (False, True)
    assert warning in capsys.readouterr().out.replace("\n", " ").replace("  ", "")


def test_without_a_model_or_a_page_pytorch_stays_out(clip: Path) -> None:
    code = f"import sys; from avocet.cli.inspect import main; main([{str(clip)!r}]); sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_paths_of_pages(tmp_path: Path) -> None:
    files = ["a/x.mp4", "b/x.mp4", "b/X.webm", "https://host/y.mp4?z=1", ".mp4"]
    names = [path.name for path in page_paths(files, tmp_path / "out")]
    assert names == ["x.html", "x-2.html", "X-3.html", "y.html", ".mp4.html"]
    assert page_paths(["x.mp4"], tmp_path / "page") == [tmp_path / "page"]
    assert page_paths(["x.mp4"], tmp_path) == [tmp_path / "x.html"]


def test_pages_never_replace_media(clip: Path, beep: Path) -> None:
    before = clip.read_bytes()
    with pytest.raises(ConfigError, match="would replace the file that is to be inspected"):
        main([str(clip), "--html", str(clip)])
    with pytest.raises(ConfigError, match="is a file; the pages of 2 files need a folder"):
        main([str(clip), str(beep), "--html", str(clip)])
    assert clip.read_bytes() == before


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
