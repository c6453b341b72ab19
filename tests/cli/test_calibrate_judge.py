"""`avocet calibrate-judge` with scripted judges on loopback, and with the exact one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import Asked, JudgeServer, Step
from planted_judge import annotations, perfect, sloppy

from avocet.cli.calibrate_judge import main
from avocet.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AVOCET_JUDGE_BASE_URL", "AVOCET_JUDGE_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AVOCET_BENCHMARK_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    """Knows two judges by their names."""
    with JudgeServer(lambda asked: (sloppy if asked.body["model"] == "sloppy" else perfect)(asked)) as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "video_salmonn2_test.json"
    path.write_text(json.dumps(annotations()))
    return path


def vs2(server: JudgeServer, file: Path, judge: str = "perfect") -> list[str]:
    argv = ["--judge", judge, "--base-url", server.base_url, "--price", "1,10", "--set", "vs2"]
    return [*argv, "--annotations", str(file), "--num-clips", "4", "--runs", "2"]


def read(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "calibration.json").read_text())
    return report


def test_the_exact_judge_is_perfect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["--judge", "exact", "--num-clips", "3", "--runs", "2", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == read(out)
    (calibration,) = report["calibrations"]["theatre"]
    overall = calibration["overall"]
    assert (overall["share_exact"], report["num_unscored"], report["costs"]) == (1, 0, {})
    assert [overall[name]["recall"] for name in ("missed", "incorrect", "hallucinated")] == [1, 1, 1]
    assert "repeated" in [row["error"] for row in calibration["by_error"]]
    lines = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert len(lines) == report["num_captions"] == calibration["num_items"]
    assert lines[0]["clip_id"] == "theatre-2-0/none"
    assert [[verdict["run_index"] for verdict in runs] for runs in lines[0]["verdicts"]] == [[0, 1]]


def test_vs2_by_a_perfect_judge(
    server: JudgeServer, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*vs2(server, file), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == (out / "calibration.md").read_text().strip()
    report = read(out)
    # Twelve kinds of four videos; a reference of each and four changed ones; two runs of each.
    assert (report["num_captions"], report["num_scored"]) == (48 + 20, 136)
    # The references of this file are the events as sentences, as are the captions without errors: 4 times 2 replies are
    # in the cache.
    assert len(server.asked) == 128
    (calibration,) = report["calibrations"]["vs2"]
    assert calibration["overall"]["share_exact"] == 1
    assert [bias["bias"] for bias in calibration["biases"]] == [0, 0, 0]
    (sensitivity,) = report["sensitivities"]
    assert [row["rose"]["num_pairs"] for row in sensitivity["rows"]] == [4, 4, 0, 4]
    # 100 tokens in and 10 out per call, at 1 and 10 USD per million: 0.0002 USD each.
    assert report["costs"]["perfect"]["total"]["calls"] == 128
    assert report["costs"]["perfect"]["total"]["cost_usd"] == pytest.approx(128 * 0.0002)
    assert "- perfect: events: 128 calls, 8 cached, 0 retries, 12,800 + 1,280 tokens, $0.0256" in printed.out
    assert "perfect: events: 128 calls" in printed.err
    lines = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert [line["set"] for line in lines] == ["vs2"] * 48 + ["references"] * 20


def test_two_judges_and_a_second_time(
    server: JudgeServer, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = [*vs2(server, file), "--against", "sloppy", "--against-price", "2,20", "--no-references", "--out", str(out)]
    assert main(argv) == 0
    report = read(out)
    good, bad = report["calibrations"]["vs2"]
    assert (good["overall"]["share_exact"], bad["overall"]["share_exact"]) == (1, 32 / 48)
    assert (bad["overall"]["hallucinated"]["recall"], report["sensitivities"]) == (0, [])
    swap = report["swaps"]["vs2"]
    # Per run the sloppy judge overlooks 12 inventions and 4 events missed beside an injection (of 48 captions of 6).
    assert (swap["first"].split("/")[1], swap["second"].split("/")[1]) == ("perfect", "sloppy")
    assert swap["rates"][2]["difference"] == pytest.approx(-16 / 6 / 48)
    assert {
        (row["planted"], row["category"]): row["num_only_first"] for row in swap["errors"] if row["num_only_first"]
    } == {
        **{(kind, "hallucinated"): 8 for kind in ("swapped", "added", "poor")},
        ("injected", "missed"): 8,
        ("all", "missed"): 8,
        ("all", "hallucinated"): 24,
    }
    assert report["costs"]["sloppy"]["total"]["cost_usd"] == pytest.approx(96 * 0.0004)
    text = capsys.readouterr().out
    assert "### Another judge" in text
    assert "### Recall / precision side by side" in text
    # The second time everything is in the ledgers: nothing is asked, and the same is found.
    asked, items = len(server.asked), (out / "items.jsonl").read_text()
    assert asked == 192
    assert main(argv) == 0
    assert (len(server.asked), (out / "items.jsonl").read_text()) == (asked, items)
    again = read(out)
    assert {**again, "costs": {}} == {**report, "costs": {}}
    assert again["costs"]["perfect"]["total"]["cost_usd"] == 0


def test_both_sets_are_the_default(server: JudgeServer, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blank = json.dumps(
        {"reasoning": "", "missed": [], "incorrect": [], "hallucinated": []}
        | dict.fromkeys(("num_missed", "num_incorrect", "num_hallucinated"), 0)
    )
    server.script = lambda asked: Step(text=blank)
    argv = ["--judge", "blind", "--base-url", server.base_url, "--annotations", str(file), "--num-clips", "2"]
    assert main([*argv, "--runs", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    theatre, made = report["calibrations"]["theatre"][0], report["calibrations"]["vs2"][0]
    for calibration in (theatre, made):
        overall = calibration["overall"]
        assert [overall[name]["recall"] for name in ("missed", "incorrect", "hallucinated")] == [0, 0, 0]
    # Whether a repetition is an error is told differently to this judge than to the theatre's own.
    assert "repeated" not in [row["error"] for row in theatre["by_error"]]
    assert "repeated" in [row["error"] for row in made["by_error"]]


def test_some_kinds_of_error_only(server: JudgeServer, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*vs2(server, file), "--errors", "colour", "injected", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["error"] for row in report["calibrations"]["vs2"][0]["by_error"]] == ["colour", "injected"]
    assert [row["error"] for row in report["sensitivities"][0]["rows"]] == ["injected"]


def test_a_dry_run_sends_and_writes_nothing(
    server: JudgeServer, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*vs2(server, file), "--dry-run", "--out", str(out)]) == 0
    assert (server.asked, out.exists()) == ([], False)
    text = capsys.readouterr().out
    assert "perfect: events: 136 calls not sent, 0 cached, about " in text
    assert "68 captions, 2 runs" in text
    assert main([*vs2(server, file), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["perfect"]["total"]["not_sent"] == 136


def test_a_judge_that_cannot_be_read(server: JudgeServer, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def silent(asked: Asked) -> Step:
        return Step(text="I would rather not.")

    server.script = silent
    assert main([*vs2(server, file), "--errors", "none", "dropped"]) == 2
    text = capsys.readouterr().out
    # 4 captions each without an error and with one, 4 references and 4 changed ones, two runs.
    assert "0 verdicts scored, 32 unscored" in text
    assert "- 16 unscored: unreadable reply" in text


def test_the_folder_of_annotations(
    server: JudgeServer, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--judge", "perfect", "--base-url", server.base_url, "--set", "vs2", "--num-clips", "1", "--runs", "1"]
    with pytest.raises(
        ConfigError, match="AVOCET_BENCHMARK_DATA is not set; give --annotations FILE, or --set theatre"
    ):
        main(argv)
    monkeypatch.setenv("AVOCET_BENCHMARK_DATA", str(file.parent / "nowhere"))
    with pytest.raises(ConfigError, match=r"is needed and not in .*nowhere"):
        main(argv)
    monkeypatch.setenv("AVOCET_BENCHMARK_DATA", str(file.parent))
    assert main(argv) == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name the judge's model with --judge"),
        (["--judge", "exact", "--set", "vs2"], "knows scripts of the theatre only, got --set vs2"),
        (["--judge", "m", "--against", "exact", "--set", "both"], "knows scripts of the theatre only"),
        (["--judge", "m", "--against", "m"], "--against must be another judge than m"),
        (["--judge", "exact", "--errors", "colour"], "kinds of error are none, .*; got colour"),
        (["--judge", "exact", "--runs", "0"], "runs must be >= 1, got 0"),
        (["--judge", "exact", "--num-clips", "0"], "at least one script"),
        (["--judge", "exact", "--num-clips", "1", "--seed", "1", "--errors", "speaker"], "take more clips"),
    ],
)
def test_wrong_usage(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(argv)
