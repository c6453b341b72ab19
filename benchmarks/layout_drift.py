"""How far the layouts of the Qwen-Omni family place picture and sound from their true seconds.

python benchmarks/layout_drift.py        # prints the table of docs/qwen_omni.md
"""

from __future__ import annotations

import numpy as np

from avocet.models.layout import AUDIO, VISUAL
from avocet.models.qwen_omni.config import QWEN25, time_axis
from avocet.models.tmrope import position_drift_seconds, tmrope

SECONDS = 300.0
NUM_FRAMES = 256


def rows() -> list[str]:
    """One line of a Markdown table per rule."""
    axis = time_axis(QWEN25, 25, 2.0)
    times = np.arange(0, NUM_FRAMES, 2) * SECONDS / NUM_FRAMES
    lines = []
    for rule, assumed in (("tmrope", False), ("released", True)):
        plan = tmrope(axis, times, 10, 20, int(SECONDS * 25), SECONDS, assumed=assumed)
        assert plan.positions is not None
        last = {stream: plan.positions[0][plan.stream == stream].max() / 25 for stream in (VISUAL, AUDIO)}
        visual, audio = position_drift_seconds(plan, axis)
        lines.append(f"| `{rule}` | {last[VISUAL]:.2f} s | {last[AUDIO]:.2f} s | {visual:.2f} s | {audio:.2f} s |")
    return lines


if __name__ == "__main__":
    print("\n".join(rows()))
