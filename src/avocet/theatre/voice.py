"""The theatre's speakers: eSpeak NG through ctypes, and what makes a robot or a giant of it.

eSpeak NG keeps the state of its pitch flutter and of its breath noise from one utterance to the next. So
that equal arguments give equal samples, every utterance is spoken by a freshly loaded library with a fixed
random seed. This costs about 4 ms and leaves no state behind that a forked process could inherit.
"""

from __future__ import annotations

import _ctypes
import ctypes
import dataclasses
import functools
import math
import random
import threading
from collections.abc import Callable
from fractions import Fraction
from types import MappingProxyType

import numpy as np

from avocet.errors import ConfigError, MissingExtraError
from avocet.records import SAMPLE_RATE
from avocet.theatre import world

SPEECH_PEAK = 0.5
"""Peak of what `speak` returns."""

_ESPEAK_RATE = 22_050
_MAX_WORDS_PER_MINUTE = 300
_MAX_RESAMPLING = 1.2
"""Speech that does not fit at the fastest rate may be played faster by this factor, which raises its pitch."""
_SILENCE = 0.02
"""Samples below this part of the peak are silence at the utterance's ends."""

# Constants of espeak-ng/speak_lib.h.
_OUTPUT_SYNCHRONOUS, _CHARS_UTF8 = 2, 1
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7

_Effect = Callable[[np.ndarray, random.Random], np.ndarray]
_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_LIBRARY_LOCK = threading.Lock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Voice:
    variant: str
    """Voice variant of eSpeak NG."""
    pitch: int
    """0..99, the middle of what this speaker uses."""
    pitch_range: int = 50
    words_per_minute: int = 175
    tape_speed: Fraction = Fraction(1)
    """Above 1 the recording is played faster: a smaller throat, a higher voice."""
    effect: _Effect | None = None


def _metallic(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """Ring modulation and a comb of 6 ms."""
    delay = round(0.006 * SAMPLE_RATE)
    time = np.arange(len(samples) + delay) / SAMPLE_RATE
    combed = np.pad(samples, (0, delay))
    combed[delay:] += 0.7 * samples
    return np.asarray(combed * (0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(62, 74) * time)))


def _creaky(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """A trembling pitch (+-5 %) and a rasp."""
    tremble, rasp = rng.uniform(5.5, 7), rng.uniform(27, 34)
    index = np.arange(len(samples), dtype=np.float64)
    seconds = index / SAMPLE_RATE
    warped = index + 0.05 * SAMPLE_RATE / (2 * np.pi * tremble) * np.sin(2 * np.pi * tremble * seconds)
    return np.asarray(np.interp(warped, index, samples) * (0.72 + 0.28 * np.sin(2 * np.pi * rasp * seconds)))


_VOICES: MappingProxyType[str, _Voice] = MappingProxyType(
    {
        "man": _Voice(variant="m3", pitch=45),
        "woman": _Voice(variant="f2", pitch=55),
        "child": _Voice(variant="f5", pitch=68, pitch_range=65, tape_speed=Fraction(6, 5)),
        "robot": _Voice(variant="m1", pitch=55, pitch_range=0, effect=_metallic),
        "giant": _Voice(variant="m7", pitch=22, pitch_range=35, words_per_minute=160, tape_speed=Fraction(4, 5)),
        "old woman": _Voice(variant="grandma", pitch=42, words_per_minute=165, effect=_creaky),
    }
)


def speak(text: str, speaker: str, seed: int, max_seconds: float) -> np.ndarray:
    """Speech without silence around it: float32 (S,), 16 kHz, peak `SPEECH_PEAK`.

    Args:
        text: what is said, in English.
        speaker: one of `world.SPEAKERS`.
        seed: varies pitch and tempo a little.
        max_seconds: the speech is spoken faster until it is no longer than this.

    Raises:
        ConfigError: for an unknown speaker, an empty text, or a text that does not fit even when spoken fast.
        MissingExtraError: when eSpeak NG is not installed.
    """
    if speaker not in _VOICES:
        raise ConfigError(f"unknown speaker {speaker!r}; the theatre has {', '.join(world.SPEAKERS)}")
    if not text.strip():
        raise ConfigError("cannot speak an empty text; give at least one word")
    if not max_seconds > 0:
        raise ConfigError(f"max_seconds must be above 0, got {max_seconds}")
    voice, rng = _VOICES[speaker], random.Random(f"{speaker} {seed}")
    pitch = voice.pitch + rng.randint(-7, 7)
    rate = voice.words_per_minute * rng.uniform(0.95, 1.1)
    samples = _utterance(text, voice, pitch, rate, seed)
    while (excess := len(samples) / SAMPLE_RATE / max_seconds) > 1 and rate < _MAX_WORDS_PER_MINUTE:
        rate = min(_MAX_WORDS_PER_MINUTE, rate * excess * 1.03)
        samples = _utterance(text, voice, pitch, rate, seed)
    if excess > _MAX_RESAMPLING:
        raise ConfigError(
            f"{text!r} takes the {speaker} {len(samples) / SAMPLE_RATE:.2f} s even at {rate:.0f} words per minute, "
            f"but only {max_seconds:.2f} s are free; shorten the text or give it more time"
        )
    if excess > 1:
        samples = _resample(samples, math.ceil(SAMPLE_RATE * excess))[: int(max_seconds * SAMPLE_RATE)]
    return np.asarray(samples * (SPEECH_PEAK / np.abs(samples).max()), np.float32)


def _utterance(text: str, voice: _Voice, pitch: int, words_per_minute: float, seed: int) -> np.ndarray:
    """Trimmed speech at 16 kHz as the speaker sounds, of any scale."""
    raw = _synthesise(text, voice, pitch, round(words_per_minute / voice.tape_speed))
    samples = _trim(_resample(raw, int(_ESPEAK_RATE * voice.tape_speed)))
    if voice.effect is None:
        return samples
    return _trim(voice.effect(samples, random.Random(f"effect {seed}")))


@functools.cache
def _library_and_data() -> tuple[str, str]:
    try:
        import espeakng_loader
    except ImportError as error:
        raise MissingExtraError("theatre speech", "theatre") from error
    return str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())


