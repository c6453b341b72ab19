"""What the training code of video-SALMONN 2 7B wrote: LoRA tensors and pickled checkpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from v1_models import (
    SMALL,
    SMALL_HEADS,
    small_tensors,
    write_small,
)

from avocet.errors import CheckpointError
from avocet.models.lora import lora_disabled, merge_lora
from avocet.models.salmonn2.v1 import V1Model
from avocet.models.salmonn2.v1_loading import (
    load_v1,
    released_state_dict,
)
from avocet.models.salmonn2.v1_training_files import load_lora_weights, load_v1_bin


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_small(tmp_path / "released")


def load(folder: Path, **changes: Any) -> V1Model:
    return load_v1(folder, **({"sizes": SMALL_HEADS} | changes))


# LoRA of the training code


def lora_tensors(rank: int = 2, layers: int = 2, prefix: str = "base_model.model.") -> dict[str, torch.Tensor]:
    generator, tensors = torch.Generator().manual_seed(1), {}
    for layer in range(layers):
        for target, width in (("q_proj", 32), ("k_proj", 16), ("v_proj", 16)):
            name = f"{prefix}model.layers.{layer}.self_attn.{target}.lora_"
            tensors[f"{name}A.default.weight"] = torch.randn(rank, 32, generator=generator)
            tensors[f"{name}B.default.weight"] = torch.randn(width, rank, generator=generator)
    return tensors


def merged_weight(target: str = "model.layers.1.self_attn.k_proj", scale: float = 2.0) -> torch.Tensor:
    lora = lora_tensors(prefix="")
    up, down = lora[f"{target}.lora_B.default.weight"], lora[f"{target}.lora_A.default.weight"]
    return small_tensors()[f"{target}.weight"] + scale * up @ down


def test_lora_is_attached_switched_off_and_merged(folder, tmp_path):
    save_file(lora_tensors(), tmp_path / "lora.safetensors")
    model = load(folder)
    inputs = torch.randn(1, 5, 32)
    with torch.no_grad():
        base = model.decoder(inputs_embeds=inputs).logits
        added = load_lora_weights(model, tmp_path / "lora.safetensors", alpha=4)
        assert len(added) == 12
        policy = model.decoder(inputs_embeds=inputs).logits
        assert not torch.allclose(base, policy)
        with lora_disabled(model):
            assert torch.equal(model.decoder(inputs_embeds=inputs).logits, base)
        merge_lora(model)
        torch.testing.assert_close(model.decoder.model.layers[1].self_attn.k_proj.weight, merged_weight())
        torch.testing.assert_close(model.decoder(inputs_embeds=inputs).logits, policy, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "one rank and nothing else"),
        (lora_tensors() | {"model.norm.weight": torch.zeros(32)}, "model.norm.weight"),
        (lora_tensors() | lora_tensors(3, 1), r"ranks \[2, 3\]"),
        (lora_tensors(layers=1), "6 LoRA tensors do not fit: model.layers.1.self_attn.k_proj.lora_A is missing"),
        (lora_tensors(layers=3), r"model.layers.2.self_attn.k_proj.lora_A is \(2, 32\), the decoder needs none"),
        ({name: part.T.contiguous() for name, part in lora_tensors(32).items()}, "do not fit"),
    ],
)
def test_lora_of_another_model(folder, tmp_path, tensors, message):
    save_file(tensors, tmp_path / "lora.safetensors")
    model = load(folder)
    with pytest.raises(CheckpointError, match=message):
        load_lora_weights(model, tmp_path / "lora.safetensors", alpha=4)
    assert not any(".lora_" in name for name in model.state_dict())
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_lora_weights(model, tmp_path / "nothing.safetensors", alpha=4)


# Training checkpoints


def wrapped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's tensors as DeepSpeed and PEFT name them, with LoRA beside its layers."""
    named = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        is_wrapped = name.startswith("model.layers.") and stem.endswith(("q_proj", "k_proj", "v_proj"))
        named[f"module.base_model.model.{f'{stem}.base_layer.{kind}' if is_wrapped else name}"] = tensor
    return named


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with LoRA: everything at the first save, two later checkpoints of what is trained."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = SMALL | {"model_args": {"lora_r": 2, "lora_alpha": 4}}
    (folder / "config.json").write_text(json.dumps(config))
    zeros = {name: torch.zeros_like(part) for name, part in lora_tensors(prefix="module.base_model.model.").items()}
    torch.save(wrapped(small_tensors()) | zeros, folder / "all_parameters.bin")
    for step, newline in ((90, 9.0), (200, 1.0)):
        trained = {"module.base_model.model.model.image_newline": torch.full((32,), newline)}
        trained |= lora_tensors(prefix="module.base_model.model.")
        torch.save(trained, folder / f"checkpoint-{step}.bin")
    return folder


