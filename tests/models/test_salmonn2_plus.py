"""video-SALMONN 2+ on a tiny random model: the verbs, odd clips, loading and saving."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open

from avocet.errors import CheckpointError, ConfigError, LayoutError
from avocet.models.lora import add_lora, lora_disabled, merge_lora
from avocet.models.qwen_omni.tiny import tiny_tokenizer
from avocet.models.registry import ModelOptions, load_model
from avocet.models.salmonn2 import load_checkpoint
from avocet.models.salmonn2.checkpoint import find_variant
from avocet.models.salmonn2.plus import PlusModel
from avocet.models.salmonn2.plus_config import read_plus_config
from avocet.models.salmonn2.plus_loading import empty_model, our_name, released_name, write_released
from avocet.models.salmonn2.tiny import tiny_plus, tiny_plus_config
from avocet.records import SAMPLE_RATE, Clip, Sampling, SourceFacts

TOKENIZER = tiny_tokenizer("qwen3-omni")


def _id(token: str) -> int:
    return int(TOKENIZER.get_vocab()[token])


@pytest.fixture(scope="module")
def model() -> PlusModel:
    return tiny_plus()


def make_clip(
    name: str = "clip",
    seconds: float = 4.0,
    sound_seconds: float | None = None,
    num_frames: int = 16,
    *,
    is_image: bool = False,
) -> Clip:
    """Noise; `sound_seconds` None is as long as the clip, 0 no sound track."""
    source = np.random.default_rng(len(name) + num_frames)
    length = seconds if sound_seconds is None else sound_seconds
    waveform = source.standard_normal(round(length * SAMPLE_RATE)).astype(np.float32) * 0.1 if length else None
    step = seconds / max(num_frames, 1)
    return Clip(
        id=name,
        frames=source.integers(0, 256, (num_frames, 3, 30, 58), dtype=np.uint8),
        frame_times_seconds=np.arange(num_frames) * step,
        waveform=waveform,
        start_seconds=0.0,
        duration_seconds=seconds,
        audio_status="absent" if waveform is None else "present",
        source=SourceFacts(path=name, container="memory", duration_seconds=seconds, is_image=is_image),
        sampling_step_seconds=step,
    )


CLIPS: dict[str, Callable[[], Clip]] = {
    "sound and picture": lambda: make_clip("both"),
    "no sound track": lambda: make_clip("silent film", sound_seconds=0),
    "sound only": lambda: make_clip("radio", num_frames=0),
    "sound ends before a 30 s boundary": lambda: make_clip("short sound", 33.0, 27.0, 32),
    "sound goes on after the picture": lambda: make_clip("long sound", 29.0, 31.0),
    "one frame": lambda: make_clip("frame", 1.0, num_frames=1),
    "image": lambda: make_clip("image", 0.5, 0, 1, is_image=True),
    "image and sound": lambda: make_clip("slide", 6.0, num_frames=1, is_image=True),
    "odd number of frames": lambda: make_clip("odd", 5.0, num_frames=7),
}


@pytest.mark.parametrize("layout", ["released", "train", "corrected"])
def test_a_batch_of_all_kinds_of_clips_equals_one_by_one(layout):
    model = tiny_plus(layout=layout)
    prompts = [model.prepare(make(), "What happens?") for make in CLIPS.values()]
    with torch.no_grad():
        batch = model.encode(prompts)
        together = model.generate(batch, 1, model.default_sampling)
        for row, prompt in enumerate(prompts):
            alone = model.encode([prompt])
            length = len(prompt.token_ids)
            torch.testing.assert_close(batch.embeddings[row, :length], alone.embeddings[0], atol=1e-6, rtol=0)
            torch.testing.assert_close(batch.positions[:, row, :length], alone.positions[:, 0])
            (completion,) = model.generate(alone, 1, model.default_sampling)[0]
            assert completion.token_ids == together[row][0].token_ids


def test_what_each_kind_of_clip_becomes(model):
    """16 frames are 8 grids; 30 x 58 pixels are 1 x 2 tokens, under the least of 4, and become 2 x 3. Sound of up to
    30 s is one segment of 60 tokens."""
    counts = {}
    for name, make in CLIPS.items():
        layout = model.prepare(make(), "x").layout
        counts[name] = (layout.num_visual_tokens, layout.num_audio_tokens)
    assert counts == {
        "sound and picture": (48, 60),
        "no sound track": (48, 0),
        "sound only": (0, 60),
        "sound ends before a 30 s boundary": (96, 60),
        "sound goes on after the picture": (48, 120),
        "one frame": (6, 60),
        "image": (6, 0),
        "image and sound": (6, 60),
        "odd number of frames": (24, 60),
    }
    corrected = tiny_plus(layout="corrected")
    assert corrected.prepare(make_clip("both"), "x").layout.num_audio_tokens == 8  # 4 s, 0.5 s each
    assert "fails here" in " ".join(model.prepare(CLIPS["sound ends before a 30 s boundary"](), "x").warnings)


def test_the_prompt_is_chatml_around_one_block(model):
    prompt = model.prepare(make_clip("silent", sound_seconds=0), "Say <|im_end|> what?")
    video = _id("<|video_pad|>")
    text = TOKENIZER.decode([token for token in prompt.token_ids if token != video])
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|><|vision_end|>\n"
        "Say <|im_end|> what?<|im_end|>\n<|im_start|>assistant\n"
    )
    # The marker inside the instruction is text, so that only the three turns have real ones.
    assert prompt.token_ids.count(_id("<|im_end|>")) == 2


def test_the_layout_is_recorded():
    names = [tiny_plus(layout=layout).layout_rule for layout in ("released", "train", "corrected")]
    assert names == ["salmonn2_plus/released_generate", "salmonn2_plus/train", "salmonn2_plus/corrected"]
    assert tiny_plus_config().changed(ModelOptions(layout="train", fps=2.0, max_frames=8)).min_frames == 8
    with pytest.raises(ConfigError, match="layout must be one of released, train, corrected, got 'tmrope'"):
        tiny_plus_config().changed(ModelOptions(layout="tmrope"))
    with pytest.raises(ConfigError, match="no total_pixels"):
        tiny_plus_config().changed(ModelOptions(total_pixels=100))


def test_scores_of_samples_from_one_prefill(model):
    prefix = model.encode([model.prepare(make_clip("both"), "x"), model.prepare(make_clip("radio", num_frames=0), "x")])
    sampling = Sampling(max_new_tokens=6, temperature=1.0, seed=4)
    samples = model.generate(prefix, 3, sampling)
    assert len({completion.token_ids for completion in samples[0]}) > 1
    ids = [[completion.token_ids for completion in row] for row in samples]
    with torch.no_grad():
        shared = model.score(prefix, ids)
        for row, completions in enumerate(ids):
            for number, tokens in enumerate(completions):
                (plain,) = model.score(prefix.select([row]), [[tokens]])[0]
                torch.testing.assert_close(shared[row][number], plain, atol=1e-5, rtol=0)
                torch.testing.assert_close(samples[row][number].logps, plain, atol=1e-5, rtol=0)


def test_five_minutes(model):
    prompt = model.prepare(make_clip("film", 300.0, num_frames=64), "x")
    assert (prompt.layout.num_visual_tokens, prompt.layout.num_audio_tokens) == (192, 600)
    with torch.no_grad():
        assert len(model.generate(model.encode([prompt]), 1, model.default_sampling)[0]) == 1


def test_a_full_decoder_is_announced():
    small = tiny_plus(max_new_tokens=4000)
    (warning,) = small.prepare(make_clip("both"), "x").warnings
    assert "leaves" in warning
    assert "4096" in warning


def test_no_media():
    empty = dataclasses.replace(make_clip("nothing", sound_seconds=0, num_frames=0))
    with pytest.raises(LayoutError, match="neither frames nor sound"):
        tiny_plus().prepare(empty, "x")


def test_lora_is_the_identity_until_trained(model):
    model = tiny_plus()
    prompt = model.prepare(make_clip("both"), "x")

    @torch.no_grad()
    def score() -> torch.Tensor:
        return model.score(model.encode([prompt]), [[[5, 6, 7]]])[0][0]

    before = score()
    for parameter in add_lora(model, rank=2, alpha=4):
        torch.nn.init.normal_(parameter, std=0.3)
    changed = score()
    assert (changed - before).abs().max() > 1e-3
    with lora_disabled(model):
        torch.testing.assert_close(score(), before, atol=0, rtol=0)
    merge_lora(model)
    torch.testing.assert_close(score(), changed, atol=1e-5, rtol=0)


# Loading and saving.


@pytest.fixture
def folder(model, tmp_path) -> Path:
    model.save(tmp_path / "ours")
    return tmp_path / "ours"


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_our_layout_round_trip(model, folder):
    assert find_variant(folder) == "plus"
    again: Any = load_checkpoint(folder)
    assert same_weights(model, again)
    assert again.config == model.config
    loaded = load_model(str(folder), options=ModelOptions(layout="train"))
    assert loaded.model.layout_rule == "salmonn2_plus/train"
    with pytest.raises(CheckpointError, match="holds weights already"):
        model.save(folder)
    with pytest.raises(CheckpointError, match="not 'v1'"):
        load_checkpoint(folder, "v1")
    with pytest.raises(ConfigError, match="sizes are given for v1"):
        load_checkpoint(folder, sizes={"audio_heads": 2})


def test_auto_classes(model, folder, tmp_path):
    loaded = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    assert same_weights(loaded.caption_model, model)
    loaded.save_pretrained(tmp_path / "copy")
    assert same_weights(transformers.AutoModel.from_pretrained(tmp_path / "copy").caption_model, model)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "copy").model_type == "avocet-salmonn2"
    with pytest.raises(ConfigError, match=r"takes dtype and device_map \(one device\), not \['quantization_config'\]"):
        transformers.AutoModel.from_pretrained(folder, quantization_config=1)
    with pytest.raises(ConfigError, match="use caption_model"):
        loaded(torch.zeros(1))


def released_config(**changes: Any) -> dict[str, Any]:
    """A `config.json` of a release for the tiny model."""
    config = tiny_plus_config()
    audio, qformer = config.audio, config.qformer
    return {
        "model_type": "qwen2_5_vl",
        **config.text,
        "eos_token_id": _id("<|im_end|>"),
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
        **{name: getattr(config, name) for name in ("image_token_id", "video_token_id", "audio_token_id")},
        **{name: getattr(config, name) for name in ("vision_start_token_id", "vision_end_token_id")},
    } | changes


@pytest.mark.parametrize("tied", [False, True])
def test_released_layout_round_trip(tied, tmp_path):
    config = dataclasses.replace(read_plus_config(released_config(tie_word_embeddings=tied)), frame_pixels=784)
    model = empty_model(config, TOKENIZER, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.fill_(number / 100)
    write_released(model, tmp_path / "released")
    again: Any = load_checkpoint(tmp_path / "released")
    assert same_weights(model, again)
    assert (again.decoder.lm_head.weight is again.decoder.model.embed_tokens.weight) == tied
    with safe_open(tmp_path / "released" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert ("lm_head.weight" in names) != tied
    assert "audio.qformer.bert.embeddings.position_ids" in names
    assert json.loads((tmp_path / "released" / "config.json").read_text(encoding="utf-8")) == released_config(
        tie_word_embeddings=tied
    )


def test_checkpoints_that_do_not_fit(tmp_path):
    from safetensors.torch import load_file, save_file

    model = empty_model(read_plus_config(released_config()), TOKENIZER, torch.device("cpu"), torch.float32)
    write_released(model, tmp_path)
    path = tmp_path / "model.safetensors"
    good = load_file(path)
    for change, message in (
        (lambda state: state.pop("audio.q_tokens"), "1 missing keys: audio.query_tokens"),
        (lambda state: state.update({"audio.extra": torch.zeros(1)}), "1 unexpected keys: audio.extra"),
        (lambda state: state.update({"lm_head.weight": torch.zeros(2, 2)}), r"lm_head.weight is \(2, 2\)"),
        (
            lambda state: state.update({"audio.qformer.bert.embeddings.position_ids": torch.zeros(1, 512)}),
            "is not the numbers 0 to 511",
        ),
    ):
        state = dict(good)
        change(state)
        save_file(state, path)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path)
    for config, message in (
        ({"audio_config": {"d_model": 1}}, "no field 'qformer_config'"),
        ({"model_type": "llama"}, "model_type 'llama' is of another model"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(released_config(**config)), encoding="utf-8")
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path)


def test_without_a_tokenizer_ids_still_work(tmp_path):
    model = empty_model(read_plus_config(released_config()), None, torch.device("cpu"), torch.float32)
    with pytest.raises(ConfigError, match="no tokenizer files"):
        model.prepare(make_clip(), "x")
    with pytest.raises(ConfigError, match="no tokenizer files"):
        model.encode_text("x")
    assert model.stop_ids == (_id("<|im_end|>"),)


REAL_SIZES = {
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
    | {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "vocab_size": 152064},
    "72b": {"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64}
    | {"num_key_value_heads": 8, "vocab_size": 152064},
}


def real_config(size: str) -> dict[str, Any]:
    """The release's config.json at its real size."""
    text = REAL_SIZES[size]
    return released_config(
        **text,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "window_size": 112,
            "out_hidden_size": text["hidden_size"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        audio_config={
            "d_model": 1280,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120,
            "num_mel_bins": 128,
            "second_per_window": 0.5,
            "second_stride": 0.5,
            "qformer_config": {
                "hidden_size": 3072,
                "num_hidden_layers": 2,
                "num_attention_heads": 12,
                "intermediate_size": 12288,
            },
        },
    )


def released_names(config: dict[str, Any]) -> set[str]:
    """Every key of a released checkpoint, written down from its structure."""

    def parts(prefix: str, *names: str, kinds: tuple[str, ...] = ("weight", "bias")) -> set[str]:
        return {f"{prefix}{name}.{kind}" for name in names for kind in kinds}

    names = {"model.embed_tokens.weight", "model.norm.weight", "visual.patch_embed.proj.weight"}
    names |= {"visual.merger.ln_q.weight", *parts("visual.merger.mlp.", "0", "2")}
    names |= set() if config.get("tie_word_embeddings") else {"lm_head.weight"}
    for layer in range(config["num_hidden_layers"]):
        start = f"model.layers.{layer}."
        names |= parts(start, "input_layernorm", "post_attention_layernorm", "self_attn.o_proj", kinds=("weight",))
        names |= parts(start, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        names |= parts(start, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", kinds=("weight",))
    for block in range(config["vision_config"]["depth"]):
        start = f"visual.blocks.{block}."
        names |= parts(start, "norm1", "norm2", kinds=("weight",))
        names |= parts(start, "attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    names |= {"audio.q_tokens", "audio.embed_positions.weight"}
    names |= parts("audio.", "conv1", "conv2", "layer_norm", "audio_proj")
    for layer in range(config["audio_config"]["encoder_layers"]):
        start = f"audio.layers.{layer}."
        names |= parts(start, "self_attn.k_proj", kinds=("weight",))
        names |= parts(start, "self_attn.q_proj", "self_attn.v_proj", "self_attn.out_proj", "self_attn_layer_norm")
        names |= parts(start, "fc1", "fc2", "final_layer_norm")
    bert = "audio.qformer.bert."
    names |= {f"{bert}embeddings.position_ids", *parts(bert, "embeddings.LayerNorm")}
    for layer in range(config["audio_config"]["qformer_config"]["num_hidden_layers"]):
        start = f"{bert}encoder.layer.{layer}."
        for kind in ("attention", "crossattention"):
            names |= parts(start, *(f"{kind}.self.{part}" for part in ("query", "key", "value")))
            names |= parts(start, f"{kind}.output.dense", f"{kind}.output.LayerNorm")
        names |= parts(start, "intermediate_query.dense", "output_query.dense", "output_query.LayerNorm")
    return names


@pytest.mark.parametrize("size", ["3b", "7b", "72b"])
def test_every_key_of_the_real_checkpoints_has_a_place(size):
    config = real_config(size)
    model = empty_model(read_plus_config(config), None, torch.device("cpu"), torch.bfloat16, allocate=False)
    names = released_names(config)
    mapped = {our_name(name) for name in names} - {""}
    state = set(model.state_dict())
    assert mapped == (state - {"decoder.lm_head.weight"} if config.get("tie_word_embeddings") else state)
    assert {released_name(name) for name in mapped} | {"audio.qformer.bert.embeddings.position_ids"} == names
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    if size == "7b":
        # Whisper encoder 637 M, Q-Former about 280 M and its projection 11 M beside Qwen2.5-VL's 8.29 G.
        total = sum(parameter.numel() for parameter in model.parameters())
        assert 9.1e9 < total < 9.3e9
