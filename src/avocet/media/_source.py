"""Open a media file for FFmpeg: safely, with a watchdog, and with one-line errors.

A clip is one regular file (or one http/https download). Playlists, concatenation scripts, image
sequences and devices are refused by a list of allowed containers, so a text file that came with a
data set cannot make FFmpeg open other files or addresses. Still images are read by demuxers that
take one picture from the file given; `image2`, which takes names for patterns, is not among them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import stat
import time
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import av
import av.error
from av.container import InputContainer

from avocet.errors import ConfigError, MediaError
from avocet.media._headers import picture_demuxer

STILL_IMAGES = frozenset({"png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe"})
"""FFmpeg demuxers that read one still image."""

CONTAINERS = (
    "mov,matroska,avi,asf,flv,live_flv,kux,mpegts,mpeg,mpegvideo,mxf,gxf,nut,nsv,ogg,rm,dv,ivf,obu,wtv,gif,apng,"
    "h261,h263,h264,hevc,vvc,av1,vc1,vc1test,m4v,mjpeg,yuv4mpegpipe,"
    "wav,w64,aiff,au,caf,voc,flac,mp3,aac,ac3,eac3,amr,amrnb,amrwb,ape,dts,dtshd,truehd,mlp,mpc,mpc8,oma,tak,tta,wv,"
    "dsf,iff,loas,latm,qcp,shn,spdif,xwma," + ",".join(sorted(STILL_IMAGES))
)
"""FFmpeg demuxers that read exactly one file."""

TRUSTED_DURATION = frozenset({"mov", "matroska", "avi", "asf", "wav", "flac", "mxf"})
"""Containers whose header states the duration; elsewhere FFmpeg estimates it, often from the bit rate."""

DURATION_COUNTS_FROM_ZERO = frozenset({"matroska", "flv", "live_flv"})
"""Containers whose duration some writers count from timestamp 0 and some from the first frame."""

EXACT_SEEK = frozenset({"mov", "matroska"})
"""Containers whose index leads to a keyframe at or before a time, with exact timestamps after it."""

DECODE_TIMES_ONLY = frozenset({"avi"})
"""Containers that store no presentation times; FFmpeg's guesses at them are wrong for B-frames."""

MAX_SOURCE_PIXELS = 250_000_000
"""Pictures with more pixels than this are refused before memory is taken for them. Phones make photos of 200
million pixels, and FFmpeg by itself stops at about 2**28."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class Watchdog:
    """Ends work that makes too little progress.

    The allowed time is `timeout_seconds` plus half the playing time of the media read so far: a long film
    passes as long as it decodes at twice real time, while a trickling or endless stream is cut off.
    Waiting for data is interrupted by FFmpeg's own callback after `timeout_seconds`. What nothing here
    can interrupt: a single call into the operating system that does not return (a hung network disk, a
    name server) and a single packet that takes long to decode.
    """

    def __init__(self, path: str, timeout_seconds: float) -> None:
        if not timeout_seconds > 0:
            raise ConfigError(f"timeout_seconds must be > 0, got {timeout_seconds}")
        self._path = path
        self.timeout_seconds = timeout_seconds
        self._began = time.monotonic()

    def check(self, media_seconds: float) -> None:
        """Raise `MediaError` when the time is up; `media_seconds` is how far the file has been read."""
        elapsed = time.monotonic() - self._began
        if elapsed > self.timeout_seconds and elapsed > self.timeout_seconds + media_seconds / 2:
            raise MediaError(
                self._path,
                "container",
                f"gave up after {elapsed:.1f} s with {max(media_seconds, 0.0):.1f} s of media read; "
                f"raise timeout_seconds (now {self.timeout_seconds:g}) if the source is only slow",
            )


@contextlib.contextmanager
def open_container(path: str, watchdog: Watchdog) -> Iterator[InputContainer]:
    """The opened file. FFmpeg's errors, also those of the body, become a `MediaError` of stream "container"."""
    location = _locate(path)
    # Opening may decode pictures to learn their size, in decoders other than those that the streams offer.
    decoder_options = {"max_pixels": str(MAX_SOURCE_PIXELS)}
    try:
        with av.open(
            location.url,
            "r",
            format=location.demuxer,
            options={"format_whitelist": CONTAINERS, "protocol_whitelist": location.protocols, **decoder_options},
            metadata_errors="replace",
            timeout=watchdog.timeout_seconds,
        ) as container:
            for stream in container.streams.video:
                if stream.codec_context is not None:
                    stream.codec_context.options = decoder_options
            yield container
    except av.error.FFmpegError as error:
        raise MediaError(path, "container", _explain(error, path, watchdog)) from error


