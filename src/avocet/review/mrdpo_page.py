"""The page of multi-round guided DPO: what every round did on held-out clips, to its pairs, and why it was kept.

    write_mrdpo_page(Path("runs/nano_mrdpo"))        # runs/nano_mrdpo/rounds.html

It is figure 4 and table 2 of video-SALMONN 2 for a run of one's own, and can be written at any time, also while a round
is under way. One HTML file that loads nothing and runs no script; links lead to the files of the run beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from avocet.review._html import document, figure_list, text, write_html
from avocet.review._mrdpo_charts import (
    Limit,
    Point,
    Series,
    curve_chart,
    legend,
    percent,
    round_chart,
    share_bar,
)
from avocet.review._mrdpo_state import Figure, RoundState, RunState, read_run
from avocet.review._score_tables import table

__all__ = ["PAGE_FILE", "RunState", "read_run", "render_mrdpo_page", "write_mrdpo_page"]

PAGE_FILE = "rounds.html"

PUBLISHED_UNNATURAL = (0.0, 0.0, 0.0, 0.019, 0.009, 0.029, 0.021, 0.12)
"""Table 2 of the paper (7B, judged by eye): SFT, then rounds 1 to 7. Round 7 was refused."""

_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "total": "Total",
        "miss": "Miss",
        "hall": "Hall",
        "repetition": "repetition",
        "unnatural": "unnatural",
        "collapse": "collapse",
        "qa": "QA accuracy",
    }
)
"""Key of a figure, its name."""
_OUTCOMES = (
    ("pairs", "pair", "num_pairs"),
    ("no-winner", "no winner", "num_no_winner"),
    ("same", "all the same text", "num_same"),
    ("unscored", "not scored", "num_unscored"),
    ("unread", "not read", "num_failed"),
)
"""Class, name and field of what becomes of a clip."""
_CURVES = (
    ("loss", "Loss"),
    ("mean/dpo", "Preference term: -log σ(βz)"),
    ("mean/guide", "Cross-entropy of the guide, per token"),
    ("mean/supervised", "Cross-entropy of mixed-in examples, per token"),
    ("mean/margin", "Reward margin of chosen over rejected, βz"),
    ("mean/accuracy", "Share of pairs with a margin above 0"),
    ("held_out_loss", "Held-out loss"),
    ("gradient_norm", "Gradient norm before clipping"),
)


def write_mrdpo_page(run_dir: str | Path, path: str | Path | None = None, *, num_rounds: int | None = None) -> Path:
    """Write the page of a run folder and return its path; a page that is there is replaced.

    Args:
        run_dir: folder of `avocet train mrdpo`.
        path: where to write; `rounds.html` in the run folder if None. Links are relative to the run folder.
        num_rounds: of the plan, where it now has others than the run was started with.

    Raises:
        ConfigError: the folder holds no such run, or the path cannot be written.
        RecordError: a file of the run is damaged.
    """
    run_dir = Path(run_dir)
    return write_html(run_dir / PAGE_FILE if path is None else path, render_mrdpo_page(read_run(run_dir, num_rounds)))


def render_mrdpo_page(run: RunState) -> str:
    """The whole page as HTML text."""
    name = str(run.config.get("name", run.folder.name))
    body = f"""<header>
