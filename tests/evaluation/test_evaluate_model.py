"""From a model and a folder of videos to a report: each item asked what the benchmark asks, nothing captioned twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import Asked, JudgeServer, Step

from avocet import cli
from avocet.captioning import Captioner
from avocet.captioning.styles import STYLES
from avocet.evaluation.benchmarks import load_benchmark
from avocet.evaluation.captioning import caption_items
from avocet.evaluation.items import BenchmarkItem
from avocet.records import Caption

pytestmark = pytest.mark.usefixtures("no_surroundings")


def item(name: str, **fields: Any) -> BenchmarkItem:
    own: dict[str, Any] = {"video": f"videos/{name}.mp4", "instruction": f"Ask about {name}."}
    return BenchmarkItem(id=name, **{**own, **fields})


@pytest.fixture
def videos(tmp_path: Path, clip_writer: Callable[..., Path]) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "b"):
        clip_writer(folder / f"{name}.mp4")
    (folder / "broken.mp4").write_text("no video")
    return folder


def test_items_are_asked_what_their_benchmark_asks(videos: Path, tmp_path: Path, scripted_model: Callable) -> None:
    model = scripted_model(lambda clip_id: f"Caption of {clip_id}.")
    captioner = Captioner(model, "toy", "rev1")
    items = [item("a"), item("b"), item("broken"), item("gone"), item("silent", instruction=None, video="a.mp4")]
    progress: list[tuple[int, int]] = []
    path = caption_items(
        load_benchmark("vs2"),
        items,
        captioner,
        videos,
        tmp_path / "out",
        progress=lambda done, total: progress.append((done, total)),
    )
    captions = [Caption.from_json(line) for line in path.read_text().splitlines()]
    assert [(one.clip_id, one.instruction, one.instruction_source) for one in captions] == [
        ("a", "Ask about a.", "benchmark:vs2"),
        ("b", "Ask about b.", "benchmark:vs2"),
    ]
    assert all(one.audio_used for one in captions)
    failures = [json.loads(line) for line in (tmp_path / "out" / "captions.failures.jsonl").read_text().splitlines()]
    assert [failure["clip_id"] for failure in failures] == ["gone", "silent", "broken"]
    assert "no file named" in failures[0]["error"]
    assert progress[-1] == (3, 3)
    model.batches.clear()
    caption_items(load_benchmark("vs2"), items, captioner, videos, tmp_path / "out")
    assert model.batches == []  # only the broken file was tried again


def test_benchmarks_of_the_picture_alone_are_captioned_without_sound(
    videos: Path, tmp_path: Path, scripted_model: Callable
) -> None:
    captioner = Captioner(scripted_model(), "toy", "rev1")
    path = caption_items(load_benchmark("vdc"), [item("a", instruction=None)], captioner, videos, tmp_path / "out")
    caption = Caption.from_json(path.read_text())
    assert not caption.audio_used
    assert caption.instruction in STYLES["visual"]


def test_command_from_model_to_report(
    videos: Path, tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [
        {
            "video": f"video/{name}.mp4",
            "conversations": [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": "Reference."}],
            "events": ["one event", "another event"],
        }
        for name in ("a", "b", "broken", "gone")
    ]
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(entries))

    def script(asked: Asked) -> Step:
        fields = {"reasoning": "r", "missed": [1], "incorrect": [], "hallucinated": []}
        return Step(text=json.dumps({**fields, "num_missed": 1, "num_incorrect": 0, "num_hallucinated": 0}))

    out = tmp_path / "out"
    with JudgeServer(script) as server:
        arguments = [
            *("evaluate", "vs2", "--annotations", str(annotations), "--model", str(tiny_model_folder)),
            *("--videos", str(videos), "--out", str(out), "--runs", "1", "--json"),
            *("--judge", "j", "--base-url", server.base_url),
        ]
        assert cli.main(arguments) == 0
        report = json.loads(capsys.readouterr().out)
        written = (out / "captions.jsonl").read_bytes()
        assert cli.main(arguments) == 0
        assert (out / "captions.jsonl").read_bytes() == written
    assert report["captioner"].startswith("tiny (")
    # A caption without words misses everything without a call; either way half or all of two events.
    scores = {score["name"]: score["value"] for score in report["scores"]}
    assert scores["miss"] in (0.5, 0.75, 1.0)
    assert (report["num_captioned"], report["num_missing"]) == (2, 2)
    assert report["missing"]["video/gone.mp4"].startswith("no caption (media): no file named")
    assert report["missing"]["video/broken.mp4"].startswith("no caption (media)")
    run = json.loads((out / "run.json").read_text())
    assert run["arguments"]["judging"]["judge"] == "j"
    assert run["costs"]["total"]["calls"] <= 2
