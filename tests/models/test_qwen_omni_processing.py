from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from avocet.errors import ConfigError, LayoutError
from avocet.models.patches import patchify, resize_frames
from avocet.models.qwen_omni.config import FAMILIES, QWEN3, QWEN25, SETTINGS, ReadingSettings
from avocet.models.qwen_omni.processing import log_mel, patch_times, plan_size
from avocet.models.qwen_omni.towers import Sizes, num_audio_tokens
from avocet.models.registry import ModelOptions

AVOCADO = SETTINGS["avocado"]
HEIGHTS = [*range(20, 1200, 59), 56, 112, 224, 448, 1080, 2160]
WIDTHS = [*range(20, 2000, 97), 28, 640, 1280, 1920, 3840]


@pytest.mark.parametrize(("factor", "settings"), [(28, AVOCADO), (28, ReadingSettings()), (32, ReadingSettings())])
@pytest.mark.parametrize("num_frames", [1, 2, 60, 100, 256, 400, 600])
def test_sizes_are_those_of_transformers_wherever_it_keeps_the_budget(factor, settings, num_frames):
    most = min(float(settings.max_patch_tokens), settings.max_video_tokens / -(-num_frames // 2))
    least = min(settings.min_patch_tokens, most)
    num_equal = 0
    for height, width in itertools.product(HEIGHTS, WIDTHS):
        size = plan_size(height, width, num_frames, factor, settings)
        budget = {"min_pixels": least * factor**2, "max_pixels": most * factor**2}
        theirs = smart_resize(height, width, factor=factor, **budget)
        if theirs[0] * theirs[1] <= most * factor**2:
            assert (size.height, size.width) == theirs, (height, width)
            num_equal += 1
        # Theirs enlarges small pictures past the maximum when minimum and maximum are close; ours never.
        assert size.height * size.width <= most * factor**2
    assert num_equal > 0.7 * len(HEIGHTS) * len(WIDTHS)


@pytest.mark.parametrize(
    ("seconds", "budget", "rows", "columns"),
    [
        # 2 frames per second make one temporal patch per second; 512 tokens a patch, 25,600 in all.
        (50, 512, 16, 30),  # 25,600 / 50 = 512: shrunk by sqrt(720 * 1280 / (512 * 784)) = 1.515, 16.97 x 30.17 tokens
        (60, 426, 15, 27),  # 426.7: by 1.660, 15.49 x 27.54
        (90, 284, 12, 22),  # 284.4: by 2.033, 12.65 x 22.49
        (100, 256, 12, 21),  # 256: by 2.143, 12.00 x 21.33
        (128, 200, 10, 18),  # 200: by 2.424, 10.61 x 18.86
        (300, 85, 6, 12),  # 85.3: by 3.712, 6.93 x 12.32; below the 128 of training, where the release keeps 134.4
    ],
)
def test_avocados_budget_holds_at_every_length(seconds, budget, rows, columns):
    size = plan_size(720, 1280, 2 * seconds, 28, AVOCADO)
    assert (size.height, size.width) == (28 * rows, 28 * columns)
    assert (size.num_patches, size.budget_tokens) == (seconds, budget)
    assert size.tokens_per_patch == rows * columns <= 512
    # The released scripts reach 40,319 tokens at 300 s; with the budget left out by mistake, 115,200.
    assert size.num_tokens == seconds * rows * columns <= 25_600


@given(
    height=st.integers(1, 4000),
    aspect=st.floats(1 / 200, 200),
    num_frames=st.integers(1, 900),
    least=st.integers(1, 200),
    more=st.integers(0, 700),
    total=st.integers(450, 30_000),
)
def test_no_picture_exceeds_the_budget(height, aspect, num_frames, least, more, total):
    width = round(height * aspect)
    if not 1 <= width <= 8000 or max(height, width) > 200 * min(height, width):
        return
    settings = ReadingSettings(min_patch_tokens=least, max_patch_tokens=least + more, max_video_tokens=total)
    size = plan_size(height, width, num_frames, 28, settings)
    assert (size.height % 28, size.width % 28) == (0, 0)
    assert size.tokens_per_patch == size.height * size.width // 784 >= 1
    assert size.tokens_per_patch <= size.budget_tokens <= settings.max_patch_tokens
    assert size.num_patches == (num_frames + 1) // 2
    assert size.num_tokens <= total


def test_extreme_shapes():
    # 5600 x 28 is one row of 200 tokens; a budget of 150 cuts the row.
    settings = ReadingSettings(min_patch_tokens=1, max_patch_tokens=150)
    assert (plan_size(28, 5600, 1, 28, settings).height, plan_size(28, 5600, 1, 28, settings).width) == (28, 150 * 28)
    assert plan_size(5600, 28, 1, 28, settings).tokens_per_patch == 150
    with pytest.raises(LayoutError, match=r"aspect ratio of 1:201 \(limit 1:200\)"):
        plan_size(1, 201, 1, 28, settings)


def test_small_pictures_are_enlarged_to_the_minimum():
    # 56 x 112 is 2 x 4 tokens; 128 tokens need a factor of 4: 8 x 16.
    assert plan_size(56, 112, 2, 28, ReadingSettings()).tokens_per_patch == 128
    assert plan_size(56, 112, 2, 28, ReadingSettings(min_patch_tokens=8)).tokens_per_patch == 8
    # 512 patches leave 50 tokens each: 5 x 10.
    assert plan_size(56, 112, 1024, 28, ReadingSettings()).tokens_per_patch == 50


def test_more_patches_than_tokens():
    settings = ReadingSettings(max_video_tokens=100)
    assert plan_size(720, 1280, 200, 28, settings).num_tokens == 100
    with pytest.raises(LayoutError, match="101 temporal patches do not fit into max_video_tokens=100; sample fewer"):
        plan_size(720, 1280, 201, 28, settings)


def naive_patches(pixels: np.ndarray, patch: int, merge: int) -> np.ndarray:
    """(T, 3, H, W) with even T -> one row per patch, merged tokens after each other, channel before frame."""
    time, _, height, width = pixels.shape
    rows = []
    side = patch * merge
    for t, y, x, inner_y, inner_x in itertools.product(
        range(0, time, 2), range(0, height, side), range(0, width, side), range(merge), range(merge)
    ):
        top, left = y + inner_y * patch, x + inner_x * patch
        block = pixels[t : t + 2, :, top : top + patch, left : left + patch]
        rows.append([block[frame, c].ravel() for c in range(3) for frame in range(2)])
    return np.array(rows).reshape(len(rows), -1)


@pytest.mark.parametrize("kind", [QWEN25, QWEN3])
def test_patches_by_a_slow_loop(kind):
    frames = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 12), dtype=np.uint8)
    mean, std = (np.array(values)[:, None, None] for values in (kind.image_mean, kind.image_std))
    even = np.concatenate([frames, frames[-1:]])
    expected = naive_patches((even / 255 - mean) / std, 2, 2)
    patches, grid = patchify(torch.from_numpy(frames), kind.image_mean, kind.image_std, 2, 2)
    assert grid == (2, 4, 6)
    assert patches.dtype == torch.float32
    np.testing.assert_allclose(patches.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "patch"), [(QWEN25, 14), (QWEN3, 16)])
