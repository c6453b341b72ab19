"""What a batch of scores comes to: every reward alone, and everything that has no number, counted."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from avocet.metrics import MeanWithError, mean_with_error
from avocet.records import Record
from avocet.rewards.rubric import Scored


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartSummary(Record):
    """One reward over a batch, before its weight."""

    value: MeanWithError
    """Over the rollouts that have one."""
    num_failed: int
    """Rollouts whose judgement failed."""
    num_left_out: int
    """Rollouts whose example has nothing for this reward to look at."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardSummary(Record):
    """A batch of scored rollouts."""

    num_rollouts: int
    num_unscored: int
    """Rollouts without a total: dropped from their groups."""
    total: MeanWithError
    """Over the others. Totals from which a reward was left out are sums of fewer parts."""
    parts: dict[str, PartSummary]
    reasons: dict[str, int]
    """"reward: reason" up to the second colon -> how many parts without a value have it; the most frequent first."""

    def line(self) -> str:
        """One line for a log; a reward without any value shows as "-"."""
        parts = [f"{name} {_shown(part.value)}" for name, part in self.parts.items()]
        return f"reward {_shown(self.total)} ({', '.join(parts)}), {self.num_unscored} unscored of {self.num_rollouts}"


def summarise(scored: Sequence[Scored]) -> RewardSummary:
    """The summary of results of one rubric."""
    names = list(dict.fromkeys(name for one in scored for name in one.parts))
    reasons = Counter(f"{name}: {reason.partition(':')[0]}" for one in scored for name, reason in one.reasons.items())
    return RewardSummary(
        num_rollouts=len(scored),
        num_unscored=sum(one.total is None for one in scored),
        total=mean_with_error([one.total for one in scored if one.total is not None]),
        parts={name: _part(scored, name) for name in names},
        reasons=dict(reasons.most_common()),
    )


def _part(scored: Sequence[Scored], name: str) -> PartSummary:
    values = [value for one in scored if (value := one.parts.get(name)) is not None]
    return PartSummary(
        value=mean_with_error(values),
        num_failed=sum(name in one.failed for one in scored),
        num_left_out=sum(name in one.left_out for one in scored),
    )


def _shown(mean: MeanWithError) -> str:
    return f"{mean.mean:.4f}" if mean.num_values else "-"
