"""The drawings of a page of rounds: figures by round with their errors, what became of clips, curves of training.

Drawings scale with the page. Colours are classes (the page's policy forbids inline styles), and every series also has
a mark of its own, so that colour alone says nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from avocet.review._html import text

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 230, 50, 16, 14, 32
_DODGE = 6
"""Between the marks of two series in one round."""
_MAX_POINTS = 240
"""Longer curves are drawn as means of so many stretches."""
MARKS = ("circle", "square", "triangle", "cross")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A figure of one round."""

    number: int
    value: float
    error: float | None = None
    is_refused: bool = False
    is_best: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One figure over the rounds."""

    name: str
    points: tuple[Point, ...]
    is_reference: bool = False
    """Of other people's runs: drawn without weight."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """A value that the gate allows no round to pass."""

    value: float
    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Frame:
    """From data to places in the drawing."""

    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - self.left) / (self.right - self.left)

    def y(self, value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (value - self.low) / (self.high - self.low))


def percent(value: float, digits: int = 1) -> str:
    """0.137 -> "13.7 %"."""
    return f"{100 * value:.{digits}f} %"


def round_chart(title: str, series: Sequence[Series], num_rounds: int, limit: Limit | None = None) -> str:
    """Rates by round, with bars of one standard error to either side; "" without any point.

    Args:
        num_rounds: where the axis ends.
        limit: drawn as a dashed line.
    """
    points = [point for one in series for point in one.points]
    if not any(one.points for one in series if not one.is_reference):
        return ""
    above = [point.value + (point.error or 0.0) for point in points] + ([] if limit is None else [limit.value])
    below = [point.value - (point.error or 0.0) for point in points] + ([] if limit is None else [limit.value])
    # Rates are shown from zero, unless all of them are high, as accuracies are.
    floor = min(below) if min(below) > 0.5 else 0.0
    ticks = ticks_of(floor, max(*above, floor + 0.01))
    frame = _Frame(left=-0.3, right=max(num_rounds, 1) + 0.3, low=ticks[0], high=ticks[-1])
    step = ticks[1] - ticks[0]
    parts = [_grid(frame, [(tick, percent(tick, 0 if step >= 0.0099 else 1)) for tick in ticks])]
    parts += [_label(frame.x(number), _HEIGHT - 14, str(number)) for number in range(num_rounds + 1)]
    parts.append(_label(_LEFT - 34, _HEIGHT - 14, "round", anchor="start"))
    if limit is not None:
        y = frame.y(limit.value)
        parts.append(f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_label(_WIDTH - _RIGHT, y - 4, limit.name, anchor="end", kind="limit-name"))
    # Side by side, so that bars do not cover each other.
    shifts = [_DODGE * (place - (len(series) - 1) / 2) for place in range(len(series))]
    parts += [_series(frame, one, place, shift) for place, (one, shift) in enumerate(zip(series, shifts, strict=True))]
    return _figure(title, "".join(parts), [(one.name, place, one) for place, one in enumerate(series)])


