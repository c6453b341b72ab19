"""The small drawings of an evaluation page: a score with its interval, and how a score spreads over the items.

Places are percent of the drawing's width, so that it fits a phone and the writing keeps its size. Colours are classes:
the page's policy forbids inline styles.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

from avocet.evaluation.scores import Score, Unit
from avocet.review._html import text

_MAX_BINS = 24
_PLOT_TOP, _PLOT_HEIGHT, _AXIS_HEIGHT = 18, 120, 22
_MAX_LABELS = 6


def shown(value: float | None, unit: Unit) -> str:
    """A value for people: 0.137 in percent -> "13.7 %"."""
    return Score(name="", value=value, num=0, unit=unit).text()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """From 0 to `top`."""

    top: float

    @classmethod
    def of(cls, values: Iterable[float | None], unit: Unit) -> Scale:
        """Large enough for all values, with a round end."""
        largest = max((value for value in values if value is not None and math.isfinite(value)), default=0.0)
        if unit == "percent" and 0 < largest <= 1:
            return cls(top=next(top for top in (0.05, 0.1, 0.25, 0.5, 1.0) if largest <= top))
        return cls(top=_nice_above(largest))

    def percent(self, value: float) -> float:
        """The place of a value in percent of the width."""
        return min(100.0, max(0.0, 100 * value / self.top))


def interval_bar(
    value: float | None, low: float | None, high: float | None, scale: Scale, *, label: str, kind: str = ""
) -> str:
    """A bar up to the value with its interval on it; "" without a value."""
    if value is None:
        return ""
    place = scale.percent(value)
    parts = [
        '<rect class="track" x="0" y="4" width="100%" height="8" rx="2"/>',
        f'<rect class="bar" x="0" y="4" width="{place:.2f}%" height="8" rx="2"/>',
    ]
    if low is not None and high is not None:
        left, right = scale.percent(low), scale.percent(high)
        parts += [
            f'<line class="interval" x1="{left:.2f}%" x2="{right:.2f}%" y1="8" y2="8"/>',
            *(f'<line class="interval" x1="{end:.2f}%" x2="{end:.2f}%" y1="3" y2="13"/>' for end in (left, right)),
        ]
    classes = f"score-bar {kind}".strip()
    return (
        f'<svg class="{classes}" width="150" height="16" role="img" aria-label="{text(label)}">{"".join(parts)}</svg>'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bins:
    """Equal bins; the last one holds its upper edge as well."""

    start: float
    step: float
    counts: tuple[int, ...]

    def edge(self, index: int) -> float:
        """The lower edge of a bin; of one beyond the last, the upper edge of the last."""
        return self.start + index * self.step


def bins_of(values: Sequence[float], max_bins: int = _MAX_BINS) -> Bins:
    """At most `max_bins` bins of a round width (1, 2 or 5 times a power of ten); `values` must not be empty."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    step = next(step for step in _round_steps(span / max_bins) if _num_bins(low, high, step) <= max_bins)
    start = math.floor(low / step + 1e-9) * step
    counts = [0] * _num_bins(low, high, step)
    for value in values:
        counts[min(int((value - start) / step + 1e-9), len(counts) - 1)] += 1
    return Bins(start=start, step=step, counts=tuple(counts))


def histogram(values: Sequence[float], unit: Unit, *, name: str) -> str:
    """How the values spread, with a line at their mean; "" without values."""
    if not values:
        return ""
    bins = bins_of(values)
    width, most = 100 / len(bins.counts), max(bins.counts)
    floor = _PLOT_TOP + _PLOT_HEIGHT
    bars = []
    for index, count in enumerate(bins.counts):
        height = _PLOT_HEIGHT * count / most
        what = f"{shown(bins.edge(index), unit)} to {shown(bins.edge(index + 1), unit)}: {count:,}"
        bars.append(
            f'<rect class="bar" x="{index * width:.3f}%" y="{floor - height:.1f}" width="{width:.3f}%" '
            f'height="{height:.1f}"><title>{text(what)}</title></rect>'
        )
    mean = statistics.fmean(values)
    place = 100 * (mean - bins.start) / (bins.step * len(bins.counts))
    anchor = "end" if place > 50 else "start"
    facts = (
        f"{len(values):,} items: lowest {shown(min(values), unit)}, median {shown(statistics.median(values), unit)}, "
        f"mean {shown(mean, unit)}, highest {shown(max(values), unit)}; the largest bar counts {most:,}."
    )
    return f"""<figure class="histogram">
<svg width="100%" height="{floor + _AXIS_HEIGHT}" role="img" aria-label="{text(f"{name} over items. {facts}")}">
{"".join(bars)}
<line class="floor" x1="0" x2="100%" y1="{floor}" y2="{floor}"/>
<line class="mean" x1="{place:.2f}%" x2="{place:.2f}%" y1="0" y2="{floor}"/>
<text class="mean-name" x="{place:.2f}%" y="12" dx="{-5 if anchor == "end" else 5}" text-anchor="{anchor}">mean</text>
{_axis(bins, unit, floor)}
</svg>
<figcaption>{text(facts)}</figcaption>
</figure>"""


def _axis(bins: Bins, unit: Unit, floor: int) -> str:
    num = len(bins.counts)
    every = math.ceil((num + 1) / _MAX_LABELS)
    labels = []
    for index in range(0, num + 1, every):
        place = 100 * index / num
        anchor = "start" if index == 0 else "end" if index == num else "middle"
        # A label in the middle of its edge would leave the drawing at its right end.
        if anchor == "middle" and place > 92:
            continue
        labels.append(
            f'<text x="{place:.3f}%" y="{floor + 16}" text-anchor="{anchor}">'
            f"{text(shown(bins.edge(index), unit))}</text>"
        )
    return "".join(labels)


def _num_bins(low: float, high: float, step: float) -> int:
    start = math.floor(low / step + 1e-9)
    return max(1, math.ceil(high / step - 1e-9) - start)


def _round_steps(at_least: float) -> Iterable[float]:
    power = math.floor(math.log10(at_least))
    steps = (factor * 10.0**exponent for exponent in range(power, power + 3) for factor in (1, 2, 5))
    return (step for step in steps if step >= at_least * (1 - 1e-9))


def _nice_above(value: float) -> float:
    """The smallest of 1, 2, 3, 5 times a power of ten that is not below it; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 3, 5, 10) if value <= factor * power * (1 + 1e-9))
