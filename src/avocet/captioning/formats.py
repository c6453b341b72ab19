"""How caption records are written out: prose for people, JSON lines for programs, Markdown for pages, subtitles.

Captions are model output and therefore untrusted: control characters never reach a terminal, and no text turns
into markup or into another cue. A subtitle document is about one clip and has one cue over its whole interval, on the
timeline of the file.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from avocet.errors import ConfigError
from avocet.records import Caption

Format = Literal["prose", "json", "markdown", "vtt", "srt"]

SUFFIXES: Mapping[Format, str] = MappingProxyType(
    {"prose": ".txt", "json": ".json", "markdown": ".md", "vtt": ".vtt", "srt": ".srt"}
)
"""How the name of a file with one caption ends."""

SUBTITLES: tuple[Format, ...] = ("vtt", "srt")
"""Formats that are whole documents: two of them one after the other are none."""

SUBTITLE_COLUMNS = 42
"""Characters per line of a cue, what broadcasters allow."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ARROW = re.compile("-{2,}>")
"""What makes a line of WebVTT the times of a cue."""
_WEBVTT_SPECIAL = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_SUBRIP_SPECIAL = str.maketrans(
    {
        "<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}",
        ">": "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}",
        "{": "(",
        "}": ")",
    }
)
"""SubRip has no escapes, but players read tags (<i>) and overrides ({\\an8}): look-alikes take their place."""
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!~&])")


def printable(text: str) -> str:
    """`text` with control characters (all but newline and tab) made visible as U+FFFD."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def clock(seconds: float) -> str:
    """Seconds as m:ss.s, for example 83.25 -> "1:23.2"."""
    tenths = int(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def summary(caption: Caption) -> str:
    """One line: interval, what was seen, whether sound was used, and the model."""
    frames = "1 frame" if caption.num_frames == 1 else f"{caption.num_frames} frames"
    sound = "sound used" if caption.audio_used else f"sound not used ({caption.audio_status})"
    if caption.media.get("is_image"):
        return f"still image, {caption.model}"
    return (
        f"{clock(caption.start_seconds)}-{clock(caption.end_seconds)}, {frames} "
        f"at {caption.fps:.2f} fps, {sound}, {caption.model}"
    )


def prose(caption: Caption) -> str:
    """Path, caption and warnings as plain text."""
    warnings = [f"warning: {warning}" for warning in caption.warnings]
    return printable("\n".join([f"{caption.path} ({summary(caption)})", caption.text, *warnings]))


def json_line(caption: Caption) -> str:
    """The whole record as one line of JSON."""
    return caption.to_json_line()


def markdown(caption: Caption) -> str:
    """A section with the caption as a paragraph and the facts as a list."""
    facts = [summary(caption), *(f"Warning: {warning}" for warning in caption.warnings)]
    lines = [f"## {_plain(caption.path)}", "", _plain(caption.text), "", *(f"- {_plain(fact)}" for fact in facts), ""]
    return "\n".join(lines)


def webvtt(caption: Caption) -> str:
    """A WebVTT document (W3C): where the caption comes from as a comment, and one cue.

    Raises `ConfigError` for a still image, which has no interval.
    """
    start, end = _cue_times(caption, ".")
    facts = [f"{caption.path} ({summary(caption)})", *(f"warning: {warning}" for warning in caption.warnings)]
    comment = [_ARROW.sub("->", _flat(fact)) for fact in facts]
    cue = [f"{start} --> {end}", *(line.translate(_WEBVTT_SPECIAL) for line in _cue_lines(caption.text))]
    # Without text there is nothing to show; the document stays valid.
    return "\n".join(["WEBVTT", "", "NOTE", *comment, "", *(cue if len(cue) > 1 else [])])


def subrip(caption: Caption) -> str:
    """A SubRip document with one cue, empty for an empty caption.

    Raises `ConfigError` for a still image, which has no interval.
    """
    start, end = _cue_times(caption, ",")
    lines = [line.translate(_SUBRIP_SPECIAL) for line in _cue_lines(caption.text)]
    return "\n".join(["1", f"{start} --> {end}", *lines, ""]) if lines else ""


def _cue_times(caption: Caption, point: str) -> tuple[str, str]:
    """Start and end as HH:MM:SS.mmm with `point` before the milliseconds; at least one millisecond apart."""
    if caption.media.get("is_image"):
        raise ConfigError(
            f"{caption.path} is a still image: it has no interval that a subtitle could be shown in; use another format"
        )
    start = round(caption.start_seconds * 1000)
    times = []
    for milliseconds in (start, max(start + 1, round(caption.end_seconds * 1000))):
        seconds, rest = divmod(milliseconds, 1000)
        times.append(f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{rest:03d}")
    return times[0], times[1]


def _cue_lines(text: str) -> list[str]:
    return textwrap.wrap(_flat(text), SUBTITLE_COLUMNS, break_on_hyphens=False)


def _flat(text: str) -> str:
    return printable(" ".join(text.split()))


def _plain(text: str) -> str:
    return _MARKDOWN_SPECIAL.sub(r"\\\1", _flat(text))


FORMATS: Mapping[Format, Callable[[Caption], str]] = MappingProxyType(
    {"prose": prose, "json": json_line, "markdown": markdown, "vtt": webvtt, "srt": subrip}
)
