"""Whole fine-tuning stages at tiny size: what is trained, what stays, what is learnt, what resumes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from avocet import load_captioner, training
from avocet.errors import CheckpointError, ConfigError
from avocet.models.registry import load_model
from avocet.records import ClipRef
from avocet.training.checkpoints import checkpoints
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, ReadSettings
from avocet.training.finetune.engine import NonFiniteLossError
from avocet.training.finetune.export import export_stage, load_adapter_folder
from avocet.training.finetune.loop import fine_tune, learning_rate, put_weights
from avocet.training.finetune.parts import set_trainable
from avocet.training.finetune.watch import METRICS_FILE, read_metrics

FAMILIES = ("paper", "v1", "plus", "omni")

TRAINED = {
    "paper": {"segment_embedding", "query_tokens", "qformer", "audio_projection", "decoder"},
    "v1": {"visual_projection", "newline", "audio.query_tokens", "audio.qformer", "audio.mlp", "decoder"},
    "plus": {"visual.merger", "audio.qformer", "audio.projection", "decoder"},
    "omni": {"visual.merger", "audio_tower.proj", "language_model", "lm_head"},
}
"""Of each family's SFT; in the decoders of the first three it is LoRA only."""


def part_of(name: str) -> str:
    """The part of a model that a parameter belongs to, as `TRAINED` names them."""
    name = name.removeprefix("thinker.model.").removeprefix("thinker.")
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if first in ("audio", "visual", "audio_tower") and rest else first


