"""The dialogue reward R_D (AVoCaDO, section 3.2.3).

With N generated and M reference utterances, aligned in order: S = (sum of similarities + matched pairs with the right
speaker) / 2, precision = S / N, recall = S / M, reward = their harmonic mean. The paper leaves empty sides open:
here no dialogue on either side is right (1), dialogue on only one side is wrong (0).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from avocet.metrics import Utterance
from avocet.metrics.dialogue_scores import dialogue_scores


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
    scores = dialogue_scores(generated, reference, same_speaker, threshold)
    return DialogueReward(value=scores.f1, precision=scores.precision, recall=scores.recall)
