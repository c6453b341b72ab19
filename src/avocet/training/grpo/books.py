"""What a GRPO run keeps of its rollouts: which captions were sampled in a step, and what they were worth.

`rollouts.jsonl` and `rewards.jsonl` (one pair per process where there are several) are ledgers keyed by step and draw:
the place of the example and, from its second draw in a step on, which draw it is. A run that is killed goes on from its
last checkpoint and takes from them what it did after that: no judge is paid twice, and rollouts of a policy that is no
more (`overlap="next"`) stay what they were. A group in which fewer than two rollouts came, or have a total, is not
recorded, since it teaches nothing: a run that is stopped because the server or the judge was broken asks again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from avocet.errors import ConfigError
from avocet.ledger import Ledger
from avocet.rewards.rubric import Scored
from avocet.training.grpo.rollouts.base import Rollout

ROLLOUTS, REWARDS = "rollouts", "rewards"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The rollouts of one prompt in one step."""

    key: str
    rollouts: tuple[Rollout, ...]
    old: tuple[torch.Tensor, ...] | None
    """float32 (T,) of each: log-probabilities by the trainer's forward pass of the policy that sampled."""


class Books:
    """The two ledgers of one process.

    Args:
        folder: of the run.
        rank, num_processes: of this process; what others wrote is read too, so that their number may change.
        first_step: nothing before it is needed any more.
        settings: of the sampling; rollouts of other settings are refused where they would be used.
    """

    def __init__(
        self, folder: Path, *, rank: int, num_processes: int, first_step: int, settings: dict[str, Any]
    ) -> None:
        self._settings = json.loads(json.dumps(settings))
        self._groups: dict[str, dict[str, Any]] = {}
        self._scores: dict[str, list[Scored]] = {}
        for path in sorted(folder.glob(f"{ROLLOUTS}*.jsonl")):
            self._groups |= {line["key"]: line for line in self._lines(path, first_step)}
        for path in sorted(folder.glob(f"{REWARDS}*.jsonl")):
            for line in self._lines(path, first_step):
                self._scores[line["key"]] = [Scored.from_dict(one) for one in line["scores"]]
        suffix = f"-{rank}" if num_processes > 1 else ""
        self._rollouts = Ledger(folder / f"{ROLLOUTS}{suffix}.jsonl", key="key")
        self._rewards = Ledger(folder / f"{REWARDS}{suffix}.jsonl", key="key")

    def __enter__(self) -> Books:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rollouts.close()
        self._rewards.close()

    def group(self, key: str) -> Group | None:
        """The rollouts that were sampled before under a key, if any."""
        line = self._groups.get(key)
        if line is None:
            return None
        old = line["old"]
        rollouts = [
            Rollout(
                token_ids=tuple(one["token_ids"]),
                text=one["text"],
                stop_reason=one["stop_reason"],
                log_probs=None if one["log_probs"] is None else tuple(one["log_probs"]),
            )
            for one in line["rollouts"]
        ]
        return Group(
            key=line["key"],
            rollouts=tuple(rollouts),
            old=None if old is None else tuple(torch.tensor(one, dtype=torch.float32) for one in old),
        )

    def enter(
        self, step: int, key: str, clip_id: str, rollouts: Sequence[Rollout], old: Sequence[torch.Tensor] | None
    ) -> Group:
        """Record what was sampled, and return it as a group."""
        group = Group(key=key, rollouts=tuple(rollouts), old=None if old is None else tuple(old))
        if len(rollouts) < 2:
            return group
        lines = [dataclasses.asdict(rollout) for rollout in rollouts]
        # Numbers of float32 survive JSON: each has an exact decimal.
        values = None if old is None else [one.tolist() for one in old]
        self._rollouts.append(
            {
                "key": key,
                "step": step,
                "clip_id": clip_id,
                "settings": self._settings,
                "rollouts": lines,
                "old": values,
            }
        )
        return group

    def scores(self, group: Group) -> list[Scored] | None:
        """What a group was found to be worth before, if it was."""
        return self._scores.get(group.key)

    def enter_scores(self, step: int, group: Group, scores: Sequence[Scored]) -> None:
        """Record what a group is worth."""
        if sum(one.total is not None for one in scores) < 2:
            return
        self._rewards.append({"key": group.key, "step": step, "scores": [one.to_dict() for one in scores]})

    def _lines(self, path: Path, first_step: int) -> list[dict[str, Any]]:
        """Complete lines of steps that are still to be done. Another process may be writing: no lock, no repair."""
        found = []
        with path.open(encoding="utf-8") as file:
            for text in file:
                if not text.endswith("\n"):
                    continue
                line = json.loads(text)
                if line["step"] < first_step:
                    continue
                if line.get("settings", self._settings) != self._settings:
                    raise ConfigError(
                        f"{path} holds rollouts of step {line['step']}, which is still to be learnt from, sampled with "
                        f"{line['settings']}; this run has {self._settings}. Put the settings back, or choose another "
                        "--run-dir"
                    )
                found.append(line)
        return found
