"""`avocet evaluate vs2` against a scripted judge on loopback: every number below is worked out by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from judge_server import Asked, JudgeServer, Step

from avocet import cli
from avocet.evaluation.benchmarks import load_benchmark
from avocet.evaluation.evaluate import BenchmarkRun

JUDGE = "scripted-1"


pytestmark = pytest.mark.usefixtures("no_surroundings")


def events_reply(missed: list[int], incorrect: list[int], hallucinated: list[str]) -> str:
    reply: dict[str, Any] = {
        "reasoning": "scripted",
        "missed": missed,
        "incorrect": [{"event": number, "described": "something else"} for number in incorrect],
        "hallucinated": hallucinated,
        "num_missed": len(missed),
        "num_incorrect": len(incorrect),
        "num_hallucinated": len(hallucinated),
    }
    return "Let me see.\n" + json.dumps(reply)


def write_annotations(path: Path, num_events: dict[str, int]) -> Path:
    entries = [
        {
            "video": f"video/{name}.mp4",
            "conversations": [
                {"from": "human", "value": "<image>\nDescribe the video."},
                {"from": "gpt", "value": f"The reference of {name}."},
            ],
            "events": [f"event {number} of {name}" for number in range(1, count + 1)],
        }
        for name, count in num_events.items()
    ]
    path.write_text(json.dumps(entries))
    return path


def write_captions(path: Path, names: list[str]) -> Path:
    path.write_text(
        "".join(json.dumps({"video": f"{name}.mp4", "caption": f"Caption {name}."}) + "\n" for name in names)
    )
    return path


def evaluate(server: JudgeServer, *arguments: str | Path) -> int:
    options = ["--judge", JUDGE, "--base-url", server.base_url, "--price", "1,10", "--concurrency", "1"]
    return cli.main(["evaluate", "vs2", *map(str, arguments), *options])


def three_runs(asked: Asked) -> Step:
    """Three videos of 4, 10 and 5 events, judged three times each with other results.

    errors / events      run 1           run 2           run 3           median
    a (4 events)   miss  1/4 = 0.25      2/4 = 0.50      1/4 = 0.25      0.25
                   hall  0               1/4 = 0.25      2/4 = 0.50      0.25
                   total 0.25            0.75            0.75            0.75
    b (10 events)  miss  2/10 = 0.2      0               5/10 = 0.5      0.2
                   hall  1/10 = 0.1      1/10 = 0.1      0               0.1
                   total 0.3             0.1             0.5             0.3
    c (5 events)   miss  0               unreadable      1/5 = 0.2       0.1
                   hall  0                               1/5 = 0.2       0.1
                   total 0                               0.4             0.2
    """
    replies = {
        "a": [([1], [], []), ([1, 2], [3], []), ([4], [2], ["a unicorn"])],
        "b": [([1, 2], [3], []), ([], [], ["a ghost"]), ([1, 2, 3, 4, 5], [], [])],
        "c": [([], [], []), None, ([5], [], ["a dragon"])],
    }
    match = re.search(r"Caption (\w)\.", asked.text)
    assert match is not None
    name = match[1]
    # Only c has an unreadable reply, so whoever is asked once more is its second run, unreadable again.
    is_repeated = "Your reply cannot be used" in asked.text
    reply = None if is_repeated else replies[name][counts[name]]
    counts[name] += not is_repeated
    return Step(text="I would rather not say." if reply is None else events_reply(*reply))


counts: dict[str, int] = {}


@pytest.mark.parametrize("protocol", ["paper", "released"])
def test_both_protocols(tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str) -> None:
    counts.update(a=0, b=0, c=0)
    annotations = write_annotations(tmp_path / "a.json", {"a": 4, "b": 10, "c": 5, "d": 3})
    captions = write_captions(tmp_path / "c.jsonl", ["a", "b", "c", "other"])
    out = tmp_path / "out"
    with JudgeServer(three_runs) as server:
        code = evaluate(
            server,
            *("--annotations", annotations, "--captions", captions, "--runs", "3", "--out", out),
            *("--protocol", protocol, "--json"),
        )
        # 9 verdicts, of which the unreadable one took two calls.
        assert len(server.asked) == 10
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    scores = {score["name"]: score for score in report["scores"]}
    # Paper: means over captions of medians over runs. total (0.75 + 0.3 + 0.2) / 3, miss (0.25 + 0.2 + 0.1) / 3,
    # hall (0.25 + 0.1 + 0.1) / 3; the sample variance of 0.75, 0.3, 0.2 is 0.26166.. / 3 -> see below.
    per_caption = {"total": 1.25 / 3, "miss": 0.55 / 3, "hall": 0.45 / 3}
    # Released: run 1 pools 4 errors of 19 events, run 2 (a, b) 4 of 14, run 3 (3 + 5 + 2) 10 of 19:
    # 0.2105, 0.2857, 0.5263, so run 2 is reported: miss 2 / 14, hall 2 / 14.
    pooled = {"total": 4 / 14, "miss": 2 / 14, "hall": 2 / 14}
    expected, other, ending = (
        (per_caption, pooled, " (pooled)") if protocol == "paper" else (pooled, per_caption, " (per caption)")
    )
    for name in ("total", "miss", "hall"):
        assert scores[name]["value"] == pytest.approx(expected[name])
        assert scores[name + ending]["value"] == pytest.approx(other[name])
    if protocol == "paper":
        # 0.75, 0.3, 0.2: mean 0.41667, deviations 0.33333, -0.11667, -0.21667, squares 0.11111 + 0.01361 + 0.04694,
        # / 2 = 0.085833, root 0.292973, / sqrt(3) = 0.169148.
        assert scores["total"]["standard_error"] == pytest.approx(0.169148, abs=1e-6)
        # All verdicts: incorrect 0 + 1 + 1 + 1 of a and b, hallucinated 1 + 1 + 1, events 4*3 + 10*3 + 5*2 = 52.
        assert scores["incorrect"]["value"] == pytest.approx(3 / 52)
        assert scores["hallucinated"]["value"] == pytest.approx(3 / 52)
        # Medians do not add: 1 / 3 beside 41.7 %.
        assert scores["total"]["note"].endswith("median over 3 runs; miss + hall is 33.3 %: medians do not add")
    else:
        # Run 2 alone: 1 incorrect (a), 1 hallucinated (b) of 14 events.
        assert scores["incorrect"]["value"] == scores["hallucinated"]["value"] == pytest.approx(1 / 14)
    assert (report["num_items"], report["num_captioned"], report["num_scored"], report["num_missing"]) == (4, 3, 3, 1)
    assert report["num_partly_scored"] == 1
    assert report["unscored_reasons"] == {"unreadable reply": 1}
    assert report["missing"] == {"video/d.mp4": "not among the captions"}
    assert report["warnings"] == ["1 captions are of no item of the benchmark and were left out"]
    lines = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["scored", "scored", "partly scored", "missing"]
    assert lines[0]["values"] == pytest.approx({"total": 0.75, "miss": 0.25, "hall": 0.25})
    assert "unicorn" in lines[0]["verdicts"][2]["raw_reply"]
    assert lines[2]["verdicts"][1]["status"] == "unscored"
    # Each published table has this run's figures of its own protocol: pooled miss 2 / 14, per caption 0.55 / 3.
    rows = [line for line in (out / "report.md").read_text().splitlines() if line.startswith("| **this run**")]
    for row, of_table, ending, miss in zip(
        rows, ("released", "paper"), (" (pooled)", " (per caption)"), ("14.3", "18.3"), strict=True
    ):
        assert row.startswith(f"| **this run**{ending if of_table != protocol else ''} |")
        assert f"| {miss} ±" in row
    page = (out / "report.html").read_text()
    assert "Caption a." in page
    assert "arXiv 2510.10395" in page


def test_reference_captions_of_the_real_file(
    benchmark_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 483 references; the judge misses the last event of each, and invents one where their number is even."""
    path = benchmark_data / "video_salmonn2_test.json"
    entries = json.loads(path.read_text())
    num_events = [len(entry["events"]) for entry in entries]
    captions = tmp_path / "references.json"
    captions.write_text(json.dumps({entry["video"]: entry["conversations"][1]["value"] for entry in entries}))

    def script(asked: Asked) -> Step:
        number = int(re.search(r"The (\d+) events, numbered", asked.text)[1])  # type: ignore[index]
        return Step(text=events_reply([number], [], ["a parrot"] if number % 2 == 0 else []))

    out = tmp_path / "out"
    with JudgeServer(script) as server:
        code = cli.main(
            [
                *("evaluate", "vs2", "--annotations", str(path), "--captions", str(captions), "--runs", "1"),
                *("--judge", JUDGE, "--base-url", server.base_url, "--out", str(out), "--concurrency", "64", "--json"),
            ]
        )
        assert len(server.asked) == 483
        report = json.loads(capsys.readouterr().out)
        again = cli.main(
            [
                *("evaluate", "vs2", "--annotations", str(path), "--captions", str(captions), "--runs", "1"),
                *("--judge", JUDGE, "--base-url", server.base_url, "--protocol", "released", "--json"),
            ]
        )
        # The second run is answered from the cache: another protocol is no other question.
        assert len(server.asked) == 483
    pooled = json.loads(capsys.readouterr().out)
    assert code == again == 0
    assert (report["num_items"], report["num_scored"], report["num_unscored"]) == (483, 483, 0)
    num_even = sum(count % 2 == 0 for count in num_events)
    scores = {score["name"]: score["value"] for score in report["scores"]}
    assert sum(num_events) == 16_541
    assert scores["miss"] == pytest.approx(sum(1 / count for count in num_events) / 483)
    assert scores["hall"] == pytest.approx(sum(1 / count for count in num_events if count % 2 == 0) / 483)
    assert scores["total (pooled)"] == pytest.approx((483 + num_even) / 16_541)
    released = {score["name"]: score["value"] for score in pooled["scores"]}
    assert released["miss"] == pytest.approx(483 / 16_541)
    assert released["hall"] == pytest.approx(num_even / 16_541)
    assert released["total (per caption)"] == pytest.approx(scores["total"])


