"""Time ranges in a caption that nobody measured: a mechanical grid, the same range again and again, impossible times.

Understood are "00:00-00:05", "0:00 to 0:05", "[00:01:10 --> 00:01:15]", "0s - 5s", "0-5 seconds". Ranges in quotation
marks (clocks and timers on the screen) and times of day ("10:00-2:00 pm") are left alone. What a single range proves is
only looked at where a range is a label (at the start of a line or sentence, or in brackets): the running text may speak
of opening hours and match clocks.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence

MIN_GRID_RANGES = 4
"""So many ranges of one length, each beginning where the last ended: three equal shots happen by chance."""
MIN_SAME_RANGES = 3
MIN_RETURNS = 2
"""Labels that go back in time; a single one may be an overlap, and going back to the first time begins a new list."""
ROUNDING_SECONDS = 1.0
"""A label may end this much after the clip: labels are whole seconds."""
_EQUAL_SECONDS = 0.05
"""Two lengths are the same up to rounding to tenths."""

CLOCK = r"(?:[0-9]{1,2}:)?[0-9]{1,2}:[0-9]{2}(?:[.,][0-9]{1,3})?"
"""An expression for 0:05, 00:01:10 or 00:05.250."""
_NUMBER = r"[0-9]{1,4}(?:\.[0-9]{1,3})?"
_UNIT = r"[ ]?(?:seconds?|secs?|s|秒)"
BETWEEN = r"[ \t]{0,3}(?:-{1,2}>?|[–—~～→至到]|to|until|and)[ \t]{0,3}"
_RANGE = re.compile(
    rf"(?<![0-9:.])(?:(?P<start>{CLOCK}){BETWEEN}(?P<end>{CLOCK})(?![0-9:])"
    rf"|(?P<from>{_NUMBER})(?:{_UNIT})?{BETWEEN}(?P<to>{_NUMBER}){_UNIT}(?![A-Za-z]))"
)
_TIME_OF_DAY = re.compile(r"[ ]?(?:[ap]\.?m\b|o['’]clock)", re.IGNORECASE)
_LEAD = re.compile(
    r"(?:^|[\s*_#>•\-\[(（【])(?:at|from|between|during|in|time|times|timestamp|timeline|segment|scene|shot|clip|part)"
    r"[ \t]?[0-9]{0,3}[:：]?[*_]{0,3}[ \t\[(（【]{0,3}$",
    re.IGNORECASE,
)
_DECORATION = " \t*_#>•-"
_SENTENCE_END = tuple('.!?。！？:：;；"”')


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Range:
    start: int
    """Index of the first character."""
    end: int
    start_seconds: float
    end_seconds: float
    is_label: bool


def fake_ranges(text: str, mask: bytearray, duration_seconds: float | None) -> Iterator[tuple[int, int]]:
    """(start, end) of the passages that show a fake range. `mask`: `quoted_mask(text)`. Linear in the length."""
    ranges = [found for match in _RANGE.finditer(text) if (found := _read(text, match, mask)) is not None]
    yield from _grids(ranges)
    yield from _same(ranges)
    labels = [found for found in ranges if found.is_label]
    yield from _impossible(labels, duration_seconds)
    yield from _returns(labels)


def _read(text: str, match: re.Match[str], mask: bytearray) -> _Range | None:
    if mask.find(1, match.start(), match.end()) >= 0 or _TIME_OF_DAY.match(text, match.end()):
        return None
    first, last = match["start"] or match["from"], match["end"] or match["to"]
    return _Range(
        start=match.start(),
        end=match.end(),
        start_seconds=_seconds(first),
        end_seconds=_seconds(last),
        is_label=_is_label(text, match.start()),
    )


def _seconds(time: str) -> float:
    """ "1:02:03.5" -> 3723.5; "7.5" -> 7.5."""
    seconds = 0.0
    for part in time.replace(",", ".").split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def _is_label(text: str, start: int) -> bool:
    window = text[max(0, start - 40) : start]
    reaches_line_start = start <= 40 or "\n" in window
    line = window.rpartition("\n")[2]
    if line.rstrip(" \t*_")[-1:] in tuple("[(（【"):
        return True
    line = _LEAD.sub("", line).rstrip(_DECORATION + "[(（【")
    return (not line and reaches_line_start) or line.endswith(_SENTENCE_END)


def _grids(ranges: Sequence[_Range]) -> Iterator[tuple[int, int]]:
    begin = 0
    for index in range(1, len(ranges) + 1):
        if index < len(ranges) and _continues(ranges[index - 1], ranges[index]):
            continue
        if index - begin >= MIN_GRID_RANGES:
            yield ranges[begin].start, ranges[index - 1].end
        begin = index


def _continues(first: _Range, second: _Range) -> bool:
    """Whether the second is the next cell of a grid; some grids count 0-4, 5-9."""
    gap = second.start_seconds - first.end_seconds
    length, next_length = first.end_seconds - first.start_seconds, second.end_seconds - second.start_seconds
    return length > 0 and abs(length - next_length) < _EQUAL_SECONDS and min(abs(gap), abs(gap - 1)) < _EQUAL_SECONDS


def _same(ranges: Sequence[_Range]) -> Iterator[tuple[int, int]]:
    counts: Counter[tuple[float, float]] = Counter()
    for found in ranges:
        times = found.start_seconds, found.end_seconds
        counts[times] += 1
        if counts[times] == MIN_SAME_RANGES:
            yield found.start, found.end


def _impossible(labels: Sequence[_Range], duration_seconds: float | None) -> Iterator[tuple[int, int]]:
    for label in labels:
        is_late = duration_seconds is not None and label.end_seconds > duration_seconds + ROUNDING_SECONDS
        if is_late or label.end_seconds < label.start_seconds:
            yield label.start, label.end


def _returns(labels: Sequence[_Range]) -> Iterator[tuple[int, int]]:
    returns = [
        label
        for before, label in itertools.pairwise(labels)
        if labels[0].start_seconds < label.start_seconds < before.start_seconds
    ]
    if len(returns) >= MIN_RETURNS:
        yield from ((label.start, label.end) for label in returns)
