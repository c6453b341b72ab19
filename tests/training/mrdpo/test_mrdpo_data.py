"""What rounds are fed with: paths that mean the same from anywhere, tasks, unreadable clips, held-out clips."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from avocet.cli import main
from avocet.errors import ConfigError
from avocet.records import ClipRef, Failure, TrainingExample
from avocet.training.data import DataSource
from avocet.training.data.examples import read_examples
from avocet.training.finetune import ReadSettings
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.data import check_held_out, read_round_data
from avocet.training.mrdpo.driver import dry_run, run_mrdpo
from avocet.training.mrdpo.scoring import CaptionScorer

RECIPE = """
from avocet.records import Sampling
from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.gate import StopRules
from avocet.training.pairs import RoundThresholds, Thresholds

ANY = Thresholds(error_rate=0.01, repetition_rate=-1.0)


def recipe(data: str = "data"):
    rounds = MrDpo(
        name="tiny",
        model="model",
        sources=(DataSource(path=f"{data}/train.jsonl"),),
        held_out=(DataSource(path=f"{data}/held_out.jsonl"),),
        trainable=(),
        lora=LoraSettings(rank=4, alpha=8, targets=("q_proj",)),
        optimizer=FineTuneOptimizer(learning_rate=1e-3),
        batch=BatchSettings(max_examples=4, micro_examples=4),
        rounds=1,
        samples_per_clip=3,
        sampling=Sampling(temperature=1.0, max_new_tokens=10),
        thresholds={1: RoundThresholds(global_=ANY, local=ANY)},
        max_steps=1,
        stop=StopRules(max_unnatural=1.0, max_total_rise=10.0),
        min_pairs=1,
        precision="float32",
        read=ReadSettings(num_workers=0),
    )
    return Recipe(name="tiny", mrdpo=rounds)
"""


def test_sources_with_relative_paths_train_a_round(
    clips: Path, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the recipes of this repository have them; pairs lie elsewhere than their clips and are read from anywhere."""
    work = tmp_path / "work"
    shutil.copytree(clips, work / "data")
    shutil.copytree(tiny_model_folder, work / "model")
    (work / "recipe.py").write_text(RECIPE)
    monkeypatch.chdir(work)
    assert main(["train", "mrdpo", "recipe.py", "--judge", "exact", "--run-dir", "runs/tiny"]) == 0
    assert (work / "runs" / "tiny" / "round-1" / "result.json").exists()
    pairs = read_examples("runs/tiny/round-1/pairs.jsonl").pairs
    assert pairs
    assert {Path(pair.clip.path).parent for pair in pairs} == {work / "data"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    given = "../work/runs/tiny/round-1/pairs.jsonl"
    assert main(["data", "convert", given, "--to", "trl", "--out", "x.jsonl", "--instruction", "Describe it."]) == 0
    rows = [json.loads(line) for line in Path("x.jsonl").read_text().splitlines()]
    assert all(Path(path).is_file() for row in rows for path in row["videos"])


def add_lines(clips: Path, source: str, out: Path, *lines: dict[str, Any]) -> tuple[DataSource, ...]:
    """The examples of a file of `clips`, and more."""
    given = (clips / f"{source}.jsonl").read_text()
    out.write_text(given + "".join(json.dumps(line) + "\n" for line in lines))
    return (DataSource(path=str(out), media_root=str(clips)),)


def example(name: str, task: str = "caption", target: str = "x") -> dict[str, Any]:
    clip = {"id": f"other-{name}", "path": f"{name}.mp4", "meta": {"theatre": {"seed": 0, "level": 1}}}
    return {"clip": clip, "task": task, "instruction": "", "target": target}


def test_clips_that_cannot_be_read_stop_the_run_or_are_counted_everywhere(
    plan: MrDpo, clips: Path, scorer: CaptionScorer, tmp_path: Path
) -> None:
    broken = dataclasses.replace(
        plan,
        rounds=1,
        sources=add_lines(clips, "train", tmp_path / "train.jsonl", example("gone")),
        held_out=add_lines(clips, "held_out", tmp_path / "held_out.jsonl", example("lost")),
    )
    with pytest.raises(ConfigError, match=r'1 clips cannot be read: .*lost.mp4.*broken="leave_out"'):
        run_mrdpo(broken, tmp_path / "run", scorer, say=lambda _: None)
    run = tmp_path / "lenient"
    said: list[str] = []
    lenient = dataclasses.replace(broken, read=ReadSettings(num_workers=0, broken="leave_out"))
    result = run_mrdpo(lenient, run, scorer, say=said.append)
    selection = result.rounds[1].selection
    assert selection is not None
    assert (selection.num_examples, selection.num_failed) == (5, 1)
    assert f"round 1: {selection.num_pairs} pairs of 5 clips, 1 of them could not be read" in said
    for place, name in (("round-1/samples", "other-gone"), ("round-0/held_out/captions", "other-lost")):
        (line,) = (run / f"{place}.failed.jsonl").read_text().splitlines()
        assert Failure.from_json(line).clip_id == name
    # One of three held-out clips is more than the tenth that may be missing.
    decision = result.rounds[1].decision
    assert decision is not None
    assert "could not be compared on 1 of 3 held-out captions" in decision.reasons[0]


def test_only_captions_are_sampled(plan: MrDpo, clips: Path, scorer: CaptionScorer, tmp_path: Path) -> None:
    question = example("0", "qa", target="B")
    asked = dataclasses.replace(plan, sources=add_lines(clips, "train", tmp_path / "x.jsonl", question))
    with pytest.raises(ConfigError, match=r"`sources` may hold tasks caption, local_caption, got 1 of task qa"):
        run_mrdpo(asked, tmp_path / "run", scorer)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="belongs in `mixed_in`"):
        dry_run(asked, tmp_path / "run")
    heard = dataclasses.replace(
        plan, held_out=add_lines(clips, "held_out", tmp_path / "y.jsonl", example("4", "asr"), example("4", "qa"))
    )
    with pytest.raises(ConfigError, match=r"`held_out` may hold tasks .*qa, got 1 of task asr"):
        read_round_data(heard)


def test_held_out_clips_are_not_trained_on(plan: MrDpo, clips: Path, tmp_path: Path) -> None:
    assert len(read_round_data(plan)[1]) == 2
    with pytest.raises(ConfigError, match=r"4 of 4 held-out clips are trained on too \(the first: 'clip-0'"):
        read_round_data(dataclasses.replace(plan, held_out=plan.sources))
    # Under another name and by another path, and although only a question is asked about it.
    link = tmp_path / "link.mp4"
    link.symlink_to(clips / "4.mp4")
    questions = add_lines(clips, "train", tmp_path / "x.jsonl", example(str(link.with_suffix("")), "qa"))
    with pytest.raises(ConfigError, match=r"1 of 2 held-out clips .*'clip-4'.*questions included"):
        read_round_data(dataclasses.replace(plan, mixed_in=questions))


def test_parts_of_one_file_are_different_clips() -> None:
    def part(start: float | None, end: float | None) -> TrainingExample:
        clip = ClipRef(id=f"{start}", path="film.mp4", start_seconds=start, end_seconds=end)
        return TrainingExample(clip=clip, task="caption", instruction="", target="x")

    trained = [part(10.0, 20.0).clip]
    check_held_out([part(0.0, 10.0), part(20.0, None)], trained)
    for start, end in ((0.0, 10.5), (None, None), (15.0, 16.0)):
        with pytest.raises(ConfigError, match="1 of 1 held-out clips"):
            check_held_out([part(start, end)], trained)
