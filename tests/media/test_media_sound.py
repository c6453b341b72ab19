from __future__ import annotations

import av
import numpy as np
import pytest
from synth import Pictures, Sound, grey, sine, steady, write

from avocet.errors import MediaError
from avocet.media import open_clip

VIDEO = Pictures(times_ms=steady(2.0))


def level(waveform: np.ndarray, start: float, end: float) -> float:
    """Root mean square between two times, in seconds."""
    return float(np.sqrt(np.mean(waveform[round(start * 16_000) : round(end * 16_000)] ** 2)))


@pytest.mark.parametrize(
    ("container", "codec", "layout"),
    [
        ("mkv", "pcm_s16le", "mono"),
        ("wav", "pcm_f32le", "stereo"),
        ("wav", "pcm_u8", "mono"),
        ("wav", "pcm_s32le", "stereo"),
        ("flac", "flac", "5.1"),
        ("mkv", "libopus", "stereo"),
        ("ogg", "libopus", "5.1"),
    ],
)
def test_formats_and_channel_counts_give_the_same_waveform(tmp_path, container, codec, layout):
    channels = [1.0] * {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    sound = Sound(samples=sine(1.0, channels=channels), codec=codec, layout=layout)
    clip = open_clip(write(tmp_path / f"sound.{container}", None, sound))
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert clip.waveform is not None
    assert clip.waveform.dtype == np.float32
    assert len(clip.waveform) == 16_000
    assert clip.audio_status == "present"
    middle = slice(800, -800)
    np.testing.assert_allclose(clip.waveform[middle], expected[middle], atol=0.06 if codec == "libopus" else 0.006)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_sample_rates(tmp_path, rate):
    clip = open_clip(write(tmp_path / "a.wav", None, Sound(samples=sine(1.0, rate=rate), rate=rate, codec="pcm_s16le")))
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert clip.waveform is not None
    assert abs(len(clip.waveform) - 16_000) <= 1
    np.testing.assert_allclose(clip.waveform[400:-400], expected[400 : len(clip.waveform) - 400], atol=0.002)


# FFmpeg's matrix for 5.1, divided by its sum 1 + 2 * 0.7071 + 2 * 0.5 = 3.4142; the LFE channel has no part in it.
@pytest.mark.parametrize(
    ("channel", "gain"),
    [(0, 0.7071 / 3.4142), (1, 0.7071 / 3.4142), (2, 1 / 3.4142), (3, 0), (4, 0.5 / 3.4142), (5, 0.5 / 3.4142)],
)
def test_surround_with_sound_in_one_channel(tmp_path, channel, gain):
    channels = [0.0] * 6
    channels[channel] = 1.0
    sound = Sound(samples=sine(0.5, level=0.8, channels=channels), layout="5.1", codec="pcm_s16le")
    clip = open_clip(write(tmp_path / "a.wav", None, sound))
    assert clip.waveform is not None
    assert np.abs(clip.waveform[800:-800]).max() == pytest.approx(0.8 * gain, abs=2e-3)
    if channel == 3:
        assert clip.audio_status == "silent"
        assert any("left out, when mixed to mono" in warning for warning in clip.warnings)
    else:
        assert (clip.audio_status, clip.warnings) == ("present", ())


def test_loud_channels_do_not_overflow(tmp_path):
    sound = Sound(samples=sine(0.5, level=1.0, channels=[1, 1]), layout="stereo", codec="pcm_f32le")
    clip = open_clip(write(tmp_path / "a.wav", None, sound))
    assert clip.waveform is not None
    assert 0.99 < np.abs(clip.waveform).max() <= 1.0
    too_loud = Sound(samples=sine(0.5, level=3.0), codec="pcm_f32le")
    loud = open_clip(write(tmp_path / "b.wav", None, too_loud)).waveform
    assert loud is not None
    assert np.abs(loud).max() == 1.0


def test_channels_in_opposite_phase_cancel_and_the_clip_says_so(tmp_path):
    sound = Sound(samples=sine(1.0, channels=[1, -1]), layout="stereo", codec="pcm_s16le")
    clip = open_clip(write(tmp_path / "a.mkv", VIDEO, sound))
    assert clip.audio_status == "silent"
    assert clip.waveform is not None
    assert np.abs(clip.waveform).max() < 1e-3
    assert any("cancel each other" in warning for warning in clip.warnings)


def test_silence_is_reported_with_its_level(tmp_path):
    zeros = open_clip(write(tmp_path / "a.mp4", VIDEO, Sound(samples=sine(2.0, level=0.0))))
    assert zeros.audio_status == "silent"
    assert "the sound is silent (all samples are 0)" in zeros.warnings
    assert zeros.waveform is not None
    assert len(zeros.waveform) == 32_000
    # 0.0005 is -66 dBFS, under the threshold of -60 dBFS; 0.002 is -54 dBFS, above it.
    faint = open_clip(write(tmp_path / "b.wav", None, Sound(samples=sine(1.0, level=5e-4), codec="pcm_s16le")))
    assert faint.audio_status == "silent"
    assert "the sound is silent (peak -66 dBFS)" in faint.warnings
    low = open_clip(write(tmp_path / "c.wav", None, Sound(samples=sine(1.0, level=2e-3), codec="pcm_s16le")))
    assert low.audio_status == "present"


def test_a_file_without_sound_follows_the_policy(tmp_path):
    path = write(tmp_path / "clip.mp4", VIDEO)
    clip = open_clip(path)
    assert (clip.audio_status, clip.waveform, clip.warnings) == ("absent", None, ("there is no audio stream",))
    assert open_clip(path, audio="ignore").warnings == ()
    with pytest.raises(MediaError, match=r"clip\.mp4: audio: there is no audio stream, but audio='require'"):
        open_clip(path, audio="require")


def test_ignored_sound_is_still_described(tmp_path):
    path = write(tmp_path / "clip.mp4", VIDEO, Sound(samples=sine(2.0)))
    clip = open_clip(path, audio="ignore")
    assert (clip.audio_status, clip.waveform, clip.duration_seconds) == ("present", None, 2.0)
    required = open_clip(path, audio="require").waveform
    assert required is not None
    silent = write(tmp_path / "silent.mp4", VIDEO, Sound(samples=sine(2.0, level=0)))
    assert open_clip(silent, audio="ignore").audio_status == "silent"
    assert open_clip(silent, audio="require").audio_status == "silent"


def test_an_audio_only_file_has_no_frames(tmp_path):
    path = write(tmp_path / "sound.m4a", None, Sound(samples=sine(2.0)))
    clip = open_clip(path)
    assert clip.frames.shape == (0, 3, 0, 0)
    assert clip.duration_seconds == pytest.approx(2.0)
    with pytest.raises(MediaError, match="audio-only file with audio='ignore'"):
        open_clip(path, audio="ignore")


def test_sound_alone_is_not_sampled_so_no_frame_limit_is_warned_of(tmp_path):
    """Two seconds at 2 fps are four targets, for frames that are not there."""
    path = write(tmp_path / "a.flac", None, Sound(samples=sine(2.0), codec="flac"))
    assert open_clip(path, fps=2.0, max_frames=3).warnings == ()
    with_picture = open_clip(write(tmp_path / "a.mkv", VIDEO, None), fps=2.0, max_frames=3, audio="ignore")
    assert "sampled at 1.5 instead of 2 frames per second to keep to max_frames=3" in with_picture.warnings


def test_cover_art_is_not_video(tmp_path):
    plain = write(tmp_path / "plain.m4a", None, Sound(samples=sine(1.0)))
    covered = tmp_path / "covered.m4a"
    with av.open(str(plain)) as source, av.open(str(covered), "w", format="mp4") as output:
        sound = output.add_stream_from_template(source.streams.audio[0])
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(grey(3), format="rgb24")
        packets = [*cover.encode(frame), *cover.encode()]
        for packet in packets:
            output.mux(packet)
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = sound
                output.mux(packet)
    with av.open(str(covered)) as container:
        assert len(container.streams.video) == 1
    clip = open_clip(covered)
    assert clip.num_frames == 0
    assert clip.source.video_codec is None
    assert clip.waveform is not None
    assert len(clip.waveform) == 16_000


def test_sound_shorter_than_the_video(tmp_path):
    path = write(tmp_path / "clip.mp4", Pictures(times_ms=steady(4.0)), Sound(samples=sine(1.5)))
    clip = open_clip(path)
    assert clip.waveform is not None
    assert len(clip.waveform) == 24_000
    assert clip.duration_seconds == pytest.approx(4.0)
    assert "the sound ends at 1.500 s, before the end at 4.000 s" in clip.warnings
    late = open_clip(path, start_seconds=2.0)
    assert (late.audio_status, late.waveform) == ("absent", None)
    assert "the audio stream has no sound in the interval" in late.warnings
    with pytest.raises(MediaError, match="audio: the audio stream has no sound in the interval"):
        open_clip(path, start_seconds=2.0, audio="require")


def test_sound_longer_than_the_video(tmp_path):
    path = write(tmp_path / "clip.mp4", Pictures(times_ms=steady(1.0)), Sound(samples=sine(2.5)))
    clip = open_clip(path)
    assert clip.waveform is not None
    assert len(clip.waveform) == 40_000
    assert clip.duration_seconds == pytest.approx(2.5)
    assert "the video ends at 1.000 s, before the end at 2.500 s" in clip.warnings


def test_an_interval_behind_the_pictures_has_the_last_one_and_its_sound(tmp_path):
    path = write(tmp_path / "clip.mp4", Pictures(times_ms=steady(2.0)), Sound(samples=sine(6.0)))
    clip = open_clip(path, fps=1.0, start_seconds=3.5, end_seconds=5.0, min_frames=2)
    assert clip.num_frames == 1
    assert clip.frame_times_seconds[0] < 3.5
    assert clip.waveform is not None
    assert len(clip.waveform) == 24_000


def test_a_late_start_and_a_gap_are_silence(tmp_path):
    late = Sound(samples=sine(1.0), codec="pcm_s16le", start_ms=750)
    clip = open_clip(write(tmp_path / "late.mkv", VIDEO, late))
    assert clip.waveform is not None
    assert len(clip.waveform) == 28_000
    assert level(clip.waveform, 0, 0.749) == 0
    assert level(clip.waveform, 0.76, 1.75) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)

    gap = Sound(samples=sine(1.2), codec="pcm_s16le", gap_at=28_800, gap_ms=500)
    clip = open_clip(write(tmp_path / "gap.mkv", VIDEO, gap))
    assert clip.waveform is not None
    # 28800 samples are 0.6 s: sound, then half a second of silence, then the other 0.6 s.
    assert len(clip.waveform) == round(1.7 * 16_000)
    assert level(clip.waveform, 0, 0.59) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert level(clip.waveform, 0.61, 1.09) == 0
    assert level(clip.waveform, 1.11, 1.7) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert any("1 gaps or jumps" in warning for warning in clip.warnings)


