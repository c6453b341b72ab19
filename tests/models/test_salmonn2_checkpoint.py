from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from avocet.errors import CheckpointError, ConfigError
from avocet.models.salmonn2 import Salmonn2Config, Salmonn2Model, load_checkpoint, save_checkpoint


@pytest.fixture
def folder(model, tmp_path):
    save_checkpoint(model, tmp_path)
    return tmp_path


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_round_trip_is_bit_exact(model, folder, make_clip):
    loaded = load_checkpoint(folder)
    assert loaded.config == model.config
    assert not loaded.training
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    prompt = model.prepare(make_clip(num_frames=2, audio_seconds=2.6), "x")
    completion = [[model.encode_text("a bell", end=True)]]
    assert torch.equal(
        model.score(model.encode([prompt]), completion)[0][0], loaded.score(loaded.encode([prompt]), completion)[0][0]
    )


def test_what_checkpoints_do_not_store_is_restored(model, folder):
    stored = set(model.state_dict())
    loaded = load_checkpoint(folder, dtype="bfloat16")
    buffers = {name for name, _ in model.named_buffers()} - stored
    assert buffers == {
        "vision.embeddings.position_ids",
        "decoder.model.rotary_emb.inv_freq",
        "decoder.model.rotary_emb.original_inv_freq",
    }
    ours, theirs = dict(model.named_buffers()), dict(loaded.named_buffers())
    # Rotary frequencies stay float32 whatever the weights are.
    assert all(torch.equal(ours[name], theirs[name]) for name in buffers)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in loaded.named_parameters() if parameter.requires_grad} == trainable


def test_tied_embeddings_are_stored_once(tiny_config, tokenizer, tmp_path):
    decoder = dataclasses.replace(tiny_config.decoder, tie_embeddings=True)
    tied = Salmonn2Model(dataclasses.replace(tiny_config, decoder=decoder), tokenizer)
    tied.save(tmp_path)
    assert "decoder.lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path)
    assert loaded.decoder.lm_head.weight is loaded.decoder.model.embed_tokens.weight
    assert torch.equal(loaded.decoder.lm_head.weight, tied.decoder.lm_head.weight)


def test_dtypes(model, tmp_path):
    model.save(tmp_path, torch.float16)
    assert load_file(tmp_path / "model.safetensors")["query_tokens"].dtype == torch.float16
    loaded = load_checkpoint(tmp_path)
    assert loaded.query_tokens.dtype == torch.float32  # "auto" on a CPU
    torch.testing.assert_close(loaded.query_tokens, model.query_tokens.half().float(), atol=0, rtol=0)
    assert load_checkpoint(tmp_path, dtype=torch.bfloat16).query_tokens.dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="unknown dtype 'int3'; allowed: auto, bfloat16, float16, float32"):
        load_checkpoint(tmp_path, dtype="int3")


def test_missing_unexpected_and_misshapen_keys_are_listed(folder):
    def change(tensors):
        del tensors["query_tokens"]
        tensors["audio.q_tokens"] = torch.zeros(2)
        tensors["audio_projection.bias"] = torch.zeros(3)

    edit_weights(folder, change)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder)
    message = str(error.value)
    assert "1 missing keys: query_tokens" in message
    assert "1 unexpected keys: audio.q_tokens" in message
    assert "audio_projection.bias is (3,), the config says (32,)" in message


def test_long_lists_are_cut(folder):
    edit_weights(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("decoder")])
    with pytest.raises(CheckpointError, match=r"missing keys: decoder.* and \d+ more$"):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"not weights", pickle.dumps({"a": 1})])
