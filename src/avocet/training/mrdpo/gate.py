"""The last arrow: what a round did on held-out clips, and whether the next one may start.

The paper stops by eye when unnatural captions become frequent. Here it is a rule: a round is kept only if it does no
harm beyond limits that the recipe states, and the best kept round is the result.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from avocet.errors import ConfigError
from avocet.judging.answers import agrees
from avocet.metrics import is_collapsed, mean_with_error, share
from avocet.models.registry import LoadedModel
from avocet.records import Record, Sampling, TrainingExample
from avocet.training.finetune.config import Broken
from avocet.training.finetune.inputs import ClipReader
from avocet.training.mrdpo.records import Candidates, CaptionScore, example_key
from avocet.training.mrdpo.sampling import sample_captions
from avocet.training.mrdpo.scoring import CaptionScorer


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutScores(Record):
    """A model on held-out clips, captioned greedily. Rates are fractions; None: nothing to divide by."""

    total: float | None
    total_standard_error: float | None
    miss: float | None
    hall: float | None
    repetition: float | None
    unnatural: float | None
    collapse: float | None
    words: float | None
    """Mean number of words of a caption."""
    qa_accuracy: float | None
    """Of the held-out questions whose clip could be read, answered directly (`avocet.judging.answers`); None without
    any."""
    num_captions: int
    num_unscored: int
    num_failed: int
    """Captions and answers that are missing, because their clip could not be read."""
    num_questions: int
    num_unanswered: int = 0
    """Of `num_failed`, those that are answers."""
    clip_totals: dict[str, float] = dataclasses.field(default_factory=dict)
    """Total error of each scored clip, by `example_key`: rounds are compared on the clips that both have."""

    @property
    def num_to_caption(self) -> int:
        """Held-out captions, with those that are missing."""
        return self.num_captions + self.num_failed - self.num_unanswered


@dataclasses.dataclass(frozen=True, kw_only=True)
class StopRules(Record):
    """What a round may cost. Differences are absolute: 0.02 is two points."""

    max_unnatural: float = 0.05
    """Share of unnatural captions. The paper kept 2.9 % and rejected 12.0 %."""
    max_qa_drop: float = 0.03
    """Of QA accuracy, against the model before the first round."""
    max_total_rise: float = 0.0
    """Of Total error, against the best round so far."""
    max_repetition: float | None = None
    """Mean repetition rate; None: no limit."""
    max_unmeasured: float = 0.1
    """Share of held-out captions that cannot be compared, because they or those of the best round were not scored, and
    of held-out questions that were not answered."""

    def __post_init__(self) -> None:
        shares = self.max_unnatural, self.max_unmeasured
        if not all(0 <= share <= 1 for share in shares) or self.max_qa_drop < 0 or self.max_total_rise < 0:
            raise ConfigError(f"StopRules: limits must be >= 0, max_unnatural and max_unmeasured at most 1, got {self}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateDecision(Record):
    """Whether a round is kept."""

    decision: Literal["kept", "refused"]
    reasons: tuple[str, ...] = ()
    """Why it is refused: every rule that it breaks."""


def evaluate_held_out(
    loaded: LoadedModel,
    reader: ClipReader,
    examples: Sequence[TrainingExample],
    scorer: CaptionScorer,
    folder: Path,
    *,
    max_new_tokens: int,
    batch_size: int = 8,
    broken: Broken = "stop",
) -> HeldOutScores:
    """Caption and answer held-out examples greedily and score them; resumable in `folder`.

    Raises what `sample_captions` raises.
    """
    captions = [example for example in examples if example.task != "qa"]
    questions = [example for example in examples if example.task == "qa"]
    sampling = Sampling(max_new_tokens=max_new_tokens)
    folder.mkdir(parents=True, exist_ok=True)
    told, failures = sample_captions(
        loaded,
        reader,
        captions,
        folder / "captions.jsonl",
        samples_per_clip=1,
        sampling=sampling,
        batch_size=batch_size,
        broken=broken,
    )
    scores = [row[0] for row in scorer.score(captions, told, folder)]
    numbered = [_numbered(example, number) for number, example in enumerate(questions)]
    answers, _ = sample_captions(
        loaded,
        reader,
        numbered,
        folder / "answers.jsonl",
        samples_per_clip=1,
        sampling=sampling,
        batch_size=batch_size,
        broken=broken,
    )
    expected = {example_key(example): example.target for example in numbered}
    right = [agrees(one.captions[0].text, expected[one.key]) for one in answers]
    return summarise(told, scores, right, len(failures), len(questions))


def summarise(
    told: Sequence[Candidates],
    scores: Sequence[CaptionScore],
    right: Sequence[bool],
    num_failed: int = 0,
    num_questions: int = 0,
) -> HeldOutScores:
    """The figures of one caption per clip and of the answers to questions.

    Args:
        told: the captions.
        scores: of each of them.
        right: whether each answer that there is is right.
        num_failed: captions that are missing.
        num_questions: all of them, with those that have no answer.
    """
    scored = [score for score in scores if score.is_scored]
    total = mean_with_error([score.error_rate for score in scored])
    texts = [one.captions[0] for one in told]
    return HeldOutScores(
        total=_number(total.mean),
        total_standard_error=_number(total.standard_error),
        miss=_number(mean_with_error([score.miss for score in scored]).mean),
        hall=_number(mean_with_error([score.hall for score in scored]).mean),
        repetition=_number(mean_with_error([score.repetition_rate for score in scores]).mean),
        unnatural=_number(share(score.unnatural for score in scores).rate),
        collapse=_number(share(is_collapsed(text.text, text.stop_reason) for text in texts).rate),
        words=_number(mean_with_error([float(len(text.text.split())) for text in texts]).mean),
        qa_accuracy=_number(share(right).rate),
        num_captions=len(told),
        num_unscored=len(scores) - len(scored),
        num_failed=num_failed + num_questions - len(right),
        num_questions=num_questions,
        num_unanswered=num_questions - len(right),
        clip_totals={one.key: score.error_rate for one, score in zip(told, scores, strict=True) if score.is_scored},
    )


def gate(scores: HeldOutScores, first: HeldOutScores, best: HeldOutScores, rules: StopRules) -> GateDecision:
    """Decide on a round.

    Args:
        scores: of the round.
        first: of the model before the first round.
        best: of the best model so far (the first, or a kept round).

    Total is compared on the clips that were scored with both models. A figure that cannot be measured breaks its rule:
    a round that nobody could judge is not kept.
    """
    reasons = [*_total_reasons(scores, best, rules)]
    unanswered = scores.num_unanswered
    if unanswered and unanswered > rules.max_unmeasured * scores.num_questions:
        reasons.append(
            f"{unanswered} of {scores.num_questions} held-out questions were not answered (allowed: "
            f"{rules.max_unmeasured:.0%})"
        )
    if scores.unnatural is None or scores.unnatural > rules.max_unnatural:
        reasons.append(f"unnatural captions: {_text(scores.unnatural)}, allowed {rules.max_unnatural:g}")
    before, after = first.qa_accuracy, scores.qa_accuracy
    if before is not None and (after is None or before - after > rules.max_qa_drop):
        reasons.append(f"QA accuracy {_text(after)}, at first {before:.3f} (allowed: -{rules.max_qa_drop:g})")
    if rules.max_repetition is not None and (scores.repetition or 0.0) > rules.max_repetition:
        reasons.append(f"repetition {_text(scores.repetition)}, allowed {rules.max_repetition:g}")
    return GateDecision(decision="refused" if reasons else "kept", reasons=tuple(reasons))


def _total_reasons(scores: HeldOutScores, best: HeldOutScores, rules: StopRules) -> Iterator[str]:
    both = sorted(scores.clip_totals.keys() & best.clip_totals.keys())
    missing = scores.num_to_caption - len(both)
    if not both:
        yield "Total error could not be measured"
        return
    if missing > rules.max_unmeasured * scores.num_to_caption:
        yield (
            f"Total error could not be compared on {missing} of {scores.num_to_caption} held-out captions (allowed: "
            f"{rules.max_unmeasured:.0%}): {scores.num_unscored} are unscored, the clips of "
            f"{scores.num_failed - scores.num_unanswered} could not be read, the others were not scored with the best "
            "model"
        )
    # fsum: the same rates on other clips must not differ by a rounding error.
    now, before = (math.fsum(one.clip_totals[key] for key in both) / len(both) for one in (scores, best))
    if now > before + rules.max_total_rise:
        yield (
            f"Total error {now:.3f} is above {before:.3f} of the best model (allowed: +{rules.max_total_rise:g}), on "
            f"{len(both)} clips"
        )


def _numbered(question: TrainingExample, number: int) -> TrainingExample:
    """With an id of its own: a clip may have many questions."""
    return dataclasses.replace(
        question, clip=dataclasses.replace(question.clip, id=f"{question.clip.id}|question {number}")
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
