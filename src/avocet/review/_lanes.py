"""The lanes of a clip page's drawing, each on the common time axis: SVG text, from y = 0 at its own top.

Nested drawings with `preserveAspectRatio="none"` hold what may be stretched by a wider drawing (waveform, token
blocks, lines); text and thumbnails stand outside of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from avocet.models.layout import AUDIO, VISUAL, TokenPlan
from avocet.records import SAMPLE_RATE
from avocet.review._axis import TimeScale, level_classes, levels_that_fit, tick_label, tick_times
from avocet.review._html import text
from avocet.review._images import envelope, jpeg_uri, pool_columns, spectrogram_uri
from avocet.review.clip_facts import number
from avocet.review.token_runs import Reading, TokenRun, readings, token_runs

MAX_THUMBNAILS = 60
_THUMBNAIL_HEIGHT = 72
_JPEG_HEIGHT = 120
_MAX_SPECTROGRAM_COLUMNS = 4000
_COLUMNS_PER_SECOND = 100
_MIN_COLUMNS, _MAX_COLUMNS = 600, 12_000
_QUIETEST_SCALE = 0.01
"""Waveforms are drawn to their peak, but noise below -40 dBFS is not blown up to look like sound."""
_DIGIT_PIXELS = 7
_MIN_POINT = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lane:
    """One row of the drawing."""

    labels: tuple[tuple[int, str, str], ...]
    """(y, name, detail) each, beside the lane; plain text."""
    height: int
    body: str


def empty_lane(name: str, reason: str) -> Lane:
    """A row that says why there is nothing."""
    body = f'<rect width="100%" height="22" class="track"/><text x="8" y="15" class="note">{text(reason)}</text>'
    return Lane(labels=((15, name, ""),), height=22, body=body)


def axis_lane(scale: TimeScale, start_seconds: float) -> Lane:
    """Tick labels; a second row with the file's own times where the clip does not begin with the file."""
    rows = [(13, 0.0, "")] + ([(29, start_seconds, ' class="note"')] if start_seconds else [])
    parts = []
    for level in range(scale.num_levels):
        step, times = tick_times(scale, level)
        ticks = "".join(
            f'<text x="{scale.percent(time)}" dx="4" y="{y}"{kind}>{tick_label(first + time, step)}</text>'
            for y, first, kind in rows
            for time in times
        )
        parts.append(f"<g {level_classes([level])}>{ticks}</g>")
    labels: tuple[tuple[int, str, str], ...] = ((13, "Seconds", ""),)
    if start_seconds:
        labels = ((13, "Seconds", ""), (29, "", "of the file"))
    return Lane(labels=labels, height=34 if start_seconds else 18, body="".join(parts))


def grid_lines(scale: TimeScale, height: int) -> str:
    """A line through all lanes at each tick."""
    parts = []
    for level in range(scale.num_levels):
        lines = "".join(
            f'<line x1="{place}" x2="{place}" y2="{height}"/>'
            for place in map(scale.percent, tick_times(scale, level)[1])
        )
        parts.append(f"<g {level_classes([level])}>{lines}</g>")
    return f'<g class="grid" aria-hidden="true">{"".join(parts)}</g>'