_CODECS = [
    ("mp4", "aac"),
    ("mkv", "aac"),
    ("mkv", "libopus"),
    ("mkv", "pcm_s16le"),
    ("mov", "pcm_s16le"),
    ("ts", "aac"),
]
_FROM_ZERO = [(container, codec, 0) for container, codec in _CODECS]


@pytest.mark.parametrize(
    ("container", "codec", "start_ms"),
    [*_FROM_ZERO, ("ts", "ac3", 5000), ("mp4", "aac", 5000), ("mkv", "pcm_s16le", 5000)],
)
def test_a_flash_and_a_beep_at_the_same_moment_stay_together(tmp_path, container, codec, start_ms):
    # 3 s at 20 frames per second; white and 1 kHz from 1.0 to 1.2 s. Files may start at 5 s.
    images = [np.full((48, 64, 3), 235 if 20 <= index < 24 else 16, np.uint8) for index in range(60)]
    samples = sine(3.0, hertz=1000)
    samples[:, :48_000] = 0
    samples[:, 57_600:] = 0
    path = write(
        tmp_path / f"clip.{container}",
        Pictures(times_ms=steady(3.0, 20, start_ms), images=images),
        Sound(samples=samples, codec=codec, start_ms=start_ms),
    )
    for start in (None, 0.5):
        clip = open_clip(path, fps=20, start_seconds=start)
        flash = clip.frame_times_seconds[np.argmax(clip.frames.mean(axis=(1, 2, 3)) > 128)]
        assert clip.waveform is not None
        beep = clip.start_seconds + np.argmax(np.abs(clip.waveform) > 0.25) / 16_000
        assert flash == pytest.approx(beep, abs=0.012)
        # An MP4 edit list, or the first timestamp, is what puts zero at the first stream's start; AAC and AC-3
        # outside of MP4 begin with up to 43 ms of priming sound, before the picture.
        assert flash == pytest.approx(1.0, abs=0.05)


