import hashlib
import subprocess
import sys

import numpy as np
import pytest

from avocet.errors import ConfigError, MissingExtraError
from avocet.theatre import voice, world
from avocet.theatre.voice import speak

RATE = 16_000
SENTENCE = "Anna lost three golden umbrellas tonight"


def _pitches(samples: np.ndarray) -> list[float]:
    """Fundamental in Hz of each loud voiced window of 64 ms, by autocorrelation."""
    pitches = []
    for first in range(0, len(samples) - 1024, 512):
        window = samples[first : first + 1024].astype(float)
        window = window - window.mean()
        correlation = np.correlate(window, window, "full")[1023:]
        low, high = RATE // 450, RATE // 50
        lag = low + int(correlation[low:high].argmax())
        if window.std() > 0.02 and correlation[lag] > 0.5 * correlation[0]:
            pitches.append(RATE / lag)
    return pitches


def _pitch(samples: np.ndarray) -> float:
    return float(np.median(_pitches(samples)))


def _brightness(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples))
    return float((spectrum * np.fft.rfftfreq(len(samples), 1 / RATE)).sum() / spectrum.sum())


@pytest.mark.parametrize("speaker", world.SPEAKERS)
def test_speech_is_deterministic_whatever_was_said_before(speaker: str):
    first = speak(SENTENCE, speaker, 5, 3.0)
    speak("meet Ben at the harbor Sunday", world.SPEAKERS[0], 9, 3.0)
    assert np.array_equal(first, speak(SENTENCE, speaker, 5, 3.0))
    assert not np.array_equal(first, speak(SENTENCE, speaker, 6, 3.0))
    assert first.dtype == np.float32
    assert np.abs(first).max() == pytest.approx(voice.SPEECH_PEAK)
    assert 1.2 < len(first) / RATE < 2.8
    # Trimmed: both ends begin to sound within 20 ms.
    assert np.abs(first[:320]).max() > 0.009
    assert np.abs(first[-320:]).max() > 0.009


def test_speech_is_the_same_in_another_process():
    code = (
        "import hashlib; from avocet.theatre.voice import speak; "
        f"print(hashlib.sha256(speak({SENTENCE!r}, 'woman', 5, 3.0).tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == hashlib.sha256(speak(SENTENCE, "woman", 5, 3.0).tobytes()).hexdigest()


def test_the_six_voices_differ_in_pitch_and_colour():
    spoken = {
        speaker: [speak(SENTENCE, speaker, seed, 3.0) for seed in range(5)] for speaker in ("man", "woman", "child")
    }
    pitch = {speaker: [_pitch(samples) for samples in all_samples] for speaker, all_samples in spoken.items()}
    giant = [_pitch(speak(SENTENCE, "giant", seed, 3.0)) for seed in range(5)]
    assert max(giant) < min(pitch["man"])
    assert max(pitch["man"]) < min(pitch["woman"])
    assert max(pitch["woman"]) < min(pitch["child"])
    old = [_brightness(speak(SENTENCE, "old woman", seed, 3.0)) for seed in range(5)]
    assert max(old) < min(_brightness(samples) for samples in spoken["woman"])


def test_a_robot_speaks_on_one_note():
    # Heard before its effect: the middle half of the robot's pitches spans a few Hz, a man's sentence falls.
    spans = {}
    for name in ("robot", "man"):
        kind = voice._VOICES[name]
        pitches = _pitches(voice._resample(voice._synthesise(SENTENCE, kind, kind.pitch, 170), 22_050))
        spans[name] = np.subtract(*np.percentile(pitches, [75, 25]))
    assert spans["robot"] < 0.5 * spans["man"]


def test_speech_is_hurried_until_it_fits():
    free = len(speak(SENTENCE, "giant", 1, 5.0)) / RATE
    for max_seconds in (0.8 * free, 0.65 * free):
        assert len(speak(SENTENCE, "giant", 1, max_seconds)) / RATE <= max_seconds


def test_speech_that_can_never_fit_is_refused():
    with pytest.raises(
        ConfigError, match=r"takes the man .* s even at 300 words per minute, but only 0\.50 s are free"
    ):
        speak(SENTENCE, "man", 1, 0.5)


def test_wrong_arguments_are_named():
    with pytest.raises(ConfigError, match="unknown speaker 'dog'; the theatre has man, woman"):
        speak(SENTENCE, "dog", 1, 3.0)
    with pytest.raises(ConfigError, match="empty text"):
        speak("  ", "man", 1, 3.0)
    with pytest.raises(ConfigError, match="max_seconds must be above 0, got 0"):
        speak(SENTENCE, "man", 1, 0)


def test_a_missing_synthesiser_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    voice._library_and_data.cache_clear()
    with pytest.raises(MissingExtraError, match=r"theatre speech .* pip install 'avocet\[theatre\]'"):
        speak(SENTENCE, "man", 1, 3.0)


@pytest.mark.parametrize("rate", [22_050, 26_460, 17_640, 17_000])
def test_resampling_keeps_pitch_level_and_time(rate: int):
    time = np.arange(rate) / rate
    tone = np.sin(2 * np.pi * 1000 * time)
    expected = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    assert voice._resample(tone, rate)[500:-500] == pytest.approx(expected[500:-500], abs=5e-3)


def test_resampling_removes_what_16_khz_cannot_hold():
    tone = np.sin(2 * np.pi * 9500 * np.arange(22_050) / 22_050)
    assert np.abs(voice._resample(tone, 22_050)[500:-500]).max() < 0.01
