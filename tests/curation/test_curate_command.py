"""`avocet curate` where things go wrong: stale files, two processes, full disks, bad options, bad captions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curation_media import write_video
from curation_runs import card, command, dropped, examples, make_corpus, teaching
from judge_server import Step
from scripted_teachers import Faults

from avocet.cli import main
from avocet.curation import read_manifest
from avocet.curation.pipelines.run import read_run_record, run_lock
from avocet.records import Caption, Sampling

TWO = (6, 23)


@pytest.fixture
def corpus(tmp_path: Path, stage_play: Callable[..., Path], static_play: Path) -> Path:
    return make_corpus(tmp_path / "corpus", stage_play, static_play, TWO)


def test_exports_of_an_earlier_run_do_not_stay(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with teaching(Faults(), (2, *TWO)) as (server, _):
        words = command("avocado", corpus, out, server)
        formats = ("--format", "parquet", "plus", "webdataset")
        # Of the three sources two go to validation at this seed.
        assert main([*words, "--val-fraction", "0.5", "--seed", "1", *formats]) == 0
        sides = {split: card(out).splits[split].num_clips for split in ("train", "val")}
        assert min(sides.values()) > 0
        names = {f"{split}{ending}" for split in sides for ending in (".parquet", ".plus.json", "-shards")}
        assert names <= {path.name for path in out.iterdir()}
        assert main([*words, "--val-fraction", "0", "--format", "plus"]) == 0
        left = {path.name for path in out.iterdir()} & names
    assert left == {"train.plus.json"}
    assert len(json.loads((out / "train.plus.json").read_text())) >= 3


def test_a_run_says_what_was_run_and_its_folder_is_its_own(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with teaching(Faults(), (2, *TWO)) as (server, teachers):
        words = command("avocado", corpus, out, server, "--seed", "7", "--format", "plus")
        with run_lock(out):
            assert main(words) == main(["curate", "annotate", str(corpus), "--out", str(out)]) == 2
            assert capsys.readouterr().err.count("another process works in") == 2
        assert teachers.asked == []
        assert main(words) == 0
        record = read_run_record(out)
        assert record.inputs == (str(corpus),)
        assert (record.output["seed"], record.output["val_fraction"], record.output["formats"]) == (7, 0.05, ["plus"])
        assert record.asking["teachers"]["fuse"]["temperature"] == 0.5
        assert record.code["versions"]["avocet"]
        with run_lock(out):
            assert main(["curate", "card", str(out)]) == 2
        # A later run that stops leaves no card behind that would be half of each.
        server.script = lambda asked: Step(status=401)
        assert main([*words, "--num-questions", "4"]) == 2
        capsys.readouterr()
        assert main(["curate", "card", str(out)]) == 2
        assert "unfinished: it has not gone through stage 'qa'" in capsys.readouterr().err


def test_options_of_the_output_are_checked_first(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with teaching(Faults(), (2, *TWO)) as (server, teachers):
        words = command("avocado", corpus, tmp_path / "out", server)
        assert main([*words, "--val-fraction", "1.5"]) == 2
        assert "val_fraction must be from 0 to 1, got 1.5" in capsys.readouterr().err
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        assert main([*words, "--format", "parquet"]) == 2
        assert "avocet[train]" in capsys.readouterr().err
    assert teachers.asked == []
    assert not (tmp_path / "out" / "stages").exists()


def test_folders_that_cannot_be_written_are_told(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    with teaching(Faults(), (2, *TWO)) as (server, teachers):
        assert main(command("avocado", corpus, tmp_path / "file", server)) == 2
        assert "file cannot be used as the folder of a run" in capsys.readouterr().err
        # No file may grow beyond 256 KB, and the manifests of this clip do.
        line = {"path": str(corpus.parent / "play06.mp4"), "meta": {"long": "x" * 400_000}}
        corpus.write_text(json.dumps(line) + "\n")
        words = command("avocado", corpus, tmp_path / "out", server, "--dry-run")
        limited = ["bash", "-c", 'ulimit -f 256; exec "$@"', "x", sys.executable, "-m", "avocet", *words]
        full = subprocess.run(limited, capture_output=True, text=True, check=False)
        assert (full.returncode, "Traceback" in full.stderr) == (2, False), full.stderr
        assert "the same command continues when that is mended" in full.stderr
        assert main(words) == 0
    assert teachers.asked == []


def test_looks_that_fail_are_made_as_often_as_was_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("a", "b"):
        (tmp_path / "videos" / f"{name}.mp4").symlink_to(tmp_path / "nowhere.mp4")
    with teaching(Faults(), TWO) as (server, _):
        words = command("avocado", tmp_path / "videos", tmp_path / "out", server)
        assert main([*words, "--max-attempts", "1"]) == 1
    attempts = (tmp_path / "out/stages/probe/attempts.jsonl").read_text().splitlines()
    assert [Path(json.loads(line)["clip_id"]).name for line in attempts] == ["a.mp4", "b.mp4"]
    assert card(tmp_path / "out").stages[0].num_failed_attempts == 2
    assert card(tmp_path / "out").stages[0].failed == {"media_unavailable": 2}
    assert "**Unfinished:** 2 clips have failed" in capsys.readouterr().out


def noise(seed: int, seconds: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (8 per second) that move, and a sound."""
    draw = np.random.default_rng(seed)
    blocks = draw.integers(0, 255, (seconds * 8, 6, 8, 3), dtype=np.uint8)
    return blocks.repeat(16, 1).repeat(16, 2), (0.2 * draw.normal(size=seconds * 16_000)).astype(np.float32)


