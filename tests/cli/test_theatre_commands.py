"""`avocet theatre`, `avocet evaluate` and `avocet demo` with a small random model of the real class."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import av
import pytest

from avocet.cli import main
from avocet.cli.demo import page_findings
from avocet.theatre.judge import judge
from avocet.theatre.language import INSTRUCTIONS, reference_caption
from avocet.theatre.questions import make_questions, open_questions
from avocet.theatre.script import make_script
from avocet.training.data import read_examples


def test_show_prints_timeline_captions_and_questions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theatre", "show", "7", "--level", "2", "--num-captions", "2"]) == 0
    text = capsys.readouterr().out
    script = make_script(7, 2)
    for event in script.events:
        assert (event.utterance or event.word or event.sound or event.scene or event.shape) in text
    assert text.splitlines()[0].startswith("theatre-2-7: ")
    assert reference_caption(script) in text
    assert "\nquestions\n" in text


def test_make_writes_clips_and_their_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["theatre", "make", "--level", "1", "--seed", "40", "--num-clips", "2", "--out", str(tmp_path)]
    assert main([*argv, "--workers", "1"]) == 0
    truths = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert [truth["clip_id"] for truth in truths] == ["theatre-1-40", "theatre-1-41"]
    for truth, script in zip(truths, (make_script(40), make_script(41)), strict=True):
        assert truth["script"]["events"] == [dataclasses.asdict(event) for event in script.events]
        assert len(truth["events"]) == len(script.events)
        speech = [event for event in script.events if event.kind == "speech"]
        assert [line["text"] for line in truth["dialogue"]] == [event.utterance for event in speech]
        assert all(judge(caption, script).total == 0 for caption in truth["captions"])
        with av.open(str(tmp_path / truth["path"])) as container:
            assert container.metadata["comment"] == f"avocet theatre {script.id}"
    assert str(tmp_path) in capsys.readouterr().out


def test_make_writes_training_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named from the folder of the examples, which need not be that of the clips; the reader finds them."""
    clips, file = tmp_path / "clips", tmp_path / "data" / "train.jsonl"
    argv = ["theatre", "make", "--seed", "10000003", "--num-clips", "2", "--level", "2", "--out", str(clips)]
    assert main([*argv, "--workers", "1", "--examples", str(file)]) == 0
    assert f"2 training examples are in {file}" in capsys.readouterr().out
    line = json.loads(file.read_text().splitlines()[0])
    assert line["clip"]["path"] == "../clips/theatre-2-10000003.mp4"
    found = read_examples(str(file))
    assert not found.rejected
    for example, script in zip(found.examples, (make_script(10_000_003, 2), make_script(10_000_004, 2)), strict=True):
        assert Path(example.clip.path).is_file()
        assert example.clip.meta == {"theatre": {"seed": script.seed, "level": 2}}
        assert example.task == "caption"
        # Seeds 10,000,003 and ...4: remainders 3 and 0 of four wordings.
        assert example.instruction == INSTRUCTIONS["caption"][3 if script.seed == 10_000_003 else 0]
        assert example.target == reference_caption(script)
        assert judge(example.target, script).total == 0
        assert len(example.events) == len(script.events)
        speech = [event.utterance for event in script.events if event.kind == "speech"]
        assert [turn["text"] for turn in example.dialogue] == speech


@pytest.mark.parametrize("answers", ["words", "letter"])
def test_make_writes_questions(tmp_path: Path, answers: str) -> None:
    file = tmp_path / "data" / "qa.jsonl"
    options = ["--questions", str(file), *(["--answers", answers] if answers == "letter" else [])]
    assert main(["theatre", "make", "--num-clips", "2", "--seed", "3", "--out", str(tmp_path / "clips"), *options]) == 0
    found = read_examples(file)
    assert not found.rejected
    expected = [
        (f"theatre-1-{seed}", *pair)
        for seed in (3, 4)
        for pair in (
            [(one.text, one.letter) for one in make_questions(make_script(seed, 1))]
            if answers == "letter"
            else [(one.question, one.right_option) for one in open_questions(make_script(seed, 1))]
        )
    ]
    assert [(one.clip.id, one.instruction, one.target) for one in found.examples] == expected
    assert {one.task for one in found.examples} == {"qa"}
    assert Path(found.examples[0].clip.path).resolve() == tmp_path / "clips" / "theatre-1-3.mp4"


def test_wrong_levels_and_counts_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theatre", "show", "1", "--level", "9"]) == 2
    assert main(["theatre", "make", "--num-clips", "0", "--out", str(tmp_path)]) == 2
    assert main(["demo", "--num-clips", "0", "--out", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_evaluate_prints_one_json_object(
    tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", "theatre", "--level", "1", "--model", str(tiny_model_folder), "--num-clips", "2"]
    argv += ["--seed", "990000", "--workers", "1", "--max-new-tokens", "6", "--out", str(tmp_path)]
    assert main([*argv, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "report.json").read_text())
    expected = {"level": 1, "model": "tiny", "num_clips": 2, "seed": 990000, "control": "none", "num_unscored": 0}
    assert {name: report[name] for name in expected} == expected
    assert report["num_events"] == len(make_script(990_000).events) + len(make_script(990_001).events)
    assert report["total"] == pytest.approx(report["miss"] + report["hall"])
    assert report["sampling"]["max_new_tokens"] == 6
    assert main(argv) == 0
    assert "on theatre level 1, 2 clips from seed 990000" in capsys.readouterr().out


class Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.videos = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.videos += tag == "video"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_demo_writes_its_page(tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--num-clips", "2", "--model", str(tiny_model_folder)]) == 0
    printed = capsys.readouterr().out
    page = (out / "index.html").resolve()
    assert str(page) in printed
    assert "caption by tiny" in printed
    reader = Text()
    reader.feed(page.read_text(encoding="utf-8"))
    assert reader.videos == 2
    for seed in (4_000_000, 4_000_001):
        assert (out / f"theatre-1-{seed}.mp4").exists()
        assert f"theatre-1-{seed}" in reader.text
        assert reference_caption(make_script(seed)) in reader.text


def test_right_and_wrong_events_add_up() -> None:
    for seed in range(20):
        script, other = make_script(seed, 2), make_script(seed + 1, 2)
        for caption in (reference_caption(script), reference_caption(other), ""):
            found = judge(caption, script)
            findings = page_findings(script, found)
            assert len(findings.correct) + len(findings.missed) + len(findings.incorrect) == len(script.events)
            assert len(findings.incorrect) == len(found.incorrect)
