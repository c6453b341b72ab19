"""Decoded pictures to RGB arrays: upright, with square pixels, at most `max_pixels` large.

Colours are converted by FFmpeg's swscale with the matrix and range the stream declares (BT.601, limited
range, where it declares none, like every FFmpeg tool). HDR is not tone-mapped; a warning says so. Transparent
pictures are shown over white, which is what pages and viewers mostly put behind them; the colours that files
store under transparent pixels are arbitrary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, cast

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

_SQUARE_WITHIN = Fraction(1, 100)
"""Pixel aspect ratios this close to 1 are rounding of even picture sizes (224:225), not a wish to be resampled."""

_RESERVED_BYTES = 2**30
"""How far memory for frames is reserved ahead of need."""

_BAND_PIXELS = 2**20
"""How many pixels are put over white at a time, which bounds the memory for it."""

_LAST_SIDE_DATA_TYPE = 63
"""Frame side data types up to this one are looked for when PyAV cannot name one; FFmpeg 8 has 32 of them."""

_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}


@dataclasses.dataclass(frozen=True)
class Orientation:
    """A display matrix reduced to a transposition followed by flips; the eight right-angled cases."""

    transpose: bool = False
    flip_columns: bool = False
    flip_rows: bool = False
    rotation_degrees: int = 0
    """How far the stored picture is turned counterclockwise for display: 0, 90, 180 or 270."""
    exact: bool = True

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Turn (H, W, 3) for display, as a view."""
        if self.transpose:
            picture = picture.transpose(1, 0, 2)
        return picture[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def orientation_of(frame: VideoFrame) -> Orientation:
    """Read the display matrix: a stored pixel (x, y) is shown at (a x + c y, b x + d y), y pointing down."""
    for item in _side_data(frame):
        if item.type == SideDataType.DISPLAYMATRIX:
            matrix = np.frombuffer(bytes(cast(Any, item)), dtype=np.int32)
            a, b, c, d = (int(matrix[index]) for index in (0, 1, 3, 4))
            transpose = abs(b) > abs(a)
            large, small = (b, a) if transpose else (a, b)
            return Orientation(
                transpose=transpose,
                flip_columns=(c if transpose else a) < 0,
                flip_rows=(b if transpose else d) < 0,
                rotation_degrees=round(frame.rotation / 90) * 90 % 360,
                exact=abs(small) <= abs(large) // 50,
            )
    return Orientation()


def _side_data(frame: VideoFrame) -> Iterable[SideData]:
    try:
        return cast(Iterable[SideData], frame.side_data)
    except ValueError:
        # PyAV 18 fails as a whole when it meets one type that it does not know, such as the EXIF data of a photo.
        return cast(Iterable[SideData], _without_unknown_side_data(frame).side_data)


def _without_unknown_side_data(frame: VideoFrame) -> VideoFrame:
    graph = Graph()
    last = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 25)
    )
    known = {kind.value for kind in SideDataType}
    for unknown in sorted(set(range(_LAST_SIDE_DATA_TYPE + 1)) - known):
        remover = graph.add("sidedata", mode="delete", type=str(unknown))
        last.link_to(remover)
        last = remover
    last.link_to(graph.add("buffersink"))
    graph.configure()
    graph.push(frame)
    return cast(VideoFrame, graph.pull())


