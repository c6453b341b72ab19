"""The data card of a run: what came in, what was dropped where and why, what it cost, what is in the data set.

It is made from the files of the stages, so it can be made again at any time (`avocet curate card DIR`), and two runs of
which one was killed have the same card: there is no wall time in it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from avocet.curation._stage_types import StageSummary
from avocet.curation.manifest import ManifestClip, read_manifest, replacing
from avocet.curation.outcomes import Cost
from avocet.curation.outputs import OutputSettings, Split, SplitCounts, shared_sources
from avocet.curation.pipelines.run import RunRecord, last_manifest, read_run_record, read_summaries
from avocet.curation.pipelines.verify import flags_of, unread_of
from avocet.errors import ConfigError
from avocet.judging._words import words_of
from avocet.metrics.statistics import mean_with_error
from avocet.records import Record

CARD_FILE = "card.json"
MARKDOWN_FILE = "card.md"
_UNKNOWN = "not stated"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageLine(Record):
    """One stage of the run."""

    stage: str
    num_in: int
    num_out: int
    num_split: int
    dropped: dict[str, int]
    failed: dict[str, int]
    num_failed_attempts: int
    cost: Cost
    media_seconds_out: float

    @classmethod
    def of(cls, summary: StageSummary) -> StageLine:
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: getattr(summary, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean(Record):
    """A mean over clips."""

    mean: float
    standard_error: float | None
    """None with fewer than two values."""
    num_values: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean | None:
        """None without values."""
        if not values:
            return None
        found = mean_with_error(values)
        error = None if math.isnan(found.standard_error) else found.standard_error
        return cls(mean=found.mean, standard_error=error, num_values=found.num_values)

    def line(self) -> str:
        """For people."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        return f"{self.mean:.3g}{error} (n = {self.num_values})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings(Record):
    """What is known about the clips that went through, one by one."""

    num_clips: int = 0
    num_sources: int = 0
    media_seconds: float = 0.0
    licences: dict[str, int] = dataclasses.field(default_factory=dict)
    """Licence -> clips."""
    flags: dict[str, int] = dataclasses.field(default_factory=dict)
    """Flag -> clips."""
    num_flagged: int = 0
    unread: dict[str, int] = dataclasses.field(default_factory=dict)
    """Annotation -> clips that are without it, because no answer could be read."""
    local_left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    """Why a local caption was taken from its clip -> clips."""
    completeness: dict[str, int] = dataclasses.field(default_factory=dict)
    """Score -> clips."""
    keypoints: dict[str, int] = dataclasses.field(default_factory=dict)
    """Dimension -> keypoints."""
    num_events: int = 0
    num_utterances: int = 0
    caption_words: Mean | None = None
    word_error_rate: Mean | None = None
    """Of quoted speech against the transcript, over clips with both; the flag speech_not_told counts the others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataCard(Record):
    """All of it."""

    run: RunRecord
    stages: tuple[StageLine, ...]
    num_clips_in: int
    num_clips_out: int
    dropped: dict[str, int]
    """Reason -> clips, over all stages, the most frequent first."""
    num_failed: int
    """Clips without an outcome; the next run tries them again."""
    cost: Cost
    """Of all answers, whenever they were bought."""
    findings: Findings
    output: OutputSettings | None = None
    splits: dict[Split, SplitCounts] = dataclasses.field(default_factory=dict)

    def markdown(self) -> str:
        """For people."""
        return "\n".join(_markdown(self)) + "\n"


def make_card(
    folder: str | os.PathLike[str],
    output: OutputSettings | None = None,
    splits: Mapping[Split, SplitCounts] | None = None,
) -> DataCard:
    """The card of a finished run. Without `output` and `splits`, those of the card of this run that is there already.

    Raises `ConfigError` for a folder without a finished run.
    """
    record = read_run_record(folder)
    manifest = last_manifest(folder, record.stages)
    summaries = read_summaries(folder, record.stages)
    if splits is None and (Path(folder) / CARD_FILE).is_file():
        old = DataCard.from_json((Path(folder) / CARD_FILE).read_text(encoding="utf-8"))
        if old.run != record:
            raise ConfigError(
                f"the run in {folder} is unfinished: its data set has not been written, only that of an earlier run; "
                "run it again to finish"
            )
        output, splits = old.output, old.splits
    dropped: Counter[str] = Counter()
    for summary in summaries:
        dropped.update(summary.dropped)
    return DataCard(
        run=record,
        stages=tuple(StageLine.of(summary) for summary in summaries),
        num_clips_in=summaries[0].num_in,
        num_clips_out=summaries[-1].num_out,
        dropped=_ordered(dropped),
        num_failed=sum(summary.num_failed for summary in summaries),
        cost=_rounded(sum((summary.cost for summary in summaries), Cost())),
        findings=count_findings(read_manifest(manifest), shared_sources(read_manifest(manifest))),
        output=output,
        splits=dict(splits or {}),
    )


def write_card(folder: str | os.PathLike[str], card: DataCard) -> None:
    """Write `card.json` and `card.md`."""
    with replacing(Path(folder) / CARD_FILE) as file:
        file.write(json.dumps(card.to_dict(), indent=2, ensure_ascii=False) + "\n")
    with replacing(Path(folder) / MARKDOWN_FILE) as file:
        file.write(card.markdown())


def count_findings(clips: Iterable[ManifestClip], sources_as: Mapping[str, str] | None = None) -> Findings:
    """Count over the clips of a manifest; a few numbers per clip are in memory.

    Args:
        sources_as: see `avocet.curation.outputs.shared_sources`.
    """
    names = ("licences", "flags", "unread", "local_left_out", "completeness", "keypoints")
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    numbers: Counter[str] = Counter()
    sources: set[int] = set()
    media_seconds = 0.0
    words: list[float] = []
    errors: list[float] = []
    for clip in clips:
        numbers["clips"] += 1
        sources.add(hash((sources_as or {}).get(clip.source_id, clip.source_id)))
        media_seconds += clip.duration_seconds or 0.0
        flags = set(flags_of(clip))
        numbers["flagged"] += bool(flags)
        counts["licences"][clip.licence or _UNKNOWN] += 1
        counts["flags"].update(flags)
        counts["unread"].update(unread_of(clip))
        left_out = clip.facts.get("local_filter", {}).get("left_out")
        counts["local_left_out"].update([] if left_out is None else [str(left_out)])
        score = clip.facts.get("completeness", {}).get("score")
        counts["completeness"].update([str(score)] if score is not None else [])
        counts["keypoints"].update(point["dimension"] for point in clip.facts.get("checklist", {}).get("keypoints", ()))
        numbers["events"] += len(clip.facts.get("events", {}).get("events", ()))
        numbers["utterances"] += len(clip.facts.get("dialogue", {}).get("utterances", ()))
        words.append(float(len(words_of(str(clip.facts.get("caption", {}).get("text", ""))))))
        rate = clip.facts.get("dialogue_check", {}).get("word_error_rate")
        errors += [] if rate is None else [float(rate)]
    return Findings(
        num_clips=numbers["clips"],
        num_sources=len(sources),
        media_seconds=round(media_seconds, 3),
        num_flagged=numbers["flagged"],
        num_events=numbers["events"],
        num_utterances=numbers["utterances"],
        caption_words=Mean.of(words),
        word_error_rate=Mean.of(errors),
        **{name: _ordered(found) for name, found in counts.items()},
    )


def _markdown(card: DataCard) -> list[str]:
    found = card.findings
    lines = [f"# Data card: {card.run.pipeline}", ""]
    lines += [
        f"{found.num_clips} clips ({_hours(found.media_seconds)}) of {found.num_sources} source videos, from "
        f"{card.num_clips_in} clips given. Cost: {_money(card.cost)}."
    ]
    if card.num_failed:
        lines += ["", f"**Unfinished:** {card.num_failed} clips have failed so far; run again to try them."]
    lines += [line for note in card.run.notes for line in ("", f"**Note:** {note}.")]
    lines += ["", "## Data", "", *_table(("split", "clips", "sources", "hours", "examples", "file"), _splits(card))]
    lines += ["", "## Yields", ""]
    heads = ("stage", "in", "out", "dropped", "failed", "hours out", "cost")
    lines += _table(heads, [_stage_row(stage) for stage in card.stages])
    lines += _counts("Lines of the input that are no clips", "reason", card.run.left_out)
    lines += _counts("Dropped", "reason", card.dropped)
    lines += _counts("Licences", "licence", found.licences)
    lines += _counts("Flags", "flag", found.flags)
    if found.flags:
        lines += ["", f"{found.num_flagged} clips have at least one; nothing was changed or dropped for them."]
    lines += _counts("Without annotation", "annotation", found.unread)
    lines += _counts("Without local caption", "reason", found.local_left_out)
    lines += _counts("Completeness", "score", found.completeness)
    lines += _counts("Keypoints", "dimension", found.keypoints)
    lines += ["", "## Texts", ""]
    lines += [f"- {found.num_events} events, {found.num_utterances} utterances"]
    for name, mean in (
        ("words per caption", found.caption_words),
        ("word error rate of dialogue", found.word_error_rate),
    ):
        lines += [] if mean is None else [f"- {name}: {mean.line()}"]
    lines += ["", "## Made with", ""]
    lines += [f"- {role}: {name}" for role, name in card.run.teachers.items()]
    lines += [f"- judge: {card.run.judge}"] * bool(card.run.judge)
    if card.run.code:
        lines += [f"- avocet {card.run.code['versions'].get('avocet')}, commit {card.run.code['commit']}"]
    settings = {name: value for name, value in card.run.settings.items() if value is not None}
    return [*lines, "", "```json", json.dumps(settings, indent=2, ensure_ascii=False), "```"]


def _splits(card: DataCard) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for split, counts in card.splits.items():
        tasks = ", ".join(f"{number} {task}" for task, number in counts.tasks.items()) or "none"
        numbers = (str(counts.num_clips), str(counts.num_sources), _hours(counts.media_seconds))
        rows.append((split, *numbers, tasks, counts.path))
    return rows


def _stage_row(stage: StageLine) -> tuple[str, ...]:
    dropped, failed = (
        ", ".join(f"{number} {why}" for why, number in found.items()) for found in (stage.dropped, stage.failed)
    )
    cost = _money(stage.cost) if stage.cost.num_calls else ""
    return (stage.stage, str(stage.num_in), str(stage.num_out), dropped, failed, _hours(stage.media_seconds_out), cost)


def _counts(title: str, head: str, counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return []
    return ["", f"## {title}", "", *_table((head, "number"), [(name, str(one)) for name, one in counts.items()])]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *(f"| {' | '.join(row)} |" for row in cells)]


def _money(cost: Cost) -> str:
    unknown = f", price of {cost.num_unpriced} unknown" if cost.num_unpriced else ""
    return f"${cost.usd:.4f} for {cost.num_calls} calls{unknown}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 360 else f"{seconds:.1f} s"


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _rounded(cost: Cost) -> Cost:
    """Sums of floats depend on their order in the last digits."""
    return dataclasses.replace(cost, usd=round(cost.usd, 9))
