"""A resumed stage is the stage that began: its data, its start and its end; and what is damaged says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from avocet.errors import ConfigError
from avocet.training.checkpoints import checkpoints
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, ReadSettings, loop
from avocet.training.finetune.export import export_stage
from avocet.training.finetune.loop import fine_tune
from avocet.training.finetune.plot import write_plot
from avocet.training.finetune.watch import METRICS_FILE, read_metrics


def cut_off(folder: Path) -> None:
    """As if the stage had been killed after its first step."""
    for step, path in checkpoints(folder):
        if step > 1:
            shutil.rmtree(path)


def test_other_data_are_not_resumed(make_stage, staged, tmp_path) -> None:
    """One caption is another one; then one clip is gone."""
    data = tmp_path / "train.jsonl"
    lines = [json.loads(line) for line in (staged / "train.jsonl").read_text().splitlines()]
    for line in lines:
        line["clip"]["path"] = str(staged / line["clip"]["path"])
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = make_stage("plus", sources=(DataSource(path=str(data)),))
    cut_off(fine_tune(config, tmp_path))
    changed = [lines[0] | {"target": "Something else."}, *lines[1:]]
    data.write_text("".join(json.dumps(line) + "\n" for line in changed))
    with pytest.raises(ConfigError, match="was started with other data: 4 usable examples then, 4 now"):
        fine_tune(config, tmp_path, resume=True)
    data.write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    with pytest.raises(ConfigError, match="was started with other data: 4 usable examples then, 3 now"):
        fine_tune(config, tmp_path, resume=True)
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fine_tune(config, tmp_path, resume=True)


def test_what_was_left_out_stays_out_though_it_can_be_read_now(make_stage, staged, tmp_path) -> None:
    data = tmp_path / "data"
    shutil.copytree(staged, data)
    (data / "1.mp4").rename(data / "later.mp4")
    read = ReadSettings(num_workers=0, broken="leave_out")
    config = make_stage("plus", sources=(DataSource(path=str(data / "train.jsonl")),), read=read)
    folder = fine_tune(config, tmp_path)
    cut_off(folder)
    (data / "later.mp4").rename(data / "1.mp4")
    fine_tune(config, tmp_path, resume=True)
    assert [step for step, _ in checkpoints(folder)] == [1, 2]
    assert [line["clip_id"] for line in read_metrics(folder / "left_out.jsonl")] == ["clip-1"]


def test_an_unfinished_stage_is_no_start_and_no_result(make_stage, tmp_path) -> None:
    align = make_stage("plus", name="align", stage="align", trainable=("audio_aligner",), lora=None)
    sft = make_stage("plus", starts_from=("align",))
    cut_off(fine_tune(align, tmp_path))
    message = r"stage 'align' in .* was cut off at step 1 of 2; finish it with --resume first"
    with pytest.raises(ConfigError, match=message):
        fine_tune(sft, tmp_path, (align, sft))
    with pytest.raises(ConfigError, match=message):
        export_stage((align, sft), tmp_path, "align", "merged")


def test_a_stage_goes_on_from_the_result_that_it_began_with_only(make_stage, tmp_path) -> None:
    align = make_stage("plus", name="align", stage="align", trainable=("audio_aligner",), lora=None, max_steps=1)
    sft = make_stage("plus", starts_from=("align",))
    weights = fine_tune(align, tmp_path, (align, sft)) / "checkpoint-1" / "weights.safetensors"
    cut_off(fine_tune(sft, tmp_path, (align, sft)))
    before = weights.read_bytes()
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(ConfigError, match=r"other settings \(the results of the stages that it starts from changed\)"):
        fine_tune(sft, tmp_path, (align, sft), resume=True)
    weights.write_bytes(before)
    fine_tune(sft, tmp_path, (align, sft), resume=True)


@pytest.mark.parametrize("name", ["max_tokens", "micro_tokens"])
def test_an_example_that_fits_nowhere_stops_the_run_before_it_begins(name, make_stage, tmp_path) -> None:
    config = make_stage("plus", batch=BatchSettings(max_examples=3, **{name: 20}))
    with pytest.raises(ConfigError, match=rf"4 of 4 examples have more tokens than {name}=20 \(.*0\.mp4: \d+; "):
        fine_tune(config, tmp_path)
    assert not checkpoints(tmp_path / "sft")


def test_a_copy_of_a_checkpoint_is_none(make_stage, tmp_path) -> None:
    config = make_stage("plus")
    folder = fine_tune(config, tmp_path)
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-2-backup1")
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-99.partial")
    assert [step for step, _ in checkpoints(folder)] == [1, 2]
    fine_tune(config, tmp_path, resume=True)
    assert (folder / "checkpoint-2-backup1").is_dir()


@pytest.mark.parametrize(("text", "reason"), [('{"config": {', "cannot be read"), ("[]", "holds no JSON object")])
def test_a_damaged_record_of_the_run_is_one_clear_line(text, reason, make_stage, tmp_path) -> None:
    config = make_stage("plus", max_steps=1)
    folder = fine_tune(config, tmp_path)
    (folder / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"run\.json {reason}.*; put it back, or choose another --run-dir"):
        fine_tune(config, tmp_path, resume=True)


def test_a_step_without_readable_clips_is_none_and_the_count_goes_on(make_stage, staged, tmp_path, monkeypatch) -> None:
    """Two clips, one per step; one vanishes as training begins, and is there again for the second half."""
    data = tmp_path / "data"
    shutil.copytree(staged, data)
    (data / "train.jsonl").write_text("\n".join((data / "train.jsonl").read_text().splitlines()[:2]) + "\n")
    config = make_stage(
        "plus",
        sources=(DataSource(path=str(data / "train.jsonl")),),
        batch=BatchSettings(max_examples=1),
        read=ReadSettings(num_workers=0, prefetch_steps=0, broken="leave_out"),
        max_steps=4,
        log_every=4,
    )
    with monkeypatch.context() as patched:
        announce = loop._announce

        def announce_and_lose_a_clip(*arguments) -> None:
            announce(*arguments)
            (data / "1.mp4").rename(data / "gone")

        patched.setattr(loop, "_announce", announce_and_lose_a_clip)
        folder = fine_tune(config, tmp_path)
    lines = read_metrics(folder / METRICS_FILE)
    empty = [line for line in lines if line["loss"] is None]
    assert [(line["examples"], line["target_tokens"], line["refused"]) for line in empty] == [(0, 0, False)] * 2
    assert lines[-1]["left_out"] == 2
    for line in empty:
        if line["step"] > 1:
            files = [folder / f"checkpoint-{step}" / "weights.safetensors" for step in (line["step"] - 1, line["step"])]
            assert files[0].read_bytes() == files[1].read_bytes()
    write_plot([folder])
    (data / "gone").rename(data / "1.mp4")
    for step in (3, 4):
        shutil.rmtree(folder / f"checkpoint-{step}")
    fine_tune(config, tmp_path, resume=True)
    assert read_metrics(folder / METRICS_FILE)[-1]["left_out"] == 1
