"""Perceptual fingerprints: sequences of hashes that survive re-encoding, scaling and a change of loudness.

Pictures: the 64-bit difference hash (dHash) of each sampled frame. The luma is averaged over 8 x 9 blocks, and each
bit says whether a block is brighter than its left neighbour, by more than a margin. A picture with hardly any edges
(black, fog, a plain card) says nothing and has the hash 0.

Sound: 32 bits every 0.125 s, after Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002):
the energies of 33 bands, equally wide on a logarithmic scale from 300 to 4000 Hz, over windows of 0.512 s; bit m of
step n is the sign of (E[n,m] - E[n,m+1]) - (E[n-1,m] - E[n-1,m+1]). Theirs are 300 to 2000 Hz every 11.6 ms; coarser
steps suffice for whole clips, which need not be found by three seconds of them. Steps that nothing is heard in have
the hash 0.

Two sequences are compared at every shift up to a tolerance, by the share of bits that differ.
"""

from __future__ import annotations

import base64
import dataclasses
import functools

import numpy as np

from avocet.curation.picture_measures import block_means, to_luma
from avocet.errors import RecordError
from avocet.records import SAMPLE_RATE

PICTURE_STEP_SECONDS = 0.5
"""Between hashed frames."""
SOUND_STEP_SECONDS = 0.125

_EDGE_LEVELS = 2.0
"""Neighbouring blocks that differ by less, of 255, count as equal: coding noise is smaller, edges are larger."""
_FEWEST_EDGES = 6
"""Of the 64 pairs of blocks; pictures with fewer edges have no hash."""

_STEP_SAMPLES = round(SOUND_STEP_SECONDS * SAMPLE_RATE)
_WINDOW_SAMPLES = 8192
_NUM_BANDS = 33
_BAND_HERTZ = (300.0, 4000.0)
_INAUDIBLE = 10 ** (-55 / 20)
"""RMS of a window (-55 dBFS) under which its bits would be those of noise."""
_STEPS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """How two sequences of hashes agree at their best shift."""

    distance: float
    """Share of bits that differ, over the steps that both have a hash for; 0.5 is chance."""
    shift_steps: int
    """Step i of the first goes with step i + shift of the second."""
    num_steps: int
    """Compared steps."""


def picture_hashes(frames: np.ndarray) -> np.ndarray:
    """uint8 (T, 3, H, W) to uint64 (T,); 0 for pictures without edges."""
    if not len(frames):
        return np.zeros(0, np.uint64)
    steps = np.diff(block_means(to_luma(frames), 8, 9), axis=2).reshape(len(frames), 64)
    hashes = np.packbits(steps > _EDGE_LEVELS, axis=1).view(">u8")[:, 0].astype(np.uint64)
    informative = (np.abs(steps) > _EDGE_LEVELS).sum(axis=1) >= _FEWEST_EDGES
    # A picture that darkens everywhere from left to right has a hash of zeros, too, and it does say something.
    return np.where(informative, np.maximum(hashes, np.uint64(1)), np.uint64(0))


def sound_hashes(waveform: np.ndarray) -> np.ndarray:
    """float32 (S,) at 16 kHz to uint32 (N,), one hash per 0.125 s whose window lies inside; 0 where it is silent."""
    num_windows = (len(waveform) - _WINDOW_SAMPLES) // _STEP_SAMPLES + 1
    if num_windows < 2:
        return np.zeros(0, np.uint32)
    energies, audible = _band_energies(waveform, num_windows)
    slopes = energies[:, :-1] - energies[:, 1:]
    bits = np.diff(slopes, axis=0) > 0
    hashes = np.packbits(bits, axis=1).view(">u4")[:, 0].astype(np.uint32)
    both = audible[1:] & audible[:-1]
    return np.where(both, np.maximum(hashes, np.uint32(1)), np.uint32(0))


def _band_energies(waveform: np.ndarray, num_windows: int) -> tuple[np.ndarray, np.ndarray]:
    """Energies (N, 33) and whether each window is audible (N,), a few windows at a time."""
    edges = np.geomspace(*_BAND_HERTZ, _NUM_BANDS + 1) * _WINDOW_SAMPLES / SAMPLE_RATE
    bins = np.round(edges).astype(int)
    shape = np.hanning(_WINDOW_SAMPLES).astype(np.float32)
    energies = np.empty((num_windows, _NUM_BANDS))
    audible = np.empty(num_windows, bool)
    for first in range(0, num_windows, _STEPS_AT_ONCE):
        last = min(num_windows, first + _STEPS_AT_ONCE)
        starts = np.arange(first, last)[:, None] * _STEP_SAMPLES
        windows = waveform[starts + np.arange(_WINDOW_SAMPLES)]
        audible[first:last] = np.sqrt((windows.astype(np.float64) ** 2).mean(axis=1)) >= _INAUDIBLE
        power = np.abs(np.fft.rfft(windows * shape, axis=1)) ** 2
        energies[first:last] = np.add.reduceat(power[:, : bins[-1]], bins[:-1], axis=1)
    return energies, audible


def best_match(
    a: np.ndarray, b: np.ndarray, *, max_shift: int, min_steps: int, min_overlap: float = 0.0
) -> Match | None:
    """The shift in [-max_shift, max_shift] at which the fewest bits differ; of equals the smallest shift.

    Args:
        a, b: sequences of one unsigned type. Steps whose hash is 0 in either are left out.
        min_steps: shifts with fewer compared steps are not considered. None when no shift has as many.
        min_overlap: nor are shifts at which the two have less in common of the longer one, hash or no hash.
    """
    best: Match | None = None
    bits_per_step = 8 * a.dtype.itemsize
    for shift in sorted(range(-max_shift, max_shift + 1), key=lambda shift: (abs(shift), shift)):
        length = min(len(a) - max(0, -shift), len(b) - max(0, shift))
        if length < max(min_steps, 1, min_overlap * max(len(a), len(b))):
            continue
        x, y = a[max(0, -shift) :][:length], b[max(0, shift) :][:length]
        usable = (x != 0) & (y != 0)
        num_steps = int(np.count_nonzero(usable))
        if num_steps < max(min_steps, 1):
            continue
        distance = count_bits((x ^ y) * usable) / (num_steps * bits_per_step)
        if best is None or distance < best.distance:
            best = Match(distance=distance, shift_steps=shift, num_steps=num_steps)
    return best


def count_bits(values: np.ndarray) -> int:
    """Set bits of an array of unsigned integers."""
    return int(_bit_table()[np.ascontiguousarray(values).view(np.uint16)].sum(dtype=np.int64))


@functools.cache
def _bit_table() -> np.ndarray:
    return np.array([value.bit_count() for value in range(2**16)], np.uint8)


def encode_hashes(hashes: np.ndarray) -> str:
    """Base64 of the little-endian bytes, for JSON."""
    return base64.b64encode(hashes.astype(hashes.dtype.newbyteorder("<")).tobytes()).decode()


def decode_hashes(text: object, kind: type[np.uint64] | type[np.uint32]) -> np.ndarray:
    """What `encode_hashes` wrote, as `kind`. Raises `RecordError` for anything else."""
    dtype = np.dtype(kind)
    try:
        if not isinstance(text, str):
            raise ValueError(f"expected text, got {type(text).__name__}")
        data = base64.b64decode(text, validate=True)
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)
    except ValueError as error:
        raise RecordError(f"not a sequence of {dtype.name} hashes in base64: {error}") from error
