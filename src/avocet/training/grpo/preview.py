"""What a run would do and cost, without doing it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from avocet.judging.client import JudgeClient
from avocet.judging.costs import RunSummary
from avocet.records import TrainingExample
from avocet.rewards.rubric import RewardItem, Rubric
from avocet.rewards.sound_binding import TieLister
from avocet.training.checkpoints import checkpoints
from avocet.training.data.mixture import load_mixture
from avocet.training.grpo.config import Grpo


def dry_run(plan: Grpo, run_dir: Path, rubric: Rubric, client: JudgeClient | None) -> str:
    """Steps, captions, and what judging them would cost. Reads the sources only; nothing is sent.

    Args:
        plan: the run.
        run_dir: where it would be.
        rubric: what captions would be worth.
        client: whom its judges would ask, in a dry run; None: nobody.

    Raises `ConfigError` for labels that cannot be judged by.
    """
    examples = load_mixture(plan.sources)[0]
    rubric.check(examples)
    per_epoch = -(-len(examples) // plan.batch.max_examples)
    steps = plan.stage().num_steps(per_epoch)
    captions = min(steps * plan.batch.max_examples, round(steps / per_epoch * len(examples))) * plan.group_size
    found = checkpoints(run_dir / plan.name)
    lines = [
        f"{plan.name}: {steps} steps of {plan.batch.max_examples} prompts x {plan.group_size} captions from "
        f"{len(examples)} examples, about {captions} captions to be judged by {', '.join(plan.rewards)}",
        f"examples with keypoints: {sum(bool(one.checklist) for one in examples)}, with dialogue: "
        f"{sum(bool(one.dialogue) for one in examples)}, with events: {sum(bool(one.events) for one in examples)}",
        "no language model is asked" if client is None else _cost(examples, rubric, client, captions),
        f"finished: {f'step {found[-1][0]}' if found else 'nothing'}",
        *plan.notices,
    ]
    return "\n".join(lines)


def _cost(examples: Sequence[TrainingExample], rubric: Rubric, client: JudgeClient, captions: int) -> str:
    """One caption of each example, as long as its reference, stands for all that would be judged."""
    items = [
        # Not the reference itself, whose judgement may be in the cache.
        RewardItem(clip_id=one.clip.id, text=f"{one.target} ...", num_tokens=0, stop_reason="end", example=one)
        for one in examples
    ]

    async def score() -> None:
        try:
            await rubric.score(items)
        finally:
            await rubric.disconnect()

    asyncio.run(score())
    total = _scaled(client.summary(), captions / len(examples))
    cost = "cost unknown (give --price IN,OUT)" if client.price is None else f"at most ${total['cost_usd']:,.2f}"
    return (
        f"{client.model} is asked about {round(total['not_sent']):,} times, {round(total['prompt_tokens']):,} tokens "
        f"of questions and at most {round(total['completion_tokens']):,} of replies, {cost}, where captions are as "
        "long as the references and no two of a group are equal"
    )


def _scaled(summary: RunSummary, factor: float) -> dict[str, float]:
    """Sums over the judges, each times the captions per example; ties are listed once per example."""
    names = ("not_sent", "prompt_tokens", "completion_tokens", "cost_usd")
    return {
        name: sum(row[name] * (1 if judge == TieLister.name else factor) for judge, row in summary.judges.items())
        for name in names
    }
