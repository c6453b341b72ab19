"""From a clip's arrays to what the towers read: resized frames and log-mel spectrograms.

Frames are resized to a square without keeping the aspect ratio (as SigLIP was trained) with PyTorch's antialiased
bicubic filter on uint8. Spectrograms follow Whisper's feature extractor, one segment at a time.

Not in Whisper: with `pad_segments=False` the last segment is padded only to whole audio windows (silence in the
waveform, before the spectrogram), so the last partial window reads silence for the rest of it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from avocet.errors import ConfigError
from avocet.models.salmonn2.config import AudioSettings, Salmonn2Config
from avocet.models.spectrogram import log_mel_spectrogram


def resize_frames(frames: np.ndarray, size: int) -> torch.Tensor:
    """uint8 (T, 3, H, W) -> uint8 (T, 3, size, size)."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames))
    if len(pixels) == 0:
        return pixels.new_zeros((0, 3, size, size))
    if pixels.shape[-2:] == (size, size):
        return pixels
    return F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True)


def normalise_frames(frames: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """uint8 (N, 3, S, S) -> the same in [-1, 1]: (x / 255 - 0.5) / 0.5."""
    return frames.float().mul_(2 / 255).sub_(1).to(dtype)


def num_audio_windows(num_samples: int, audio: AudioSettings) -> int:
    """Windows that hold at least one real sample."""
    return -(-num_samples // audio.window_samples)


def log_mel(waveform: np.ndarray, config: Salmonn2Config) -> torch.Tensor:
    """float32 (S,) at 16 kHz -> float32 (mel bins, mel frames).

    Segment by segment: power spectrogram, mel filters, log10 floored at 8 below the segment's maximum, (x + 4) / 4.
    The number of mel frames covers whole windows, or whole segments with `pad_segments`.

    Raises:
        ConfigError: an empty waveform, or more segments than the model has positions for.
    """
    audio = config.audio
    if waveform.ndim != 1 or len(waveform) == 0:
        raise ConfigError(f"log_mel needs a waveform (S,) with at least one sample, got shape {waveform.shape}")
    check_segments(-(-len(waveform) // audio.segment_samples), audio)
    unit = audio.segment_samples if audio.pad_segments else audio.window_samples
    samples = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
    samples = F.pad(samples, (0, -len(samples) % unit))
    return torch.cat(
        [
            log_mel_spectrogram(segment, audio.num_mel_bins, audio.n_fft, audio.hop_length)
            for segment in torch.split(samples, audio.segment_samples)
        ],
        dim=1,
    )


def check_segments(num_segments: int, audio: AudioSettings) -> None:
    """Raise `ConfigError` when a sound has more segments than the segment position table has rows."""
    if num_segments > audio.max_segments:
        raise ConfigError(
            f"the sound spans {num_segments} segments of {audio.segment_seconds} s, the model has positions for "
            f"{audio.max_segments} ({audio.max_segments * audio.segment_seconds} s); caption a shorter interval "
            "(start_seconds, end_seconds)"
        )
