"""Accuracy of multiple-choice questions: answered by a judge from captions, or by the captioner itself.

A question is one unit of the published accuracy; the videos are what was sampled, so errors are those of a ratio of
sums over videos, and intervals resample videos. An abstention is wrong, as published, and counted beside it. With
several runs, a question's value is the mean over the runs that scored it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, TypeVar

from avocet.evaluation.items import BenchmarkItem, Question
from avocet.evaluation.scorers.base import Finding, Judged, Scorer
from avocet.evaluation.scores import Breakdown, Score, Scores, bootstrap_of, group_means, mean_over_runs, number
from avocet.judging.client import JudgeClient
from avocet.judging.judge import Judge, Judgeable
from avocet.judging.messages import CallParameters
from avocet.judging.qa import (
    CaptionQaJudge,
    CaptionQuestions,
    ChoiceQuestion,
    DirectAnswer,
    DirectAnswerJudge,
    QaAnswer,
    QaFindings,
)
from avocet.metrics import ratio_of_sums
from avocet.metrics.events import Protocol
from avocet.records import Verdict

ItemT = TypeVar("ItemT", bound=Judgeable)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Outcome:
    """One question over all runs; None where no run scored it."""

    question: Question
    right: float | None
    abstained: float | None


class _QuestionScorer(Scorer[ItemT]):
    """What both have in common."""

    def scores(self, judged: Sequence[Judged], protocol: Protocol) -> Scores:
        outcomes = [_outcomes(one.item, one.verdicts) for one in judged]
        items = {one.item.id: _item_values(questions) for one, questions in zip(judged, outcomes, strict=True)}
        counted = {
            "accuracy": [_sums(questions, lambda one: one.right) for questions in outcomes],
            "accuracy of answers": [_sums_of_answers(questions) for questions in outcomes],
            "n/a": [_sums(questions, lambda one: one.abstained) for questions in outcomes],
        }
        flat = [outcome for questions in outcomes for outcome in questions]
        breakdowns = [
            _breakdown("type", flat, lambda question: question.type),
            _breakdown("category", flat, lambda question: question.category),
            _by_meta("video_category", judged, outcomes),
            _by_meta("video_duration", judged, outcomes),
        ]
        return Scores(
            headline="accuracy",
            scores=tuple(_score(name, sums, sum(one.right is None for one in flat)) for name, sums in counted.items()),
            breakdowns=tuple(one for one in breakdowns if len(one.groups) > 1),
            items=items,
            ratios={
                one.item.id: {name: sums[place] for name, sums in counted.items() if sums[place][1]}
                for place, one in enumerate(judged)
            },
        )

    def unscored_questions(self, verdict: Verdict) -> dict[str, str]:
        return {name: one.reason for name, one in QaFindings.from_verdict(verdict).unscored.items()}

    def findings(self, verdict: Verdict) -> list[Finding]:
        found = QaFindings.from_verdict(verdict)
        return [
            *(_finding(name, answer) for name, answer in found.answers.items()),
            *(Finding(kind="unscored", text=f"{name}: {one.reason}") for name, one in found.unscored.items()),
        ]


class CaptionQaScorer(_QuestionScorer[CaptionQuestions]):
    """For `daily-omni` and `worldsense`."""

    def judge(self, client: JudgeClient | None, parameters: CallParameters | None = None) -> Judge[CaptionQuestions]:
        assert client is not None
        return CaptionQaJudge(client, parameters=parameters)

    def judge_item(self, item: BenchmarkItem, caption: str) -> CaptionQuestions | str:
        if not item.questions:
            return "no questions"
        return CaptionQuestions(
            clip_id=item.id, caption=caption, questions=tuple(_choice(question) for question in item.questions)
        )


class DirectAnswerScorer(_QuestionScorer[DirectAnswer]):
    """For `videomme`: what is judged is the model's reply to the question."""

    needs_model: ClassVar[bool] = False
    scores_captions: ClassVar[bool] = False

    def judge(self, client: JudgeClient | None, parameters: CallParameters | None = None) -> Judge[DirectAnswer]:
        return DirectAnswerJudge()

    def judge_item(self, item: BenchmarkItem, caption: str) -> DirectAnswer | str:
        if len(item.questions) != 1:
            return f"{len(item.questions)} questions instead of one"
        return DirectAnswer(clip_id=item.id, question=_choice(item.questions[0]), reply=caption)


