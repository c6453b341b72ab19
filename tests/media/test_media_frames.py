from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from synth import SIZE, Pictures, Sound, grey, shades, sine, steady, turn, write

from avocet.media import open_clip, probe

B_FRAMES = {"crf": "10", "preset": "medium", "bf": "2", "g": "20"}


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate_by_hand(tmp_path, suffix):
    path = write(tmp_path / f"vfr.{suffix}", Pictures(times_ms=[0, 400, 600, 700, 1000, 1800]))
    clip = open_clip(path, fps=2)
    # Targets 0, 0.5, 1, 1.5 see frames 0, 1, 4 and again 4.
    assert clip.frame_times_seconds.tolist() == [0.0, 0.4, 1.0]
    assert shades(clip.frames) == [0, 1, 4]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_b_frames_come_in_the_order_they_are_shown(tmp_path, suffix):
    path = write(tmp_path / f"b.{suffix}", Pictures(times_ms=steady(2.0), options=B_FRAMES, time_base=Fraction(1, 10)))
    with av.open(str(path)) as container:
        stored = [packet.pts for packet in container.demux(video=0) if packet.size]
    clip = open_clip(path, fps=10)
    assert shades(clip.frames) == list(range(20))
    # AVI stores no presentation times; there FFmpeg makes some up, in the order of the file.
    assert (stored != sorted(stored)) == (suffix != "avi")
    np.testing.assert_allclose(clip.frame_times_seconds, np.arange(20) / 10, atol=1e-3)


def test_video_without_timestamps_is_timed_by_its_frame_rate(tmp_path):
    path = write(tmp_path / "raw.h264", Pictures(times_ms=steady(2.0), time_base=Fraction(1, 10)), container="h264")
    clip = open_clip(path, fps=5)
    np.testing.assert_allclose(clip.frame_times_seconds, np.arange(10) / 5, atol=1e-9)
    assert shades(clip.frames) == list(range(0, 20, 2))
    assert clip.duration_seconds == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("matrix", "degrees", "turned"),
    [
        ((1, 0, 0, 1), 0, lambda picture: picture),
        ((0, -1, 1, 0), 90, lambda picture: np.rot90(picture, 1)),
        ((-1, 0, 0, -1), 180, lambda picture: np.rot90(picture, 2)),
        ((0, 1, -1, 0), 270, lambda picture: np.rot90(picture, 3)),
        ((-1, 0, 0, 1), None, lambda picture: picture[:, ::-1]),
        ((1, 0, 0, -1), None, lambda picture: picture[::-1]),
        ((0, 1, 1, 0), None, lambda picture: picture.transpose(1, 0, 2)),
    ],
)
def test_rotation_and_mirroring_by_corner_colours(tmp_path, matrix, degrees, turned):
    corners = grey(5)
    corners[:24, :32], corners[:24, 32:] = (200, 0, 0), (0, 200, 0)
    corners[24:, :32] = (0, 0, 200)
    path = write(tmp_path / "turned.mp4", Pictures(times_ms=[0, 100], images=[corners, corners]))
    clip = open_clip(turn(path, matrix))
    expected = turned(corners)
    assert clip.frames.shape == (1, 3, *expected.shape[:2])
    assert (clip.source.height, clip.source.width) == expected.shape[:2]
    assert degrees is None or clip.source.rotation_degrees == degrees
    # Chroma is stored at half size, so colours bleed at the seams and not in the corners.
    ours = clip.frames[0].transpose(1, 2, 0).astype(int)
    for y in (4, -5):
        for x in (4, -5):
            assert np.abs(ours[y, x] - expected[y, x]).max() < 12
    assert probe(path) == clip.source


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    path = write(tmp_path / "sar.mp4", Pictures(times_ms=[0, 100], pixel_aspect=Fraction(3, 2)))
    clip = open_clip(path)
    assert clip.frames.shape == (1, 3, 48, 96)
    assert (clip.source.width, clip.source.height) == (96, 48)
    # Turned by 90 degrees, the stretched side is upright.
    assert open_clip(turn(path, (0, -1, 1, 0))).frames.shape == (1, 3, 96, 48)


@pytest.mark.parametrize(
    ("codec", "pixel_format", "options"),
    [
        ("libx264", "yuv420p10le", {"crf": "5"}),
        ("libx264", "yuv444p", {"crf": "5"}),
        ("mpeg4", "yuv420p", {"qscale": "1"}),
        ("libx265", "yuv420p", {"x265-params": "log-level=none:crf=5"}),
    ],
)
def test_pixel_formats_and_codecs_keep_their_grey_levels(tmp_path, codec, pixel_format, options):
    pictures = Pictures(
        times_ms=steady(0.6), codec=codec, pixel_format=pixel_format, options=options, time_base=Fraction(1, 10)
    )
    clip = open_clip(write(tmp_path / "clip.mkv", pictures), fps=10)
    assert shades(clip.frames) == [0, 1, 2, 3, 4, 5]


def test_max_pixels_keeps_the_aspect_and_never_scales_up(tmp_path):
    path = write(tmp_path / "clip.mp4", Pictures(times_ms=[0, 100]))
    # 64 x 48 = 3072 pixels; a quarter of that is 32 x 24.
    assert open_clip(path, max_pixels=768).frames.shape == (1, 3, 24, 32)
    assert open_clip(path, max_pixels=3072).frames.shape == (1, 3, 48, 64)
    assert open_clip(path, max_pixels=10**9).frames.shape == (1, 3, 48, 64)
    assert open_clip(path, max_pixels=1).frames.shape == (1, 3, 1, 1)
    assert (open_clip(path, max_pixels=768).source.width, SIZE[0]) == (64, 64)