def load_bin(path: Path, **changes: Any) -> V1Model:
    return load_v1_bin(path, **({"allow_pickle": True, "sizes": SMALL_HEADS} | changes))


def test_the_latest_checkpoint_of_a_run(run):
    model = load_bin(run)
    assert not model.training
    assert torch.equal(model.newline, torch.ones(32))
    torch.testing.assert_close(model.decoder.model.layers[1].self_attn.k_proj.weight, merged_weight())
    expected, ours = small_tensors(), released_state_dict(model)
    assert ours.keys() == expected.keys()
    trained = {name for name in ours if not torch.equal(ours[name], expected[name])}
    projections = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
    in_layers = {name for name in expected if name.startswith("model.layers.") and name.endswith(projections)}
    assert trained == {"model.image_newline", *in_layers}


def test_a_checkpoint_by_name_and_its_scale(run):
    model = load_bin(run / "checkpoint-90.bin", lora_alpha=6)
    assert torch.equal(model.newline, torch.full((32,), 9.0))
    torch.testing.assert_close(model.decoder.model.layers[1].self_attn.k_proj.weight, merged_weight(scale=3.0))
    first = load_bin(run / "all_parameters.bin")
    assert torch.equal(first.newline, small_tensors()["model.image_newline"])
    torch.testing.assert_close(first.decoder.model.layers[1].self_attn.k_proj.weight, merged_weight(scale=0.0))


def test_a_run_without_lora_and_with_the_config_of_its_base(run, folder):
    for path in run.glob("checkpoint-*.bin"):
        path.unlink()
    (run / "config.json").unlink()
    torch.save({f"module.{name}": tensor for name, tensor in small_tensors().items()}, run / "all_parameters.bin")
    with pytest.raises(CheckpointError, match=r"no config.json"):
        load_bin(run)
    model = load_bin(run, base=folder, layout="corrected", dtype="bfloat16")
    assert model.layout_rule == "salmonn2_v1/corrected"
    assert torch.equal(model.newline, small_tensors()["model.image_newline"].bfloat16())


def test_pickles_are_not_opened_unasked(run):
    with pytest.raises(CheckpointError, match="pass --allow-pickle"):
        load_v1_bin(run, sizes=SMALL_HEADS)


class Trap:
    """A pickle that runs a command when it is opened without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_pickles_of_more_than_tensors_are_refused(run, tmp_path):
    torch.save({"module.x": Trap(f"touch {tmp_path / 'sprung'}")}, run / "checkpoint-300.bin")
    with pytest.raises(CheckpointError, match="not a PyTorch file of tensors alone"):
        load_bin(run)
    assert not (tmp_path / "sprung").exists()
    for content in ([torch.zeros(1)], {"step": 3}):
        torch.save(content, run / "checkpoint-300.bin")
        with pytest.raises(CheckpointError, match="must hold tensors by name"):
            load_bin(run)
    (run / "checkpoint-300.bin").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="not a PyTorch file"):
        load_bin(run)


def test_incomplete_runs(run):
    with pytest.raises(CheckpointError, match=r"checkpoint-1.bin: no such file"):
        load_bin(run / "checkpoint-1.bin")
    (run / "config.json").write_text(json.dumps(SMALL | {"model_args": {}}))
    with pytest.raises(CheckpointError, match="give lora_alpha"):
        load_bin(run)
    torch.save({"module.talker.weight": torch.zeros(1)}, run / "checkpoint-300.bin")
    with pytest.raises(CheckpointError, match=r"unexpected keys: talker.weight"):
        load_bin(run, lora_alpha=4)
    key = "module.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    torch.save({key: torch.zeros(3, 32)}, run / "checkpoint-300.bin")
    with pytest.raises(CheckpointError, match=r"of another shape: model.layers.0.self_attn.q_proj.weight"):
        load_bin(run, lora_alpha=4)
    (run / "all_parameters.bin").unlink()
    with pytest.raises(CheckpointError, match=r"no all_parameters.bin; a checkpoint-N.bin holds only what was trained"):
        load_bin(run)
