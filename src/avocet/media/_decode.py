"""The one pass over a file: packets in, kept pictures and sound out."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import cast

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from avocet.errors import MediaError
from avocet.media._picture import Orientation, PictureWriter
from avocet.media._sampling import FrameSelector, Grid
from avocet.media._sound import SoundTrack
from avocet.media._source import DECODE_TIMES_ONLY, EXACT_SEEK, Watchdog, container_names, describe
from avocet.media._streams import Clock, Streams

_SEEK_LEAD_SECONDS = 1.0
"""How far before the interval decoding starts: audio codecs need some packets to settle."""

_INTERLEAVING_SECONDS = 30.0
"""How far one stream is read past the interval while another has not reached its end yet."""

_BACKWARD_JUMP_SECONDS = 1.0
"""Timestamps that step back further than this are a second timeline, not a damaged frame."""

_MAX_READ_ERRORS = 20


@dataclasses.dataclass
class Health:
    """What of one stream could be decoded inside the interval."""

    num_packets: int = 0
    num_failed: int = 0
    num_corrupt: int = 0
    """Frames that the decoder itself marks as damaged."""
    num_misplaced: int = 0
    """Frames left out because their time does not come after the frame before."""
    last_error: str | None = None

    @property
    def num_damaged(self) -> int:
        return self.num_failed + self.num_corrupt + self.num_misplaced

    @property
    def mostly_damaged(self) -> bool:
        return self.num_packets > 0 and 2 * self.num_damaged > self.num_packets

    def summary(self) -> str:
        reason = f" ({self.last_error})" if self.last_error else ""
        return f"{self.num_damaged} of {self.num_packets} packets are damaged{reason}"


@dataclasses.dataclass(kw_only=True)
class Decoded:
    """The outcome of one pass."""

    frames: np.ndarray
    frame_times_seconds: np.ndarray
    waveform: np.ndarray
    """Empty when no sound lies in the interval."""
    video_end_seconds: float | None
    """Where the decoded video ends (its end, or somewhere past the interval's end)."""
    audio_end_seconds: float | None
    channel_peak: float
    orientation: Orientation
    shown_size: tuple[int, int] | None
    video_health: Health
    audio_health: Health
    read_error: str | None
    landed_late: bool
    """Whether the seek led past the interval's start; the pass must be repeated without it."""
    warnings: tuple[str, ...]


def decode_interval(
    container: InputContainer,
    streams: Streams,
    path: str,
    start_seconds: float,
    end_seconds: float,
    grid: Grid,
    capacity: int,
    max_pixels: int | None,
    watchdog: Watchdog,
    allow_seek: bool = True,
) -> Decoded:
    """Decode what is shown and heard in [start, end), in one pass that stops as early as it can.

    Raises `MediaError` for video whose timestamps run backwards and for a watchdog that runs out.
    """
    seeked = allow_seek and _seek(container, streams, start_seconds)
    video = None
    if streams.video is not None:
        video = _VideoReader(path, streams, start_seconds, end_seconds, grid, capacity, max_pixels, seeked)
        video.count_times = bool(container_names(container) & DECODE_TIMES_ONLY)
    audio = None
    if streams.audio is not None and streams.audio.codec_context is not None:
        audio = _AudioReader(streams, start_seconds, end_seconds, seeked)
    readers = {reader.stream.index: reader for reader in (video, audio) if reader is not None}
    source = _PacketSource(container, [reader.stream for reader in readers.values()])
    reached = -math.inf
    for packet in source.packets():
        reader = readers[packet.stream.index]
        reader.feed(packet)
        reached = max(reached, reader.reached_seconds)
        watchdog.check(reached - start_seconds)
        if reader.finished and (
            reached > end_seconds + _INTERLEAVING_SECONDS or all(other.finished for other in readers.values())
        ):
            break
        if reader.landed_late:
            break
    pictures = video.pictures if video is not None else None
    sound = audio.sound if audio is not None else None
    waveform = sound.waveform(audio.packet_end_limit()) if audio and sound else np.zeros(0, dtype=np.float32)
    audio_end = sound.end_seconds if sound else None
    if video is not None:
        video.close(audio_end)
    return Decoded(
        frames=pictures.frames() if pictures else np.zeros((0, 3, 0, 0), dtype=np.uint8),
        frame_times_seconds=np.asarray(video.kept_times if video else [], dtype=np.float64),
        waveform=waveform,
        video_end_seconds=video.end_seconds if video else None,
        audio_end_seconds=audio_end,
        channel_peak=sound.channel_peak if sound else 0.0,
        orientation=pictures.orientation if pictures else Orientation(),
        shown_size=pictures.shown_size if pictures else None,
        video_health=video.health if video else Health(),
        audio_health=audio.health if audio else Health(),
        read_error=source.error,
        landed_late=(video is not None and video.landed_late) or (audio is not None and audio.landed_late),
        warnings=_warnings(video, audio),
    )


def scan_end(container: InputContainer, streams: Streams, watchdog: Watchdog) -> float | None:
    """Where the file ends, found by reading all packets without decoding; for files whose header does not say.

    Packets without timestamps are counted at the stream's frame rate. None for a file without packets.
    """
    used = [stream for stream in (streams.video, streams.audio) if stream is not None]
    clocks = {stream.index: streams.clock(stream) for stream in used}
    end, untimed = -math.inf, 0
    for packet in _PacketSource(container, used).packets():
        clock = clocks[packet.stream.index]
        timestamp = packet.pts if packet.pts is not None else packet.dts
        if packet.size and timestamp is not None:
            end = max(end, clock.seconds(timestamp + (packet.duration or 0)))
        elif packet.size and packet.stream is streams.video:
            untimed += 1
        watchdog.check(max(end, 0.0))
    if untimed and streams.video is not None:
        end = max(end, untimed * _frame_seconds(streams.video))
    return end if math.isfinite(end) else None


def first_picture(container: InputContainer, streams: Streams, watchdog: Watchdog) -> PictureWriter | None:
    """Decode up to the first picture, which alone carries the rotation; None when none decodes."""
    stream = streams.video
    if stream is None or stream.codec_context is None:
        return None
    health = Health()
    for packet in _PacketSource(container, [stream]).packets():
        watchdog.check(0.0)
        for frame in _decode_packet(packet, health):
            pictures = PictureWriter(stream.sample_aspect_ratio, None, 0)
            pictures.look(cast(VideoFrame, frame))
            return pictures
    return None


class _PacketSource:
    """The packets of some streams, reading on past damage in the container."""

    def __init__(self, container: InputContainer, streams: list[VideoStream | AudioStream]) -> None:
        self._container = container
        self._streams = streams
        self.error: str | None = None
        """Why reading stopped before the end of the file."""

    def packets(self) -> Iterator[Packet[Stream]]:
        errors_in_a_row = 0
        while self._streams:
            try:
                for packet in self._container.demux(self._streams):
                    errors_in_a_row = 0
                    yield packet
                return
            except av.error.InvalidDataError as error:
                errors_in_a_row += 1
                if errors_in_a_row > _MAX_READ_ERRORS:
                    self.error = describe(error)
                    break
        for stream in self._streams:
            yield _flush_packet(stream)


class _VideoReader:
    """Selects and converts the frames of the video stream."""

    def __init__(
        self,
        path: str,
        streams: Streams,
        start_seconds: float,
        end_seconds: float,
        grid: Grid,
        capacity: int,
        max_pixels: int | None,
        seeked: bool,
    ) -> None:
        assert streams.video is not None
        self.stream = streams.video
        self.stream.thread_type = "AUTO"
        self.health = Health()
        self.selector = FrameSelector(grid, end_seconds)
        self.pictures = PictureWriter(self.stream.sample_aspect_ratio, max_pixels, capacity)
        self.kept_times: list[float] = []
        self.reached_seconds = -math.inf
        self.finished = False
        self.landed_late = False
        self.count_times = False
        """Whether the n-th frame shown takes the n-th packet's time, because packets carry no other times."""
        self._decode_times: deque[float] = deque()
        self._path = path
        self._clock = streams.clock(self.stream)
        self._start = start_seconds
        self._end = end_seconds
        self._stream_start = streams.start_seconds(self.stream)
        self._seeked = seeked
        self._frame_seconds = _frame_seconds(self.stream)
        self._pending: VideoFrame | None = None
        self._pending_time = -math.inf
        self._pending_duration = 0.0

    @property
    def end_seconds(self) -> float | None:
        return None if self._pending is None else self._pending_time + self._pending_duration

    def feed(self, packet: Packet[Stream]) -> None:
        self.reached_seconds = max(self.reached_seconds, _packet_seconds(packet, self._clock))
        if self.finished:
            return
        inside = packet.size > 0 and _packet_seconds(packet, self._clock) >= self._start
        self.health.num_packets += inside
        if packet.size > 0 and packet.dts is not None and self.count_times:
            self._decode_times.append(self._clock.seconds(packet.dts))
        for frame in _decode_packet(packet, self.health, count_failure=inside):
            self._take(cast(VideoFrame, frame))

    def close(self, sound_end_seconds: float | None) -> None:
        """Decide on the last frame: it stays on the screen until the sound ends, too."""
        if self._pending is not None and not self.finished and not self.landed_late:
            own_end = self._pending_time + self._pending_duration
            self._keep_if_shown(own_end if sound_end_seconds is None else max(own_end, sound_end_seconds))

    def _take(self, frame: VideoFrame) -> None:
        time = self._time_of(frame)
        if time <= self._pending_time:
            if time < self._pending_time - _BACKWARD_JUMP_SECONDS:
                raise MediaError(
                    self._path,
                    "video",
                    f"timestamps jump back from {self._pending_time:.3f} s to {time:.3f} s; "
                    "the file joins several recordings, re-mux it to give it one timeline",
                )
            self.health.num_misplaced += time >= self._start
            return
        if self._pending is None:
            self.pictures.look(frame)
            late = self._seeked and time > self._start and time > (self._stream_start or 0.0) + self._frame_seconds
            self.landed_late = late
        elif not self.finished:
            self._keep_if_shown(time)
        self.health.num_corrupt += frame.is_corrupt and time >= self._start
        self._pending, self._pending_time = frame, time
        self._pending_duration = frame.duration * self._clock.tick_seconds if frame.duration else self._frame_seconds
        self.finished = self.finished or time >= self._end

    def _keep_if_shown(self, until_seconds: float) -> None:
        assert self._pending is not None
        if self._pending_time < self._end and self.selector.shown_at_target(until_seconds):
            self.pictures.add(self._pending)
            self.kept_times.append(self._pending_time)

    def _time_of(self, frame: VideoFrame) -> float:
        if self._decode_times:
            return self._decode_times.popleft()
        timestamp = frame.pts if frame.pts is not None else frame.dts
        if timestamp is not None:
            return self._clock.seconds(timestamp)
        return 0.0 if self._pending is None else self._pending_time + self._pending_duration


class _AudioReader:
    """Feeds the audio stream into a `SoundTrack`."""

    def __init__(self, streams: Streams, start_seconds: float, end_seconds: float, seeked: bool) -> None:
        assert streams.audio is not None
        self.stream = streams.audio
        self.health = Health()
        self.reached_seconds = -math.inf
        self.finished = False
        self.landed_late = False
        self._clock = streams.clock(self.stream)
        self._start = start_seconds
        self._end = end_seconds
        self._stream_start = streams.start_seconds(self.stream)
        self._seeked = seeked
        self.sound = SoundTrack(self._clock, start_seconds, end_seconds, self._stream_start)
        self._packet_end: float | None = None
        self._frame_seconds = 0.0

    def feed(self, packet: Packet[Stream]) -> None:
        time = _packet_seconds(packet, self._clock)
        self.reached_seconds = max(self.reached_seconds, time)
        if self.finished:
            return
        if packet.size > 0:
            self._packet_end = time + packet.duration * self._clock.tick_seconds if packet.duration else None
        inside = packet.size > 0 and time >= self._start
        self.health.num_packets += inside
        for frame in _decode_packet(packet, self.health, count_failure=inside):
            self._take(cast(AudioFrame, frame))

    def packet_end_limit(self) -> float | None:
        """Where the last packet ends, if that cuts the last decoded frame short (an MP4 edit list does)."""
        end = self.sound.end_seconds
        if self._packet_end is None or end is None:
            return None
        surplus = end - self._packet_end
        return self._packet_end if 2 * self._clock.tick_seconds < surplus < 1.5 * self._frame_seconds else None

    def _take(self, frame: AudioFrame) -> None:
        if self._seeked and self.sound.end_seconds is None and frame.pts is not None:
            time = self._clock.seconds(frame.pts)
            self.landed_late = time > self._start and time > (self._stream_start or 0.0) + _SEEK_LEAD_SECONDS
        self._frame_seconds = frame.samples / frame.sample_rate if frame.sample_rate else 0.0
        try:
            self.sound.add(frame, self._seeked)
        except (av.error.FFmpegError, ValueError) as error:
            # Decoded, but in a layout or format that cannot be mixed to mono.
            self.health.num_failed += 1
            self.health.last_error = describe(error)
            return
        end = self.sound.end_seconds
        self.finished = end is not None and end >= self._end


def _decode_packet(packet: Packet[Stream], health: Health, count_failure: bool = True) -> Sequence[object]:
    try:
        return packet.decode()
    except av.error.EOFError:
        return []
    except av.error.FFmpegError as error:
        if count_failure:
            health.num_failed += 1
            health.last_error = describe(error)
        return []


def _seek(container: InputContainer, streams: Streams, start_seconds: float) -> bool:
    """Go to a keyframe well before the interval, if the container can do that exactly."""
    target = start_seconds - _SEEK_LEAD_SECONDS
    if target <= 0 or not container_names(container) & EXACT_SEEK:
        return False
    try:
        container.seek(math.floor((float(streams.zero) + target) * 1_000_000), backward=True)
    except av.error.FFmpegError:
        return False
    return True


def _packet_seconds(packet: Packet[Stream], clock: Clock) -> float:
    timestamp = packet.pts if packet.pts is not None else packet.dts
    return clock.seconds(timestamp) if timestamp is not None else -math.inf


def _flush_packet(stream: Stream) -> Packet[Stream]:
    packet: Packet[Stream] = Packet()
    packet.stream = stream
    return packet


def _frame_seconds(stream: VideoStream) -> float:
    rate = stream.guessed_rate or stream.average_rate
    return float(1 / rate) if rate else 0.04


def _warnings(video: _VideoReader | None, audio: _AudioReader | None) -> tuple[str, ...]:
    warnings: list[str] = []
    if video is not None:
        warnings += video.pictures.warnings
        if video.health.num_damaged:
            warnings.append(f"video: {video.health.summary()}")
    if audio is not None:
        if audio.health.num_damaged:
            warnings.append(f"audio: {audio.health.summary()}")
        if audio.sound.num_gaps:
            warnings.append(f"audio: {audio.sound.num_gaps} gaps or jumps in its timestamps; gaps are silent")
    return tuple(warnings)