def picture_lane(scale: TimeScale, frames: np.ndarray, seconds: Sequence[float], shown: Sequence[str]) -> Lane:
    """Thumbnails that begin at their times, and a mark for every sampled frame.

    Args:
        frames: uint8 (T, 3, H, W).
        seconds: T increasing times from the start of the clip; a frame that was on screen before it begins at 0.
        shown: T descriptions, plain text.
    """
    count, _, height, width = frames.shape
    marks = "".join(
        f'<line x1="{place}" x2="{place}" y2="9" class="mark"><title>{text(what)}</title></line>'
        for place, what in zip(map(scale.percent, seconds), shown, strict=True)
    )
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_THUMBNAILS)).round().astype(int)).tolist()
    drawn_width = min(max(_THUMBNAIL_HEIGHT * width / height, 28), 160)
    times = [seconds[index] for index in chosen]
    labels = [f"{number(time)} s" for time in times]
    room = max(drawn_width + 3, _DIGIT_PIXELS * max(map(len, labels)))
    thumbnails = "".join(
        f"<g {level_classes(levels)}>"
        f'<image x="{scale.percent(time)}" y="12" width="{drawn_width:.0f}" height="{_THUMBNAIL_HEIGHT}" '
        f'preserveAspectRatio="xMidYMid slice" role="img" aria-label="{text(shown[index])}" '
        f'href="{jpeg_uri(frames[index], _JPEG_HEIGHT)}"><title>{text(shown[index])}</title></image>'
        f'<text x="{scale.percent(time)}" dx="2" y="96" class="note">{label}</text></g>'
        for index, time, label, levels in zip(chosen, times, labels, levels_that_fit(scale, times, room), strict=True)
        if levels
    )
    drawn = "" if len(chosen) == count else f"{len(chosen)} drawn"
    return Lane(
        labels=(
            (24, "Picture", "1 frame" if count == 1 else f"{count} frames"),
            (52, "", f"{width}x{height}"),
            (66, "", drawn),
        ),
        height=102,
        body=f'<rect y="12" width="100%" height="{_THUMBNAIL_HEIGHT}" class="track"/>{marks}{thumbnails}',
    )


def wave_lane(scale: TimeScale, waveform: np.ndarray, peak_dbfs: float | None) -> Lane:
    """Smallest and largest sample of every hundredth of a second or so, drawn to the peak."""
    height = 72
    columns = int(np.clip(scale.seconds * _COLUMNS_PER_SECOND, _MIN_COLUMNS, _MAX_COLUMNS))
    lows, highs = envelope(waveform, columns)
    full = max(float(np.abs(waveform).max()), _QUIETEST_SCALE)
    seconds = len(waveform) / SAMPLE_RATE
    places = [scale.unit(place) for place in (np.arange(len(lows)) + 0.5) * (seconds / len(lows))]
    top = [f"{place},{round(-100 * high / full)}" for place, high in zip(places, highs.tolist(), strict=True)]
    bottom = [f"{place},{round(-100 * low / full)}" for place, low in zip(places, lows.tolist(), strict=True)]
    level = "digital silence" if peak_dbfs is None else f"peak {peak_dbfs:.1f} dBFS"
    body = (
        f'<rect width="100%" height="{height}" class="track"/>'
        f'<svg width="100%" height="{height}" viewBox="0 -104 {scale.units} 208" preserveAspectRatio="none" '
        f'role="img" aria-label="Waveform of {number(seconds)} s, {level}">'
        f'<path class="wave" d="M{" ".join([*top, *reversed(bottom)])}Z"/></svg>'
    )
    return Lane(labels=((30, "Waveform", level),), height=height, body=body)


def spectrogram_lane(scale: TimeScale, mel: np.ndarray, frame_seconds: float, sound_seconds: float) -> Lane:
    """float (bins, mel frames) as a picture; what lies beyond the axis (padding) is cut off and said."""
    height = 96
    num_frames = min(mel.shape[1], max(1, round(scale.seconds / frame_seconds)))
    uri = spectrogram_uri(pool_columns(mel[:, :num_frames], _MAX_SPECTROGRAM_COLUMNS))
    what = f"{mel.shape[0]} bins, {number(1000 * frame_seconds)} ms"
    body = (
        f'<rect width="100%" height="{height}" class="track"/>'
        f'<image width="{scale.percent(num_frames * frame_seconds)}" height="{height}" preserveAspectRatio="none" '
        f'role="img" aria-label="Log-mel spectrogram, {what} per column, low tones at the bottom" href="{uri}"/>'
    )
    labels = [(36, "Log-mel", what)]
    padding = mel.shape[1] * frame_seconds - sound_seconds
    if padding >= 2 * frame_seconds:
        labels.append((66, "", f"{number(round(padding, 2))} s of padding"))
    return Lane(labels=tuple(labels), height=height, body=body)


