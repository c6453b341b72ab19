"""Whole stages on a handful of clips: what is trained, what resumes, what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from avocet import training
from avocet.errors import CheckpointError, ConfigError
from avocet.training import checkpoints
from avocet.training.config import OptimizerConfig, StageConfig
from avocet.training.loop import build_heads, learning_rate, run_stage, set_trainable
from avocet.training.model import as_module
from avocet.training.objectives import AuxiliaryHeads, TrainingModule, ctc_loss, patch_loss
from avocet.training.recipes import load_recipe, recipe_path


@pytest.fixture(scope="module")
def trained(recipe_file: Path, run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage of the tiny recipe, run through the public entry."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(run_dir / "data", folder / "data")
    assert training.run("all", str(recipe_file), str(folder)) == 0
    return folder


def read_log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def newest(folder: Path) -> Path:
    return checkpoints.checkpoints(folder)[-1][1]


def test_all_stages_leave_checkpoints_logs_and_facts(trained: Path) -> None:
    for name in ("ears", "eyes", "align", "sft"):
        lines = read_log(trained / name)
        losses = [line["loss"] for line in lines if "loss" in line]
        assert len(losses) == 4
        assert all(math.isfinite(loss) for loss in losses)
        facts = json.loads((trained / name / "run.json").read_text())
        assert facts["stage"] == name
        assert facts["recipe"]["name"] == "tiny"
        assert [step for step, _ in checkpoints.checkpoints(trained / name)] == [2, 4]
    assert sum("dev_total" in line for line in read_log(trained / "sft")) == 1


def test_only_the_named_modules_change(trained: Path, recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    align = next(stage for stage in recipe.stages() if stage.name == "align")
    before = load_file(newest(trained / "ears") / "weights.safetensors")
    after = load_file(newest(trained / "align") / "weights.safetensors")
    # The audio encoder came from `ears` and was frozen.
    names = [name for name in before if name.startswith("model.audio_encoder.")]
    assert names
    assert all(torch.equal(before[name], after[name]) for name in names)
    model = recipe.build_model()
    torch.manual_seed(align.seed)
    module = TrainingModule(as_module(model), build_heads(model))
    assert set_trainable(module, align.trainable) == sorted(align.trainable)
    trainable = {name.split(".")[1] for name, p in module.model.named_parameters("model") if p.requires_grad}
    assert trainable == {"segment_embedding", "query_tokens", "qformer", "audio_projection"}
    with pytest.raises(ConfigError, match="not parts of the model"):
        set_trainable(module, ("ears",))


def test_a_killed_run_resumes_to_the_bit(trained: Path, recipe_file: Path, run_dir: Path, tmp_path: Path) -> None:
    """Steps 1-2, then 3-4 from the checkpoint, give the weights of one run over all 4 steps."""
    for name in ("data", "ears", "eyes", "align", "sft"):
        source = (run_dir if name == "data" else trained) / name
        shutil.copytree(source, tmp_path / name)
    shutil.rmtree(tmp_path / "sft" / "checkpoint-4")  # what a kill after step 3 leaves
    (tmp_path / "sft" / "checkpoint-4.partial").mkdir()
    run_stage(recipe_file, "sft", tmp_path, resume=True)
    for file in ("weights.safetensors", "optimizer.safetensors"):
        again = load_file(tmp_path / "sft" / "checkpoint-4" / file)
        whole = load_file(trained / "sft" / "checkpoint-4" / file)
        assert again.keys() == whole.keys()
        assert all(torch.equal(again[name], whole[name]) for name in whole), file

    def losses(folder: Path) -> list[tuple[int, float]]:
        return [(line["step"], line["loss"]) for line in read_log(folder / "sft") if "loss" in line]

    assert losses(tmp_path) == losses(trained)


def test_two_processes_learn_what_one_does(trained: Path, recipe_file: Path, tmp_path: Path) -> None:
    """The same batches and draws, gradients summed: the same steps up to the order of float sums."""
    shared = tmp_path / "recipe.py"
    shared.write_text(recipe_file.read_text().replace("max_steps=4,", "max_steps=4, num_processes=2,"))
    for name in ("data", "ears", "eyes"):
        shutil.copytree(trained / name, tmp_path / "run" / name)
    run_stage(shared, "align", tmp_path / "run", resume=False)
    one = load_file(newest(trained / "align") / "weights.safetensors")
    two = load_file(newest(tmp_path / "run" / "align") / "weights.safetensors")
    assert one.keys() == two.keys()
    # Adam divides by the gradient's size, so where that is tiny the order of float sums shows: compare what was learnt.
    start = load_file(newest(trained / "ears") / "weights.safetensors")  # there the aligner was not trained yet
    aligner = [name for name in one if not torch.equal(one[name], start[name]) and name.startswith("model.qformer")]
    assert aligner
    learnt = torch.cat([(one[name] - start[name]).flatten() for name in aligner])
    apart = torch.cat([(two[name] - one[name]).flatten() for name in aligner])
    assert apart.norm() <= 0.01 * learnt.norm()


def test_a_second_run_without_resume_is_refused(trained: Path, recipe_file: Path) -> None:
    with pytest.raises(ConfigError, match="already holds a run; add --resume"):
        training.run("sft", str(recipe_file), str(trained))


def test_changed_settings_are_not_resumed(trained: Path, recipe_file: Path, tmp_path: Path) -> None:
    changed = tmp_path / "recipe.py"
    changed.write_text(recipe_file.read_text().replace("learning_rate=1e-3", "learning_rate=2e-3"))
    with pytest.raises(ConfigError, match=r"started with other settings of 'ears' \(optimizer changed\)"):
        run_stage(changed, "ears", trained, resume=True)


def test_the_export_is_a_captioner_without_heads(trained: Path) -> None:
    weights = load_file(trained / "export" / "model.safetensors")
    assert weights
    assert all(tensor.dtype == torch.float16 for tensor in weights.values())
    assert not any(name.startswith("heads") for name in weights)


def test_unknown_stage_recipe_and_part(recipe_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown stage 'ppo'"):
        training.run("ppo", str(recipe_file))
    with pytest.raises(ConfigError, match="no recipe 'nowhere'"):
        training.run("sft", "nowhere")
    with pytest.raises(ConfigError, match="no part 'nose'"):
        training.run("towers", str(recipe_file), str(tmp_path), part="nose")
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    with pytest.raises(ConfigError, match="has no function recipe"):
        load_recipe(empty)
    assert recipe_path(str(recipe_file)) == recipe_file.resolve()


def test_a_checkpoint_of_another_model_is_refused(trained: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a parameter of this model"):
        checkpoints.load_weights(newest(trained / "eyes"), torch.nn.Linear(2, 2))


def config(**changes: object) -> StageConfig:
    settings: dict[str, object] = {
        "name": "x",
        "objective": "tokens",
        "stores": ("a",),
        "mixture": {"caption": 1.0},
        "trainable": ("decoder",),
        "optimizer": OptimizerConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.1),
        "batch_size": 1,
        "max_steps": 110,
    }
    return StageConfig(**{**settings, **changes})  # type: ignore[arg-type]


def test_learning_rate_by_hand() -> None:
    schedule = config()
    assert learning_rate(schedule, 0) == pytest.approx(0.1)
    assert learning_rate(schedule, 9) == pytest.approx(1.0)
    assert learning_rate(schedule, 10) == pytest.approx(1.0)
    assert learning_rate(schedule, 60) == pytest.approx(0.1 + 0.9 * 0.5)  # half-way: the cosine is 0
    assert learning_rate(schedule, 110) == pytest.approx(0.1)
    early = config(optimizer=OptimizerConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.1, decay_steps=210))
    assert learning_rate(early, 110) == pytest.approx(0.1 + 0.9 * 0.5)  # the stage ends half-way down


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "magic"}, "objective must be one of"),
        ({"mixture": {"song": 1.0}}, "mixture must give positive weights"),
        ({"trainable": ()}, "name at least one module"),
        ({"batch_size": 0}, "must be >= 1"),
        ({"evaluate_every": 5}, "needs evaluate_store"),
    ],
)
def test_a_stage_checks_itself(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_ctc_loss_by_hand() -> None:
    """Uniform logits over K symbols, 2 frames, target of one symbol: 3 paths of probability K**-2 each."""
    heads = AuxiliaryHeads(audio_width=4, vision_width=4, pair_width=8, token_width=4)
    torch.nn.init.zeros_(heads.symbols.weight)
    torch.nn.init.zeros_(heads.symbols.bias)
    symbols = heads.symbols.out_features
    loss, metrics = ctc_loss(heads.symbols, [torch.zeros(2, 4), torch.zeros(3, 4)], [[1], []])
    assert loss.item() == pytest.approx(-math.log(3 / symbols**2), rel=1e-5)
    assert metrics["ctc"] == pytest.approx(loss.item())
    silent, none = ctc_loss(heads.symbols, [torch.zeros(2, 4)], [[]])
    assert silent.item() == 0
    assert none == {}


def test_patch_loss_by_hand() -> None:
    """Uniform logits: log(K) for the labelled patch and 0.3 log(K) for the empty ones, summed over the columns."""
    heads = AuxiliaryHeads(audio_width=4, vision_width=4, pair_width=8, token_width=4)
    torch.nn.init.zeros_(heads.patches.weight)
    torch.nn.init.zeros_(heads.patches.bias)
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[0, 0] = torch.tensor([1, 2, 3, 4])
    loss, _ = patch_loss(heads, torch.zeros(1, 4, 4), labels)
    expected = 1.3 * sum(math.log(size) for size in (9, 13, 41, 7))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(loss.item())
