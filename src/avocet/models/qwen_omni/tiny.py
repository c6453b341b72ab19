"""Tiny random models of the real transformers classes, made without a download: for self-tests and the test suite."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from avocet.models.qwen_omni.config import QWEN3, QWEN25, Family, ReadingSettings
from avocet.models.qwen_omni.modeling import QwenOmniModel

FamilyName = Literal["qwen2.5-omni", "qwen3-omni"]

_PLACEHOLDERS = ("image_token_id", "audio_token_id", "video_token_id")
_TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_MEDIA = MappingProxyType(
    {
        "qwen2.5-omni": {
            "image_token": "<|IMAGE|>",
            "audio_token": "<|AUDIO|>",
            "video_token": "<|VIDEO|>",
            "vision_bos_token": "<|vision_bos|>",
            "vision_eos_token": "<|vision_eos|>",
            "audio_bos_token": "<|audio_bos|>",
            "audio_eos_token": "<|audio_eos|>",
        },
        "qwen3-omni": {
            "image_token": "<|image_pad|>",
            "audio_token": "<|audio_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
            "audio_bos_token": "<|audio_start|>",
            "audio_eos_token": "<|audio_end|>",
        },
    }
)
TINY_SETTINGS = ReadingSettings(
    min_patch_tokens=4, max_patch_tokens=12, max_video_tokens=1200, max_new_tokens=16, max_frames=600
)
_GAIN = 8.0
"""On all initial weight matrices: with transformers' 0.02, layers this narrow pass on so little that a spectrogram off
by 0.01 moves no logit by more than 0.000001, and no self-test could see it."""


def tiny_tokenizer(family: FamilyName) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the family's special tokens."""
    media = _MEDIA[family]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*_TURNS, *media.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = [
        "system user assistant Describe this video in full detail.",
        "a dog barks while a red ball rolls to the left",
    ]
    tokenizer.train_from_iterator(words, trainer)
    kind: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = kind(
        tokenizer_object=tokenizer,
        eos_token=_TURNS[2],
        pad_token=_TURNS[0],
        extra_special_tokens=dict(media),
    )
    return made


def tiny_model(family: FamilyName = "qwen2.5-omni", seed: int = 0) -> QwenOmniModel:
    """A random model of some hundred thousand parameters, in float32 and evaluation mode."""
    tokenizer = tiny_tokenizer(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        thinker = tiny_thinker(family, tokenizer)
    with torch.no_grad():
        for parameter in thinker.parameters():
            if parameter.ndim > 1:
                parameter.mul_(_GAIN)
    kind: Family = QWEN25 if family == "qwen2.5-omni" else QWEN3
    return QwenOmniModel(thinker, tokenizer, kind, TINY_SETTINGS).eval()


def tiny_thinker(family: FamilyName, tokenizer: PreTrainedTokenizerFast, **decoder: Any) -> Any:
    """The random transformers thinker; `decoder` changes its text config."""
    from transformers import (
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
        Qwen3OmniMoeThinkerForConditionalGeneration,
    )
    from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeThinkerConfig

    text: dict[str, Any] = _text_config(tokenizer) | decoder
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    ids = _special_ids(family, tokenizer)
    if family == "qwen2.5-omni":
        settings: dict[str, Any] = {name.replace("_token_id", "_token_index"): ids.pop(name) for name in _PLACEHOLDERS}
        settings |= {"text_config": text, "audio_config": _audio_config(), "tie_word_embeddings": False}
        settings["vision_config"] = vision | {"fullatt_block_indexes": [1]}
        small: Any = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig(**settings, **ids))
        return small.float()
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
    settings = {"text_config": text | experts, "position_id_per_seconds": 13, "tie_word_embeddings": False}
    settings["vision_config"] = vision | {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    settings["audio_config"] = _audio_config() | {"downsample_hidden_size": 8}
    mixture: Any = Qwen3OmniMoeThinkerForConditionalGeneration(Qwen3OmniMoeThinkerConfig(**settings, **ids))
    return mixture.float()


def _text_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": False,
    }


def _audio_config() -> dict[str, Any]:
    return {
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "d_model": 32,
        "output_dim": 64,
        "num_mel_bins": 128,
    }


def _special_ids(family: FamilyName, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Config fields of placeholders and markers."""
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in _MEDIA[family].items()}
    markers = {
        f"{kind}_{end}_token_id": ids[f"{kind}_{mark}_token"]
        for kind in ("vision", "audio")
        for end, mark in (("start", "bos"), ("end", "eos"))
    }
    return markers | {name: ids[name.removesuffix("_id")] for name in _PLACEHOLDERS}
