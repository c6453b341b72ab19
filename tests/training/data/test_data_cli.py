"""`avocet data check` and `avocet data convert`, called as the command line calls them."""

from __future__ import annotations

import json

import pytest

from avocet.cli.data import main
from avocet.errors import ConfigError


@pytest.fixture
def files(tmp_path, dumper, clip_writer):
    clip_writer(tmp_path / "a.mp4", seconds=1.0)
    clip_writer(tmp_path / "mute.mp4", seconds=1.0, tone_hertz=None)
    item = {"id": "a", "video": "a.mp4", "use_audio": True}
    item["conversations"] = [{"from": "human", "value": "<video>\nDescribe."}, {"from": "gpt", "value": "A dog."}]
    good = dumper(tmp_path / "good.json", [item])
    bad = dumper(tmp_path / "bad.json", [item, item | {"video": "mute.mp4", "id": "m"}, item | {"conversations": []}])
    return good, bad


def test_check_a_good_set(files, capsys):
    assert main(["check", str(files[0]), "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert f"{files[0]}: plus" in said
    assert "1 examples (caption 1) and 0 pairs on 1 clips" in said
    assert said.endswith("nothing is broken\n")


def test_check_a_broken_set_writes_reports_and_goes_on_where_it_stopped(files, tmp_path, capsys):
    out = tmp_path / "check"
    arguments = ["check", str(files[0]), str(files[1]), "--workers", "0", "--out", str(out), "--decode", "--json"]
    assert main(arguments) == 1
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "report.json").read_text())
    assert [problem["kind"] for problem in report["problems"]] == [
        "missing_sound",
        "media_warning",
        "repeated_example",
        "same_target",
    ]
    assert len(report["rejected"]) == 1
    assert "missing_sound (1, broken)" in (out / "report.md").read_text()
    lines = (out / "media.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert main([argument for argument in arguments if argument != "--json"]) == 1
    assert (out / "media.jsonl").read_text().splitlines() == lines
    said = capsys.readouterr().out
    assert "broken: missing_sound:" in said
    assert "rejected: " in said
    assert said.endswith("2 broken\n")


def test_check_counts_tokens(files, tiny_model_folder, capsys):
    arguments = ["check", str(files[0]), "--workers", "0", "--model", str(tiny_model_folder)]
    assert main([*arguments, "--json"]) == 0
    lengths = json.loads(capsys.readouterr().out)["lengths"]
    assert lengths["all_tokens"]["total"] == lengths["prompt_tokens"]["total"] + lengths["target_tokens"]["total"]
    assert main([*arguments, "--max-tokens", "3"]) == 1
    assert "at most 3 are allowed" in capsys.readouterr().out


def test_convert(files, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert main(["convert", str(files[0]), "--to", "v1", "--out", str(out), "--write-sound"]) == 0
    assert f"{out}: 1 examples and 0 pairs as v1" in capsys.readouterr().out
    (item,) = json.loads(out.read_text())
    assert item["video"] == str(tmp_path / "a.mp4")
    assert item["audio"].endswith("000000-a.wav")
    native = tmp_path / "out.jsonl"
    assert main(["convert", str(out), "--to", "native", "--out", str(native), "--relative-to", str(tmp_path)]) == 0
    assert json.loads(native.read_text())["clip"]["path"] == "a.mp4"


def test_convert_says_what_it_left_out(files, tmp_path, capsys):
    assert main(["convert", str(files[1]), "--to", "ms_swift", "--out", str(tmp_path / "x.jsonl")]) == 1
    said = capsys.readouterr().out
    assert "lost in 2: whether the sound is used" in said
    assert "rejected: " in said
    assert main(["convert", str(files[0]), "--to", "native", "--json", "--out", str(tmp_path / "y.jsonl")]) == 0
    assert json.loads(capsys.readouterr().out)["num_examples"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "name at least one file"),
        (["check", "x", "--to", "v1"], "--to belongs to avocet data convert"),
        (["convert", "x", "--decode"], "--decode belongs to avocet data check"),
        (["convert", "x", "--max-tokens", "3"], "--max-tokens belongs to avocet data check"),
        (["check", "x"], "no such file"),
    ],
)
def test_wrong_usage(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        main(arguments)


def test_convert_needs_a_format_and_an_output(files):
    with pytest.raises(ConfigError, match="name the format and the output"):
        main(["convert", str(files[0]), "--to", "v1"])