def test_dry_run_sends_nothing_and_counts_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = write_annotations(tmp_path / "a.json", {"a": 4, "b": 10})
    captions = write_captions(tmp_path / "c.jsonl", ["a", "b"])
    with JudgeServer() as server:
        code = evaluate(server, "--annotations", annotations, "--captions", captions, "--dry-run", "--json")
        assert server.asked == []
    assert code == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["total"]["not_sent"] == 14  # 2 captions, 7 runs as published
    assert summary["total"]["cost_usd"] > 0


def test_cost_ceiling_stops_and_the_next_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = write_annotations(tmp_path / "a.json", {"a": 4, "b": 10, "c": 5})
    captions = write_captions(tmp_path / "c.jsonl", ["a", "b", "c"])
    out = tmp_path / "out"
    arguments = ("--annotations", annotations, "--captions", captions, "--runs", "1", "--out", out)
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}  # $0.002 at 1,10
    with JudgeServer(lambda asked: Step(text=events_reply([1], [], []), usage=usage)) as server:
        # One call fits: 4096 tokens of reply at most, $0.041, beside what its prompt costs.
        assert evaluate(server, *arguments, "--max-cost", "0.0435") == 2
        num_sent = len(server.asked)
        assert 0 < num_sent < 3
        assert "cost" in capsys.readouterr().err
        assert evaluate(server, *arguments) == 0
        assert len(server.asked) == 3
    report = json.loads((out / "report.json").read_text())
    assert report["num_scored"] == 3


