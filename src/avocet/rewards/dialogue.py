"""The dialogue reward R_D (AVoCaDO, section 3.2.3).

With N generated and M reference utterances, aligned in order: S = (sum of similarities + matched pairs with the right
speaker) / 2, precision = S / N, recall = S / M, reward = their harmonic mean. The paper leaves empty sides open:
here no dialogue on either side is right (1), dialogue on only one side is wrong (0).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from avocet.metrics import Utterance, align_dialogue


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueReward:
    """All in [0, 1]."""

    value: float
    """F1."""
    precision: float
    recall: float


def dialogue_reward(
    generated: Sequence[Utterance],
    reference: Sequence[Utterance],
    same_speaker: Callable[[int, int], bool],
    threshold: float = 0.6,
) -> DialogueReward:
    """Score generated dialogue against the reference.

    Args:
        same_speaker: (index in generated, index in reference) -> whether both name the same person; asked for
            matched pairs only.
        threshold: least similarity of a matched pair.
    """
    if not generated and not reference:
        return DialogueReward(value=1.0, precision=1.0, recall=1.0)
    if not generated or not reference:
        return DialogueReward(value=0.0, precision=0.0, recall=0.0)
    alignment = align_dialogue(generated, reference, threshold)
    num_right_speakers = sum(same_speaker(i, j) for i, j, _ in alignment.pairs)
    combined = (alignment.similarity_sum + num_right_speakers) / 2
    precision, recall = combined / len(generated), combined / len(reference)
    value = 2 * precision * recall / (precision + recall) if combined else 0.0
    return DialogueReward(value=value, precision=precision, recall=recall)
