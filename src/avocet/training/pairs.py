"""Which of two sampled captions is preferred (video-SALMONN 2, Table 3).

A pair is kept only when one sample beats the other in *every* metric by the round's threshold, with
delta = rejected - chosen; a negative threshold allows the chosen one to be that much worse. Rates are fractions.
"""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import Literal, Protocol

_TOLERANCE = 1e-9
"""Differences of rates such as 0.30 - 0.25 fall a rounding error short of 0.05."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Least delta of each metric."""

    error_rate: float
    repetition_rate: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundThresholds:
    """Thresholds of one mrDPO round, for captions of whole clips and of intervals."""

    global_: Thresholds
    local: Thresholds


class CaptionScores(Protocol):
    """What a sample is compared by."""

    @property
    def error_rate(self) -> float:
        """Total error: (missed + incorrect + hallucinated) / events."""

    @property
    def repetition_rate(self) -> float: ...


def _round(error: float, repetition: float, local_error: float, local_repetition: float) -> RoundThresholds:
    return RoundThresholds(
        global_=Thresholds(error_rate=error, repetition_rate=repetition),
        local=Thresholds(error_rate=local_error, repetition_rate=local_repetition),
    )


ROUND_THRESHOLDS = MappingProxyType(
    {
        1: _round(0.05, 0.01, 0.20, 0.01),
        **{number: _round(0.20, -0.01, 0.45, 0.0) for number in (2, 3, 4, 5)},
        6: _round(0.25, -0.01, 0.45, 0.0),
        7: _round(0.30, -0.01, 0.45, 0.0),
    }
)
"""Round number -> thresholds, Table 3."""


def select_pair(
    scores_a: CaptionScores, scores_b: CaptionScores, thresholds: Thresholds
) -> tuple[Literal["a", "b"], Literal["a", "b"]] | None:
    """(chosen, rejected) as "a" and "b", or None when neither beats the other in every metric.

    A rate that is nan (an unscored caption) beats nothing and is beaten by nothing.
    """

    def beats(chosen: CaptionScores, rejected: CaptionScores) -> bool:
        return (
            rejected.error_rate - chosen.error_rate >= thresholds.error_rate - _TOLERANCE
            and rejected.repetition_rate - chosen.repetition_rate >= thresholds.repetition_rate - _TOLERANCE
        )

    a_wins, b_wins = beats(scores_a, scores_b), beats(scores_b, scores_a)
    if a_wins == b_wins:  # both only with thresholds that allow either to be worse
        return None
    return ("a", "b") if a_wins else ("b", "a")