def display_size(width: int, height: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """(width, height) with square pixels: the height stays, the width is stretched as players do."""
    if not pixel_aspect or abs(pixel_aspect - 1) <= _SQUARE_WITHIN:
        return width, height
    return max(1, round(width * pixel_aspect)), height


def fit_pixels(width: int, height: int, max_pixels: int | None) -> tuple[int, int]:
    """The largest size of the same aspect with at most `max_pixels`; both sides are rounded down, never up.

    Worked: 854 x 480 in 100,000 pixels: scale sqrt(100000 / 409920) = 0.4939, so 421 x 237 = 99,777.
    """
    if max_pixels is None or width * height <= max_pixels:
        return width, height
    scale = math.sqrt(max_pixels / (width * height))
    fitted_width = min(max(1, math.floor(width * scale)), max_pixels)
    return fitted_width, min(max(1, math.floor(height * scale)), max_pixels // fitted_width)


class PictureWriter:
    """Converts the kept frames, all to the size of the first, into one (T, 3, H, W) array.

    Args:
        pixel_aspect: width over height of a stored pixel; None for square ones.
        max_pixels: the largest picture to produce; None keeps the size.
        capacity: how many frames are expected.
    """

    def __init__(self, pixel_aspect: Fraction | None, max_pixels: int | None, capacity: int) -> None:
        self._capacity = capacity
        self._pixel_aspect = pixel_aspect
        self._max_pixels = max_pixels
        self._scaler = VideoReformatter()
        self._orientation = Orientation()
        self._size: tuple[int, int] | None = None
        self._stored_size: tuple[int, int] | None = None
        self._frames = np.zeros((0, 3, 0, 0), dtype=np.uint8)
        self._num_frames = 0
        self.shown_size: tuple[int, int] | None = None
        """(width, height) for display before `max_pixels`, known after the first frame."""
        self.warnings: list[str] = []

    @property
    def orientation(self) -> Orientation:
        return self._orientation

    def look(self, frame: VideoFrame) -> None:
        """Learn size and orientation from the first decoded frame."""
        self._orientation = orientation_of(frame)
        self._stored_size = frame.width, frame.height
        shown = display_size(frame.width, frame.height, self._pixel_aspect)
        self._size = fit_pixels(*shown, self._max_pixels)
        self.shown_size = shown[::-1] if self._orientation.transpose else shown
        if not self._orientation.exact:
            self.warnings.append(
                f"the display matrix is no right-angled turn; turned by {self._orientation.rotation_degrees} degrees"
            )
        if frame.color_trc in _HDR_TRANSFERS:
            self.warnings.append(f"HDR video ({_HDR_TRANSFERS[frame.color_trc]}): colours are not tone-mapped")

    def add(self, frame: VideoFrame) -> None:
        """Convert one frame and keep it."""
        assert self._size is not None
        if (frame.width, frame.height) != self._stored_size:
            warning = "the picture size changes inside the video; all frames were scaled to the first size"
            if warning not in self.warnings:
                self.warnings.append(warning)
        width, height = self._size
        opaque = self._over_white(frame) if _has_alpha(frame) else frame
        rgb = self._scaler.reformat(
            opaque, width=width, height=height, format="rgb24", interpolation=Interpolation.BILINEAR
        )
        upright = self._orientation.apply(_pixels(rgb, 3))
        self._reserve(upright.shape[0], upright.shape[1])
        for channel in range(3):
            self._frames[self._num_frames, channel] = upright[:, :, channel]
        self._num_frames += 1

    def frames(self) -> np.ndarray:
        """uint8 (T, 3, H, W) of everything added; (0, 3, 0, 0) of nothing."""
        return self._frames[: self._num_frames]

    def _over_white(self, frame: VideoFrame) -> VideoFrame:
        # Before scaling, which would otherwise mix colours of transparent pixels into their neighbours.
        colours = _pixels(self._scaler.reformat(frame, format="rgba"), 4)
        opaque = VideoFrame(frame.width, frame.height, "rgb24")
        target = _pixels(opaque, 3)
        num_rows = max(1, _BAND_PIXELS // frame.width)
        for top in range(0, frame.height, num_rows):
            band = colours[top : top + num_rows].astype(np.uint16)
            alpha = band[:, :, 3:]
            target[top : top + num_rows] = (band[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
        return opaque

    def _reserve(self, height: int, width: int) -> None:
        # Untouched pages cost no memory, so reserving ahead beats stacking a list of pictures at the end.
        count = self._num_frames
        if count == len(self._frames):
            ahead = max(count, _RESERVED_BYTES // (3 * height * width), 1)
            size = min(count + ahead, max(self._capacity, count + 1))
            grown = np.empty((size, 3, height, width), dtype=np.uint8)
            if count:
                grown[:count] = self._frames
            self._frames = grown


def _pixels(frame: VideoFrame, num_channels: int) -> np.ndarray:
    """uint8 (H, W, C) of a packed frame, as a view."""
    plane = frame.planes[0]
    rows = np.frombuffer(cast(Any, plane), dtype=np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : num_channels * frame.width].reshape(frame.height, frame.width, num_channels)


def _has_alpha(frame: VideoFrame) -> bool:
    return frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
