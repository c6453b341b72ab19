"""What a `Prompt` of video-SALMONN 2 7B holds in place of frames and sound.

What is no text has an id beyond any vocabulary: `VISUAL_PLACEHOLDER` for a pooled patch or a newline vector,
`AUDIO_PLACEHOLDER` for an audio token, `ZERO_PLACEHOLDER` for the zero vectors that fill up the time texts of clips
without sound. The time texts themselves are ordinary ids. No tokenizer makes such an id, so no text of a caller can
pass for a placeholder, and tokenizers decode them to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from avocet.errors import LayoutError
from avocet.models.layout import VISUAL, TokenPlan
from avocet.models.salmonn2.processing import check_segments
from avocet.models.salmonn2.released_v1_layout import TIME_TEXT, v1_time_padding
from avocet.models.salmonn2.v1_config import V1Config
from avocet.records import SAMPLE_RATE

RELEASED_PLACEHOLDER = -200
"""The released code's one placeholder for everything between the text before the media and the text after them."""

FIRST_PLACEHOLDER = 2**30
VISUAL_PLACEHOLDER, AUDIO_PLACEHOLDER, ZERO_PLACEHOLDER = range(FIRST_PLACEHOLDER, FIRST_PLACEHOLDER + 3)


def insert_media(
    token_ids: Sequence[int],
    plan: TokenPlan,
    kinds: np.ndarray,
    time_texts: Sequence[Sequence[int]],
    vocab_size: int,
) -> tuple[int, ...]:
    """Ids with the media, from ids with one `RELEASED_PLACEHOLDER`.

    Args:
        token_ids: any text before and after the media.
        plan: of the media.
        kinds: uint8 (tokens per frame,): `released_v1_layout.v1_token_kinds`.
        time_texts: token ids of each frame's time; empty where the frames have none.
        vocab_size: of the decoder.

    Raises:
        LayoutError: not exactly one placeholder, or other ids that are no text.
    """
    ids = list(token_ids)
    if [token for token in ids if not 0 <= token < vocab_size] != [RELEASED_PLACEHOLDER]:
        raise LayoutError(
            f"the ids must hold {RELEASED_PLACEHOLDER} once, where the media go, and else tokens from 0 to "
            f"{vocab_size - 1}"
        )
    num_frames = plan.num_visual_tokens // len(kinds)
    visual = np.tile(np.where(kinds == TIME_TEXT, ZERO_PLACEHOLDER, VISUAL_PLACEHOLDER), (num_frames, 1))
    padding = v1_time_padding([len(text) for text in time_texts])
    for frame, (text, num_zeros) in enumerate(zip(time_texts, padding, strict=True)):
        visual[frame, len(kinds) - num_zeros - len(text) : len(kinds) - num_zeros] = text
    media = np.full(len(plan), AUDIO_PLACEHOLDER)
    is_visual = plan.stream == VISUAL
    media[is_visual] = visual.ravel()[plan.index[is_visual]]
    place = ids.index(RELEASED_PLACEHOLDER)
    return (*ids[:place], *media.tolist(), *ids[place + 1 :])


def check_media(
    config: V1Config,
    clip_id: str,
    frames: torch.Tensor,
    num_times: int,
    mel: torch.Tensor | None,
    duration_seconds: float,
    audio_seconds: float | None,
) -> int:
    """Samples of the sound (0 without), once frames and spectrogram are known to fit the model.

    Raises:
        LayoutError: shapes that do not fit the model, or a length of sound that does not fit its spectrogram.
        ConfigError: more sound than the model has segment positions for.
    """
    size, audio = config.vision.image_size, config.audio
    if frames.dtype != torch.uint8 or frames.shape != (num_times, 3, size, size):
        raise LayoutError(
            f"clip {clip_id!r}: frames must be uint8 ({num_times}, 3, {size}, {size}), got {frames.dtype} "
            f"{tuple(frames.shape)}"
        )
    if mel is None:
        return 0
    if mel.ndim != 2 or len(mel) != audio.num_mel_bins or not mel.shape[1] or mel.shape[1] % audio.segment_mel_frames:
        raise LayoutError(
            f"clip {clip_id!r}: mel must be ({audio.num_mel_bins}, G * {audio.segment_mel_frames}) as log_mel makes "
            f"it, got {tuple(mel.shape)}"
        )
    num_segments = mel.shape[1] // audio.segment_mel_frames
    check_segments(num_segments, audio)
    most = num_segments * audio.segment_samples
    least = most - audio.segment_samples + 1
    if audio_seconds is None:
        return min(max(round(duration_seconds * SAMPLE_RATE), least), most)
    num_samples = round(audio_seconds * SAMPLE_RATE)
    if not least <= num_samples <= most:
        raise LayoutError(
            f"clip {clip_id!r}: {audio_seconds} s of sound and a spectrogram of {num_segments} segments of "
            f"{audio.segment_seconds} s"
        )
    return num_samples
