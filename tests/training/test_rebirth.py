"""Rebirth at tiny size: what is taught, what is dropped, and that a killed run comes to the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from avocet.errors import ConfigError
from avocet.evaluation.exact_judge import ExactEventJudge
from avocet.records import ClipRef, Sampling, TrainingExample
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training import rebirth
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.finetune.inputs import ClipReader
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.gate import StopRules
from avocet.training.mrdpo.records import SampledCaption
from avocet.training.mrdpo.scoring import CaptionScorer, theatre_item
from avocet.training.pairs import RoundThresholds, Thresholds
from avocet.training.rebirth import Rebirth, caption_reason, describe, run_rebirth

ANY = Thresholds(error_rate=0.01, repetition_rate=-1.0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips to caption, one of them with a question too, one of them for the round, and one held out."""
    folder = tmp_path_factory.mktemp("rebirth")
    lines: dict[str, list[str]] = {"train": [], "held_out": [], "round": []}
    for seed in range(4):
        stage(make_script(seed, 1), folder / f"{seed}.mp4")
        clip = {"id": f"clip-{seed}", "path": f"{seed}.mp4", "meta": {"theatre": {"seed": seed, "level": 1}}}
        example = {"clip": clip, "task": "caption", "instruction": "", "target": "What a teacher wrote."}
        lines["held_out" if seed == 3 else "train"].append(json.dumps(example) + "\n")
        if seed == 2:
            lines["round"].append(json.dumps(example) + "\n")
        if seed == 0:
            question = {"task": "qa", "instruction": "Which? A: a. B: b. C: c. D: d.", "target": "B"}
            lines["train"].append(json.dumps(example | question) + "\n")
    for name, own in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(own))
    return folder


@pytest.fixture
def plan(clips: Path) -> Rebirth:
    shared: dict[str, Any] = {
        "model": "nano",
        "sources": (DataSource(path=str(clips / "train.jsonl")),),
        "trainable": (),
        "lora": LoraSettings(rank=2, alpha=4),
        "optimizer": FineTuneOptimizer(learning_rate=1e-3),
        "batch": BatchSettings(max_examples=2, micro_examples=2),
        "read": ReadSettings(num_workers=0),
        "precision": "float32",
        "max_steps": 2,
    }
    sampling = Sampling(temperature=2.0, max_new_tokens=60)
    return Rebirth(
        name="rebirth",
        teacher="nano",
        sources=shared["sources"],
        sft=FineTune(name="sft", stage="sft", save_every=1, **shared),
        round=MrDpo(
            name="round",
            held_out=(DataSource(path=str(clips / "held_out.jsonl")),),
            rounds=1,
            samples_per_clip=3,
            sampling=sampling,
            thresholds={1: RoundThresholds(global_=ANY, local=ANY)},
            stop=StopRules(max_unnatural=1.0, max_total_rise=10.0),
            min_pairs=1,
            **{**shared, "sources": (DataSource(path=str(clips / "round.jsonl")),)},
        ),
        sampling=Sampling(max_new_tokens=100),
        read=ReadSettings(num_workers=0),
    )


def scorer() -> CaptionScorer:
    return CaptionScorer(ExactEventJudge(), theatre_item)


