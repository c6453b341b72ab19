"""What Avocet adds to a Qwen-Omni checkpoint: how clips are read, and what the two generations do differently.

Sources: the model cards and configurations of Qwen2.5-Omni and Qwen3-Omni, transformers' processors, and for AVoCaDO
the paper's appendix C (2 frames per second, 512 x 28 x 28 pixels per temporal patch, 25,600 x 28 x 28 in total).
"""

from __future__ import annotations

import dataclasses
import math
from types import MappingProxyType
from typing import Any, Literal

from avocet.errors import ConfigError
from avocet.models.registry import ModelOptions
from avocet.models.tmrope import TimeAxis
from avocet.records import Record

LAYOUTS = ("tmrope", "released")
Layout = Literal["tmrope", "released"]
SETTINGS_FILE = "avocet.json"
"""Beside a checkpoint that Avocet wrote: its `ReadingSettings`."""

QWEN25_SYSTEM_PROMPT = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)
"""The system turn that Qwen2.5-Omni, and AVoCaDO after it, were trained with (model card of Qwen2.5-Omni; with any
other text the processor itself warns). A constant of the checkpoints, not a choice."""

DEFAULT_INSTRUCTION = (
    "Describe this video in full detail. Tell what can be seen and what can be heard, including speech, music and "
    "other sounds, and keep every sound together with what is on screen at that moment."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What is fixed for one generation of models."""

    name: str
    time_order: Literal["chunks", "timeline"]
    assumed_grid_seconds: float
    """Seconds per temporal patch in rule `released`: what transformers' processor takes when it is told no frame rate
    (2 and 1 frames per second)."""
    shared_markers: bool
    """Whether the two opening markers of a video with sound share one position, and the two closing ones."""
    pad_sound: bool
    """Whether the spectrogram is computed over the sound and silence after it (transformers pads to a fixed length) or
    over the sound alone, mirrored at its end."""
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    system_prompt: str


QWEN25 = Family(
    name="qwen2.5-omni",
    time_order="chunks",
    assumed_grid_seconds=1.0,
    shared_markers=True,
    pad_sound=True,
    image_mean=(0.48145466, 0.4578275, 0.40821073),
    image_std=(0.26862954, 0.26130258, 0.27577711),
    system_prompt=QWEN25_SYSTEM_PROMPT,
)
QWEN3 = Family(
    name="qwen3-omni",
    time_order="timeline",
    assumed_grid_seconds=2.0,
    shared_markers=False,
    pad_sound=False,
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
    system_prompt="",
)

FAMILIES = MappingProxyType(
    {
        "qwen2_5_omni": QWEN25,
        "qwen2_5_omni_thinker": QWEN25,
        "qwen3_omni_moe": QWEN3,
        "qwen3_omni_moe_thinker": QWEN3,
    }
)
"""`model_type` of a checkpoint's config.json -> its family."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingSettings(Record):
    """How clips are sampled and how large their frames are."""

    fps: float = 2.0
    max_frames: int = 256
    min_patch_tokens: int = 128
    """Smaller frames are enlarged to this many visual tokens per temporal patch, as far as the budget allows."""
    max_patch_tokens: int = 768
    """The most visual tokens of one temporal patch."""
    max_video_tokens: int = 25_600
    """The most visual tokens of a clip. Longer clips get smaller frames, never more tokens."""
    layout: Layout = "tmrope"
    system_prompt: str | None = None
    """Another system turn than the family's; "" for none."""
    default_instruction: str = DEFAULT_INSTRUCTION
    max_new_tokens: int = 2048

    def __post_init__(self) -> None:
        for name in ("max_frames", "min_patch_tokens", "max_patch_tokens", "max_video_tokens", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0 < self.fps < math.inf:
            raise ConfigError(f"fps must be a finite number > 0, got {self.fps}")
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout must be one of {', '.join(LAYOUTS)}, got {self.layout!r}")
        if self.min_patch_tokens > self.max_patch_tokens:
            raise ConfigError(
                f"min_patch_tokens {self.min_patch_tokens} is above max_patch_tokens {self.max_patch_tokens}"
            )

    def changed(self, options: ModelOptions, pixels_per_token: int) -> ReadingSettings:
        """With a caller's options; pixel budgets are given in pixels and rounded down to whole tokens."""
        given = options.given()
        changes: dict[str, Any] = {name: given[name] for name in ("fps", "max_frames", "layout") if name in given}
        for option, name in (("patch_pixels", "max_patch_tokens"), ("total_pixels", "max_video_tokens")):
            if option in given:
                if given[option] < pixels_per_token:
                    raise ConfigError(f"{option} must be at least one token's {pixels_per_token}, got {given[option]}")
                changes[name] = given[option] // pixels_per_token
        if "max_patch_tokens" in changes:
            changes["min_patch_tokens"] = min(self.min_patch_tokens, changes["max_patch_tokens"])
        return dataclasses.replace(self, **changes)


SETTINGS = MappingProxyType({"avocado": ReadingSettings(max_patch_tokens=512)})
"""Settings of registered models that differ from the family's; AVoCaDO: appendix C."""


def time_axis(family: Family, positions_per_second: float, chunk_seconds: float) -> TimeAxis:
    """The family's axis with the numbers of a checkpoint's config."""
    return TimeAxis(
        order=family.time_order,
        positions_per_second=positions_per_second,
        chunk_seconds=chunk_seconds,
        assumed_grid_seconds=family.assumed_grid_seconds,
    )
