"""`avocet train plot RUN`: the curves of training runs as one HTML page with inline SVG, no script and no library."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError
from avocet.training.finetune.watch import METRICS_FILE, read_metrics

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 760, 240, 64, 24, 30, 12
_COLOURS = ("#1f6f8b", "#b5432a", "#5b7f2b", "#7a4a9c", "#a67c00", "#3f4a5a")
_CURVES = (
    ("loss", "Loss per target token", 1.0),
    ("held_out_loss", "Held-out loss per target token", 1.0),
    ("learning_rate", "Learning rate", 1.0),
    ("gradient_norm", "Gradient norm before clipping", 1.0),
    ("tokens_per_second", "Tokens per second", 1.0),
    ("peak_memory_bytes", "Peak memory, GiB", 2.0**-30),
)
"""Key of a metric, title, factor."""
_MAX_POINTS = 400
"""Longer curves are drawn as means of so many stretches, in a band from the smallest to the largest value."""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Training curves</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 800px; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }}
svg {{ width: 100%; height: auto; }} svg text {{ font: 11px system-ui, sans-serif; fill: #4b5563; }}
h2 {{ font-size: 1rem; margin: 1.6rem 0 .2rem; }}
.key {{ display: inline-block; width: 1.2em; height: 3px; vertical-align: middle; }}
li {{ list-style: none; display: inline-block; margin-right: 1.2em; }} ul {{ padding: 0; }}
</style></head><body><h1>Training curves</h1>
<ul>{legend}</ul>{note}
{figures}
</body></html>
"""

_Point = tuple[float, float]
_Metrics = Mapping[str, Sequence[dict[str, Any]]]


