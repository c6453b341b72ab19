"""A self-contained web page: clips with their sound, truth beside caption, and what the judge found.

One HTML file with the videos inside (base64), no script and nothing loaded from elsewhere; a content
security policy enforces both. Captions are model output and truth may come from files, so every text is
escaped.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import mimetypes
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

from avocet.captioning.formats import printable
from avocet.errors import ConfigError

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

    Raises `ConfigError` when a video is too large to be embedded.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(page), encoding="utf-8")
    return path


def render_page(page: Page) -> str:
    """The whole page as HTML text."""
    style = resources.files("avocet").joinpath("assets/review/page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; media-src data:; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    figures = "".join(f"<div><dt>{_text(what)}</dt><dd>{_text(number)}</dd></div>" for number, what in page.figures)
    clips = "\n".join(_clip(clip, number) for number, clip in enumerate(page.clips, start=1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_text(page.title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header>
<h1>{_text(page.title)}</h1>
<p class="lead">{_text(page.lead)}</p>
{f'<dl class="figures">{figures}</dl>' if figures else ""}
{_legend()}
</header>
<main>
{clips}
</main>
<footer><p>{_text(page.footer)}</p></footer>
</body>
</html>
"""


def _clip(clip: PageClip, number: int) -> str:
    facts = "".join(f"<li>{_text(fact)}</li>" for fact in clip.facts)
    warnings = "".join(f'<p class="warning"><strong>Warning</strong> {_text(warning)}</p>' for warning in clip.warnings)
    return f"""<article aria-labelledby="clip-{number}">
<h2 id="clip-{number}">{_text(clip.title)}</h2>
<div class="columns">
<figure>
<video controls preload="auto" src="{_data_uri(clip.video_path)}" aria-label="{_text(clip.title)}"></video>
<figcaption><ul class="facts">{facts}</ul></figcaption>
</figure>
<div class="texts">
<section><h3>Truth</h3><p>{_text(clip.truth)}</p></section>
<section><h3>Caption</h3><p>{_text(clip.caption) or "<em>(empty)</em>"}</p></section>
{warnings}
{_chips(clip.findings)}
</div>
</div>
</article>"""


def _chips(findings: Findings | None) -> str:
    if findings is None:
        return '<p class="unjudged">This caption was not judged.</p>'
    chips = [
        f'<li class="{kind}"><span class="sign" aria-hidden="true">{sign}</span>'
        f'<span class="kind">{label}</span> {_text(event)}</li>'
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


def _text(text: str) -> str:
    return escape(printable(text), quote=True)


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
