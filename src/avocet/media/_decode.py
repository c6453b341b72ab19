"""The one pass over a file: packets in, kept pictures and sound out."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import cast

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame

from avocet.errors import MediaError
from avocet.media._packets import Health, PacketSource, decode_packet, frame_seconds, packet_seconds
from avocet.media._picture import Orientation, PictureWriter
from avocet.media._sampling import FrameSelector, Grid
from avocet.media._sound import SoundTrack
from avocet.media._source import DECODE_TIMES_ONLY, EXACT_SEEK, Watchdog, container_names, describe
from avocet.media._streams import Streams

_SEEK_LEAD_SECONDS = 1.0
"""How far before the interval decoding starts: audio codecs need some packets to settle."""

_INTERLEAVING_SECONDS = 30.0
"""How far one stream is read past the interval while another has not reached its end yet."""

_BACKWARD_JUMP_SECONDS = 1.0
"""Timestamps that step back further than this are a second timeline, not a damaged frame."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a pass is asked for."""

    path: str
    start_seconds: float
    end_seconds: float
    """May be infinite."""
    grid: Grid
    num_frames: int
    """How many frames to expect."""
    max_pixels: int | None


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
    container: InputContainer, streams: Streams, wanted: Wanted, watchdog: Watchdog, allow_seek: bool = True
) -> Decoded:
    """Decode what is shown and heard in the interval, in one pass that stops as early as it can.

    Raises `MediaError` for video whose timestamps run backwards and for a watchdog that runs out.
    """
    seeked = allow_seek and _seek(container, streams, wanted.start_seconds)
    video = None
    if streams.video is not None:
        counted = bool(container_names(container) & DECODE_TIMES_ONLY)
        video = _VideoReader(streams, wanted, seeked, counted)
    audio = None
    if streams.audio is not None and streams.audio.codec_context is not None:
        audio = _AudioReader(streams, wanted, seeked)
    readers = {reader.stream.index: reader for reader in (video, audio) if reader is not None}
    source = PacketSource(container, [reader.stream for reader in readers.values()])
    reached = -math.inf
    for packet in source.packets():
        reader = readers[packet.stream.index]
        reader.feed(packet)
        reached = max(reached, reader.reached_seconds)
        watchdog.check(reached - wanted.start_seconds)
        if reader.landed_late:
            break
        if reader.finished:
            too_far = reached > wanted.end_seconds + _INTERLEAVING_SECONDS
            if too_far or all(other.finished for other in readers.values()):
                break
    return _gather(video, audio, source.error)


def _gather(video: _VideoReader | None, audio: _AudioReader | None, read_error: str | None) -> Decoded:
    waveform, audio_end, channel_peak = np.zeros(0, dtype=np.float32), None, 0.0
    if audio is not None:
        waveform = audio.sound.waveform(audio.packet_end_limit())
        audio_end, channel_peak = audio.sound.end_seconds, audio.sound.channel_peak
    if video is not None:
        video.close(audio_end)
    pictures = video.pictures if video is not None else None
    return Decoded(
        frames=pictures.frames() if pictures else np.zeros((0, 3, 0, 0), dtype=np.uint8),
        frame_times_seconds=np.asarray(video.kept_times if video else [], dtype=np.float64),
        waveform=waveform,
        video_end_seconds=video.end_seconds if video else None,
        audio_end_seconds=audio_end,
        channel_peak=channel_peak,
        orientation=pictures.orientation if pictures else Orientation(),
        shown_size=pictures.shown_size if pictures else None,
        video_health=video.health if video else Health(),
        audio_health=audio.health if audio else Health(),
        read_error=read_error,
        landed_late=(video is not None and video.landed_late) or (audio is not None and audio.landed_late),
        warnings=_warnings(video, audio),
    )


class _VideoReader:
    """Selects and converts the frames of the video stream."""

    def __init__(self, streams: Streams, wanted: Wanted, seeked: bool, counted: bool) -> None:
        assert streams.video is not None
        self.stream = streams.video
        self.stream.thread_type = "AUTO"
        self.health = Health()
        self.selector = FrameSelector(wanted.grid, wanted.end_seconds)
        self.pictures = PictureWriter(self.stream.sample_aspect_ratio, wanted.max_pixels, wanted.num_frames)
        self.kept_times: list[float] = []
        self.reached_seconds = -math.inf
        self.finished = False
        self.landed_late = False
        # The n-th frame shown takes the n-th packet's time where packets carry no other times.
        self._counted = counted
        self._decode_times: deque[float] = deque()
        self._path = wanted.path
        self._clock = streams.clock(self.stream)
        self._start = wanted.start_seconds
        self._end = wanted.end_seconds
        self._stream_start = streams.start_seconds(self.stream)
        self._seeked = seeked
        self._frame_seconds = frame_seconds(self.stream)
        self._pending: VideoFrame | None = None
        self._pending_time = -math.inf
        self._pending_duration = 0.0

    @property
    def end_seconds(self) -> float | None:
        return None if self._pending is None else self._pending_time + self._pending_duration

    def feed(self, packet: Packet[Stream]) -> None:
        self.reached_seconds = max(self.reached_seconds, packet_seconds(packet, self._clock))
        if self.finished:
            return
        inside = packet.size > 0 and packet_seconds(packet, self._clock) >= self._start
        self.health.num_packets += inside
        if packet.size > 0 and packet.dts is not None and self._counted:
            self._decode_times.append(self._clock.seconds(packet.dts))
        for frame in decode_packet(packet, self.health, count_failure=inside):
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

    def __init__(self, streams: Streams, wanted: Wanted, seeked: bool) -> None:
        assert streams.audio is not None
        self.stream = streams.audio
        self.health = Health()
        self.reached_seconds = -math.inf
        self.finished = False
        self.landed_late = False
        self._clock = streams.clock(self.stream)
        self._start = wanted.start_seconds
        self._end = wanted.end_seconds
        self._stream_start = streams.start_seconds(self.stream)
        self._seeked = seeked
        self.sound = SoundTrack(self._clock, self._start, self._end, self._stream_start)
        self._packet_end: float | None = None
        self._frame_seconds = 0.0

    def feed(self, packet: Packet[Stream]) -> None:
        time = packet_seconds(packet, self._clock)
        self.reached_seconds = max(self.reached_seconds, time)
        if self.finished:
            return
        if packet.size > 0:
            self._packet_end = time + packet.duration * self._clock.tick_seconds if packet.duration else None
        inside = packet.size > 0 and time >= self._start
        self.health.num_packets += inside
        for frame in decode_packet(packet, self.health, count_failure=inside):
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