def test_an_answer_that_serves_two_clips_is_paid_for_once(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    _, sound = noise(0, 5)
    for seed in (1, 2):
        write_video(tmp_path / "videos" / f"{seed}.mp4", noise(seed, 5)[0], sound)
    with teaching(Faults(), TWO) as (server, teachers):
        assert main(command("avocado", tmp_path / "videos", tmp_path / "out", server, "--val-fraction", "0")) == 0
    made = card(tmp_path / "out")
    assert (made.num_clips_out, teachers.count("audio_caption"), teachers.count("visual_caption")) == (2, 1, 2)
    assert made.cost.num_calls == len(teachers.asked)


def test_clips_without_sound_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "mute.mp4", noise(1, 5)[0], None)
    with teaching(Faults(), TWO) as (server, teachers):
        words = command("avocado", tmp_path / "videos", tmp_path / "out", server, "--val-fraction", "0")
        assert main(words) == 0
        assert list(dropped(tmp_path / "out").values()) == ["sound:no_audio"]
        assert main([*words, "--keep-all-sounds"]) == 0
    (made,) = (one for one in examples(tmp_path / "out" / "train.jsonl") if one.task == "caption")
    assert Path(made.clip.path).name == "mute.mp4"
    assert (teachers.count("audio_caption"), teachers.count("contradiction")) == (0, 0)


