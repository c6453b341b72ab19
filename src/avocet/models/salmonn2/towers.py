"""The four pretrained parts, built from transformers classes, and where they differ from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    WhisperConfig,
)
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from avocet.models.attention import ATTENTION
from avocet.models.salmonn2.config import AudioSettings, DecoderSettings, QFormerSettings, VisionSettings

_ATTENTION: Mapping[str, Any] = MappingProxyType({"attn_implementation": ATTENTION})


class ConvStem(nn.Module):
    """Early convolutions in place of SigLIP's patch convolution (Xiao et al. 2021).

    (N, 3, S, S) -> (N, hidden, S / patch, S / patch), with GELU between the convolutions.
    """

    def __init__(self, settings: VisionSettings) -> None:
        super().__init__()
        widths = [*settings.stem_channels, settings.hidden_size]
        first_stride = settings.patch_size // 2 ** len(settings.stem_channels)
        self.first = nn.Conv2d(3, widths[0], kernel_size=first_stride, stride=first_stride)
        self.rest = nn.ModuleList(
            nn.Conv2d(width_in, width_out, kernel_size=3, stride=2, padding=1)
            for width_in, width_out in itertools.pairwise(widths)
        )

    @property
    def weight(self) -> torch.Tensor:
        """SigLIP reads the dtype of its patch convolution here."""
        return self.first.weight

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.first(pixels)
        for convolution in self.rest:
            hidden = convolution(nn.functional.gelu(hidden))
        return hidden


class SegmentEncoder(WhisperEncoder):  # type: ignore[no-untyped-call]
    """Whisper's encoder for segments of any length up to the full one.

    transformers insists on the full length. Positions are those of the first frames, so at full length the two agree.
    """

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """(B, mel bins, T), T even -> (B, T / 2, width)."""
        hidden = nn.functional.gelu(self.conv1(mel))
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        hidden = nn.functional.dropout(hidden, p=self.dropout, training=self.training)
        for layer in self.layers:
            hidden = layer(hidden, None)
        normed: torch.Tensor = self.layer_norm(hidden)
        return normed


def build_vision(settings: VisionSettings) -> SiglipVisionModel:
    """SigLIP without its pooling head."""
    config = SiglipVisionConfig(
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        intermediate_size=settings.intermediate_size,
        attention_dropout=settings.attention_dropout,
        vision_use_head=False,
        **_ATTENTION,
    )
    vision = SiglipVisionModel(config)
    if settings.stem_channels:
        vision.embeddings.register_module("patch_embedding", ConvStem(settings))
    return vision


def build_audio_encoder(settings: AudioSettings) -> SegmentEncoder:
    """Whisper's encoder; `max_source_positions` is one full segment."""
    config = WhisperConfig(
        num_mel_bins=settings.num_mel_bins,
        d_model=settings.hidden_size,
        encoder_layers=settings.num_layers,
        encoder_attention_heads=settings.num_heads,
        encoder_ffn_dim=settings.intermediate_size,
        max_source_positions=settings.segment_frames,
        dropout=settings.dropout,
        **_ATTENTION,
    )
    return SegmentEncoder(config)


def build_qformer(settings: QFormerSettings, encoder_hidden_size: int) -> Blip2QFormerModel:
    """BLIP-2's Q-Former over one window per row, with cross-attention in every layer."""
    config = Blip2QFormerConfig(
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        intermediate_size=settings.intermediate_size,
        encoder_hidden_size=encoder_hidden_size,
        cross_attention_frequency=1,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        **_ATTENTION,
    )
    return Blip2QFormerModel(config)


def build_decoder(settings: DecoderSettings) -> Qwen2ForCausalLM:
    """Qwen2 with a language model head."""
    config = Qwen2Config(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_kv_heads,
        intermediate_size=settings.intermediate_size,
        max_position_embeddings=settings.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
        rms_norm_eps=settings.rms_norm_eps,
        tie_word_embeddings=settings.tie_embeddings,
        attention_dropout=settings.attention_dropout,
        **_ATTENTION,
    )
    return Qwen2ForCausalLM(config)


def restore_buffers(vision: SiglipVisionModel, decoder: Qwen2ForCausalLM, device: torch.device) -> None:
    """Compute anew what checkpoints do not store and an empty model lacks; float32 whatever the weights are."""
    positions = torch.arange(vision.embeddings.num_positions, device=device)[None]
    vision.embeddings.register_buffer("position_ids", positions, persistent=False)
    decoder.model.rotary_emb = Qwen2RotaryEmbedding(config=decoder.config).to(device)


def merge_patches(features: torch.Tensor, merge: int) -> torch.Tensor:
    """(N, g * g, d) -> (N, (g / merge)^2, merge^2 * d): concatenate blocks of neighbouring patches, row by row."""
    if merge == 1:
        return features
    num_frames, num_patches, width = features.shape
    side = math.isqrt(num_patches) // merge
    blocks = features.reshape(num_frames, side, merge, side, merge, width).transpose(2, 3)
    return blocks.reshape(num_frames, side * side, merge * merge * width)


@torch.no_grad()
def initialise_for_scratch(model: nn.Module, num_decoder_layers: int) -> None:
    """Random weights for training without pretrained parts.

    Linear layers get the variance 1 / (3 fan_in) of PyTorch's own default, convolutions He's (Whisper's 0.02 would
    drown a small model's sound in its sinusoid positions); what adds to a residual stream in the decoder is scaled by
    1 / sqrt(2 layers), as in GPT-2. Segment positions start at zero: rows that training never sees then do nothing.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            std = (3 * module.in_features) ** -0.5
            if name.endswith(("o_proj", "down_proj")):
                std *= (2 * num_decoder_layers) ** -0.5
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Embedding) and module.weight.requires_grad:
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