def test_another_judge_scores_the_same_captions_from_the_items(tmp_path: Path) -> None:
    annotations = write_annotations(tmp_path / "a.json", {"a": 4, "b": 10})
    captions = write_captions(tmp_path / "c.jsonl", ["a", "b"])
    first, second = tmp_path / "first", tmp_path / "second"
    with JudgeServer(lambda asked: Step(text=events_reply([1], [], []))) as server:
        assert (
            evaluate(server, "--annotations", annotations, "--captions", captions, "--runs", "1", "--out", first) == 0
        )
    with JudgeServer(lambda asked: Step(text=events_reply([1, 2], [], []))) as server:
        code = cli.main(
            [
                *("evaluate", "vs2", "--annotations", str(annotations), "--captions", str(first / "items.jsonl")),
                *("--judge", "other", "--base-url", server.base_url, "--runs", "1", "--out", str(second)),
            ]
        )
        assert code == 0
        assert len(server.asked) == 2
    reports = [json.loads((folder / "report.json").read_text()) for folder in (first, second)]
    # Medians of one run: (1/4 + 1/10) / 2 and (2/4 + 2/10) / 2.
    assert [report["scores"][0]["value"] for report in reports] == pytest.approx([0.175, 0.35])
    assert reports[0]["judge"] != reports[1]["judge"]


