"""Placeholders and markers of the Qwen-Omni family: which token ids stand for media and around them.

    ... user turn: OPEN media CLOSE instruction ...

OPEN and CLOSE are the vision and audio markers: both where sound is interleaved with a video, else the one that fits.
The turns around them are `avocet.models.chatml`'s.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from avocet.errors import CheckpointError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MediaIds:
    """Token ids of placeholders and markers."""

    image: int
    video: int
    audio: int
    vision_start: int
    vision_end: int
    audio_start: int
    audio_end: int

    @property
    def placeholders(self) -> tuple[int, int, int]:
        return self.image, self.video, self.audio


def media_ids(config: Any, tokenizer: Any) -> MediaIds:
    """From a thinker's config; markers that it does not name come from the tokenizer."""
    return MediaIds(
        image=config.image_token_id,
        video=config.video_token_id,
        audio=config.audio_token_id,
        vision_start=_id(config, tokenizer, "vision_start_token_id", ("<|vision_bos|>", "<|vision_start|>")),
        vision_end=_id(config, tokenizer, "vision_end_token_id", ("<|vision_eos|>", "<|vision_end|>")),
        audio_start=_id(config, tokenizer, "audio_start_token_id", ("<|audio_bos|>", "<|audio_start|>")),
        audio_end=_id(config, tokenizer, "audio_end_token_id", ("<|audio_eos|>", "<|audio_end|>")),
    )


def _id(config: Any, tokenizer: Any, name: str, spellings: tuple[str, ...]) -> int:
    value = getattr(config, name, None)
    if value is not None:
        return int(value)
    vocabulary = tokenizer.get_vocab()
    for spelling in spellings:
        if spelling in vocabulary:
            return int(vocabulary[spelling])
    raise CheckpointError(f"neither the config names {name} nor has the tokenizer one of {', '.join(spellings)}")


def markers(ids: MediaIds, *, has_picture: bool, has_sound: bool) -> tuple[list[int], list[int]]:
    """Opening and closing marker ids."""
    opening = [ids.vision_start] * has_picture + [ids.audio_start] * has_sound
    closing = [ids.audio_end] * has_sound + [ids.vision_end] * has_picture
    return opening, closing
