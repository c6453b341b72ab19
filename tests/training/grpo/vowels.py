"""What the tests of GRPO runs share: a reward that needs no judge, and readers of what a run leaves behind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from avocet.errors import AvocetError
from avocet.rewards.rubric import RewardItem, Rubric, Unscored, WeightedReward
from avocet.training.checkpoints import checkpoints
from avocet.training.finetune.watch import METRICS_FILE, read_metrics


class Interrupted(AvocetError):
    """Stands for a kill."""


class VowelReward:
    """Share of the letters a and e; fails on request, stops on request."""

    name = "vowels"

    def __init__(self, *, fails: Sequence[str] = (), stop_at: int | None = None, constant: bool = False) -> None:
        self.fails, self.stop_at, self.constant = fails, stop_at, constant
        self.asked: Counter[str] = Counter()

    async def score(self, items: Sequence[RewardItem]) -> list[float | Unscored]:
        found: list[float | Unscored] = []
        for item in items:
            if self.stop_at is not None and sum(self.asked.values()) >= self.stop_at:
                raise Interrupted("stop")
            self.asked[item.clip_id] += 1
            if item.clip_id in self.fails:
                found.append(Unscored(reason="no reply"))
            elif self.constant:
                found.append(0.5)
            else:
                found.append(worth(item.text))
        return found


def worth(text: str) -> float:
    return sum(letter in "ae" for letter in text) / max(len(text), 1)


def rubric(**settings: Any) -> tuple[Rubric, VowelReward]:
    reward = VowelReward(**settings)
    return Rubric([WeightedReward(reward=reward)]), reward


def figures(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder / METRICS_FILE) if "rollouts/groups" in line]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(folder)[-1][1] / "weights.safetensors")


def assert_same(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