def token_lane(scale: TimeScale, plan: TokenPlan) -> Lane:
    """Runs of visual and of audio tokens at their true seconds, tied where they are read together."""
    runs = token_runs(plan)
    ties, blocks, counts = [], [], []
    for place, reading in enumerate(readings(runs)):
        shade = "even" if place % 2 == 0 else "odd"
        ties.append(_tie(scale, reading, shade))
        blocks += [_block(scale, run, shade) for run in (*reading.visual, *reading.audio)]
        counts += [_count(scale, run, shade) for run in (*reading.visual, *reading.audio)]
    body = (
        '<rect width="100%" height="26" class="track"/><rect y="66" width="100%" height="26" class="track"/>'
        f'<svg width="100%" height="92" viewBox="0 0 {scale.units} 92" preserveAspectRatio="none" role="img" '
        f'aria-label="{plan.num_visual_tokens} visual and {plan.num_audio_tokens} audio tokens at their seconds; '
        f'the table below lists them">{"".join(ties)}{"".join(blocks)}</svg>'
        f'<g class="counts" aria-hidden="true">{"".join(counts)}</g>'
    )
    return Lane(
        labels=(
            (11, "Visual tokens", f"{plan.num_visual_tokens:,}"),
            *(((50, "", "read together"),) if any(ties) else ()),
            (77, "Audio tokens", f"{plan.num_audio_tokens:,}"),
        ),
        height=92,
        body=body,
    )


def describe_run(run: TokenRun) -> str:
    """12 visual tokens, 0 to 1 s."""
    noun = "token" if run.count == 1 else "tokens"
    return f"{run.count:,} {run.name} {noun}, {number(run.start_seconds)} to {number(run.end_seconds)} s"


def _block(scale: TimeScale, run: TokenRun, shade: str) -> str:
    top = 0 if run.stream == VISUAL else 66
    width = max(run.end_seconds - run.start_seconds, scale.seconds / 2000)
    places = f"in the order read: {run.first + 1:,} to {run.first + run.count:,}"
    return (
        f'<rect x="{scale.unit(run.start_seconds)}" y="{top}" width="{scale.unit(width)}" height="26" '
        f'class="{run.name} {shade}"><title>{describe_run(run)}; {places}</title></rect>'
    )


def _tie(scale: TimeScale, reading: Reading, shade: str) -> str:
    if not reading.visual or not reading.audio:
        return ""
    top, bottom = (
        (scale.unit(part[0].start_seconds), scale.unit(part[-1].end_seconds))
        for part in (reading.visual, reading.audio)
    )
    count = sum(run.count for run in reading.visual), sum(run.count for run in reading.audio)
    title = (
        f"read together: {count[0]:,} visual tokens of {number(reading.visual[0].start_seconds)} to "
        f"{number(reading.visual[-1].end_seconds)} s, then {count[1]:,} audio tokens of "
        f"{number(reading.audio[0].start_seconds)} to {number(reading.audio[-1].end_seconds)} s"
    )
    return (
        f'<polygon class="tie {shade}" points="{top[0]},27 {top[1]},27 {bottom[1]},65 {bottom[0]},65">'
        f"<title>{title}</title></polygon>"
    )


def _count(scale: TimeScale, run: TokenRun, shade: str) -> str:
    label, length = f"{run.count:,}", run.end_seconds - run.start_seconds
    room = _DIGIT_PIXELS * len(label) + 8
    levels = [level for level in range(scale.num_levels) if scale.pixels(length, level) >= room]
    if not levels:
        return ""
    middle, base = scale.percent(run.start_seconds + length / 2), 17 if run.stream == VISUAL else 83
    return f'<text x="{middle}" y="{base}" {level_classes(levels, shade)}>{label}</text>'


