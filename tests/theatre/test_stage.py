import sys
from pathlib import Path

import av
import numpy as np
import pytest

from avocet.errors import ConfigError
from avocet.theatre.picture import render_frame
from avocet.theatre.script import Event, Script, make_script
from avocet.theatre.sound import render_waveform
from avocet.theatre.stage import stage, stage_arrays

RATE = 16_000


def _decode(path: Path) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Times and pixels of all frames, and the sound with sample i at i / 16000 s of the file's time."""
    times, frames, pieces = [], [], []
    with av.open(str(path)) as container:
        for frame in container.decode(*container.streams):
            assert frame.time is not None
            if isinstance(frame, av.VideoFrame):
                times.append(frame.time)
                frames.append(frame.to_ndarray(format="rgb24"))
            else:
                pieces.append((round(frame.time * RATE), frame.to_ndarray()[0]))
    sound = np.zeros(max((first + len(samples) for first, samples in pieces), default=0), np.float32)
    for first, samples in pieces:
        assert first >= 0
        sound[first : first + len(samples)] = samples
    return times, np.stack(frames), sound


@pytest.fixture(scope="module")
def script() -> Script:
    events = (
        Event(
            kind="visual", beat=0, start_seconds=0.0, end_seconds=2.0, colour="red", shape="square", motion="slide left"
        ),
        Event(kind="text", beat=1, start_seconds=2.0, end_seconds=4.0, word="OPEN"),
        Event(
            kind="speech", beat=1, start_seconds=2.0, end_seconds=4.0, speaker="woman", utterance="Anna lost two keys"
        ),
        Event(kind="sound", beat=0, start_seconds=0.0, end_seconds=2.0, sound="clock"),
    )
    return Script(
        seed=7,
        level=1,
        duration_seconds=4.0,
        events=events,
        background="navy",
        camera_noise=1.0,
        camera_shake_pixels=0.0,
        audio_noise=0.001,
    )


@pytest.fixture(scope="module")
def staged(script: Script, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stage") / "new" / "folder" / "clip.mp4"
    stage(script, path)
    return path


def test_the_file_says_what_it_is(staged: Path):
    assert [item.name for item in staged.parent.iterdir()] == ["clip.mp4"]
    with av.open(str(staged)) as container:
        assert container.metadata["comment"] == "avocet theatre theatre-1-7"
        assert container.duration == pytest.approx(4_000_000, abs=70_000)  # sound ends on a whole AAC frame
        (video,), (sound,) = container.streams.video, container.streams.audio
        assert (video.codec_context.name, video.pix_fmt, video.width, video.height) == ("h264", "yuv420p", 192, 192)
        assert video.average_rate == 8
        assert video.frames == 32
        assert (sound.codec_context.name, sound.rate, sound.channels) == ("aac", 16_000, 1)


def test_frame_k_is_shown_at_k_eighths(staged: Path, script: Script):
    times, frames, _ = _decode(staged)
    assert times == [number / 8 for number in range(32)]
    for number in range(0, 32, 5):
        expected = render_frame(script, number / 8).astype(int)
        assert np.abs(frames[number] - expected).mean() < 4


def test_sound_and_picture_start_together(staged: Path, script: Script):
    _, _, sound = _decode(staged)
    waveform = render_waveform(script)
    size = 1 << 18
    spectrum = np.fft.rfft(sound, size) * np.conj(np.fft.rfft(waveform, size))
    lag = int(np.fft.irfft(spectrum, size).argmax())
    lag = lag - size if lag > size // 2 else lag
    assert abs(lag) / RATE < 0.025
    error = sound[: len(waveform)] - waveform
    assert 10 * np.log10((waveform**2).sum() / (error**2).sum()) > 15


@pytest.mark.parametrize("level", [1, 2])
def test_staging_twice_gives_the_same_bytes(level: int, tmp_path: Path):
    for name in ("one.mp4", "two.mp4"):
        stage(make_script(21, level), tmp_path / name)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_muted_staging_holds_digital_silence_and_the_same_picture(script: Script, staged: Path, tmp_path: Path):
    stage(script, tmp_path / "muted.mp4", muted=True)
    _, frames, sound = _decode(tmp_path / "muted.mp4")
    assert len(sound) >= 4 * RATE
    assert not sound.any()
    assert np.array_equal(frames, _decode(staged)[1])


def test_black_staging_hides_everything_and_keeps_the_sound(script: Script, staged: Path, tmp_path: Path):
    stage(script, tmp_path / "black.mp4", black=True)
    times, frames, sound = _decode(tmp_path / "black.mp4")
    assert len(times) == 32
    assert frames.max() == 0
    assert np.array_equal(sound, _decode(staged)[2])


def test_staging_without_a_sound_track(script: Script, tmp_path: Path):
    stage(script, tmp_path / "deaf.mp4", with_audio_track=False)
    with av.open(str(tmp_path / "deaf.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.duration == 4_000_000


def test_an_older_file_is_replaced(script: Script, tmp_path: Path):
    target = tmp_path / "clip.mp4"
    target.write_text("old")
    stage(script, str(target), with_audio_track=False)
    assert len(_decode(target)[0]) == 32


def test_impossible_paths_are_named_and_leave_nothing_behind(script: Script, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"'clip\.mkv': the theatre writes mp4 files, give a name ending in \.mp4"):
        stage(script, "clip.mkv")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ConfigError, match="it is a folder"):
        stage(script, tmp_path / "folder.mp4")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot stage into .*clip\.mp4.*; choose another path"):
        stage(script, tmp_path / "file" / "clip.mp4")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder.mp4"]


def test_a_failed_staging_leaves_the_older_file_alone(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*arguments: object) -> np.ndarray:
        raise RuntimeError("out of paint")

    target = tmp_path / "clip.mp4"
    target.write_text("old")
    monkeypatch.setattr(sys.modules["avocet.theatre.stage"], "render_frame", broken)
    with pytest.raises(RuntimeError, match="out of paint"):
        stage(script, target)
    assert [(item.name, item.read_text()) for item in tmp_path.iterdir()] == [("clip.mp4", "old")]


def test_arrays_are_the_play_before_the_codec(script: Script):
    clip = stage_arrays(script)
    assert clip.id == "theatre-1-7"
    assert clip.frame_times_seconds.tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    assert np.array_equal(clip.frames[3].transpose(1, 2, 0), render_frame(script, 1.5))
    assert clip.waveform is not None
    assert np.array_equal(clip.waveform, render_waveform(script))
    assert (clip.audio_status, clip.duration_seconds) == ("present", 4.0)
    assert clip.source.tags == {"comment": "avocet theatre theatre-1-7"}
    assert (clip.source.width, clip.source.height, clip.source.audio_sample_rate) == (192, 192, 16_000)
    # 4 s at 3 frames per second: k / 3 for k = 0 .. 11.
    assert len(stage_arrays(script, fps=3.0).frames) == 12


def test_arrays_know_the_control_experiments(script: Script):
    muted = stage_arrays(script, muted=True)
    assert muted.audio_status == "silent"
    assert muted.waveform is not None
    assert not muted.waveform.any()
    assert not stage_arrays(script, black=True).frames.any()
    deaf = stage_arrays(script, with_audio_track=False)
    assert (deaf.waveform, deaf.audio_status, deaf.source.audio_sample_rate) == (None, "absent", None)
    with pytest.raises(ConfigError, match="fps must be above 0, got 0"):
        stage_arrays(script, fps=0)
