"""Accuracy and score of short answers (VDC): means over videos of each video's mean, as published.

The released code leaves out videos whose mean is zero, which raises the average; here they stay in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from avocet.evaluation.items import BenchmarkItem
from avocet.evaluation.scorers.base import Finding, Judged, Scorer
from avocet.evaluation.scores import Breakdown, Scores, group_means, mean_over_runs, mean_score
from avocet.judging.client import JudgeClient
from avocet.judging.judge import Judge
from avocet.judging.messages import CallParameters
from avocet.judging.vdc import MAX_SCORE, ShortQuestion, VdcFindings, VdcItem, VdcJudge
from avocet.metrics.events import Protocol
from avocet.records import Verdict

_MIN_GROUP = 50
"""Questions that a category needs for a row of its own: the file's generator made up 958 categories."""


class VdcScorer(Scorer[VdcItem]):
    """For `vdc`."""

    def judge(self, client: JudgeClient | None, parameters: CallParameters | None = None) -> Judge[VdcItem]:
        assert client is not None
        return VdcJudge(client, parameters=parameters)

    def judge_item(self, item: BenchmarkItem, caption: str) -> VdcItem | str:
        if not item.questions:
            return "no questions"
        questions = tuple(
            ShortQuestion(id=one.id, question=one.text, answer=one.answer, defect=one.defect) for one in item.questions
        )
        return VdcItem(clip_id=item.id, caption=caption, questions=questions)

    def scores(self, judged: Sequence[Judged], protocol: Protocol) -> Scores:
        runs = {one.item.id: _runs(one.verdicts) for one in judged}
        items: dict[str, dict[str, float | None]] = {
            item: {
                "accuracy": mean_over_runs(run.accuracy for run in found),
                "score": mean_over_runs(run.mean_score for run in found),
            }
            for item, found in runs.items()
        }
        accuracies = [value for one in items.values() if (value := one["accuracy"]) is not None]
        grades = [value for one in items.values() if (value := one["score"]) is not None]
        num_questions = sum(len(one.item.questions) for one in judged)
        num_unscored = num_questions - sum(_num_scored(found) for found in runs.values())
        unscored = f"; {num_unscored} of {num_questions} questions unscored" if num_unscored else ""
        scores = (
            mean_score(
                "accuracy", accuracies, better="higher", note=f"mean over videos of right / scored questions{unscored}"
            ),
            mean_score(
                "score", grades, unit="grade", better="higher", note=f"mean over videos, 0 to {MAX_SCORE}{unscored}"
            ),
        )
        return Scores(
            headline="accuracy",
            scores=tuple(dataclasses.replace(score, num_unscored=num_unscored) for score in scores),
            breakdowns=tuple(one for one in (_by_category(judged, runs),) if one.groups),
            items=items,
        )

    def unscored_questions(self, verdict: Verdict) -> dict[str, str]:
        questions = VdcFindings.from_verdict(verdict).questions
        return {one.id: one.reason for one in questions if one.reason is not None}

    def findings(self, verdict: Verdict) -> list[Finding]:
        found = []
        for one in VdcFindings.from_verdict(verdict).questions:
            if one.reason is not None:
                found.append(Finding(kind="unscored", text=f"{one.id}: {one.reason}"))
            else:
                kind = "right" if one.correct else "wrong" if one.answer else "n/a"
                text = f"{one.id}: {one.answer or 'not stated'} ({one.score} of {MAX_SCORE}: {one.reasoning})"
                found.append(Finding(kind=kind, text=text, is_good=bool(one.correct)))
        return found


def _runs(verdicts: Sequence[Verdict]) -> list[VdcFindings]:
    return [VdcFindings.from_verdict(verdict) for verdict in verdicts if verdict.status == "scored"]


def _num_scored(runs: Sequence[VdcFindings]) -> int:
    """Questions that at least one run scored."""
    return len({one.id for run in runs for one in run.questions if one.reason is None})


def _by_category(judged: Sequence[Judged], runs: dict[str, list[VdcFindings]]) -> Breakdown:
    entries: list[tuple[str | None, float | None]] = []
    for one in judged:
        found = [{question.id: question for question in run.questions} for run in runs[one.item.id]]
        for question in one.item.questions:
            answers = [by_id[question.id].correct for by_id in found if question.id in by_id]
            right = mean_over_runs(None if correct is None else float(correct) for correct in answers)
            entries.append((question.category, right))
    all_groups = group_means("accuracy", f"category with at least {_MIN_GROUP} questions", "questions", entries)
    large = tuple(group for group in all_groups.groups if group.num + group.num_unscored >= _MIN_GROUP)
    return Breakdown(score=all_groups.score, by=all_groups.by, of=all_groups.of, groups=large)
