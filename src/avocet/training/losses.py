"""Losses of preference and reinforcement learning: pure functions, float32 (or float64) inside.

Shapes: B pairs or sequences, T tokens. Every function returns (loss, metrics); metrics are plain floats.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from avocet.errors import ConfigError


def _full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor if tensor.dtype == torch.float64 else tensor.float() for tensor in tensors)


def gdpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    ground_truth_logps: Tensor | None,
    ground_truth_mask: Tensor | None,
    beta: float = 0.1,
    ce_weight: float = 0.1,
) -> tuple[Tensor, dict[str, float]]:
    """Guided DPO (video-SALMONN 2, Eq. 11, with the sign that minimises the cross-entropy):

    mean over pairs of -log sigmoid(beta * z), plus ce_weight * cross-entropy per ground-truth token,
    z = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected).

    Args:
        policy_chosen: (B,) summed log-probabilities; likewise the next three. The reference gets no gradient.
        ground_truth_logps: (B, T) log-probabilities of the ground truth's tokens; may be None with ce_weight 0 (DPO).
        ground_truth_mask: (B, T) 1 for tokens, 0 for padding.

    Raises `ConfigError` when the shapes differ, or ground truth is asked for and there is none.
    """
    sums = _full_precision(policy_chosen, policy_rejected, reference_chosen.detach(), reference_rejected.detach())
    if len({tuple(tensor.shape) for tensor in sums}) != 1 or sums[0].ndim != 1:
        raise ConfigError(f"gdpo_loss needs four (B,) tensors, got {[tuple(tensor.shape) for tensor in sums]}")
    chosen_reward, rejected_reward = beta * (sums[0] - sums[2]), beta * (sums[1] - sums[3])
    margin = chosen_reward - rejected_reward
    dpo = -F.logsigmoid(margin).mean()
    cross_entropy = torch.zeros_like(dpo)
    if ce_weight:
        if ground_truth_logps is None or ground_truth_mask is None:
            raise ConfigError("gdpo_loss with ce_weight needs ground_truth_logps and ground_truth_mask")
        cross_entropy = -_masked_token_mean(ground_truth_logps, ground_truth_mask)
    loss = dpo + ce_weight * cross_entropy
    metrics = {
        "loss": loss.item(),
        "dpo": dpo.item(),
        "ce": cross_entropy.item(),
        "reward_chosen": chosen_reward.mean().item(),
        "reward_rejected": rejected_reward.mean().item(),
        "reward_margin": margin.mean().item(),
        "accuracy": (margin > 0).float().mean().item(),
    }
    return loss, metrics


def _masked_token_mean(values: Tensor, mask: Tensor) -> Tensor:
    if values.shape != mask.shape:
        raise ConfigError(f"log-probabilities {tuple(values.shape)} and mask {tuple(mask.shape)} must have one shape")
    (values,) = _full_precision(values)
    # Counted as integers: bfloat16 has no 605, and float16 nothing above 65504.
    real = mask.bool()
    count = real.sum()
    if count == 0:
        raise ConfigError("the ground truth has no tokens: its mask is all zero")
    # where, not a product: padding may hold -inf.
    return torch.where(real, values, 0.0).sum() / count


def group_advantages(rewards: Tensor, eps: float = 1e-4) -> Tensor:
    """(r - mean) / (std + eps) within each group; groups without any spread get zeros.

    Args:
        rewards: (num_groups, group_size); the standard deviation is that of a sample (n - 1).
    """
    if rewards.ndim != 2:
        raise ConfigError(f"rewards must be (num_groups, group_size), got {tuple(rewards.shape)}")
    (rewards,) = _full_precision(rewards)
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    spread = (rewards != rewards[:, :1]).any(dim=1, keepdim=True)
    if rewards.shape[1] < 2:
        return torch.zeros_like(rewards)
    # Equal rewards can leave a rounding error in `centred`, which a tiny std would blow up.
    return torch.where(spread, centred / (rewards.std(dim=1, keepdim=True) + eps), 0.0)


def grpo_loss(
    logps: Tensor,
    old_logps: Tensor,
    reference_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    kl_weight: float = 0.04,
) -> tuple[Tensor, dict[str, float]]:
    """GRPO: clipped surrogate and k3 estimate of the KL divergence to the reference, per token.

    Token means within each sequence, then the mean over sequences; a sequence without tokens counts as zero loss.

    Args:
        logps: (B, T) of the policy; `old_logps` of the policy that sampled, `reference_logps` of the reference.
        advantages: (B,).
        mask: (B, T) 1 for completion tokens.
        clip: the probability ratio is held in [1 - clip, 1 + clip].
        kl_weight: beta of the paper.
    """
    shapes = {tuple(tensor.shape) for tensor in (logps, old_logps, reference_logps, mask)}
    if len(shapes) != 1 or logps.ndim != 2 or advantages.shape != logps.shape[:1]:
        raise ConfigError(
            f"grpo_loss needs (B, T) tensors of one shape and advantages (B,), got {sorted(shapes)} and "
            f"{tuple(advantages.shape)}"
        )
    real = mask.bool()
    # Padding may hold anything, also -inf; zeros there give ratio 1, KL 0 and no gradient.
    policy, old, reference = (torch.where(real, t, 0.0) for t in (logps, old_logps, reference_logps))
    terms = grpo_terms(policy, old, reference, advantages[:, None], (clip, clip))
    counts = real.sum(dim=1)

    def sequence_mean(values: Tensor) -> Tensor:
        return (torch.where(real, values, 0.0).sum(dim=1) / counts.clamp(min=1)).mean()

    loss = sequence_mean(kl_weight * terms.kl - terms.surrogate)
    metrics = {
        "loss": loss.item(),
        "surrogate": sequence_mean(terms.surrogate).item(),
        "kl": sequence_mean(terms.kl).item(),
        "clip_fraction": sequence_mean(terms.clipped).item(),
        "mean_ratio": sequence_mean(terms.ratio).item(),
    }
    return loss, metrics


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GrpoTerms:
    """What GRPO adds up, per token; all of the shape of the log-probabilities."""

    surrogate: Tensor
    """min(ratio * advantage, clipped ratio * advantage), to be maximised."""
    kl: Tensor
    """k3 estimate of the divergence from the reference: exp(d) - d - 1 with d = reference - policy."""
    ratio: Tensor
    clipped: Tensor
    """1 where the ratio lies outside of the clipping range, else 0."""


def grpo_terms(
    policy: Tensor, old: Tensor, reference: Tensor, advantage: Tensor, clip: tuple[float, float]
) -> GrpoTerms:
    """The terms of `grpo_loss` before any mean is taken.

    Args:
        policy: log-probabilities of any shape; `old` and `reference` of the same one get no gradient.
        advantage: broadcast against them.
        clip: the ratio is held in [1 - clip[0], 1 + clip[1]].
    """
    policy, old, reference, advantage = _full_precision(policy, old.detach(), reference.detach(), advantage.detach())
    ratio = (policy - old).exp()
    clipped = ratio.clamp(1 - clip[0], 1 + clip[1])
    difference = reference - policy
    return GrpoTerms(
        surrogate=torch.minimum(ratio * advantage, clipped * advantage),
        kl=difference.exp() - difference - 1,
        ratio=ratio,
        clipped=(ratio != clipped).to(ratio.dtype),
    )
