"""Adapters of video-SALMONN 2+: attached, switched off, merged, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from avocet.errors import CheckpointError
from avocet.models.salmonn2 import load_checkpoint
from avocet.models.salmonn2.adapters import adapter_disabled, load_adapter, train_released_parts
from avocet.models.salmonn2.plus import PlusModel
from avocet.models.salmonn2.tiny import tiny_plus

RANK = 2


def adapter_tensors(scale: float = 0.3) -> dict[str, torch.Tensor]:
    """LoRA on q, k and v of both layers (width 32; one key-value head of 16), and a new audio projection."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(2):
        for target, width in (("q_proj", 32), ("k_proj", 16), ("v_proj", 16)):
            start = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            tensors[f"{start}.lora_A.weight"] = torch.randn(RANK, 32, generator=generator) * scale
            tensors[f"{start}.lora_B.weight"] = torch.randn(width, RANK, generator=generator) * scale
    tensors["base_model.model.audio.audio_proj.weight"] = torch.randn(32, 16, generator=generator)
    tensors["base_model.model.audio.audio_proj.bias"] = torch.randn(32, generator=generator)
    return tensors


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "lora_dropout": 0.05, "bias": "none"} | settings
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors if tensors is not None else adapter_tensors(), folder / "adapter_model.safetensors")
    return folder


@torch.no_grad()
def audio_score(model: PlusModel) -> torch.Tensor:
    """Log-probabilities of three tokens after sound, which every part of the adapter changes."""
    sound = torch.randn(1, 128, 3000, generator=torch.Generator().manual_seed(1))
    tokens = model.audio_tokens(sound.transpose(0, 1))
    ids = [50, *[model.config.audio_token_id] * len(tokens), 60, 70, 80]
    embeddings = model.embed(ids, None, tokens)
    decoder = model.language_decoder()
    hidden, _ = decoder.run(embeddings[None], positions=torch.arange(len(ids)).expand(3, 1, -1))
    return decoder.logits(hidden)[0, -4:-1].log_softmax(-1).gather(-1, torch.tensor([[60], [70], [80]]))


def test_attached_switched_off_and_merged(tmp_path):
    folder = write_adapter(tmp_path)
    model, merged = tiny_plus(), tiny_plus()
    base = audio_score(model)
    warnings = load_adapter(model, folder, merge=False)
    assert len(warnings) == 1
    assert "no query token" in warnings[0]
    policy = audio_score(model)
    assert (policy - base).abs().max() > 0.01
    with adapter_disabled(model):
        torch.testing.assert_close(audio_score(model), base, atol=0, rtol=0)
    torch.testing.assert_close(audio_score(model), policy, atol=0, rtol=0)
    load_adapter(merged, folder)
    torch.testing.assert_close(audio_score(merged), policy, atol=1e-5, rtol=0)
    # alpha / r = 2: W + 2 B A.
    tensors = adapter_tensors()
    start = "base_model.model.model.layers.1.self_attn.v_proj"
    delta = 2 * tensors[f"{start}.lora_B.weight"] @ tensors[f"{start}.lora_A.weight"]
    weight = tiny_plus().decoder.model.layers[1].self_attn.v_proj.weight
    torch.testing.assert_close(merged.decoder.model.layers[1].self_attn.v_proj.weight, weight + delta)


def test_the_reference_comes_back_after_an_error(tmp_path):
    model = tiny_plus()
    load_adapter(model, write_adapter(tmp_path), merge=False)
    policy = audio_score(model)
    with pytest.raises(RuntimeError, match="stop"), adapter_disabled(model):
        raise RuntimeError("stop")
    torch.testing.assert_close(audio_score(model), policy, atol=0, rtol=0)


def test_what_is_trained(tmp_path):
    model = tiny_plus()
    load_adapter(model, write_adapter(tmp_path), merge=False)
    names = train_released_parts(model)
    assert {name.split(".")[0] for name in names} == {"visual", "audio", "decoder"}
    assert all("lora_" in name for name in names if name.startswith("decoder."))
    assert "audio.query_tokens" not in names
    assert not any(name.startswith("audio.encoder.") for name in names)
    # The reference has no gradient although the swapped tensors are the trained parameters' own.
    with adapter_disabled(model):
        assert not audio_score(model).requires_grad


def test_captions_of_a_merged_model_say_so_also_after_saving(tmp_path):
    model = tiny_plus()
    load_adapter(model, write_adapter(tmp_path / "adapter"))
    model.save(tmp_path / "merged")
    again: Any = load_checkpoint(tmp_path / "merged")
    assert "no query token" in again.config.notes[0]


def test_rank_stabilised_lora(tmp_path):
    plain, stabilised = tiny_plus(), tiny_plus()
    # alpha / sqrt(2) with alpha = 2 sqrt(2) is the same as alpha / 2 with alpha = 4.
    load_adapter(plain, write_adapter(tmp_path / "plain"))
    load_adapter(stabilised, write_adapter(tmp_path / "rs", use_rslora=True, lora_alpha=2 * 2**0.5))
    torch.testing.assert_close(audio_score(plain), audio_score(stabilised), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "only plain LoRA is supported"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias 'all'"),
        ({"r": 3}, r"LoRA tensors of rank \[2\], adapter_config.json says 3"),
        ({"r": "many"}, "not a LoRA configuration"),
    ],
)
def test_settings_that_are_refused(settings, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        load_adapter(tiny_plus(), write_adapter(tmp_path, **settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model.model.audio.layers.0.fc1.lora_A.weight": torch.zeros(2, 2)}, "no part of the model takes"),
        ({"other.weight": torch.zeros(1)}, "1 tensors that no part of the model takes: other.weight"),
        ({"base_model.model.audio.audio_proj.bias": torch.zeros(5)}, "the adapter is for another model"),
        (
            {"base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.zeros(2, 32)},
            "fits no layer of the decoder",
        ),
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": None}, "lacks 1 LoRA tensors"),
    ],
)
def test_tensors_that_do_not_fit(change, message, tmp_path):
    tensors = {name: tensor for name, tensor in (adapter_tensors() | change).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        load_adapter(tiny_plus(), write_adapter(tmp_path, tensors))


def test_no_adapter_here(tmp_path):
    with pytest.raises(CheckpointError, match="it is no PEFT adapter"):
        load_adapter(tiny_plus(), tmp_path)
    write_adapter(tmp_path, {"base_model.model.audio.audio_proj.bias": torch.zeros(32)})
    with pytest.raises(CheckpointError, match="no LoRA tensors"):
        load_adapter(tiny_plus(), tmp_path)
