import dataclasses

import numpy as np
import pytest

from avocet.errors import ConfigError
from avocet.theatre import world
from avocet.theatre.effects import make_sound
from avocet.theatre.script import Event, Script, make_script
from avocet.theatre.sound import render_waveform

RATE = 16_000


def _script(*events: Event, audio_noise: float = 0.001) -> Script:
    return Script(
        seed=3,
        level=2,
        duration_seconds=5.0,
        events=events,
        background="black",
        camera_noise=0.0,
        camera_shake_pixels=0.0,
        audio_noise=audio_noise,
    )


def _event(kind: str, start: float, end: float, **attributes: str) -> Event:
    return Event(kind=kind, beat=0, start_seconds=start, end_seconds=end, **attributes)


def _spectral_profile(samples: np.ndarray) -> np.ndarray:
    """Mean and spread over time of the log power in 40 bands of equal width on the mel scale."""
    floor = np.random.default_rng(0).standard_normal(len(samples)) * 1e-4
    frames = np.lib.stride_tricks.sliding_window_view(samples + floor, 400)[::160] * np.hanning(400)
    power = np.abs(np.fft.rfft(frames, 512)) ** 2
    mel = 2595 * np.log10(1 + np.fft.rfftfreq(512, 1 / RATE) / 700)
    band = np.minimum((mel / mel[-1] * 40).astype(int), 39)
    log_power = np.log(np.stack([power[:, band == number].sum(1) for number in range(40)], 1) + 1e-8)
    return np.concatenate([log_power.mean(0), log_power.std(0)])


@pytest.mark.parametrize("sound", world.SOUNDS)
def test_sounds_are_deterministic_varied_and_of_the_asked_length(sound: str):
    first = make_sound(sound, 1.7, 5)
    assert first.dtype == np.float32
    assert first.shape == (27_200,)
    assert np.array_equal(first, make_sound(sound, 1.7, 5))
    assert not np.array_equal(first, make_sound(sound, 1.7, 6))
    assert 0.1 < np.abs(first).max() <= 0.5
    # It fills its time: something is heard in the last third, too.
    assert np.abs(first[-9000:]).max() > 0.02
    assert np.isfinite(make_sound(sound, 0.1, 1)).all()


def test_the_nearest_centroid_of_the_spectrum_names_every_sound():
    centroids = np.stack(
        [np.mean([_spectral_profile(make_sound(s, 1.5, seed)) for seed in range(6)], 0) for s in world.SOUNDS]
    )
    for number, sound in enumerate(world.SOUNDS):
        for seed in range(100, 106):
            distances = np.abs(centroids - _spectral_profile(make_sound(sound, 1.6, seed))).sum(1)
            assert distances.argmin() == number, (sound, seed)


def test_unknown_sounds_and_too_short_ones_are_refused():
    with pytest.raises(ConfigError, match="unknown sound 'piano'; the theatre has bell, siren"):
        make_sound("piano", 1.0, 0)
    with pytest.raises(ConfigError, match=r"at least 0.1 s, got 0.05"):
        make_sound("bell", 0.05, 0)


def test_a_script_without_sound_still_has_its_noise_floor():
    waveform = render_waveform(_script(audio_noise=0.004))
    assert waveform.shape == (80_000,)
    assert waveform.std() == pytest.approx(0.004, rel=0.02)


def test_sounds_play_inside_their_events_only():
    waveform = render_waveform(_script(_event("sound", 1.0, 2.5, sound="buzzer"), audio_noise=0.0))
    heard = np.flatnonzero(np.abs(waveform) > 0.01) / RATE
    assert 1.05 <= heard[0] <= 1.17
    assert 2.4 <= heard[-1] < 2.5


def test_speech_stands_in_front_of_a_simultaneous_sound():
    speech = _event("speech", 0.5, 3.5, speaker="man", utterance="Anna lost three golden umbrellas")
    siren = _event("sound", 0.5, 3.5, sound="siren")
    # Event numbers seed the variation, so the speech must stay first.
    only_speech = render_waveform(_script(speech, audio_noise=0.0))
    both = render_waveform(_script(speech, siren, audio_noise=0.0))
    behind = both - only_speech
    spoken = only_speech[np.abs(only_speech) > 0]
    ratio = 20 * np.log10(np.sqrt(np.mean(behind[behind != 0] ** 2)) / np.sqrt(np.mean(spoken**2)))
    assert -14.2 <= ratio <= -7.8
    assert 0.4 <= np.abs(only_speech).max() <= 0.55


@pytest.mark.parametrize("level", [1, 2])
def test_whole_scripts_are_deterministic_and_never_clip(level: int):
    for seed in range(12):
        script = make_script(seed, level)
        waveform = render_waveform(script)
        assert waveform.dtype == np.float32
        assert waveform.shape == (round(script.duration_seconds * RATE),)
        assert np.abs(waveform).max() <= 0.95
        if seed < 3:
            assert np.array_equal(waveform, render_waveform(dataclasses.replace(script)))


def test_many_loud_sounds_at_once_are_scaled_down_together():
    events = [_event("sound", 0.0, 5.0, sound=sound) for sound in world.SOUNDS]
    assert np.abs(render_waveform(_script(*events))).max() == pytest.approx(0.95, abs=1e-4)
