"""From training examples to a captioner in one go: the recipe of nano, and exports in the layouts of the releases."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from avocet import load_captioner
from avocet.cli import main
from avocet.models.lora import merge_lora
from avocet.models.qwen_omni.tiny import tiny_tokenizer
from avocet.models.registry import load_model
from avocet.models.salmonn2 import plus_loading, v1_loading
from avocet.models.salmonn2.plus_config import read_plus_config
from avocet.models.salmonn2.tiny import tiny_plus, tiny_plus_config
from avocet.records import ClipRef
from avocet.training.finetune.loop import fine_tune, put_weights
from avocet.training.recipes import load_recipe

TESTS = Path(__file__).resolve().parents[2]
RECIPE = TESTS.parent / "recipes" / "nano_finetune" / "recipe.py"


def released_plus(folder: Path) -> Any:
    """A tiny video-SALMONN 2+ as its release describes itself, written in that layout; and how to load it."""
    config = tiny_plus_config()
    audio, qformer, ids = config.audio, config.qformer, tiny_tokenizer("qwen3-omni").get_vocab()
    names = ("image_token_id", "video_token_id", "audio_token_id", "vision_start_token_id", "vision_end_token_id")
    described = {
        "model_type": "qwen2_5_vl",
        **config.text,
        "eos_token_id": ids["<|im_end|>"],
        "vision_config": config.vision,
        "audio_config": {
            "d_model": audio.hidden_size,
            "encoder_layers": audio.num_layers,
            "encoder_attention_heads": audio.num_heads,
            "encoder_ffn_dim": audio.intermediate_size,
            "num_mel_bins": audio.num_mel_bins,
            "second_per_window": 0.5,
            "second_stride": 0.5,
            "qformer_config": {
                "hidden_size": qformer.hidden_size,
                "num_hidden_layers": qformer.num_layers,
                "num_attention_heads": qformer.num_heads,
                "intermediate_size": qformer.intermediate_size,
            },
        },
        **{name: getattr(config, name) for name in names},
    }
    released = read_plus_config(described).released
    plus_loading.write_released(tiny_plus(released=released), folder)
    return load_model(str(folder), device="cpu", dtype="float32").model


def released_v1(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same of the 7B, whose release does not say how many heads small models have."""
    monkeypatch.syspath_prepend(str(TESTS / "models"))
    import v1_models

    tokenizer = tiny_tokenizer("qwen3-omni")
    described = v1_models.SMALL | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    shapes = v1_models.SMALL_SHAPES | v1_models.decoder_shapes(described)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors[v1_models.POSITION_IDS] = torch.arange(512)[None]
    v1_models.write_small(folder, tensors, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    return v1_loading.load_v1(folder, sizes=v1_models.SMALL_HEADS, tokenizer=tokenizer)


@pytest.mark.parametrize("family", ["v1", "plus"])
def test_a_trained_model_is_exported_to_the_layout_of_its_release(
    family, make_stage, write_recipe, tmp_path, monkeypatch
) -> None:
    released = tmp_path / "released"
    model = released_plus(released) if family == "plus" else released_v1(released, monkeypatch)
    base = tmp_path / "base"
    model.save(base)
    config = make_stage(family, model=str(base), max_steps=1)
    recipe, run_dir, out = write_recipe(tmp_path / "recipe.py", config), tmp_path / "run", tmp_path / "out"
    assert main(["train", "sft", str(recipe), "--run-dir", str(run_dir)]) == 0
    assert main(["train", "export", str(recipe), "--run-dir", str(run_dir), "--to", "merged"]) == 0
    assert main(["convert", str(run_dir / "export-sft-merged"), str(out), "--to", "released"]) == 0
    # The same files as the release has, with other numbers where something was trained.
    assert json.loads((out / "config.json").read_text()) == json.loads((released / "config.json").read_text())
    before, after = (load_file(folder / "model.safetensors") for folder in (released, out))
    assert {name: tensor.shape for name, tensor in before.items()} == {name: part.shape for name, part in after.items()}
    names = put_weights(model, config, run_dir / "sft")
    merge_lora(model)
    trained = {name.split(".lora_")[0].removesuffix(".base_layer") for name in names}
    ours = v1_loading.our_name if family == "v1" else plus_loading.our_name
    state = model.state_dict()
    for name, tensor in after.items():
        place = ours(name)
        if place is None or place not in state:  # the constant buffer of the release
            assert torch.equal(tensor, before[name])
            continue
        assert torch.equal(tensor, state[place]), name
        if place not in trained and place.removesuffix(".weight") not in trained:
            assert torch.equal(tensor, before[name]), name
    assert any(not torch.equal(after[name], before[name]) for name in after)


def test_configurations_and_the_engine_need_no_decoder_of_media() -> None:
    """Benchmarks on machines without PyAV train on clips that are in memory."""
    code = "import sys; sys.modules['av'] = None; import avocet.training.finetune.engine"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def make_examples(folder: Path, count: int) -> Path:
    file = folder / "data" / "train.jsonl"
    argv = ["theatre", "make", "--seed", "10000000", "--num-clips", str(count), "--out", str(folder / "clips")]
    assert main([*argv, "--workers", "1", "--examples", str(file)]) == 0
    return file


def test_the_recipe_of_nano_trains_two_steps_of_each_stage(tmp_path, losses) -> None:
    plan = load_recipe(RECIPE, {"data": str(make_examples(tmp_path, 2))})
    stages = tuple(dataclasses.replace(stage, max_steps=2) for stage in plan.fine_tunes())
    assert [stage.name for stage in stages] == ["align", "sft"]
    for stage in stages:
        folder = fine_tune(stage, tmp_path / "run", stages)
        # The shipped model knows the theatre: less than half a nat per token, where chance is above 5.
        assert all(loss < 0.5 for _, loss in losses(folder))
        assert len(losses(folder)) == 2


@pytest.mark.slow
def test_nano_is_trained_exported_used_and_measured_by_commands(tmp_path, losses, capsys) -> None:
    file = make_examples(tmp_path, 16)
    run_dir = tmp_path / "run"
    for stage in ("align", "sft", "export"):
        assert main(["train", stage, str(RECIPE), "--set", f"data={file}", "--run-dir", str(run_dir)]) == 0
    values = [loss for _, loss in losses(run_dir / "sft")]
    assert len(values) == 20
    # Two steps are one epoch.
    assert sum(values[-2:]) < sum(values[:2])
    assert main(["train", "plot", str(run_dir)]) == 0
    folder = run_dir / "export-sft-merged"
    capsys.readouterr()
    clip = tmp_path / "clips" / "theatre-1-10000000.mp4"
    assert main(["caption", str(clip), "--model", str(folder)]) == 0
    target = json.loads(file.read_text().splitlines()[0])["target"]
    caption = load_captioner(str(folder), device="cpu").caption(ClipRef(id="clip", path=str(clip)))
    assert caption.text in capsys.readouterr().out
    assert set(caption.text.split()) & set(target.split())
    argv = ["evaluate", "theatre", "--model", str(folder), "--num-clips", "20", "--seed", "990000", "--workers", "1"]
    assert main([*argv, "--out", str(tmp_path / "report"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["num_clips"], report["num_unscored"]) == (20, 0)
    # It forgets nothing: the shipped weights miss 6 % of level 1.
    assert report["total"] < 0.3
