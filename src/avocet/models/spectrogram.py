"""Log-mel spectrograms as Whisper's feature extractor makes them, for any number of samples."""

from __future__ import annotations

import functools

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from avocet.records import SAMPLE_RATE


def log_mel_spectrogram(samples: torch.Tensor, num_mel_bins: int, n_fft: int, hop_length: int) -> torch.Tensor:
    """float32 (S,) at 16 kHz -> float32 (mel bins, S // hop_length).

    Power spectrogram (Hann window, mirrored edges), Slaney mel filters, log10 floored at 8 below the maximum,
    (x + 4) / 4. The last frame, centred on the end of the sound, is dropped. Needs more than n_fft / 2 samples.
    """
    spectrum = torch.stft(samples, n_fft, hop_length, window=torch.hann_window(n_fft), return_complex=True)
    power = spectrum[:, :-1].abs().square()
    log_power = (_mel_filters(num_mel_bins, n_fft) @ power).clamp(min=1e-10).log10()
    return (torch.maximum(log_power, log_power.max() - 8.0) + 4.0) / 4.0


@functools.lru_cache(maxsize=8)
def _mel_filters(num_mel_bins: int, n_fft: int) -> torch.Tensor:
    filters = mel_filter_bank(
        num_frequency_bins=1 + n_fft // 2,
        num_mel_filters=num_mel_bins,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(np.ascontiguousarray(filters.T, dtype=np.float32))
