"""Unnatural captions: what no person would write when asked to tell a video in prose.

video-SALMONN 2 stops its rounds of preference training when unnatural captions become frequent (section 4, table 2),
but judges them by eye and shows only examples: headings such as "Video Description" and "Audio:" that recur inside a
caption, stray Chinese characters, fake time ranges, header lines that repeat. The rules here are our own, made after
those examples, plus two kinds of residue that any pipeline of captioners leaves: markup and prompts.

They are meant for captions in prose. A caption that was *asked* for as JSON, Markdown or with times is unnatural by
these rules and should not be measured by them. On the reference captions of video-SALMONN 2's test set they find 3 of
483: two hold a sentence of Chinese inside English, one sets "[Audio Description:" before five paragraphs.

Every rule is linear in the length of the text. Quotations (speech, writing on the screen) may hold anything.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from avocet.errors import ConfigError
from avocet.metrics._quotes import quoted_mask
from avocet.metrics._residue import leaked_instruction, leaked_prompts, residues
from avocet.metrics._stray_scripts import stray_passages
from avocet.metrics._time_ranges import BETWEEN, CLOCK, fake_ranges
from avocet.metrics.statistics import Share, share

UnnaturalKind = Literal[
    "recurring_heading", "repeated_header", "stray_script", "fake_time_range", "markup_residue", "prompt_leakage"
]

MAX_EXCERPT = 80
MAX_PER_KIND = 20
"""Findings of one kind that are reported of one text; more of them say nothing new."""

MIN_PLAIN_HEADINGS = 6
"""How often a plain label ("Audio:") must open a sentence to count on its own. Reference captions written by people use
it up to five times to introduce speech; what no person does is to alternate two labels, to name the own text again and
again ("Video Description:"), or to set labels as headings."""
MIN_REPEATED_LINES = 3
"""Of a header line; two with nothing between them are enough."""
_MAX_HEADER_WORDS = 12
_MAX_HEADER_CHARACTERS = 100

_TIMES = rf"(?:[\[(（【]?{CLOCK}(?:{BETWEEN}{CLOCK})?[\])）】]?[ :：\-–—]{{0,3}})?"
_SECTIONS = (
    r"(?:(?:detailed|overall|full|general|short|final|video|audio|visual|audio-?visual|scene|sound|background)[ ]){0,2}"
    r"(?:descriptions?|captions?|summary|overview|analysis|transcript(?:ion)?s?|contents?|elements|details|cues|track|"
    r"timeline|video|audio|visuals?|audio-?visual|scenes?|sounds?|soundtrack|speech|music|on-?screen[ ]text|conclusion|"
    r"introduction)(?:[ ](?:and|&)[ ](?:[a-z]{1,20}[ ]?){1,2})?"
    r"|(?:视频|音频|画面|声音|场景|详细|整体)(?:描述|内容|分析|总结)?|描述|总结"
)
_LABEL = re.compile(
    rf"(?:^|(?<=[.!?。！？\"”] ))(?P<mark>[ \t#*_>\-\[(【]{{0,6}}){_TIMES}(?=[^\W0-9_])(?P<label>{_SECTIONS})"
    r"[ \t*_\])】]{0,4}(?:[:：](?P<after>[*_]{0,3})|(?=[ \t]{0,3}$))",
    re.IGNORECASE | re.MULTILINE,
)
_ABOUT_TEXT = re.compile("descri|caption|summar|overview|analys|transcri|content|conclusi|introduc|描述|内容|分析|总结")
_MARKDOWN_HEADING = re.compile(
    r"^[ \t]{0,3}(?:#{1,6}[ ]|\*\*|__)(?=\S)(?P<label>[^\n]{1,100}?)[ \t*_#:：]{0,8}$", re.MULTILINE
)
_LEADING_TIMES = re.compile(rf"^[ \t#*_>\-]{{0,6}}{_TIMES}")
_LINE = re.compile(r"[^\n]+")
_NO_HEADER_END = tuple(".!?,;。！？，；…\"”'’」』)")
_NO_HEADER_START = tuple("\"“'‘「『")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnnaturalPattern:
    """One oddity of a text: `text[start:end]`."""

    kind: UnnaturalKind
    excerpt: str
    """At most 80 characters of it."""
    start: int
    end: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnnaturalRate(Share):
    """The share of unnatural captions."""

    kinds: dict[str, int]
    """Kind -> number of captions with at least one pattern of it."""


def unnatural_patterns(
    text: str, *, duration_seconds: float | None = None, instruction: str | None = None
) -> tuple[UnnaturalPattern, ...]:
    """All that is unnatural in a caption, in the order of the text; at most 20 of each kind.

    The kinds and their reasons:

    - `recurring_heading`: the same section label ("Audio:", "**Video Description**") opens several parts. A story has
      no sections; the first label alone is a title, and passes. See `MIN_PLAIN_HEADINGS`.
    - `repeated_header`: a short line without an end mark comes three times, or twice in a row.
    - `stray_script`: letters foreign to the text, see `_stray_scripts`.
    - `fake_time_range`: times that nobody measured, see `_time_ranges`.
    - `markup_residue`: special tokens, code fences, JSON, tags, escapes, broken characters, see `_residue`.
    - `prompt_leakage`: the prompt or the assistant speaks instead of the caption; with `instruction`, also any ten
      successive words of it.

    Args:
        duration_seconds: of the clip: labels that end later are fake.
        instruction: what the captioner was asked.

    Raises `ConfigError` for a duration that is not positive.
    """
    if duration_seconds is not None and not duration_seconds > 0:
        raise ConfigError(f"duration_seconds must be > 0 or None, got {duration_seconds}")
    mask = quoted_mask(text)
    found: list[tuple[int, int, UnnaturalKind]] = []
    rules: tuple[tuple[UnnaturalKind, Iterator[tuple[int, int]]], ...] = (
        ("recurring_heading", _recurring_headings(text)),
        ("repeated_header", _repeated_headers(text)),
        ("stray_script", stray_passages(text, mask)),
        ("fake_time_range", fake_ranges(text, mask, duration_seconds)),
        ("markup_residue", residues(text, mask)),
        ("prompt_leakage", leaked_prompts(text, mask)),
        ("prompt_leakage", leaked_instruction(text, instruction)),
    )
    for kind, spans in rules:
        found.extend((start, end, kind) for _, (start, end) in zip(range(MAX_PER_KIND), spans, strict=False))
    return tuple(
        UnnaturalPattern(kind=kind, excerpt=text[start : min(end, start + MAX_EXCERPT)], start=start, end=end)
        for start, end, kind in sorted(found)
    )


def is_unnatural(text: str, *, duration_seconds: float | None = None, instruction: str | None = None) -> bool:
    """Whether a caption has any unnatural pattern. Raises as `unnatural_patterns`."""
    return bool(unnatural_patterns(text, duration_seconds=duration_seconds, instruction=instruction))


def unnatural_rate(
    texts: Sequence[str | None],
    *,
    durations_seconds: Sequence[float | None] | None = None,
    instructions: Sequence[str | None] | None = None,
) -> UnnaturalRate:
    """The share of unnatural captions; None is a missing caption, which is unscored.

    `durations_seconds` and `instructions` have one entry per text. Raises `ConfigError` when they have not, and as
    `unnatural_patterns`.
    """
    durations = [None] * len(texts) if durations_seconds is None else durations_seconds
    asked = [None] * len(texts) if instructions is None else instructions
    if not len(texts) == len(durations) == len(asked):
        raise ConfigError(
            f"durations_seconds and instructions need one entry per text (None where unknown), got {len(durations)} "
            f"and {len(asked)} for {len(texts)} texts"
        )
    kinds: Counter[str] = Counter()
    hits: list[bool | None] = []
    for text, duration, instruction in zip(texts, durations, asked, strict=True):
        if text is None:
            hits.append(None)
            continue
        found = {item.kind for item in unnatural_patterns(text, duration_seconds=duration, instruction=instruction)}
        kinds.update(found)
        hits.append(bool(found))
    return UnnaturalRate(**share(hits).to_dict(), kinds={kind: kinds[kind] for kind in get_args(UnnaturalKind)})


def _recurring_headings(text: str) -> Iterator[tuple[int, int]]:
    """The second occurrence of each label that recurs."""
    places: dict[str, list[tuple[int, int]]] = {}
    is_set: set[str] = set()
    seen_at: set[int] = set()
    for match in _LABEL.finditer(text):
        key = " ".join(match["label"].casefold().split())
        places.setdefault(key, []).append(match.span("label"))
        seen_at.add(match.start("label"))
        alone = text[match.end() : match.end() + 1] in ("", "\n")
        if alone or _ABOUT_TEXT.search(key) or "#" in match["mark"] or "*" in match["mark"]:
            is_set.add(key)
    for match in _MARKDOWN_HEADING.finditer(text):
        if match.start("label") not in seen_at and len(match["label"].split()) <= _MAX_HEADER_WORDS:
            key = " ".join(match["label"].casefold().split())
            places.setdefault(key, []).append(match.span("label"))
            is_set.add(key)
    for key, spans in places.items():
        if len(spans) >= MIN_PLAIN_HEADINGS or (len(spans) > 1 and (key in is_set or len(places) > 1)):
            yield sorted(spans)[1]


def _repeated_headers(text: str) -> Iterator[tuple[int, int]]:
    """The occurrence of each header line that makes it too many."""
    counts: Counter[str] = Counter()
    reported: set[str] = set()
    before = ""
    for match in _LINE.finditer(text):
        if match[0].isspace():
            continue
        key = _header_key(match[0])
        if key and key not in reported:
            counts[key] += 1
            if counts[key] >= MIN_REPEATED_LINES or key == before:
                reported.add(key)
                yield match.span()
        before = key


def _header_key(line: str) -> str:
    """What is compared of a header line, "" for a line that is none."""
    if len(line) > _MAX_HEADER_CHARACTERS:
        return ""
    bare = line.strip(" \t*_#>")
    if bare.endswith(_NO_HEADER_END) or bare.startswith(_NO_HEADER_START):
        return ""
    words = _LEADING_TIMES.sub("", bare).casefold().split()
    return " ".join(words) if len(words) <= _MAX_HEADER_WORDS and any(map(str.isalpha, "".join(words))) else ""
