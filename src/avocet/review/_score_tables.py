"""The tables of an evaluation page: own scores, published rows beside them, breakdowns."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from avocet.evaluation.published import PublishedRow
from avocet.evaluation.scores import Breakdown, Group, Score, Unit
from avocet.review._html import text
from avocet.review._score_charts import Scale, interval_bar, shown

_VARIANT = re.compile(r"(?P<name>.+?) (?P<variant>\([^()]+\))")
"""Scores of another protocol stand beside those of the chosen one, as "total (pooled)"."""


def table(header: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], *, label: str) -> str:
    """A table that scrolls sideways for itself.

    Args:
        header: plain text.
        rows: class of the row ("" or "own"), and its cells as HTML; the first cell names the row.
    """
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    body = "".join(
        f'<tr class="{kind}"><th scope="row">{cells[0]}</th>{"".join(f"<td>{cell}</td>" for cell in cells[1:])}</tr>'
        for kind, cells in rows
    )
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{text(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def score_table(scores: Sequence[Score], headline: str) -> str:
    """Each score with error, interval and a bar; bars of one unit have one scale."""
    scales = {
        unit: Scale.of((end for score in scores if score.unit == unit for end in (score.value, score.high)), unit)
        for unit in {score.unit for score in scores}
    }
    rows = [("own" if score.name == headline else "", _score_cells(score, scales[score.unit])) for score in scores]
    header = ("score", "value ± standard error", "", "95 % interval", "n", "better", "")
    return table(header, rows, label="Scores")


def _score_cells(score: Score, scale: Scale) -> list[str]:
    interval = score.interval_text()
    label = f"{score.name}: {score.text()}" + (f", interval {interval}" if interval else "")
    return [
        text(score.name),
        text(score.text()),
        interval_bar(score.value, score.low, score.high, scale, label=label),
        text(interval or "-"),
        f"{score.num:,}",
        score.better or "",
        f'<span class="remark">{text(score.note)}</span>',
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    model: str
    cells: Mapping[str, Score]
    """Of own rows with errors and intervals."""
    is_own: bool = False


def published_tables(scores: Sequence[Score], headline: str, rows: Sequence[PublishedRow]) -> str:
    """A table for each source: its rows and the own ones, the best first; "" when nothing is published."""
    own = {score.name: score for score in scores}
    parts = []
    for source in dict.fromkeys(row.source for row in rows):
        of_source = [row for row in rows if row.source == source]
        names = list(dict.fromkeys(name for row in of_source for name in row.values))
        sorted_by = headline if headline in names else names[0]
        lines = [*_own_rows(own, names), *(_published_row(row, own) for row in of_source)]
        notes = "; ".join(dict.fromkeys(row.note for row in of_source if row.note))
        parts.append(
            f'<h3>{text(source)}</h3>\n<p class="remark">{text(notes)}</p>\n'
            + _published_table(_sorted(lines, sorted_by, own.get(sorted_by)), names, sorted_by, source)
        )
    return "\n".join(parts)


def _own_rows(own: Mapping[str, Score], names: Sequence[str]) -> list[_Row]:
    """This run, and once more for each other protocol that its scores are also given in."""
    rows = [_Row(model="this run", cells={name: own[name] for name in names if name in own}, is_own=True)]
    matches = [match for name in own if (match := _VARIANT.fullmatch(name)) and match["name"] in names]
    for variant in dict.fromkeys(match["variant"] for match in matches):
        cells = {match["name"]: own[match[0]] for match in matches if match["variant"] == variant}
        rows.append(_Row(model=f"this run {variant}", cells=cells, is_own=True))
    return rows


def _published_row(row: PublishedRow, own: Mapping[str, Score]) -> _Row:
    units: dict[str, Unit] = {name: own[name].unit if name in own else "percent" for name in row.values}
    return _Row(
        model=row.model,
        cells={name: Score(name=name, value=value, num=0, unit=units[name]) for name, value in row.values.items()},
    )


def _sorted(rows: Sequence[_Row], name: str, own: Score | None) -> list[_Row]:
    """The best first, rows without a value last."""
    sign = 1 if own is not None and own.better == "lower" else -1

    def key(row: _Row) -> tuple[bool, float]:
        value = row.cells[name].value if name in row.cells else None
        return value is None, 0.0 if value is None else sign * value

    return sorted(rows, key=key)


def _published_table(rows: Sequence[_Row], names: Sequence[str], sorted_by: str, source: str) -> str:
    column = [row.cells[sorted_by] for row in rows if sorted_by in row.cells]
    unit = column[0].unit
    scale = Scale.of((end for score in column for end in (score.value, score.high)), unit)
    others = [name for name in names if name != sorted_by]
    lines = []
    for row in rows:
        score = row.cells.get(sorted_by, Score(name=sorted_by, value=None, num=0))
        bar = interval_bar(
            score.value,
            score.low,
            score.high,
            scale,
            label=f"{row.model}: {score.text()}",
            kind="own" if row.is_own else "",
        )
        cells = [text(row.model), text(score.text()), bar]
        cells += [text(row.cells[name].text()) if name in row.cells else "-" for name in others]
        lines.append(("own" if row.is_own else "", cells))
    return table(("model", sorted_by, "", *others), lines, label=source)


def breakdown_table(breakdown: Breakdown, unit: Unit) -> str:
    """One score by groups, with a bar and the standard error on it."""
    scale = Scale.of((_above(group) for group in breakdown.groups), unit)
    rows = [("", _group_cells(group, unit, scale)) for group in breakdown.groups]
    title = f"{breakdown.score} by {breakdown.by}"
    header = (breakdown.by, f"{breakdown.score} ± standard error", "", breakdown.of, "unscored")
    return f"<section><h3>{text(title)}</h3>{table(header, rows, label=title)}</section>"


def _above(group: Group) -> float | None:
    return None if group.value is None else group.value + (group.standard_error or 0.0)


def _group_cells(group: Group, unit: Unit, scale: Scale) -> list[str]:
    score = Score(name="", value=group.value, standard_error=group.standard_error, num=group.num, unit=unit)
    error, value = group.standard_error, group.value
    low, high = (None, None) if error is None or value is None else (value - error, value + error)
    return [
        text(group.name),
        text(score.text()),
        interval_bar(value, low, high, scale, label=f"{group.name}: {shown(value, unit)}"),
        f"{group.num:,}",
        f"{group.num_unscored:,}",
    ]
