"""`avocet train plot RUN`: the curves of training runs as one HTML page with inline SVG, no script and no library."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError
from avocet.training.finetune.watch import METRICS_FILE, read_metrics

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 760, 240, 64, 30, 12
_COLOURS = ("#1f6f8b", "#b5432a", "#5b7f2b", "#7a4a9c", "#a67c00", "#3f4a5a")
_CURVES = (
    ("loss", "Loss per target token"),
    ("held_out_loss", "Held-out loss per target token"),
    ("learning_rate", "Learning rate"),
    ("gradient_norm", "Gradient norm before clipping"),
    ("tokens_per_second", "Tokens per second"),
    ("peak_memory_bytes", "Peak memory, bytes"),
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Training curves</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 800px; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }}
svg {{ width: 100%; height: auto; }} svg text {{ font: 11px system-ui, sans-serif; fill: #4b5563; }}
h2 {{ font-size: 1rem; margin: 1.6rem 0 .2rem; }} .key {{ display: inline-block; width: 1.2em; height: 3px; }}
li {{ list-style: none; display: inline-block; margin-right: 1.2em; }} ul {{ padding: 0; }}
</style></head><body><h1>Training curves</h1>
<ul>{legend}</ul>
{figures}
</body></html>
"""


def write_plot(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Draw all stages found in the folders; returns the page.

    Args:
        runs: folders of stages, or run folders with several.
        out: where to write; `plot.html` in the first folder if None.

    Raises:
        ConfigError: a folder holds no metrics.
    """
    metrics: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        found = [run / METRICS_FILE] if (run / METRICS_FILE).is_file() else sorted(run.glob(f"*/{METRICS_FILE}"))
        if not found:
            raise ConfigError(f"{run}: no {METRICS_FILE} here or in its subfolders; give the folder of a training run")
        for path in found:
            metrics[str(path.parent)] = read_metrics(path)
    names = list(metrics)
    legend = "".join(
        f'<li><span class="key" style="background:{_colour(place)}"></span> {html.escape(name)}</li>'
        for place, name in enumerate(names)
    )
    tasks = sorted({key for lines in metrics.values() for line in lines for key in line if key.startswith("loss/")})
    titles = [*_CURVES, *((key, f"Loss per target token, {key.removeprefix('loss/')}") for key in tasks)]
    figures = [_figure(title, [_points(metrics[name], key) for name in names]) for key, title in titles]
    page = _PAGE.format(legend=legend, figures="\n".join(figure for figure in figures if figure))
    target = out or runs[0] / "plot.html"
    target.write_text(page, encoding="utf-8")
    return target


def _points(lines: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) where the value is there and finite."""
    return [(line["step"], float(line[key])) for line in lines if key in line and math.isfinite(line[key])]


def _figure(title: str, curves: Sequence[Sequence[tuple[float, float]]]) -> str:
    """One chart, "" without any point."""
    every = [point for curve in curves for point in curve]
    if not every:
        return ""
    last = max(max(x for x, _ in every), 1.0)
    low, high = min(y for _, y in every), max(y for _, y in every)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    span = (high - low) or 1.0

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - 8) * point[0] / last
        return x, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (point[1] - low) / span)

    parts = []
    for tick in ticks:
        y = place((0, tick))[1]
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for step in sorted({1.0, round(last / 2), last}):
        x = place((step, low))[0]
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{step:g}</text>')
    for number, curve in enumerate(curves):
        where = [place(point) for point in curve]
        if len(where) == 1:
            parts.append(f'<circle cx="{where[0][0]:.1f}" cy="{where[0][1]:.1f}" r="3" fill="{_colour(number)}"/>')
        elif where:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{_colour(number)}" stroke-width="1.6"/>')
    label = html.escape(title)
    drawing = "".join(parts)
    return f'<h2>{label}</h2><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{drawing}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers that span [low, high]."""
    span = (high - low) or abs(high) or 1.0
    unit = 10 ** math.floor(math.log10(span / 3))
    step = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 5)
    first, count = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, count + 1)]


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]
