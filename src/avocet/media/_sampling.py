"""Which frames are kept: targets on a time grid, and the frame being shown at each target.

fps = 2, [0, 2):   targets    0.0   0.5   1.0   1.5
frames shown at    0.0  0.4  0.6  0.7  1.0  1.8     (variable frame rate)
kept               0.0  0.4            1.0          (1.0 is shown at 1.0 and still at 1.5: kept once)
"""

from __future__ import annotations

import dataclasses
import math

TOLERANCE_SECONDS = 1e-6
"""Times closer than this are the same moment: sums of 1/fps are rounded, timestamps are not."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Targets at start + k * step. `limit` is how many frames may be kept."""

    start_seconds: float
    step_seconds: float
    limit: int
    thinned: bool
    """Whether the step was widened to keep to `limit`."""
    spread: bool = False
    """Whether the step follows from the length of the clip, not from the frame rate."""

    def target(self, index: int) -> float:
        return self.start_seconds + index * self.step_seconds


def count_targets(start_seconds: float, end_seconds: float, fps: float) -> int:
    """How many targets start + k/fps lie in [start, end), at least one."""
    return max(1, math.ceil((end_seconds - start_seconds) * fps - TOLERANCE_SECONDS * fps))


def plan_grid(start_seconds: float, end_seconds: float, fps: float, max_frames: int, min_frames: int = 1) -> Grid:
    """The grid at `fps`, or where that has too many or too few targets, `max_frames` or `min_frames` spread evenly.

    An infinite end plans the grid at `fps`, and so does an end that is not after the start (sound that goes on after
    the pictures): no frames can be spread over nothing.
    """
    step, thinned, spread = 1.0 / fps, False, False
    if math.isfinite(end_seconds) and end_seconds - start_seconds > TOLERANCE_SECONDS:
        count = count_targets(start_seconds, end_seconds, fps)
        thinned, spread = count > max_frames, not min_frames <= count <= max_frames
        if spread:
            step = (end_seconds - start_seconds) / (max_frames if thinned else min_frames)
    return Grid(start_seconds=start_seconds, step_seconds=step, limit=max_frames, thinned=thinned, spread=spread)


class FrameSelector:
    """Streams through frame times and says which frames to keep.

    A frame is shown until the next one begins, so the question about a frame is asked when its successor
    is known: `shown_at_target(end)` for the frame that is shown until `end`.
    """

    def __init__(self, grid: Grid, end_seconds: float) -> None:
        self._grid = grid
        self._end = end_seconds
        self._next = 0
        self.num_kept = 0

    def shown_at_target(self, until_seconds: float) -> bool:
        """Whether a frame shown until `until_seconds` is on screen at a target not served by an earlier frame."""
        until = min(until_seconds, self._end) - TOLERANCE_SECONDS
        first = self._next
        if self._grid.target(first) >= until:
            return False
        # One jump instead of a walk: a frame may stand for hours.
        self._next = max(first + 1, math.ceil((until - self._grid.start_seconds) / self._grid.step_seconds))
        while self._grid.target(self._next) < until:
            self._next += 1
        # Wanting more than the limit means that the header understated the length; the caller plans anew.
        if self.num_kept == self._grid.limit:
            return False
        self.num_kept += 1
        return True
