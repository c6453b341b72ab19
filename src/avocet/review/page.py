"""A self-contained web page: clips with their sound, truth beside caption, and what the judge found.

One HTML file with the videos inside (base64), no script and nothing loaded from elsewhere; a content
security policy enforces both. Captions are model output and truth may come from files, so every text is
escaped.
"""

from __future__ import annotations

import base64
import dataclasses
import mimetypes
from collections.abc import Sequence
from pathlib import Path

from avocet.errors import ConfigError
from avocet.review._html import document, figure_list, text, warning_list, write_html

_MAX_EMBEDDED_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """The judge's findings on one caption, one short text per event."""

    correct: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    incorrect: tuple[str, ...] = ()
    hallucinated: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageClip:
    """One clip of the page."""

    title: str
    video_path: Path
    truth: str
    caption: str
    findings: Findings | None = None
    """None: nobody judged this caption."""
    facts: tuple[str, ...] = ()
    """Short facts below the player: length, frames, seconds taken."""
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """What stands on the page."""

    title: str
    lead: str
    """One or two sentences on what is shown and how it was made."""
    clips: tuple[PageClip, ...]
    figures: tuple[tuple[str, str], ...] = ()
    """(number, what it counts), shown large at the top."""
    footer: str = ""


_KINDS = (
    ("correct", "\N{CHECK MARK}", "correct"),
    ("missed", "\N{WHITE CIRCLE}", "missed"),
    ("incorrect", "\N{NOT EQUAL TO}", "incorrect"),
    ("hallucinated", "+", "invented"),
)
"""Field of `Findings`, its sign (colour alone must not carry the meaning), its label."""


def write_page(path: str | Path, page: Page) -> Path:
    """Write `page` as one HTML file and return its path; its folder is created.

    Raises `ConfigError` when a video is too large to be embedded, or the path cannot be written.
    """
    return write_html(path, render_page(page))


def render_page(page: Page) -> str:
    """The whole page as HTML text."""
    clips = "\n".join(_clip(clip, number) for number, clip in enumerate(page.clips, start=1))
    body = f"""<header>
<h1>{text(page.title)}</h1>
<p class="lead">{text(page.lead)}</p>
{figure_list(page.figures)}
{_legend()}
</header>
<main>
{clips}
</main>
<footer><p>{text(page.footer)}</p></footer>"""
    return document(title=page.title, body=body)


def _clip(clip: PageClip, number: int) -> str:
    facts = "".join(f"<li>{text(fact)}</li>" for fact in clip.facts)
    return f"""<article aria-labelledby="clip-{number}">
<h2 id="clip-{number}">{text(clip.title)}</h2>
<div class="columns">
<figure>
<video controls preload="auto" src="{_data_uri(clip.video_path)}" aria-label="{text(clip.title)}"></video>
<figcaption><ul class="facts">{facts}</ul></figcaption>
</figure>
<div class="texts">
<section><h3>Truth</h3><p>{text(clip.truth)}</p></section>
<section><h3>Caption</h3><p>{text(clip.caption) or "<em>(empty)</em>"}</p></section>
{warning_list(clip.warnings)}
{_chips(clip.findings)}
</div>
</div>
</article>"""


def _chips(findings: Findings | None) -> str:
    if findings is None:
        return '<p class="unjudged">This caption was not judged.</p>'
    chips = [
        f'<li class="{kind}"><span class="sign" aria-hidden="true">{sign}</span>'
        f'<span class="kind">{label}</span> {text(event)}</li>'
        for kind, sign, label in _KINDS
        for event in getattr(findings, kind)
    ]
    return f'<section><h3>Events</h3><ul class="chips">{"".join(chips)}</ul></section>' if chips else ""


def _legend() -> str:
    items = "".join(
        f'<li class="{kind}"><span class="sign" aria-hidden="true">{sign}</span><span class="kind">{label}</span></li>'
        for kind, sign, label in _KINDS
    )
    return f'<ul class="chips legend" aria-label="Signs">{items}</ul>'


def _data_uri(path: Path) -> str:
    size = path.stat().st_size
    if size > _MAX_EMBEDDED_BYTES:
        raise ConfigError(
            f"{path} has {size / 2**20:.0f} MiB; at most {_MAX_EMBEDDED_BYTES // 2**20} MiB per video fit into a page, "
            "cut or compress it first"
        )
    kind = mimetypes.guess_type(path.name)[0] or "video/mp4"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def summary_figures(num_clips: int, findings: Sequence[Findings]) -> tuple[tuple[str, str], ...]:
    """The usual figures at the top: clips, events right, events wrong in either way."""
    correct, missed, incorrect, hallucinated = (
        sum(len(getattr(item, kind)) for item in findings) for kind, _, _ in _KINDS
    )
    return (
        (str(num_clips), "clips"),
        (f"{correct} of {correct + missed + incorrect}", "events right"),
        (str(missed), "missed"),
        (str(incorrect), "incorrect"),
        (str(hallucinated), "invented"),
    )
