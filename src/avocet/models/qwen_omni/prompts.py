"""ChatML prompts of the Qwen-Omni family: which token ids stand around the media.

    <|im_start|>system
    ...<|im_end|>
    <|im_start|>user
    OPEN media CLOSE instruction<|im_end|>
    <|im_start|>assistant

OPEN and CLOSE are the vision and audio markers: both where sound is interleaved with a video, else the one that fits.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from avocet.errors import CheckpointError

TURN_START, TURN_END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


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


def stop_ids(tokenizer: Any) -> tuple[int, ...]:
    """What ends an answer: the end of the turn, or of the text."""
    vocabulary = tokenizer.get_vocab()
    for token in (TURN_START, TURN_END):
        if token not in vocabulary:
            raise CheckpointError(f"the tokenizer has no {token}")
    return tuple(vocabulary[token] for token in (TURN_END, TEXT_END) if token in vocabulary)


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text from outside: special tokens in it stay text."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def turns(tokenizer: Any, system_prompt: str, instruction: str) -> tuple[list[int], list[int]]:
    """Token ids before and after the markers around the media."""
    vocabulary = tokenizer.get_vocab()
    start, end = [vocabulary[TURN_START]], [vocabulary[TURN_END]]
    newline = plain_ids(tokenizer, "\n")
    system = [*start, *plain_ids(tokenizer, f"system\n{system_prompt}"), *end, *newline] if system_prompt else []
    before = [*system, *start, *plain_ids(tokenizer, "user\n")]
    answer = [*end, *newline, *start, *plain_ids(tokenizer, "assistant\n")]
    return before, [*plain_ids(tokenizer, instruction), *answer]


def markers(ids: MediaIds, *, has_picture: bool, has_sound: bool) -> tuple[list[int], list[int]]:
    """Opening and closing marker ids."""
    opening = [ids.vision_start] * has_picture + [ids.audio_start] * has_sound
    closing = [ids.audio_end] * has_sound + [ids.vision_end] * has_picture
    return opening, closing
