"""Writing small videos, and writing them again at other bit rates."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from avocet.media import open_clip

RATE = 16_000


def write_video(
    path: Path,
    pictures: np.ndarray,
    waveform: np.ndarray | None,
    *,
    fps: int = 8,
    crf: int = 20,
    audio_bits: int = 56_000,
) -> Path:
    """Encode uint8 (T, H, W, 3) and float32 (S,) at 16 kHz."""
    with av.open(str(path), "w") as output:
        options = {"crf": str(crf), "preset": "veryfast"}
        video = output.add_stream("libx264", rate=fps, options=options)
        video.height, video.width, video.pix_fmt = *pictures.shape[1:3], "yuv420p"
        sound = None
        if waveform is not None:
            sound = output.add_stream("aac", rate=RATE, layout="mono")
            sound.bit_rate = audio_bits
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if sound is not None and waveform is not None:
            for start in range(0, len(waveform), 1024):
                piece = np.ascontiguousarray(waveform[None, start : start + 1024])
                audio = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
                audio.sample_rate, audio.pts, audio.time_base = RATE, start, Fraction(1, RATE)
                output.mux(sound.encode(audio))
            output.mux(sound.encode(None))
    return path


def encode_again(
    source: Path, path: Path, *, crf: int = 34, audio_bits: int = 24_000, skip_seconds: float = 0.0, gain: float = 1.0
) -> Path:
    """The same pictures and sound at another bit rate, without the first `skip_seconds` (eighths of a second)."""
    clip = open_clip(source, fps=8.0, start_seconds=skip_seconds or None)
    assert clip.waveform is not None
    return write_video(path, clip.frames.transpose(0, 2, 3, 1), gain * clip.waveform, crf=crf, audio_bits=audio_bits)
