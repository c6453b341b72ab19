"""What a model really sees and hears of one clip, as a self-contained page (`avocet inspect FILE --html OUT`).

Sampled frames at their true times, waveform, log-mel spectrogram and the token plan stand on one time axis, so that
one look tells whether sound and picture line up. Nothing is loaded and no script runs; file names, tags and
instructions are untrusted and escaped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from avocet.models.interface import Prompt
from avocet.models.layout import TokenPlan
from avocet.records import Clip
from avocet.review._chart import chart
from avocet.review._html import document, figure_list, text, warning_list, write_html
from avocet.review.clip_facts import clip_rows, number, source_rows
from avocet.review.token_runs import (
    TokenRun,
    largest_position_distance,
    largest_reading_gap,
    positions_per_second,
    token_runs,
)

ROWS_SHOWN = 200
"""Rows of the token plan that stand on the page; the rest is folded away."""
Finding = Literal["right", "wrong", "note"]
_SIGNS = {"right": "\N{CHECK MARK}", "wrong": "!", "note": "i"}
NOTICEABLE_GAP_SECONDS = 0.5
"""Picture and sound that are further apart than this are called out."""
_MAX_TAGS = 40
_MAX_TAG_LENGTH = 500


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClipView:
    """A clip, and what a model makes of it."""

    clip: Clip
    prompt: Prompt | None = None
    """None: no model was asked, the page shows the clip alone."""
    model_id: str = ""
    revision: str = ""
    layout_rule: str = ""
    prompt_text: Sequence[tuple[str, int]] | None = None
    """(text, times in a row) each, from `token_runs.prompt_pieces`; None for a model without a tokenizer."""
    warnings: tuple[str, ...] = ()
    """More than the clip and the prompt carry."""

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Those of the clip, the prompt and the view, each once."""
        of_prompt = () if self.prompt is None else self.prompt.warnings
        return tuple(dict.fromkeys((*self.clip.warnings, *of_prompt, *self.warnings)))


def write_clip_page(path: str | Path, view: ClipView) -> Path:
    """Write the page and return its path; its folder is created, a file that is there is replaced.

    Raises `ConfigError` when the path cannot be written.
    """
    return write_html(path, render_clip_page(view))


def render_clip_page(view: ClipView) -> str:
    """The whole page as HTML text."""
    name = Path(view.clip.source.path).name or view.clip.source.path
    who = f"What {view.model_id} sees and hears" if view.prompt is not None else "What is read of the clip"
    sections = [_timeline_section(view), _facts_section(view)]
    if view.prompt is not None:
        sections += [_plan_section(view.prompt.layout), _prompt_section(view, view.prompt)]
    body = f"""<header>
<p class="kicker">{text(who)}</p>
<h1><bdi>{text(name)}</bdi></h1>
{figure_list(_figures(view))}
{warning_list(view.all_warnings)}
</header>
<main>
{"".join(sections)}
</main>
<footer><p>Made by avocet inspect.</p></footer>"""
    return document(title=f"{name}: {who[0].lower()}{who[1:]}", body=body, styles=("page.css", "clip_page.css"))


def _figures(view: ClipView) -> list[tuple[str, str]]:
    clip, prompt = view.clip, view.prompt
    figures = [(f"{number(round(clip.duration_seconds, 2))} s", "length"), (str(clip.num_frames), "frames")]
    if prompt is None:
        return [*figures, (clip.audio_status, "sound")]
    num_media = len(prompt.layout)
    return [
        *figures,
        (clip.audio_status, "sound"),
        (f"{prompt.layout.num_visual_tokens:,}", "visual tokens"),
        (f"{prompt.layout.num_audio_tokens:,}", "audio tokens"),
        (f"{len(prompt.token_ids) - num_media:,}", "text tokens"),
        (f"{len(prompt.token_ids):,}", "tokens of the prompt"),
    ]


def alignment_lines(plan: TokenPlan) -> list[tuple[Finding, str]]:
    """(finding, sentence) each: do picture and sound line up in time?"""
    if not plan.num_visual_tokens or not plan.num_audio_tokens:
        there, missing = ("picture", "sound") if plan.num_visual_tokens else ("sound", "picture")
        return [("note", f"There are tokens of {there} and none of {missing}, so there is nothing to line up.")]
    lines: list[tuple[Finding, str]] = []
    gap = largest_reading_gap(token_runs(plan))
    if gap is not None:
        apart = f"up to {number(gap.value)} s apart (at {number(gap.at_seconds)} s)"
        moments = apart if number(gap.value) != "0" else "at the same moments"
        sentence = f"Picture and sound that are read together begin {moments}."
        lines.append((_judge(gap.value), sentence))
    if plan.positions is None:
        return [*lines, ("note", "This layout gives tokens no time positions: their order alone tells when they are.")]
    distance, rate = largest_position_distance(plan), positions_per_second(plan)
    if distance is None:
        return [*lines, ("note", "No picture token begins while there is sound: there are no positions to compare.")]
    seconds = distance.value / rate if rate else 0.0
    unit = "position" if distance.value == 1 else "positions"
    about = f"{number(round(seconds, 2))} s, " if rate else ""
    where = f" ({about}at {number(distance.at_seconds)} s)" if distance.value else ""
    sentence = (
        "Largest distance between a picture token's and a sound token's position for the same second: "
        f"{number(distance.value)} {unit}{where}."
    )
    return [*lines, (_judge(seconds), sentence)]


