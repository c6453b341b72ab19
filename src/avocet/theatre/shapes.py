"""The silhouettes of the theatre's actors and their anti-aliased masks.

A shape is one polygon in its own unit square (x to the right, y down, both in [-1, 1]) plus dark details.
Every shape carries a dark dot away from its centre, so that even a spinning circle is seen to spin.
"""

from __future__ import annotations

import functools
import math
from types import MappingProxyType

from PIL import Image, ImageDraw

Point = tuple[float, float]

_SUPERSAMPLING = 3
_ANGLE_STEP_DEGREES = 3
"""Angles are rounded to this step so that masks can be cached."""
_OUTLINE = 0.035
"""Half of the outline's width as a part of the radius."""


def _arc(centre: Point, radius_x: float, radius_y: float, start: float, end: float, steps: int = 24) -> list[Point]:
    """Points on an ellipse from angle `start` to `end` in degrees (0 points right, 90 down)."""
    angles = [math.radians(start + (end - start) * step / steps) for step in range(steps + 1)]
    return [(centre[0] + radius_x * math.cos(angle), centre[1] + radius_y * math.sin(angle)) for angle in angles]


def _mirrored(right_side: list[Point]) -> list[Point]:
    """A shape that is symmetric to the vertical axis, from the points of its right side, top to bottom."""
    return right_side + [(-x, y) for x, y in reversed(right_side)]


def _star() -> list[Point]:
    points = []
    for corner in range(10):
        radius, angle = (1.0 if corner % 2 == 0 else 0.43), math.radians(36 * corner - 90)
        points.append((radius * math.cos(angle), 0.06 + radius * math.sin(angle)))
    return points


def _heart() -> list[Point]:
    points = []
    for step in range(40):
        t = 2 * math.pi * step / 40
        height = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((0.95 * math.sin(t) ** 3, -0.06 - 0.058 * height))
    return points


_OUTLINES: MappingProxyType[str, list[Point]] = MappingProxyType(
    {
        "circle": _arc((0, 0), 0.9, 0.9, 0, 360, 48),
        "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
        "triangle": [(0, -0.95), (0.98, 0.75), (-0.98, 0.75)],
        "star": _star(),
        "heart": _heart(),
        "cross": _mirrored([(0.3, -0.92), (0.3, -0.3), (0.92, -0.3), (0.92, 0.3), (0.3, 0.3), (0.3, 0.92)]),
        "diamond": [(0, -1), (0.64, 0), (0, 1), (-0.64, 0)],
        "moon": _arc((-0.05, 0), 0.95, 0.95, 45, 315, 36) + _arc((0.48, 0), 0.69, 0.69, 281, 79, 24),
        "arrow": [(-0.95, -0.3), (0.05, -0.3), (0.05, -0.85), (0.98, 0), (0.05, 0.85), (0.05, 0.3), (-0.95, 0.3)],
        "house": _mirrored([(0, -0.95), (0.98, -0.1), (0.7, -0.1), (0.7, 0.85)]),
        "fish": [(-0.98, -0.55), *_arc((0.22, 0), 0.75, 0.52, 200, 520, 36), (-0.98, 0.55), (-0.8, 0)],
        "tree": _mirrored(
            [(0, -1), (0.5, -0.4), (0.2, -0.4), (0.68, 0.12), (0.26, 0.12), (0.85, 0.65), (0.16, 0.65), (0.16, 1)]
        ),
    }
)
_DOTS: MappingProxyType[str, Point] = MappingProxyType(
    {"triangle": (0, -0.3), "heart": (0.42, -0.38), "moon": (-0.5, -0.45), "arrow": (0.4, -0.2), "fish": (0.6, -0.12)}
    | {"star": (0, -0.45), "diamond": (0, -0.5), "house": (0, -0.4), "tree": (0, -0.55), "cross": (0, -0.65)}
    | {"circle": (0, -0.58), "square": (0, -0.5)}
)
_DOT_RADIUS = MappingProxyType({"circle": 0.17, "square": 0.16, "tree": 0.1})
_DETAILS: MappingProxyType[str, list[Point]] = MappingProxyType(
    {"house": [(-0.2, 0.3), (0.2, 0.3), (0.2, 0.85), (-0.2, 0.85)]}
)


def shape_masks(shape: str, radius_pixels: int, angle_degrees: float) -> tuple[Image.Image, Image.Image]:
    """Masks ("L") of the whole figure and of its coloured part; the rest of the figure is dark.

    Both are squares of 2 * `radius_pixels` + 4 pixels with the figure's centre in their middle. A positive angle
    turns clockwise.
    """
    angle = round(angle_degrees / _ANGLE_STEP_DEGREES) * _ANGLE_STEP_DEGREES % 360
    return _masks(shape, radius_pixels, angle)


@functools.lru_cache(maxsize=1024)
def _masks(shape: str, radius_pixels: int, angle_degrees: int) -> tuple[Image.Image, Image.Image]:
    side = 2 * radius_pixels + 4
    scale, middle = radius_pixels * _SUPERSAMPLING, side * _SUPERSAMPLING / 2
    cos, sin = math.cos(math.radians(angle_degrees)) * scale, math.sin(math.radians(angle_degrees)) * scale

    def place(points: list[Point]) -> list[Point]:
        return [(middle + x * cos - y * sin, middle + x * sin + y * cos) for x, y in points]

    whole = Image.new("L", (side * _SUPERSAMPLING,) * 2)
    outline = place(_OUTLINES[shape])
    # At least one picture pixel of line on either side of the edge, or small figures lose their outline.
    width = 2 * round(max(_SUPERSAMPLING * 0.7, _OUTLINE * scale))
    ImageDraw.Draw(whole).polygon(outline, fill=255)
    coloured = whole.copy()
    closed = [*outline, outline[0]]
    ImageDraw.Draw(whole).line(closed, fill=255, width=width)
    draw = ImageDraw.Draw(coloured)
    draw.line(closed, fill=0, width=width)
    ((x, y),) = place([_DOTS[shape]])
    dot = _DOT_RADIUS.get(shape, 0.13) * scale
    draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=0)
    if shape in _DETAILS:
        draw.polygon(place(_DETAILS[shape]), fill=0)
    return whole.reduce(_SUPERSAMPLING), coloured.reduce(_SUPERSAMPLING)
