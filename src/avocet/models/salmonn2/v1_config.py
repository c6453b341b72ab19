"""Sizes and reading settings of the released video-SALMONN 2 7B ("v1"), from what its folder holds.

Its `config.json` describes the decoder and the visual path only. The sizes of Whisper, SigLIP and the Q-Former are in
no file; they follow from the shapes of the weights, but for the numbers of attention heads and the picture size. Those
are the real models' unless given: head widths 64 (Whisper, Q-Former) and 72 (SigLIP), and the picture size that the
name of the vision tower ends in (384).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from avocet.errors import CheckpointError, ConfigError
from avocet.models.registry import ModelOptions
from avocet.models.salmonn2.config import AudioSettings, DecoderSettings, QFormerSettings, VisionSettings
from avocet.models.salmonn2.released_keys import POSITION_IDS
from avocet.models.salmonn2.released_layout import AudioWindows
from avocet.models.salmonn2.released_v1_layout import V1_RULES
from avocet.records import Record

RELEASED_MODEL_TYPE = "video_salmonn_2"
V1Rule = Literal["released", "corrected"]
SIZES = ("vision_heads", "audio_heads", "qformer_heads", "image_size", "window_frames")
"""What a caller can give of what no file says: numbers of attention heads, pixels on a side of a frame, and encoder
frames per audio token."""

VISION_PREFIX = "model.vision_tower.vision_tower.vision_model."
QFORMER_PREFIX = "speech_Qformer."

_HEAD_WIDTHS = {"vision_heads": 72, "audio_heads": 64, "qformer_heads": 64}
_WINDOW_FRAMES = 25
_SEGMENT_FRAMES = 1500
_SIGLIP_GRID, _SIGLIP_PIXELS = (14, 27), 384
"""Patch size and grid of SigLIP so400m at 384 pixels: its patches do not reach the last 6 pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class V1Config(Record):
    """Everything needed to build and read with a v1 model."""

    vision: VisionSettings
    """SigLIP as it runs: without the last layer of the pretrained one."""
    audio: AudioSettings
    qformer: QFormerSettings
    decoder: DecoderSettings
    model_type: Literal["avocet-salmonn2"] = "avocet-salmonn2"
    variant: Literal["v1"] = "v1"
    projector_depth: int = 2
    """Linear layers from SigLIP's width to the decoder's, with GELU between them."""
    pool_mode: Literal["max", "average"] = "max"
    pool_stride: int = 2
    """Blocks of so many patches on a side become one; what is left right and below is dropped (27 -> 13)."""
    pool_after_projection: bool = True
    final_mlp: bool = True
    """Whether audio tokens pass another two linear layers after their projection."""
    time_tokens: bool = True
    """Whether a frame's time follows it as text in clips without sound."""
    layout: V1Rule = "released"
    """`released`: where the released code puts every token. `corrected`: sound and picture in sync."""
    fps: float = 1.0
    max_frames: int = 110
    turn_end_id: int
    """The token that ends an answer, for checkpoints without a tokenizer."""
    num_position_ids: int = 512
    """Length of the Q-Former's constant buffer `position_ids` in the released file, 0 without."""
    system_prompt: str = "You are a helpful assistant."
    """The system turn of the released data pipeline."""
    default_instruction: str = (
        "Describe the video in detail: what happens, who and what is seen, and what is said and heard, in the order "
        "of time."
    )
    max_new_tokens: int = 1024
    released: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The `config.json` of the release, so that its layout can be written again."""

    def __post_init__(self) -> None:
        if self.layout not in V1_RULES:
            raise ConfigError(f"layout must be one of {', '.join(V1_RULES)}, got {self.layout!r}")
        if not 0 < self.fps < math.inf or self.max_frames < 1:
            raise ConfigError(f"fps must be finite and > 0 and max_frames >= 1, got {self.fps} and {self.max_frames}")
        if self.projector_depth < 1 or not 1 <= self.pool_stride <= self.vision.grid_size:
            raise ConfigError(
                f"projector_depth must be >= 1 and pool_stride between 1 and the {self.vision.grid_size} patches on a "
                f"side, got {self.projector_depth} and {self.pool_stride}"
            )

    @property
    def rows(self) -> int:
        """Pooled patches on a side of a frame."""
        return self.vision.grid_size // self.pool_stride

    @property
    def windows(self) -> AudioWindows:
        return AudioWindows(
            kernel_frames=self.audio.window_frames,
            stride_frames=self.audio.window_frames,
            segment_frames=self.audio.segment_frames,
            segment_seconds=self.audio.segment_seconds,
        )

    def changed(self, options: ModelOptions) -> V1Config:
        """With a caller's options. Raises `ConfigError` for those this model does not have."""
        given = options.given()
        if refused := given.keys() & {"patch_pixels", "total_pixels"}:
            raise ConfigError(
                f"video-SALMONN 2 has no {', '.join(sorted(refused))}: every frame is "
                f"{self.vision.image_size} x {self.vision.image_size} pixels"
            )
        return dataclasses.replace(self, **given)


