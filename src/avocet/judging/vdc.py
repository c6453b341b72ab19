"""Short questions answered from a caption and compared with short reference answers: VDC (AuroraCap, section 4).

Two calls per question, with prompts of our own: one answers from the caption alone, one compares the answer with the
reference by yes or no and a score of 0 to 5. What differs from the code released with AVoCaDO:

- A question whose reply cannot be read is unscored and counted as such; there it is left out of the denominator
  (answers) or counts as 0 (scores). A caption that gets everything wrong stays in the averages with its zeros.
- The yes must agree with the score (yes from 3 on), and calls are at temperature 0 instead of 1.
- "The caption does not say" is an answer of its own, compared with the reference like any other.
- A question that gets no reply at all (server, network) makes the whole caption unscored: the run that judges it again
  finds the other replies in the cache.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Literal

from avocet.errors import RecordError
from avocet.judging.judge import Examination, LlmJudge, Unscorable, none_scored, settled
from avocet.judging.parsing import last_record, schema_of
from avocet.judging.prompts import Untrusted
from avocet.records import Record, Verdict

MATCH_FROM_SCORE = 3
"""An answer matches the reference if and only if it has this score or a better one."""
MAX_SCORE = 5

NOT_STATED = "The description does not say."
"""What an abstention is compared as."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortQuestion(Record):
    """A question with its reference answer."""

    id: str
    """Unique in its item."""
    question: str
    answer: str
    defect: str | None = None
    """Why it cannot be asked (the file has no text for it); it counts as unscored."""

    def __post_init__(self) -> None:
        if self.defect is None and not (self.question.strip() and self.answer.strip()):
            raise RecordError(
                f"ShortQuestion {self.id!r}: question and answer must not be empty unless `defect` says why"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VdcItem(Record):
    """A caption and the questions about its video."""

    clip_id: str
    caption: str
    questions: tuple[ShortQuestion, ...]

    def __post_init__(self) -> None:
        ids = {question.id for question in self.questions}
        if not ids or len(ids) < len(self.questions):
            raise RecordError(
                f"VdcItem {self.clip_id!r}: needs at least one question and unique ids, got {len(self.questions)} "
                f"questions with {len(ids)} ids"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortAnswerReply(Record):
    """What the judge is to reply to a question."""

    reasoning: str
    stated: bool
    answer: str

    def __post_init__(self) -> None:
        if self.stated != bool(self.answer.strip()):
            raise RecordError(f"stated is {str(self.stated).lower()}, which contradicts the answer {self.answer!r:.60}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerScoreReply(Record):
    """What the judge is to reply to a comparison."""

    reasoning: str
    match: Literal["yes", "no"]
    score: int

    def __post_init__(self) -> None:
        if not 0 <= self.score <= MAX_SCORE:
            raise RecordError(f"score must be from 0 to {MAX_SCORE}, got {self.score}")
        if (self.match == "yes") != (self.score >= MATCH_FROM_SCORE):
            raise RecordError(f"match {self.match!r} contradicts score {self.score}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionFinding(Record):
    """What came of one question: an answer with its score, or the reason why there is none."""

    id: str
    answer: str | None = None
    """The answer from the caption; "" when the caption does not say, None when no reply could be read."""
    correct: bool | None = None
    score: int | None = None
    """0 to 5."""
    reasoning: str | None = None
    """Of the comparison."""
    reason: str | None = None
    """Why it is unscored."""

    def __post_init__(self) -> None:
        is_scored = self.reason is None
        if (self.correct is not None) != is_scored or (self.score is not None) != is_scored:
            raise RecordError(
                f"QuestionFinding {self.id!r}: it needs either a reason why it is unscored, or both correct and score"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VdcFindings(Record):
    """The findings of `VdcJudge` on one caption."""

    questions: tuple[QuestionFinding, ...]
    """All of the item, in its order."""
    num_scored: int
    num_correct: int
    accuracy: float
    """Correct / scored questions."""
    mean_score: float
    """Mean score of the scored questions, 0 to 5."""

    def __post_init__(self) -> None:
        scored = [finding for finding in self.questions if finding.reason is None]
        if not scored:
            raise RecordError("VdcFindings: needs at least one scored question")
        num_correct = sum(finding.correct is True for finding in scored)
        score_sum = sum(finding.score or 0 for finding in scored)
        told = (self.num_scored, self.num_correct, self.accuracy, self.mean_score)
        true = (len(scored), num_correct, num_correct / len(scored), score_sum / len(scored))
        if told != true:
            raise RecordError(f"VdcFindings: scored, correct, accuracy and mean score are {true}, got {told}")

    @classmethod
    def of(cls, questions: Sequence[QuestionFinding]) -> VdcFindings:
        """Raises `RecordError` when no question is scored."""
        scored = [finding for finding in questions if finding.reason is None]
        num_correct = sum(finding.correct is True for finding in scored)
        n = max(1, len(scored))
        return cls(
            questions=tuple(questions),
            num_scored=len(scored),
            num_correct=num_correct,
            accuracy=num_correct / n,
            mean_score=sum(finding.score or 0 for finding in scored) / n,
        )

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> VdcFindings:
        """Raises `RecordError` for an unscored verdict and for one of another judge."""
        if verdict.status != "scored":
            raise RecordError(f"the verdict on {verdict.clip_id!r} is unscored: {verdict.reason}")
        return cls.from_dict({name: value for name, value in verdict.findings.items() if name != "notes"})

    @property
    def num_unscored(self) -> int:
        """Questions without a score, which neither accuracy nor mean score includes."""
        return len(self.questions) - self.num_scored


class VdcJudge(LlmJudge[VdcItem]):
    """Findings: `VdcFindings` as JSON. A caption is unscored when none of its questions could be scored."""

    name = "vdc"
    prompt_names = ("vdc_answer", "vdc_score")

    async def examine(self, item: VdcItem, examination: Examination) -> dict[str, Any]:
        # All answers before all scores: the replies then stand in the same order in every run.
        asked = [question for question in item.questions if question.defect is None]
        replies = await settled(self._answer(item.caption, question, examination) for question in asked)
        answers = {
            question.id: reply
            for question, reply in zip(asked, replies, strict=True)
            if not isinstance(reply, Unscorable)
        }
        compared = [question for question in asked if question.id in answers]
        scores = await settled(self._score(question, answers[question.id], examination) for question in compared)
        outcomes = {question.id: reply for question, reply in zip(asked, replies, strict=True)} | {
            question.id: score for question, score in zip(compared, scores, strict=True)
        }
        # The same caption is shown with every question, with the same notes on it.
        examination.notes[:] = dict.fromkeys(examination.notes)
        findings = [
            _finding(question, answers.get(question.id), outcomes.get(question.id)) for question in item.questions
        ]
        if all(finding.reason is not None for finding in findings):
            raise none_scored([finding.reason or "" for finding in findings])
        return dict(json.loads(VdcFindings.of(findings).to_json_line()))

    def is_final(self, item: VdcItem, verdict: Verdict) -> bool:
        """Not while a question that could be asked has no score: the reason may pass."""
        defects = {question.id for question in item.questions if question.defect is not None}
        if verdict.status != "scored":
            return False
        return all(one.reason is None or one.id in defects for one in VdcFindings.from_verdict(verdict).questions)

    async def _answer(self, caption: str, question: ShortQuestion, examination: Examination) -> ShortAnswerReply:
        prompt = self.prompts["vdc_answer"].render(
            caption=Untrusted(text=caption), question=Untrusted(text=question.question)
        )
        return await examination.ask(
            prompt,
            lambda text: last_record(text, ShortAnswerReply),
            schema=schema_of(ShortAnswerReply),
            assumed=ShortAnswerReply(reasoning="", stated=False, answer=""),
        )

    async def _score(
        self, question: ShortQuestion, reply: ShortAnswerReply, examination: Examination
    ) -> AnswerScoreReply:
        prompt = self.prompts["vdc_score"].render(
            question=Untrusted(text=question.question),
            reference=Untrusted(text=question.answer),
            answer=Untrusted(text=reply.answer if reply.stated else NOT_STATED),
        )
        return await examination.ask(
            prompt, lambda text: last_record(text, AnswerScoreReply), schema=schema_of(AnswerScoreReply)
        )


def _finding(
    question: ShortQuestion,
    answer: ShortAnswerReply | None,
    outcome: ShortAnswerReply | AnswerScoreReply | Unscorable | None,
) -> QuestionFinding:
    text = None if answer is None else answer.answer.strip()
    if isinstance(outcome, AnswerScoreReply):
        return QuestionFinding(
            id=question.id,
            answer=text,
            correct=outcome.match == "yes",
            score=outcome.score,
            reasoning=outcome.reasoning,
        )
    return QuestionFinding(id=question.id, answer=text, reason=question.defect or str(outcome))
