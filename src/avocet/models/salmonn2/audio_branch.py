"""The hearing of the released video-SALMONN 2 models: Whisper, a windowed Q-Former, projections.

    30 s segments -> Whisper encoder -> (norm) -> windows -> Q-Former, one query each -> projection -> (MLP)

`v1` has the norm on Whisper's output and the MLP at the end, `plus` has neither.

Shapes: G segments, W windows per segment, T encoder frames per segment, D decoder width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from avocet.models.salmonn2 import towers
from avocet.models.salmonn2.config import AudioSettings, QFormerSettings
from avocet.models.spectrogram import log_mel_spectrogram


class AudioBranch(nn.Module):
    """From log-mel segments to audio tokens of the decoder."""

    def __init__(
        self, audio: AudioSettings, qformer: QFormerSettings, decoder_width: int, *, with_norm: bool, with_mlp: bool
    ) -> None:
        super().__init__()
        self.settings = audio
        self.encoder = towers.build_audio_encoder(audio)
        self.norm = nn.LayerNorm(audio.hidden_size) if with_norm else nn.Identity()
        self.query_tokens = nn.Parameter(torch.zeros(1, qformer.num_queries, qformer.hidden_size))
        self.qformer = towers.build_qformer(qformer, audio.hidden_size)
        self.projection = nn.Linear(qformer.hidden_size, decoder_width)
        self.mlp: nn.Module = nn.Identity()
        if with_mlp:
            self.mlp = nn.Sequential(
                nn.Linear(decoder_width, decoder_width), nn.GELU(), nn.Linear(decoder_width, decoder_width)
            )

    @property
    def tokens_per_segment(self) -> int:
        windows = self.settings.segment_frames // self.settings.window_frames
        return windows * self.query_tokens.shape[1]

    def encode(self, mel: torch.Tensor) -> torch.Tensor:
        """(G, mel bins, mel frames) -> (G, T, width): Whisper's output after its own final norm."""
        hidden: torch.Tensor = self.encoder(mel.to(self.query_tokens))
        return hidden

    def align(self, features: torch.Tensor) -> torch.Tensor:
        """(G, T, width) -> (G * W * queries, D)."""
        settings = self.settings
        windows = self.norm(features).reshape(-1, settings.window_frames, settings.hidden_size)
        hidden = self.query(windows)
        tokens: torch.Tensor = self.mlp(self.projection(hidden))
        return tokens.flatten(0, 1)

    def query(self, windows: torch.Tensor) -> torch.Tensor:
        """(windows, frames, width) -> (windows, queries, Q-Former width)."""
        queries = self.query_tokens.expand(len(windows), -1, -1)
        hidden: torch.Tensor = self.qformer(query_embeds=queries, encoder_hidden_states=windows).last_hidden_state
        return hidden


def segment_mels(waveform: np.ndarray, audio: AudioSettings) -> torch.Tensor:
    """float32 (S,) at 16 kHz -> (G, mel bins, mel frames): 30 s segments, the last one filled up with silence."""
    samples = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
    samples = nn.functional.pad(samples, (0, -len(samples) % audio.segment_samples))
    segments = torch.split(samples, audio.segment_samples)
    return torch.stack(
        [log_mel_spectrogram(part, audio.num_mel_bins, audio.n_fft, audio.hop_length) for part in segments]
    )