def test_compare_pairs_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = write_annotations(tmp_path / "a.json", {"a": 4, "b": 10, "c": 5})
    folders = []
    for number, names in ((1, ["a", "b", "c"]), (2, ["a", "b"])):
        captions = write_captions(tmp_path / f"c{number}.jsonl", names)
        folders.append(tmp_path / f"run{number}")
        with JudgeServer(
            lambda asked, number=number: Step(text=events_reply(list(range(1, number + 1)), [], []))
        ) as server:
            arguments = ("--annotations", annotations, "--captions", captions, "--runs", "1", "--out", folders[-1])
            assert (
                cli.main(
                    ["evaluate", "vs2", *map(str, arguments), "--judge", f"j{number}", "--base-url", server.base_url]
                )
                == 0
            )
    capsys.readouterr()
    assert cli.main(["evaluate", "vs2", "--compare", *map(str, folders), "--json"]) == 0
    comparison = json.loads(capsys.readouterr().out)
    total = comparison["scores"]["total"]
    # a: 1/4 against 2/4, b: 1/10 against 2/10; c has no partner.
    assert total["difference"] == pytest.approx(-(0.25 + 0.1) / 2)
    assert (total["num_pairs"], total["num_only_a"] + total["num_unscored"]) == (2, 1)
    assert total["p_value"] == pytest.approx(0.5)  # of the four ways to swap, both ends are as far out
    assert any("judge" in warning for warning in comparison["warnings"])
    assert cli.main(["evaluate", "vs2", "--compare", str(tmp_path), str(folders[0])]) == 2


def test_wrong_use_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = write_annotations(tmp_path / "a.json", {"a": 4})
    captions = write_captions(tmp_path / "c.jsonl", ["nobody"])
    for arguments, expected in (
        ((), "--captions"),
        (("--captions", captions), "AVOCET_BENCHMARK_DATA"),
        (("--captions", captions, "--annotations", annotations, "--judge", "exact"), "name a model: --judge gpt-4.1"),
        (("--captions", captions, "--annotations", annotations), "--judge"),
        (("--captions", captions, "--annotations", annotations, "--judge", "x"), "AVOCET_JUDGE_API_KEY"),
        (("--model", "nano", "--annotations", annotations), "--videos"),
        (("--captions", captions, "--annotations", annotations, "--runs", "0"), "runs"),
    ):
        assert cli.main(["evaluate", "vs2", *map(str, arguments)]) == 2
        assert expected in capsys.readouterr().err
    with JudgeServer() as server:
        assert evaluate(server, "--captions", captions, "--annotations", annotations) == 2
        assert server.asked == []
    assert "none of the captions" in capsys.readouterr().err


def test_protocol_must_exist() -> None:
    from avocet.errors import ConfigError

    with pytest.raises(ConfigError, match="no protocol 'released'"):
        BenchmarkRun(benchmark=load_benchmark("ugc"), items=[], protocol="released")
