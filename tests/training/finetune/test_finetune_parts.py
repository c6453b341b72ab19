"""Groups of parameters, configurations and the recipes in the repository."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from avocet.errors import ConfigError
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.models.registry import load_model
from avocet.models.salmonn2.tiny import tiny_plus
from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.finetune.loop import fine_tune
from avocet.training.finetune.module import backbone_of
from avocet.training.finetune.parts import decoder_layers, describe_trainable, groups_of, set_modes, set_trainable
from avocet.training.recipes import load_recipe

RECIPES = Path(__file__).resolve().parents[3] / "recipes"


@pytest.mark.parametrize("family", ["paper", "v1", "plus", "omni"])
def test_every_parameter_is_in_one_group(family, model_folders) -> None:
    folder = model_folders[family]
    model = load_model(f"avocado@{folder}" if family == "omni" else str(folder), device="cpu", dtype="float32").model
    groups = groups_of(model)
    if family != "omni":
        # There it stands for other groups.
        groups.pop("audio_aligner")
    names = [name for members in groups.values() for name in members]
    never = {name for name, _ in model.named_parameters() if "post_layernorm" in name and family == "v1"}
    assert len(names) == len(set(names))
    assert set(names) == {name for name, _ in model.named_parameters()} - never


def test_qwen3_omni_has_its_aligners_apart_from_its_towers() -> None:
    groups = groups_of(tiny_model("qwen3-omni"))
    assert {name.split("visual.")[1].split(".")[0] for name in groups["visual_aligner"]} >= {"merger"}
    assert {name.split("audio_tower.")[1].split(".")[0] for name in groups["audio_aligner"]} == {"proj1", "proj2"}
    assert not any("merger" in name for name in groups["vision_tower"])


def test_wrong_groups_are_refused() -> None:
    model = tiny_plus()
    with pytest.raises(ConfigError, match="unknown groups ears; PlusModel has audio_aligner"):
        set_trainable(model, ("ears",))
    with pytest.raises(ConfigError, match="drop `lora` or the group `decoder`"):
        set_trainable(model, ("decoder",), LoraSettings(rank=2, alpha=4))
    with pytest.raises(ConfigError, match="no groups of parameters are known for Linear"):
        groups_of(nn.Linear(2, 2))


def test_the_summary_counts_by_hand() -> None:
    """Query tokens of 16 numbers; LoRA of rank 2 on 2 layers' q: A (2, 32), B (32, 2)."""
    model = tiny_plus()
    names = set_trainable(model, ("audio_queries",), LoraSettings(rank=2, alpha=4, targets=("q_proj",)))
    lines = describe_trainable(model, names)
    assert "audio_queries: 16 of 16 parameters are trained" in lines
    assert f"LoRA: {2 * (2 * 32 + 32 * 2)} parameters are trained" in lines
    assert names[0] == "audio.query_tokens"
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 16 + 256


def test_frozen_parts_are_in_evaluation_mode_but_checkpointing_still_works() -> None:
    model = tiny_plus()
    set_trainable(model, ("audio_qformer",))
    set_modes(model, backbone_of(model))
    assert model.audio.qformer.training
    assert not model.visual.training
    assert not model.audio.encoder.training
    layers = decoder_layers(backbone_of(model))
    assert all(layer.training for layer in layers)
    # No dropout of a frozen decoder.
    assert not any(module.training for layer in layers for module in layer.children())


