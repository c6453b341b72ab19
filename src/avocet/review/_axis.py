"""The time axis of a clip page: where a second is drawn, and how much detail each zoom level can show.

Horizontal places are percent of the drawing's width, so that one drawing serves every zoom level: a style rule makes
it wider, and text and pictures keep their size. What would not fit at a level carries no mark of that level
(`levels_that_fit`) and is hidden there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

ZOOMS = (1, 4, 16, 64)
"""Widths of the drawing in widths of the window; the style sheet has a rule for each."""
LEVEL_PIXELS = 1000
"""Width of the window that is reckoned with."""
_MAX_PIXELS_PER_SECOND = 500
"""Zooming in further than this shows nothing new."""
_TICK_PIXELS = 72
_TICK_STEPS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeScale:
    """Seconds from the start of the clip to places in the drawing."""

    seconds: float
    """Length of the axis."""

    @property
    def num_levels(self) -> int:
        """Zoom levels worth having: all that stay under 500 pixels per second, and the first."""
        allowed = self.seconds * _MAX_PIXELS_PER_SECOND / LEVEL_PIXELS
        return max(1, sum(zoom <= allowed for zoom in ZOOMS))

    @property
    def units(self) -> float:
        """Width of the axis in the unit of stretched drawings, milliseconds."""
        return round(self.seconds * 1000, 1)

    def percent(self, seconds: float) -> str:
        """A place as an SVG length."""
        return f"{_short(100 * seconds / self.seconds, 4)}%"

    def unit(self, seconds: float) -> str:
        """A place in a stretched drawing."""
        return _short(1000 * seconds, 1)

    def pixels(self, seconds: float, level: int) -> float:
        """Width of some seconds at a zoom level."""
        return seconds / self.seconds * LEVEL_PIXELS * ZOOMS[level]


def _short(value: float, digits: int) -> str:
    """A number without the zeros that say nothing: thousands of them stand on a page."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text


def level_classes(levels: Sequence[int], *others: str) -> str:
    """The `class` attribute of something shown only at these zoom levels."""
    return f'class="{" ".join(("level", *(f"at-{level}" for level in levels), *others))}"'


def levels_that_fit(scale: TimeScale, times: Sequence[float], width_pixels: float) -> list[list[int]]:
    """For each of some increasing times, the levels at which something of that width can be drawn there.

    At each level as many are kept as stand free of each other, from the first one on.
    """
    fitting: list[list[int]] = [[] for _ in times]
    for level in range(scale.num_levels):
        next_free = -math.inf
        for place, time in enumerate(times):
            left = scale.pixels(time, level)
            if left >= next_free:
                fitting[place].append(level)
                next_free = left + width_pixels
    return fitting


def tick_times(scale: TimeScale, level: int) -> tuple[float, list[float]]:
    """Step and times of the ticks at a zoom level."""
    steps = [step for step in _TICK_STEPS if scale.pixels(step, level) >= _TICK_PIXELS]
    step = steps[0] if steps else _TICK_STEPS[-1]
    return step, [index * step for index in range(int(scale.seconds / step + 1e-9) + 1)]


def tick_label(seconds: float, step: float) -> str:
    """12 -> "12 s", 0.25 at steps of 0.05 -> "0.25 s", 75 -> "1:15"."""
    if step < 1:
        decimals = 2 if step < 0.1 else 1
        return f"{seconds:.{decimals}f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
