from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from avocet.errors import ConfigError
from avocet.models.salmonn2 import Salmonn2Config, processing


@pytest.fixture(scope="module")
def paper() -> Salmonn2Config:
    return Salmonn2Config.paper_7b()


@pytest.mark.parametrize("seconds", [0.05, 3.3, 30.0])
def test_log_mel_is_whispers(paper, seconds):
    waveform = np.random.default_rng(0).normal(0, 0.1, round(seconds * 16_000)).astype(np.float32)
    extractor = WhisperFeatureExtractor(feature_size=128)
    expected = extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_features[0]
    mel = processing.log_mel(waveform, paper)
    assert mel.shape == (128, 3000)
    torch.testing.assert_close(mel, expected, atol=1e-5, rtol=1e-5)


def test_segments_are_computed_one_by_one(paper):
    waveform = np.random.default_rng(0).normal(0, 0.1, 16_000 * 70).astype(np.float32)
    waveform[16_000 * 30 : 16_000 * 60] *= 0.001  # a quiet segment is scaled by its own maximum
    mel = processing.log_mel(waveform, paper)
    assert mel.shape == (128, 9000)
    torch.testing.assert_close(mel[:, 3000:6000], processing.log_mel(waveform[480_000:960_000], paper))


@pytest.mark.parametrize(
    ("num_samples", "windows"),
    [(1, 1), (3200, 1), (3201, 2), (16_000, 5), (96_001, 31)],  # a window is 0.2 s = 3200 samples
)
def test_real_length_in_whole_windows(num_samples, windows):
    nano = Salmonn2Config.nano(300)
    assert processing.num_audio_windows(num_samples, nano.audio) == windows
    # 0.2 s are 10 mel frames at hop 320, and 5 encoder frames.
    assert processing.log_mel(np.zeros(num_samples, np.float32), nano).shape == (64, 10 * windows)
    assert nano.audio.window_frames == 5


def test_silence_is_finite(paper):
    # log10(1e-10) = -10, so (-10 + 4) / 4 = -1.5 everywhere.
    mel = processing.log_mel(np.zeros(100, np.float32), paper)
    torch.testing.assert_close(mel, torch.full_like(mel, -1.5))


def test_refused_waveforms():
    nano = Salmonn2Config.nano(300)
    with pytest.raises(ConfigError, match="at least one sample"):
        processing.log_mel(np.zeros(0, np.float32), nano)
    # 8 segments of 12 s are 96 s.
    assert processing.log_mel(np.zeros(96 * 16_000, np.float32), nano).shape == (64, 96 * 50)
    with pytest.raises(ConfigError, match=r"9 segments of 12 s, the model has positions for 8 \(96 s\)"):
        processing.log_mel(np.zeros(96 * 16_000 + 1, np.float32), nano)


def test_frames_are_squared_and_normalised():
    frames = np.zeros((2, 3, 20, 40), np.uint8)
    frames[1] = 255
    resized = processing.resize_frames(frames, 16)
    assert (resized.dtype, tuple(resized.shape)) == (torch.uint8, (2, 3, 16, 16))
    assert resized[0].unique().tolist() == [0]
    assert resized[1].unique().tolist() == [255]
    normal = processing.normalise_frames(torch.tensor([0, 51, 255], dtype=torch.uint8), torch.float32)
    torch.testing.assert_close(normal, torch.tensor([-1.0, -0.6, 1.0]))


def test_frames_of_the_right_size_are_untouched_and_none_stay_none():
    frames = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    np.testing.assert_array_equal(processing.resize_frames(frames, 16).numpy(), frames)
    assert processing.resize_frames(np.zeros((0, 3, 20, 40), np.uint8), 16).shape == (0, 3, 16, 16)


def test_shrinking_antialiases():
    # One-pixel stripes become their mean instead of one of the two colours.
    frames = np.zeros((1, 3, 64, 64), np.uint8)
    frames[..., ::2] = 200
    resized = processing.resize_frames(frames, 8)[..., 2:-2]
    assert int((resized.int() - 100).abs().max()) <= 4


def test_padding_only_matters_for_the_length(paper):
    short = dataclasses.replace(paper, audio=dataclasses.replace(paper.audio, pad_segments=False))
    waveform = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    mel = processing.log_mel(waveform, short)
    assert mel.shape == (128, 100)
    # All but the last frames, whose FFT window reaches into the padding, agree.
    torch.testing.assert_close(mel[:, :98], processing.log_mel(waveform, paper)[:, :98], atol=1e-5, rtol=1e-5)
