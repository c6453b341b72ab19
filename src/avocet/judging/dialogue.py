"""Who says what in a caption, and how well that renders a reference: dialogue F1 (AVoCaDO, section 3.2.3).

`DialogueExtractor` lists the utterances of a caption. `DialogueJudge` is a whole comparison: utterances of both sides,
their alignment (`avocet.metrics.align_dialogue`), one decision per aligned pair on the speakers (`speakers`), and the
scores. What differs from the paper: words that the judge does not find in the caption, but makes up, are refused; both
sides without dialogue score 1, one side only 0; and no failure of a step is a score.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from typing import Any, ClassVar

from avocet.errors import ConfigError, RecordError
from avocet.judging._words import words_of
from avocet.judging.judge import Examination, Judge, LlmJudge
from avocet.judging.parsing import last_record, schema_of
from avocet.judging.prompts import Untrusted, neutralise
from avocet.judging.speakers import SpeakerFindings, SpeakerJudge, SpeakerPairs, check_video
from avocet.metrics import DialogueAlignment, Utterance, align_dialogue
from avocet.metrics.dialogue_scores import DialogueScores, scores_of_alignment
from avocet.records import Record, Verdict

MAX_PIECES = 4
"""Of one utterance: speech is hardly interrupted more often, and words from anywhere must not be strung together."""

_ASSUMED = tuple(
    Utterance(speaker=f"the person of number {number}", text=f"Something is said for the {number}th time.")
    for number in range(1, 5)
)
"""About what a caption holds, for the estimate of a dry run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueCaption(Record):
    """A caption whose dialogue is to be listed."""

    clip_id: str
    caption: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractedUtterance(Record):
    """An utterance as the judge is to list it."""

    speaker: str
    pieces: tuple[str, ...]
    """The spoken words; several pieces where the caption interrupts them ('"I have," she says, "five keys."')."""

    def __post_init__(self) -> None:
        if not words_of(self.speaker):
            raise RecordError('a speaker is empty; write "unknown" where the description does not say who speaks')
        if not 1 <= len(self.pieces) <= MAX_PIECES:
            raise RecordError(f"an utterance must have 1 to {MAX_PIECES} pieces, got {len(self.pieces)}")
        if not all(words_of(piece) for piece in self.pieces):
            raise RecordError(f"an utterance has a piece without words: {list(self.pieces)!s:.80}")

    @property
    def utterance(self) -> Utterance:
        """As one text, each run of white space one space."""
        return Utterance(speaker=" ".join(self.speaker.split()), text=" ".join(" ".join(self.pieces).split()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueReply(Record):
    """What the judge is to reply."""

    reasoning: str
    utterances: tuple[ExtractedUtterance, ...]

    def check_against(self, caption: str) -> None:
        """Raises `RecordError` for utterances that the caption does not hold (as often as they are listed).

        Case, punctuation, quotation marks and spacing are not compared.
        """
        said = f" {' '.join(words_of(neutralise(caption).text))} "
        listed = Counter(
            tuple(" ".join(words_of(piece)) for piece in utterance.pieces) for utterance in self.utterances
        )
        for pieces, count in listed.items():
            if not _holds(said, pieces * count):
                often = f" {count} times" if count > 1 else ""
                raise RecordError(
                    f"the utterance {' ... '.join(pieces)!r:.120} does not stand in the description{often}; list only "
                    "words that are said there, and copy them exactly"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractedDialogue(Record):
    """The findings of `DialogueExtractor` on one caption."""

    utterances: tuple[Utterance, ...]
    """In the order in which they are spoken; none for a caption without dialogue."""
    reasoning: str

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> ExtractedDialogue:
        """Raises `RecordError` for an unscored verdict and for one of another judge."""
        if verdict.status != "scored":
            raise RecordError(f"the verdict on {verdict.clip_id!r} is unscored: {verdict.reason}")
        return cls.from_dict({name: value for name, value in verdict.findings.items() if name != "notes"})


class DialogueExtractor(LlmJudge[DialogueCaption]):
    """Findings: `ExtractedDialogue` as JSON. A caption without dialogue is scored, with an empty list."""

    name = "dialogue-extract"
    prompt_names = ("dialogue_extract",)

    async def examine(self, item: DialogueCaption, examination: Examination) -> dict[str, Any]:
        if not words_of(item.caption):
            return _as_json(ExtractedDialogue(utterances=(), reasoning="The caption has no words."))
        prompt = self.prompts["dialogue_extract"].render(caption=Untrusted(text=item.caption), max_pieces=MAX_PIECES)

        def parse(text: str) -> DialogueReply:
            reply = last_record(text, DialogueReply)
            reply.check_against(item.caption)
            return reply

        reply = await examination.ask(prompt, parse, schema=schema_of(DialogueReply))
        utterances = tuple(extracted.utterance for extracted in reply.utterances)
        return _as_json(ExtractedDialogue(utterances=utterances, reasoning=reply.reasoning))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueItem(Record):
    """A caption and the dialogue that it should render."""

    clip_id: str
    caption: str
    reference: str | None = None
    """A caption whose dialogue is the reference."""
    dialogue: tuple[Utterance, ...] | None = None
    """The reference dialogue itself."""
    video: str | None = None
    """Path or URL, for speaker judges that watch."""
    video_seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.reference is None) == (self.dialogue is None):
            raise RecordError(f"DialogueItem {self.clip_id!r}: give either a reference caption or its dialogue")
        if self.reference is not None and not self.reference.strip():
            raise RecordError(f"DialogueItem {self.clip_id!r}: the reference must not be empty")
        check_video(f"DialogueItem {self.clip_id!r}", self.video, self.video_seconds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueFindings(Record):
    """The findings of `DialogueJudge` on one caption."""

    generated: tuple[Utterance, ...]
    reference: tuple[Utterance, ...]
    pairs: tuple[tuple[int, int, float], ...]
    """(index in generated, index in reference, similarity) of the aligned utterances."""
    same_speaker: tuple[tuple[int, int, bool], ...]
    """(index in generated, index in reference, whether both name the same person) of the same pairs."""
    similarity_sum: float
    precision: float
    recall: float
    f1: float

    def __post_init__(self) -> None:
        if [pair[:2] for pair in self.pairs] != [answer[:2] for answer in self.same_speaker]:
            raise RecordError("DialogueFindings: same_speaker must have exactly the pairs, in their order")
        if not math.isclose(self.similarity_sum, sum(pair[2] for pair in self.pairs), abs_tol=1e-9):
            raise RecordError(f"DialogueFindings: similarity_sum {self.similarity_sum} is not that of the pairs")
        _ = self.scores

    @classmethod
    def of(
        cls,
        generated: tuple[Utterance, ...],
        reference: tuple[Utterance, ...],
        alignment: DialogueAlignment,
        same_speaker: SpeakerFindings,
    ) -> DialogueFindings:
        scores = scores_of_alignment(alignment, len(generated), len(reference), same_speaker.num_same)
        return cls(
            generated=generated,
            reference=reference,
            pairs=tuple(alignment.pairs),
            same_speaker=same_speaker.same_speaker,
            similarity_sum=scores.similarity_sum,
            precision=scores.precision,
            recall=scores.recall,
            f1=scores.f1,
        )

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> DialogueFindings:
        """Raises `RecordError` for an unscored verdict and for one of another judge."""
        if verdict.status != "scored":
            raise RecordError(f"the verdict on {verdict.clip_id!r} is unscored: {verdict.reason}")
        return cls.from_dict({name: value for name, value in verdict.findings.items() if name != "notes"})

    @property
    def scores(self) -> DialogueScores:
        """Scores with their counts. Raises `RecordError` when they do not follow from the lists."""
        return DialogueScores(
            num_generated=len(self.generated),
            num_reference=len(self.reference),
            num_pairs=len(self.pairs),
            num_same_speaker=sum(same for _, _, same in self.same_speaker),
            similarity_sum=self.similarity_sum,
            precision=self.precision,
            recall=self.recall,
            f1=self.f1,
        )


class DialogueJudge(Judge[DialogueItem]):
    """Findings: `DialogueFindings` as JSON. When a step fails, the verdict is unscored and its reason names the step.

    Args:
        extractor: lists the utterances of the caption, and of the reference when it is a caption.
        speakers: decides on the speakers of aligned utterances.
        threshold: least similarity of aligned utterances.

    Raises `ConfigError` for a threshold outside [0, 1].
    """

    name: ClassVar[str] = "dialogue"

    def __init__(self, extractor: DialogueExtractor, speakers: SpeakerJudge, *, threshold: float = 0.6) -> None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must be in [0, 1], got {threshold}")
        self.extractor = extractor
        self.speakers = speakers
        self.threshold = threshold

    @property
    def identity(self) -> str:
        """name/threshold/identity of the extractor/identity of the speaker judge."""
        return f"{self.name}/{self.threshold:g}/{self.extractor.identity}/{self.speakers.identity}"

    @property
    def prompt_version(self) -> str:
        """Those of both steps, joined by "+"."""
        return "+".join(filter(None, (self.extractor.prompt_version, self.speakers.prompt_version)))

    @property
    def settings(self) -> dict[str, Any]:
        """Those of its steps."""
        return {"extractor": self.extractor.settings, "speakers": self.speakers.settings}

    @property
    def server(self) -> str | None:
        """Of its steps, the first one that asks anywhere."""
        return self.extractor.server or self.speakers.server

    @property
    def concurrency(self) -> int:
        return max(self.extractor.concurrency, self.speakers.concurrency)

    async def disconnect(self) -> None:
        await self.extractor.disconnect()
        await self.speakers.disconnect()

    async def judge(self, item: DialogueItem, run_index: int = 0) -> Verdict:
        steps = _Steps()
        findings: dict[str, Any] = {}
        reason = None
        try:
            findings = _as_json(await self._compare(item, run_index, steps))
        except _StepFailed as error:
            reason = str(error)
        if steps.not_sent:
            findings, reason = {}, f"not sent: dry run ({', '.join(steps.not_sent)})"
        if steps.notes:
            findings = {**findings, "notes": steps.notes}
        return Verdict(
            clip_id=item.clip_id,
            judge=self.identity,
            run_index=run_index,
            status="scored" if reason is None else "unscored",
            reason=reason,
            findings=findings,
            raw_reply=json.dumps(steps.raw_replies, ensure_ascii=False) if steps.raw_replies else None,
        )

    async def _compare(self, item: DialogueItem, run_index: int, steps: _Steps) -> DialogueFindings:
        generated = await self._extract(item, item.caption, "dialogue of the caption", run_index, steps)
        reference = item.dialogue
        if reference is None:
            assert item.reference is not None
            reference = await self._extract(item, item.reference, "dialogue of the reference", run_index, steps)
        if steps.not_sent:
            # So that the call on the speakers is counted too.
            generated = reference = _ASSUMED
        alignment = align_dialogue(generated, reference, self.threshold)
        pairs = SpeakerPairs(
            clip_id=item.clip_id,
            generated=generated,
            reference=reference,
            pairs=tuple((i, j) for i, j, _ in alignment.pairs),
            video=item.video,
            video_seconds=item.video_seconds,
        )
        verdict = steps.enter("speakers", await self.speakers.judge(pairs, run_index), self.speakers)
        same_speaker = (
            SpeakerFindings(same_speaker=tuple((i, j, False) for i, j in pairs.pairs))
            if verdict is None
            else SpeakerFindings.from_verdict(verdict, pairs.pairs)
        )
        return DialogueFindings.of(generated, reference, alignment, same_speaker)

    async def _extract(
        self, item: DialogueItem, caption: str, step: str, run_index: int, steps: _Steps
    ) -> tuple[Utterance, ...]:
        told = await self.extractor.judge(DialogueCaption(clip_id=item.clip_id, caption=caption), run_index)
        verdict = steps.enter(step, told, self.extractor)
        return _ASSUMED if verdict is None else ExtractedDialogue.from_verdict(verdict).utterances


class _StepFailed(Exception):
    """A step has no result; the message is the reason of the whole verdict."""


class _Steps:
    """What the steps of one comparison left behind."""

    def __init__(self) -> None:
        self.raw_replies: dict[str, str] = {}
        self.notes: list[str] = []
        self.not_sent: list[str] = []

    def enter(self, step: str, verdict: Verdict, judge: Judge[Any]) -> Verdict | None:
        """The verdict of a step; None when it was not sent in a dry run. Raises `_StepFailed` when it is unscored."""
        if verdict.raw_reply is not None:
            self.raw_replies[step] = verdict.raw_reply
        self.notes += [f"{step}: {note}" for note in verdict.findings.get("notes", ())]
        if verdict.status == "scored":
            return verdict
        if isinstance(judge, LlmJudge) and judge.client.dry_run and str(verdict.reason).startswith("not sent"):
            self.not_sent.append(step)
            return None
        raise _StepFailed(f"{step}: {verdict.reason}")


def _holds(said: str, pieces: tuple[str, ...]) -> bool:
    """Whether `said` (words with a space around each) has all pieces, one after the other."""
    position = 0
    for piece in pieces:
        start = said.find(f" {piece} ", position)
        if start < 0:
            return False
        position = start + len(piece) + 1
    return True


def _as_json(record: Record) -> dict[str, Any]:
    return dict(json.loads(record.to_json_line()))
