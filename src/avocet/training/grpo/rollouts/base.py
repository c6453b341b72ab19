"""What the trainer asks of whatever samples its captions.

    engine.sync(WeightUpdate(version=step, model=model))       # after every change of the policy, and before the first
    groups = engine.sample(prompts, clips, instructions, 8, sampling, seeds)

An engine samples from the policy of the last `sync`. Groups come in the order of the prompts. In-process groups are
complete; an engine behind a server may hand out fewer than n rollouts of a prompt, or none, since it rejects those
whose tokens cannot be known for certain. Rejections are counted by reason in its `rejections`; whether too many are
rejected to learn anything is for the run to judge, which sees whole steps of all processes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from avocet.errors import AvocetError, ConfigError
from avocet.models.interface import Prompt
from avocet.records import ClipRef, Sampling, StopReason


class RolloutError(AvocetError):
    """An engine could not sample or could not take over new weights; nothing was trained on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """One sampled caption."""

    token_ids: tuple[int, ...]
    """With the end token where it was sampled."""
    text: str
    """Without special tokens and outer white space."""
    stop_reason: StopReason
    log_probs: tuple[float, ...] | None
    """Of each token, by the engine, at temperature 1 and without top-p; None where the engine cannot tell."""

    def __post_init__(self) -> None:
        if self.log_probs is not None and len(self.log_probs) != len(self.token_ids):
            raise ConfigError(f"a rollout of {len(self.token_ids)} tokens has {len(self.log_probs)} log-probabilities")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WeightUpdate:
    """The policy of now, for engines that hold a copy of it."""

    version: int
    """How many optimizer steps the policy has taken. Never goes down within a run."""
    model: Any
    """The trainer's model, without wrappers and with whole (unsharded) weights, its adapter attached. An engine reads
    it before `sync` returns and leaves it as it was."""
    on_main: Callable[[Callable[[], None]], None] = lambda call: call()
    """Makes a call on the first process of the training while the others wait for it, and raises on all of them what
    it raises. All processes synchronise together."""

    def __post_init__(self) -> None:
        if self.version < 0:
            raise ConfigError(f"the version of a policy counts its steps, got {self.version}")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Inspection:
    """One rollout and what the engine made of its prompt, for the parity check."""

    rollout: Rollout | None
    """None: rejected."""
    prompt_token_ids: tuple[int, ...] | None = None
    """Media placeholders included; None where the engine does not say."""
    positions: np.ndarray | None = None
    """float64 (3, tokens), as `Prompt.positions`; None where the engine does not say."""


class RolloutEngine(Protocol):
    """Samples from the policy."""

    name: str
    """For messages: what it is, and where."""
    identity: str
    """What it is, wherever it is; kept with the rollouts, so that those of two engines are not mixed."""
    takes_steps: bool
    """Whether it is handed all prompts of a step at once, as suits a server that batches by itself; else the prompts
    of one forward pass, which are judged while the next ones are sampled."""
    rejections: Counter[str]
    """Reason -> rollouts that were not handed out because of it, since the engine was made."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        clips: Sequence[ClipRef],
        instructions: Sequence[str],
        n: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[list[Rollout]]:
        """At most n rollouts of each prompt.

        Args:
            prompts: what the trainer will compute its gradients on.
            clips: where each prompt's media is; engines of other processes read it again.
            instructions: what is asked about each clip.
            n: rollouts per prompt.
            sampling: its own seed is not used.
            seeds: one per prompt, as `rollout_seed` makes them; with it the rollouts are the same again.

        Raises:
            ConfigError: lists of different length, n below 1, or no `sync` before.
            RolloutError: the engine failed.
        """

    def inspect(
        self,
        prompts: Sequence[Prompt],
        clips: Sequence[ClipRef],
        instructions: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Inspection]:
        """One rollout of each prompt with what the engine made of the prompt; as `sample` otherwise."""

    def sync(self, weights: WeightUpdate) -> None:
        """Sample from these weights from now on. Raises `RolloutError` when the engine does not take them."""

    def close(self) -> None:
        """Give back what the engine holds. It cannot be used afterwards."""


def rollout_seed(seed: int, step: int, clip_id: str) -> int:
    """The seed of a clip's group: from the run's seed, the step and the clip alone, so that a resumed run repeats it.

    In [0, 2^31), which every engine takes.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{clip_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def check_request(
    prompts: Sequence[Prompt], clips: Sequence[ClipRef], instructions: Sequence[str], n: int, seeds: Sequence[int]
) -> None:
    """Raise `ConfigError` when the arguments of `sample` do not belong together."""
    sizes = {len(prompts), len(clips), len(instructions), len(seeds)}
    if len(sizes) > 1:
        raise ConfigError(
            f"{len(prompts)} prompts came with {len(clips)} clips, {len(instructions)} instructions and {len(seeds)} "
            "seeds; give one of each per prompt"
        )
    if n < 1:
        raise ConfigError(f"a group needs n >= 1 rollouts, got {n}")