def write_plot(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Draw all stages found in the folders; returns the page.

    Args:
        runs: folders of stages, or run folders with several.
        out: where to write; `plot.html` in the first folder if None.

    Raises:
        ConfigError: a folder holds no metrics.
    """
    folders: dict[Path, list[dict[str, Any]]] = {}
    for run in runs:
        found = [run / METRICS_FILE] if (run / METRICS_FILE).is_file() else sorted(run.glob(f"*/{METRICS_FILE}"))
        if not found:
            raise ConfigError(f"{run}: no {METRICS_FILE} here or in its subfolders; give the folder of a training run")
        for path in found:
            folders[path.parent.resolve()] = read_metrics(path)
    shared = Path(os.path.commonpath([folder.parent for folder in folders]))
    metrics = {folder.relative_to(shared).as_posix(): lines for folder, lines in folders.items()}
    figures = [
        _figure(title, [_points(lines, key, factor) for lines in metrics.values()])
        for key, title, factor in (*_CURVES, *_more_curves(metrics))
    ]
    is_long = any(len(lines) > _MAX_POINTS for lines in metrics.values())
    note = "<p>Lines of long runs are means of neighbouring steps, bands reach from the smallest to the largest.</p>"
    page = _PAGE.format(
        legend="".join(_key(place, name, lines) for place, (name, lines) in enumerate(metrics.items())),
        note=note if is_long else "",
        figures="\n".join(figure for figure in figures if figure),
    )
    target = out or runs[0] / "plot.html"
    target.write_text(page, encoding="utf-8")
    return target


def _more_curves(metrics: _Metrics) -> list[tuple[str, str, float]]:
    """What only some stages have: the loss of each of several tasks, and the figures of an objective."""
    keys = sorted({key for lines in metrics.values() for line in lines for key in line})
    tasks = [key for key in keys if key.startswith("loss/")]
    curves = [(key, f"Loss per target token, {key.removeprefix('loss/')}", 1.0) for key in tasks if len(tasks) > 1]
    return curves + [(key, key.removeprefix("mean/"), 1.0) for key in keys if key.startswith("mean/")]


def _key(place: int, name: str, lines: Sequence[dict[str, Any]]) -> str:
    """One entry of the legend, with what went wrong in the stage."""
    wrong = [
        f"{what}: {count}"
        for key, what in (("refused_steps", "refused steps"), ("left_out", "clips left out"))
        if (count := max((line.get(key, 0) for line in lines), default=0))
    ]
    text = html.escape(name + (f" ({', '.join(wrong)})" if wrong else ""))
    return f'<li><span class="key" style="background:{_colour(place)}"></span> {text}</li>'


def _points(lines: Sequence[dict[str, Any]], key: str, factor: float) -> list[_Point]:
    """(step, value) where the value is there and finite; a step without loss, or a refused one, has null."""
    values = [(line["step"], line.get(key)) for line in lines]
    return [(step, factor * value) for step, value in values if value is not None and math.isfinite(value)]


def _figure(title: str, curves: Sequence[Sequence[_Point]]) -> str:
    """One chart, "" without any point."""
    every = [point for curve in curves for point in curve]
    if not every:
        return ""
    last = max(max(x for x, _ in every), 1.0)
    ticks = _ticks(min(y for _, y in every), max(y for _, y in every))
    low, high = ticks[0], ticks[-1]

    def place(point: _Point) -> _Point:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * point[0] / last
        return x, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (point[1] - low) / (high - low))

    parts = []
    for tick in ticks:
        y = place((0, tick))[1]
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        parts.append(_text(_LEFT - 6, y + 4, "end", _written(tick, ticks[1] - ticks[0])))
    steps = [tick for tick in _ticks(0.0, last) if tick <= last and tick == round(tick)]
    for step in steps:
        parts.append(_text(place((step, low))[0], _HEIGHT - 12, "middle", f"{step:,.0f}"))
    parts.append(_text(_LEFT - 12, _HEIGHT - 12, "end", "step"))
    for number, curve in enumerate(curves):
        stretches = [tuple(map(place, stretch)) for stretch in _thinned(curve)]
        parts += _curve(stretches, number)
    label = html.escape(title)
    drawing = "".join(parts)
    return f'<h2>{label}</h2><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{drawing}</svg>'


def _thinned(curve: Sequence[_Point]) -> list[tuple[_Point, _Point, _Point]]:
    """At most `_MAX_POINTS` stretches of a curve: smallest, mean and largest value at the mean step of each."""
    size = max(1, math.ceil(len(curve) / _MAX_POINTS))
    stretches = []
    for first in range(0, len(curve), size):
        part = curve[first : first + size]
        x = sum(step for step, _ in part) / len(part)
        values = [value for _, value in part]
        stretches.append(((x, min(values)), (x, sum(values) / len(values)), (x, max(values))))
    return stretches


def _curve(stretches: Sequence[tuple[_Point, ...]], number: int) -> list[str]:
    """The line through the means of `_thinned` and, where values differ, the band; a dot for a single point."""
    means = [mean for _, mean, _ in stretches]
    if not means:
        return []
    if len(means) == 1:
        return [f'<circle cx="{means[0][0]:.1f}" cy="{means[0][1]:.1f}" r="3" fill="{_colour(number)}"/>']
    parts = []
    if any(smallest != largest for smallest, _, largest in stretches):
        outline = [largest for _, _, largest in stretches] + [smallest for smallest, _, _ in reversed(stretches)]
        parts.append(f'<polygon points="{_joined(outline)}" fill="{_colour(number)}" fill-opacity="0.2"/>')
    line = f'<polyline points="{_joined(means)}" fill="none" stroke="{_colour(number)}" stroke-width="1.6"/>'
    return [*parts, line]


def _joined(points: Sequence[_Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers that span [low, high]; at least two."""
    span = (high - low) or abs(high) or 1.0
    unit = 10 ** math.floor(math.log10(span / 3))
    step = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 5)
    # 2e-5 / 5e-6 is a little more than 4.
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [number * step for number in range(first, last + 1)]


def _written(tick: float, step: float) -> str:
    """A tick with as many decimals as the step between ticks needs."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{tick:,.{decimals}f}" if decimals <= 6 else f"{tick:.3g}"


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]