<p class="kicker">Multi-round guided DPO</p>
<h1><bdi>{text(name)}</bdi></h1>
<p class="lead">{text(_plan(run))}</p>
{_standing(run)}
{_headline(run)}
</header>
<main>
{_section("curves", "Held-out clips, round by round", _curves(run))}
{_section("table", "The same as numbers", _table(run))}
{_section("gate", "What the gate decided", _gate(run))}
{_section("pairs", "What became of the clips", _pairs(run))}
{_section("training", "Training", _training(run))}
{_section("files", "Files", _files(run))}
</main>
<footer><p>Made by avocet train mrdpo. Round 0 is the model before the first round.</p></footer>"""
    return document(title=f"{name}: rounds", body=body, styles=("page.css", "evaluation_page.css", "mrdpo_page.css"))


def _plan(run: RunState) -> str:
    """What the run is, in one line."""
    config = run.config
    preference = config.get("preference") or {}
    lora = config.get("lora") or {}
    rate = (config.get("optimizer") or {}).get("learning_rate")
    guide = "" if preference.get("variant") == "dpo" else f", λ {preference.get('ce_weight')}"
    parts = [
        f"{run.num_rounds} rounds from {config.get('model')}",
        f"{config.get('samples_per_clip')} samples per clip",
        f"{preference.get('variant')} (β {preference.get('beta')}{guide}), {config.get('adapter')} adapter of rank "
        f"{lora.get('rank')}, learning rate {rate}",
    ]
    return "; ".join(parts) + (f". Commit {run.commit[:12]}." if run.commit else ".")


def _standing(run: RunState) -> str:
    if run.is_over:
        return f'<p class="standing over">{text(run.standing)}</p>'
    when = run.last_change.strftime("%Y-%m-%d %H:%M:%S")
    said = f"Not over: {run.standing}. A file was last written on {when} UTC."
    return f'<p class="standing">{text(said)}</p>'


def _headline(run: RunState) -> str:
    """The best model beside the first."""
    if not run.finished:
        return ""
    first, best = run.rounds[0], run.rounds[run.best]
    figures = [
        (_shown(best.figures[key]), f"{name} of the best, {_shown(first.figures[key])} at first")
        for key, name in _COLUMNS.items()
        if key in ("total", "repetition", "unnatural", "qa") and best.figures[key].value is not None
    ]
    total = sum(one.selection.num_pairs for one in run.rounds if one.selection is not None)
    return figure_list([(f"round {run.best}", "is the best"), *figures, (f"{total:,}", "pairs in all rounds")])


def _curves(run: RunState) -> str:
    if not run.finished:
        return ""
    stop = run.config.get("stop") or {}
    first = run.rounds[0].figures
    qa_limit = None
    if first["qa"].value is not None and "max_qa_drop" in stop:
        qa_limit = Limit(value=first["qa"].value - stop["max_qa_drop"], name="gate: at least")
    last = run.finished[-1].number
    published = Series(
        name="the paper's 7B (table 2, by eye)",
        points=tuple(Point(number=n, value=value) for n, value in enumerate(PUBLISHED_UNNATURAL) if n <= last),
        is_reference=True,
    )
    charts = [
        round_chart("Errors per event", [_series(run, key) for key in ("total", "miss", "hall")], last),
        round_chart("Words in repeated phrases", [_series(run, "repetition")], last, _most(stop.get("max_repetition"))),
        round_chart(
            "Unnatural captions", [_series(run, "unnatural"), published], last, _most(stop.get("max_unnatural"))
        ),
        round_chart("QA accuracy", [_series(run, "qa")], last, qa_limit),
    ]
    said = (
        "Bars are one standard error over held-out clips (or questions) to either side. A ring marks the best round, "
        "a hollow mark one that was refused; the dashed line is what the gate allows."
    )
    return f'<p class="lead">{said}</p>\n<div class="charts">{"".join(charts)}</div>'


def _most(limit: Any) -> Limit | None:
    return None if limit is None else Limit(value=float(limit), name="gate: at most")


def _series(run: RunState, key: str) -> Series:
    points = [
        Point(
            number=one.number,
            value=one.figures[key].value or 0.0,
            error=one.figures[key].error,
            is_refused=one.decision == "refused",
            is_best=one.number == run.best,
        )
        for one in run.finished
        if one.figures[key].value is not None
    ]
    return Series(name=_COLUMNS[key], points=tuple(points))


def _table(run: RunState) -> str:
    """Table 2 of the paper, with all figures."""
    rows = []
    for one in run.finished:
        assert one.result is not None
        scores = one.result.scores
        mark = " (best)" if one.number == run.best else ""
        words = one.figures["words"]
        cells = [
            text(f"{one.number}{mark}"),
            *(text(_shown(one.figures[key])) for key in _COLUMNS),
            "-" if words.value is None else f"{words.value:.1f}",
            f"{scores.num_captions:,}",
            f"{scores.num_unscored:,} / {scores.num_failed:,}",
            text(one.decision),
        ]
        rows.append(("own" if one.number == run.best else "", cells))
    header = ("round", *_COLUMNS.values(), "words", "captions", "unscored / unread", "decision")
    return table(header, rows, label="Rounds") if rows else ""


def _gate(run: RunState) -> str:
    entries = []
    for one in run.rounds:
        if one.decision in ("kept", "refused"):
            assert one.result is not None
            assert one.result.decision is not None
            reasons = "".join(f"<li>{text(reason)}</li>" for reason in one.result.decision.reasons)
            best = " It is the best so far." if one.number == run.best else ""
            why = f"<ul>{reasons}</ul>" if reasons else ""
            entries.append(
                f'<li class="{one.decision}"><strong>Round {one.number}: {one.decision}.</strong>{best}{why}</li>'
            )
    stop = run.config.get("stop") or {}
    rules = [
        f"Total error {_at_most(stop.get('max_total_rise', 0.0))} above the best round so far, on the clips of both",
        f"unnatural captions at most {percent(stop['max_unnatural'])}" if "max_unnatural" in stop else "",
        f"QA accuracy {_at_most(stop['max_qa_drop'])} below round 0" if "max_qa_drop" in stop else "",
        f"repetition at most {percent(stop['max_repetition'])}" if stop.get("max_repetition") is not None else "",
        f"at most {percent(stop['max_unmeasured'])} of the captions or questions without a result"
        if "max_unmeasured" in stop
        else "",
    ]
    said = f'<p class="lead">A round is kept if it breaks no rule: {text("; ".join(filter(None, rules)))}.</p>'
    if not entries:
        return f"{said}\n<p>No round is decided yet.</p>"
    return f'{said}\n<ul class="plain-list decisions">{"".join(entries)}</ul>'


def _at_most(rate: float) -> str:
    return f"at most {percent(rate)}" if rate else "not"


def _pairs(run: RunState) -> str:
    chosen = [one for one in run.rounds if one.selection is not None]
    if not chosen:
        return ""
    rows = [("", _pair_cells(run, one)) for one in chosen]
    header = (
        *("round", "clips", "", *(name for _, name, _ in _OUTCOMES)),
        *("Total of chosen", "of rejected", "least gap (errors, repetition)", "captions not scored, why"),
    )
    keys = legend([(f"square {kind}", name) for kind, name, _ in _OUTCOMES])
    said = (
        "A clip gives a pair if one of its samples beats another in every metric by the round's gap. No winner: no two "
        "samples are that far apart, or one is better in errors and worse in repetition."
    )
    return f'<p class="lead">{said}</p>\n{keys}\n{table(header, rows, label="Pairs")}'


def _pair_cells(run: RunState, one: RoundState) -> list[str]:
    report = one.selection
    assert report is not None
    counts = [(kind, name, int(getattr(report, field))) for kind, name, field in _OUTCOMES]
    said = f"round {one.number}: " + ", ".join(f"{name} {count:,}" for _, name, count in counts)
    reasons = "; ".join(f"{count:,} × {reason}" for reason, count in report.unscored_reasons.items())
    return [
        str(one.number),
        f"{report.num_examples:,}",
        share_bar(counts, said),
        *(f"{count:,}" for _, _, count in counts),
        "-" if report.mean_chosen_error is None else percent(report.mean_chosen_error),
        "-" if report.mean_rejected_error is None else percent(report.mean_rejected_error),
        text(_thresholds(run.config, one.number)),
        text(reasons or "-"),
    ]


def _thresholds(config: Mapping[str, Any], number: int) -> str:
    """Of whole clips, and of intervals where they differ."""
    known = {int(key): value for key, value in (config.get("thresholds") or {}).items()}
    usable = [key for key in known if key <= number]
    if not usable:
        return "-"
    limits = known[max(usable)]
    whole, local = (
        f"{percent(limits[kind]['error_rate'], 0)}, {percent(limits[kind]['repetition_rate'], 0)}"
        for kind in ("global_", "local")
    )
    return whole if whole == local else f"{whole}; intervals {local}"


def _training(run: RunState) -> str:
    charts = [
        curve_chart(title, [(one.number, _points(one.metrics, key)) for one in run.rounds]) for key, title in _CURVES
    ]
    refused = [
        f"round {one.number}: {count:,} steps refused"
        for one in run.rounds
        if (count := max((int(line.get("refused_steps", 0)) for line in one.metrics), default=0))
    ]
    drawn = "".join(charts)
    if not drawn:
        return ""
    adapter = "A fresh adapter does nothing, so the preference term of each begins at about log 2 = 0.693."
    if run.config.get("adapter") == "direct":
        adapter = "The adapter of each goes on where that of the round before stopped."
    said = f"One round after the other; long curves are means of neighbouring steps. {adapter}"
    notes = f'<p class="warning">{text("; ".join(refused))}</p>' if refused else ""
    return f'<p class="lead">{text(said)}</p>\n{notes}\n<div class="charts">{drawn}</div>'


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) where the value is there and finite."""
    return [
        (float(line["step"]), float(line[key]))
        for line in lines
        if isinstance(line.get(key), int | float) and math.isfinite(line[key])
    ]


def _files(run: RunState) -> str:
    def links(names: Sequence[str], prefix: str = "") -> str:
        return ", ".join(f'<a href="{text(name)}">{text(name.removeprefix(prefix))}</a>' for name in names)

    rows = [("", ["run", links(run.files)])]
    rows += [("", [f"round {one.number}", links(one.files, f"round-{one.number}/")]) for one in run.rounds if one.files]
    return table(("", "files"), rows, label="Files")


def _section(name: str, title: str, body: str) -> str:
    """`name` is its id; "" without a body."""
    if not body:
        return ""
    return f'<article aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n{body}\n</article>'


def _shown(figure: Figure) -> str:
    """13.7 ± 0.4 %."""
    if figure.value is None:
        return "-"
    error = "" if figure.error is None else f" ± {100 * figure.error:.1f}"
    return f"{100 * figure.value:.1f}{error} %"
