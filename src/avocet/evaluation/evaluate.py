"""A benchmark run: captions matched to items, judged, counted; everything kept, nothing judged twice.

    benchmark = load_benchmark("vs2")
    run = BenchmarkRun(benchmark=benchmark, items=benchmark.read("video_salmonn2_test.json"), runs=7)
    evaluation = run.evaluate(read_captions("captions.jsonl"), client, folder=Path("out"))
    print(evaluation.report.to_markdown())

The folder holds `verdicts.ledger.jsonl` (each verdict as it comes: a killed run goes on from there),
`verdicts.jsonl`, `items.jsonl` (one line per item, in the order of the benchmark: caption, figures, and every
verdict with the raw reply), `report.json` and `report.md`. All but the ledger, whose lines stand in the order in which
verdicts came, are the same after an undisturbed run and after one that was killed and run again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError
from avocet.evaluation.benchmark_report import EvaluationReport, ItemOutcome, ItemStatus, count_reasons
from avocet.evaluation.captions import CaptionSet, ImportedCaption, Matched, Pair, match
from avocet.evaluation.items import Benchmark, BenchmarkItem
from avocet.evaluation.scorers import Judged, Scorer, load_scorer
from avocet.evaluation.scores import Scores
from avocet.evaluation.text_scores import text_facts, text_scores
from avocet.evaluation.verdicts import Case, JudgedCase, collect_verdicts
from avocet.judging.client import JudgeClient
from avocet.judging.judge import Judge
from avocet.judging.messages import CallParameters
from avocet.metrics.events import Protocol
from avocet.records import Verdict

ITEMS_FILE = "items.jsonl"
REPORT_FILE = "report.json"
MARKDOWN_FILE = "report.md"
RUN_FILE = "run.json"
"""What no two runs share: arguments, time, costs. The command writes it."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """A report with the items that it is about."""

    report: EvaluationReport
    outcomes: tuple[ItemOutcome, ...]
    matched: Matched


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkRun:
    """What is measured and how.

    Raises `ConfigError` for a protocol that the benchmark does not have, and for fewer than one run.
    """

    benchmark: Benchmark
    items: Sequence[BenchmarkItem]
    runs: int | None = None
    """How often each caption is judged; None: as published."""
    protocol: Protocol = "paper"

    def __post_init__(self) -> None:
        if self.protocol not in self.scorer.protocols:
            raise ConfigError(
                f"{self.benchmark.name} has no protocol {self.protocol!r}; it has {', '.join(self.scorer.protocols)}"
            )
        if self.runs is not None and self.runs < 1:
            raise ConfigError(f"runs must be >= 1, got {self.runs}")

    @property
    def scorer(self) -> Scorer[Any]:
        """What scores this kind of benchmark."""
        return load_scorer(self.benchmark.judge)

    @property
    def num_runs(self) -> int:
        """How often each caption is judged."""
        return self.runs or self.scorer.default_runs

    def evaluate(
        self,
        captions: CaptionSet,
        client: JudgeClient | None,
        *,
        parameters: CallParameters | None = None,
        judge: Judge[Any] | None = None,
        folder: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Judge the captions and count.

        Args:
            client: where the judge asks; None for benchmarks that need no language model.
            judge: another judge than the benchmark's own, for items of the same kind.
            folder: keeps everything; see the module's description.
            progress: called with (finished, all) after each verdict.

        Raises:
            ConfigError: no caption is of an item of the benchmark, or a judge is needed and there is none.
            JudgeError: what concerns the whole run (credentials, cost ceiling); the folder has all until then.
        """
        scorer = self.scorer
        matched = match(self.items, captions)
        if not matched.pairs:
            raise ConfigError(f"none of the captions is of an item of {self.benchmark.name}: {matched.summary()}")
        if judge is None:
            if scorer.needs_model and client is None:
                raise ConfigError(f"{self.benchmark.name} needs a judge; give the name of a model")
            judge = scorer.judge(client, parameters)
        cases, refused = _cases(scorer, matched.pairs)
        judged = collect_verdicts(judge, cases, runs=self.num_runs, folder=folder, progress=progress)
        outcomes = _outcomes(scorer, self.items, matched, judged, refused, judge.identity, self.num_runs)
        scores = scorer.scores(_judged(matched.pairs, outcomes), self.protocol)
        outcomes = [
            dataclasses.replace(
                outcome,
                values=scores.items.get(outcome.item.id, {}),
                ratios=scores.ratios.get(outcome.item.id, {}),
            )
            for outcome in outcomes
        ]
        report = self._report(captions, matched, outcomes, scores, judge)
        if folder is not None:
            write_evaluation(folder, report, outcomes)
        return Evaluation(report=report, outcomes=tuple(outcomes), matched=matched)

    def _report(
        self,
        captions: CaptionSet,
        matched: Matched,
        outcomes: Sequence[ItemOutcome],
        scores: Scores,
        judge: Judge[Any],
    ) -> EvaluationReport:
        facts = [outcome.text for outcome in outcomes if outcome.text is not None]
        statuses: list[ItemStatus] = [outcome.status for outcome in outcomes]
        verdicts = [verdict for outcome in outcomes for verdict in outcome.verdicts]
        questions = [reason for one in verdicts for reason in _unscored_questions(self.scorer, one).values()]
        return EvaluationReport(
            benchmark=self.benchmark.name,
            captioner=captioner_name(captions, matched.pairs),
            judge=judge.identity,
            judge_settings=judge.settings,
            protocol=self.protocol,
            num_runs=self.num_runs,
            num_items=len(self.items),
            num_published_items=self.benchmark.num_published_items,
            num_captioned=len(matched.pairs),
            num_scored=statuses.count("scored") + statuses.count("partly scored"),
            num_partly_scored=statuses.count("partly scored"),
            num_unscored=statuses.count("unscored"),
            num_missing=statuses.count("missing"),
            headline=scores.headline,
            scores=(*scores.scores, *(text_scores(facts) if self.scorer.scores_captions else ())),
            breakdowns=scores.breakdowns,
            unscored_reasons=count_reasons(one.reason for one in verdicts if one.status == "unscored"),
            unscored_questions=count_reasons(questions),
            missing={one.item.id: one.reason for one in matched.missing_items},
            warnings=(
                *_warnings(self.benchmark, captions, matched),
                *_question_warnings(len(questions)),
                *_note_warnings(outcomes),
            ),
        )


