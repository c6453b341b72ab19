"""What a media file says about itself, without decoding it.

Only the first picture is decoded, because no header that FFmpeg passes on carries the rotation; and
a file whose header states no duration has its packets read, still without decoding.
"""

from __future__ import annotations

import os
import re
from typing import cast

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from avocet.errors import MediaError
from avocet.media._packets import Health, PacketSource, decode_packet, scan_end
from avocet.media._picture import Orientation, PictureWriter
from avocet.media._source import (
    DURATION_COUNTS_FROM_ZERO,
    TRUSTED_DURATION,
    Watchdog,
    container_names,
    open_container,
)
from avocet.media._still import is_still, probe_still
from avocet.media._streams import Streams, choose_streams, codec_name
from avocet.records import SourceFacts

_LATE_START_SECONDS = 0.05
"""A first timestamp past this makes durations ambiguous that may or may not count from timestamp 0."""

_CLOCK_TIME = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


def probe(path: str | os.PathLike[str], *, timeout_seconds: float = 120.0) -> SourceFacts:
    """Read the header of a file or URL: container, streams, times, picture size and tags.

    Times are seconds on the timeline that begins with the earliest stream. A file whose pictures cannot
    be decoded is still described; `open_clip` is what refuses it. A still image has `is_image` set, lasts
    0 seconds and has no times. Raises `MediaError` naming file, stream and reason when there is nothing readable.
    """
    name = os.fsdecode(path)
    watchdog = Watchdog(name, timeout_seconds)
    with open_container(name, watchdog) as container:
        if is_still(container):
            return probe_still(name, container)
        streams = choose_streams(container)
        require_media(name, streams)
        end = header_end(container, streams)
        if end is None:
            end = read_to_end(name, watchdog)
        picture = _first_picture(container, streams, watchdog)
        orientation = picture.orientation if picture else Orientation()
        return source_facts(name, container, streams, end, orientation, picture.shown_size if picture else None)


def require_media(path: str, streams: Streams) -> None:
    if streams.video is None and streams.audio is None:
        raise MediaError(path, "container", "holds neither a video nor an audio stream")


def header_end(container: InputContainer, streams: Streams) -> float | None:
    """Where the header says (or FFmpeg estimates) that the file ends, from the timeline's zero; else None."""
    if not container.duration or _counted_from_elsewhere(container, streams):
        return None
    return container.duration / 1_000_000


def duration_is_stated(container: InputContainer, streams: Streams) -> bool:
    """Whether `header_end` is a statement of the header rather than an estimate."""
    return header_end(container, streams) is not None and bool(container_names(container) & TRUSTED_DURATION)


def _counted_from_elsewhere(container: InputContainer, streams: Streams) -> bool:
    late = streams.zero > _LATE_START_SECONDS
    return late and bool(container_names(container) & DURATION_COUNTS_FROM_ZERO)


def read_to_end(path: str, watchdog: Watchdog) -> float:
    """The end of a file without a duration, by reading its packets. Raises `MediaError` if there are none."""
    with open_container(path, watchdog) as container:
        end = scan_end(container, choose_streams(container), watchdog)
    if end is None or end <= 0:
        raise MediaError(path, "container", "no packet could be read; the file ends after its header")
    return end


def source_facts(
    path: str,
    container: InputContainer,
    streams: Streams,
    end_seconds: float,
    orientation: Orientation,
    shown_size: tuple[int, int] | None,
) -> SourceFacts:
    """Gather the facts; `shown_size` is (width, height) after rotation, None when no picture was decoded."""
    video, audio = streams.video, streams.audio
    width, height = shown_size or (None, None)
    if video is not None and video.codec_context is not None and shown_size is None:
        width, height = video.codec_context.width or None, video.codec_context.height or None
    rate = (video.average_rate or video.guessed_rate) if video is not None else None
    sound = audio.codec_context if audio is not None else None
    return SourceFacts(
        path=path,
        container=container.format.name,
        duration_seconds=end_seconds,
        start_time_seconds=float(streams.zero),
        video_codec=codec_name(video),
        width=width,
        height=height,
        average_fps=float(rate) if rate else None,
        rotation_degrees=orientation.rotation_degrees,
        video_start_seconds=streams.start_seconds(video),
        video_end_seconds=_stream_end(streams, video),
        audio_codec=codec_name(audio),
        audio_sample_rate=(sound.sample_rate or None) if sound is not None else None,
        audio_channels=(sound.channels or None) if sound is not None else None,
        audio_start_seconds=streams.start_seconds(audio),
        audio_end_seconds=_stream_end(streams, audio),
        tags={str(key): str(value) for key, value in container.metadata.items()},
    )


def _stream_end(streams: Streams, stream: VideoStream | AudioStream | None) -> float | None:
    end = streams.end_seconds(stream)
    if end is None and stream is not None and streams.zero <= _LATE_START_SECONDS:
        # Matroska muxers write the end of each stream as a tag.
        written = _CLOCK_TIME.fullmatch(stream.metadata.get("DURATION", ""))
        if written:
            hours, minutes, seconds = written.groups()
            end = int(hours) * 3600 + int(minutes) * 60 + float(seconds) - float(streams.zero)
    return end


def _first_picture(container: InputContainer, streams: Streams, watchdog: Watchdog) -> PictureWriter | None:
    """Decode up to the first picture, which alone carries the rotation; None when none decodes."""
    stream = streams.video
    if stream is None or stream.codec_context is None:
        return None
    health = Health()
    for packet in PacketSource(container, [stream]).packets():
        watchdog.check(0.0)
        for frame in decode_packet(packet, health):
            pictures = PictureWriter(stream.sample_aspect_ratio, None, 0)
            pictures.look(cast(VideoFrame, frame))
            return pictures
    return None