def test_too_many_frames_are_spread_over_the_whole_clip(tmp_path):
    path = write(tmp_path / "clip.mp4", Pictures(times_ms=steady(4.0)))
    clip = open_clip(path, fps=5, max_frames=4)
    # 20 targets and 4 frames: 0, 1, 2, 3 s.
    assert clip.frame_times_seconds.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert shades(clip.frames) == [0, 10, 20, 30 - 28]
    assert clip.warnings[0] == "there is no audio stream"
    assert "sampled at 1 instead of 5 frames per second" in clip.warnings[1]


def test_too_many_frames_in_a_file_that_does_not_state_its_duration(tmp_path):
    path = write(tmp_path / "live.mkv", Pictures(times_ms=steady(4.0)), muxer_options={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
    assert open_clip(path, fps=5, max_frames=4).frame_times_seconds.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert open_clip(path, fps=1).frame_times_seconds.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert probe(path).duration_seconds == pytest.approx(4.0)


def test_too_many_frames_where_the_header_states_too_short_a_duration(tmp_path):
    path = write(tmp_path / "clip.mkv", Pictures(times_ms=steady(4.0)))
    data = path.read_bytes()
    # Matroska: element 0x4489 (Duration), 8 bytes of float64 milliseconds.
    at = data.index(b"\x44\x89\x88") + 3
    path.write_bytes(data[:at] + np.array(1000.0, dtype=">f8").tobytes() + data[at + 8 :])
    with av.open(str(path)) as container:
        assert container.duration == 1_000_000
    clip = open_clip(path, fps=5, max_frames=4)
    assert clip.frame_times_seconds.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert clip.duration_seconds == pytest.approx(4.0)
    assert open_clip(path, fps=1, max_frames=4).frame_times_seconds.tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_an_interval_equals_the_slice_of_the_whole(tmp_path, suffix):
    path = write(
        tmp_path / f"clip.{suffix}",
        Pictures(times_ms=steady(6.0), options=B_FRAMES),
        Sound(samples=sine(6.0, hertz=330), rate=48_000, codec="aac"),
    )
    whole = open_clip(path, fps=10)
    for start, end in ((0.05, 0.95), (2.5, 3.5), (4.25, 6.0)):
        part = open_clip(path, fps=10, start_seconds=start, end_seconds=end)
        shown = [
            max(time for time in whole.frame_times_seconds if time <= start + k / 10 + 1e-6)
            for k in range(round((end - start) * 10 - 1e-6) + 1)
            if start + k / 10 < end - 1e-6
        ]
        assert part.frame_times_seconds.tolist() == shown
        indices = np.searchsorted(whole.frame_times_seconds, shown)
        assert np.array_equal(part.frames, whole.frames[indices])
        assert part.waveform is not None
        assert whole.waveform is not None
        assert (part.start_seconds, part.end_seconds) == pytest.approx((start, end))
        expected = whole.waveform[round(start * 16_000) : round(end * 16_000)]
        # Matroska and MPEG-TS round audio timestamps, which moves a sought waveform by up to half a millisecond.
        tolerance = 1e-3 if suffix == "mp4" else 0.5 * 2 * np.pi * 330 * 6e-4
        np.testing.assert_allclose(part.waveform[: len(expected)], expected[: len(part.waveform)], atol=tolerance)
        assert abs(len(part.waveform) - len(expected)) <= (0 if suffix == "mp4" else 16)


def test_the_last_frame_stays_on_screen_after_the_video(tmp_path):
    path = write(tmp_path / "clip.mp4", Pictures(times_ms=steady(1.0)), Sound(samples=sine(4.0)))
    clip = open_clip(path, fps=2)
    assert clip.frame_times_seconds.tolist() == [0.0, 0.5, 0.9]
    assert clip.duration_seconds == pytest.approx(4.0)
    late = open_clip(path, fps=2, start_seconds=2.5, end_seconds=3.5)
    assert late.frame_times_seconds.tolist() == [0.9]
    assert late.waveform is not None
    assert len(late.waveform) == 16_000
    assert any("the video ends at 1.000 s" in warning for warning in late.warnings)


def test_an_interval_before_the_video_has_no_frames(tmp_path):
    path = write(tmp_path / "clip.mkv", Pictures(times_ms=steady(1.0, start_ms=2000)), Sound(samples=sine(3.0)))
    clip = open_clip(path, end_seconds=1.0)
    assert clip.num_frames == 0
    assert "no frame is shown in the interval: the video begins after it" in clip.warnings
    # Without an end the first frame stands in for the targets before it.
    assert open_clip(path, fps=1).frame_times_seconds[0] == pytest.approx(2.0, abs=0.03)


def test_of_several_video_streams_the_one_players_show_is_used(tmp_path):
    other = Pictures(times_ms=steady(1.0), images=[grey(9, (32, 24))] * 10)
    path = write(tmp_path / "two.mkv", [Pictures(times_ms=steady(1.0)), other])
    clip = open_clip(path)
    assert shades(clip.frames) == [0, 5]
    assert "2 video streams in the file; used stream 0" in clip.warnings


def test_container_tags_and_the_clip_id_travel_with_the_clip(tmp_path):
    path = write(tmp_path / "clip.mp4", Pictures(times_ms=[0, 100]), tags={"comment": "avocet theatre 1-7"})
    assert open_clip(path).source.tags["comment"] == "avocet theatre 1-7"
    assert open_clip(path).id == str(path)
    assert open_clip(path, clip_id="mine").id == "mine"
    assert open_clip(f"file://{path}").num_frames == 1