def container_names(container: InputContainer) -> frozenset[str]:
    """The short names of the container format, such as {"mov", "mp4", ...}."""
    return frozenset(container.format.name.split(","))


def describe(error: Exception) -> str:
    """The part of an FFmpeg error that a reader can use, on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Location:
    url: str
    """What FFmpeg is given."""
    protocols: str
    """What FFmpeg may read it through."""
    demuxer: str | None = None
    """None leaves the choice to FFmpeg."""


def _locate(path: str) -> _Location:
    """Raises `MediaError` unless `path` is one readable thing."""
    if _URL.match(path):
        parts = urlsplit(path)
        scheme = parts.scheme.lower()
        if scheme in ("http", "https"):
            return _Location(url=path, protocols="http,https,tcp,tls")
        if scheme != "file" or parts.netloc not in ("", "localhost"):
            raise MediaError(
                path, "container", "not a URL that can be opened; give a local path or an http, https or file URL"
            )
        path = unquote(parts.path)
    try:
        path.encode()
        facts = os.stat(path)
    except UnicodeEncodeError as error:
        reason = "its name is not valid UTF-8, which FFmpeg cannot open; rename it"
        raise MediaError(path, "container", reason) from error
    except FileNotFoundError as error:
        raise MediaError(path, "container", "no such file") from error
    except (OSError, ValueError) as error:
        raise MediaError(path, "container", f"cannot be opened: {describe(error)}") from error
    if stat.S_ISDIR(facts.st_mode):
        raise MediaError(path, "container", "this is a folder; give a media file")
    if not stat.S_ISREG(facts.st_mode):
        raise MediaError(path, "container", "not a regular file (a pipe, socket or device); copy it to a file first")
    if facts.st_size == 0:
        raise MediaError(path, "container", "the file is empty (0 bytes)")
    try:
        demuxer = picture_demuxer(path)
    except OSError as error:
        raise MediaError(path, "container", f"cannot be opened: {describe(error)}") from error
    # The prefix keeps a name such as "concat:a|b" from being read as a protocol.
    return _Location(url="file:" + os.path.abspath(path), protocols="file", demuxer=demuxer)


def _explain(error: av.error.FFmpegError, path: str, watchdog: Watchdog) -> str:
    if isinstance(error, av.error.ExitError):
        return (
            f"no data arrived for {watchdog.timeout_seconds:g} s; "
            "check the source, or raise timeout_seconds if it is only slow"
        )
    if isinstance(error, av.error.InvalidDataError):
        return f"not a readable media file: {_sniff(path) or describe(error)}"
    if isinstance(error, av.error.ArgumentError):
        hint = _sniff(path)
        if _URL.match(path) and "%" in path:
            hint = "FFmpeg may take the percent sign in the address for a pattern; download the file first"
        return "not a media file of a supported container; playlists and image sequences are refused" + (
            f" ({hint})" if hint else ""
        )
    return f"cannot be read: {describe(error)}"


def _sniff(path: str) -> str | None:
    """Why a local file may be unreadable, judged by its first bytes."""
    if _URL.match(path):
        return None
    with open(path, "rb") as file:
        head = file.read(4096)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return "an MP4 whose index (moov) is missing or damaged; the file is cut off or was never finished"
    if not any(byte < 9 or 13 < byte < 27 for byte in head):
        return "this is a text file"
    if not any(head):
        return "it begins with zero bytes only"
    return None