def test_sound_of_an_unknown_codec_is_undecodable_and_the_picture_still_opens(tmp_path):
    path = write(tmp_path / "clip.mov", VIDEO, Sound(samples=sine(2.0), codec="pcm_s16le"))
    data = path.read_bytes()
    assert data.count(b"sowt") == 1
    path.write_bytes(data.replace(b"sowt", b"xyz?"))
    clip = open_clip(path)
    assert (clip.audio_status, clip.waveform, clip.num_frames) == ("undecodable", None, 4)
    assert "there is no decoder for the codec of the audio stream" in clip.warnings
    assert clip.source.audio_codec == "unknown"
    with pytest.raises(MediaError, match="audio: there is no decoder"):
        open_clip(path, audio="require")


def test_damaged_sound_is_undecodable_and_names_the_reason(tmp_path):
    path = write(tmp_path / "clip.mkv", VIDEO, Sound(samples=sine(2.0), codec="flac"))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        spans = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    for position, size in spans:
        # The packet stands somewhere after its block's start; zeros leave no frame header to find.
        at = data.index(b"\xff\xf8", position)
        data[at : at + size] = bytes(size)
    path.write_bytes(bytes(data))
    clip = open_clip(path)
    assert (clip.audio_status, clip.waveform) == ("undecodable", None)
    assert any("the audio stream cannot be decoded: " in warning for warning in clip.warnings)
    with pytest.raises(MediaError, match=r"audio: the audio stream cannot be decoded: \d+ of \d+ packets"):
        open_clip(path, audio="require")