def test_only_safetensors_are_read(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"no {name}; a model folder holds"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "model_type None is of another model"),
        (json.dumps({"model_type": "qwen2_5_vl"}), "'qwen2_5_vl' is of another model; video-SALMONN 2 has 'avocet-s"),
        (json.dumps({"model_type": "avocet-salmonn2", "variant": "max"}), r"with a variant \(paper, v1, plus\)"),
        (json.dumps({"model_type": "avocet-salmonn2", "variant": "paper", "x": 1}), "vision: .*x: "),
    ],
)
def test_configs_of_other_models(folder, content, message):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_config_with_impossible_sizes(folder):
    config = json.loads((folder / "config.json").read_text())
    config["vision"]["merge"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="merge 3 must divide the 4 x 4 patches"):
        load_checkpoint(folder)


def test_variants(folder):
    assert load_checkpoint(folder, variant="paper").config.variant == "paper"
    with pytest.raises(CheckpointError, match="unknown variant 'max'; allowed: auto, paper, v1, plus"):
        load_checkpoint(folder, variant="max")
    with pytest.raises(CheckpointError, match="holds variant 'paper', not 'plus'"):
        load_checkpoint(folder, variant="plus")


def test_config_round_trip():
    for config in (Salmonn2Config.nano(500), Salmonn2Config.paper_7b()):
        assert Salmonn2Config.from_json(config.to_json_line()) == config


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vision", {"image_size": 8}, "image_size 8 is below patch_size 16"),
        ("vision", {"merge": 4}, "merge 4 must divide the 6 x 6 patches"),
        ("vision", {"stem_channels": (8,) * 5}, "must be divisible by 2 for each of 5 stem channels"),
        ("vision", {"num_heads": 7}, "must be divisible by num_heads 7"),
        ("audio", {"window_seconds": 0.13}, r"window_seconds 0.13 must be a whole number of encoder frames of 0.04 s"),
        ("audio", {"window_seconds": 0.28}, "segment_seconds 12 must be a whole number of windows of 0.28 s"),
        ("audio", {"n_fft": 6400}, r"n_fft 6400 must be below two windows \(6400 samples\)"),
        ("audio", {"num_heads": 7}, "must be divisible by num_heads 7"),
        ("qformer", {"num_queries": 0}, "num_queries must be >= 1"),
        ("qformer", {"num_heads": 7}, "must be divisible by num_heads 7"),
        ("decoder", {"num_kv_heads": 3}, "num_kv_heads 3"),
    ],
)
def test_impossible_sizes(part, changes, message):
    nano = Salmonn2Config.nano(500)
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(getattr(nano, part), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout_rule": "x"}, "unknown layout rule 'x'; available: salmonn2_paper"),
        ({"clip_fps": 0.0}, "clip_fps must be > 0"),
        ({"max_frames": 0}, "max_frames must be >= 1"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(Salmonn2Config.nano(500), **changes)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_nano_is_small(tokenizer):
    model = Salmonn2Model(Salmonn2Config.nano(800), tokenizer)
    assert 5.5e6 < count(model) < 7e6
    assert 2 * count(model) < 20e6  # bytes in float16


def test_the_papers_sizes(tokenizer):
    with torch.device("meta"):
        model = Salmonn2Model(Salmonn2Config.paper_7b(), tokenizer)
    # Published sizes: Whisper-large-v3's encoder 637 M, Qwen2 7B 7.62 B, SigLIP so400m's vision tower 428 M with its
    # pooling head of 15.5 M, which is not built; the Q-Former of the released code about 20.4 M.
    assert count(model.audio_encoder) == pytest.approx(637e6, rel=0.002)
    assert count(model.decoder) == pytest.approx(7.616e9, rel=0.001)
    assert count(model.vision) == pytest.approx(412.5e6, rel=0.005)
    assert count(model.qformer) == pytest.approx(20.4e6, rel=0.05)
    # Two linear layers: 1152 -> 3584 -> 3584.
    assert count(model.visual_aligner) == 1152 * 3584 + 3584 + 3584 * 3584 + 3584
    config = model.config
    assert config.vision.tokens_per_frame == 729
    assert (config.audio.segment_frames, config.audio.window_frames) == (1500, 10)
    assert config.audio_token_seconds == 0.2
    assert model.query_tokens.shape == (1, 1, 768)
