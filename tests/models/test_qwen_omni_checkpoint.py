from __future__ import annotations

import dataclasses
import importlib.util
import json
import pickle
import re
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeConfig

from avocet.errors import CheckpointError, ConfigError, MissingExtraError
from avocet.models.qwen_omni.checkpoint import choose_attention, load_checkpoint
from avocet.models.qwen_omni.config import SETTINGS, ReadingSettings
from avocet.models.qwen_omni.modeling import QwenOmniModel
from avocet.models.registry import ModelOptions

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(omni, tmp_path):
    omni.save(tmp_path / "thinker")
    return tmp_path / "thinker"


def edit_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def same_weights(ours: QwenOmniModel, theirs: QwenOmniModel) -> bool:
    mine, other = ours.state_dict(), theirs.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def make_full(omni, folder):
    """Turn a thinker-only folder into a full checkpoint: prefixed keys, the talker beside them, the full config."""

    def change(tensors):
        thinker = {f"thinker.{name}": tensors.pop(name) for name in list(tensors)}
        tensors |= thinker
        for name in ("talker.model.norm.weight", "token2wav.dit.bias", "code2wav.decoder.0.weight"):
            tensors[name] = torch.zeros(3)

    edit_weights(folder, change)
    is_qwen3 = omni.family.name == "qwen3-omni"
    kind = Qwen3OmniMoeConfig if is_qwen3 else Qwen2_5OmniConfig
    config = kind(thinker_config=omni.thinker.config.to_dict()).to_dict()
    assert config["model_type"] in ("qwen3_omni_moe", "qwen2_5_omni")
    (folder / "config.json").write_text(json.dumps(config, default=str))
    (folder / "spk_dict.pt").write_bytes(b"voices, never opened")


def test_released_key_names(omni, folder):
    """What Avocet writes is named as in the released thinkers, whatever transformers calls it inside."""
    names = set(load_file(folder / WEIGHTS))
    assert {name.split(".")[0] for name in names} == {"visual", "audio_tower", "model", "lm_head"}
    assert {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"} <= names
    assert "audio_tower.layers.0.self_attn.q_proj.weight" in names


def test_full_and_thinker_only_checkpoints_are_one_model(omni, folder, mixed):
    make_full(omni, folder)
    loaded = load_checkpoint(folder, device="cpu")
    assert same_weights(omni, loaded)
    assert (loaded.family, loaded.ids, loaded.axis) == (omni.family, omni.ids, omni.axis)
    prompts = [[model.prepare(clip, "x") for clip in mixed] for model in (omni, loaded)]
    with torch.no_grad():
        assert torch.equal(omni.encode(prompts[0]).embeddings, loaded.encode(prompts[1]).embeddings)


@pytest.mark.parametrize("full", [False, True])
def test_shards(omni, folder, full):
    if full:
        make_full(omni, folder)
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names, weight_map = sorted(tensors), {}
    for number in range(3):
        shard = f"model-0000{number + 1}-of-00003.safetensors"
        part = {name: tensors[name] for name in names[number::3]}
        save_file(part, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same_weights(omni, load_checkpoint(folder, device="cpu"))
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="the weights cannot be read"):
        load_checkpoint(folder, device="cpu")


def test_missing_unexpected_and_misshapen_keys_are_listed(folder):
    def change(tensors):
        del tensors["model.layers.1.input_layernorm.weight"]
        del tensors["audio_tower.conv2d1.bias" if "audio_tower.conv2d1.bias" in tensors else "audio_tower.conv1.bias"]
        tensors["visual.extra.weight"] = torch.zeros(2)
        tensors["lm_head.weight"] = torch.zeros(7, 64)

    edit_weights(folder, change)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder, device="cpu")
    message = str(error.value)
    assert "the weights do not fit the config: 2 missing keys: " in message
    assert "layers.1.input_layernorm.weight" in message
    assert "audio_tower.conv" in message
    assert re.search(r"1 unexpected keys: (model\.)?visual\.extra\.weight;", message)
    assert "1 mismatched keys: lm_head.weight" in message
    assert "\n" not in message


def test_one_misshapen_key_is_enough(folder):
    edit_weights(folder, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(7, 64)}))
    with pytest.raises(CheckpointError, match=r"do not fit the config: 1 mismatched keys: lm_head\.weight$"):
        load_checkpoint(folder, device="cpu")


def test_a_talker_alone_is_no_thinker(folder):
    def change(tensors):
        for name in list(tensors):
            tensors[f"talker.{name}"] = tensors.pop(name)

    edit_weights(folder, change)
    with pytest.raises(CheckpointError, match=r"missing keys: .* and \d+ more"):
        load_checkpoint(folder, device="cpu")