def test_patches_are_those_of_transformers_image_processor(kind, patch):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4 * patch, 6 * patch), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(patch_size=patch, image_mean=kind.image_mean, image_std=kind.image_std)
    theirs = processor(Image.fromarray(pixels.transpose(1, 2, 0)), do_resize=False, return_tensors="pt")
    patches, grid = patchify(torch.from_numpy(pixels[None]), kind.image_mean, kind.image_std, patch, 2)
    assert theirs["image_grid_thw"].tolist() == [list(grid)]
    torch.testing.assert_close(patches, theirs["pixel_values"], atol=1e-5, rtol=1e-5)


def test_resizing():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 60, 90), dtype=np.uint8)
    assert np.array_equal(resize_frames(frames, 60, 90).numpy(), frames)
    for height, width in ((28, 56), (84, 112)):
        ours = resize_frames(frames, height, width).numpy()
        assert ours.dtype == np.uint8
        for frame, small in zip(frames, ours, strict=True):
            picture = Image.fromarray(frame.transpose(1, 2, 0)).resize((width, height), Image.Resampling.BICUBIC)
            difference = np.asarray(picture).astype(int) - small.transpose(1, 2, 0)
            assert np.abs(difference).max() <= 2


def test_a_patch_begins_with_its_first_frame():
    assert patch_times(np.array([0.0, 0.5, 1.0, 1.5, 2.0])).tolist() == [0.0, 1.0, 2.0]
    assert patch_times(np.zeros(0)).tolist() == []


def noise(num_samples: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, num_samples).astype(np.float32)


def whisper_mel(waveform: np.ndarray, chunk_length: int, **arguments) -> torch.Tensor:
    """(bins, frames of real sound) of transformers' extractor, without a cut at 30 s."""
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=chunk_length, return_attention_mask=True)
    output = extractor(waveform, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True, **arguments)
    mask = output["attention_mask"][0]
    mel = output["input_features"][0]
    # At the largest length transformers 5 gives a mask of samples instead of frames.
    return mel[:, : int(mask.sum())] if len(mask) == mel.shape[1] else mel


# 31.234 s is not a whole number of mel frames, and longer than Whisper's 30 s.
LENGTHS = [400, 16_000, 30 * 16_000, round(31.234 * 16_000)]


