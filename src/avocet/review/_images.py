"""Pictures for pages as data URIs: small JPEGs of frames, spectrograms as PNGs with a palette."""

from __future__ import annotations

import base64
import functools
import io

import numpy as np
import torch
from PIL import Image

from avocet.models.spectrogram import log_mel_spectrogram
from avocet.records import SAMPLE_RATE

_JPEG_QUALITY = 72
_MEL_BINS, _N_FFT, _HOP_LENGTH = 80, 400, 160
"""Of spectrograms that no model asks for: Whisper's."""
_PIECE_SECONDS = 300
"""Longer sounds are transformed piece by piece, for memory's sake."""
_LEVELS = 64
"""Shades of a spectrogram: more than the eye tells apart, and it compresses to half of what 256 do."""
_SHADES = ((6, 7, 20), (47, 17, 92), (121, 28, 109), (193, 58, 80), (240, 117, 33), (250, 193, 61), (252, 253, 210))
"""Dark to light, evenly spaced; lightness grows all the way, so that it also reads in grey."""


def jpeg_uri(frame: np.ndarray, max_height: int) -> str:
    """uint8 (3, H, W) -> data URI of a JPEG at most `max_height` pixels high; smaller frames keep their size."""
    image = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
    if image.height > max_height:
        width = max(1, round(image.width * max_height / image.height))
        image = image.resize((width, max_height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return _uri("image/jpeg", buffer)


def spectrogram_uri(spectrogram: np.ndarray) -> str:
    """float (bins, columns), lowest band first -> data URI of a PNG, lowest band at the bottom.

    The colours span the values from the smallest to the largest.
    """
    low, high = float(spectrogram.min()), float(spectrogram.max())
    scale = (_LEVELS - 1) / (high - low) if high > low else 0.0
    shades = np.rint((spectrogram[::-1] - low) * scale).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(shades))
    image.putpalette(_palette())  # makes a palette image of the grey one
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return _uri("image/png", buffer)


def plain_spectrogram(waveform: np.ndarray) -> np.ndarray | None:
    """float32 (S,) at 16 kHz -> float32 (80, S // 160), as Whisper's; None for sounds too short for one window."""
    if len(waveform) <= _N_FFT // 2:
        return None
    pieces = torch.split(torch.from_numpy(np.ascontiguousarray(waveform)), _PIECE_SECONDS * SAMPLE_RATE)
    parts = [
        log_mel_spectrogram(piece, _MEL_BINS, _N_FFT, _HOP_LENGTH).numpy()
        for piece in pieces
        if len(piece) > _N_FFT // 2
    ]
    return np.concatenate(parts, axis=1)


def pool_columns(values: np.ndarray, num_columns: int) -> np.ndarray:
    """(bins, N) -> (bins, at most num_columns): means of neighbouring columns."""
    length = values.shape[1]
    if length <= num_columns:
        return values
    bounds = np.arange(num_columns + 1) * length // num_columns
    sums = np.add.reduceat(values, bounds[:-1], axis=1, dtype=np.float64)
    means: np.ndarray = sums / np.diff(bounds)
    return means


def envelope(waveform: np.ndarray, num_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 (S,) -> smallest and largest sample of each of at most `num_columns` equal parts."""
    count = min(len(waveform), num_columns)
    bounds = np.arange(count) * len(waveform) // count
    return np.minimum.reduceat(waveform, bounds), np.maximum.reduceat(waveform, bounds)


@functools.cache
def _palette() -> list[int]:
    stops = np.array(_SHADES, dtype=np.float64)
    places = np.linspace(0, len(stops) - 1, _LEVELS)
    channels = [np.interp(places, np.arange(len(stops)), stops[:, channel]) for channel in range(3)]
    return [int(value) for value in np.rint(np.stack(channels, axis=1)).ravel()]


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