def _judge(gap_seconds: float) -> Finding:
    return "right" if gap_seconds <= NOTICEABLE_GAP_SECONDS else "wrong"


def _timeline_section(view: ClipView) -> str:
    verdict = ""
    if view.prompt is not None:
        items = "".join(
            f'<li class="{finding}"><span class="sign" aria-hidden="true">{_SIGNS[finding]}</span>{text(sentence)}</li>'
            for finding, sentence in alignment_lines(view.prompt.layout)
        )
        verdict = f'<ul class="verdict" aria-label="Do picture and sound line up?">{items}</ul>'
    return f"""<article aria-labelledby="timeline">
<h2 id="timeline">On one time axis</h2>
{verdict}
{chart(view.clip, view.prompt)}
</article>
"""


def _facts_section(view: ClipView) -> str:
    tables = [("The file", [("path", view.clip.source.path), *source_rows(view.clip), *_tag_rows(view.clip)])]
    tables.append(("What was read", clip_rows(view.clip)))
    if view.prompt is not None:
        tables.append(("What the model gets", _model_rows(view, view.prompt)))
    columns = "".join(
        f"<section><h3>{title}</h3><dl>"
        + "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in rows)
        + "</dl></section>"
        for title, rows in tables
    )
    return f"""<article aria-labelledby="facts">
<h2 id="facts">Facts</h2>
<div class="fact-columns">{columns}</div>
</article>
"""


def _tag_rows(clip: Clip) -> list[tuple[str, str]]:
    tags = list(clip.source.tags.items())
    rows = [(f"tag {_cut(name)}", _cut(value)) for name, value in tags[:_MAX_TAGS]]
    return rows + ([("tags", f"and {len(tags) - _MAX_TAGS} more")] if len(tags) > _MAX_TAGS else [])


def _cut(value: str) -> str:
    if len(value) <= _MAX_TAG_LENGTH:
        return value
    return f"{value[:_MAX_TAG_LENGTH]}... ({len(value):,} characters)"


def _model_rows(view: ClipView, prompt: Prompt) -> list[tuple[str, str]]:
    rows = [("model", view.model_id), ("weights", view.revision), ("layout rule", view.layout_rule)]
    if len(prompt.frames):
        count, _, height, width = prompt.frames.shape
        rows.append(("frames", f"{count} of {width}x{height}"))
    if prompt.mel is not None:
        rows.append(("log-mel", f"{prompt.mel.shape[0]} bins, {prompt.mel.shape[1]} columns"))
    rows += [(name.replace("_", " "), _fact(value)) for name, value in prompt.media.items()]
    return [(name, value) for name, value in rows if value]


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _plan_section(plan: TokenPlan) -> str:
    runs = token_runs(plan)
    has_positions = plan.positions is not None
    names = ["tokens", "stream", "number", "seconds", *(["time", "height", "width"] if has_positions else [])]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = [_row(run) for run in runs]
    more = ""
    if len(rows) > ROWS_SHOWN:
        more = (
            f"<details><summary>{len(rows) - ROWS_SHOWN:,} more rows</summary>"
            f"{_table(head, rows[ROWS_SHOWN:], 'Token plan, continued')}</details>"
        )
    said = "; time, height and width are rotary positions, from 0 at the first media token" if has_positions else ""
    return f"""<article aria-labelledby="plan">
<h2 id="plan">Token plan</h2>
<p class="lead">The media tokens in the order the model reads them, a row for each run of one stream and, for pictures,
of one time; seconds from the start of the clip{said}.</p>
{_table(head, rows[:ROWS_SHOWN], "Token plan")}
{more}
</article>
"""


def _table(head: str, rows: Sequence[str], label: str) -> str:
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{label}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(run: TokenRun) -> str:
    cells = [
        _span(run.first + 1, run.first + run.count),
        f'<span class="key {run.name}"></span>{run.name}',
        f"{run.count:,}",
        _span(run.start_seconds, run.end_seconds),
        *(_span(*ends) for ends in run.positions),
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _span(low: float, high: float) -> str:
    """Both ends, or the one value."""
    first, last = number(low), number(high)
    return first if first == last else f"{first} – {last}"


def _prompt_section(view: ClipView, prompt: Prompt) -> str:
    if view.prompt_text is None:
        words = '<p class="unjudged">This model has no tokenizer files, so its prompt cannot be shown as text.</p>'
    else:
        pieces = "".join(
            text(piece) if count == 1 else f'<span class="row">{text(piece)} <b>× {count:,}</b></span>'
            for piece, count in view.prompt_text
        )
        words = f'<pre tabindex="0" role="region" aria-label="Prompt text">{pieces}</pre>'
    return f"""<article aria-labelledby="prompt">
<h2 id="prompt">Prompt</h2>
<h3>Instruction</h3>
<p class="instruction">{text(prompt.instruction) or "<em>(empty)</em>"}</p>
<h3>The exact text, placeholders that repeat shown once</h3>
{words}
</article>
"""
