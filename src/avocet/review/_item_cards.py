"""One item of an evaluation page: its caption with the findings marked, and the other findings beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from avocet.captioning.formats import clock
from avocet.evaluation.benchmark_report import ItemOutcome
from avocet.evaluation.items import BenchmarkItem
from avocet.evaluation.scorers.base import Finding
from avocet.evaluation.scores import Unit
from avocet.review._html import text
from avocet.review._marking import MARKED_KINDS, Segment, mark_findings
from avocet.review._score_charts import shown

_MAX_CAPTION = 20_000
"""Characters of a caption that are shown and searched; the longest reference caption of `vs2` has 5,246."""
_MAX_FINDINGS = 100
"""Of one kind in one item."""
_MAX_TEXT = 600

_SIGNS = {
    "hallucinated": ("+", "hallucinated"),
    "incorrect": ("\N{NOT EQUAL TO}", "incorrect"),
    "missed": ("\N{WHITE CIRCLE}", "missed"),
    "right": ("\N{CHECK MARK}", "right"),
    "wrong": ("\N{NOT EQUAL TO}", "wrong"),
    "n/a": ("\N{WHITE CIRCLE}", "not stated"),
    "unscored": ("?", "unscored"),
}
"""Colour alone must not carry the meaning: a sign and a word for each kind."""
_CLASSES = {
    "hallucinated": "hallucinated",
    "incorrect": "incorrect",
    "missed": "missed",
    "right": "correct",
    "wrong": "incorrect",
    "n/a": "missed",
}


def cut(value: str, at_most: int = _MAX_TEXT) -> str:
    """A text from outside, shortened with a word on how long it is."""
    return value if len(value) <= at_most else f"{value[:at_most]}... ({len(value):,} characters)"


def legend() -> str:
    """The marks in captions and what they mean."""
    return f'<ul class="chips" aria-label="Marks">{"".join(_chip(kind) for kind in (*MARKED_KINDS, "missed"))}</ul>'


def item_card(outcome: ItemOutcome, headline: str, units: Mapping[str, Unit], *, number: str) -> str:
    """A scored item.

    Args:
        units: of the scores that items have values of.
        number: unique on the page, and fit for an id.
    """
    value = shown(outcome.values.get(headline), units.get(headline, "percent"))
    caption = "" if outcome.caption is None else outcome.caption.text
    segments = mark_findings(caption[:_MAX_CAPTION], outcome.findings)
    marked = _marked_numbers(segments)
    return f"""<article class="item" aria-labelledby="item-{number}">
