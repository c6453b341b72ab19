"""Losses against arithmetic worked here and against reference values of the released code; pair selection."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from shared_files import golden_folder, require

from avocet.errors import ConfigError
from avocet.training.losses import gdpo_loss, group_advantages, grpo_loss
from avocet.training.pairs import ROUND_THRESHOLDS, Thresholds, select_pair

ARITHMETIC = golden_folder() / "gdpo" / "gdpo_arithmetic.json"


def test_gdpo_by_hand() -> None:
    """z = (-2 - -3) - (-5 - -4) = 2; dpo = log(1 + e^-0.2); CE over three tokens: (1 + 2 + 3) / 3 = 2."""
    policy = torch.tensor([-2.0], requires_grad=True)
    loss, metrics = gdpo_loss(
        policy,
        torch.tensor([-5.0]),
        torch.tensor([-3.0]),
        torch.tensor([-4.0]),
        torch.tensor([[-1.0, -2.0, -3.0, -math.inf]]),
        torch.tensor([[1, 1, 1, 0]]),
    )
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.2)) + 0.1 * 2.0)
    assert metrics["reward_chosen"] == pytest.approx(0.1)
    assert metrics["reward_rejected"] == pytest.approx(-0.1)
    assert metrics["accuracy"] == 1.0
    loss.backward()  # type: ignore[no-untyped-call]
    assert policy.grad is not None
    assert policy.grad.item() == pytest.approx(-0.1 / (1 + math.exp(0.2)))


def test_gdpo_without_ce_is_dpo() -> None:
    sums = [torch.tensor([value, 0.0]) for value in (-1.0, -2.0, -1.0, -2.0)]
    loss, metrics = gdpo_loss(*sums, None, None, ce_weight=0.0)
    assert loss.item() == pytest.approx(math.log(2))
    assert metrics["accuracy"] == 0.0
    with pytest.raises(ConfigError, match="needs ground_truth_logps"):
        gdpo_loss(*sums, None, None)
    with pytest.raises(ConfigError, match="four"):
        gdpo_loss(sums[0][:1], *sums[1:], None, None, ce_weight=0.0)
    with pytest.raises(ConfigError, match="no tokens"):
        gdpo_loss(*sums, torch.zeros(2, 3), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("dtype", "num_tokens"),
    [(torch.bool, 605), (torch.uint8, 605), (torch.bfloat16, 605), (torch.float16, 70_000), (torch.float32, 605)],
)
def test_tokens_are_counted_whatever_the_mask_is_kept_in(dtype: torch.dtype, num_tokens: int) -> None:
    """bfloat16 has 604 and 608 but no 605, float16 ends at 65504 and uint8 at 255; a mean of -1 is -1 all the same."""
    sums = [torch.zeros(1)] * 4
    mask = torch.ones(1, num_tokens + 1, dtype=dtype)
    mask[0, -1] = 0
    _, metrics = gdpo_loss(*sums, torch.full((1, num_tokens + 1), -1.0), mask)
    assert metrics["ce"] == 1.0


NAMES = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")


def test_golden_gdpo_arithmetic() -> None:
    require(ARITHMETIC.is_file(), ARITHMETIC)
    data = json.loads(ARITHMETIC.read_text())
    batch: dict[str, list[float]] = {}
    for case in data["cases"]:
        sums = [torch.tensor([math.fsum(case[name])], dtype=torch.float64, requires_grad=True) for name in NAMES]
        truth = torch.tensor([case["policy_gt"]], dtype=torch.float64, requires_grad=True)
        loss, metrics = gdpo_loss(*sums, truth, torch.ones_like(truth), data["beta"], data["ce_weight"])
        expected = case["expected"]
        for ours, theirs in (("dpo", "dpo_loss"), ("ce", "ce_gt_token_mean"), ("loss", "total_loss")):
            assert metrics[ours] == pytest.approx(expected[theirs], abs=1e-9)
            batch.setdefault(theirs, []).append(metrics[ours])
        for name in ("reward_chosen", "reward_rejected", "reward_margin", "accuracy"):
            assert metrics[name] == pytest.approx(expected[name], abs=1e-9)
            batch.setdefault(name, []).append(metrics[name])
        loss.backward()  # type: ignore[no-untyped-call]
        for total, name in zip(sums[:2], NAMES[:2], strict=True):
            assert total.grad.item() == pytest.approx(expected[f"d_dpo_d_sum_{name}"], abs=1e-9)  # type: ignore[union-attr]
        assert all(total.grad is None for total in sums[2:])  # the reference is not trained
        each = torch.full_like(truth, expected["d_total_d_each_gt_logp"])
        torch.testing.assert_close(truth.grad, each, atol=1e-9, rtol=0)
        for kind, official in case["official"].items():
            tolerance = 1e-9 if kind.endswith("float64") else 1e-5
            assert metrics["dpo"] == pytest.approx(official["dpo_loss"], abs=tolerance)
            for name in ("reward_chosen", "reward_rejected"):
                assert metrics[name] == pytest.approx(official[name], abs=tolerance)
    for name, mean in data["batch_mean"].items():
        assert sum(batch[name]) / len(batch[name]) == pytest.approx(mean, abs=1e-9)


def test_group_advantages_by_hand() -> None:
    """Rewards 0, 1, 2: mean 1, sample std 1."""
    advantages = group_advantages(torch.tensor([[0.0, 1.0, 2.0], [0.1, 0.1, 0.1]]))
    assert advantages[0].tolist() == pytest.approx([-1 / 1.0001, 0.0, 1 / 1.0001])
    assert advantages[1].tolist() == [0.0, 0.0, 0.0]
    assert group_advantages(torch.ones(2, 1)).tolist() == [[0.0], [0.0]]
    with pytest.raises(ConfigError, match="num_groups, group_size"):
        group_advantages(torch.ones(3))


def test_grpo_by_hand() -> None:
    """Sequence 1: ratios 1.5 (clipped to 1.2) and 1, advantage 2: (2.4 + 2) / 2 = 2.2.
    Sequence 2: one token, ratio 0.5, advantage -1: min(-0.5, -0.8) = -0.8.
    KL of token 1 of sequence 1 against a reference at half the policy's probability: 0.5 - ln 0.5 - 1.
    """
    half, kl = math.log(0.5), 0.5 - math.log(0.5) - 1
    logps = torch.tensor([[math.log(1.5), 0.0], [half, -math.inf]], requires_grad=True)
    old = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    reference = torch.tensor([[math.log(1.5) + half, 0.0], [half, 1.0]])
    mask = torch.tensor([[1, 1], [1, 0]])
    loss, metrics = grpo_loss(logps, old, reference, torch.tensor([2.0, -1.0]), mask)
    expected_kl = (kl / 2 + 0) / 2
    assert metrics["kl"] == pytest.approx(expected_kl)
    assert loss.item() == pytest.approx(-(2.2 - 0.8) / 2 + 0.04 * expected_kl)
    assert metrics["clip_fraction"] == pytest.approx((0.5 + 1.0) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logps.grad is not None
    assert torch.isfinite(logps.grad).all()
    assert logps.grad[1, 1] == 0
    with pytest.raises(ConfigError, match="grpo_loss needs"):
        grpo_loss(logps, old, reference, torch.zeros(3), mask)


@dataclasses.dataclass(frozen=True)
class Scores:
    error_rate: float
    repetition_rate: float


def test_round_thresholds_are_table_3() -> None:
    assert ROUND_THRESHOLDS[1].global_ == Thresholds(error_rate=0.05, repetition_rate=0.01)
    assert ROUND_THRESHOLDS[1].local == Thresholds(error_rate=0.20, repetition_rate=0.01)
    assert ROUND_THRESHOLDS[4].global_ == Thresholds(error_rate=0.20, repetition_rate=-0.01)
    assert ROUND_THRESHOLDS[6].global_.error_rate == 0.25
    assert ROUND_THRESHOLDS[7].global_.error_rate == 0.30
    assert ROUND_THRESHOLDS[7].local == Thresholds(error_rate=0.45, repetition_rate=0.0)
    assert sorted(ROUND_THRESHOLDS) == [1, 2, 3, 4, 5, 6, 7]


def test_a_pair_must_win_in_every_metric() -> None:
    first = ROUND_THRESHOLDS[1].global_
    good, bad = Scores(0.25, 0.02), Scores(0.30, 0.03)
    assert select_pair(good, bad, first) == ("a", "b")  # exactly at both thresholds
    assert select_pair(bad, good, first) == ("b", "a")
    assert select_pair(Scores(0.25, 0.03), Scores(0.40, 0.03), first) is None  # repetition is no better
    assert select_pair(Scores(0.26, 0.0), bad, first) is None  # 4 points are too few
    second = ROUND_THRESHOLDS[2].global_
    assert select_pair(Scores(0.10, 0.04), Scores(0.40, 0.03), second) == ("a", "b")  # 1 point worse is allowed
    assert select_pair(Scores(0.10, 0.05), Scores(0.40, 0.03), second) is None
    assert select_pair(Scores(math.nan, 0.0), bad, first) is None
    assert select_pair(good, good, Thresholds(error_rate=-1.0, repetition_rate=-1.0)) is None