def read_v1_config(
    data: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int] | None = None
) -> V1Config:
    """From the `config.json` of a released checkpoint and the shapes of its weights, by their released names.

    Raises:
        CheckpointError: a key, field or value that the architecture needs is missing or of another kind.
        ConfigError: `sizes` has an unknown name, or is needed because a head width is not the real models'.
    """
    sizes = dict(sizes or {})
    if unknown := sizes.keys() - set(SIZES):
        raise ConfigError(f"unknown sizes {', '.join(sorted(unknown))}; there are: {', '.join(SIZES)}")
    if data.get("model_type") != RELEASED_MODEL_TYPE:
        raise CheckpointError(f"config.json: model_type {data.get('model_type')!r} is not {RELEASED_MODEL_TYPE!r}")
    position_ids = shapes.get(QFORMER_PREFIX + POSITION_IDS, (0,))
    try:
        return V1Config(
            vision=_vision(data, shapes, sizes),
            audio=_audio(shapes, sizes),
            qformer=_qformer(shapes, sizes),
            decoder=_decoder(data),
            final_mlp=any(name.startswith("final_linear.") for name in shapes),
            turn_end_id=int(data["eos_token_id"]),
            num_position_ids=position_ids[-1],
            released=dict(data),
            **_visual_path(data),
        )
    except ConfigError:
        raise
    except KeyError as error:
        raise CheckpointError(f"not a video-SALMONN 2 checkpoint: config.json and weights lack {error}") from error
    except (TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"not a video-SALMONN 2 checkpoint: {error}") from error


