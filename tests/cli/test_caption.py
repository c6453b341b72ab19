"""`avocet caption` with a small random model of the real class: outputs, exit codes, resuming."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from avocet.cli import main
from avocet.records import Caption, Failure

WORLD_WARNING = "knows only the procedural theatre"


def caption(*arguments: object, model: Path) -> int:
    return main(["caption", *map(str, arguments), "--model", str(model), "--device", "cpu"])


def test_prose_on_the_terminal(media_folder: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert caption(media_folder / "a.mp4", model=tiny_model_folder) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith(f"{media_folder / 'a.mp4'} (0:00.0-")
    assert any(line.startswith("warning: ") and WORLD_WARNING in line for line in lines)
    assert captured.err == ""


def test_json_is_one_valid_record_per_line(
    media_folder: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = caption(media_folder, "--format", "json", "--max-new-tokens", 5, "--seed", 3, model=tiny_model_folder)
    assert code == 0
    records = [Caption.from_json(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(record.path).name for record in records] == ["a.mp4", "b.mp4", "c.mp4"]
    assert all(record.num_tokens <= 5 and record.sampling.seed == 3 for record in records)
    assert [record.audio_used for record in records] == [True, False, True]
    assert {record.model for record in records} == {"tiny"}
    assert all(record.revision for record in records)


def test_bad_files_give_one_line_each_and_the_good_ones_are_captioned(
    media_folder: Path, broken_files: list[Path], tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [broken_files[0], media_folder / "a.mp4", *broken_files[1:], media_folder / "gone.mp4"]
    assert caption(*files, "--format", "json", model=tiny_model_folder) == 2
    captured = capsys.readouterr()
    assert [json.loads(line)["path"] for line in captured.out.splitlines()] == [str(media_folder / "a.mp4")]
    errors = captured.err.splitlines()
    assert len(errors) == 4
    for name, line in zip(("truncated", "empty", "text", "gone"), errors, strict=True):
        assert line.startswith("avocet caption: ")
        assert f"{name}.mp4" in line


def test_a_name_that_is_not_utf_8_does_not_end_the_run(
    media_folder: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    strange = os.fsdecode(os.fsencode(media_folder) + b"/caf\xe9.mp4")
    (media_folder / "b.mp4").rename(strange)
    assert caption(media_folder, "--out", tmp_path / "captions.jsonl", model=tiny_model_folder) == 2
    assert len((tmp_path / "captions.jsonl").read_text().splitlines()) == 2
    failure = Failure.from_json((tmp_path / "captions.failures.jsonl").read_text())
    assert failure.path == strange
    assert "not valid UTF-8" in failure.error


def test_out_is_resumed(
    media_folder: Path,
    broken_files: list[Path],
    tiny_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "captions.jsonl"
    assert caption(media_folder / "a.mp4", "--out", out, model=tiny_model_folder) == 0
    first = out.read_text()
    assert caption(media_folder, broken_files[1], "--out", out, model=tiny_model_folder) == 2
    assert out.read_text().startswith(first)
    assert [Path(Caption.from_json(line).path).name for line in out.read_text().splitlines()] == [
        *("a.mp4", "b.mp4", "c.mp4")
    ]
    failure = Failure.from_json((tmp_path / "captions.failures.jsonl").read_text())
    assert failure.path == str(broken_files[1])
    assert "4 clips asked for; 1 were there already; 1 failed" in capsys.readouterr().err
    assert caption(media_folder, "--out", out, model=tiny_model_folder) == 0
    assert not (tmp_path / "captions.failures.jsonl").exists()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3 were there already" in captured.err


def test_other_settings_do_not_go_into_the_same_file(
    media_folder: Path, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "captions.jsonl"
    assert caption(media_folder / "a.mp4", "--out", out, model=tiny_model_folder) == 0
    assert caption(media_folder, "--out", out, "--temperature", 0.7, model=tiny_model_folder) == 2
    assert "choose another output file or the same settings" in capsys.readouterr().err
    assert len(out.read_text().splitlines()) == 1


def test_no_file_and_unknown_model(media_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["caption"]) == 2
    assert "name at least one media file" in capsys.readouterr().err
    assert caption(media_folder, model=tmp_path / "no model") == 2
    error = capsys.readouterr().err
    assert error.startswith("avocet caption: ")
    assert error.count("\n") == 1


def test_an_empty_folder_is_an_error_line(
    tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert caption(tmp_path / "empty", model=tiny_model_folder) == 2
    assert "holds no media files" in capsys.readouterr().err


def test_an_impossible_interval_is_refused(
    media_folder: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert caption(media_folder / "a.mp4", "--start", 2, "--end", 1, model=tiny_model_folder) == 2
    assert "end_seconds must be larger" in capsys.readouterr().err
