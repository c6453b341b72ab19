"""What a step of GRPO is logged with: every process's share of it, put together."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from avocet.rewards.rubric import Scored
from avocet.rewards.summary import RewardSummary, summarise
from avocet.training.finetune.engine import StepResult

_LARGEST = ("kl", "clipped", "mismatch")
"""Figures of which the worst update is the one with the largest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepShare:
    """What one process did in a step."""

    counts: Counter[str]
    """Of `count_groups`."""
    longest: int
    """Tokens of its longest rollout."""
    scores: tuple[Scored, ...]
    """Of all its rollouts."""
    rejected: Counter[str]
    """Reason -> rollouts that its sampler did not hand out in this step."""
    seconds: Mapping[str, float]
    largest_log_ratio: float
    """Largest |log-probability - that under the policy that sampled| of any token in any update of the step."""
    num_refused: int
    """Updates that were refused; the same on all processes."""


def step_figures(shares: Sequence[StepShare], num_updates: int) -> dict[str, float]:
    """The line of a step, over all processes; docs/grpo.md says what each figure is."""
    counts, rejected = Counter[str](), Counter[str]()
    for share in shares:
        # Not +=, which drops zeros.
        counts.update(share.counts)
        rejected.update(share.rejected)
    figures = {name if name == "lessons" else f"rollouts/{name}": float(count) for name, count in counts.items()}
    figures["rollouts/mean_tokens"] = counts["tokens"] / max(counts["rollouts"], 1)
    figures["rollouts/longest"] = float(max(share.longest for share in shares))
    figures |= reward_figures(summarise([score for share in shares for score in share.scores]))
    figures |= {f"rejected/{reason}": float(count) for reason, count in rejected.items()}
    figures["updates"] = float(num_updates)
    figures["updates_refused"] = float(shares[0].num_refused)
    largest = [share.largest_log_ratio for share in shares]
    # max() of something that is no number depends on the order.
    figures["largest_log_ratio"] = math.nan if any(map(math.isnan, largest)) else max(largest)
    for name in shares[0].seconds:
        figures[f"seconds/{name}"] = math.fsum(share.seconds[name] for share in shares) / len(shares)
    return figures


def reward_figures(summary: RewardSummary) -> dict[str, float]:
    """Of the total and of each reward: mean, n, standard error, what failed and what was left out, and the reasons.

    The standard error takes rollouts as independent; those of one prompt are alike, so it is rather too small. A mean
    of nothing and an error of one value are not there.
    """
    figures: dict[str, float] = {}
    for name, value in (("total", summary.total), *((name, part.value) for name, part in summary.parts.items())):
        figures[f"reward_n/{name}"] = float(value.num_values)
        figures |= {f"reward/{name}": value.mean} if value.num_values else {}
        figures |= {f"reward_error/{name}": value.standard_error} if value.num_values > 1 else {}
    for name, part in summary.parts.items():
        figures[f"reward_failed/{name}"] = float(part.num_failed)
        figures[f"reward_left_out/{name}"] = float(part.num_left_out)
    return figures | {f"unscored/{reason}": float(count) for reason, count in summary.reasons.items()}


def joined(results: Sequence[StepResult]) -> StepResult:
    """The updates of one batch as one result: tokens in all, of losses the mean, of what warns the worst.

    Refused updates have no say unless all were refused; `refused` tells whether any was.
    """
    taken = [result for result in results if not result.refused] or results
    names = dict.fromkeys(name for result in taken for name in result.figures)
    return dataclasses.replace(
        taken[-1],
        loss=_mean([result.loss for result in taken]),
        figures={
            name: _summary_of(name)([result.figures[name] for result in taken if name in result.figures])
            for name in names
        },
        gradient_norm=max(result.gradient_norm for result in taken),
        num_tokens=sum(result.num_tokens for result in results),
        refused=any(result.refused for result in results),
    )


def _summary_of(name: str) -> Callable[[Sequence[float]], float]:
    if name == "ratio":
        return lambda values: max(values, key=lambda value: abs(value - 1))
    return max if name in _LARGEST else _mean


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
