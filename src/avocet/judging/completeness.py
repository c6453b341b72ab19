"""How much of several captions is left in the one that they were fused into, 1 to 5.

The quality check of AVoCaDO's curation (section 3.1): a visual and an audio caption of one video are fused, and the
fusion is kept if a judge gives it at least 4. The prompt is our own; unlike the paper's judge, this one must name what
is missing, and its score must agree with that list. It is also the judge to copy from when writing another.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from avocet.errors import RecordError
from avocet.judging.judge import Examination, LlmJudge
from avocet.judging.parsing import last_record, schema_of
from avocet.judging.prompts import Untrusted
from avocet.records import Record

KEPT_FROM_SCORE = 4
"""The paper keeps fusions with this score or a better one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusedCaption(Record):
    """A caption and the captions that it was made from."""

    clip_id: str
    caption: str
    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.sources or not all(source.strip() for source in self.sources):
            raise RecordError(f"FusedCaption of {self.clip_id!r}: needs at least one source, and none may be empty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompletenessReply(Record):
    """What the judge is to reply."""

    reasoning: str
    missing: tuple[str, ...]
    score: int

    def __post_init__(self) -> None:
        if not 1 <= self.score <= 5:
            raise RecordError(f"score must be from 1 to 5, got {self.score}")
        if (self.score == 5) != (not self.missing):
            raise RecordError(f"score {self.score} contradicts a list of {len(self.missing)} missing statements")


class CompletenessJudge(LlmJudge[FusedCaption]):
    """Findings: "score" (1 to 5), "missing" (list of lost statements) and "reasoning"."""

    name = "completeness"
    prompt_names = ("completeness",)

    async def examine(self, item: FusedCaption, examination: Examination) -> dict[str, Any]:
        prompt = self.prompts["completeness"].render(
            num_sources=len(item.sources),
            sources=[Untrusted(text=source) for source in item.sources],
            merged=Untrusted(text=item.caption),
        )
        reply = await examination.ask(
            prompt, lambda text: last_record(text, CompletenessReply), schema=schema_of(CompletenessReply)
        )
        return {"score": reply.score, "missing": list(reply.missing), "reasoning": reply.reasoning}
