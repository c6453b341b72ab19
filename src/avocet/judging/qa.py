"""Multiple-choice questions: answered from a caption by a judge who may abstain, or by the captioner itself.

Caption -> question answering as on Daily-Omni and WorldSense (AVoCaDO, section 4): one call per question, with the
caption and nothing else, and "N/A" when the caption does not tell. Direct answers (Video-MME) need no judge, only a
careful reading of the reply. What differs from the released code:

- "B.", "(b)" or "B. A cat" is the answer B; there only the bare letter is, and everything else is wrong.
- A question whose reply cannot be read is unscored and counted; there it is wrong, like every failed call.
- How often the judge abstained, and results per category and type, stand beside the accuracy.
- A question that gets no reply for a reason that may pass (server, network) makes the whole caption unscored: the run
  that judges it again finds the other replies in the cache.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from avocet import __version__
from avocet.errors import RecordError
from avocet.judging.errors import CallFailed, ParseError
from avocet.judging.judge import Examination, Judge, LlmJudge, Unscorable, none_scored, settled
from avocet.judging.letters import read_letter
from avocet.judging.parsing import last_record, schema_of
from avocet.judging.prompts import Untrusted
from avocet.records import Record, Verdict

ABSTAINED = "N/A"
"""The answer of who does not choose."""

_CHOICE = re.compile(r"\(?([A-Z])(?:[.):]|\Z)")
_ABSTENTION = re.compile(r"N/?A\.?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceQuestion(Record):
    """A multiple-choice question with its answer."""

    id: str
    """Unique in its item."""
    text: str
    choices: tuple[str, ...]
    """Each beginning with its letter: "A. ...", "(A) ..." or "A: ..."."""
    answer: str
    """The letter of the right choice."""
    category: str | None = None
    type: str | None = None
    defect: str | None = None
    """Why it cannot be asked or scored (no text, an answer that is no choice); it counts as unscored."""

    def __post_init__(self) -> None:
        if self.defect is not None:
            return
        if not self.text.strip():
            raise RecordError(f"ChoiceQuestion {self.id!r}: text must not be empty unless `defect` says why")
        letters = [match[1] if (match := _CHOICE.match(choice)) else None for choice in self.choices]
        if len(letters) < 2 or None in letters or len(set(letters)) < len(letters):
            raise RecordError(
                f"ChoiceQuestion {self.id!r}: needs at least two choices, each beginning with a letter of its own "
                f'("A. ..."), got {list(self.choices)!s:.200}'
            )
        if self.answer not in letters:
            raise RecordError(
                f"ChoiceQuestion {self.id!r}: answer {self.answer!r} is none of {', '.join(self.letters)}"
            )

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the choices, in their order."""
        return tuple(match[1] for choice in self.choices if (match := _CHOICE.match(choice)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionQuestions(Record):
    """A caption and the questions about its video."""

    clip_id: str
    caption: str
    questions: tuple[ChoiceQuestion, ...]

    def __post_init__(self) -> None:
        ids = {question.id for question in self.questions}
        if not ids or len(ids) < len(self.questions):
            raise RecordError(
                f"CaptionQuestions {self.clip_id!r}: needs at least one question and unique ids, got "
                f"{len(self.questions)} questions with {len(ids)} ids"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DirectAnswer(Record):
    """What a model replied when it was asked a question about a video."""

    clip_id: str
    question: ChoiceQuestion
    reply: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceReply(Record):
    """What the judge is to reply to a question."""

    reasoning: str
    answer: str
    """A letter, or "N/A"."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QaAnswer(Record):
    """What came of one question."""

    answer: str
    """A letter, or "N/A"."""
    reference: str
    """The letter of the right choice."""
    right: bool
    category: str | None = None
    type: str | None = None
    reasoning: str | None = None
    """The judge's; for a direct answer that names no choice, what is wrong with it."""

    def __post_init__(self) -> None:
        if self.right != (self.answer == self.reference):
            raise RecordError(
                f"QaAnswer: right is {str(self.right).lower()}, but the answer is {self.answer!r} and the right one "
                f"{self.reference!r}"
            )

    @property
    def abstained(self) -> bool:
        return self.answer == ABSTAINED


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnscoredQuestion(Record):
    """A question without a result."""

    reason: str
    category: str | None = None
    type: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class QaFindings(Record):
    """The findings on one caption (or direct answer); every question of the item is in one of both, by its id."""

    answers: dict[str, QaAnswer]
    unscored: dict[str, UnscoredQuestion] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.answers:
            raise RecordError("QaFindings: needs at least one scored question")
        if both := sorted(set(self.answers) & set(self.unscored)):
            raise RecordError(f"QaFindings: {both[0]!r} is both scored and unscored")

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> QaFindings:
        """Raises `RecordError` for an unscored verdict and for one of another judge."""
        if verdict.status != "scored":
            raise RecordError(f"the verdict on {verdict.clip_id!r} is unscored: {verdict.reason}")
        return cls.from_dict({name: value for name, value in verdict.findings.items() if name != "notes"})

    @property
    def num_right(self) -> int:
        return sum(answer.right for answer in self.answers.values())

    @property
    def num_answered(self) -> int:
        """Scored questions for which a choice was taken."""
        return len(self.answers) - self.num_abstained

    @property
    def num_abstained(self) -> int:
        """Scored questions for which none was taken; they are wrong."""
        return sum(answer.abstained for answer in self.answers.values())

    @property
    def num_unscored(self) -> int:
        return len(self.unscored)


class CaptionQaJudge(LlmJudge[CaptionQuestions]):
    """Findings: `QaFindings` as JSON. A caption is unscored when none of its questions could be scored."""

    name = "qa"
    prompt_names = ("qa",)

    async def examine(self, item: CaptionQuestions, examination: Examination) -> dict[str, Any]:
        asked = [question for question in item.questions if question.defect is None]
        replies = await settled(self._answer(item.caption, question, examination) for question in asked)
        outcomes = {question.id: outcome for question, outcome in zip(asked, replies, strict=True)}
        # The same caption is shown with every question, with the same notes on it.
        examination.notes[:] = dict.fromkeys(examination.notes)
        answers: dict[str, QaAnswer] = {}
        unscored: dict[str, UnscoredQuestion] = {}
        for question in item.questions:
            outcome = outcomes.get(question.id)
            if isinstance(outcome, ChoiceReply):
                answers[question.id] = _qa_answer(question, outcome.answer, outcome.reasoning)
            else:
                unscored[question.id] = _unscored(question, question.defect or str(outcome))
        if not answers:
            raise none_scored([one.reason for one in unscored.values()])
        return dict(json.loads(QaFindings(answers=answers, unscored=unscored).to_json_line()))

    def is_final(self, item: CaptionQuestions, verdict: Verdict) -> bool:
        """Not while a question that could be asked has no answer: the reason may pass."""
        defects = {question.id for question in item.questions if question.defect is not None}
        return verdict.status == "scored" and set(QaFindings.from_verdict(verdict).unscored) <= defects

    async def _answer(self, caption: str, question: ChoiceQuestion, examination: Examination) -> ChoiceReply:
        """The reply with its answer reduced to a letter or `ABSTAINED`."""
        letters = question.letters
        prompt = self.prompts["qa"].render(
            caption=Untrusted(text=caption),
            question=Untrusted(text="\n".join([question.text, *question.choices])),
            letters=", ".join(letters),
        )

        try:
            return await examination.ask(
                prompt,
                lambda text: _read_choice(text, letters),
                schema=schema_of(ChoiceReply),
                assumed=ChoiceReply(reasoning="", answer=ABSTAINED),
            )
        except CallFailed as error:
            if error.kind == "rejected":  # for good, so it must not stand in the way of the other questions
                raise Unscorable(f"no reply: {error}") from error
            raise


class DirectAnswerJudge(Judge[DirectAnswer]):
    """Findings: `QaFindings` of one question as JSON; needs no language model.

    A reply that takes no choice for certain (`read_letter`) is the model's failure, not a judge's: it is wrong and
    counted as an abstention, with the reason as its "reasoning". Only a question with a defect is unscored.
    """

    name: ClassVar[str] = "direct-answer"

    @property
    def identity(self) -> str:
        """name/version of the package: another version may read more replies."""
        return f"{self.name}/{__version__}"

    async def judge(self, item: DirectAnswer, run_index: int = 0) -> Verdict:
        question = item.question
        findings: dict[str, Any] = {}
        if question.defect is None:
            try:
                answer = _qa_answer(question, read_letter(item.reply, question.letters), None)
            except ParseError as error:
                answer = _qa_answer(question, ABSTAINED, f"expected {error.expected}, but {error.problem}")
            findings = dict(json.loads(QaFindings(answers={question.id: answer}).to_json_line()))
        return Verdict(
            clip_id=item.clip_id,
            judge=self.identity,
            run_index=run_index,
            status="scored" if findings else "unscored",
            reason=question.defect,
            findings=findings,
            raw_reply=item.reply,
        )


def _read_choice(text: str, letters: Sequence[str]) -> ChoiceReply:
    """The judge's reply with its answer reduced to a letter or `ABSTAINED`. Raises `ParseError` for anything else."""
    reply = last_record(text, ChoiceReply)
    if _ABSTENTION.fullmatch(reply.answer.strip()):
        return dataclasses.replace(reply, answer=ABSTAINED)
    try:
        return dataclasses.replace(reply, answer=read_letter(reply.answer, letters))
    except ParseError as error:
        problem = f'"answer" is {reply.answer!r:.80}: {error.problem}'
        raise ParseError(f'{error.expected} or "{ABSTAINED}"', problem, text) from error


def _qa_answer(question: ChoiceQuestion, answer: str, reasoning: str | None) -> QaAnswer:
    return QaAnswer(
        answer=answer,
        reference=question.answer,
        right=answer == question.answer,
        category=question.category,
        type=question.type,
        reasoning=reasoning,
    )


def _unscored(question: ChoiceQuestion, reason: str) -> UnscoredQuestion:
    return UnscoredQuestion(reason=reason, category=question.category, type=question.type)