def position_lane(scale: TimeScale, plan: TokenPlan, detail: str) -> Lane:
    """Rotary time position over true seconds of both streams; the area between them is where they part."""
    assert plan.positions is not None
    height, time = 132, plan.positions[0]
    largest = max(float(time.max()), _MIN_POINT)
    heights = 970 - 940 * time / largest
    picture, sound = plan.stream == VISUAL, plan.stream == AUDIO
    seconds = plan.start_seconds
    body = (
        f'<rect width="100%" height="{height}" class="track"/>'
        f'<svg width="100%" height="{height}" viewBox="0 0 {scale.units} 1000" preserveAspectRatio="none" role="img" '
        f'aria-label="Time position of the tokens over their seconds, 0 to {number(largest)}">'
        f'<path class="gap" d="{_area(scale, plan, heights)}"/>'
        f'<path class="audio-line" d="{_line(scale, seconds[sound], heights[sound], plan.end_seconds[sound])}"/>'
        f'<path class="visual-line" d="{_steps(scale, plan, heights, picture)}"/></svg>'
    )
    labels = ((12, "", f"{number(largest)}"), (54, "Time position", detail), (height - 4, "", "0"))
    return Lane(labels=labels, height=height, body=body)


def _line(scale: TimeScale, seconds: np.ndarray, heights: np.ndarray, ends: np.ndarray) -> str:
    """Through the beginnings of all tokens; points on a straight stretch are left out."""
    if not len(seconds):
        return ""
    slopes = np.diff(heights) / np.maximum(np.diff(seconds), _MIN_POINT)
    bends = np.ones(len(seconds), dtype=bool)
    bends[1:-1] = np.abs(np.diff(slopes)) > _MIN_POINT * (1 + np.abs(slopes[1:]))
    points = " ".join(
        f"{scale.unit(second)},{height:.1f}"
        for second, height in zip(seconds[bends].tolist(), heights[bends].tolist(), strict=True)
    )
    return f"M{points} H{scale.unit(float(ends[-1]))}"


def _steps(scale: TimeScale, plan: TokenPlan, heights: np.ndarray, chosen: np.ndarray) -> str:
    """A stair: each time's tokens keep their position until the next."""
    if not chosen.any():
        return ""
    seconds, first = np.unique(plan.start_seconds[chosen], return_index=True)
    levels, end = heights[chosen][first], float(plan.end_seconds[chosen].max())
    start = f"M{scale.unit(float(seconds[0]))},{levels[0]:.1f}"
    stairs = "".join(
        f" H{scale.unit(second)} V{level:.1f}"
        for second, level in zip(seconds[1:].tolist(), levels[1:].tolist(), strict=True)
    )
    return f"{start}{stairs} H{scale.unit(end)}"


def _area(scale: TimeScale, plan: TokenPlan, heights: np.ndarray) -> str:
    """Between the positions of picture and sound, where there are both."""
    picture, sound = plan.stream == VISUAL, plan.stream == AUDIO
    if not picture.any() or not sound.any():
        return ""
    seconds, first = np.unique(plan.start_seconds[picture], return_index=True)
    order = np.argsort(plan.start_seconds[sound], kind="stable")
    starts, sound_heights = plan.start_seconds[sound][order], heights[sound][order]
    both = (seconds >= starts[0]) & (seconds < plan.end_seconds[sound].max())
    if not both.any():
        return ""
    upper = heights[picture][first][both]
    lower = np.interp(seconds[both], starts, sound_heights)
    places = [scale.unit(second) for second in seconds[both].tolist()]
    points = [f"{place},{value:.1f}" for place, value in zip(places, upper.tolist(), strict=True)]
    points += [f"{place},{value:.1f}" for place, value in reversed(list(zip(places, lower.tolist(), strict=True)))]
    return f"M{' '.join(points)}Z"
