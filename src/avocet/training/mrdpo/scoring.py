"""The second arrow: every sampled caption judged against the events of its clip, and measured as a text.

    scorer = CaptionScorer(EventJudge(client), item_with_events)     # a language model
    scorer = CaptionScorer(ExactEventJudge(), theatre_item)          # the theatre's exact judge

Verdicts are collected as in `avocet evaluate`: in a ledger, resumable, unscored ones with a reason.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError
from avocet.evaluation.exact_judge import TheatreCaption, staged_caption
from avocet.evaluation.verdicts import Case, collect_verdicts
from avocet.judging.calibration import event_findings
from avocet.judging.events import CaptionWithEvents
from avocet.judging.judge import Judge
from avocet.metrics import is_unnatural, repetition_rate
from avocet.records import TrainingExample, Verdict
from avocet.training.mrdpo.records import Candidates, CaptionScore, example_key

ItemOf = Callable[[TrainingExample, str], Any]
"""From an example and a caption to what the judge gets."""


def item_with_events(example: TrainingExample, caption: str) -> CaptionWithEvents:
    """For judges that compare with the example's list of events. Raises `ConfigError` without one."""
    if not example.events:
        raise ConfigError(
            f"example {example.clip.id!r} has no events to judge captions by; add them to the data (`events`)"
        )
    return CaptionWithEvents(clip_id=example_key(example), caption=caption, events=example.events)


def theatre_item(example: TrainingExample, caption: str) -> TheatreCaption:
    """For the exact judge: see `staged_caption`."""
    return dataclasses.replace(staged_caption(example, caption), clip_id=example_key(example))


class CaptionScorer:
    """Scores captions of examples with one judge.

    Args:
        judge: of events.
        item_of: makes what the judge gets.
        runs: verdicts on each caption; the median counts.
    """

    def __init__(self, judge: Judge[Any], item_of: ItemOf, *, runs: int = 1) -> None:
        if runs < 1:
            raise ConfigError(f"runs must be >= 1, got {runs}")
        self.judge = judge
        self._item_of = item_of
        self.runs = runs

    def score(
        self,
        examples: Sequence[TrainingExample],
        candidates: Sequence[Candidates],
        folder: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[CaptionScore]]:
        """Per candidate its captions' scores.

        Args:
            examples: all that candidates may be of, in any order.
            folder: keeps the verdicts.

        Raises `ConfigError` for candidates of no example, and what the judge raises for the whole run.
        """
        by_key = {example_key(example): example for example in examples}
        unknown = [one.key for one in candidates if one.key not in by_key]
        if unknown:
            raise ConfigError(f"captions of {unknown[0]!r} are of none of {len(examples)} examples")
        cases = [
            Case(key=f"{one.key}#{place}", item=self._item_of(by_key[one.key], caption.text))
            for one in candidates
            for place, caption in enumerate(one.captions)
        ]
        judged = iter(collect_verdicts(self.judge, cases, runs=self.runs, folder=folder, progress=progress))
        return [
            [_score(by_key[one.key], caption.text, next(judged).verdicts) for caption in one.captions]
            for one in candidates
        ]


def _score(example: TrainingExample, text: str, verdicts: Sequence[Verdict]) -> CaptionScore:
    duration = None
    if example.clip.start_seconds is not None and example.clip.end_seconds is not None:
        duration = example.clip.end_seconds - example.clip.start_seconds
    found = [event_findings(verdict) for verdict in verdicts if verdict.status == "scored"]
    reason = None if found else next((verdict.reason for verdict in verdicts), "no verdict")
    if found and not found[0].num_events:
        found, reason = [], "the clip has no events"
    return CaptionScore(
        miss=_median([one.miss for one in found]),
        hall=_median([one.hall for one in found]),
        error_rate=_median([one.total for one in found]),
        repetition_rate=repetition_rate(text),
        unnatural=is_unnatural(text, duration_seconds=duration, instruction=example.instruction or None),
        reason=reason,
    )


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
