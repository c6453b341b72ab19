"""Real files against references that never call the code under test.

The reference of a file is what `ffprobe -show_entries packet=pts,duration -select_streams INDEX` lists: sorted
packet times, minus the start of the earliest audio or video stream. Here PyAV reads the packets.
"""

from __future__ import annotations

import math
from fractions import Fraction

import av
import numpy as np
import pytest

from avocet.media import open_clip, probe

VIDEO_STREAMS = {
    "av1_video.mkv": 0,
    "big_buck_bunny_480p_30s.mp4": 0,
    "h265_video.mp4": 0,
    "nasa_13013.mp4": 3,  # the larger of two video streams, the one players show
    "nasa_13013_rotated.mp4": 0,
    "test_non_zero_start.mp4": 0,
    "testsrc2_vp9.webm": 0,
}


def reference(path, index) -> tuple[list[Fraction], Fraction]:
    """(times at which each frame is first shown, the end of the last one)."""
    starts, packets = [], []
    with av.open(str(path)) as container:
        starts = [s.start_time * s.time_base for s in container.streams if s.type in ("video", "audio")]
        time_base = container.streams[index].time_base
        for packet in container.demux(container.streams[index]):
            if packet.size and not packet.is_discard:
                packets.append((packet.pts * time_base - min(starts), packet.duration * time_base))
    packets.sort()
    return [time for time, _ in packets], packets[-1][0] + packets[-1][1]


def shown(times, end, fps) -> list[Fraction]:
    """The frames on screen at 0, 1/fps, 2/fps ... before the end of the video, each once."""
    chosen = []
    for k in range(math.ceil(end * fps)):
        current = max([time for time in times if time <= Fraction(k) / fps], default=times[0])
        if current not in chosen:
            chosen.append(current)
    return chosen


