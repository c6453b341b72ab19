"""Which streams of a file are used, and the timeline they share.

The timeline is the player's: its zero is the start of the earliest audio or video stream. Cover
pictures, subtitles and data streams are not media here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeVar

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

_StreamT = TypeVar("_StreamT", VideoStream, AudioStream)


class Clock:
    """Turns a stream's integer timestamps into seconds on the timeline, rounding once."""

    def __init__(self, time_base: Fraction, zero: Fraction) -> None:
        self.tick_seconds = float(time_base)
        self._scale = time_base.numerator * zero.denominator
        self._offset = zero.numerator * time_base.denominator
        self._divisor = time_base.denominator * zero.denominator

    def seconds(self, timestamp: int) -> float:
        # Division of Python integers is correctly rounded, so 1/3 s is the float nearest to 1/3.
        return (timestamp * self._scale - self._offset) / self._divisor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Streams:
    """The streams of one opened file that make up the clip."""

    video: VideoStream | None
    audio: AudioStream | None
    zero: Fraction
    """Raw timestamp (seconds) of the timeline's zero."""
    warnings: tuple[str, ...] = ()

    def clock(self, stream: Stream) -> Clock:
        assert stream.time_base is not None
        return Clock(stream.time_base, self.zero)

    def start_seconds(self, stream: Stream | None) -> float | None:
        """Where the header says that the stream begins."""
        if stream is None or stream.start_time is None:
            return None
        return self.clock(stream).seconds(stream.start_time)

    def end_seconds(self, stream: Stream | None) -> float | None:
        """Where the header says that the stream ends; None when it does not say."""
        if stream is None or not stream.duration:
            return None
        return self.clock(stream).seconds((stream.start_time or 0) + stream.duration)


def choose_streams(container: InputContainer) -> Streams:
    """The video and audio stream a player would show (FFmpeg's "best" stream), all others switched off."""
    warnings: list[str] = []
    pictures = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    video = _best(container, pictures, None, warnings)
    audio = _best(container, list(container.streams.audio), video, warnings)
    zero = _timeline_zero(container, [*pictures, *container.streams.audio])
    for stream in container.streams:
        if stream is not video and stream is not audio:
            stream.discard = Discard.all
    return Streams(video=video, audio=audio, zero=zero, warnings=tuple(warnings))


def _best(
    container: InputContainer, candidates: list[_StreamT], related: Stream | None, warnings: list[str]
) -> _StreamT | None:
    if not candidates:
        return None
    decodable = [stream for stream in candidates if stream.codec_context is not None] or candidates
    kind = candidates[0].type
    assert kind in ("video", "audio")
    best = container.streams.best("video" if kind == "video" else "audio", related=related)
    chosen = next((stream for stream in decodable if best is not None and stream.index == best.index), decodable[0])
    if len(candidates) > 1:
        warnings.append(f"{len(candidates)} {kind} streams in the file; used stream {chosen.index}")
    return chosen


def _timeline_zero(container: InputContainer, streams: Sequence[Stream]) -> Fraction:
    starts = [
        stream.start_time * stream.time_base
        for stream in streams
        if stream.start_time is not None and stream.time_base is not None
    ]
    if starts:
        return min(starts)
    return Fraction(container.start_time or 0, 1_000_000)


def codec_name(stream: VideoStream | AudioStream | None) -> str | None:
    """FFmpeg's name of the codec; None without a stream."""
    if stream is None:
        return None
    # FFmpeg passes no name on for a codec it has no decoder for.
    return stream.codec_context.codec.canonical_name if stream.codec_context is not None else "unknown"
