"""Script -> a real mp4 file (H.264 + AAC), or the same play as arrays without a codec in between."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from avocet.errors import ConfigError
from avocet.records import SAMPLE_RATE, Clip, SourceFacts
from avocet.theatre.picture import REFERENCE_SIZE, render_frame
from avocet.theatre.script import Script
from avocet.theatre.sound import render_waveform

STAGE_FPS = 8
"""Frames per second of staged files, constant."""

_VIDEO_OPTIONS = {"preset": "ultrafast", "crf": "22"}
_AUDIO_BITS_PER_SECOND = 56_000
_AUDIO_OPTIONS = {"aac_coder": "fast"}
"""The default coder takes three times as long for the same error at this bit rate."""
_AAC_FRAME = 1024


def stage(
    script: Script,
    path: str | os.PathLike[str],
    *,
    muted: bool = False,
    black: bool = False,
    with_audio_track: bool = True,
) -> None:
    """Play `script` into an mp4 file: 192 x 192 pixels at 8 frames per second, 16 kHz mono sound.

    The file appears under its name only when it is complete, an older file of that name is replaced, missing folders
    are made. Its container tag `comment` is "avocet theatre <script.id>". The same arguments give the same bytes.

    Args:
        script: what to play.
        path: ends with .mp4.
        muted: the sound track holds digital silence.
        black: all frames are black.
        with_audio_track: False leaves the sound track out.

    Raises:
        ConfigError: for another suffix, a path that cannot be written, or speech that does not fit its event.
        MissingExtraError: when the script speaks and eSpeak NG is not installed.
    """
    target = Path(path)
    if target.suffix.lower() != ".mp4":
        raise ConfigError(
            f"cannot stage into {str(target)!r}: the theatre writes mp4 files, give a name ending in .mp4"
        )
    if target.is_dir():
        raise ConfigError(f"cannot stage into {str(target)!r}: it is a folder, give a file name ending in .mp4")
    waveform = None
    if with_audio_track:
        waveform = render_waveform(script)
        if muted:
            waveform = np.zeros_like(waveform)
    with _finished_file(target) as unfinished:
        _write(script, unfinished, waveform, black=black)


def stage_arrays(
    script: Script, fps: float = 2.0, *, muted: bool = False, black: bool = False, with_audio_track: bool = True
) -> Clip:
    """The play as a `Clip`, rendered and not decoded: frames at k / `fps` for all k before the end.

    `muted`, `black` and `with_audio_track` mean the same as in `stage`. Raises `ConfigError` for an `fps` not above 0.
    """
    if not fps > 0:
        raise ConfigError(f"fps must be above 0, got {fps}")
    waveform = render_waveform(script) if with_audio_track else None
    if waveform is not None and muted:
        waveform = np.zeros_like(waveform)
    times = np.arange(int(np.ceil(script.duration_seconds * fps - 1e-9))) / fps
    frames = np.stack([_frame(script, float(time), black) for time in times]).transpose(0, 3, 1, 2)
    silent = waveform is not None and not waveform.any()
    return Clip(
        id=script.id,
        frames=np.ascontiguousarray(frames),
        frame_times_seconds=times,
        waveform=waveform,
        start_seconds=0.0,
        duration_seconds=script.duration_seconds,
        audio_status="absent" if waveform is None else "silent" if silent else "present",
        source=_source_facts(script, fps, with_audio_track),
    )


def _source_facts(script: Script, fps: float, with_audio_track: bool) -> SourceFacts:
    return SourceFacts(
        path=script.id,
        container="arrays",
        duration_seconds=script.duration_seconds,
        width=REFERENCE_SIZE,
        height=REFERENCE_SIZE,
        average_fps=fps,
        video_start_seconds=0.0,
        video_end_seconds=script.duration_seconds,
        audio_sample_rate=SAMPLE_RATE if with_audio_track else None,
        audio_channels=1 if with_audio_track else None,
        audio_start_seconds=0.0 if with_audio_track else None,
        audio_end_seconds=script.duration_seconds if with_audio_track else None,
        tags={"comment": _tag(script)},
    )


def _tag(script: Script) -> str:
    return f"avocet theatre {script.id}"


def _frame(script: Script, time_seconds: float, black: bool) -> np.ndarray:
    if black:
        return np.zeros((REFERENCE_SIZE, REFERENCE_SIZE, 3), np.uint8)
    return render_frame(script, time_seconds)


@contextlib.contextmanager
def _finished_file(target: Path) -> Iterator[Path]:
    """A temporary file beside `target` that takes its name when the block ends well and is removed otherwise."""
    # The process id keeps two processes that stage the same file from writing into one another's.
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot stage into {str(target)!r}: {error.strerror or error}; choose another path"
        ) from error


def _write(script: Script, path: Path, waveform: np.ndarray | None, *, black: bool) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = _tag(script)
        video = container.add_stream("libx264", rate=STAGE_FPS, options=_VIDEO_OPTIONS)
        video.width = video.height = REFERENCE_SIZE
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        sound = None
        if waveform is not None:
            sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options=_AUDIO_OPTIONS)
            sound.bit_rate = _AUDIO_BITS_PER_SECOND
        for number in range(round(script.duration_seconds * STAGE_FPS)):
            picture = av.VideoFrame.from_ndarray(_frame(script, number / STAGE_FPS, black), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, STAGE_FPS)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if sound is not None and waveform is not None:
            for piece in _audio_frames(waveform):
                container.mux(sound.encode(piece))
            container.mux(sound.encode(None))


def _audio_frames(waveform: np.ndarray) -> Iterator[av.AudioFrame]:
    for first in range(0, len(waveform), _AAC_FRAME):
        frame = av.AudioFrame.from_ndarray(waveform[None, first : first + _AAC_FRAME], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, first, Fraction(1, SAMPLE_RATE)
        yield frame