def test_a_captioner_is_the_visual_teacher_of_vs2(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching(Faults(), (2, *TWO)) as (server, teachers):
        words = [word for word in command("vs2", corpus, tmp_path / "out", server) if "=teacher@" not in word]
        words += [f"--teacher={role}=teacher@{server.base_url}" for role in ("audio", "asr", "fuse", "check")]
        words += ["--teacher=visual=nano", "--val-fraction", "0"]
        assert main([*words, "--dry-run"]) == 0
        assert "no local captions: nano" in capsys.readouterr().err
        assert teachers.asked == []
        assert main(words) == 0
    made = card(tmp_path / "out")
    assert (made.num_failed, made.run.notes[0][:18]) == (0, "no local captions:")
    assert "**Note:** no local captions: nano" in capsys.readouterr().out
    assert "local" not in made.run.stages
    assert {one.task for one in examples(tmp_path / "out" / "train.jsonl")} == {"caption"}


def caption_line(number: int, text: str, stop_reason: Any = "end") -> str:
    return Caption(
        clip_id=f"c{number}",
        path="/v/a.mp4",
        text=text,
        model="nano",
        revision="1",
        instruction="Tell.",
        sampling=Sampling(max_new_tokens=9),
        stop_reason=stop_reason,
        num_tokens=9,
        audio_used=True,
        audio_status="present",
        num_frames=3,
        fps=1.0,
        start_seconds=0.0,
        end_seconds=12.0,
        layout_rule="x",
    ).to_json_line()


def test_captions_that_were_cut_off_are_no_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [caption_line(1, "A dog runs. A man sings."), caption_line(2, "A dog runs a", "length")]
    lines += [caption_line(3, "x x x x", "repetition"), caption_line(4, " "), '{"clip_id": "c5", "stop_reason": 5}']
    (tmp_path / "captions.jsonl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    with teaching(Faults(), TWO) as (server, teachers):
        words = ["curate", "annotate", str(tmp_path / "captions.jsonl"), "--out", str(out), "--annotations", "events"]
        words += [f"--teacher=check=teacher@{server.base_url}", "--cache", str(tmp_path / "a.sqlite")]
        assert main(words) == 1, "a line that could not be read is an error, the others have an outcome"
        assert teachers.count("events") == 1
        assert [one.clip.id for one in examples(out / "annotated.jsonl")] == ["c1"]
        rows = [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]
        assert [(row["clip_id"], row["reason"]) for row in rows] == [
            *(("c2", "cut_off"), ("c3", "repetition"), ("c4", "empty"), (None, "unreadable"))
        ]
        assert rows[0]["where"].endswith("captions.jsonl:2")
        assert "its limit of 9 tokens" in rows[0]["detail"]
        assert card(out).run.left_out == {"cut_off": 1, "empty": 1, "repetition": 1, "unreadable": 1}
        told = capsys.readouterr()
        assert "4 of 5 are left out; all are in" in told.err
        assert "| cut_off | 1 |" in told.out
        assert main([*words, "--keep-cut-off"]) == 1
        kept = examples(out / "annotated.jsonl")
        assert [(one.clip.id, one.clip.meta.get("stop_reason")) for one in kept] == [
            *(("c1", None), ("c2", "length"), ("c3", "repetition"))
        ]
        (tmp_path / "captions.jsonl").write_text("\n".join(lines[:4]) + "\n")
        assert main(words) == 0
        (tmp_path / "captions.jsonl").write_text(lines[1] + "\n")
        assert main(words) == 2
        assert "no training examples and no captions (1 left out)" in capsys.readouterr().err


def test_rejected_lines_are_counted_and_all_on_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"clip": {"id": "g", "path": "/x.mp4"}, "task": "caption", "instruction": "T", "target": "A dog runs."}
    lines = [good, *({**good, "clip": {"id": f"b{number}", "path": "/x.mp4"}, "target": ""} for number in range(15))]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    with teaching(Faults(), TWO) as (server, _):
        words = ["curate", "annotate", str(tmp_path / "train.jsonl"), "--out", str(tmp_path / "out")]
        words += [f"--teacher=check=teacher@{server.base_url}", "--cache", str(tmp_path / "a.sqlite")]
        assert main([*words, "--annotations", "events"]) == 1
    assert len((tmp_path / "out/left_out.jsonl").read_text().splitlines()) == 15
    assert card(tmp_path / "out").run.left_out == {"unreadable": 15}
    told = capsys.readouterr().err
    assert told.count("left out: ") == 10
    assert "15 of 16 are left out" in told


def test_pieces_have_the_hash_of_their_file(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    parts = [noise(seed, 4)[0][:1].repeat(32, 0) for seed in (1, 2)]
    for part in parts:
        part[[frame for frame in range(32) if frame % 8 < 4], :16] = 255  # something moves every half second
    write_video(tmp_path / "videos" / "film.mp4", np.concatenate(parts), noise(0, 8)[1])
    with teaching(Faults(), TWO) as (server, _):
        words = command("avocado", tmp_path / "videos", tmp_path / "out", server, "--cut-shots", "--dry-run")
        assert main([*words, "--max-seconds", "5"]) == 0
    pieces = list(read_manifest(tmp_path / "out/stages/duplicates/clips.jsonl"))
    (film,) = read_manifest(tmp_path / "out/stages/probe/clips.jsonl")
    assert len(pieces) == 2
    assert {piece.file_sha256 for piece in pieces} == {film.facts["probe"]["file_sha256"]}


def test_the_help_shows_one_example_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curate", "--help"]) == 0
    shown = capsys.readouterr().out.splitlines()
    commands = [line for line in shown if line.startswith("- avocet curate ")]
    assert [line.split()[3] for line in commands] == ["avocado", "vs2", "annotate", "card"]