def _choice(question: Question) -> ChoiceQuestion:
    return ChoiceQuestion(
        id=question.id,
        text=question.text,
        choices=question.choices,
        answer=question.answer,
        category=question.category,
        type=question.type,
        defect=question.defect,
    )


def _outcomes(item: BenchmarkItem, verdicts: Sequence[Verdict]) -> list[_Outcome]:
    runs = [QaFindings.from_verdict(verdict) for verdict in verdicts if verdict.status == "scored"]
    outcomes = []
    for question in item.questions:
        answers = [run.answers[question.id] for run in runs if question.id in run.answers]
        outcomes.append(
            _Outcome(
                question=question,
                right=mean_over_runs(float(answer.right) for answer in answers),
                abstained=mean_over_runs(float(answer.abstained) for answer in answers),
            )
        )
    return outcomes


def _item_values(questions: Sequence[_Outcome]) -> dict[str, float | None]:
    return {
        "accuracy": mean_over_runs(one.right for one in questions),
        "n/a": mean_over_runs(one.abstained for one in questions),
    }


def _sums(questions: Sequence[_Outcome], value_of: Callable[[_Outcome], float | None]) -> tuple[float, float]:
    """The sum of a video's values and how many of its questions are scored."""
    values = [value for one in questions if (value := value_of(one)) is not None]
    return float(sum(values)), float(len(values))


def _sums_of_answers(questions: Sequence[_Outcome]) -> tuple[float, float]:
    """Right and chosen. What was abstained from counts neither above nor below."""
    above = sum(one.right for one in questions if one.right is not None)
    return float(above), float(sum(1 - one.abstained for one in questions if one.abstained is not None))


_NOTES: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "N/A is wrong, as published",
        "accuracy of answers": "those for which a choice was taken",
        "n/a": "the judge did not choose",
    }
)


def _score(name: str, of_videos: Sequence[tuple[float, float]], num_unscored: int) -> Score:
    """The pooled ratio of a score. Videos that add nothing below are no sample of it."""
    sums = [(above, below) for above, below in of_videos if below]

    def statistic(indices: Sequence[int]) -> float | None:
        return sum(sums[index][0] for index in indices) / sum(sums[index][1] for index in indices)

    low, high = bootstrap_of(len(sums), statistic)
    rate, error = ratio_of_sums([above for above, _ in sums], [below for _, below in sums])
    num = round(sum(below for _, below in sums))
    unscored = f" ({num_unscored} unscored)" if num_unscored else ""
    return Score(
        name=name,
        value=number(rate),
        standard_error=number(error),
        low=low,
        high=high,
        num=num,
        num_unscored=num_unscored,
        statistic="ratio",
        better="lower" if name == "n/a" else "higher",
        note=f"of {num} questions{unscored}; {_NOTES[name]}",
    )


def _breakdown(by: str, outcomes: Sequence[_Outcome], name_of: Callable[[Question], str | None]) -> Breakdown:
    return group_means("accuracy", by, "questions", ((name_of(one.question), one.right) for one in outcomes))


def _by_meta(field: str, judged: Sequence[Judged], outcomes: Sequence[Sequence[_Outcome]]) -> Breakdown:
    """By what the file says about each video."""
    entries = [
        (str(value) if isinstance(value := one.item.meta.get(field), str | int) else None, outcome.right)
        for one, questions in zip(judged, outcomes, strict=True)
        for outcome in questions
    ]
    return group_means("accuracy", field.replace("_", " "), "questions", entries)


def _finding(name: str, answer: QaAnswer) -> Finding:
    kind = "right" if answer.right else "n/a" if answer.abstained else "wrong"
    reasoning = f" ({answer.reasoning})" if answer.reasoning else ""
    return Finding(
        kind=kind, text=f"{name}: {answer.answer}, right is {answer.reference}{reasoning}", is_good=answer.right
    )
