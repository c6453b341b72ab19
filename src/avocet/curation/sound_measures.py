"""Numbers about a waveform: how loud, how much silence, how much that sounds like speech. Pure functions.

`speech_like_share` is a cheap pre-filter, not a detector of speech: singing and some instruments pass it, whispering
and speech under loud music fail it. What is said is for a recogniser to find out.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from avocet.records import SAMPLE_RATE, Record

FLOOR_DBFS = -120.0
"""Levels are never below this, so that silence has a number."""
SILENT_DBFS = -50.0
"""RMS of 50 ms under which nothing is heard at ordinary volume: below quiet speech (-40) and above room noise."""

_LEVEL_SAMPLES = SAMPLE_RATE // 20

_FRAME_SAMPLES = 512
"""32 ms: more than two periods of the deepest voices, less than a syllable."""
_HOP_SAMPLES = 256
_VOICE_HERTZ = (70.0, 400.0)
"""Fundamental frequencies of voices."""
_VOICED_CORRELATION = 0.5
_SPEECH_BAND_HERTZ = (250.0, 4000.0)
_SPEECH_BAND_SHARE = 0.4
_VOICED_SHARE = 0.2
_SYLLABIC_DECIBELS = 4.0
"""Speech is loud and soft by turns, four times a second; a tone or a hum is not."""
_ACTIVE_DECIBELS = 25.0
"""Frames this far below the loudest of their second count as pauses."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundMeasures(Record):
    """What a waveform says. Levels are dBFS of the mono mix: 0 is the RMS of a full-scale square wave."""

    rms_dbfs: float
    peak_dbfs: float
    silent_share: float
    """Of the time, in steps of 50 ms."""
    speech_like_share: float
    """Seconds that have the level, the band, the pitch and the rhythm of a voice, of all seconds."""


def measure_sound(waveform: np.ndarray) -> SoundMeasures | None:
    """Measure float32 (S,) at 16 kHz; None without samples."""
    if not len(waveform):
        return None
    levels = levels_dbfs(waveform)
    return SoundMeasures(
        rms_dbfs=round(_decibels(float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))), 2),
        peak_dbfs=round(_decibels(float(np.abs(waveform).max())), 2),
        silent_share=round(float((levels < SILENT_DBFS).mean()), 4),
        speech_like_share=round(speech_like_share(waveform), 4),
    )


def levels_dbfs(waveform: np.ndarray) -> np.ndarray:
    """RMS level of every 50 ms, dBFS; a shorter rest counts as a step of its own."""
    steps = [waveform[at : at + _LEVEL_SAMPLES] for at in range(0, len(waveform), _LEVEL_SAMPLES)]
    rms = np.array([np.sqrt(np.mean(np.square(step, dtype=np.float64))) for step in steps])
    return np.asarray(20 * np.log10(np.maximum(rms, 10 ** (FLOOR_DBFS / 20))))


def speech_like_share(waveform: np.ndarray) -> float:
    """Share of seconds in which float32 (S,) at 16 kHz is like speech; the rest of under half a second is left out.

    A second counts when it is not silent, much of its energy lies between 250 and 4000 Hz, at least a fifth of its
    frames have a pitch between 70 and 400 Hz, and the level of its frames varies as syllables do.
    """
    seconds = [waveform[at : at + SAMPLE_RATE] for at in range(0, len(waveform), SAMPLE_RATE)]
    seconds = [second for second in seconds if len(second) >= SAMPLE_RATE // 2]
    return sum(_is_speech_like(second) for second in seconds) / len(seconds) if seconds else 0.0


def _is_speech_like(second: np.ndarray) -> bool:
    starts = np.arange(0, len(second) - _FRAME_SAMPLES + 1, _HOP_SAMPLES)
    frames = second[starts[:, None] + np.arange(_FRAME_SAMPLES)].astype(np.float64)
    levels = 10 * np.log10(np.mean(frames**2, axis=1) + 10 ** (FLOOR_DBFS / 10))
    if levels.max() < SILENT_DBFS:
        return False
    active = levels > max(SILENT_DBFS, levels.max() - _ACTIVE_DECIBELS)
    spectra = np.abs(np.fft.rfft(frames * np.hanning(_FRAME_SAMPLES), n=2 * _FRAME_SAMPLES, axis=1)) ** 2
    hertz = np.fft.rfftfreq(2 * _FRAME_SAMPLES, 1 / SAMPLE_RATE)
    in_band = (hertz >= _SPEECH_BAND_HERTZ[0]) & (hertz <= _SPEECH_BAND_HERTZ[1])
    band_share = spectra[active][:, in_band].sum() / max(spectra[active].sum(), 1e-12)
    voiced = active & (_pitch_correlations(frames) > _VOICED_CORRELATION)
    # Pauses between words belong to the rhythm, but digital silence must not make it infinite.
    rhythm = float(np.std(np.maximum(levels, levels.max() - 2 * _ACTIVE_DECIBELS)))
    return bool(band_share >= _SPEECH_BAND_SHARE and voiced.mean() >= _VOICED_SHARE and rhythm >= _SYLLABIC_DECIBELS)


def _pitch_correlations(frames: np.ndarray) -> np.ndarray:
    """(F,): the largest normalised autocorrelation of each frame at the periods of voices."""
    centred = frames - frames.mean(axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(centred, n=2 * _FRAME_SAMPLES, axis=1)) ** 2
    correlations = np.fft.irfft(power, axis=1)[:, :_FRAME_SAMPLES]
    lags = np.arange(_FRAME_SAMPLES)
    # Fewer samples overlap at longer lags; without the correction low voices would lose.
    unbiased = correlations * (_FRAME_SAMPLES / np.maximum(_FRAME_SAMPLES - lags, 1))
    shortest, longest = (round(SAMPLE_RATE / hertz) for hertz in reversed(_VOICE_HERTZ))
    best = unbiased[:, shortest : longest + 1].max(axis=1)
    return np.asarray(best / np.maximum(correlations[:, 0], 1e-12))


def _decibels(amplitude: float) -> float:
    return max(FLOOR_DBFS, 20 * float(np.log10(max(amplitude, 1e-12))))
