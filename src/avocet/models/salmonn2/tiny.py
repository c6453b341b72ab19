"""A tiny random video-SALMONN 2+ of the real classes, made without a download: for self-tests and the test suite."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from avocet.models.qwen_omni.tiny import tiny_tokenizer
from avocet.models.salmonn2.config import AudioSettings, QFormerSettings
from avocet.models.salmonn2.plus import PlusModel
from avocet.models.salmonn2.plus_config import PlusConfig
from avocet.models.salmonn2.plus_loading import empty_model


def tiny_plus_config(**changes: Any) -> PlusConfig:
    """Width 32, visual tokens of 28 x 28 pixels, 60 audio tokens per 30 s; the vocabulary of `tiny_tokenizer`."""
    tokenizer = tiny_tokenizer("qwen3-omni")
    ids = tokenizer.get_vocab()
    config = PlusConfig(
        text={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        },
        vision={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 56,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        audio=AudioSettings(
            num_mel_bins=128,
            hop_length=160,
            n_fft=400,
            hidden_size=16,
            num_layers=1,
            num_heads=2,
            intermediate_size=32,
            window_seconds=0.5,
        ),
        qformer=QFormerSettings(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        audio_token_id=ids["<|audio_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        frame_pixels=784,
        max_new_tokens=8,
    )
    return dataclasses.replace(config, **changes)


def tiny_plus(seed: int = 3, **changes: Any) -> PlusModel:
    """The model with random weights large enough that every input matters, in float32 and evaluation mode."""
    tokenizer = tiny_tokenizer("qwen3-omni")
    model = empty_model(tiny_plus_config(**changes), tokenizer, torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            std = 0.2 if parameter.ndim > 1 else 0.05
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model.eval()
