"""Precision, recall and F1 of generated dialogue (AVoCaDO, section 3.2.3).

With N generated and M reference utterances, aligned in order: S = (sum of similarities + matched pairs with the right
speaker) / 2, precision = S / N, recall = S / M. The paper leaves empty sides open: here no dialogue on either side is
right (1), dialogue on only one side is wrong (0).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from avocet.errors import ConfigError, RecordError
from avocet.metrics.dialogue import DialogueAlignment, Utterance, align_dialogue
from avocet.records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueScores(Record):
    """How well generated dialogue renders a reference, and what that rests on."""

    num_generated: int
    num_reference: int
    num_pairs: int
    """Aligned pairs."""
    num_same_speaker: int
    """Aligned pairs with the right speaker."""
    similarity_sum: float
    """Of the aligned pairs; 1 for each that is verbatim."""
    precision: float
    recall: float
    f1: float

    def __post_init__(self) -> None:
        shorter = min(self.num_generated, self.num_reference)
        if not 0 <= self.num_same_speaker <= self.num_pairs <= shorter:
            raise RecordError(
                "DialogueScores: counts must be 0 <= num_same_speaker <= num_pairs <= utterances of the shorter side, "
                f"got {self.num_same_speaker}, {self.num_pairs} and {shorter}"
            )
        if not 0 <= self.similarity_sum <= self.num_pairs:
            raise RecordError(
                f"DialogueScores: similarity_sum must be from 0 to {self.num_pairs}, got {self.similarity_sum}"
            )
        told = (self.precision, self.recall, self.f1)
        true = _rates(self.num_generated, self.num_reference, (self.similarity_sum + self.num_same_speaker) / 2)
        if not all(math.isclose(one, other, abs_tol=1e-9) for one, other in zip(told, true, strict=True)):
            raise RecordError(f"DialogueScores: precision, recall and f1 must be {true}, got {told}")

    @property
    def speaker_accuracy(self) -> float | None:
        """Of the aligned pairs; None without any."""
        return self.num_same_speaker / self.num_pairs if self.num_pairs else None


def dialogue_scores(
    generated: Sequence[Utterance],
    reference: Sequence[Utterance],
    same_speaker: Callable[[int, int], bool],
    threshold: float = 0.6,
) -> DialogueScores:
    """Align and score.

    Args:
        same_speaker: (index in generated, index in reference) -> whether both name the same person; asked once per
            aligned pair.
        threshold: least similarity of an aligned pair.

    Raises `ConfigError` for a threshold outside [0, 1].
    """
    alignment = align_dialogue(generated, reference, threshold)
    num_same = sum(bool(same_speaker(i, j)) for i, j, _ in alignment.pairs)
    return scores_of_alignment(alignment, len(generated), len(reference), num_same)


def scores_of_alignment(
    alignment: DialogueAlignment, num_generated: int, num_reference: int, num_same_speaker: int
) -> DialogueScores:
    """The scores of an alignment whose speakers were compared elsewhere.

    Raises `ConfigError` for more right speakers than pairs.
    """
    if not 0 <= num_same_speaker <= len(alignment.pairs):
        raise ConfigError(f"num_same_speaker must be from 0 to {len(alignment.pairs)}, got {num_same_speaker}")
    precision, recall, f1 = _rates(num_generated, num_reference, (alignment.similarity_sum + num_same_speaker) / 2)
    return DialogueScores(
        num_generated=num_generated,
        num_reference=num_reference,
        num_pairs=len(alignment.pairs),
        num_same_speaker=num_same_speaker,
        similarity_sum=alignment.similarity_sum,
        precision=precision,
        recall=recall,
        f1=f1,
    )


def _rates(num_generated: int, num_reference: int, combined: float) -> tuple[float, float, float]:
    """Precision, recall and F1 of the combined score S."""
    if not num_generated and not num_reference:
        return 1.0, 1.0, 1.0
    if not combined:
        return 0.0, 0.0, 0.0
    # 2PR / (P + R) with P = S / N and R = S / M.
    return combined / num_generated, combined / num_reference, 2 * combined / (num_generated + num_reference)
