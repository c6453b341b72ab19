"""What scores a benchmark: the judge it takes, what the judge gets of an item, and the figures that come out."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from avocet.evaluation.items import BenchmarkItem
from avocet.evaluation.scores import Scores
from avocet.judging.client import JudgeClient
from avocet.judging.judge import Judge, Judgeable
from avocet.judging.messages import CallParameters
from avocet.metrics.events import Protocol
from avocet.records import Record, Verdict

ItemT = TypeVar("ItemT", bound=Judgeable)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding(Record):
    """One thing that a judge found, for people: marked in the caption where its words are found there."""

    kind: str
    """"missed", "incorrect", "hallucinated", "wrong answer", ..."""
    text: str
    is_good: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """A captioned item with the verdicts on its caption."""

    item: BenchmarkItem
    verdicts: tuple[Verdict, ...]
    """One of each run."""


class Scorer(abc.ABC, Generic[ItemT]):
    """Scores one kind of benchmark."""

    default_runs: ClassVar[int] = 1
    """How often each caption is judged, as published."""
    protocols: ClassVar[tuple[Protocol, ...]] = ("paper",)
    needs_model: ClassVar[bool] = True
    """Whether its judge is a language model."""
    scores_captions: ClassVar[bool] = True
    """False where replies are answers to questions: they have no repetition or naturalness to measure."""

    @abc.abstractmethod
    def judge(self, client: JudgeClient | None, parameters: CallParameters | None = None) -> Judge[ItemT]:
        """The judge; `client` is None only where no language model is needed."""

    @abc.abstractmethod
    def judge_item(self, item: BenchmarkItem, caption: str) -> ItemT | str:
        """What the judge gets, or why this item cannot be judged (it counts as unscored)."""

    @abc.abstractmethod
    def scores(self, judged: Sequence[Judged], protocol: Protocol) -> Scores:
        """The figures over all judged captions; unscored verdicts are counted, never taken for zero."""

    def unscored_questions(self, verdict: Verdict) -> dict[str, str]:
        """Question id -> why a scored verdict has no result for it; {} where a caption is judged as a whole."""
        return {}

    @abc.abstractmethod
    def findings(self, verdict: Verdict) -> list[Finding]:
        """What a scored verdict says, for people."""