@pytest.mark.parametrize("content", [b"", b"not weights", pickle.dumps({"a": 1}), struct.pack("<Q", 10) + b"{broken"])
def test_weights_that_are_no_safetensors(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match="the weights cannot be read"):
        load_checkpoint(folder, device="cpu")


def test_pickled_weights_are_not_read(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"no safetensors files; pickled weights \(\.bin, \.pt\) are not read"):
        load_checkpoint(folder, device="cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"config\.json: not JSON"),
        (b"\xff\xfe\x00", r"config\.json: not JSON"),
        (b"[1]", r"config\.json: not a JSON object"),
        (b"{}", "model_type None is none of qwen2_5_omni, qwen2_5_omni_thinker, qwen3_omni_moe"),
        (b'{"model_type": []}', r"model_type \[\] is none of"),
        (b'{"model_type": "qwen2_5_vl"}', "model_type 'qwen2_5_vl' is none of"),
        (b'{"model_type": "qwen2_5_omni_thinker", "text_config": 3}', "describes no thinker with a text_config"),
        (b'{"model_type": "qwen2_5_omni"}', "describes no thinker with a text_config"),
        (b'{"model_type": "qwen3_omni_moe", "thinker_config": []}', "describes no thinker with a text_config"),
        (b'{"model_type": "qwen3_omni_moe", "thinker_config": {"text_config": {"num_hidden_layers": "x"}}}', "cannot"),
    ],
)
def test_configs_of_other_models(folder, content, message):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder, device="cpu")


def test_missing_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json; a model folder holds"):
        load_checkpoint(folder, device="cpu")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"model": 3}', b"\xff"])
