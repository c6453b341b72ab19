"""The default engine: the trainer's own model samples, with its adapter, in evaluation mode.

Every prompt is encoded and forwarded once for all rollouts of its group. There is nothing to synchronise, and the
log-probabilities are those of the policy itself.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from avocet.errors import ConfigError
from avocet.models.interface import Completion, Prefix, Prompt
from avocet.records import ClipRef, Sampling
from avocet.training.grpo.rollouts.base import Inspection, Rollout, WeightUpdate, check_request
from avocet.training.grpo.rollouts.weights import adapter_layers


class InProcessEngine:
    """Samples with a model of this process.

    Args:
        model: the trainer's, without wrappers.
        samples_at_once: rollouts of each prompt that are generated together; 0 for the whole group. Fewer need less
            memory for keys and values, and forward the prompt once more per portion. The rollouts are the same.
        autocast: run under bfloat16 autocast, where training does so.
    """

    name = "in_process"
    identity = "in_process"
    takes_steps = False

    def __init__(self, model: Any, *, samples_at_once: int = 0, autocast: bool = False) -> None:
        if samples_at_once < 0:
            raise ConfigError(f"samples_at_once must be >= 0, got {samples_at_once}")
        self.rejections: Counter[str] = Counter()
        self._model = model
        self._samples_at_once = samples_at_once
        self._autocast = autocast

    def sample(
        self,
        prompts: Sequence[Prompt],
        clips: Sequence[ClipRef],
        instructions: Sequence[str],
        n: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[list[Rollout]]:
        """n rollouts of each prompt; see `RolloutEngine.sample`.

        Sample k of a prompt depends on the weights, its seed, its clip and k alone, not on n or the batch.

        Raises `ConfigError`, also while the adapter is switched off.
        """
        check_request(prompts, clips, instructions, n, seeds)
        if not prompts:
            return []
        _check_adapter(self._model)
        device = self._model.device.type
        with self._model.evaluating(), torch.autocast(device, torch.bfloat16, enabled=self._autocast):
            prefix = _seeded(self._model.encode(prompts), seeds)
            groups = self._generate(prefix, n, dataclasses.replace(sampling, seed=0))
        return [[_rollout(completion) for completion in group] for group in groups]

    def inspect(
        self,
        prompts: Sequence[Prompt],
        clips: Sequence[ClipRef],
        instructions: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Inspection]:
        """One rollout of each prompt, with the prompt's own ids and positions."""
        groups = self.sample(prompts, clips, instructions, 1, sampling, seeds)
        return [
            Inspection(rollout=group[0], prompt_token_ids=prompt.token_ids, positions=prompt.positions)
            for prompt, group in zip(prompts, groups, strict=True)
        ]

    def sync(self, weights: WeightUpdate) -> None:
        """Nothing to do. Raises `ConfigError` when the update is of another model than this engine samples from."""
        if weights.model is not self._model:
            raise ConfigError("the in-process engine was made for another model than the one that is trained")

    def close(self) -> None:
        """Nothing to give back."""

    def _generate(self, prefix: Prefix, n: int, sampling: Sampling) -> list[list[Completion]]:
        portion = self._samples_at_once or n
        if portion >= n:
            groups: list[list[Completion]] = self._model.generate(prefix, n, sampling)
            return groups
        joined: list[list[Completion]] = [[] for _ in range(len(prefix))]
        for first in range(0, n, portion):
            parts = self._model.generate(prefix, min(portion, n - first), sampling, first_sample=first)
            for group, part in zip(joined, parts, strict=True):
                group.extend(part)
        return joined


def _seeded(prefix: Prefix, seeds: Sequence[int]) -> Prefix:
    """The prefix under names that hold each prompt's seed: generation draws its random numbers by name."""
    names = tuple(f"{seed}/{clip_id}" for seed, clip_id in zip(seeds, prefix.clip_ids, strict=True))
    return dataclasses.replace(prefix, clip_ids=names)


def _rollout(completion: Completion) -> Rollout:
    return Rollout(
        token_ids=completion.token_ids,
        text=completion.text,
        stop_reason=completion.stop_reason,
        log_probs=None if completion.logps is None else tuple(completion.logps.tolist()),
    )


def _check_adapter(model: Any) -> None:
    """Raise `ConfigError` while the adapter is off: what it sampled then would be the reference's."""
    if any(layer.disable_adapters for _, layer in adapter_layers(model)):
        raise ConfigError("the adapter is switched off; sample outside of lora_disabled()")
