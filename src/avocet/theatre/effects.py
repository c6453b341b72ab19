"""The theatre's twelve sounds, synthesised from a seed.

Each maker returns `length` samples at 16 kHz of any scale; `make_sound` brings them to one loudness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType

import numpy as np

from avocet.errors import ConfigError
from avocet.records import SAMPLE_RATE
from avocet.theatre import world

SOUND_PEAK, SOUND_RMS = 0.5, 0.13
"""Loudness limits of a sound played alone; the stricter one holds."""

_Maker = Callable[[np.random.Generator, int], np.ndarray]
_FADE_SECONDS = 0.02


def make_sound(sound: str, duration_seconds: float, seed: int) -> np.ndarray:
    """One of `world.SOUNDS`: float32 (round(`duration_seconds` * 16000),).

    The seed varies pitch, tempo and level. Raises `ConfigError` for an unknown sound or a duration below 0.1 s.
    """
    if sound not in _MAKERS:
        raise ConfigError(f"unknown sound {sound!r}; the theatre has {', '.join(world.SOUNDS)}")
    length = round(duration_seconds * SAMPLE_RATE)
    if length < SAMPLE_RATE // 10:
        raise ConfigError(f"a sound must last at least 0.1 s, got {duration_seconds} s")
    rng = np.random.default_rng(seed)
    level = rng.uniform(0.7, 1.0)
    samples = _MAKERS[sound](rng, length)
    ramp = np.linspace(0, 1, round(_FADE_SECONDS * SAMPLE_RATE))
    samples[: len(ramp)] *= ramp
    samples[-len(ramp) :] *= ramp[::-1]
    loudness = max(np.abs(samples).max() / SOUND_PEAK, np.sqrt(np.mean(samples**2)) / SOUND_RMS)
    return np.asarray(samples * (level / loudness), np.float32)


def _seconds(length: int) -> np.ndarray:
    return np.arange(length) / SAMPLE_RATE


def _oscillator(frequency: float | np.ndarray, length: int) -> np.ndarray:
    """Phase in radians of a tone whose frequency in Hz may change from sample to sample."""
    return 2 * np.pi * np.cumsum(np.broadcast_to(frequency, length)) / SAMPLE_RATE


def _noise(rng: np.random.Generator, length: int, low: float, high: float) -> np.ndarray:
    """Noise between two frequencies in Hz, with soft edges, of standard deviation near 1."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequencies = np.fft.rfftfreq(length, 1 / SAMPLE_RATE) + 1e-6
    spectrum *= 1 / (1 + (low / frequencies) ** 4) / (1 + (frequencies / high) ** 4)
    samples = np.fft.irfft(spectrum, length)
    return np.asarray(samples / (samples.std() + 1e-9))


def _beats(rng: np.random.Generator, length: int, period_seconds: float) -> Iterator[int]:
    """Sample indices one period apart, each up to 4 % early or late."""
    time = 0.01
    while round(time * SAMPLE_RATE) < length:
        yield round(time * SAMPLE_RATE)
        time += period_seconds * rng.uniform(0.96, 1.04)


def _add(samples: np.ndarray, start: int, piece: np.ndarray) -> None:
    """Mix `piece` into `samples` from `start` on, cut at the end."""
    part = samples[start : start + len(piece)]
    part += piece[: len(part)]


