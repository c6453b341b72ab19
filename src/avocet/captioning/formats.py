"""How caption records are written out: prose for people, JSON lines for programs, Markdown for pages.

Captions are model output and therefore untrusted: control characters never reach a terminal and
Markdown never turns into markup.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from avocet.records import Caption

Format = Literal["prose", "json", "markdown"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
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


def _plain(text: str) -> str:
    flat = " ".join(printable(text).split())
    return _MARKDOWN_SPECIAL.sub(r"\\\1", flat)


FORMATS: Mapping[Format, Callable[[Caption], str]] = MappingProxyType(
    {"prose": prose, "json": json_line, "markdown": markdown}
)