@pytest.mark.parametrize("family", FAMILIES)
def test_two_steps_train_what_was_named_and_nothing_else(family, make_stage, tmp_path, losses) -> None:
    config = make_stage(family)
    folder = fine_tune(config, tmp_path)
    assert [step for step, _ in losses(folder)] == [1, 2]
    assert all(math.isfinite(loss) for _, loss in losses(folder))
    before = load_model(config.model, device="cpu", dtype="float32").model
    after = load_model(config.model, device="cpu", dtype="float32").model
    names = put_weights(after, config, folder)
    assert {part_of(name) for name in names} == TRAINED[family]
    if config.lora is not None:
        assert all(".lora_" in name for name in names if name.startswith("decoder."))
    # The checkpoint holds what was trained; what the model itself holds is as it was.
    stored = load_file(checkpoints(folder)[-1][1] / "weights.safetensors")
    assert stored.keys() == set(names)
    first = load_file(checkpoints(folder)[0][1] / "weights.safetensors")
    assert any(not torch.equal(first[name], stored[name]) for name in names)
    frozen = dict(before.named_parameters())
    for name, parameter in after.named_parameters():
        plain = name.replace(".base_layer.", ".")
        if name not in names and ".lora_" not in name:
            assert torch.equal(parameter, frozen[plain]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_parameters_stay_bit_equal_in_the_trained_model(family, make_stage, tmp_path, monkeypatch) -> None:
    """Read from the very model that was trained, at its last save."""
    from avocet.training.finetune import loop

    config = make_stage(family, save_every=0)
    seen = {}

    def remember(folder, engine, step, keep):
        trained = set(engine.names)
        seen.update({name: p.detach().clone() for name, p in engine.model.named_parameters() if name not in trained})

    monkeypatch.setattr(loop, "save_checkpoint", remember)
    fine_tune(config, tmp_path)
    before = dict(load_model(config.model, device="cpu", dtype="float32").model.named_parameters())
    assert len(seen) > 10
    assert all(torch.equal(value, before[name.replace(".base_layer.", ".")]) for name, value in seen.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_align_trains_the_audio_aligner_alone(family, make_stage, tmp_path) -> None:
    config = make_stage(family, name="align", stage="align", trainable=("audio_aligner",), lora=None, max_steps=1)
    folder = fine_tune(config, tmp_path)
    stored = load_file(checkpoints(folder)[-1][1] / "weights.safetensors")
    expected = {
        "paper": {"segment_embedding", "query_tokens", "qformer", "audio_projection"},
        "v1": {"audio.query_tokens", "audio.qformer", "audio.projection", "audio.mlp"},
        "plus": {"audio.query_tokens", "audio.qformer", "audio.projection"},
        "omni": {"audio_tower.proj"},
    }
    assert {part_of(name) for name in stored} == expected[family]
    model = load_model(config.model, device="cpu", dtype="float32").model
    # The gradient came through the frozen decoder.
    assert any(not torch.equal(model.get_parameter(name), value) for name, value in stored.items())


OVERFIT = {"paper": (120, 1e-2), "v1": (120, 5e-3), "plus": (150, 5e-3), "omni": (80, 3e-3)}
"""Steps and learning rate."""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_clips_are_learnt_word_for_word(family, make_stage, tmp_path, losses, staged) -> None:
    steps, rate = OVERFIT[family]
    learn_by_heart(family, make_stage, tmp_path, losses, staged, steps, rate)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_eight_clips_are_learnt_word_for_word(family, make_stage, tmp_path, losses, staged_eight) -> None:
    steps, rate = OVERFIT[family]
    learn_by_heart(family, make_stage, tmp_path, losses, staged_eight, 3 * steps, rate)


def learn_by_heart(family, make_stage, tmp_path, losses, clips, steps, rate) -> None:
    lines = [json.loads(line) for line in (clips / "train.jsonl").read_text().splitlines()]
    lm_head = () if family == "paper" else ("lm_head",)
    config = make_stage(
        family,
        sources=(DataSource(path=str(clips / "train.jsonl")),),
        trainable=("visual_aligner", "audio_aligner", "decoder", *lm_head),
        lora=None,
        optimizer=FineTuneOptimizer(learning_rate=rate, warmup_steps=5),
        batch=BatchSettings(max_examples=len(lines), micro_examples=len(lines)),
        read=ReadSettings(num_workers=0, feature_store_bytes=2**28),
        gradient_checkpointing=False,
        max_steps=steps,
        save_every=0,
    )
    folder = fine_tune(config, tmp_path)
    assert losses(folder)[-1][1] < 0.02
    merged = export_stage((config,), tmp_path, None, "merged")
    captioner = load_captioner(f"avocado@{merged}" if family == "omni" else str(merged), device="cpu")
    sampling = dataclasses.replace(captioner.model.default_sampling, max_new_tokens=200)
    for line in lines:
        ref = ClipRef.from_dict(line["clip"] | {"path": str(clips / line["clip"]["path"])})
        caption = captioner.caption(ref, line["instruction"], sampling)
        assert caption.text == line["target"]


@pytest.mark.parametrize("family", ["plus", "omni"])
def test_a_run_that_was_cut_off_goes_on_to_the_last_digit(family, make_stage, tmp_path, losses) -> None:
    """Dropout and the average of the weights included."""
    config = make_stage(family, max_steps=4, ema_decay=0.9)
    whole = fine_tune(config, tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "cut" / "sft")
    cut = tmp_path / "cut" / "sft"
    for step in (3, 4):
        shutil.rmtree(cut / f"checkpoint-{step}")
    # What a kill in the middle of a save, and of a line, leaves.
    (cut / "checkpoint-3.partial").mkdir()
    (cut / "checkpoint-3.partial" / "weights.safetensors").write_bytes(b"half")
    with (cut / METRICS_FILE).open("a") as file:
        file.write('{"step": 5, "lo')
    fine_tune(config, tmp_path / "cut", resume=True)
    assert losses(cut) == losses(whole)
    for file in ("weights.safetensors", "optimizer.safetensors", "ema.safetensors"):
        ours, theirs = load_file(cut / "checkpoint-4" / file), load_file(whole / "checkpoint-4" / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), file


def test_a_run_killed_while_it_trains_goes_on_to_the_last_digit(make_stage, tmp_path, losses, write_recipe) -> None:
    """kill -9 of a real process as soon as its second checkpoint is there."""
    config = make_stage("plus", max_steps=24)
    recipe = write_recipe(tmp_path / "recipe.py", config)
    command = [sys.executable, "-c", "import sys; from avocet.cli import main; sys.exit(main(sys.argv[1:]))"]
    arguments = ["train", "sft", str(recipe), "--run-dir", str(tmp_path / "killed")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *arguments], env=environment, stdout=subprocess.DEVNULL)
    folder, deadline = tmp_path / "killed" / "sft", time.monotonic() + 60
    while not (folder / "checkpoint-2").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = checkpoints(folder)[-1][0]
    assert 2 <= last < 24
    resumed = fine_tune(config, tmp_path / "killed", resume=True)
    whole = fine_tune(config, tmp_path / "whole")
    assert losses(resumed) == losses(whole)
    ours = load_file(resumed / "checkpoint-24" / "weights.safetensors")
    theirs = load_file(whole / "checkpoint-24" / "weights.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_other_settings_are_not_resumed(make_stage, tmp_path) -> None:
    config = make_stage("plus", max_steps=1)
    fine_tune(config, tmp_path)
    with pytest.raises(ConfigError, match="already holds a run; add --resume"):
        fine_tune(config, tmp_path)
    with pytest.raises(ConfigError, match=r"other settings \(max_steps changed"):
        fine_tune(dataclasses.replace(config, max_steps=2), tmp_path, resume=True)
    # How it is logged may change.
    fine_tune(dataclasses.replace(config, log_every=5), tmp_path, resume=True)


def test_a_checkpoint_of_other_parameters_is_refused(make_stage, tmp_path) -> None:
    config = make_stage("plus", max_steps=1)
    fine_tune(config, tmp_path)
    other = dataclasses.replace(config, trainable=("audio_aligner",))
    model = load_model(config.model, device="cpu", dtype="float32").model
    with pytest.raises(CheckpointError, match="holds other parameters than are trained"):
        put_weights(model, other, tmp_path / "sft")


def test_steps_that_are_not_finite_are_refused_and_end_the_run(make_stage, tmp_path, model_folders) -> None:
    """With weights that overflow nothing is stepped; the run says so and stops."""
    broken = tmp_path / "broken"
    model = load_model(str(model_folders["plus"]), device="cpu", dtype="float32").model
    with torch.no_grad():
        model.decoder.lm_head.weight.fill_(float("inf"))
    model.save(broken)
    config = make_stage("plus", model=str(broken), max_steps=9, max_refused_steps=2)
    with pytest.raises(NonFiniteLossError, match="2 steps in a row up to step 1 were refused"):
        fine_tune(config, tmp_path / "run")
    lines = read_metrics(tmp_path / "run" / "sft" / METRICS_FILE)
    assert [(line["refused"], line["loss"]) for line in lines] == [(True, None)]
    names = set_trainable(model, config.trainable, config.lora)
    stored = load_file(tmp_path / "run" / "sft" / "checkpoint-1" / "weights.safetensors")
    assert all(torch.equal(stored[name], model.get_parameter(name)) for name in names if ".lora_A." not in name)


def test_sft_starts_from_what_alignment_learnt(make_stage, tmp_path) -> None:
    align = make_stage("plus", name="align", stage="align", trainable=("audio_aligner",), lora=None, max_steps=1)
    sft = make_stage("plus", starts_from=("align",), max_steps=1, optimizer=FineTuneOptimizer(learning_rate=1e-9))
    with pytest.raises(ConfigError, match="'align' has no checkpoint"):
        fine_tune(sft, tmp_path, (align, sft))
    fine_tune(align, tmp_path, (align, sft))
    fine_tune(sft, tmp_path, (align, sft))
    aligned = load_file(tmp_path / "align" / "checkpoint-1" / "weights.safetensors")
    tuned = load_file(tmp_path / "sft" / "checkpoint-1" / "weights.safetensors")
    shared = [name for name in tuned if name in aligned]
    assert shared
    for name in shared:
        torch.testing.assert_close(tuned[name], aligned[name], atol=1e-7, rtol=0)


def test_an_adapter_holds_all_that_was_trained_and_gives_the_merged_model(make_stage, tmp_path) -> None:
    config = make_stage("plus", trainable=("audio_aligner", "visual_aligner"))
    fine_tune(config, tmp_path)
    adapter = export_stage((config,), tmp_path, "sft", "adapter")
    merged = export_stage((config,), tmp_path, "sft", "merged")
    stored = load_file(adapter / "adapter_model.safetensors")
    assert "base_model.model.audio.query_tokens" in stored
    assert "base_model.model.decoder.model.layers.0.self_attn.q_proj.lora_A.weight" in stored
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)
    assert settings["target_modules"][0] == "decoder.model.layers.0.self_attn.k_proj"
    model = load_model(config.model, device="cpu", dtype="float32").model
    changed = load_adapter_folder(model, adapter)
    assert "audio.query_tokens" in changed
    whole = load_model(str(merged), device="cpu", dtype="float32").model
    assert model.state_dict().keys() == whole.state_dict().keys()
    assert all(torch.equal(part, whole.state_dict()[name]) for name, part in model.state_dict().items())
    with pytest.raises(ConfigError, match="exists and is not empty"):
        export_stage((config,), tmp_path, "sft", "merged")
    assert export_stage((config,), tmp_path, "sft", "merged", keep_finished=True) == merged
    with pytest.raises(CheckpointError, match="no readable adapter"):
        load_adapter_folder(model, tmp_path)


def test_broken_clips_stop_the_run_or_are_left_out_and_listed(make_stage, staged, tmp_path) -> None:
    data = tmp_path / "data"
    shutil.copytree(staged, data)
    (data / "1.mp4").write_bytes(b"no video")
    sources = (DataSource(path=str(data / "train.jsonl")),)
    config = make_stage("plus", sources=sources, max_steps=1)
    with pytest.raises(ConfigError, match=r"1 of 4 examples cannot be used: .*1\.mp4"):
        fine_tune(config, tmp_path / "stop")
    lenient = dataclasses.replace(
        config, epochs=1, max_steps=None, read=ReadSettings(num_workers=0, broken="leave_out")
    )
    folder = fine_tune(lenient, tmp_path / "leave")
    left_out = [json.loads(line) for line in (folder / "left_out.jsonl").read_text().splitlines()]
    assert [failure["clip_id"] for failure in left_out] == ["clip-1"]
    assert sum(line["examples"] for line in read_metrics(folder / METRICS_FILE)) == 3


def test_a_task_that_needs_sound_does_not_lose_it(make_stage, staged, tmp_path) -> None:
    """Clip 2 has no sound track, which a caption may lack and a transcript may not."""
    config = make_stage("plus", sources=(DataSource(path=str(staged / "train.jsonl"), task="asr"),))
    with pytest.raises(ConfigError, match=r"1 of 4 .*2\.mp4: task asr needs sound, but the sound track is absent"):
        fine_tune(config, tmp_path)


def test_evaluation_measures_the_held_out_loss(make_stage, staged, tmp_path, losses) -> None:
    """On the training clips at learning rate 0 it is the training loss of a step that holds all of them."""
    config = make_stage(
        "omni",
        evaluation=(DataSource(path=str(staged / "train.jsonl")),),
        evaluate_every=1,
        max_steps=1,
        batch=BatchSettings(max_examples=4, micro_examples=1),
        optimizer=FineTuneOptimizer(learning_rate=1e-12),
    )
    folder = fine_tune(config, tmp_path)
    held_out = [line["held_out_loss"] for line in read_metrics(folder / METRICS_FILE) if "held_out_loss" in line]
    assert held_out == pytest.approx([losses(folder)[0][1]], rel=1e-6)


def test_bfloat16_keeps_trained_weights_in_float32(make_stage, tmp_path, losses) -> None:
    exact = fine_tune(make_stage("omni"), tmp_path / "exact")
    rounded = fine_tune(make_stage("omni", precision="bfloat16"), tmp_path / "rounded")
    assert losses(rounded)[0][1] == pytest.approx(losses(exact)[0][1], rel=0.05)
    assert losses(rounded) != losses(exact)
    stored = load_file(rounded / "checkpoint-2" / "weights.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_feature_store_changes_no_loss(precision, make_stage, tmp_path, losses, capsys) -> None:
    """Align trains behind both frozen towers; later epochs read them from the store and decode nothing."""
    settings = {"trainable": ("audio_aligner",), "lora": None, "max_steps": 6, "precision": precision}
    plain = fine_tune(make_stage("plus", **settings), tmp_path / "plain")
    # Read ahead, a clip may be asked for before its features are there.
    read = ReadSettings(num_workers=0, prefetch_steps=0, feature_store_bytes=2**28)
    stored = fine_tune(make_stage("plus", **settings, read=read), tmp_path / "stored")
    assert losses(stored) == losses(plain)
    # 4 examples in each of 3 epochs, and the first epoch decodes.
    assert re.search(r"8 of 12 clips not\s+decoded", capsys.readouterr().out)


def test_the_command_line_trains_exports_and_plots(make_stage, tmp_path, write_recipe, capsys) -> None:
    from avocet.cli import main

    recipe = write_recipe(tmp_path / "recipe.py", make_stage("plus"))
    run_dir = str(tmp_path / "run")
    assert training.run("sft", str(recipe), run_dir) == 0
    assert "audio_queries: 0 of 16 parameters are trained" in capsys.readouterr().out
    assert main(["train", "export", str(recipe), "--run-dir", run_dir, "--to", "adapter"]) == 0
    assert (tmp_path / "run" / "export-sft-adapter" / "adapter_config.json").is_file()
    # What a killed export leaves; then the same command again, when everything is there.
    (tmp_path / "run" / "export-sft-merged.partial").mkdir()
    (tmp_path / "run" / "export-sft-merged.partial" / "config.json").write_text("half")
    assert main(["train", "all", str(recipe), "--run-dir", run_dir]) == 0
    assert (tmp_path / "run" / "export-sft-merged" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "export-sft-merged.partial").exists()
    assert main(["train", "all", str(recipe), "--run-dir", run_dir]) == 0
    assert main(["train", "plot", run_dir]) == 0
    page = (tmp_path / "run" / "plot.html").read_text()
    assert page.count("<polyline") >= 4
    facts = json.loads((tmp_path / "run" / "sft" / "run.json").read_text())
    assert facts["config"]["lora"]["rank"] == 4
    assert facts["versions"]["accelerate"]
    assert facts["config"]["seed"] == 0
    assert main(["train", "plot", str(tmp_path)]) == 2


def test_the_learning_rate_warms_up_and_falls_along_a_cosine(make_stage) -> None:
    optimizer = FineTuneOptimizer(learning_rate=1.0, warmup_ratio=0.2, final_fraction=0.1)
    config = make_stage("plus", optimizer=optimizer)
    # 10 steps: 2 of warm-up, then 8 from 1 towards 0.1.
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.55)
    assert rates[9] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 7 / 8)))