<h3 id="item-{number}"><span class="value">{text(value)}</span> <bdi>{text(cut(outcome.item.id))}</bdi></h3>
<ul class="facts">{"".join(f"<li>{fact}</li>" for fact in _facts(outcome, headline, units))}</ul>
{_flags(outcome)}
<div class="sides">
<section><h4>{"Caption" if outcome.text is not None else "Reply"}</h4>
{_caption(caption, segments, marked)}</section>
<div class="found">{_findings(outcome, marked)}</div>
</div>
</article>"""


def _facts(outcome: ItemOutcome, headline: str, units: Mapping[str, Unit]) -> Iterator[str]:
    item = outcome.item
    if item.video != item.id:
        yield f"<bdi>{text(cut(item.video))}</bdi>"
    if item.start_seconds is not None and item.end_seconds is not None:
        yield f"{clock(item.start_seconds)} to {clock(item.end_seconds)}"
    for name, value in outcome.values.items():
        if name != headline:
            yield text(f"{name} {shown(value, units.get(name, 'percent'))}")
    if outcome.text is not None:
        yield f"{outcome.text.num_words:,} words"
        yield f"repetition {shown(outcome.text.repetition_rate, 'percent')}"
    if len(outcome.verdicts) > 1:
        yield f"findings of the first scored of {len(outcome.verdicts)} runs"


def _flags(outcome: ItemOutcome) -> str:
    """What a look at the text alone objects to, and runs or questions without a score."""
    facts, flags = outcome.text, []
    if facts is not None and facts.collapse_sign is not None:
        flags.append(f"collapsed: {facts.collapse_sign.replace('_', ' ')}")
    if facts is not None:
        flags += [f"unnatural: {kind.replace('_', ' ')}" for kind in facts.unnatural]
    if facts is not None and facts.is_cut_off:
        flags.append("cut off at the token limit")
    if outcome.status == "partly scored":
        flags.append(f"scored in part: {cut(outcome.reason or '')}")
    items = "".join(f'<li><span class="sign" aria-hidden="true">!</span>{text(flag)}</li>' for flag in flags)
    return f'<ul class="flags" aria-label="Flags">{items}</ul>' if items else ""


def _marked_numbers(segments: Sequence[Segment]) -> dict[int, int]:
    """Index of a marked finding -> its number on the page, counted as they come in the caption."""
    found = dict.fromkeys(index for segment in segments for index in segment.findings)
    return {index: number for number, index in enumerate(found, start=1)}


def _caption(caption: str, segments: Sequence[Segment], marked: Mapping[int, int]) -> str:
    if not caption:
        return '<p class="caption"><em>(empty)</em></p>'
    pieces = []
    for place, segment in enumerate(segments):
        if segment.kind is None:
            pieces.append(text(segment.text))
            continue
        following = segments[place + 1].findings if place + 1 < len(segments) else ()
        ending = [str(marked[index]) for index in segment.findings if index not in following]
        note = f"<sup>{', '.join(ending)}</sup>" if ending else ""
        pieces.append(f'<mark class="{segment.kind}">{text(segment.text)}{note}</mark>')
    left = len(caption) - _MAX_CAPTION
    more = f'<p class="remark">{left:,} more characters are in items.jsonl.</p>' if left > 0 else ""
    return f'<p class="caption" dir="auto" tabindex="0" role="region" aria-label="Caption">{"".join(pieces)}</p>{more}'


def _findings(outcome: ItemOutcome, marked: Mapping[int, int]) -> str:
    """Lists, the marked ones first."""
    findings = list(enumerate(outcome.findings))
    lists = [
        ("Marked in the caption", [(index, outcome.findings[index]) for index in marked]),
        ("Not found in the caption", [one for one in findings if one[1].kind in MARKED_KINDS and one[0] not in marked]),
        ("Missed", [one for one in findings if one[1].kind == "missed"]),
        ("Answers", [one for one in findings if one[1].kind not in (*MARKED_KINDS, "missed")]),
    ]
    parts = []
    for title, entries in lists:
        lines = [_line(finding, outcome.item, marked.get(index)) for index, finding in entries[:_MAX_FINDINGS]]
        if len(entries) > len(lines):
            lines.append(f'<li class="remark">and {len(entries) - len(lines):,} more</li>')
        if lines:
            kind = "Findings" if title == "Answers" and not outcome.item.questions else title
            parts.append(f'<section><h4>{kind}</h4><ul class="findings">{"".join(lines)}</ul></section>')
    return "".join(parts) or '<p class="remark">The judge found nothing to object to.</p>'


def _line(finding: Finding, item: BenchmarkItem, number: int | None) -> str:
    sign = "" if number is None else f'<span class="number">{number}</span>'
    question = max(
        (question for question in item.questions if finding.text.startswith(f"{question.id}: ")),
        key=lambda question: len(question.id),
        default=None,
    )
    asked = "" if question is None else f'<span class="question">{text(cut(question.text))}</span>'
    return f'<li>{sign}{_label(finding.kind)}{asked} <span dir="auto">{text(cut(finding.text))}</span></li>'


def _label(kind: str) -> str:
    sign, name = _SIGNS.get(kind, ("i", kind))
    return (
        f'<span class="label {_CLASSES.get(kind, "plain")}"><span class="sign" aria-hidden="true">{sign}</span>'
        f"{text(name)}</span>"
    )


def _chip(kind: str) -> str:
    sign, name = _SIGNS[kind]
    return (
        f'<li class="{_CLASSES[kind]}"><span class="sign" aria-hidden="true">{sign}</span>'
        f'<span class="kind">{name}</span></li>'
    )
