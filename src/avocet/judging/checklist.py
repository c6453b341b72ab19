"""Which keypoints of a checklist a caption mentions: what the checklist reward is made of (AVoCaDO, section 3.2.2).

One call for the whole list, with a prompt of our own. What differs from the paper, whose judge gives a count and the
keypoints that it found:

- Every keypoint is answered by its number, exactly once, with the words of the caption that mention it.
- Keypoints may keep their dimension, which the paper drops; the findings then say how many of each are mentioned.
- A clip without keypoints is unscored, never 1.
- A caption without words mentions nothing by definition; nobody is asked.

`avocet.rewards.checklist_reward` makes a reward of the counts.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from avocet.errors import RecordError
from avocet.judging.events import NO_WORDS, has_words, is_blank, listing
from avocet.judging.judge import Examination, LlmJudge, Unscorable
from avocet.judging.parsing import last_record, schema_of
from avocet.judging.prompts import Untrusted, neutralise
from avocet.records import Record, Verdict

Dimension = Literal["narrative_logic", "action", "audio", "cinematography", "entity"]
"""Of a keypoint: what sound and picture have to do with each other; actions and interactions; speech, music and other
sounds; space, time and camera; what people and things look like."""

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)

_ELLIPSIS = re.compile(r"\.\.\.|…")
_NOT_A_WORD = re.compile(r"[\W_]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keypoint(Record):
    """One thing that a caption of a clip should mention."""

    text: str
    dimension: Dimension | None = None
    """None: unknown, as in checklists that are lists of strings."""

    def __post_init__(self) -> None:
        if is_blank(self.text):
            raise RecordError("Keypoint: text must not be empty")
        if self.dimension is not None and self.dimension not in DIMENSIONS:
            raise RecordError(
                f"Keypoint {self.text!r:.60}: dimension must be one of {', '.join(DIMENSIONS)} or None, got "
                f"{self.dimension!r}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionWithChecklist(Record):
    """A caption and the keypoints of its clip."""

    clip_id: str
    caption: str
    keypoints: tuple[Keypoint, ...]
    """May be empty; then the verdict is unscored."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeypointAnswer(Record):
    """What the judge is to reply to one keypoint."""

    number: int
    evidence: str
    """Words of the caption; "" when it does not mention the keypoint."""
    hit: bool

    def __post_init__(self) -> None:
        if self.hit == is_blank(self.evidence):
            raise RecordError(
                f"keypoint {self.number} is a hit without evidence"
                if self.hit
                else f"keypoint {self.number} is no hit, which contradicts its evidence {self.evidence!r:.60}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChecklistReply(Record):
    """What the judge is to reply to a checklist. Keypoints are numbered from 1."""

    reasoning: str
    keypoints: tuple[KeypointAnswer, ...]
    num_hit: int

    def __post_init__(self) -> None:
        num_hit = sum(answer.hit for answer in self.keypoints)
        if self.num_hit != num_hit:
            raise RecordError(f"num_hit is {self.num_hit}, but {num_hit} keypoints are hits")

    def in_order(self, num_keypoints: int) -> tuple[KeypointAnswer, ...]:
        """Those to keypoints 1 to `num_keypoints`. Raises `RecordError` unless each number is there exactly once."""
        numbers = sorted(answer.number for answer in self.keypoints)
        if numbers != list(range(1, num_keypoints + 1)):
            raise RecordError(f"keypoints must have the numbers 1 to {num_keypoints}, each once; got {numbers!s:.200}")
        return tuple(sorted(self.keypoints, key=lambda answer: answer.number))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChecklistFindings(Record):
    """The findings of `ChecklistJudge` on one caption."""

    num_keypoints: int
    num_hit: int
    """Keypoints that the caption mentions."""
    hits: tuple[bool, ...]
    """Per keypoint, in the order of the item."""
    by_dimension: dict[Dimension, tuple[int, int]]
    """(hits, keypoints) of each dimension that has any; keypoints without a dimension are in none."""
    evidence: tuple[str, ...]
    """Per keypoint, the words of the caption as the judge quotes them; "" without a hit."""
    reasoning: str

    def __post_init__(self) -> None:
        told = (self.num_keypoints, self.num_hit, len(self.evidence))
        true = (len(self.hits), sum(self.hits), len(self.hits))
        if not self.hits or told != true:
            raise RecordError(
                f"ChecklistFindings: needs at least one keypoint; the hits are {true[1]} of {true[0]}, but num_hit, "
                f"num_keypoints and evidence say {told[1]} of {told[0]} with {told[2]} pieces of evidence"
            )
        hits, totals = (sum(counts[place] for counts in self.by_dimension.values()) for place in (0, 1))
        if (
            hits > self.num_hit
            or totals > self.num_keypoints
            or any(not 0 <= hit <= total for hit, total in self.by_dimension.values())
        ):
            raise RecordError(
                f"ChecklistFindings: by_dimension {self.by_dimension} does not fit {self.num_hit} of "
                f"{self.num_keypoints} keypoints"
            )

    @classmethod
    def of(
        cls, keypoints: Sequence[Keypoint], hits: Sequence[bool], evidence: Sequence[str], reasoning: str
    ) -> ChecklistFindings:
        """Counted. The three sequences go together; raises `RecordError` when they are empty."""
        by_dimension = {
            dimension: (sum(hits[place] for place in places), len(places))
            for dimension in DIMENSIONS
            if (places := [place for place, keypoint in enumerate(keypoints) if keypoint.dimension == dimension])
        }
        return cls(
            num_keypoints=len(keypoints),
            num_hit=sum(hits),
            hits=tuple(hits),
            by_dimension=by_dimension,
            evidence=tuple(evidence),
            reasoning=reasoning,
        )

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> ChecklistFindings:
        """Raises `RecordError` for an unscored verdict and for one of another judge."""
        if verdict.status != "scored":
            raise RecordError(f"the verdict on {verdict.clip_id!r} is unscored: {verdict.reason}")
        return cls.from_dict({name: value for name, value in verdict.findings.items() if name != "notes"})

    def misquoted(self, caption: str) -> tuple[int, ...]:
        """Numbers (from 1) of the hits whose evidence is not in `caption`.

        Case, punctuation and spacing do not count, and a quotation may leave out words ("..."). Judges paraphrase, so
        this unscores nothing; a judge with many of these hardly reads what it judges.
        """
        words = _words(caption)
        return tuple(
            number
            for number, (hit, quoted) in enumerate(zip(self.hits, self.evidence, strict=True), start=1)
            if hit and not _is_quoted(quoted, words)
        )


class ChecklistJudge(LlmJudge[CaptionWithChecklist]):
    """Findings: `ChecklistFindings` as JSON. Without keypoints the caption is unscored.

    A caption without words is scored: it mentions nothing (see `NO_WORDS`), and no call is made for it.
    """

    name = "checklist"
    prompt_names = ("checklist",)

    async def examine(self, item: CaptionWithChecklist, examination: Examination) -> dict[str, Any]:
        n = len(item.keypoints)
        if not n:
            raise Unscorable("no keypoints: there is nothing that the caption could mention")
        if has_words(item.caption):
            prompt = self.prompts["checklist"].render(
                num_keypoints=n,
                keypoints=listing("keypoints", [keypoint.text for keypoint in item.keypoints]),
                caption=Untrusted(text=item.caption),
            )
            reasoning, answers = await examination.ask(
                prompt, lambda text: _read(text, n), schema=schema_of(ChecklistReply)
            )
            hits, evidence = [answer.hit for answer in answers], [answer.evidence.strip() for answer in answers]
        else:
            examination.notes.append(NO_WORDS)
            reasoning, hits, evidence = "", [False] * n, [""] * n
        findings = ChecklistFindings.of(item.keypoints, hits, evidence, reasoning)
        return dict(json.loads(findings.to_json_line()))


def _read(text: str, num_keypoints: int) -> tuple[str, tuple[KeypointAnswer, ...]]:
    reply = last_record(text, ChecklistReply)
    return reply.reasoning, reply.in_order(num_keypoints)


def _is_quoted(evidence: str, words: str) -> bool:
    pieces = [piece for part in _ELLIPSIS.split(evidence) if (piece := _words(part))]
    return bool(pieces) and all(piece in words for piece in pieces)


def _words(text: str) -> str:
    return _NOT_A_WORD.sub(" ", neutralise(text).text.casefold()).strip()
