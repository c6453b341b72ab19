"""Packets of a file, read past damage in the container and decoded with a count of what was damaged."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from avocet.media._source import Watchdog, describe
from avocet.media._streams import Clock, Streams

_MAX_READ_ERRORS = 20
"""Errors in a row after which reading stops."""


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


class PacketSource:
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
            yield flush_packet(stream)


def decode_packet(packet: Packet[Stream], health: Health, count_failure: bool = True) -> Sequence[object]:
    try:
        return packet.decode()
    except av.error.EOFError:
        return []
    except av.error.FFmpegError as error:
        if count_failure:
            health.num_failed += 1
            health.last_error = describe(error)
        return []


def packet_seconds(packet: Packet[Stream], clock: Clock) -> float:
    timestamp = packet.pts if packet.pts is not None else packet.dts
    return clock.seconds(timestamp) if timestamp is not None else -math.inf


def flush_packet(stream: Stream) -> Packet[Stream]:
    """The packet that makes a decoder hand out what it still holds."""
    packet: Packet[Stream] = Packet()
    packet.stream = stream
    return packet


def frame_seconds(stream: VideoStream) -> float:
    rate = stream.guessed_rate or stream.average_rate
    return float(1 / rate) if rate else 0.04


def scan_end(container: InputContainer, streams: Streams, watchdog: Watchdog) -> float | None:
    """Where the file ends, found by reading all packets without decoding; for files whose header does not say.

    Packets without timestamps are counted at the stream's frame rate. None for a file without packets.
    """
    used = [stream for stream in (streams.video, streams.audio) if stream is not None]
    clocks = {stream.index: streams.clock(stream) for stream in used}
    end, untimed = -math.inf, 0
    for packet in PacketSource(container, used).packets():
        clock = clocks[packet.stream.index]
        timestamp = packet.pts if packet.pts is not None else packet.dts
        if packet.size and timestamp is not None:
            end = max(end, clock.seconds(timestamp + (packet.duration or 0)))
        elif packet.size and packet.stream is streams.video:
            untimed += 1
        watchdog.check(max(end, 0.0))
    if untimed and streams.video is not None:
        end = max(end, untimed * frame_seconds(streams.video))
    return end if math.isfinite(end) else None