@pytest.mark.parametrize("fps", [1, 2, Fraction(7, 2)])
@pytest.mark.parametrize("name", sorted(VIDEO_STREAMS))
def test_frame_times_equal_the_packet_times_on_screen_at_each_target(media_dir, name, fps):
    times, end = reference(media_dir / name, VIDEO_STREAMS[name])
    clip = open_clip(media_dir / name, fps=float(fps), max_pixels=4096)
    np.testing.assert_allclose(clip.frame_times_seconds, [float(t) for t in shown(times, end, fps)], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", sorted(set(VIDEO_STREAMS) - {"big_buck_bunny_480p_30s.mp4"}))
def test_sampling_faster_than_the_video_gives_every_frame(media_dir, name):
    times, end = reference(media_dir / name, VIDEO_STREAMS[name])
    clip = open_clip(media_dir / name, fps=1000, max_frames=100_000, max_pixels=256)
    np.testing.assert_allclose(clip.frame_times_seconds, [float(time) for time in times], rtol=0, atol=1e-9)
    assert clip.source.video_end_seconds == pytest.approx(float(end), abs=1e-3)


def test_big_buck_bunny_by_hand(media_dir):
    """ffprobe: 720 frames of 512/12288 s = 1/24 s; AAC 5.1 at 48 kHz, 1440000 samples = 30 s."""
    clip = open_clip(media_dir / "big_buck_bunny_480p_30s.mp4")
    assert clip.frames.shape == (60, 3, 480, 854)
    assert clip.frame_times_seconds.tolist() == [k / 2 for k in range(60)]
    assert clip.waveform is not None
    assert clip.waveform.shape == (480_000,)
    assert (clip.duration_seconds, clip.audio_status, clip.warnings) == (30.0, "present", ())
    assert (clip.source.audio_channels, clip.source.average_fps) == (6, 24.0)


def test_nasa_by_hand(media_dir):
    """ffprobe: stream 3 is 480x270, 390 frames of 1001/30000 s; stream 4 is 208896 samples at 16 kHz.

    At 0.5 s frame floor(0.5 * 30000 / 1001) = 14 is on screen, which began at 14014/30000 s; 27 targets lie
    before 13.013 s.
    """
    clip = open_clip(media_dir / "nasa_13013.mp4")
    assert clip.frames.shape == (27, 3, 270, 480)
    np.testing.assert_allclose(clip.frame_times_seconds[:3], [0, 14014 / 30000, 29029 / 30000], atol=1e-12)
    assert clip.waveform is not None
    assert len(clip.waveform) == 208_896
    assert clip.duration_seconds == 13.056
    assert clip.warnings == (
        "2 video streams in the file; used stream 3",
        "2 audio streams in the file; used stream 4",
    )


def test_non_zero_start_by_hand(media_dir):
    """ffprobe: 12 frames of 512/15360 s, the first at 127995/15360 s = 8.3330078125 s; no sound."""
    clip = open_clip(media_dir / "test_non_zero_start.mp4", fps=30)
    assert clip.source.start_time_seconds == 8.3330078125
    np.testing.assert_allclose(clip.frame_times_seconds, np.arange(12) / 30, rtol=0, atol=1e-12)
    assert clip.duration_seconds == pytest.approx(0.4)
    assert (clip.audio_status, clip.waveform) == ("absent", None)


def test_audio_only_file_by_hand(media_dir):
    """ffprobe: FLAC, 485100 samples at 44.1 kHz = 11 s, stereo."""
    clip = open_clip(media_dir / "jfk.flac")
    assert (clip.frames.shape, clip.num_frames) == ((0, 3, 0, 0), 0)
    assert clip.waveform is not None
    assert clip.waveform.shape == (176_000,)
    assert (clip.duration_seconds, clip.audio_status) == (11.0, "present")


def test_rotation_turns_real_pixels_counterclockwise(media_dir):
    path = media_dir / "nasa_13013_rotated.mp4"
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    clip = open_clip(path)
    assert stored.shape == (270, 480, 3)
    assert np.array_equal(clip.frames[0].transpose(1, 2, 0), np.rot90(stored, 1))
    assert (clip.source.width, clip.source.height, clip.source.rotation_degrees) == (270, 480, 90)


@pytest.mark.parametrize("name", ["big_buck_bunny_480p_30s.mp4", "nasa_13013.mp4", "testsrc2_vp9.webm"])
def test_decoding_twice_is_bit_equal(media_dir, name):
    one, two = (open_clip(media_dir / name, end_seconds=8) for _ in range(2))
    assert np.array_equal(one.frames, two.frames)
    assert np.array_equal(one.frame_times_seconds, two.frame_times_seconds)
    assert (one.waveform is None and two.waveform is None) or np.array_equal(one.waveform, two.waveform)


@pytest.mark.parametrize("name", [*sorted(VIDEO_STREAMS), "jfk.flac"])
def test_probe_says_what_opening_says(media_dir, name):
    assert probe(media_dir / name) == open_clip(media_dir / name, max_pixels=256, end_seconds=0.3).source


@pytest.mark.parametrize("start", [3.3, 12.0, 27.25])
def test_an_interval_equals_the_slice_of_the_whole(media_dir, start):
    path = media_dir / "big_buck_bunny_480p_30s.mp4"
    whole = open_clip(path, fps=24, max_frames=1000, max_pixels=50_000)
    part = open_clip(path, fps=4, start_seconds=start, end_seconds=start + 1.5, max_pixels=50_000)
    # 24 frames per second: at time t, frame floor(24 t) is on screen.
    indices = [math.floor(24 * (start + k / 4) + 1e-6) for k in range(6)]
    np.testing.assert_allclose(part.frame_times_seconds, np.asarray(indices) / 24, atol=1e-9)
    assert np.array_equal(part.frames, whole.frames[indices])
    assert whole.waveform is not None
    assert part.waveform is not None
    slice_ = whole.waveform[round(start * 16_000) : round((start + 1.5) * 16_000)]
    assert len(part.waveform) == len(slice_) == 24_000
    np.testing.assert_allclose(part.waveform, slice_, atol=2e-4)
