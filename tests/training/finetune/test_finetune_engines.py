"""One process against two: DDP and FSDP2 over gloo; DeepSpeed where it is installed."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from avocet.errors import ConfigError, MissingExtraError
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, LoraSettings
from avocet.training.finetune.engine import Engine
from avocet.training.finetune.loop import fine_tune

OPTIMIZER = FineTuneOptimizer(learning_rate=1e-3, weight_decay=0.01)
PORT = {"ddp": 29621, "fsdp2": 29622, "deepspeed:2": 29623, "resumed": 29624, "adapter": 29625, "sound": 29626}
has_deepspeed = importlib.util.find_spec("deepspeed") is not None


@pytest.fixture(scope="module")
def config(make_stage):
    """Steps of three and of one example: of the last, one of two processes has nothing."""
    return make_stage(
        "omni",
        optimizer=OPTIMIZER,
        batch=BatchSettings(max_examples=3, micro_examples=2),
        max_steps=4,
        save_every=2,
        ema_decay=0.9,
        loss_chunk=16,
    )


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory) -> Path:
    """The stage's folder after a run in one process."""
    return fine_tune(config, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_two_processes_learn_what_one_does(
    engine, config, alone, tmp_path, losses, write_recipe, run_processes
) -> None:
    recipe = write_recipe(tmp_path / "recipe.py", config)
    arguments = ("sft", str(recipe), "--run-dir", str(tmp_path), "--engine", engine)
    result = run_processes(2, PORT[engine], *arguments)
    assert result.returncode == 0, result.stderr[-2000:]
    folder = tmp_path / "sft"
    for (step, ours), (_, theirs) in zip(losses(folder), losses(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5), step
    for file in ("weights.safetensors", "ema.safetensors", "optimizer.safetensors"):
        ours, theirs = load_file(folder / "checkpoint-2" / file), load_file(alone / "checkpoint-2" / file)
        assert ours.keys() == theirs.keys()
        if file == "optimizer.safetensors":
            for name in theirs:
                torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-3)
    # Saved by two, gone on by one.
    shutil.rmtree(folder / "checkpoint-4")
    fine_tune(config, tmp_path, resume=True)
    for (step, ours), (_, theirs) in zip(losses(folder), losses(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5), step


def test_two_sharded_processes_go_on_where_one_was_cut_off(
    config, alone, tmp_path, losses, write_recipe, run_processes
) -> None:
    shutil.copytree(alone, tmp_path / "sft")
    shutil.rmtree(tmp_path / "sft" / "checkpoint-4")
    recipe = write_recipe(tmp_path / "recipe.py", config)
    arguments = ("sft", str(recipe), "--run-dir", str(tmp_path), "--engine", "fsdp2", "--resume")
    result = run_processes(2, PORT["resumed"], *arguments)
    assert result.returncode == 0, result.stderr[-2000:]
    for (step, ours), (_, theirs) in zip(losses(tmp_path / "sft"), losses(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5), step


def test_an_adapter_learns_under_sharding_in_bfloat16(
    make_stage, tmp_path, losses, write_recipe, run_processes
) -> None:
    """Frozen weights in bfloat16 and a trained adapter in float32 share their shards."""
    config = make_stage("plus", precision="bfloat16", lora=LoraSettings(rank=4, alpha=8), max_steps=3)
    expected = losses(fine_tune(config, tmp_path / "alone"))
    recipe = write_recipe(tmp_path / "recipe.py", config)
    arguments = ("sft", str(recipe), "--run-dir", str(tmp_path), "--engine", "fsdp2")
    result = run_processes(2, PORT["adapter"], *arguments)
    assert result.returncode == 0, result.stderr[-2000:]
    for (step, ours), (_, theirs) in zip(losses(tmp_path / "sft"), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-2), step


def test_sharded_processes_may_differ_in_whether_their_clip_has_sound(
    make_stage, staged, tmp_path, losses, write_recipe, run_processes
) -> None:
    """Without sound the aligner is not run, and nothing that enters the frozen decoder would need a gradient."""
    lines = (staged / "train.jsonl").read_text().splitlines()
    data = staged / "sound_and_none.jsonl"
    data.write_text(f"{lines[0]}\n{lines[2]}\n")
    config = make_stage(
        "paper",
        sources=(DataSource(path=str(data)),),
        batch=BatchSettings(max_examples=2),
        gradient_checkpointing=False,
    )
    expected = losses(fine_tune(config, tmp_path / "alone"))
    recipe = write_recipe(tmp_path / "recipe.py", config)
    arguments = ("sft", str(recipe), "--run-dir", str(tmp_path), "--engine", "fsdp2")
    result = run_processes(2, PORT["sound"], *arguments)
    assert result.returncode == 0, result.stderr[-2000:]
    # Dropout is drawn anew on every process.
    for (step, ours), (_, theirs) in zip(losses(tmp_path / "sft"), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=0.05), step


@pytest.mark.skipif(not has_deepspeed, reason="DeepSpeed is not installed")
def test_deepspeed_learns_what_one_process_does(
    make_stage, config, tmp_path, losses, write_recipe, run_processes
) -> None:
    """accelerate sets DeepSpeed up for one process only where there is no GPU."""
    plain = make_stage("omni", optimizer=OPTIMIZER, batch=config.batch, max_steps=4, save_every=2)
    expected = losses(fine_tune(plain, tmp_path / "alone"))
    recipe = write_recipe(tmp_path / "recipe.py", plain)
    arguments = ("sft", str(recipe), "--run-dir", str(tmp_path), "--engine", "deepspeed:2")
    result = run_processes(1, PORT["deepspeed:2"], *arguments)
    assert result.returncode == 0, result.stderr[-2000:]
    folder = tmp_path / "sft"
    shutil.rmtree(folder / "checkpoint-4")
    fine_tune(plain, tmp_path, resume=True)
    for (step, ours), (_, theirs) in zip(losses(folder), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5), step


def test_engines_that_cannot_run_here_say_so(make_stage) -> None:
    config = make_stage("plus")
    with pytest.raises(ConfigError, match="unknown engine 'horovod'; engines are auto, ddp, fsdp2"):
        Engine(config, "horovod")
    with pytest.raises(ConfigError, match="fsdp2 shards over processes; start them with torchrun"):
        Engine(config, "fsdp2")


@pytest.mark.skipif(has_deepspeed, reason="DeepSpeed is installed")
def test_missing_deepspeed_is_named(make_stage) -> None:
    with pytest.raises(MissingExtraError, match=r"DeepSpeed .* pip install 'avocet\[deepspeed\]'"):
        Engine(make_stage("plus"), "deepspeed:2")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_missing_8_bit_optimizer_is_named(make_stage, tmp_path) -> None:
    optimizer = FineTuneOptimizer(learning_rate=1e-3, kind="adamw_8bit")
    with pytest.raises(MissingExtraError, match=r"8-bit optimizer .* pip install 'avocet\[gpu\]'"):
        fine_tune(make_stage("plus", optimizer=optimizer), tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is not None, reason="Liger is installed")
def test_missing_liger_kernels_are_named(make_stage, tmp_path) -> None:
    with pytest.raises(MissingExtraError, match=r"Liger kernels .* pip install 'avocet\[gpu\]'"):
        fine_tune(make_stage("plus", liger=True), tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("trackio") is not None, reason="trackio is installed")
def test_a_missing_tracker_is_named(make_stage, tmp_path) -> None:
    with pytest.raises(ConfigError, match="tracker 'trackio' is not installed; pip install trackio"):
        fine_tune(make_stage("plus", trackers=("trackio",)), tmp_path)