@pytest.mark.parametrize("num_samples", LENGTHS)
def test_spectrogram_over_sound_and_silence(num_samples):
    waveform = noise(num_samples)
    mel = log_mel(waveform, 128, pad=True)
    assert mel.shape == (128, -(-num_samples // 160))
    torch.testing.assert_close(mel, whisper_mel(waveform, 60, padding="max_length"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_samples", LENGTHS)
def test_spectrogram_over_the_sound_alone(num_samples):
    waveform = noise(num_samples)
    mel = log_mel(waveform, 128, pad=False)
    assert mel.shape == (128, num_samples // 160)
    theirs = whisper_mel(waveform, 60, padding="longest", truncation=False)
    torch.testing.assert_close(mel, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pad", [True, False])
def test_sound_over_five_minutes_is_not_cut(pad):
    waveform = noise(301 * 16_000)
    mel = log_mel(waveform, 128, pad=pad)
    assert mel.shape == (128, 30_100)
    end = log_mel(waveform[-3 * 16_000 :], 128, pad=pad)
    # Spectrograms are floored 8 below their maximum, which noise never reaches: the end is as it is alone.
    torch.testing.assert_close(mel[:, -290:], end[:, -290:], atol=1e-5, rtol=1e-5)


def test_the_two_spectrograms_differ_only_at_the_end_of_the_sound():
    padded, mirrored = (log_mel(noise(16_000), 128, pad=pad) for pad in (True, False))
    different = (padded - mirrored).abs().amax(0) > 1e-4
    # The window of 400 samples around sample 160 * 99 reaches over the end at 16,000.
    assert different.nonzero().flatten().tolist() == [99]


@pytest.mark.parametrize(
    ("num_samples", "padded", "alone"), [(1, 1, 0), (159, 1, 0), (160, 1, 1), (200, 2, 1), (201, 2, 1), (399, 3, 2)]
)
def test_sound_shorter_than_a_window(num_samples, padded, alone):
    assert log_mel(noise(num_samples), 128, pad=True).shape == (128, padded)
    assert log_mel(noise(num_samples), 128, pad=False).shape == (128, alone)


def test_silence_is_finite():
    # log10(1e-10) = -10, so (-10 + 4) / 4 = -1.5 everywhere.
    mel = log_mel(np.zeros(1000, np.float32), 128, pad=True)
    torch.testing.assert_close(mel, torch.full_like(mel, -1.5))


@pytest.mark.parametrize(
    ("kind", "num_mel_frames", "tokens"),
    [
        # Halved rounding up, then pooled in pairs: 4 mel frames, 40 ms, to a token.
        (QWEN25, 1, 0),
        (QWEN25, 3, 1),
        (QWEN25, 6, 1),
        (QWEN25, 7, 2),
        (QWEN25, 100, 25),
        (QWEN25, 30_000, 7500),
        # Chunks of 100 mel frames to 50, 25, 13 tokens; a rest is halved three times rounding up.
        (QWEN3, 0, 0),
        (QWEN3, 1, 1),
        (QWEN3, 8, 1),
        (QWEN3, 9, 2),
        (QWEN3, 100, 13),
        (QWEN3, 101, 14),
        (QWEN3, 30_000, 3900),
    ],
)
def test_numbers_of_audio_tokens(kind, num_mel_frames, tokens):
    sizes = Sizes(patch=14, merge=2, num_mel_bins=128, mel_chunk=100)
    assert num_audio_tokens(num_mel_frames, kind, sizes) == tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": 0.0}, "fps must be a finite number > 0, got 0"),
        ({"fps": float("inf")}, "fps must be a finite number > 0, got inf"),
        ({"fps": float("nan")}, "fps must be a finite number > 0, got nan"),
        ({"max_frames": 0}, "max_frames must be >= 1, got 0"),
        ({"max_video_tokens": 0}, "max_video_tokens must be >= 1, got 0"),
        ({"max_new_tokens": -1}, "max_new_tokens must be >= 1, got -1"),
        ({"layout": "mine"}, "layout must be one of tmrope, released, got 'mine'"),
        ({"min_patch_tokens": 800}, "min_patch_tokens 800 is above max_patch_tokens 768"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(ReadingSettings(), **changes)


def test_options_change_settings():
    options = ModelOptions(layout="released", fps=1.0, max_frames=64, patch_pixels=100 * 784 + 783, total_pixels=7840)
    changed = ReadingSettings().changed(options, 784)
    assert (changed.layout, changed.fps, changed.max_frames) == ("released", 1.0, 64)
    # Whole tokens, rounded down; the minimum gives way to a smaller maximum.
    assert (changed.max_patch_tokens, changed.max_video_tokens, changed.min_patch_tokens) == (100, 10, 100)
    assert ReadingSettings().changed(ModelOptions(), 784) == ReadingSettings()
    with pytest.raises(ConfigError, match="total_pixels must be at least one token's 784, got 783"):
        ReadingSettings().changed(ModelOptions(total_pixels=783), 784)


def test_settings_of_the_papers():
    # AVoCaDO, appendix C: 2 frames per second, 512 x 28 x 28 pixels a patch, 25,600 x 28 x 28 in all.
    assert (AVOCADO.fps, AVOCADO.max_patch_tokens, AVOCADO.max_video_tokens) == (2.0, 512, 25_600)
    # qwen-omni-utils: 768 x 28 x 28 a patch at most, 128 x 28 x 28 at least.
    assert (ReadingSettings().max_patch_tokens, ReadingSettings().min_patch_tokens) == (768, 128)
    assert ReadingSettings.from_json(AVOCADO.to_json_line()) == AVOCADO
    assert {kind.name for kind in FAMILIES.values()} == {"qwen2.5-omni", "qwen3-omni"}
