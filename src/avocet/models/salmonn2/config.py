"""Sizes of a video-SALMONN 2 model.

The paper does not print every size; `paper_7b` fills the gaps with the sizes of the base models it names (SigLIP
so400m at 384 px, Whisper-large-v3, Qwen2 7B) and of the released Q-Former. `nano` is the same architecture at a
thousandth of the size, made to be trained from scratch.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from avocet.errors import ConfigError
from avocet.models.layout import LAYOUT_RULES
from avocet.records import SAMPLE_RATE, Record


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionSettings(Record):
    """SigLIP vision encoder and the visual aligner's input."""

    image_size: int
    """Frames are resized to a square of this many pixels."""
    patch_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    stem_channels: tuple[int, ...] = ()
    """Channels of an early-convolution stem (Xiao et al. 2021) in place of the patch convolution; empty for none.
    One convolution of stride `patch_size / 2**len(stem_channels)`, then a stride-2 convolution per entry."""
    merge: int = 1
    """Blocks of merge x merge neighbouring patches are concatenated before the visual aligner."""
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        _check(
            self.image_size >= self.patch_size, f"image_size {self.image_size} is below patch_size {self.patch_size}"
        )
        _check(
            self.grid_size % self.merge == 0,
            f"merge {self.merge} must divide the {self.grid_size} x {self.grid_size} patches of a frame",
        )
        _check(
            self.patch_size % 2 ** len(self.stem_channels) == 0,
            f"patch_size {self.patch_size} must be divisible by 2 for each of {len(self.stem_channels)} stem channels",
        )
        _check(
            self.hidden_size % self.num_heads == 0,
            f"vision hidden_size {self.hidden_size} must be divisible by num_heads {self.num_heads}",
        )

    @property
    def grid_size(self) -> int:
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.grid_size**2

    @property
    def tokens_per_frame(self) -> int:
        return (self.grid_size // self.merge) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioSettings(Record):
    """Log-mel spectrogram, Whisper encoder and its segments."""

    num_mel_bins: int
    hop_length: int
    """Samples between two mel frames; an encoder frame is two mel frames."""
    n_fft: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    segment_seconds: int = 30
    """The waveform is sliced into segments of this length; each passes the encoder alone."""
    pad_segments: bool = True
    """Fill each segment with silence to its full length before the encoder (what Whisper was trained on) and cut
    the output to the real length. False: encode the real length, so that short clips cost little."""
    max_segments: int = 64
    """Rows of the learned segment position table."""
    window_seconds: float = 0.2
    """One audio token group (`QFormerSettings.num_queries` tokens) per window."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        exact = self.window_seconds * SAMPLE_RATE / (2 * self.hop_length)
        _check(
            exact >= 1 and abs(exact - round(exact)) < 1e-9,
            f"window_seconds {self.window_seconds} must be a whole number of encoder frames of "
            f"{2 * self.hop_length / SAMPLE_RATE} s",
        )
        _check(
            (self.segment_seconds * SAMPLE_RATE) % self.window_samples == 0,
            f"segment_seconds {self.segment_seconds} must be a whole number of windows of {self.window_seconds} s",
        )
        _check(
            self.n_fft // 2 < self.window_samples,
            f"n_fft {self.n_fft} must be below two windows ({2 * self.window_samples} samples)",
        )
        _check(
            self.hidden_size % self.num_heads == 0,
            f"audio hidden_size {self.hidden_size} must be divisible by num_heads {self.num_heads}",
        )

    @property
    def window_frames(self) -> int:
        """Encoder frames per window."""
        return round(self.window_seconds * SAMPLE_RATE / (2 * self.hop_length))

    @property
    def window_samples(self) -> int:
        return self.window_frames * 2 * self.hop_length

    @property
    def segment_samples(self) -> int:
        return self.segment_seconds * SAMPLE_RATE

    @property
    def segment_mel_frames(self) -> int:
        return self.segment_samples // self.hop_length

    @property
    def segment_frames(self) -> int:
        """Encoder frames per full segment (Whisper's max_source_positions)."""
        return self.segment_mel_frames // 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class QFormerSettings(Record):
    """Windowed Q-Former; its cross-attention is in every layer."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    num_queries: int = 1
    """Tokens per audio window."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check(self.num_queries >= 1, f"num_queries must be >= 1, got {self.num_queries}")
        _check(
            self.hidden_size % self.num_heads == 0,
            f"Q-Former hidden_size {self.hidden_size} must be divisible by num_heads {self.num_heads}",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderSettings(Record):
    """Qwen2 language model."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    max_positions: int
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    tie_embeddings: bool = False
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        _check(
            self.hidden_size % self.num_heads == 0 and self.num_heads % self.num_kv_heads == 0,
            f"decoder hidden_size {self.hidden_size} must be divisible by num_heads {self.num_heads}, and those by "
            f"num_kv_heads {self.num_kv_heads}",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Salmonn2Config(Record):
    """Everything needed to build the model, one `config.json`."""

    vision: VisionSettings
    audio: AudioSettings
    qformer: QFormerSettings
    decoder: DecoderSettings
    model_type: Literal["avocet-salmonn2"] = "avocet-salmonn2"
    variant: Literal["paper"] = "paper"
    layout_rule: str = "salmonn2_paper"
    clip_fps: float = 1.0
    """Frames per second to sample from a clip."""
    max_frames: int = 30
    system_prompt: str = ""
    """Text of a system turn before the user turn; empty for none."""
    default_instruction: str = "Describe the video and its sound."
    default_max_new_tokens: int = 1024
    world: str | None = None
    """The only kind of video the model knows ("theatre"), None for a general model."""

    def __post_init__(self) -> None:
        _check(
            self.layout_rule in LAYOUT_RULES,
            f"unknown layout rule {self.layout_rule!r}; available: {', '.join(LAYOUT_RULES)}",
        )
        _check(self.clip_fps > 0, f"clip_fps must be > 0, got {self.clip_fps}")
        _check(self.max_frames >= 1, f"max_frames must be >= 1, got {self.max_frames}")

    @property
    def audio_token_seconds(self) -> float:
        """Seconds that one audio token stands for."""
        return self.audio.window_seconds / self.qformer.num_queries

    @classmethod
    def nano(cls, vocab_size: int) -> Salmonn2Config:
        """The shipped model, about 6 million parameters: 2 frames per second at 96 px, 4 tokens each; 5 audio tokens
        per second."""
        return cls(
            vision=VisionSettings(
                image_size=96,
                patch_size=16,
                hidden_size=160,
                num_layers=3,
                num_heads=5,
                intermediate_size=480,
                stem_channels=(32, 96),
                merge=3,
            ),
            audio=AudioSettings(
                num_mel_bins=64,
                hop_length=320,
                n_fft=512,
                hidden_size=192,
                num_layers=4,
                num_heads=4,
                intermediate_size=576,
                segment_seconds=12,
                pad_segments=False,
                max_segments=8,
            ),
            qformer=QFormerSettings(hidden_size=192, num_layers=2, num_heads=4, intermediate_size=384),
            decoder=DecoderSettings(
                vocab_size=vocab_size,
                hidden_size=192,
                num_layers=4,
                num_heads=4,
                num_kv_heads=4,
                intermediate_size=512,
                max_positions=2048,
                rope_theta=10_000.0,
                tie_embeddings=True,
            ),
            clip_fps=2.0,
            max_frames=60,
            default_max_new_tokens=256,
            world="theatre",
        )

    @classmethod
    def paper_7b(cls) -> Salmonn2Config:
        """The paper's model: 1 frame per second, at most 30, 729 tokens each; 5 audio tokens per second."""
        return cls(
            vision=VisionSettings(
                image_size=384,
                patch_size=14,
                hidden_size=1152,
                num_layers=27,
                num_heads=16,
                intermediate_size=4304,
            ),
            audio=AudioSettings(
                num_mel_bins=128,
                hop_length=160,
                n_fft=400,
                hidden_size=1280,
                num_layers=32,
                num_heads=20,
                intermediate_size=5120,
            ),
            qformer=QFormerSettings(hidden_size=768, num_layers=2, num_heads=12, intermediate_size=3072),
            decoder=DecoderSettings(
                vocab_size=152_064,
                hidden_size=3584,
                num_layers=28,
                num_heads=28,
                num_kv_heads=4,
                intermediate_size=18_944,
                max_positions=32_768,
            ),
            system_prompt="You are a helpful assistant.",
        )
