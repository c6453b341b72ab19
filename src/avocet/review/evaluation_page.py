"""The page of a benchmark run: what came out, next to what was published, and the items to look at.

    write_evaluation_page(evaluation.report, evaluation.outcomes, "out/report.html")

One HTML file that loads nothing and runs no script. Captions, ids, reasons and findings are untrusted and escaped.
Nothing on it differs between two runs over the same replies but the cost lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from avocet.errors import ConfigError
from avocet.evaluation.benchmark_report import EvaluationReport, ItemOutcome
from avocet.evaluation.published import published_rows
from avocet.evaluation.scores import Score
from avocet.review._html import document, figure_list, text, warning_list, write_html
from avocet.review._item_cards import cut, item_card, legend
from avocet.review._score_charts import histogram
from avocet.review._score_tables import breakdown_table, published_tables, score_table

_MAX_LISTED = 1000
"""Missing items, and reasons; `items.jsonl` has all."""
_LISTED_OPENLY = 10
"""The others are folded away."""
_MAX_EXAMPLES = 3
"""Of items for each reason."""
_NUM_FIGURES = 3
"""Scores that stand large beside the headline."""


def write_evaluation_page(
    evaluation_report: EvaluationReport,
    outcomes: Sequence[ItemOutcome],
    path: str | Path,
    *,
    cost_lines: Sequence[str] = (),
    num_items_shown: int = 10,
) -> Path:
    """Write the page and return its path; its folder is created, a file that is there is replaced.

    Args:
        outcomes: all items of the benchmark, missing ones too.
        cost_lines: what the judge cost, a line each.
        num_items_shown: how many of the worst and of the best items are shown with their captions; 0 shows none.

    Raises `ConfigError` for a negative `num_items_shown`, or when the path cannot be written.
    """
    page = render_evaluation_page(evaluation_report, outcomes, cost_lines=cost_lines, num_items_shown=num_items_shown)
    return write_html(path, page)


def render_evaluation_page(
    evaluation_report: EvaluationReport,
    outcomes: Sequence[ItemOutcome],
    *,
    cost_lines: Sequence[str] = (),
    num_items_shown: int = 10,
) -> str:
    """The whole page as HTML text; see `write_evaluation_page`."""
    if num_items_shown < 0:
        raise ConfigError(f"num_items_shown must be >= 0 (0 shows none), got {num_items_shown}")
    report = evaluation_report
    title = f"{report.benchmark}: {report.captioner}"
    body = f"""<header>
<p class="kicker">{text(report.benchmark)}</p>
<h1><bdi>{text(report.captioner)}</bdi></h1>
<p class="lead">{text(_lead(report))}</p>
{_headline(report)}
{warning_list(report.warnings)}
</header>
<main>
{_section("scores", "Scores", score_table(report.scores, report.headline))}
{_published_section(report)}
{_distribution_section(report, outcomes)}
{_breakdown_section(report)}
{_failure_section(report, outcomes)}
{_cost_section(cost_lines)}
{_item_sections(report, outcomes, num_items_shown)}
</main>
<footer><p>Made by avocet evaluate. Intervals are 95 % bootstrap intervals over items.</p></footer>"""
    return document(title=title, body=body, styles=("page.css", "evaluation_page.css"))


def _lead(report: EvaluationReport) -> str:
    runs = f"{report.num_runs} run{'s' if report.num_runs > 1 else ''}"
    return f"Judge: {report.judge}; {runs}; protocol: {report.protocol}."


def _headline(report: EvaluationReport) -> str:
    headline = report[report.headline]
    interval = headline.interval_text()
    more = f", 95 % interval {interval}" if interval else ""
    better = f", {headline.better} is better" if headline.better else ""
    others = [score for score in report.scores if score.name != report.headline][:_NUM_FIGURES]
    published = report.num_published_items
    of = f" of {published:,} published" if published not in (None, report.num_items) else ""
    figures = [
        *((score.text(), score.name) for score in others),
        (f"{report.num_scored:,}", f"scored of {report.num_items:,} items{of}"),
        (f"{report.num_unscored:,}", "unscored"),
        (f"{report.num_missing:,}", "without a caption"),
    ]
    return f"""<p class="headline"><strong>{text(headline.text())}</strong>
