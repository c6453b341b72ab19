"""What the released video-SALMONN 2 7B consists of by the facts, key by key, and small models of the same kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from avocet.models.salmonn2.config import AudioSettings, DecoderSettings, QFormerSettings, VisionSettings
from avocet.models.salmonn2.v1 import V1Model
from avocet.models.salmonn2.v1_config import V1Config

Shapes = dict[str, tuple[int, ...]]
VISION = "model.vision_tower.vision_tower.vision_model."
POSITION_IDS = "speech_Qformer.bert.embeddings.position_ids"

CONFIG_7B: dict[str, Any] = {
    "model_type": "video_salmonn_2",
    "add_time_token": True,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "mm_pooling_position": "after",
    "mm_spatial_pool_mode": "max",
    "mm_spatial_pool_stride": 2,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "model_args": {"lora_r": 128, "lora_alpha": 256, "mm_projector_type": "mlp2x_gelu"},
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
SMALL: dict[str, Any] = CONFIG_7B | {
    "eos_token_id": 7,
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 1024,
    "mm_vision_tower": "some/tower",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 40,
}
SMALL_HEADS = {"vision_heads": 2, "audio_heads": 2, "qformer_heads": 2}
"""Sizes that no file of a small model says, and no rule of the real ones gives."""


def linear(name: str, width_in: int, width_out: int, *, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (width_out, width_in)} | ({f"{name}.bias": (width_out,)} if bias else {})


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def decoder_shapes(config: dict[str, Any]) -> Shapes:
    width, inner = config["hidden_size"], config["intermediate_size"]
    kv_width = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: Shapes = {"model.embed_tokens.weight": (config["vocab_size"], width), "model.norm.weight": (width,)}
    shapes |= linear("lm_head", width, config["vocab_size"], bias=False)
    for layer in (f"model.layers.{number}." for number in range(config["num_hidden_layers"])):
        shapes |= {f"{layer}{name}.weight": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= linear(f"{layer}self_attn.q_proj", width, width)
        shapes |= linear(f"{layer}self_attn.k_proj", width, kv_width)
        shapes |= linear(f"{layer}self_attn.v_proj", width, kv_width)
        shapes |= linear(f"{layer}self_attn.o_proj", width, width, bias=False)
        shapes |= linear(f"{layer}mlp.gate_proj", width, inner, bias=False)
        shapes |= linear(f"{layer}mlp.up_proj", width, inner, bias=False)
        shapes |= linear(f"{layer}mlp.down_proj", inner, width, bias=False)
    return shapes


def vision_shapes(width: int, inner: int, layers: int, patch: int, grid: int) -> Shapes:
    shapes: Shapes = {
        f"{VISION}embeddings.patch_embedding.weight": (width, 3, patch, patch),
        f"{VISION}embeddings.patch_embedding.bias": (width,),
        f"{VISION}embeddings.position_embedding.weight": (grid**2, width),
    }
    shapes |= norm(f"{VISION}post_layernorm", width)
    for layer in (f"{VISION}encoder.layers.{number}." for number in range(layers)):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}self_attn.{part}", width, width)
        shapes |= norm(f"{layer}layer_norm1", width) | norm(f"{layer}layer_norm2", width)
        shapes |= linear(f"{layer}mlp.fc1", width, inner) | linear(f"{layer}mlp.fc2", inner, width)
    return shapes


def whisper_shapes(width: int, inner: int, layers: int, mels: int) -> Shapes:
    shapes: Shapes = {
        "speech_encoder.conv1.weight": (width, mels, 3),
        "speech_encoder.conv1.bias": (width,),
        "speech_encoder.conv2.weight": (width, width, 3),
        "speech_encoder.conv2.bias": (width,),
        "speech_encoder.embed_positions.weight": (1500, width),
    }
    shapes |= norm("speech_encoder.layer_norm", width)
    for layer in (f"speech_encoder.layers.{number}." for number in range(layers)):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}self_attn.{part}", width, width, bias=part != "k_proj")
        shapes |= norm(f"{layer}self_attn_layer_norm", width) | norm(f"{layer}final_layer_norm", width)
        shapes |= linear(f"{layer}fc1", width, inner) | linear(f"{layer}fc2", inner, width)
    return shapes


def qformer_shapes(width: int, inner: int, layers: int, encoder_width: int) -> Shapes:
    shapes: Shapes = norm("speech_Qformer.bert.embeddings.LayerNorm", width) | {POSITION_IDS: (1, 512)}
    for layer in (f"speech_Qformer.bert.encoder.layer.{number}." for number in range(layers)):
        for part, width_in in (("attention", width), ("crossattention", encoder_width)):
            shapes |= linear(f"{layer}{part}.self.query", width, width)
            shapes |= linear(f"{layer}{part}.self.key", width_in, width)
            shapes |= linear(f"{layer}{part}.self.value", width_in, width)
            shapes |= linear(f"{layer}{part}.output.dense", width, width)
            shapes |= norm(f"{layer}{part}.output.LayerNorm", width)
        shapes |= linear(f"{layer}intermediate_query.dense", width, inner)
        shapes |= linear(f"{layer}output_query.dense", inner, width)
        shapes |= norm(f"{layer}output_query.LayerNorm", width)
    return shapes


def glue_shapes(width: int, vision_width: int, audio_width: int, query_width: int) -> Shapes:
    return {
        "model.image_newline": (width,),
        "speech_query_tokens": (1, 1, query_width),
        **linear("model.mm_projector.0", vision_width, width),
        **linear("model.mm_projector.2", width, width),
        **norm("ln_speech", audio_width),
        **linear("speech_llama_proj", query_width, width),
        **linear("final_linear.0", width, width),
        **linear("final_linear.2", width, width),
    }


REAL_SHAPES: Shapes = (
    decoder_shapes(CONFIG_7B)
    | vision_shapes(1152, 4304, 26, 14, 27)
    | whisper_shapes(1280, 5120, 32, 128)
    | qformer_shapes(768, 3072, 2, 1280)
    | glue_shapes(3584, 1152, 1280, 768)
)
SMALL_SHAPES: Shapes = (
    decoder_shapes(SMALL)
    | vision_shapes(16, 24, 2, 4, 5)
    | whisper_shapes(16, 24, 1, 128)
    | qformer_shapes(12, 20, 2, 16)
    | glue_shapes(32, 16, 16, 12)
)


def small_tensors(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SMALL_SHAPES.items()}
    return tensors | {POSITION_IDS: torch.arange(512)[None]}


def write_small(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SMALL | config))
    save_file(small_tensors() if tensors is None else tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tiny_config(vocab_size: int) -> V1Config:
    """5 x 5 patches, of which 2 x 2 remain: 6 tokens per frame; 4 audio tokens per segment of 2 s, 4 segments."""
    return V1Config(
        vision=VisionSettings(
            image_size=32, patch_size=6, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32
        ),
        audio=AudioSettings(
            num_mel_bins=16,
            hop_length=160,
            n_fft=400,
            hidden_size=16,
            num_layers=1,
            num_heads=2,
            intermediate_size=32,
            segment_seconds=2,
            max_segments=4,
            window_seconds=0.5,
        ),
        qformer=QFormerSettings(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32),
        decoder=DecoderSettings(
            vocab_size=vocab_size,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            intermediate_size=64,
            max_positions=512,
        ),
        turn_end_id=5,
        max_new_tokens=12,
    )


def build(config: V1Config, tokenizer: Any = None) -> V1Model:
    """A random model; the same weights each time."""
    torch.manual_seed(0)
    tiny = V1Model(config, tokenizer).eval()
    with torch.no_grad():
        for parameter in (tiny.newline, tiny.audio.query_tokens):
            parameter.normal_()
        # Sharper than at initialisation, so that greedy decoding does not hang on rounding.
        tiny.decoder.lm_head.weight.mul_(6)
    return tiny