def _synthesise(text: str, voice: _Voice, pitch: int, words_per_minute: int) -> np.ndarray:
    """Samples of eSpeak NG at 22.05 kHz, full scale 1."""
    library_path, data_path = _library_and_data()
    pieces: list[np.ndarray] = []

    def collect(samples: ctypes._Pointer[ctypes.c_short], count: int, events: int | None) -> int:
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    # Held in a variable: the library must not outlive its callback.
    callback = _SYNTH_CALLBACK(collect)
    settings = {_RATE: words_per_minute, _PITCH: pitch, _RANGE: voice.pitch_range, _WORD_GAP: 0}
    with _LIBRARY_LOCK:
        library = ctypes.CDLL(library_path)
        try:
            opened = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, data_path.encode(), 0)
            assert opened == _ESPEAK_RATE, f"eSpeak NG did not start with its data in {data_path} (code {opened})"
            # Initialising seeds the breath noise with the clock.
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            library.espeak_SetSynthCallback(callback)
            # The file name of the voice; the name "en-us" would make the library read all its voice files first.
            status = library.espeak_SetVoiceByName(f"gmw/en-US+{voice.variant}".encode())
            assert status == 0, f"eSpeak NG has no voice variant {voice.variant!r}"
            for parameter, value in settings.items():
                library.espeak_SetParameter(parameter, value, 0)
            encoded = text.encode() + b"\0"
            status = library.espeak_Synth(encoded, len(encoded), 0, 0, 0, _CHARS_UTF8, None, None)
            assert status == 0, f"eSpeak NG refused to speak {text!r} (code {status})"
            library.espeak_Terminate()
        finally:
            _unload(library)
    if not pieces:
        raise ConfigError(f"{text!r} has nothing to speak; give at least one word")
    return np.concatenate(pieces) / 32_768


def _unload(library: ctypes.CDLL) -> None:
    unload = getattr(_ctypes, "dlclose", None) or getattr(_ctypes, "FreeLibrary", None)
    assert unload is not None, "ctypes can neither dlclose nor FreeLibrary"
    unload(library._handle)


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """From `rate` to 16 kHz by cutting the spectrum, with a soft edge below the lower Nyquist frequency."""
    ratio = Fraction(rate, SAMPLE_RATE)
    # Padding to a multiple of the ratio keeps the pitch exact; its zeros keep the end from wrapping to the start.
    blocks = -(-(len(samples) + rate // 50) // ratio.numerator)
    padded, resampled = blocks * ratio.numerator, blocks * ratio.denominator
    spectrum = np.fft.rfft(samples, padded)
    kept = min(padded, resampled) // 2 + 1
    edge = max(1, kept // 25)
    spectrum = spectrum[:kept]
    spectrum[-edge:] *= np.cos(np.linspace(0, np.pi / 2, edge)) ** 2
    length = int(len(samples) / ratio)
    return np.asarray(np.fft.irfft(spectrum, resampled)[:length] * (resampled / padded))


def _trim(samples: np.ndarray) -> np.ndarray:
    loud = np.flatnonzero(np.abs(samples) > _SILENCE * np.abs(samples).max())
    margin = SAMPLE_RATE // 100
    return samples[max(0, loud[0] - margin) : loud[-1] + margin]