def captioner_name(captions: CaptionSet, pairs: Sequence[Pair]) -> str:
    """Model and revision where all captions say the same, else the names of the files."""
    records = [caption.record for pair in pairs for caption in pair.captions]
    names = {f"{record.model} ({record.revision})" if record is not None else "" for record in records}
    return names.pop() if len(names) == 1 and "" not in names else ", ".join(captions.files)


def write_evaluation(folder: Path, report: EvaluationReport, outcomes: Sequence[ItemOutcome]) -> None:
    """Write items and report, each file at once."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(outcome.line(), ensure_ascii=False) + "\n" for outcome in outcomes)
    for name, text in (
        (ITEMS_FILE, lines),
        (REPORT_FILE, json.dumps(report.to_dict(), ensure_ascii=False, indent=1) + "\n"),
        (MARKDOWN_FILE, report.to_markdown()),
    ):
        temporary = folder / f"{name}.tmp"
        # Names from files may hold half of a surrogate pair.
        temporary.write_text(text, encoding="utf-8", errors="replace")
        os.replace(temporary, folder / name)


def _cases(scorer: Scorer[Any], pairs: Sequence[Pair]) -> tuple[list[Case[Any]], dict[str, str]]:
    """What is judged, and why the other captioned items cannot be."""
    cases, refused = [], {}
    for pair in pairs:
        made = scorer.judge_item(pair.item, pair.caption.text)
        if isinstance(made, str):
            refused[pair.item.id] = made
        else:
            cases.append(Case(key=pair.item.id, item=made))
    return cases, refused


def _outcomes(
    scorer: Scorer[Any],
    items: Sequence[BenchmarkItem],
    matched: Matched,
    judged: Sequence[JudgedCase[Any]],
    refused: Mapping[str, str],
    judge: str,
    num_runs: int,
) -> list[ItemOutcome]:
    captions = {pair.item.id: pair.caption for pair in matched.pairs}
    verdicts = {one.case.key: one.verdicts for one in judged}
    for item_id, reason in refused.items():
        verdicts[item_id] = tuple(
            Verdict(clip_id=item_id, judge=judge, run_index=run, status="unscored", reason=reason)
            for run in range(num_runs)
        )
    missing = {one.item.id: one.reason for one in matched.missing_items}
    return [
        ItemOutcome(item=item, status="missing", reason=missing[item.id])
        if item.id in missing
        else _outcome(scorer, item, captions[item.id], verdicts[item.id])
        for item in items
    ]


def _outcome(
    scorer: Scorer[Any], item: BenchmarkItem, caption: ImportedCaption, verdicts: Sequence[Verdict]
) -> ItemOutcome:
    scored = [verdict for verdict in verdicts if verdict.status == "scored"]
    reasons = [_unscored_reason(scorer, verdict) for verdict in verdicts]
    reason = next((reason for reason in reasons if reason is not None), None)
    status: ItemStatus = "unscored" if not scored else "scored" if reason is None else "partly scored"
    return ItemOutcome(
        item=item,
        status=status,
        reason=reason,
        caption=caption,
        text=text_facts(caption) if scorer.scores_captions else None,
        verdicts=tuple(verdicts),
        findings=tuple(scorer.findings(scored[0])) if scored else (),
    )


def _unscored_questions(scorer: Scorer[Any], verdict: Verdict) -> dict[str, str]:
    return scorer.unscored_questions(verdict) if verdict.status == "scored" else {}


def _unscored_reason(scorer: Scorer[Any], verdict: Verdict) -> str | None:
    """Why a verdict is unscored, or a part of it; None for a whole one."""
    if verdict.status == "unscored":
        return verdict.reason
    questions = _unscored_questions(scorer, verdict)
    first = next(iter(questions.values()), None)
    return None if first is None else f"{len(questions)} questions are unscored; the first: {first}"


def _judged(pairs: Sequence[Pair], outcomes: Sequence[ItemOutcome]) -> list[Judged]:
    """All captioned items in the order of the benchmark, those that cannot be judged with unscored verdicts."""
    captioned = {pair.item.id for pair in pairs}
    return [
        Judged(item=outcome.item, verdicts=outcome.verdicts) for outcome in outcomes if outcome.item.id in captioned
    ]


def _warnings(benchmark: Benchmark, captions: CaptionSet, matched: Matched) -> list[str]:
    warnings = []
    if matched.unknown_captions:
        warnings.append(f"{len(matched.unknown_captions)} captions are of no item of the benchmark and were left out")
    if matched.ambiguous:
        warnings.append(f"{len(matched.ambiguous)} names fit several items or videos and were left out")
    if captions.skipped:
        warnings.append(
            f"{len(captions.skipped)} entries of the files are no captions; the first: {captions.skipped[0]}"
        )
    if captions.mended:
        warnings.append(
            f"{len(captions.mended)} entries of the files hold half of a surrogate pair, which is no character and was "
            f"replaced by U+FFFD; the first: {captions.mended[0]}"
        )
    if captions.repeats:
        warnings.append(f"{len(captions.repeats)} captions are in the files twice")
    deaf = sum(caption.audio_used is False for pair in matched.pairs for caption in pair.captions)
    if benchmark.uses_audio and deaf:
        warnings.append(f"{deaf} captions were made without sound; published scores of {benchmark.name} are with it")
    heard = sum(caption.audio_used is True for pair in matched.pairs for caption in pair.captions)
    if not benchmark.uses_audio and heard:
        warnings.append(f"{heard} captions were made with sound; published scores of {benchmark.name} are without")
    return warnings


def _question_warnings(num_unscored: int) -> list[str]:
    if not num_unscored:
        return []
    return [f"{num_unscored} questions of captions that are scored have no score themselves and are in no average"]


def _note_warnings(outcomes: Sequence[ItemOutcome]) -> list[str]:
    """What was done to texts before judges saw them, by kind: a caption that was cut is judged in part."""
    items: dict[str, set[str]] = {}
    for outcome in outcomes:
        for verdict in outcome.verdicts:
            for note in verdict.findings.get("notes", ()):
                items.setdefault(re.sub(r"\d+", "N", note), set()).add(outcome.item.id)
    return [f'{len(ids)} items were judged with the note "{note}"' for note, ids in sorted(items.items())]
