"""Sizes and reading settings of the released video-SALMONN 2+ models (3B, 7B, 72B).

The sizes come from the checkpoint's own `config.json`, whose top level holds Qwen2.5-VL's fields (the release keeps its
model type, so Auto classes take it for a plain Qwen2.5-VL) and whose `audio_config` describes the hearing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from avocet.errors import CheckpointError, ConfigError
from avocet.models.registry import ModelOptions
from avocet.models.salmonn2.config import AudioSettings, QFormerSettings
from avocet.records import Record

PLUS_LAYOUTS = ("released", "train", "corrected")
PlusLayout = Literal["released", "train", "corrected"]
SYSTEM_PROMPT = "You are a helpful assistant."
"""The system turn of the released data pipeline."""

_TEXT_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "use_sliding_window"),
    *("sliding_window", "max_window_layers", "attention_dropout", "rope_theta", "rope_scaling", "rope_parameters"),
    *("bos_token_id", "eos_token_id"),
)
_VISION_FIELDS = (
    *("depth", "hidden_size", "hidden_act", "intermediate_size", "num_heads", "in_channels", "patch_size"),
    *("spatial_merge_size", "temporal_patch_size", "tokens_per_second", "window_size", "out_hidden_size"),
    *("fullatt_block_indexes",),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlusConfig(Record):
    """Everything needed to build and read with a `plus` model."""

    text: dict[str, Any]
    """Fields of transformers' Qwen2_5_VLTextConfig."""
    vision: dict[str, Any]
    """Fields of transformers' Qwen2_5_VLVisionConfig."""
    audio: AudioSettings
    qformer: QFormerSettings
    image_token_id: int = 151655
    video_token_id: int = 151656
    audio_token_id: int = 151665
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    tie_embeddings: bool = False
    model_type: Literal["avocet-salmonn2"] = "avocet-salmonn2"
    variant: Literal["plus"] = "plus"
    layout: PlusLayout = "released"
    """`released`: layout and positions of the released inference. `train`: its layout with the training positions.
    `corrected`: tokens of the real sound only, each at its own second, with the training positions."""
    fps: float = 10.0
    max_frames: int = 768
    min_frames: int = 16
    frame_pixels: int = 61_250
    """Pixels of a frame when `max_frames` are used; fewer frames share 95 % of the same total."""
    system_prompt: str = SYSTEM_PROMPT
    default_instruction: str = (
        "Describe the video in detail: what happens, who and what is seen, and what is said and heard, in the order "
        "of time."
    )
    max_new_tokens: int = 1024
    notes: tuple[str, ...] = ()
    """What every caption of these weights must say."""
    released: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The `config.json` of the release, so that its layout can be written again."""

    def __post_init__(self) -> None:
        if self.layout not in PLUS_LAYOUTS:
            raise ConfigError(f"layout must be one of {', '.join(PLUS_LAYOUTS)}, got {self.layout!r}")
        if not self.fps > 0 or self.max_frames < 1 or not 1 <= self.min_frames <= self.max_frames:
            raise ConfigError(
                f"fps must be > 0 and 1 <= min_frames <= max_frames, got {self.fps}, {self.min_frames}, "
                f"{self.max_frames}"
            )

    @property
    def factor(self) -> int:
        """Pixels on a side of a visual token."""
        return int(self.vision["patch_size"]) * int(self.vision["spatial_merge_size"])

    def changed(self, options: ModelOptions) -> PlusConfig:
        """With a caller's options. Raises `ConfigError` for those this model does not have."""
        given = options.given()
        if "total_pixels" in given:
            raise ConfigError(
                "video-SALMONN 2+ has no total_pixels; patch_pixels is its budget per frame at max_frames"
            )
        names = {"patch_pixels": "frame_pixels"}
        changes = {names.get(name, name): value for name, value in given.items()}
        if "max_frames" in changes:
            changes["min_frames"] = min(self.min_frames, changes["max_frames"])
        return dataclasses.replace(self, **changes)


def read_plus_config(data: Mapping[str, Any]) -> PlusConfig:
    """From the `config.json` of a released checkpoint. Raises `CheckpointError` for missing or impossible fields."""
    try:
        audio, qformer = data["audio_config"], data["audio_config"]["qformer_config"]
        if audio["second_stride"] != audio["second_per_window"]:
            raise CheckpointError("config.json: overlapping audio windows (second_stride) are not supported")
        return PlusConfig(
            text={name: data[name] for name in _TEXT_FIELDS if data.get(name) is not None},
            vision={name: data["vision_config"][name] for name in _VISION_FIELDS if name in data["vision_config"]},
            audio=AudioSettings(
                num_mel_bins=audio["num_mel_bins"],
                hop_length=160,
                n_fft=400,
                hidden_size=audio["d_model"],
                num_layers=audio["encoder_layers"],
                num_heads=audio["encoder_attention_heads"],
                intermediate_size=audio["encoder_ffn_dim"],
                window_seconds=audio["second_per_window"],
            ),
            qformer=QFormerSettings(
                hidden_size=qformer["hidden_size"],
                num_layers=qformer["num_hidden_layers"],
                num_heads=qformer["num_attention_heads"],
                intermediate_size=qformer["intermediate_size"],
                num_queries=qformer.get("query_length", 1),
                dropout=qformer.get("hidden_dropout_prob", 0.1),
            ),
            tie_embeddings=bool(data.get("tie_word_embeddings", False)),
            released=dict(data),
            **{name: data[name] for name in _IDS if name in data},
        )
    except (KeyError, TypeError, ConfigError) as error:
        problem = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"config.json of a video-SALMONN 2+ checkpoint: {problem}") from error


_IDS = ("image_token_id", "video_token_id", "audio_token_id", "vision_start_token_id", "vision_end_token_id")
