"""Script -> waveform: speech in the foreground, sounds behind it, and a noise floor under both."""

from __future__ import annotations

import random

import numpy as np

from avocet.records import SAMPLE_RATE
from avocet.theatre.effects import make_sound
from avocet.theatre.script import Event, Script
from avocet.theatre.voice import speak

_EARLIEST_START_SECONDS, _LATEST_START_SECONDS = 0.05, 0.15
_END_GAP_SECONDS = 0.04
"""Sounds and speech end at least this long before their event does."""
_BEHIND_SPEECH_DECIBELS = (-14.0, -8.0)
"""How far below the speech's loudness (RMS) simultaneous sounds lie."""
_CEILING = 0.95


def render_waveform(script: Script) -> np.ndarray:
    """Everything that is heard: float32 (round(duration_seconds * 16000),), within [-1, 1].

    Raises `ConfigError` when a speech does not fit into its event, `MissingExtraError` without eSpeak NG.
    """
    length = round(script.duration_seconds * SAMPLE_RATE)
    mix = np.random.default_rng(random.Random(f"{script.id} floor").getrandbits(64)).standard_normal(
        length, dtype=np.float32
    )
    mix *= script.audio_noise
    speech_rms: dict[int, float] = {}
    for number, event in enumerate(script.events):
        if event.kind == "speech":
            rng = random.Random(f"{script.id} speech {number}")
            start, seconds = _slot(event, rng)
            samples = speak(event.utterance, event.speaker, rng.getrandbits(32), seconds) * rng.uniform(0.85, 1.05)
            speech_rms[event.beat] = float(np.sqrt(np.mean(samples**2)))
            _place(mix, start, samples)
    for number, event in enumerate(script.events):
        if event.kind == "sound":
            rng = random.Random(f"{script.id} sound {number}")
            start, seconds = _slot(event, rng)
            samples = make_sound(event.sound, seconds, rng.getrandbits(32))
            if event.beat in speech_rms:
                samples *= _duck(samples, speech_rms[event.beat], rng.uniform(*_BEHIND_SPEECH_DECIBELS))
            _place(mix, start, samples)
    peak = float(np.abs(mix).max(initial=0))
    return mix if peak <= _CEILING else mix * np.float32(_CEILING / peak)


def _slot(event: Event, rng: random.Random) -> tuple[float, float]:
    """When something heard begins, and how long it may last."""
    start = event.start_seconds + rng.uniform(_EARLIEST_START_SECONDS, _LATEST_START_SECONDS)
    return start, event.end_seconds - _END_GAP_SECONDS - start


def _duck(samples: np.ndarray, speech_rms: float, decibels: float) -> np.float32:
    """Factor that brings `samples` to `decibels` relative to the speech."""
    return np.float32(speech_rms * 10 ** (decibels / 20) / np.sqrt(np.mean(samples**2)))


def _place(mix: np.ndarray, start_seconds: float, samples: np.ndarray) -> None:
    first = round(start_seconds * SAMPLE_RATE)
    part = mix[first : first + len(samples)]
    part += samples[: len(part)]
