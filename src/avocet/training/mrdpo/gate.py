"""The last arrow: what a round did on held-out clips, and whether the next one may start.

The paper stops by eye when unnatural captions become frequent. Here it is a rule: a round is kept only if it does no
harm beyond limits that the recipe states, and the best kept round is the result.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from avocet.errors import ConfigError
from avocet.judging.answers import agrees
from avocet.metrics import is_collapsed, mean_with_error, share
from avocet.records import Record, Sampling, TrainingExample
from avocet.training.finetune.inputs import ClipReader
from avocet.training.mrdpo.records import Candidates, CaptionScore, example_key
from avocet.training.mrdpo.sampling import SamplingModel, sample_captions
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

    def __post_init__(self) -> None:
        if not 0 <= self.max_unnatural <= 1 or self.max_qa_drop < 0 or self.max_total_rise < 0:
            raise ConfigError(f"StopRules: limits must be >= 0, and max_unnatural at most 1, got {self}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateDecision(Record):
    """Whether a round is kept."""

    decision: Literal["kept", "refused"]
    reasons: tuple[str, ...] = ()
    """Why it is refused: every rule that it breaks."""


def evaluate_held_out(
    model: SamplingModel,
    reader: ClipReader,
    examples: Sequence[TrainingExample],
    scorer: CaptionScorer,
    folder: Path,
    *,
    max_new_tokens: int,
    batch_size: int = 8,
) -> HeldOutScores:
    """Caption and answer held-out examples greedily and score them; resumable in `folder`."""
    captions = [example for example in examples if example.task != "qa"]
    questions = [example for example in examples if example.task == "qa"]
    sampling = Sampling(max_new_tokens=max_new_tokens)
    folder.mkdir(parents=True, exist_ok=True)
    told, failures = sample_captions(
        model,
        reader,
        captions,
        folder / "captions.jsonl",
        samples_per_clip=1,
        sampling=sampling,
        batch_size=batch_size,
    )
    scores = [row[0] for row in scorer.score(captions, told, folder)]
    numbered = [_numbered(example, number) for number, example in enumerate(questions)]
    answers, unreadable = sample_captions(
        model,
        reader,
        numbered,
        folder / "answers.jsonl",
        samples_per_clip=1,
        sampling=sampling,
        batch_size=batch_size,
    )
    expected = {example_key(example): example.target for example in numbered}
    right = [agrees(one.captions[0].text, expected[one.key]) for one in answers]
    return summarise(told, scores, right, len(failures) + len(unreadable), len(questions))


def summarise(
    told: Sequence[Candidates],
    scores: Sequence[CaptionScore],
    right: Sequence[bool],
    num_failed: int = 0,
    num_questions: int = 0,
) -> HeldOutScores:
    """The figures of one caption per clip and of the answers to questions."""
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
        num_failed=num_failed,
        num_questions=num_questions,
    )


def gate(scores: HeldOutScores, first: HeldOutScores, best: HeldOutScores, rules: StopRules) -> GateDecision:
    """Decide on a round.

    Args:
        scores: of the round.
        first: of the model before the first round.
        best: of the best model so far (the first, or a kept round).

    A figure that cannot be measured breaks its rule: a round that nobody could judge is not kept.
    """
    reasons = []
    if scores.total is None or best.total is None:
        reasons.append("Total error could not be measured")
    elif scores.total > best.total + rules.max_total_rise:
        reasons.append(
            f"Total error {scores.total:.3f} is above {best.total:.3f} of the best model (allowed: "
            f"+{rules.max_total_rise:g})"
        )
    if scores.unnatural is None or scores.unnatural > rules.max_unnatural:
        reasons.append(f"unnatural captions: {_text(scores.unnatural)}, allowed {rules.max_unnatural:g}")
    before, after = first.qa_accuracy, scores.qa_accuracy
    if before is not None and (after is None or before - after > rules.max_qa_drop):
        reasons.append(f"QA accuracy {_text(after)}, at first {before:.3f} (allowed: -{rules.max_qa_drop:g})")
    if rules.max_repetition is not None and (scores.repetition or 0.0) > rules.max_repetition:
        reasons.append(f"repetition {_text(scores.repetition)}, allowed {rules.max_repetition:g}")
    return GateDecision(decision="refused" if reasons else "kept", reasons=tuple(reasons))


def _numbered(question: TrainingExample, number: int) -> TrainingExample:
    """With an id of its own: a clip may have many questions."""
    return dataclasses.replace(
        question, clip=dataclasses.replace(question.clip, id=f"{question.clip.id}|question {number}")
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
