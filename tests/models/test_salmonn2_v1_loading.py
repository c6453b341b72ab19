"""Reading and writing video-SALMONN 2 7B: keys, sizes, constants."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from v1_models import (
    CONFIG_7B,
    POSITION_IDS,
    REAL_SHAPES,
    SMALL,
    SMALL_HEADS,
    SMALL_SHAPES,
    VISION,
    small_tensors,
    write_small,
)

from avocet.errors import CheckpointError, ConfigError
from avocet.models.lora import add_lora
from avocet.models.registry import ModelOptions
from avocet.models.salmonn2.v1 import V1Model
from avocet.models.salmonn2.v1_config import V1Config, read_v1_config
from avocet.models.salmonn2.v1_loading import (
    empty_model,
    load_v1,
    our_name,
    released_name,
    released_state_dict,
    write_released,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_small(tmp_path / "released")


def load(folder: Path, **changes: Any) -> V1Model:
    return load_v1(folder, **({"sizes": SMALL_HEADS} | changes))


# Keys and sizes


def test_real_sizes_map_every_key():
    """The real 7B on the meta device: every released tensor has its place in our model, and nothing is left over."""
    config = read_v1_config(CONFIG_7B, REAL_SHAPES)
    assert (config.vision.num_heads, config.audio.num_heads, config.qformer.num_heads) == (16, 20, 12)
    assert (config.vision.image_size, config.vision.num_layers, config.rows) == (384, 26, 13)
    assert config.rows * (config.rows + 1) == 182
    assert config.windows.num_windows == 60
    assert config.audio.max_segments == 200
    model = empty_model(config, None, allocate=False)
    assert {part.device.type for part in model.parameters()} == {"meta"}
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    mapped = {our_name(name): shape for name, shape in REAL_SHAPES.items()}
    assert mapped.pop("") == (1, 512)
    assert None not in mapped
    assert mapped == ours
    assert {released_name(name): shape for name, shape in ours.items()} | {POSITION_IDS: (1, 512)} == REAL_SHAPES
    # What the parts weigh by the facts: 7.6 billion in the decoder, 20.4 + 2.75 + 25.7 million behind Whisper.
    behind = ("audio.qformer.", "audio.query_tokens", "audio.projection.", "audio.mlp.")
    count = sum(part.numel() for name, part in model.named_parameters() if name.startswith(behind))
    assert count == pytest.approx(48.9e6, rel=0.01)
    assert sum(part.numel() for part in model.decoder.parameters()) == pytest.approx(7.6e9, rel=0.01)


def test_unknown_keys_have_no_place():
    assert our_name("talker.weight") is None
    assert our_name("speech_Qformer.cls.predictions.bias") is None
    assert released_name("somewhere.else") is None


@pytest.mark.parametrize(
    ("tower", "expected"),
    [("google/siglip-so400m-patch14-384", 384), ("/models/siglip", 384), ("siglip-378", 378), ("x-224", 384)],
)
def test_picture_size_of_the_real_tower(tower, expected):
    """27 patches of 14 pixels fit 378 to 391; a name that says another size does not name this tower."""
    assert read_v1_config(CONFIG_7B | {"mm_vision_tower": tower}, REAL_SHAPES).vision.image_size == expected


def test_sizes_given_by_the_caller():
    sizes = SMALL_HEADS | {"image_size": 23, "window_frames": 15}
    config = read_v1_config(SMALL, SMALL_SHAPES, sizes)
    assert (config.vision.image_size, config.audio.window_frames, config.windows.num_windows) == (23, 15, 100)
    assert read_v1_config(SMALL, SMALL_SHAPES, SMALL_HEADS).vision.image_size == 20
    for wrong, message in (
        ({"heads": 2}, "unknown sizes heads; there are: vision_heads"),
        ({"image_size": 24}, "image_size 24 is 6 patches on a side, the checkpoint has 5"),
        ({"window_frames": 16}, "must divide the 1500 frames"),
        ({"audio_heads": 3}, "divisible by num_heads 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_v1_config(SMALL, SMALL_SHAPES, SMALL_HEADS | wrong)
    with pytest.raises(ConfigError, match=r"vision_heads: no file says .* width 16 .* sizes=\{'vision_heads': ...\}"):
        read_v1_config(SMALL, SMALL_SHAPES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llava"}, "model_type 'llava' is not 'video_salmonn_2'"),
        ({"hidden_act": "relu"}, "hidden_act='relu' is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window=True"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ({"mm_projector_type": "linear"}, "mm_projector_type='linear' is not supported; released is 'mlp2x_gelu'"),
        ({"mm_projector_type": 3}, "not a video-SALMONN 2 checkpoint"),
        ({"mm_spatial_pool_mode": "bilinear"}, "mm_spatial_pool_mode='bilinear'"),
        ({"mm_spatial_pool_stride": "2"}, "mm_spatial_pool_stride='2'"),
        ({"mm_pooling_position": "inside"}, "mm_pooling_position='inside'"),
        ({"mm_newline_position": "frame"}, "mm_newline_position='frame'"),
        ({"mm_patch_merge_type": "flat"}, "mm_patch_merge_type='flat'"),
        ({"add_time_token": "yes"}, "add_time_token='yes'"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"eos_token_id": None}, "not a video-SALMONN 2 checkpoint"),
    ],
)
def test_configs_of_other_models(change, message):
    with pytest.raises(CheckpointError, match=message):
        read_v1_config(SMALL | change, SMALL_SHAPES, SMALL_HEADS)


def test_fields_may_stand_among_the_training_arguments():
    config = {name: value for name, value in SMALL.items() if not name.startswith(("mm_", "add_"))}
    config["model_args"] = {"mm_spatial_pool_stride": 3, "add_time_token": False, "mm_projector_type": "mlp3x_gelu"}
    read = read_v1_config(config, SMALL_SHAPES, SMALL_HEADS)
    assert (read.pool_stride, read.time_tokens, read.projector_depth) == (3, False, 3)
    assert (read.pool_mode, read.pool_after_projection) == ("max", True)


@pytest.mark.parametrize(
    "name", ["speech_encoder.conv1.weight", "speech_query_tokens", f"{VISION}embeddings.patch_embedding.weight"]
)
def test_weights_of_other_models(name):
    with pytest.raises(CheckpointError, match=f"config.json and weights lack '{name}'"):
        read_v1_config(SMALL, {key: shape for key, shape in SMALL_SHAPES.items() if key != name}, SMALL_HEADS)


def test_layers_must_be_numbered():
    shapes = {name: shape for name, shape in SMALL_SHAPES.items() if ".encoder.layers.0." not in name}
    with pytest.raises(CheckpointError, match=r"not numbered from 0 on: \[1\]"):
        read_v1_config(SMALL, shapes, SMALL_HEADS)
    with pytest.raises(CheckpointError, match="2 query tokens per audio window"):
        read_v1_config(SMALL, SMALL_SHAPES | {"speech_query_tokens": (1, 2, 12)}, SMALL_HEADS)
    key = f"{VISION}embeddings.position_embedding.weight"
    with pytest.raises(CheckpointError, match="24 positions, which are no square"):
        read_v1_config(SMALL, SMALL_SHAPES | {key: (24, 16)}, SMALL_HEADS)


# Folders


def test_round_trip_of_the_release(folder, tmp_path):
    model = load(folder)
    assert not model.training
    write_released(model, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == SMALL
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)


def test_round_trip_through_our_layout(folder, tmp_path):
    model = load(folder, options=ModelOptions(fps=2.0))
    model.save(tmp_path / "ours")
    again = load_v1(tmp_path / "ours")
    assert again.config == dataclasses.replace(model.config, fps=2.0)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    ours, stored = released_state_dict(again), load_file(folder / "model.safetensors")
    assert ours.keys() == stored.keys()
    assert all(torch.equal(ours[name], stored[name]) for name in stored)
    with pytest.raises(CheckpointError, match="holds weights already"):
        model.save(tmp_path / "ours")
    with pytest.raises(ConfigError, match="sizes are for released folders"):
        load(tmp_path / "ours")


def test_half_precision_is_kept(tmp_path):
    folder = write_small(tmp_path / "half", small_tensors(torch.bfloat16))
    model = load(folder, dtype="bfloat16")
    assert model.newline.dtype == torch.bfloat16
    assert model.decoder.model.rotary_emb.inv_freq.dtype == torch.float32
    stored, ours = load_file(folder / "model.safetensors"), released_state_dict(model)
    assert all(torch.equal(stored[name], ours[name]) and stored[name].dtype == ours[name].dtype for name in stored)
    assert load(folder).newline.dtype == torch.float32


def test_shards(folder, tmp_path):
    tensors = small_tensors()
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    (sharded / "config.json").write_text(json.dumps(SMALL))
    names, index = sorted(tensors), {}
    for number in range(3):
        shard = f"model-0000{number + 1}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[number::3]}, sharded / shard)
        index |= dict.fromkeys(names[number::3], shard)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    one, three = load(folder).state_dict(), load(sharded).state_dict()
    assert all(torch.equal(one[name], three[name]) for name in one)


def test_computed_buffers_are_those_of_a_fresh_model(folder):
    loaded = load(folder)
    fresh = V1Model(loaded.config)
    buffers, expected = dict(loaded.named_buffers()), dict(fresh.named_buffers())
    assert buffers.keys() == expected.keys()
    assert len(buffers) >= 2
    for name, buffer in buffers.items():
        assert torch.equal(buffer, expected[name]), name
        assert buffer.dtype == expected[name].dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ln_speech.bias": None}, "1 missing keys: audio.norm.bias"),
        ({"talker.weight": torch.zeros(1)}, "1 unexpected keys: talker.weight"),
        ({"model.tower.weight": torch.zeros(1)}, "1 unexpected keys: model.tower.weight"),
        ({"ln_speech.bias": torch.zeros(3)}, r"1 keys of another shape: ln_speech.bias is \(3,\)"),
        ({POSITION_IDS: torch.zeros(1, 512)}, "position_ids is not the constant"),
        ({f"{VISION}embeddings.position_ids": torch.ones(1, 25)}, "position_ids is not the constant"),
        ({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, "inv_freq is not the constant"),
        ({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}, "inv_freq is not the constant"),
    ],
)
def test_wrong_tensors(tmp_path, change, message):
    tensors = {name: tensor for name, tensor in (small_tensors() | change).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        load(write_small(tmp_path / "wrong", tensors))


def test_constants_of_older_libraries(tmp_path):
    """Heads of width 8: frequencies 1, 1e6^-0.25, 1e6^-0.5, 1e6^-0.75, kept to 8 bits in bfloat16."""
    frequencies = torch.tensor([1.0, 10**-1.5, 1e-3, 10**-4.5]).bfloat16()
    extra = {
        f"{VISION}embeddings.position_ids": torch.arange(25)[None],
        **{f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": frequencies.clone() for layer in range(2)},
    }
    model = load(write_small(tmp_path / "older", small_tensors() | extra))
    assert released_state_dict(model).keys() == SMALL_SHAPES.keys()


def test_without_the_constant_none_is_written_back(tmp_path):
    tensors = small_tensors()
    del tensors[POSITION_IDS]
    assert released_state_dict(load(write_small(tmp_path / "newer", tensors))).keys() == tensors.keys()


def test_without_the_last_two_layers_of_hearing(tmp_path):
    tensors = {name: tensor for name, tensor in small_tensors().items() if not name.startswith("final_linear.")}
    model = load(write_small(tmp_path / "plain", tensors))
    assert not model.config.final_mlp
    assert released_state_dict(model).keys() == tensors.keys()


def test_tied_embeddings(tmp_path):
    tensors = small_tensors()
    head = tensors.pop("lm_head.weight")
    model = load(write_small(tmp_path / "tied", tensors, tie_word_embeddings=True))
    assert model.decoder.lm_head.weight is model.decoder.model.embed_tokens.weight
    assert torch.equal(model.decoder.lm_head.weight, tensors["model.embed_tokens.weight"])
    assert released_state_dict(model).keys() == tensors.keys()
    model.save(tmp_path / "ours")
    assert torch.equal(load_v1(tmp_path / "ours").decoder.lm_head.weight, model.decoder.lm_head.weight)
    copy = {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    load(write_small(tmp_path / "copy", tensors | copy, tie_word_embeddings=True))
    with pytest.raises(CheckpointError, match=r"lm_head.weight is not the constant"):
        load(write_small(tmp_path / "other", tensors | {"lm_head.weight": head}, tie_word_embeddings=True))


def test_tokenizer_of_the_folder(folder, tokenizer):
    assert load(folder).tokenizer is None
    assert load(folder).stop_ids == (7,)
    assert load(folder, tokenizer=tokenizer).tokenizer is tokenizer
    tokenizer.save_pretrained(folder)
    read = load(folder)
    assert read.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert read.stop_ids == tuple(tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read"):
        load(folder)


def test_layout_and_options(folder):
    assert load(folder).layout_rule == "salmonn2_v1/released"
    assert load(folder, layout="corrected").layout_rule == "salmonn2_v1/corrected"
    assert load(folder, options=ModelOptions(layout="corrected", max_frames=7)).max_frames == 7
    with pytest.raises(ConfigError, match="layout must be one of"):
        load(folder, layout="tmrope")


def test_a_broken_config_of_ours(folder, tmp_path):
    load(folder).save(tmp_path / "ours")
    path = tmp_path / "ours" / "config.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"pool_stride": "many"}))
    with pytest.raises(CheckpointError, match=r"config.json: not a valid V1Config: pool_stride"):
        load_v1(tmp_path / "ours")


def test_a_model_without_a_release_cannot_be_written_as_one(folder, tmp_path):
    model = load(folder)
    assert V1Config.from_dict(model.config.to_dict()) == model.config
    add_lora(model, rank=2, alpha=4)
    with pytest.raises(CheckpointError, match="merge_lora adapters first"):
        write_released(model, tmp_path / "x")
    model.config = dataclasses.replace(model.config, released={})
    with pytest.raises(CheckpointError, match=r"does not know the config.json of a release"):
        write_released(model, tmp_path / "x")
