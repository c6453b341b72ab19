"""What is typed after `avocet evaluate`: which captions are taken, how the judge is asked, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from judge_server import Asked, JudgeServer, Step

from avocet import cli

pytestmark = pytest.mark.usefixtures("no_surroundings")


def reply(num_missed: int) -> Step:
    fields: dict[str, Any] = {"reasoning": "r", "missed": list(range(1, num_missed + 1)), "num_missed": num_missed}
    return Step(
        text=json.dumps({**fields, "incorrect": [], "hallucinated": [], "num_incorrect": 0, "num_hallucinated": 0})
    )


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    path = tmp_path / "annotations.json"
    turns = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": "Reference."}]
    path.write_text(
        json.dumps(
            [
                {"video": f"{name}.mp4", "conversations": turns, "events": [f"event {n} of {name}" for n in range(4)]}
                for name in "ab"
            ]
        )
    )
    return path


def run(server: JudgeServer, annotations: Path, *arguments: str | Path) -> int:
    judge = ("--judge", "j", "--base-url", server.base_url, "--runs", "1")
    return cli.main(["evaluate", "vs2", "--annotations", str(annotations), *judge, *map(str, arguments)])


def captions_file(path: Path, captions: Any) -> Path:
    path.write_text(json.dumps(captions))
    return path


def total(path: Path) -> float:
    report = json.loads((path / "report.json").read_text())
    value: float = report["scores"][0]["value"]
    return value


def test_another_temperature_is_another_judgement(tmp_path: Path, annotations: Path) -> None:
    captions = captions_file(tmp_path / "c.json", {"a": "x", "b": "y"})
    out = tmp_path / "out"
    with JudgeServer(lambda asked: reply(1 if asked.body["temperature"] == 0 else 3)) as server:
        assert run(server, annotations, "--captions", captions, "--out", out) == 0
        assert total(out) == 0.25
        assert run(server, annotations, "--captions", captions, "--out", out, "--judge-temperature", "1") == 0
        assert len(server.asked) == 4
    assert total(out) == 0.75
    assert json.loads((out / "report.json").read_text())["judge_settings"] == {"temperature": 1.0, "max_tokens": 4096}
    assert json.loads((out / "run.json").read_text())["arguments"]["judging"]["judge_temperature"] == 1.0
    assert "temperature 1.0, max_tokens 4096; 1 run; protocol" in (out / "report.md").read_text()


def test_unreadable_replies_are_asked_again_on_request(
    tmp_path: Path, annotations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = captions_file(tmp_path / "c.json", {"a": "x"})
    replies = {"now": Step(text="The service is overloaded, please retry.")}
    out = tmp_path / "out"
    with JudgeServer(lambda asked: replies["now"]) as server:
        assert run(server, annotations, "--captions", captions, "--out", out) == 2
        assert "--ask-again asks for others" in capsys.readouterr().err
        replies["now"] = reply(1)
        assert run(server, annotations, "--captions", captions, "--out", out) == 2
        assert len(server.asked) == 2
        assert run(server, annotations, "--captions", captions, "--out", out, "--ask-again") == 0
        assert len(server.asked) == 3
    assert total(out) == 0.25


def test_one_of_several_captions(tmp_path: Path, annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = captions_file(tmp_path / "c.json", {"a": ["first", "second"], "b": ["first"]})

    def script(asked: Asked) -> Step:
        return reply(1 if "first" in asked.text else 4)

    with JudgeServer(script) as server:
        assert run(server, annotations, "--captions", both) == 2
        assert "take one of them with --sample NUMBER" in capsys.readouterr().err
        for number, value, num_missing in (("1", 0.25, 0), ("2", 1.0, 1)):
            assert run(server, annotations, "--captions", both, "--sample", number, "--json") == 0
            report = json.loads(capsys.readouterr().out)
            assert (report["scores"][0]["value"], report["num_missing"]) == (value, num_missing)
        assert run(server, annotations, "--captions", both, "--sample", "3") == 2
        assert "sample 3 was asked for, but the videos have up to 2 captions" in capsys.readouterr().err


def test_captions_of_the_folder_of_a_run(tmp_path: Path, annotations: Path) -> None:
    captions = captions_file(tmp_path / "c.json", {"a": "x"})
    first, second = tmp_path / "first", tmp_path / "second"
    with JudgeServer(lambda asked: reply(2)) as server:
        assert run(server, annotations, "--captions", captions, "--out", first) == 0
        assert run(server, annotations, "--captions", first, "--out", second) == 0
    assert (second / "verdicts.jsonl").read_text() == (first / "verdicts.jsonl").read_text()
    assert json.loads((second / "report.json").read_text())["num_missing"] == 1


def test_a_dry_run_captions_nothing(tmp_path: Path, annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ("--model", "no-such-model", "--videos", tmp_path, "--out", out, "--dry-run")
    with JudgeServer() as server:
        # A model that does not exist shows that none is loaded.
        assert run(server, annotations, *arguments) == 2
        assert "--dry-run captions nothing" in capsys.readouterr().err
        assert not out.exists()
        out.mkdir()
        captions_file(out / "captions.jsonl", {"a": "x"})
        assert run(server, annotations, *arguments, "--json") == 0
        assert json.loads(capsys.readouterr().out)["total"]["not_sent"] == 1
        assert server.asked == []


def test_half_a_surrogate_pair_is_no_end(tmp_path: Path, annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"video": "a", "caption": "A dog \\ud83d"}\n{"video": "b", "caption": "\\ud83d\\ude00"}\n')
    out = tmp_path / "out"
    with JudgeServer(lambda asked: reply(1)) as server:
        assert run(server, annotations, "--captions", path, "--out", out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_scored"] == 2
    assert report["warnings"][0] == (
        f"1 entries of the files hold half of a surrogate pair, which is no character and was replaced by U+FFFD; the "
        f"first: {path}: line 1"
    )
    texts = [json.loads(line)["caption"] for line in (out / "items.jsonl").read_text().splitlines()]
    assert texts == ["A dog \N{REPLACEMENT CHARACTER}", "\N{GRINNING FACE}"]


def test_captions_that_judges_saw_in_part(
    tmp_path: Path, annotations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = captions_file(tmp_path / "c.json", {"a": "x " * 40_000, "b": "y " * 50_000})
    with JudgeServer(lambda asked: reply(1)) as server:
        assert run(server, annotations, "--captions", captions, "--json") == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [
        '2 items were judged with the note "caption: cut from N to N characters"'
    ]


def test_wrong_names_and_places(tmp_path: Path, annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = captions_file(tmp_path / "c.json", {"a": "x"})
    assert cli.main(["evaluate", "nosuch"]) == 2
    assert "there is no benchmark 'nosuch'; there are theatre, vs2, vs2-local" in capsys.readouterr().err
    with JudgeServer(lambda asked: reply(1)) as server:
        for place, problem in ((captions, "File exists"), (captions / "x", "Not a directory")):
            assert run(server, annotations, "--captions", captions, "--out", place) == 2
            assert f"the folder --out {place} cannot be made: {problem}" in capsys.readouterr().err
        assert server.asked == []