def test_broken_tokenizers(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read"):
        load_checkpoint(folder, device="cpu")


def test_tokenizers_without_turns(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|im_start|>", "<|go|>"))
    with pytest.raises(CheckpointError, match=r"the tokenizer has no <\|im_start\|>"):
        load_checkpoint(folder, device="cpu")


def test_code_in_a_checkpoint_is_not_run(folder):
    """`auto_map` asks transformers to import a module of the folder."""
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Evil: pass\n")
    for name in ("config.json", "tokenizer_config.json"):
        data = json.loads((folder / name).read_text())
        data["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModel"), "evil.Evil")
        data["auto_map"]["AutoTokenizer"] = ["evil.Evil", "evil.Evil"]
        (folder / name).write_text(json.dumps(data))
    load_checkpoint(folder, device="cpu")
    assert not (folder / "ran").exists()


# Devices and dtypes.


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("auto", torch.float32),
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_dtypes(folder, dtype, expected):
    loaded = load_checkpoint(folder, device="cpu", dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {expected}
    assert loaded.device == torch.device("cpu")


def test_half_precision_captions(omni, folder, mixed):
    omni.save(folder, torch.bfloat16)
    stored = load_file(folder / WEIGHTS)
    assert {part.dtype for part in stored.values()} == {torch.bfloat16}
    assert next(omni.parameters()).dtype == torch.float32  # the model itself is not touched
    loaded = load_checkpoint(folder, device="cpu", dtype="bfloat16")
    prompts = [loaded.prepare(clip, "x") for clip in mixed[:2]]
    with torch.no_grad():
        prefix = loaded.encode(prompts)
        half = torch.cat([row[0] for row in loaded.score(prefix, [[[40, 41]]] * 2)])
        exact = torch.cat([row[0] for row in omni.score(omni.encode(prompts), [[[40, 41]]] * 2)])
    assert prefix.embeddings.dtype == torch.bfloat16
    assert half.dtype == torch.float32
    # bfloat16 has 8 bits; log-probabilities around -6 keep their first digit.
    torch.testing.assert_close(half, exact, atol=0.3, rtol=0)


def test_refused_dtypes_and_devices(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="unknown dtype 'int3'; allowed: auto, bfloat16, float16, float32"):
        load_checkpoint(folder, dtype="int3")
    with pytest.raises(ConfigError, match="device 'cuda' was asked for, but there is no GPU"):
        load_checkpoint(folder, device="cuda")
    with pytest.raises(ConfigError, match="device 'cuda:1' was asked for, but there is no GPU"):
        load_checkpoint(folder, device="cuda:1")
    with pytest.raises(ConfigError, match="unknown device 'tpu'; allowed: auto, cpu, cuda"):
        load_checkpoint(folder, device="tpu")
    with pytest.raises(ConfigError, match="device='balanced' spreads a model over GPUs, and there is none"):
        load_checkpoint(folder, device="balanced")


def hide(monkeypatch, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *given: None if name == package else found(name, *given)
    )


def test_missing_extras_name_their_install_line(folder, monkeypatch):
    with monkeypatch.context() as patch:
        hide(patch, "bitsandbytes")
        with pytest.raises(MissingExtraError, match=r"dtype='4bit' needs .* pip install 'avocet\[gpu\]'"):
            load_checkpoint(folder, device="cpu", dtype="4bit")
    with monkeypatch.context() as patch:
        hide(patch, "accelerate")
        with pytest.raises(MissingExtraError, match=r"loading onto a GPU needs .* pip install 'avocet\[train\]'"):
            load_checkpoint(folder, device="cpu", dtype="4bit")


def test_attention(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: object())
        assert choose_attention(gpu, torch.bfloat16) == "flash_attention_2"
        assert choose_attention(gpu, torch.float16) == "flash_attention_2"
        assert choose_attention(gpu, torch.float32) == "sdpa"
        assert choose_attention(cpu, torch.bfloat16) == "sdpa"
    hide(monkeypatch, "flash_attn")
    assert choose_attention(gpu, torch.bfloat16) == "sdpa"


# Reading settings.


def test_settings_travel_with_the_folder(omni, folder):
    omni.settings = dataclasses.replace(
        ReadingSettings(), fps=1.5, layout="released", system_prompt="", default_instruction="Что слышно?"
    )
    omni.save(folder)
    assert load_checkpoint(folder, device="cpu").settings == omni.settings
    given = SETTINGS["avocado"]
    assert load_checkpoint(folder, device="cpu", settings=given).settings == given
    (folder / "avocet.json").unlink()
    assert load_checkpoint(folder, device="cpu").settings == ReadingSettings()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a valid ReadingSettings: not JSON"),
        (b"\xff\xfe", "codec can't decode"),
        (b"[]", "expected a JSON object, got list"),
        (b'{"fps": "fast"}', "fps: Input should be a valid number"),
        (b'{"fps": NaN}', "fps must be a finite number > 0"),
        (b'{"fps": 1e999}', "fps must be a finite number > 0"),
        (b'{"frames": 3}', "frames: Unexpected keyword argument"),
        (b'{"layout": "mine"}', "Input should be 'tmrope' or 'released'"),
    ],
)
def test_broken_settings(folder, content, message):
    (folder / "avocet.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"avocet\.json: .*{message}"):
        load_checkpoint(folder, device="cpu")


def test_options_are_in_pixels_of_the_checkpoint(omni, folder):
    pixels = omni.sizes.factor**2
    assert pixels == (784 if omni.family.name == "qwen2.5-omni" else 1024)
    options = ModelOptions(patch_pixels=3 * pixels, total_pixels=7 * pixels + 1, max_frames=6, fps=4.0)
    settings = load_checkpoint(folder, device="cpu", options=options).settings
    assert (settings.max_patch_tokens, settings.min_patch_tokens, settings.max_video_tokens) == (3, 3, 7)
    assert (settings.max_frames, settings.fps, settings.layout) == (6, 4.0, "tmrope")
    with pytest.raises(ConfigError, match=f"patch_pixels must be at least one token's {pixels}, got {pixels - 1}"):
        load_checkpoint(folder, device="cpu", options=ModelOptions(patch_pixels=pixels - 1))


def test_options_change_the_budget_of_a_clip(omni, folder, media_clip):
    pixels = omni.sizes.factor**2
    loaded = load_checkpoint(folder, device="cpu", options=ModelOptions(total_pixels=20 * pixels))
    clip = media_clip("a", 10.0)
    assert omni.prepare(clip, "x").layout.num_visual_tokens == 60  # 10 patches of 2 x 3
    assert loaded.prepare(clip, "x").layout.num_visual_tokens == 10  # 2 each: shrunk by 1.7 to 1 x 1


def test_the_released_sizes():
    """The tensors that were counted in AVoCaDO's release: 518 + 489 + 338 + 1, 17,863,627,776 bytes in bfloat16."""
    with torch.device("meta"):
        thinker = Qwen2_5OmniThinkerForConditionalGeneration(
            Qwen2_5OmniThinkerConfig(text_config={"vocab_size": 152_064}, vision_config={"hidden_size": 1280})
        )
    state = thinker.state_dict()
    vision = [name for name in state if "visual." in name]
    sound = [name for name in state if "audio_tower." in name]
    assert (len(vision), len(sound), len(state)) == (518, 489, 1346)
    assert 2 * sum(part.numel() for part in state.values()) == 17_863_627_776
