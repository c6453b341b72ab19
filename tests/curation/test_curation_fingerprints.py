"""Hashes by hand, their comparison, and what re-encoding does to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from curation_media import encode_again

from avocet.curation.fingerprints import (
    best_match,
    count_bits,
    decode_hashes,
    encode_hashes,
    picture_hashes,
    sound_hashes,
)
from avocet.curation.picture_measures import block_means, measure_pictures
from avocet.curation.sound_measures import levels_dbfs, measure_sound
from avocet.errors import RecordError
from avocet.media import open_clip


def grey(picture: np.ndarray) -> np.ndarray:
    """(H, W) to (1, 3, H, W)."""
    return np.broadcast_to(picture.astype(np.uint8), (1, 3, *picture.shape))


def test_block_means_by_hand() -> None:
    picture = np.arange(12, dtype=np.float32).reshape(3, 4)
    # Rows 0 | 1-2 and columns 0-1 | 2-3.
    assert block_means(picture, 2, 2).tolist() == [[0.5, 2.5], [6.5, 8.5]]
    assert block_means(picture[:1, :2], 2, 3).tolist() == [[0, 0, 1], [0, 0, 1]]


def test_a_picture_hash_by_hand() -> None:
    # 9 columns of one block each: brighter, brighter, darker, equal, then by 1 level only, and brighter at the end.
    columns = np.array([10, 20, 30, 15, 15, 16, 16, 16, 200])
    picture = np.repeat(np.repeat(columns[None], 8, axis=0), 4, axis=0).repeat(4, axis=1)
    expected = int.from_bytes(bytes([0b11000001] * 8), "big")
    assert picture_hashes(grey(picture)).tolist() == [expected]


def test_pictures_without_edges_have_no_hash() -> None:
    flat, noise = np.full((72, 128), 90), np.random.default_rng(0).integers(89, 92, (72, 128))
    falling = np.repeat(np.linspace(250, 10, 9).repeat(8)[None], 64, axis=0)
    hashes = [int(picture_hashes(grey(picture))[0]) for picture in (flat, noise, falling)]
    assert hashes == [0, 0, 1], "a picture that only darkens to the right has edges: not the hash of nothing"
    assert len(picture_hashes(np.zeros((0, 3, 0, 0), np.uint8))) == 0


def test_sound_hashes_count_windows_and_leave_silence_out() -> None:
    rng = np.random.default_rng(1)
    noise = (0.1 * rng.standard_normal(48_000)).astype(np.float32)
    # Windows of 8192 samples every 2000: floor((48000 - 8192) / 2000) + 1 = 20, and a hash for each but the first.
    hashes = sound_hashes(noise)
    assert (len(hashes), np.count_nonzero(hashes)) == (19, 19)
    assert np.array_equal(sound_hashes(0.25 * noise), hashes), "loudness is not part of it"
    assert np.count_nonzero(sound_hashes(1e-4 * noise)) == 0
    assert len(sound_hashes(noise[:9000])) == 0


def test_bits_and_shifts_by_hand() -> None:
    a = np.array([0b1111, 0b1010, 0b0001, 0b1000], np.uint32)
    assert count_bits(a) == 4 + 2 + 1 + 1
    b = np.array([7, *a.tolist()], np.uint32)
    match = best_match(a, b, max_shift=2, min_steps=2)
    assert match is not None
    assert (match.distance, match.shift_steps, match.num_steps) == (0.0, 1, 4)
    back = best_match(b, a, max_shift=2, min_steps=2)
    assert back is not None
    assert back.shift_steps == -1
    # Unshifted: 1111^0111, 1010^1111, 0001^1010, 1000^0001 differ in 1 + 2 + 3 + 2 of 128 bits.
    still = best_match(a, b, max_shift=0, min_steps=1)
    assert still is not None
    assert still.distance == 8 / 128
    assert best_match(a, b, max_shift=2, min_steps=5) is None
    assert best_match(a, b, max_shift=0, min_steps=1, min_overlap=0.9) is None, "4 of 5 steps are too few"
    zeros = best_match(a, np.zeros(4, np.uint32), max_shift=1, min_steps=1)
    assert zeros is None


def test_hashes_travel_as_text() -> None:
    for kind in (np.uint64, np.uint32):
        hashes = np.array([1, 2**31, 0], kind)
        assert encode_hashes(hashes) == encode_hashes(hashes.astype(hashes.dtype.newbyteorder(">")))
        assert decode_hashes(encode_hashes(hashes), kind).tolist() == hashes.tolist()
    for wrong in ("AA", "!!", None, "AAAA"):
        with pytest.raises(RecordError, match="not a sequence of uint64 hashes"):
            decode_hashes(wrong, np.uint64)


def test_reencoding_changes_less_than_another_play(tmp_path: Path, stage_play: Callable[..., Path]) -> None:
    def prints(path: Path) -> tuple[np.ndarray, np.ndarray]:
        clip = open_clip(path, fps=2.0, max_pixels=9216)
        assert clip.waveform is not None
        return picture_hashes(clip.frames), sound_hashes(clip.waveform)

    original = prints(stage_play(0))
    copies = [
        prints(encode_again(stage_play(0), tmp_path / "low.mp4")),
        prints(encode_again(stage_play(0), tmp_path / "late.mp4", skip_seconds=0.375, gain=0.5)),
    ]
    for copy in copies:
        picture, sound = (best_match(a, b, max_shift=16, min_steps=3) for a, b in zip(original, copy, strict=True))
        assert picture is not None
        assert sound is not None
        assert picture.distance < 0.16
        assert sound.distance < 0.25
    for seed in (2, 4, 6):
        other = best_match(original[1], prints(stage_play(seed))[1], max_shift=16, min_steps=8)
        assert other is not None
        assert other.distance > 0.35


def test_picture_measures_by_hand() -> None:
    frames = np.zeros((4, 3, 32, 32), np.uint8)
    frames[2:, :, 8:12, 8:12] = 255  # one of 64 blocks appears in the third frame, and stays
    measures = measure_pictures(frames)
    assert measures is not None
    # Luma: two frames with 16 of 1024 pixels at 255. The 99th percentile of 1.6 % white pixels is white.
    assert measures.luma_mean == pytest.approx(255 * 16 / 1024 / 2, abs=1e-3)
    assert (measures.black_share, measures.static_share, measures.motion_mean) == (0.5, 0.6667, 85.0)
    single = measure_pictures(frames[:1])
    assert single is not None
    assert (single.static_share, single.motion_mean) == (1.0, 0.0)
    assert measure_pictures(frames[:0]) is None


def test_sound_measures_by_hand() -> None:
    square = np.where(np.arange(16_000) % 100 < 50, 0.5, -0.5).astype(np.float32)
    waveform = np.concatenate([square, np.zeros(48_000, np.float32)])
    measures = measure_sound(waveform)
    assert measures is not None
    # RMS 0.5 in a quarter of the time is 0.25: 20 log10(0.25) = -12.04.
    assert (measures.rms_dbfs, measures.peak_dbfs, measures.silent_share) == (-12.04, -6.02, 0.75)
    silence = measure_sound(np.zeros(100, np.float32))
    assert silence is not None
    assert (silence.rms_dbfs, silence.peak_dbfs, silence.silent_share) == (-120.0, -120.0, 1.0)
    assert measure_sound(waveform[:0]) is None
    assert levels_dbfs(waveform[: 16_000 + 900]).shape == (22,)


def test_speech_is_told_from_tones_noise_and_clicks(stage_play: Callable[..., Path]) -> None:
    seconds = np.arange(80_000) / 16_000
    others = {
        "tone": 0.3 * np.sin(2 * np.pi * 220 * seconds),
        "noise": 0.1 * np.random.default_rng(0).standard_normal(80_000),
        "clicks": 0.5 * (np.arange(80_000) % 8000 < 20),
        "silence": np.zeros(80_000),
    }
    for name, waveform in others.items():
        measures = measure_sound(waveform.astype(np.float32))
        assert measures is not None
        assert measures.speech_like_share == 0.0, name
    for seed in (2, 3):  # plays that mostly speak
        spoken = measure_sound(open_clip(stage_play(seed, 1 + seed % 2)).waveform)
        assert spoken is not None
        assert spoken.speech_like_share >= 0.5
