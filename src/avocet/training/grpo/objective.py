"""GRPO inside the engine: columns of the loss, and the reference.

    loss = mean of (kl_weight * k3 - min(ratio * A, clip(ratio) * A)), see `PolicySettings.variant` for which mean

A prompt is read once for all completions of its group, in the forward and in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from avocet.models.interface import Prompt
from avocet.models.lora import lora_disabled
from avocet.models.prefix import score_shared
from avocet.training.finetune.module import Column, FineTuneModule, GroupTokens, Item, MicroBatch
from avocet.training.grpo.config import PolicySettings
from avocet.training.losses import grpo_terms

_WATCHED = ("kl", "clipped", "ratio", "entropy", "mismatch")


class GroupPolicy:
    """The objective of GRPO.

    Args:
        settings: clipping, KL and averaging.
        max_new_tokens: what dr_grpo divides sums over tokens by.
    """

    def __init__(self, settings: PolicySettings, max_new_tokens: int) -> None:
        self._settings, self._max_new_tokens = settings, max_new_tokens
        self._module: PolicyModule | None = None
        self.columns: Sequence[Column] = (
            Column(name="policy", weight=1.0),
            *(Column(name=name, weight=0.0) for name in _WATCHED),
        )

    def counts(self, item: Item) -> Sequence[int]:
        """Completions (tokens for dapo) for the loss, completions for what is watched."""
        if item.group is None:
            return (0,) * len(self.columns)
        number = len(item.group.completions)
        divisor = sum(map(len, item.group.completions)) if self._settings.variant == "dapo" else number
        compared = sum(one is not None for one in item.group.sampled or ())
        return (divisor, *[number] * (len(_WATCHED) - 1), compared)

    def module(self, model: nn.Module, loss_chunk: int) -> FineTuneModule:
        self._module = PolicyModule(model, loss_chunk, self._settings, self._max_new_tokens)
        return self._module

    def take_largest_log_ratio(self) -> float:
        """Largest |log ratio| of a token in the passes of this process since the last call. A mean would hide it: half
        of the tokens up and half of them down is a mean ratio of about 1."""
        if self._module is None:
            return 0.0
        found, self._module.largest_log_ratio = float(self._module.largest_log_ratio), torch.zeros(())
        return found


class PolicyModule(FineTuneModule):
    """A model with the columns of `GroupPolicy` as `forward`."""

    def __init__(self, model: nn.Module, loss_chunk: int, settings: PolicySettings, max_new_tokens: int) -> None:
        super().__init__(model, loss_chunk)
        self._settings, self._max_new_tokens = settings, max_new_tokens
        self.largest_log_ratio = torch.zeros(())
        """See `GroupPolicy.take_largest_log_ratio`."""

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """float64 (B, 6): the columns of `GroupPolicy`, summed over the completions of each item."""
        model: Any = self.model
        prefix = model.encode([item.prompt for item in batch.items])
        completions = [[item.target] if item.group is None else item.group.completions for item in batch.items]
        scores = score_shared(model.language_decoder(), prefix, completions, chunk=self.loss_chunk)
        rows = [self._row(item.group, own) for item, own in zip(batch.items, scores, strict=True)]
        return torch.stack(rows) + self.touch()

    def _row(self, group: GroupTokens | None, scores: Sequence[torch.Tensor]) -> torch.Tensor:
        """(6,) of one item."""
        if group is None:  # a filler: part of the graph, worth nothing
            return scores[0].double().sum().mul(0.0).expand(1 + len(_WATCHED))
        settings = self._settings
        rows = []
        for place, policy in enumerate(scores):
            old = policy if group.old is None else group.old[place].to(policy.device)
            advantage = policy.new_tensor(group.advantages[place])
            reference = policy if group.reference is None else group.reference[place].to(policy.device)
            terms = grpo_terms(policy, old, reference, advantage, settings.clip)
            loss = (settings.kl_weight * terms.kl - terms.surrogate).double()
            if settings.variant == "dapo":
                loss = loss.sum()
            elif settings.variant == "dr_grpo":
                loss = loss.sum() / self._max_new_tokens
            else:
                loss = loss.mean()
            sampled = None if group.sampled is None else group.sampled[place]
            mismatch = old - (old if sampled is None else sampled.to(policy.device))
            self._watch_ratio((policy - old).detach())
            watched = (terms.kl, terms.clipped, terms.ratio, -policy, mismatch.abs())
            rows.append(torch.stack([loss, *(value.detach().double().mean() for value in watched)]))
        return torch.stack(rows).sum(dim=0)

    def _watch_ratio(self, log_ratio: torch.Tensor) -> None:
        largest = self.largest_log_ratio.to(log_ratio.device)
        # maximum() keeps what is no number.
        self.largest_log_ratio = torch.maximum(largest, log_ratio.abs().max()) if log_ratio.numel() else largest


class Reference:
    """The model as the run began: the adapter off, and whatever else trains with the values that it had.

    Args:
        model: before a checkpoint is put in.
        names: of the trained parameters. Those outside of the adapter are copied, so a full fine-tuning holds the
            decoder twice.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._start = {name: model.get_parameter(name).detach().clone() for name in names if ".lora_" not in name}

    @property
    def shares_features(self) -> bool:
        """Whether the reference encodes prompts as the policy does: nothing but the adapter is trained."""
        return not self._start

    @contextmanager
    def active(self, model: Any) -> Iterator[None]:
        """The model is the reference inside."""
        now = {name: model.get_parameter(name).data for name in self._start}
        for name, start in self._start.items():
            model.get_parameter(name).data = start.to(now[name].device, now[name].dtype)
        try:
            with lora_disabled(model):
                yield
        finally:
            for name, value in now.items():
                model.get_parameter(name).data = value


def score_groups(
    model: Any,
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[tuple[int, ...]]],
    reference: Reference | None,
    *,
    policy: bool,
    chunk: int,
) -> tuple[list[list[torch.Tensor]] | None, list[list[torch.Tensor]] | None]:
    """Log-probabilities of groups under the policy of now and under the reference, without gradients and dropout.

    Args:
        model: its adapter attached.
        prompts: one per group.
        completions: per group its completions.
        reference: None: not wanted.
        policy: whether those of the policy are wanted.
        chunk: the most tokens whose logits exist at once.

    Returns:
        (policy, reference), each per group and completion float32 (T,) on the CPU, or None where not wanted.
    """

    def scores(prefix: Any) -> list[list[torch.Tensor]]:
        found = score_shared(model.language_decoder(), prefix, completions, chunk=chunk)
        return [[one.float().cpu() for one in own] for own in found]

    of_policy = of_reference = None
    with model.evaluating():
        prefix = model.encode(list(prompts)) if policy or (reference and reference.shares_features) else None
        if policy:
            of_policy = scores(prefix)
        if reference is not None:
            with reference.active(model):
                of_reference = scores(prefix if reference.shares_features else model.encode(list(prompts)))
    return of_policy, of_reference
