"""What stands behind the actors: plain cloths (level 1) and six painted scenes (level 2).

Scenes are darker and duller than any colour of `world.COLOURS`, so that every actor stands out before each of them.
"""

from __future__ import annotations

import functools
import random
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

_CLOTHS: MappingProxyType[str, Colour] = MappingProxyType(
    {"black": (6, 6, 8), "navy": (12, 18, 58), "charcoal": (42, 42, 46), "slate": (58, 70, 82)}
)


@functools.lru_cache(maxsize=32)
def backdrop(name: str, width: int) -> Image.Image:
    """The cloth or scene `name` as an RGB picture, `width` pixels wide and high. Shared: copy before drawing on it."""
    if name in _CLOTHS:
        return Image.new("RGB", (width, width), _CLOTHS[name])
    picture = Image.new("RGB", (width, width))
    _PAINTERS[name](_Brush(picture, name))
    return picture


class _Brush:
    """Draws in unit coordinates (0..1, y down)."""

    def __init__(self, picture: Image.Image, name: str) -> None:
        self.width = picture.width
        self.rng = random.Random(f"avocet backdrop {name}")
        self._picture = picture
        self._draw = ImageDraw.Draw(picture)

    def gradient(self, top: Colour, bottom: Colour, y0: float = 0.0, y1: float = 1.0) -> None:
        """Fill the band from `y0` to `y1` with a vertical gradient."""
        first, last = round(y0 * self.width), round(y1 * self.width)
        ramp = np.linspace(0, 1, last - first)[:, None] * (np.array(bottom) - top) + top
        band = np.broadcast_to(ramp.round().astype(np.uint8)[:, None], (last - first, self.width, 3))
        self._picture.paste(Image.fromarray(np.ascontiguousarray(band)), (0, first))

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self._draw.polygon([(x * self.width, y * self.width) for x, y in points], fill=colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        corners = [round(value * self.width) for value in (x0, y0, x1, y1)]
        self._draw.rectangle((corners[0], corners[1], corners[2], corners[3]), fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        corners = [value * self.width for value in (x - radius, y - radius, x + radius, y + radius)]
        self._draw.ellipse((corners[0], corners[1], corners[2], corners[3]), fill=colour)

    def hill(self, base: float, height: float, waves: float, phase: float, colour: Colour) -> None:
        """A wavy ground that reaches from its edge near `base` down to the picture's bottom."""
        xs = np.linspace(0, 1, 49)
        ys = base - height * np.sin(2 * np.pi * (waves * xs + phase))
        self.polygon([(0, 1), *zip(xs.tolist(), ys.tolist(), strict=True), (1, 1)], colour)


def _beach(brush: _Brush) -> None:
    brush.gradient((62, 96, 122), (96, 124, 138), 0, 0.45)
    brush.gradient((20, 76, 92), (34, 100, 108), 0.45, 0.68)
    for y in (0.5, 0.56, 0.62):
        brush.box(0.1 + y % 0.11, y, 0.55 + y % 0.11, y + 0.008, (80, 130, 134))
    brush.gradient((122, 108, 76), (104, 90, 62), 0.68, 1)


def _forest(brush: _Brush) -> None:
    brush.gradient((24, 52, 34), (10, 28, 16))
    for number in range(11):
        x = (number + brush.rng.uniform(0.1, 0.9)) / 11
        half = brush.rng.uniform(0.012, 0.028)
        brush.box(x - half, 0, x + half, 0.92, (44, 34, 24) if number % 2 else (34, 26, 18))
    for number in range(14):
        brush.disc((number + 0.5) / 14, brush.rng.uniform(-0.02, 0.1), 0.09, (18, 62, 30))
    brush.hill(0.9, 0.02, 3, 0.2, (22, 44, 20))


def _desert(brush: _Brush) -> None:
    brush.gradient((96, 52, 38), (130, 84, 52))
    brush.hill(0.6, 0.06, 1.1, 0.1, (118, 72, 36))
    brush.hill(0.74, 0.07, 0.9, 0.55, (100, 58, 28))
    brush.hill(0.9, 0.04, 1.3, 0.3, (80, 46, 24))


def _city(brush: _Brush) -> None:
    brush.gradient((54, 48, 66), (84, 70, 78))
    for number in range(8):
        x0, top = number / 8, brush.rng.uniform(0.15, 0.5)
        shade = brush.rng.randint(26, 44)
        brush.box(x0, top, x0 + 0.115, 1, (shade, shade, shade + 6))
        for row in range(int((0.92 - top) / 0.075)):
            for column in range(3):
                lit = brush.rng.random() < 0.45
                x, y = x0 + 0.017 + 0.033 * column, top + 0.03 + 0.075 * row
                brush.box(x, y, x + 0.014, y + 0.03, (128, 116, 66) if lit else (18, 18, 24))


def _snowfield(brush: _Brush) -> None:
    brush.gradient((86, 96, 108), (112, 120, 130), 0, 0.5)
    brush.polygon([(0, 0.5), (0.2, 0.24), (0.42, 0.5)], (72, 80, 94))
    brush.polygon([(0.3, 0.5), (0.62, 0.16), (0.95, 0.5)], (64, 72, 86))
    brush.polygon([(0.53, 0.255), (0.62, 0.16), (0.71, 0.255)], (134, 140, 148))
    brush.gradient((142, 148, 156), (124, 130, 142), 0.5, 1)
    brush.hill(0.62, 0.03, 0.8, 0.1, (134, 140, 150))


def _night_sky(brush: _Brush) -> None:
    brush.gradient((4, 6, 24), (22, 22, 58))
    for _ in range(70):
        size = brush.rng.choice((0.003, 0.003, 0.006))
        x, y, shade = brush.rng.random(), brush.rng.uniform(0, 0.88), brush.rng.randint(110, 170)
        brush.disc(x, y, size, (shade, shade, shade))
    brush.hill(0.93, 0.03, 1.4, 0.7, (4, 5, 10))


_PAINTERS = MappingProxyType(
    {
        "beach": _beach,
        "forest": _forest,
        "desert": _desert,
        "city": _city,
        "snowfield": _snowfield,
        "night sky": _night_sky,
    }
)
