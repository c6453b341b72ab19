"""`avocet demo`: stage clips nobody has seen, caption them, judge them exactly, write a page with the videos."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from tyro.conf import FlagCreatePairsOff

if TYPE_CHECKING:
    from rich.table import Table

    from avocet.records import Caption
    from avocet.review.page import Findings, Page
    from avocet.theatre.judge import TheatreFindings
    from avocet.theatre.script import Script


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """See a captioner at work on the theatre."""

    out: Path = Path("demo_out")
    """Folder for the videos and the page."""
    seed: int = 4_000_000
    """First seed; training uses seeds from 10 million on."""
    num_clips: int = 3
    """How many clips."""
    level: int = 1
    """Difficulty of the theatre: 1 or 2."""
    model: str = "nano"
    """A model name or a checkpoint folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """A staged script with its caption and what the exact judge found."""

    script: Script
    truth: str
    caption: Caption
    findings: Findings


def main(argv: list[str]) -> int:
    """Run `avocet demo`; returns 0 once the page is written."""
    arguments = tyro.cli(
        DemoArguments, args=argv, prog="avocet demo", config=(FlagCreatePairsOff,), description=__doc__
    )
    from rich.console import Console

    from avocet.captioning.captioner import load_captioner
    from avocet.errors import ConfigError
    from avocet.evaluation.benchmarks.theatre_staging import stage_scripts
    from avocet.records import ClipRef
    from avocet.review.page import write_page
    from avocet.theatre.script import make_script

    if arguments.num_clips < 1:
        raise ConfigError(f"--num-clips must be >= 1, got {arguments.num_clips}")
    console = Console(highlight=False)
    scripts = [make_script(arguments.seed + index, arguments.level) for index in range(arguments.num_clips)]
    console.print(f"loading {arguments.model} ...")
    captioner = load_captioner(arguments.model)
    console.print(f"staging {len(scripts)} clips of the theatre, level {arguments.level} ...")
    paths = stage_scripts(scripts, arguments.out, workers=1)
    judged = []
    for script, path in zip(scripts, paths, strict=True):
        judged.append(judge_caption(script, captioner.caption(ClipRef(id=script.id, path=str(path)))))
        console.print(as_table(judged[-1]))
    page = write_page(arguments.out / "index.html", as_page(judged, arguments.model))
    console.print(f"\nThe videos with their captions: {page.resolve()}", soft_wrap=True)
    return 0


def judge_caption(script: Script, caption: Caption) -> Judged:
    """Compare a caption with its script, exactly."""
    from avocet.theatre.judge import judge
    from avocet.theatre.language import reference_caption

    findings = page_findings(script, judge(caption.text, script))
    return Judged(script=script, truth=reference_caption(script), caption=caption, findings=findings)


def page_findings(script: Script, found: TheatreFindings) -> Findings:
    """The judge's findings with the events that are right, which it leaves out."""
    from avocet.review.page import Findings
    from avocet.theatre.judge import judge

    # A caption without a word misses every event, which gives all of them in the judge's own words.
    events = judge("", script).missed
    wrong = (*found.missed, *(text.split(": described as ", 1)[0] for text in found.incorrect))
    return Findings(
        correct=tuple(event for event in events if event not in wrong),
        missed=found.missed,
        incorrect=found.incorrect,
        hallucinated=found.hallucinated,
    )


def as_table(judged: Judged) -> Table:
    """Truth and caption side by side, the findings below."""
    from rich.table import Table
    from rich.text import Text

    from avocet.captioning.formats import printable

    findings = judged.findings
    num_events = len(findings.correct) + len(findings.missed) + len(findings.incorrect)
    table = Table(title=judged.script.id, title_justify="left", show_lines=True, expand=True)
    table.add_column("truth", ratio=1)
    table.add_column(f"caption by {judged.caption.model}", ratio=1)
    table.add_row(judged.truth, Text(printable(judged.caption.text)))
    wrong = [
        *(f"missed: {event}" for event in findings.missed),
        *(f"incorrect: {event}" for event in findings.incorrect),
        *(f"invented: {event}" for event in findings.hallucinated),
    ]
    right = f"{len(findings.correct)} of {num_events} events right"
    table.add_row(right, Text(printable("\n".join(wrong)) or "nothing missed, wrong or invented"))
    return table


def as_page(judged: Sequence[Judged], model: str) -> Page:
    """The demo's web page."""
    from avocet.review.page import Page, PageClip, summary_figures

    clips = tuple(
        PageClip(
            title=item.script.id,
            video_path=Path(item.caption.path),
            truth=item.truth,
            caption=item.caption.text,
            findings=item.findings,
            facts=_facts(item.caption),
            warnings=item.caption.warnings,
        )
        for item in judged
    )
    return Page(
        title="Avocet demo: clips with their captions",
        lead=(
            f"{len(clips)} clips of a procedural theatre, staged to mp4 with picture and sound, captioned by {model} "
            "from the files alone, and compared exactly with the scripts they were staged from. Play them with the "
            "sound on."
        ),
        clips=clips,
        figures=summary_figures(len(clips), [item.findings for item in judged]),
        footer=f"Made by avocet demo with {judged[0].caption.model}, weights {judged[0].caption.revision}.",
    )


def _facts(caption: Caption) -> tuple[str, ...]:
    seconds = sum(caption.timings_seconds.values())
    sound = "sound used" if caption.audio_used else f"sound not used ({caption.audio_status})"
    length = caption.end_seconds - caption.start_seconds
    return (
        f"{length:.1f} s, {caption.num_frames} frames at {caption.fps:.1f} fps, {sound}",
        f"decoded and captioned in {seconds:.2f} s",
    )
