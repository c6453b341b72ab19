"""Headers of still images: which demuxer reads a file, and what size it states, without decoding anything.

FFmpeg guesses by name as well as by content, and takes a name such as `frame%03d.png` for a sequence of files.
Images are therefore recognised here by their first bytes and opened with the demuxer named. The sizes say why
FFmpeg refuses a picture that is too large, which it does without a word.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

_PNG = b"\x89PNG\r\n\x1a\n"

_MOTION_JPEG_SUFFIXES = (".mjpg", ".mjpeg")
"""Names of raw video made of JPEG pictures; any other file that begins like a JPEG is a photo."""

_MAX_CHUNKS = 10_000
"""How many chunks, segments or tags of one header are looked at."""

_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the segments (SOF0 to SOF15) that state the size; the three left out have other meanings."""

_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_OFFSETS, _TIFF_COUNTS = (273, 324), (279, 325)
"""Where strips or tiles begin, and how many bytes they take."""
_TIFF_TAGS = frozenset({_TIFF_WIDTH, _TIFF_HEIGHT, *_TIFF_OFFSETS, *_TIFF_COUNTS})
_TIFF_NUMBERS = {3: "u2", 4: "u4"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureHeader:
    """What the header of a still image states, as stored (before rotation)."""

    width: int
    height: int
    animated: bool = False
    has_more_pages: bool = False
    data_end: int = 0
    """Where the pixels of the first picture end in the file, as far as the header says."""


def picture_demuxer(path: str) -> str | None:
    """The FFmpeg demuxer for a local image file, by its first bytes; None when it is no image known here."""
    with open(path, "rb") as file:
        head = file.read(32)
        if head.startswith(_PNG):
            return "apng" if _is_animated_png(file) else "png_pipe"
    if head.startswith(b"\xff\xd8\xff"):
        return None if os.path.splitext(path)[1].lower() in _MOTION_JPEG_SUFFIXES else "jpeg_pipe"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp_pipe"
    if head.startswith((b"II*\0", b"MM\0*")):
        return "tiff_pipe"
    # Two letters are little to go by; the size of the second header (12 to 124 bytes) has to fit, too.
    if head.startswith(b"BM") and len(head) >= 18 and 12 <= int.from_bytes(head[14:18], "little") <= 124:
        return "bmp_pipe"
    return None


def read_header(data: memoryview, demuxer: str) -> PictureHeader | None:
    """The header of a whole image file, None where it makes no sense."""
    reader = _READERS.get(demuxer)
    if reader is None:
        return None
    try:
        header = reader(data)
    except (struct.error, IndexError, ValueError):
        return None
    return header if header is not None and header.width > 0 and header.height > 0 else None


def _is_animated_png(file: BinaryIO) -> bool:
    """Whether the chunk that announces frames (acTL) comes before the picture (IDAT)."""
    file.seek(len(_PNG))
    for _ in range(_MAX_CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8 or chunk[4:] in (b"IDAT", b"IEND"):
            return False
        if chunk[4:] == b"acTL":
            return True
        file.seek(int.from_bytes(chunk[:4], "big") + 4, os.SEEK_CUR)
    return False


def _png(data: memoryview) -> PictureHeader | None:
    width, height = struct.unpack_from(">II", data, 16)
    return PictureHeader(width=width, height=height) if bytes(data[12:16]) == b"IHDR" else None


def _jpeg(data: memoryview) -> PictureHeader | None:
    at = 2
    for _ in range(_MAX_CHUNKS):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return PictureHeader(width=width, height=height)
        if marker == 0xFF:  # a fill byte
            at += 1
        else:
            at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    return None


def _bmp(data: memoryview) -> PictureHeader:
    layout = "<HH" if int.from_bytes(data[14:18], "little") == 12 else "<ii"
    width, height = struct.unpack_from(layout, data, 18)
    return PictureHeader(width=abs(width), height=abs(height))  # a negative height means rows from the top


def _webp(data: memoryview) -> PictureHeader | None:
    chunk = bytes(data[12:16])
    if chunk == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        return PictureHeader(width=width, height=height, animated=bool(data[20] & 2))
    if chunk == b"VP8 ":
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", data, 26))
        return PictureHeader(width=width, height=height)
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return PictureHeader(width=1 + (bits & 0x3FFF), height=1 + (bits >> 14 & 0x3FFF))
    return None


def _tiff(data: memoryview) -> PictureHeader | None:
    order = "<" if bytes(data[:2]) == b"II" else ">"
    at = struct.unpack_from(order + "I", data, 4)[0]
    num_tags = struct.unpack_from(order + "H", data, at)[0]
    values: dict[int, np.ndarray] = {}
    for start in range(at + 2, at + 2 + 12 * num_tags, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", data, start)
        if tag in _TIFF_TAGS and tag not in values and kind in _TIFF_NUMBERS:
            values[tag] = _tiff_values(data, order, start + 8, _TIFF_NUMBERS[kind], count)
    following = struct.unpack_from(order + "I", data, at + 2 + 12 * num_tags)[0]
    if _TIFF_WIDTH not in values or _TIFF_HEIGHT not in values:
        return None
    data_end = 0
    for offsets, counts in zip(_TIFF_OFFSETS, _TIFF_COUNTS, strict=True):
        if offsets in values and counts in values and len(values[offsets]) == len(values[counts]):
            data_end = max(data_end, int((values[offsets] + values[counts]).max(initial=0)))
    width, height = int(values[_TIFF_WIDTH][0]), int(values[_TIFF_HEIGHT][0])
    return PictureHeader(width=width, height=height, has_more_pages=following != 0, data_end=data_end)


def _tiff_values(data: memoryview, order: str, at: int, letter: str, count: int) -> np.ndarray:
    kind = np.dtype(order + letter)
    if count * kind.itemsize > 4:
        at = struct.unpack_from(order + "I", data, at)[0]
    return np.frombuffer(data, dtype=kind, count=count, offset=at).astype(np.int64)


_READERS: dict[str, Callable[[memoryview], PictureHeader | None]] = {
    "png_pipe": _png,
    "jpeg_pipe": _jpeg,
    "bmp_pipe": _bmp,
    "webp_pipe": _webp,
    "tiff_pipe": _tiff,
}
