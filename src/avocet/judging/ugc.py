"""Captions graded against a reference for what is seen, what is heard, and details: the rubric of UGC-VideoCap.

One call per caption, with a prompt of our own: a grade of 1 to 5 in each dimension. Published are means in percent of
the best grade, and the mean of the three. What differs from the released code: a reply that cannot be read leaves the
caption unscored, where there it counts as 0, which no judge can give; and the judge sees no name of the video.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from avocet.errors import RecordError
from avocet.judging.judge import Examination, LlmJudge
from avocet.judging.parsing import last_record, schema_of
from avocet.judging.prompts import Untrusted
from avocet.records import Record, Verdict

MIN_GRADE = 1
MAX_GRADE = 5

DIMENSIONS = ("visual", "audio", "details")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UgcItem(Record):
    """A caption and the reference that it is graded against."""

    clip_id: str
    caption: str
    reference: str

    def __post_init__(self) -> None:
        if not self.reference.strip():
            raise RecordError(f"UgcItem {self.clip_id!r}: the reference must not be empty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UgcReply(Record):
    """What the judge is to reply."""

    reasoning: str
    visual: int
    audio: int
    details: int

    def __post_init__(self) -> None:
        for dimension in DIMENSIONS:
            grade = getattr(self, dimension)
            if not MIN_GRADE <= grade <= MAX_GRADE:
                raise RecordError(f"{dimension} must be from {MIN_GRADE} to {MAX_GRADE}, got {grade}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UgcFindings(Record):
    """The findings of `UgcJudge` on one caption."""

    visual: int
    """1 to 5, as the other two."""
    audio: int
    details: int
    average: float
    """Mean of the three in percent of the best grade, 20 to 100: the unit of the published scores."""
    reasoning: str

    def __post_init__(self) -> None:
        UgcReply(reasoning=self.reasoning, visual=self.visual, audio=self.audio, details=self.details)
        true = percent(self.visual + self.audio + self.details) / len(DIMENSIONS)
        if self.average != true:
            raise RecordError(f"UgcFindings: the average of the three grades is {true} percent, got {self.average}")

    @classmethod
    def of(cls, reply: UgcReply) -> UgcFindings:
        return cls(
            visual=reply.visual,
            audio=reply.audio,
            details=reply.details,
            average=percent(reply.visual + reply.audio + reply.details) / len(DIMENSIONS),
            reasoning=reply.reasoning,
        )

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> UgcFindings:
        """Raises `RecordError` for an unscored verdict and for one of another judge."""
        if verdict.status != "scored":
            raise RecordError(f"the verdict on {verdict.clip_id!r} is unscored: {verdict.reason}")
        return cls.from_dict({name: value for name, value in verdict.findings.items() if name != "notes"})

    @property
    def percents(self) -> dict[str, float]:
        """Each dimension in percent of the best grade; published are their means over all captions."""
        return {dimension: percent(getattr(self, dimension)) for dimension in DIMENSIONS}


class UgcJudge(LlmJudge[UgcItem]):
    """Findings: `UgcFindings` as JSON."""

    name = "ugc"
    prompt_names = ("ugc",)

    async def examine(self, item: UgcItem, examination: Examination) -> dict[str, Any]:
        prompt = self.prompts["ugc"].render(
            caption=Untrusted(text=item.caption), reference=Untrusted(text=item.reference)
        )
        reply = await examination.ask(prompt, lambda text: last_record(text, UgcReply), schema=schema_of(UgcReply))
        return dict(json.loads(UgcFindings.of(reply).to_json_line()))


def percent(grade: int) -> float:
    """A grade (or a sum of grades) in percent of the best one: 5 is 100, 1 is 20."""
    return grade * 100 / MAX_GRADE
