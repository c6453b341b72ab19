"""Small media files for tests, with known pictures at known times and known sound.

Pictures are plain grey: `shade(i)` for frame i, so that a decoded frame tells which one it was.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIZE = (64, 48)
"""Width and height of the test pictures."""


def shade(index: int) -> int:
    """Grey level of frame `index`: 8 levels apart, which survives lossy coding."""
    return 16 + 8 * (index % 28)


def grey(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((size[1], size[0], 3), shade(index), dtype=np.uint8)


def shades(frames: np.ndarray) -> list[int]:
    """Which `shade` index each of (T, 3, H, W) is."""
    return [round((float(frame.mean()) - 16) / 8) for frame in frames]


def sine(
    seconds: float, *, rate: int = 48_000, hertz: float = 440.0, level: float = 0.5, channels: Sequence[float] = (1.0,)
) -> np.ndarray:
    """float32 (C, N): a sine in every channel, multiplied by that channel's gain."""
    wave = level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.outer(np.asarray(channels), wave).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    """A video stream: what is shown from when on."""

    times_ms: Sequence[int]
    images: Sequence[np.ndarray] | None = None
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    options: dict[str, str] = dataclasses.field(default_factory=lambda: {"crf": "10", "preset": "ultrafast"})
    pixel_aspect: Fraction | None = None
    rate: Fraction = Fraction(10)
    time_base: Fraction = Fraction(1, 1000)

    def image(self, index: int) -> np.ndarray:
        return grey(index) if self.images is None else self.images[index]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sound:
    """An audio stream: float32 (C, N) that begins at `start_ms`."""

    samples: np.ndarray
    rate: int = 48_000
    layout: str = "mono"
    codec: str = "aac"
    start_ms: int = 0
    gap_at: int | None = None
    """After this many samples ..."""
    gap_ms: int = 0
    """... the timestamps jump by this much."""


def steady(seconds: float, fps: int = 10, start_ms: int = 0) -> list[int]:
    """Times in milliseconds of a constant frame rate."""
    return [start_ms + round(1000 * index / fps) for index in range(round(seconds * fps))]


def write(
    path: Path,
    pictures: Pictures | Sequence[Pictures] | None = None,
    sound: Sound | Sequence[Sound] | None = None,
    *,
    container: str | None = None,
    muxer_options: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> Path:
    """Encode streams into one file, packets interleaved by time."""
    videos = [pictures] if isinstance(pictures, Pictures) else list(pictures or ())
    sounds = [sound] if isinstance(sound, Sound) else list(sound or ())
    with av.open(str(path), "w", format=container, options=muxer_options or {}) as output:
        output.metadata.update(tags or {})
        encoders = [_video_encoder(output, item) for item in videos] + [_audio_encoder(output, item) for item in sounds]
        packets = [packet for encode in encoders for packet in encode()]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)
    return path


def _video_encoder(output, pictures):
    stream = output.add_stream(pictures.codec, rate=pictures.rate, options=dict(pictures.options))
    first = pictures.image(0)
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = pictures.pixel_format
    stream.codec_context.time_base = pictures.time_base
    if pictures.pixel_aspect is not None:
        stream.codec_context.sample_aspect_ratio = pictures.pixel_aspect

    def encode():
        packets = []
        for index, time_ms in enumerate(pictures.times_ms):
            frame = av.VideoFrame.from_ndarray(pictures.image(index), format="rgb24")
            frame.pts = round(Fraction(time_ms, 1000) / pictures.time_base)
            frame.time_base = pictures.time_base
            packets += stream.encode(frame)
        return packets + stream.encode()

    return encode


def _audio_encoder(output, sound):
    stream = output.add_stream(sound.codec, rate=sound.rate, layout=sound.layout)

    def encode():
        packets = []
        start = round(sound.start_ms * sound.rate / 1000)
        resampler = None
        for begin in range(0, sound.samples.shape[1], 960):
            piece = np.ascontiguousarray(sound.samples[:, begin : begin + 960])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=sound.layout)
            frame.sample_rate = sound.rate
            frame.time_base = Fraction(1, sound.rate)
            jump = round(sound.gap_ms * sound.rate / 1000) if sound.gap_at is not None and begin >= sound.gap_at else 0
            frame.pts = start + begin + jump
            if sound.codec.startswith(("pcm", "flac")):
                # These coders take frames of any size, so gaps survive; others re-pack them.
                target = "s32" if sound.codec == "flac" else stream.format.name
                resampler = resampler or av.AudioResampler(format=stream.format.name or target)
                for converted in resampler.resample(frame):
                    packets += stream.encode(converted)
            else:
                packets += stream.encode(frame)
        return packets + stream.encode()

    return encode


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write (a, b, c, d) into the display matrix of an MP4's first track: (x, y) is shown at (ax + cy, bx + dy)."""
    data = bytearray(path.read_bytes())
    # tkhd, version 0: 40 bytes of times, ids and layers stand before the matrix a b u c d v x y w.
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (entry * 65536 for entry in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))
    return path