def make(**changes) -> FineTune:
    settings = {
        "name": "sft",
        "stage": "sft",
        "model": "nano",
        "sources": (DataSource(path="train.jsonl"),),
        "trainable": ("decoder",),
        "optimizer": FineTuneOptimizer(learning_rate=1e-3),
        "batch": BatchSettings(max_examples=1),
        "max_steps": 1,
    }
    return FineTune(**settings | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": None}, "exactly one of epochs and max_steps"),
        ({"epochs": 1}, "exactly one of epochs and max_steps"),
        ({"max_steps": 0}, "must be > 0"),
        ({"sources": ()}, "name at least one DataSource"),
        ({"trainable": ()}, "nothing is trained"),
        ({"stage": "ppo"}, "'ppo' is none of align, sft, dpo, grpo"),
        ({"stage": "dpo"}, "`preference` belongs to stage dpo, and dpo needs it"),
        ({"precision": "float16"}, "'float16' is none of float32, bfloat16"),
        ({"ema_decay": 1.0}, "ema_decay must lie between 0 and 1"),
        ({"evaluate_every": 5}, "evaluate_every needs `evaluation`"),
        ({"trackers": ("mlflow",)}, "unknown trackers mlflow"),
        ({"keep": 0}, "keep, loss_chunk and max_refused_steps must be >= 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes)


def test_parts_of_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="either warmup_steps or a warmup_ratio"):
        FineTuneOptimizer(learning_rate=1e-3, warmup_steps=3, warmup_ratio=0.1)
    with pytest.raises(ConfigError, match="optimizer kind must be one of adamw, adamw_8bit"):
        FineTuneOptimizer(learning_rate=1e-3, kind="sgd")
    with pytest.raises(ConfigError, match="learning_rate must be > 0"):
        FineTuneOptimizer(learning_rate=0.0)
    with pytest.raises(ConfigError, match="rank >= 1"):
        LoraSettings(rank=0, alpha=1)
    with pytest.raises(ConfigError, match="broken must be one of stop, leave_out"):
        ReadSettings(broken="ignore")


def test_epochs_become_steps() -> None:
    assert make(max_steps=None, epochs=2).num_steps(7) == 14
    assert make(max_steps=None, epochs=0.5).num_steps(7) == 4
    assert make().num_steps(7) == 1


def test_a_recipe_has_each_name_once_and_no_model_of_its_own() -> None:
    with pytest.raises(ConfigError, match="several stages of one name"):
        Recipe(name="twice", align=(make(),), sft=(make(),))
    recipe = Recipe(name="once", sft=(make(),))
    assert recipe.stages() == ()
    assert recipe.fine_tunes() == (make(),)
    with pytest.raises(ConfigError, match="makes no model of its own"):
        recipe.build_model()


@pytest.mark.parametrize(
    ("recipe", "stage", "family"),
    [
        ("avocado_7b", "sft", "omni"),
        ("salmonn2_7b", "align", "v1"),
        ("salmonn2_7b", "sft", "v1"),
        ("salmonn2_7b", "sft_paper", "v1"),
        ("salmonn2_7b", "sft_paper", "paper"),
        ("salmonn2_7b", "sft_paper", "plus"),
    ],
)
def test_the_recipes_run_two_steps_at_tiny_size(recipe, stage, family, make_stage, staged, tmp_path, losses) -> None:
    """With their own groups, adapter, optimizer and precision; only model, data and sizes are others."""
    plan = load_recipe(RECIPES / recipe / "recipe.py")
    given = next(item for item in plan.fine_tunes() if item.name == stage)
    # Transcripts need sound, which clip 2 does not have.
    lines = (staged / "train.jsonl").read_text().splitlines(keepends=True)
    path = staged / "with_sound.jsonl"
    path.write_text("".join(line for number, line in enumerate(lines) if number != 2))
    task = "asr" if stage == "align" else None
    config = dataclasses.replace(
        given,
        model=make_stage(family).model,
        sources=(DataSource(path=str(path), task=task),),
        batch=BatchSettings(max_examples=2),
        read=ReadSettings(num_workers=0),
        starts_from=(),
        epochs=None,
        max_steps=2,
    )
    found = losses(fine_tune(config, tmp_path))
    assert [step for step, _ in found] == [1, 2]
    assert all(0 < loss < 20 for _, loss in found)


def test_the_recipes_carry_the_papers_numbers() -> None:
    (avocado,) = load_recipe(RECIPES / "avocado_7b" / "recipe.py").fine_tunes()
    assert (avocado.epochs, avocado.batch.max_examples, avocado.optimizer.learning_rate) == (2, 128, 2e-5)
    assert avocado.lora is None
    assert {"vision_tower", "audio_tower"}.isdisjoint(avocado.trainable)
    align, sft, paper = load_recipe(RECIPES / "salmonn2_7b" / "recipe.py").fine_tunes()
    assert (align.lora, align.stage) == (None, "align")
    assert sft.lora == LoraSettings(rank=128, alpha=256, dropout=0.05, targets=("q_proj", "k_proj", "v_proj"))
    assert "audio_projection" not in sft.trainable
    assert paper.lora is not None
    assert (paper.lora.rank, paper.lora.alpha / paper.lora.rank) == (256, 2.0)
    assert torch.tensor([stage.optimizer.learning_rate for stage in (align, sft, paper)]).eq(2e-5).all()