<span>{text(headline.name)}{text(more)}{text(better)}</span></p>
{figure_list(figures)}"""


def _section(name: str, title: str, body: str) -> str:
    """`name` is its id; title and body are HTML. "" without a body."""
    if not body:
        return ""
    return f'<article aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n{body}\n</article>'


def _published_section(report: EvaluationReport) -> str:
    tables = published_tables(report.scores, report.headline, published_rows(report.benchmark))
    said = "The best first. Made with other judges and other code: they give the range, not a ranking."
    return _section("published", "Beside published results", tables and f'<p class="lead">{said}</p>\n{tables}')


def _distribution_section(report: EvaluationReport, outcomes: Sequence[ItemOutcome]) -> str:
    ranked = _values(report, outcomes)
    drawing = histogram([value for value, _ in ranked], report[report.headline].unit, name=report.headline)
    return _section("distribution", f"{text(report.headline)} over items", drawing)


def _breakdown_section(report: EvaluationReport) -> str:
    units = {score.name: score.unit for score in report.scores}
    tables = "\n".join(
        breakdown_table(breakdown, units.get(breakdown.score, "percent"))
        for breakdown in report.breakdowns
        if breakdown.groups
    )
    return _section("breakdowns", "Breakdowns", tables)


def _failure_section(report: EvaluationReport, outcomes: Sequence[ItemOutcome]) -> str:
    missing = [f"<bdi>{text(cut(item))}</bdi>: {text(cut(reason))}" for item, reason in report.missing.items()]
    unscored = [
        f"<strong>{count:,} × {text(cut(reason))}</strong>{_examples(reason, outcomes)}"
        for reason, count in report.unscored_reasons.items()
    ]
    parts = []
    if missing:
        parts.append(f"<h3>{len(missing):,} without a caption</h3>{_folded_list(missing)}")
    if unscored:
        num = sum(report.unscored_reasons.values())
        items = f"{report.num_unscored:,} items without any score, {report.num_partly_scored:,} scored in part"
        parts.append(
            f'<h3>{num:,} unscored verdicts</h3><p class="remark">{items}. None of them counts as zero.</p>'
            f"{_folded_list(unscored)}"
        )
    if report.unscored_questions:
        questions = [f"{count:,} × {text(cut(reason))}" for reason, count in report.unscored_questions.items()]
        num = sum(report.unscored_questions.values())
        parts.append(f"<h3>{num:,} unscored questions in scored verdicts</h3>{_folded_list(questions)}")
    body = "\n".join(parts) or "<p>Every item has a caption, and every verdict was scored.</p>"
    return _section("failures", "What is missing", body)


def _examples(reason: str, outcomes: Iterable[ItemOutcome]) -> str:
    """The first items with that reason; counted are reasons up to their first colon."""
    found = {
        outcome.item.id: verdict.reason or ""
        for outcome in outcomes
        for verdict in reversed(outcome.verdicts)
        if verdict.status == "unscored" and (verdict.reason or "").partition(":")[0] == reason
    }
    lines = "".join(
        f"<li><bdi>{text(cut(item))}</bdi>: {text(cut(why))}</li>" for item, why in list(found.items())[:_MAX_EXAMPLES]
    )
    return f"<ul>{lines}</ul>" if lines else ""


def _folded_list(entries: Sequence[str]) -> str:
    """Entries are HTML."""
    listed = [f"<li>{entry}</li>" for entry in entries[:_MAX_LISTED]]
    if len(entries) > len(listed):
        listed.append(f"<li>and {len(entries) - len(listed):,} more; items.jsonl has all</li>")
    first, rest = listed[:_LISTED_OPENLY], listed[_LISTED_OPENLY:]
    more = f"<details><summary>{len(rest):,} more lines</summary><ul>{''.join(rest)}</ul></details>" if rest else ""
    return f'<ul class="plain-list">{"".join(first)}</ul>{more}'


def _cost_section(cost_lines: Sequence[str]) -> str:
    lines = "".join(f"<li>{text(line)}</li>" for line in cost_lines)
    return _section("cost", "Cost", lines and f'<ul class="plain-list">{lines}</ul>')


def _item_sections(report: EvaluationReport, outcomes: Sequence[ItemOutcome], num_shown: int) -> str:
    """The worst and the best; where there are few, no item stands in both."""
    ranked = _values(report, outcomes)
    if not ranked or not num_shown:
        return ""
    worst = ranked[: min(num_shown, (len(ranked) + 1) // 2)]
    best = ranked[len(worst) :][::-1][:num_shown]
    headline = report[report.headline]
    first, last = ("Highest", "Lowest") if headline.better is None else ("Worst", "Best")
    return _items(f"{first} items", worst, report, "worst") + _items(f"{last} items", best, report, "best")


def _items(title: str, ranked: Sequence[tuple[float, ItemOutcome]], report: EvaluationReport, name: str) -> str:
    if not ranked:
        return ""
    units = {score.name: score.unit for score in report.scores}
    cards = "\n".join(
        item_card(outcome, report.headline, units, number=f"{name}-{number}")
        for number, (_, outcome) in enumerate(ranked, start=1)
    )
    marks = legend() if any(outcome.findings for _, outcome in ranked) else ""
    return f"""<section class="items" aria-labelledby="{name}">
<h2 id="{name}">{title} by {text(report.headline)}</h2>
{marks}
{cards}
</section>
"""


def _values(report: EvaluationReport, outcomes: Sequence[ItemOutcome]) -> list[tuple[float, ItemOutcome]]:
    """(value, item) of all items that have a value of the headline, the worst first; equal ones in their order."""
    headline: Score = report[report.headline]
    valued = [(value, outcome) for outcome in outcomes if (value := outcome.values.get(report.headline)) is not None]
    sign = 1 if headline.better == "higher" else -1
    return sorted(valued, key=lambda entry: sign * entry[0])
