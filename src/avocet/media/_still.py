"""Still images: one picture, no times, no sound.

An image is decoded strictly: what is cut off or damaged is refused, because half of a photo looks like a photo
of something else. Its pixels are taken as square, whatever resolution (dpi) the file states, as viewers do.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from avocet.errors import MediaError
from avocet.media._headers import PictureHeader, read_header
from avocet.media._packets import Health, PacketSource, decode_packet, flush_packet
from avocet.media._picture import Orientation, PictureWriter
from avocet.media._source import MAX_SOURCE_PIXELS, STILL_IMAGES, container_names
from avocet.media._streams import codec_name
from avocet.records import Clip, SourceFacts

_STILL_BRANDS = frozenset({"avif", "heic", "heix", "mif1"})
"""Brands of files in MP4 structure that hold still images (AVIF, HEIC)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Still:
    """A decoded image."""

    frames: np.ndarray
    """uint8 (1, 3, H, W)"""
    facts: SourceFacts
    warnings: tuple[str, ...]


def is_still(container: InputContainer) -> bool:
    """Whether the file is a still image by its format; a GIF or APNG with one frame counts as a video."""
    names = container_names(container)
    return bool(names & STILL_IMAGES) or ("mov" in names and container.metadata.get("major_brand") in _STILL_BRANDS)


def read_still(path: str, container: InputContainer, max_pixels: int | None) -> Still:
    """Decode the image. Raises `MediaError` where it is too large, damaged or of a kind that cannot be decoded."""
    stream, warnings = _only_picture(path, container)
    packet = _first_packet(path, container, stream)
    header = read_header(memoryview(cast(Any, packet)), container.format.name)
    width, height = _stated_size(stream, header) or (0, 0)
    if width * height > MAX_SOURCE_PIXELS:
        reason = f"its header states {width} x {height} pixels; pictures of at most {MAX_SOURCE_PIXELS} are decoded"
        raise MediaError(path, "video", reason)
    frame = _decode(path, container, stream, packet, header)
    pictures = PictureWriter(None, max_pixels, 1)
    pictures.look(frame)
    pictures.add(frame)
    if header is not None and header.has_more_pages:
        warnings.append("the file holds several pages; the first one was used")
    return Still(
        frames=pictures.frames(),
        facts=_facts(path, container, stream, pictures.orientation, pictures.shown_size),
        warnings=(*warnings, *pictures.warnings),
    )


def still_clip(still: Still, fps: float, clip_id: str) -> Clip:
    """The image as a clip of one sampling step, the time that one of its frames stands for."""
    return Clip(
        id=clip_id,
        frames=still.frames,
        frame_times_seconds=np.zeros(1),
        waveform=None,
        start_seconds=0.0,
        duration_seconds=1 / fps,
        audio_status="absent",
        source=still.facts,
        sampling_step_seconds=1 / fps,
        warnings=still.warnings,
    )


def probe_still(path: str, container: InputContainer) -> SourceFacts:
    """What the file says. An image that cannot be decoded is described by its header, before any rotation."""
    stream, _ = _only_picture(path, container)
    packet = _first_packet(path, container, stream)
    header = read_header(memoryview(cast(Any, packet)), container.format.name)
    pictures = PictureWriter(None, None, 1)
    try:
        pictures.look(_decode(path, container, stream, packet, header))
    except MediaError:
        facts = _facts(path, container, stream, Orientation(), _stated_size(stream, header))
        return dataclasses.replace(facts, is_image=header is None or not header.animated)
    return _facts(path, container, stream, pictures.orientation, pictures.shown_size)


def _only_picture(path: str, container: InputContainer) -> tuple[VideoStream, list[str]]:
    """The stream of the picture, and warnings about what is left out."""
    streams = container.streams.video
    colour = [stream for stream in streams if stream.metadata.get("title") != "Alpha"]
    if len(colour) != 1 or colour[0].codec_context is None:
        # Photos in HEIC files are cut into tiles, each a stream; one of them would be a part of the picture.
        reason = f"the picture is stored in {len(colour)} parts" if colour else "there is no picture"
        if len(colour) == 1:
            reason = "there is no decoder for its codec"
        raise MediaError(path, "video", f"{reason}; convert it to JPEG or PNG")
    left_out = len(streams) > len(colour)
    return colour[0], ["the transparency of the picture was left out"] if left_out else []


def _first_packet(path: str, container: InputContainer, stream: VideoStream) -> Packet[Stream]:
    source = PacketSource(container, [stream])
    for packet in source.packets():
        if packet.size:
            return packet
    raise MediaError(path, "video", f"no picture could be read ({source.error or 'the file ends after its header'})")


def _stated_size(stream: VideoStream, header: PictureHeader | None) -> tuple[int, int] | None:
    if header is not None:
        return header.width, header.height
    context = stream.codec_context
    return (context.width, context.height) if context.width and context.height else None


def _decode(
    path: str, container: InputContainer, stream: VideoStream, packet: Packet[Stream], header: PictureHeader | None
) -> VideoFrame:
    if "tiff_pipe" in container_names(container):
        # Its strict mode fails on tags that it does not know, and the other fills what is missing with anything.
        if header is None or header.data_end > packet.size:
            raise MediaError(path, "video", "its tags point past the end of the file; the file is cut off or damaged")
    else:
        # Without "explode" the JPEG decoder fills what is missing with grey and reports nothing.
        stream.codec_context.options = {**stream.codec_context.options, "err_detect": "explode"}
    health = Health()
    frames = [*decode_packet(packet, health), *decode_packet(flush_packet(stream), health)]
    if frames and not cast(VideoFrame, frames[0]).is_corrupt and not health.num_failed:
        return cast(VideoFrame, frames[0])
    if header is not None and header.animated:
        raise MediaError(path, "video", "animated WebP cannot be decoded; convert it to GIF, APNG or MP4")
    reason = f"the picture cannot be decoded ({health.last_error or 'it is incomplete'})"
    raise MediaError(path, "video", f"{reason}; the file is cut off or damaged")


def _facts(
    path: str,
    container: InputContainer,
    stream: VideoStream,
    orientation: Orientation,
    shown_size: tuple[int, int] | None,
) -> SourceFacts:
    width, height = shown_size or (None, None)
    return SourceFacts(
        path=path,
        container=container.format.name,
        duration_seconds=0.0,
        video_codec=codec_name(stream),
        width=width,
        height=height,
        rotation_degrees=orientation.rotation_degrees,
        is_image=True,
        tags={str(key): str(value) for key, value in container.metadata.items()},
    )