def _bell(rng: np.random.Generator, length: int) -> np.ndarray:
    """One to three strokes of decaying inharmonic partials."""
    samples, pitch = np.zeros(length), rng.uniform(520, 860)
    strokes = min(int(rng.integers(1, 4)), max(1, length // (SAMPLE_RATE * 6 // 10)))
    for start in _beats(rng, length, length / SAMPLE_RATE / strokes):
        time = _seconds(length - start)
        for ratio, level, decay in ((1, 1, 2.2), (2.0, 0.5, 3), (2.76, 0.6, 4), (5.4, 0.35, 7), (8.9, 0.15, 12)):
            if pitch * ratio < 7500:
                samples[start:] += level * np.exp(-decay * time) * np.sin(2 * np.pi * pitch * ratio * time)
    return samples


def _siren(rng: np.random.Generator, length: int) -> np.ndarray:
    """A tone that sweeps up and down about once per second."""
    low, high, speed = rng.uniform(480, 620), rng.uniform(1050, 1350), rng.uniform(0.8, 1.3)
    sweep = 0.5 - 0.5 * np.cos(2 * np.pi * speed * _seconds(length) + rng.uniform(0, 6))
    phase = _oscillator(low + (high - low) * sweep, length)
    return np.asarray(np.sin(phase) + 0.3 * np.sin(2 * phase) + 0.15 * np.sin(3 * phase))


def _drum(rng: np.random.Generator, length: int) -> np.ndarray:
    """Low thumps."""
    samples, pitch = np.zeros(length), rng.uniform(60, 85)
    time = _seconds(SAMPLE_RATE * 3 // 10)
    thump = np.exp(-14 * time) * np.sin(_oscillator(pitch * (1 + 1.2 * np.exp(-30 * time)), len(time)))
    thump += 0.25 * np.exp(-120 * time) * _noise(rng, len(time), 200, 1500)
    for start in _beats(rng, length, rng.uniform(0.24, 0.42)):
        _add(samples, start, rng.uniform(0.7, 1) * thump)
    return samples


def _whistle(rng: np.random.Generator, length: int) -> np.ndarray:
    """A high pure tone with vibrato, in one or two blasts."""
    time = _seconds(length)
    pitch = rng.uniform(1900, 2700) * (1 + 0.025 * np.sin(2 * np.pi * rng.uniform(5, 7) * time))
    tone = np.sin(_oscillator(pitch, length)) + 0.03 * _noise(rng, length, 1500, 4000)
    if rng.random() < 0.5:
        pause = round(length * rng.uniform(0.4, 0.55))
        tone[pause : pause + SAMPLE_RATE * 15 // 100] = 0
    return np.asarray(tone)


def _horn(rng: np.random.Generator, length: int) -> np.ndarray:
    """Low brassy honks: two reeds a third apart."""
    pitch, time = rng.uniform(190, 280), _seconds(length)
    samples = np.zeros(length)
    for note in (pitch, pitch * 1.26):
        for harmonic in range(1, 10):
            level = (1 if harmonic % 2 else 0.35) / harmonic**0.8
            samples += level * np.sin(2 * np.pi * note * harmonic * time)
    period, on = rng.uniform(0.45, 0.65), rng.uniform(0.65, 0.75)
    phase = time % period / period
    return np.asarray(samples * np.clip(np.minimum(phase, on - phase) * 25, 0, 1))


def _buzzer(rng: np.random.Generator, length: int) -> np.ndarray:
    """A harsh steady saw tooth near 120 Hz."""
    phase = rng.uniform(105, 135) * _seconds(length)
    saw = 2 * (phase % 1) - 1
    return np.asarray(np.sign(saw) * np.abs(saw) ** 0.5 + 0.5 * (2 * (phase * 4 % 1) - 1))


def _clock(rng: np.random.Generator, length: int) -> np.ndarray:
    """Dry ticks, every second one a little lower."""
    samples, time = np.zeros(length), _seconds(SAMPLE_RATE // 20)
    pitch = rng.uniform(2300, 3000)
    tick, tock = (
        np.exp(-180 * time) * (np.sin(2 * np.pi * tone * time) + 0.5 * np.sin(2 * np.pi * 1.83 * tone * time))
        for tone in (pitch, 0.72 * pitch)
    )
    for number, start in enumerate(_beats(rng, length, rng.uniform(0.22, 0.34))):
        _add(samples, start, tock if number % 2 else tick)
    return samples


def _rain(rng: np.random.Generator, length: int) -> np.ndarray:
    """Steady hiss with the crackle of drops."""
    samples = _noise(rng, length, rng.uniform(700, 1200), 7500)
    drops = rng.integers(0, length, size=length * 60 // SAMPLE_RATE)
    crackle = np.zeros(length)
    crackle[drops] = rng.uniform(2, 5, size=len(drops)) * rng.choice((-1, 1), size=len(drops))
    decay = np.exp(-_seconds(64) * 900) * np.cos(2 * np.pi * 3200 * _seconds(64))
    return samples + np.convolve(crackle, decay)[:length]


def _bird(rng: np.random.Generator, length: int) -> np.ndarray:
    """Fast high chirps in groups."""
    samples, pitch, speed = np.zeros(length), rng.uniform(3200, 4000), rng.uniform(9, 13)
    for number, start in enumerate(_beats(rng, length, 1 / speed)):
        if number % 7 >= 5:  # a short rest after five chirps
            continue
        time = _seconds(round(rng.uniform(0.045, 0.065) * SAMPLE_RATE))
        share = time / time[-1]
        sweep = pitch * rng.uniform(0.92, 1.08) * (1 + 0.55 * (1 - share))
        _add(samples, start, np.sin(np.pi * share) * np.sin(_oscillator(sweep, len(time))))
    return samples


def _engine(rng: np.random.Generator, length: int) -> np.ndarray:
    """A rumble of low pulses over a rough murmur."""
    samples, rate = np.zeros(length), rng.uniform(22, 34)
    time = _seconds(SAMPLE_RATE * 6 // 100)
    body = rng.uniform(85, 115)
    pulse = np.exp(-60 * time) * (np.sin(2 * np.pi * body * time) + 0.5 * np.sin(2 * np.pi * 2.3 * body * time))
    for start in _beats(rng, length, 1 / rate):
        _add(samples, start, rng.uniform(0.75, 1) * pulse)
    return samples + 0.12 * _noise(rng, length, 60, 500)


def _harp(rng: np.random.Generator, length: int) -> np.ndarray:
    """Plucked strings running up and down a pentatonic scale."""
    samples, root = np.zeros(length), rng.uniform(240, 330)
    steps = (0, 2, 4, 7, 9, 12, 14, 16, 19, 21, 24)
    ladder = [*steps, *reversed(steps[1:-1])]
    first = int(rng.integers(0, len(ladder)))
    for number, start in enumerate(_beats(rng, length, rng.uniform(0.13, 0.19))):
        pitch = root * 2 ** (ladder[(first + number) % len(ladder)] / 12)
        time = _seconds(min(length - start, SAMPLE_RATE * 7 // 10))
        for harmonic in range(1, 5):
            decay = np.exp(-(3.5 + 2.5 * harmonic) * time) / harmonic
            _add(samples, start, decay * np.sin(2 * np.pi * pitch * harmonic * time))
    return samples


def _waves(rng: np.random.Generator, length: int) -> np.ndarray:
    """Soft low noise that swells and ebbs."""
    surf = _noise(rng, length, 60, rng.uniform(500, 800))
    foam = _noise(rng, length, 500, 2500)
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(0.7, 1.0) * _seconds(length) + rng.uniform(0, 1.5))
    return np.asarray(surf * (0.06 + swell**1.5) + 0.25 * foam * swell**3)


_MAKERS: MappingProxyType[str, _Maker] = MappingProxyType(
    {
        "bell": _bell,
        "siren": _siren,
        "drum": _drum,
        "whistle": _whistle,
        "horn": _horn,
        "buzzer": _buzzer,
        "clock": _clock,
        "rain": _rain,
        "bird": _bird,
        "engine": _engine,
        "harp": _harp,
        "waves": _waves,
    }
)