def curve_chart(title: str, rounds: Sequence[tuple[int, Sequence[tuple[float, float]]]]) -> str:
    """(step, value) of each round's training, one round after the other; "" without any point."""
    drawn = [(number, list(points)) for number, points in rounds if points]
    if not drawn:
        return ""
    values = [value for _, points in drawn for _, value in points]
    ticks = ticks_of(min(values), max(values))
    spans = [max(step for step, _ in points) for _, points in drawn]
    frame = _Frame(left=0.0, right=max(sum(spans), 1.0), low=ticks[0], high=ticks[-1])
    step = ticks[1] - ticks[0]
    parts = [_grid(frame, [(tick, _written(tick, step)) for tick in ticks])]
    begin = 0.0
    for (number, points), span in zip(drawn, spans, strict=True):
        x = frame.x(begin)
        parts.append(f'<line class="border" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(_label(frame.x(begin + span / 2), _HEIGHT - 14, str(number)))
        places = [(frame.x(begin + step), frame.y(value)) for step, value in thinned(points)]
        facts = f"round {number}: {points[0][1]:.4g} at step {points[0][0]:g}, {points[-1][1]:.4g} at {points[-1][0]:g}"
        if len(places) == 1:
            parts.append(
                f'<circle class="curve-dot" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3">'
                f"<title>{text(facts)}</title></circle>"
            )
        else:
            joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline class="curve" points="{joined}"><title>{text(facts)}</title></polyline>')
        begin += span
    parts.append(_label(_LEFT - 34, _HEIGHT - 14, "round", anchor="start"))
    return _figure(title, "".join(parts), [])


def share_bar(parts: Sequence[tuple[str, str, int]], label: str) -> str:
    """(class, name, count) as one bar; "" when there is nothing to count."""
    total = sum(count for _, _, count in parts)
    if not total:
        return ""
    drawn, begin = [], 0.0
    for kind, name, count in parts:
        width = 100 * count / total
        if count:
            what = text(f"{name}: {count:,} of {total:,}")
            drawn.append(
                f'<rect class="{kind}" x="{begin:.3f}%" y="0" width="{width:.3f}%" height="18">'
                f"<title>{what}</title></rect>"
            )
        begin += width
    attributes = f'class="share-bar" width="100%" height="18" role="img" aria-label="{text(label)}"'
    return f"<svg {attributes}>{''.join(drawn)}</svg>"


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MAX_POINTS` means of neighbouring points; the last point stays."""
    size = max(1, math.ceil(len(points) / _MAX_POINTS))
    if size == 1:
        return list(points)
    stretches = [points[first : first + size] for first in range(0, len(points), size)]
    means = [
        (sum(x for x, _ in stretch) / len(stretch), sum(y for _, y in stretch) / len(stretch)) for stretch in stretches
    ]
    return [*means[:-1], points[-1]]


def ticks_of(low: float, high: float) -> list[float]:
    """About four round numbers that span [low, high]; at least two."""
    span = (high - low) or abs(high) or 1.0
    unit = 10 ** math.floor(math.log10(span / 3))
    step = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 5)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [number * step for number in range(first, last + 1)]


def legend(names: Sequence[tuple[str, str]]) -> str:
    """(class of a mark, name) each."""
    items = "".join(f'<li><span class="key {kind}"></span>{text(name)}</li>' for kind, name in names)
    return f'<ul class="keys">{items}</ul>'


def _series(frame: _Frame, one: Series, place: int, shift: float) -> str:
    kind = "reference" if one.is_reference else f"s{place}"
    marks, lines = [], []
    for before, after in zip(one.points, one.points[1:], strict=False):
        lines.append(
            f'<line class="line" x1="{frame.x(before.number) + shift:.1f}" y1="{frame.y(before.value):.1f}" '
            f'x2="{frame.x(after.number) + shift:.1f}" y2="{frame.y(after.value):.1f}"/>'
        )
    for point in one.points:
        marks.append(_mark(frame, one, point, MARKS[place % len(MARKS)], shift))
    return f'<g class="{kind}">{"".join(lines)}{"".join(marks)}</g>'


def _mark(frame: _Frame, one: Series, point: Point, shape: str, shift: float) -> str:
    x, y = frame.x(point.number) + shift, frame.y(point.value)
    said = f"{one.name}, round {point.number}: {percent(point.value)}"
    parts = []
    if point.error is not None:
        said += f" ± {percent(point.error)}"
        top, bottom = frame.y(point.value + point.error), frame.y(max(point.value - point.error, frame.low))
        parts.append(f'<line class="error" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        parts += [
            f'<line class="error" x1="{x - 3:.1f}" x2="{x + 3:.1f}" y1="{end:.1f}" y2="{end:.1f}"/>'
            for end in (top, bottom)
        ]
    if point.is_best:
        parts.append(f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="8"/>')
        said += ", best"
    refused = " refused" if point.is_refused else ""
    if point.is_refused:
        said += ", refused"
    title = f"<title>{text(said)}</title>"
    drawn = {
        "circle": f'<circle class="mark{refused}" cx="{x:.1f}" cy="{y:.1f}" r="4">{title}</circle>',
        "square": f'<rect class="mark{refused}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">{title}</rect>',
        "triangle": f'<path class="mark{refused}" d="M{x:.1f} {y - 5:.1f}l5 9h-10z">{title}</path>',
        "cross": f'<path class="mark cross{refused}" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8">{title}</path>',
    }
    return "".join([*parts, drawn[shape]])


def _grid(frame: _Frame, ticks: Sequence[tuple[float, str]]) -> str:
    parts = []
    for value, name in ticks:
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_label(_LEFT - 6, y + 4, name, anchor="end"))
    return "".join(parts)


def _label(x: float, y: float, said: str, *, anchor: str = "middle", kind: str = "") -> str:
    classes = f' class="{kind}"' if kind else ""
    return f'<text{classes} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(said)}</text>'


def _figure(title: str, drawing: str, keys: Sequence[tuple[str, int, Series]]) -> str:
    names = [
        (f"{MARKS[place % len(MARKS)]} {'reference' if one.is_reference else f's{place}'}", name)
        for name, place, one in keys
    ]
    under = legend(names) if len(names) > 1 else ""
    return (
        f'<figure class="rounds"><h3>{text(title)}</h3>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(title)}">{drawing}</svg>'
        f"{under}</figure>"
    )


def _written(tick: float, step: float) -> str:
    """A tick with as many decimals as the step between ticks needs."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{tick:,.{decimals}f}" if decimals <= 5 else f"{tick:.3g}"