def _visual_path(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields between SigLIP and the decoder; those that a folder lacks are as released."""
    projector = _field(data, "mm_projector_type", "mlp2x_gelu", lambda value: re.fullmatch(r"mlp\d+x_gelu", value))
    position = _field(data, "mm_pooling_position", "after", lambda value: value in ("before", "after"))
    mode = _field(data, "mm_spatial_pool_mode", "max", lambda value: value in ("max", "average"))
    stride = _field(data, "mm_spatial_pool_stride", 2, lambda value: isinstance(value, int) and value >= 1)
    _field(data, "mm_newline_position", "grid", lambda value: value == "grid")
    _field(data, "mm_patch_merge_type", "spatial_unpad", lambda value: value == "spatial_unpad")
    return {
        "projector_depth": int(projector.removeprefix("mlp").removesuffix("x_gelu")),
        "pool_after_projection": position == "after",
        "pool_mode": mode,
        "pool_stride": int(stride),
        "time_tokens": bool(_field(data, "add_time_token", True, lambda value: isinstance(value, bool))),
    }


def _field(data: Mapping[str, Any], name: str, default: Any, allowed: Callable[[Any], Any]) -> Any:
    """A field of the config, or of the training arguments that it carries."""
    arguments = data.get("model_args")
    inner = arguments.get(name) if isinstance(arguments, Mapping) else None
    value = data.get(name)
    value = inner if value is None else value
    value = default if value is None else value
    if not allowed(value):
        raise CheckpointError(f"config.json: {name}={value!r} is not supported; released is {default!r}")
    return value


def _vision(data: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int]) -> VisionSettings:
    hidden_size, _, patch_size, _ = shapes[VISION_PREFIX + "embeddings.patch_embedding.weight"]
    num_positions = shapes[VISION_PREFIX + "embeddings.position_embedding.weight"][0]
    grid = math.isqrt(num_positions)
    if grid**2 != num_positions:
        raise CheckpointError(f"the vision tower has {num_positions} positions, which are no square")
    image_size = sizes.get("image_size") or _image_size(data, patch_size, grid)
    if image_size // patch_size != grid:
        raise ConfigError(
            f"image_size {image_size} is {image_size // patch_size} patches on a side, the checkpoint has {grid}"
        )
    return VisionSettings(
        image_size=image_size,
        patch_size=patch_size,
        hidden_size=hidden_size,
        num_layers=_count_layers(shapes, VISION_PREFIX + "encoder.layers."),
        num_heads=_heads("vision_heads", hidden_size, sizes),
        intermediate_size=shapes[VISION_PREFIX + "encoder.layers.0.mlp.fc1.weight"][0],
    )


def _image_size(data: Mapping[str, Any], patch_size: int, grid: int) -> int:
    named = re.search(r"-(\d+)$", str(_field(data, "mm_vision_tower", "", lambda value: True)))
    if named and int(named[1]) // patch_size == grid:
        return int(named[1])
    return _SIGLIP_PIXELS if (patch_size, grid) == _SIGLIP_GRID else patch_size * grid


def _audio(shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int]) -> AudioSettings:
    hidden_size, num_mel_bins, _ = shapes["speech_encoder.conv1.weight"]
    window_frames = sizes.get("window_frames", _WINDOW_FRAMES)
    if window_frames < 1 or _SEGMENT_FRAMES % window_frames:
        raise ConfigError(f"window_frames must divide the {_SEGMENT_FRAMES} frames of a segment, got {window_frames}")
    return AudioSettings(
        num_mel_bins=num_mel_bins,
        hop_length=160,
        n_fft=400,
        hidden_size=hidden_size,
        num_layers=_count_layers(shapes, "speech_encoder.layers."),
        num_heads=_heads("audio_heads", hidden_size, sizes),
        intermediate_size=shapes["speech_encoder.layers.0.fc1.weight"][0],
        # The released table of segment positions.
        max_segments=200,
        window_seconds=window_frames * 30 / _SEGMENT_FRAMES,
    )


def _qformer(shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int]) -> QFormerSettings:
    _, num_queries, hidden_size = shapes["speech_query_tokens"]
    if num_queries != 1:
        raise CheckpointError(f"{num_queries} query tokens per audio window are not supported; released is 1")
    layers = QFORMER_PREFIX + "bert.encoder.layer."
    return QFormerSettings(
        hidden_size=hidden_size,
        num_layers=_count_layers(shapes, layers),
        num_heads=_heads("qformer_heads", hidden_size, sizes),
        intermediate_size=shapes[layers + "0.intermediate_query.dense.weight"][0],
        num_queries=num_queries,
        dropout=0.1,
    )


def _decoder(data: Mapping[str, Any]) -> DecoderSettings:
    for name, supported in (("hidden_act", "silu"), ("use_sliding_window", False), ("rope_scaling", None)):
        if data.get(name, supported) != supported:
            raise CheckpointError(f"config.json: {name}={data[name]!r} is not supported; released is {supported!r}")
    rope = data.get("rope_parameters") or data
    return DecoderSettings.from_dict(
        {
            "vocab_size": data["vocab_size"],
            "hidden_size": data["hidden_size"],
            "num_layers": data["num_hidden_layers"],
            "num_heads": data["num_attention_heads"],
            "num_kv_heads": data["num_key_value_heads"],
            "intermediate_size": data["intermediate_size"],
            "max_positions": data["max_position_embeddings"],
            "rope_theta": rope["rope_theta"],
            "rms_norm_eps": data["rms_norm_eps"],
            "tie_embeddings": data.get("tie_word_embeddings", False),
            "attention_dropout": data.get("attention_dropout", 0.0),
        }
    )


def _count_layers(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    numbers = {int(name.removeprefix(prefix).split(".")[0]) for name in shapes if name.startswith(prefix)}
    if numbers != set(range(len(numbers))) or not numbers:
        raise CheckpointError(f"the layers under {prefix} are not numbered from 0 on: {sorted(numbers)}")
    return len(numbers)


def _heads(name: str, width: int, sizes: Mapping[str, int]) -> int:
    if name in sizes:
        return sizes[name]
    heads, rest = divmod(width, _HEAD_WIDTHS[name])
    if rest:
        raise ConfigError(
            f"{name}: no file says the number of attention heads, and the width {width} is no multiple of the real "
            f"model's {_HEAD_WIDTHS[name]} per head; give it as sizes={{'{name}': ...}}"
        )
    return heads
