"""The third arrow: from scored captions to preference pairs, by the thresholds of the round (Table 3)."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from avocet.records import PreferencePair, Record, TrainingExample
from avocet.training.mrdpo.records import Candidates, CaptionScore, example_key
from avocet.training.pairs import RoundThresholds, select_pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionReport(Record):
    """What became of the examples of a round."""

    num_examples: int
    """All that were drawn."""
    num_pairs: int
    num_no_winner: int
    """No two captions of which one beats the other in every metric by the thresholds."""
    num_same: int
    """All captions are the same text."""
    num_unscored: int
    """Fewer than two scored captions."""
    unscored_reasons: dict[str, int]
    """Of captions, by what stands before the first colon."""
    mean_chosen_error: float | None
    mean_rejected_error: float | None
    num_failed: int = 0
    """Examples whose clip could not be read."""


def select_pairs(
    examples: Sequence[TrainingExample],
    candidates: Sequence[Candidates],
    scores: Sequence[Sequence[CaptionScore]],
    thresholds: RoundThresholds,
    round_number: int,
) -> tuple[list[PreferencePair], SelectionReport]:
    """At most one pair per example: of all pairs that pass, the one with the largest difference of errors.

    Captions of intervals (task `local_caption`) have thresholds of their own. Of equally good pairs the first in the
    order of the samples is taken.

    Args:
        examples: all that were drawn; those without candidates count as failed.
        candidates: what was sampled.
        scores: of each caption of each of the candidates.
        round_number: written into the pairs.
    """
    by_key = {example_key(example): example for example in examples}
    pairs: list[PreferencePair] = []
    counts: Counter[str] = Counter()
    for one, its_scores in zip(candidates, scores, strict=True):
        example = by_key[one.key]
        limits = thresholds.local if example.task == "local_caption" else thresholds.global_
        usable = [place for place, score in enumerate(its_scores) if score.is_scored]
        texts = {one.captions[place].text for place in usable}
        passing = []
        for a, b in itertools.combinations(usable, 2):
            order = select_pair(its_scores[a], its_scores[b], limits)
            told = (one.captions[a].text, one.captions[b].text)
            # An empty caption is no answer that one could learn to avoid: its only token is the end.
            if order is not None and all(told) and told[0] != told[1]:
                passing.append((a, b) if order[0] == "a" else (b, a))
        if not passing:
            counts["unscored" if len(usable) < 2 else "same" if len(texts) < 2 else "no winner"] += 1
            continue
        gaps = [its_scores[b].error_rate - its_scores[a].error_rate for a, b in passing]
        chosen, rejected = passing[gaps.index(max(gaps))]
        pairs.append(_pair(example, one, its_scores, chosen, rejected, round_number))
    reasons = Counter((score.reason or "").partition(":")[0] for row in scores for score in row if not score.is_scored)
    return pairs, SelectionReport(
        num_examples=len(examples),
        num_pairs=len(pairs),
        num_no_winner=counts["no winner"],
        num_same=counts["same"],
        num_unscored=counts["unscored"],
        unscored_reasons=dict(reasons.most_common()),
        mean_chosen_error=_mean([pair.chosen_metrics["error_rate"] for pair in pairs]),
        mean_rejected_error=_mean([pair.rejected_metrics["error_rate"] for pair in pairs]),
        num_failed=len(examples) - len(candidates),
    )


def write_pairs(path: Path, pairs: Sequence[PreferencePair]) -> None:
    """One JSON line per pair with the absolute path of its clip, the file at once."""
    lines = [dataclasses.replace(pair, clip=pair.clip.absolute()).to_json_line() + "\n" for pair in pairs]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(lines), encoding="utf-8")
    os.replace(temporary, path)


def read_pairs(path: Path) -> list[PreferencePair]:
    """What `write_pairs` wrote. Raises `RecordError` for a damaged line."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [PreferencePair.from_json(line) for line in lines if line]


def _pair(
    example: TrainingExample,
    candidates: Candidates,
    scores: Sequence[CaptionScore],
    chosen: int,
    rejected: int,
    round_number: int,
) -> PreferencePair:
    return PreferencePair(
        clip=example.clip,
        instruction=example.instruction,
        chosen=candidates.captions[chosen].text,
        rejected=candidates.captions[rejected].text,
        ground_truth=example.target,
        chosen_metrics=_metrics(scores[chosen]),
        rejected_metrics=_metrics(scores[rejected]),
        round=round_number,
    )


def _metrics(score: CaptionScore) -> dict[str, float]:
    return {name: getattr(score, name) for name in ("error_rate", "miss", "hall", "repetition_rate")}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