def test_the_student_learns_the_teachers_captions_and_the_questions(plan: Rebirth, tmp_path: Path) -> None:
    result = run_rebirth(plan, tmp_path, scorer(), say=lambda _: None)
    folder = tmp_path / "rebirth"
    told = {line["key"]: line["captions"][0]["text"] for line in read_lines(folder / "captions.jsonl")}
    data = [TrainingExample.from_json(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    assert (result.filtered.num_captions, result.filtered.num_kept, result.filtered.dropped) == (3, 3, {})
    assert [example.task for example in data] == ["caption", "caption", "caption", "qa"]
    assert sorted(example.target for example in data[:3]) == sorted(told.values())
    assert data[3].target == "B"
    assert Path(data[0].clip.path).is_absolute()
    assert Path(result.reborn).joinpath("model.safetensors").exists()
    assert result.rounds is not None
    assert result.final == result.rounds.rounds[result.rounds.best].model
    assert "finished: filtered.json, model, result.json" in describe(plan, tmp_path)
    with pytest.raises(ConfigError, match=r"started with another plan \(sampling changed\)"):
        run_rebirth(dataclasses.replace(plan, sampling=Sampling(max_new_tokens=9)), tmp_path, scorer())


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_killed_run_comes_to_the_same(plan: Rebirth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dataclasses.replace(plan, round=None)
    whole = run_rebirth(plan, tmp_path / "whole", None, say=lambda _: None)
    for name in ("fine_tune", "export_merged"):

        def dies(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(rebirth, name, dies)
            with pytest.raises(KeyboardInterrupt):
                run_rebirth(plan, tmp_path / "killed", None, say=lambda _: None)
    killed = run_rebirth(plan, tmp_path / "killed", None, say=lambda _: None)
    first, second = (load_file(Path(one.final) / "model.safetensors") for one in (whole, killed))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_one_teacher_teaches_whatever_the_rounds_come_to_meanwhile(
    plan: Rebirth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path
) -> None:
    rounds = tmp_path / "rounds"
    rounds.mkdir()
    (rounds / "best.json").write_text(json.dumps({"round": 1, "model": "nano"}))
    plan = dataclasses.replace(plan, teacher=str(rounds), round=None, sampling_batch=1)
    read, batches = ClipReader.read, []

    def dies_at_the_second(self: ClipReader, examples: Any) -> Any:
        if batches:
            raise KeyboardInterrupt
        batches.append(examples)
        return read(self, examples)

    with monkeypatch.context() as patch:
        patch.setattr(ClipReader, "read", dies_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            run_rebirth(plan, tmp_path, None)
    (rounds / "best.json").write_text(json.dumps({"round": 2, "model": str(tiny_model_folder)}))
    assert "3 clips captioned by nano" in describe(plan, tmp_path)
    run_rebirth(plan, tmp_path, None, say=lambda _: None)
    folder = tmp_path / "rebirth"
    assert json.loads((folder / "teacher.json").read_text()) == {"model": "nano"}
    assert [line["settings"]["model"] for line in read_lines(folder / "captions.jsonl")] == ["nano"] * 3
    # The same name with other weights is noticed too.
    (folder / "filtered.json").unlink()
    (folder / "teacher.json").write_text(json.dumps({"model": str(tiny_model_folder)}))
    with pytest.raises(ConfigError, match=r"sampled with .*'model': 'nano'"):
        run_rebirth(plan, tmp_path, None)


def test_held_out_clips_are_not_taught(plan: Rebirth, clips: Path, tmp_path: Path) -> None:
    taught = dataclasses.replace(plan, sources=(DataSource(path=str(clips / "held_out.jsonl")),))
    for refused in (taught, dataclasses.replace(plan, beside=taught.sources)):
        with pytest.raises(ConfigError, match=r"1 of 1 held-out clips are trained on too \(the first: 'clip-3'"):
            run_rebirth(refused, tmp_path, scorer())
        with pytest.raises(ConfigError, match="held-out clips are trained on too"):
            describe(refused, tmp_path)
    assert not (tmp_path / "rebirth").exists()


def test_clips_that_cannot_be_read_stop_it_or_are_counted(plan: Rebirth, clips: Path, tmp_path: Path) -> None:
    gone = {"clip": {"id": "gone", "path": "gone.mp4"}, "task": "caption", "instruction": "", "target": "x"}
    (tmp_path / "x.jsonl").write_text((clips / "train.jsonl").read_text() + json.dumps(gone) + "\n")
    plan = dataclasses.replace(
        plan, sources=(DataSource(path=str(tmp_path / "x.jsonl"), media_root=str(clips)),), round=None
    )
    with pytest.raises(ConfigError, match=r"1 clips cannot be read: .*gone.mp4"):
        run_rebirth(plan, tmp_path / "run", None)
    lenient = dataclasses.replace(plan, read=ReadSettings(num_workers=0, broken="leave_out"))
    result = run_rebirth(lenient, tmp_path / "lenient", None, say=lambda _: None)
    assert (result.filtered.num_failed, result.filtered.num_captions) == (1, 3)
    assert len(read_lines(tmp_path / "lenient" / "rebirth" / "captions.failed.jsonl")) == 1


@pytest.mark.parametrize(
    ("text", "stop_reason", "reason"),
    [
        ("A red ball rolls. A bell rings.", "end", None),
        ("", "end", "empty"),
        ("A red ball rolls and", "length", "cut off"),
        ("A bell. " * 40, "repetition", "collapsed"),
        ("A man speaks. **Video Description:** A man speaks. **Video Description:** He waves.", "end", "unnatural"),
    ],
)
def test_what_is_not_taught(text: str, stop_reason: Any, reason: str | None) -> None:
    example = TrainingExample(clip=ClipRef(id="a", path="a.mp4"), task="caption", instruction="", target="x")
    caption = SampledCaption(text=text.strip(), stop_reason=stop_reason, num_tokens=5)
    assert caption_reason(caption, example) == reason


def test_a_teacher_of_mostly_bad_captions_is_refused(plan: Rebirth, tmp_path: Path) -> None:
    short = dataclasses.replace(plan, sampling=Sampling(max_new_tokens=3), round=None)
    with pytest.raises(ConfigError, match=r"3 of 3 captions of nano are unfit \(\{'cut off': 3\}\)"):
        run_rebirth(short, tmp_path, None)
    assert len(read_lines(tmp_path / "rebirth" / "dropped.jsonl")) == 3


def test_plans_that_make_no_sense_are_refused(plan: Rebirth, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a judge"):
        run_rebirth(plan, tmp_path, None)
    assert plan.round is not None
    with pytest.raises(ConfigError, match="`round` is one round, got 2"):
        dataclasses.replace(plan, round=dataclasses.replace(plan.round, rounds=2))
    with pytest.raises(ConfigError, match="`sft` must be of stage sft"):
        dataclasses.replace(plan, sft=dataclasses.replace(plan.sft, stage="align"))
