"""The objective of GRPO in the engine against the public loss, hand arithmetic and plain autograd."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from avocet.errors import ConfigError
from avocet.models.lora import add_lora
from avocet.models.prefix import score_shared
from avocet.models.salmonn2.tiny import tiny_plus
from avocet.records import Sampling
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, LoraSettings
from avocet.training.finetune.module import GroupTokens, Item, MicroBatch, filler
from avocet.training.grpo.config import Grpo, PolicySettings
from avocet.training.grpo.objective import GroupPolicy, Reference, score_groups
from avocet.training.losses import group_advantages, grpo_loss

COMPLETIONS = ((11, 12, 13, 14), (15, 16), (17, 18, 19))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_plus()


def item(model: Any, **group: Any) -> Item:
    prompt = filler(model).items[0].prompt
    tokens: dict[str, Any] = {"completions": COMPLETIONS, "advantages": (1.5, -0.5, -1.0), "reference": None} | group
    return Item(index=0, task="caption", prompt=prompt, target=(), group=GroupTokens(**tokens))


def columns(model: Any, one: Item, settings: PolicySettings | None = None) -> dict[str, float]:
    """Mean of each column for a step of this one item."""
    objective = GroupPolicy(settings or PolicySettings(), max_new_tokens=10)
    with torch.no_grad():
        sums = objective.module(model, loss_chunk=4)(MicroBatch(items=(one,)))[0].tolist()
    pairs = zip(objective.columns, sums, objective.counts(one), strict=True)
    return {column.name: value / count for column, value, count in pairs if count}


def own_scores(model: Any, one: Item) -> list[torch.Tensor]:
    with torch.no_grad():
        return score_shared(model.language_decoder(), model.encode([one.prompt]), [COMPLETIONS])[0]


def padded(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-math.inf)


def test_the_columns_are_the_public_loss(model: Any) -> None:
    """Policy, sampling policy and reference all differ, so that ratio, clipping and KL all have a part."""
    policy = own_scores(model, item(model))
    generator = torch.Generator().manual_seed(0)
    old = [row + 0.3 * torch.randn(len(row), generator=generator) for row in policy]
    reference = [row + 0.3 * torch.randn(len(row), generator=generator) for row in policy]
    one = item(model, old=tuple(old), reference=tuple(reference))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    advantages = torch.tensor([1.5, -0.5, -1.0])
    loss, metrics = grpo_loss(padded(policy), padded(old), padded(reference), advantages, mask)
    found = columns(model, one)
    assert found["policy"] == pytest.approx(loss.item(), abs=1e-6)
    assert found["kl"] == pytest.approx(metrics["kl"], abs=1e-6)
    assert found["clipped"] == pytest.approx(metrics["clip_fraction"], abs=1e-6)
    assert 0 < found["clipped"] < 1
    assert found["ratio"] == pytest.approx(metrics["mean_ratio"], abs=1e-6)


def test_averages_by_hand(model: Any) -> None:
    """On the sampling policy the ratio is 1 and each token's term is -advantage: only the averaging is left.

    4, 2 and 3 tokens with advantages 1.5, -0.5 and -1: means of sequences (1.5 - 0.5 - 1) / 3 = 0; over tokens
    (6 - 1 - 3) / 9; sums over 10 tokens at most (0.6 - 0.1 - 0.3) / 3.
    """
    expected = {"grpo": 0.0, "dapo": -2 / 9, "dr_grpo": -0.2 / 3}
    for variant, value in expected.items():
        found = columns(model, item(model), PolicySettings(variant=variant))
        assert found["policy"] == pytest.approx(value, abs=1e-7)
        assert (found["kl"], found["clipped"], found["ratio"]) == (0, 0, 1)


def test_the_upper_side_of_the_range_may_be_wider(model: Any) -> None:
    """Ratio e^0.25 = 1.284 with advantage 1: held at 1.2, free below 1.3; with advantage -1 never held."""
    policy = own_scores(model, item(model))
    old = tuple(row - 0.25 for row in policy)
    for advantage, high, expected in ((1.0, None, -1.2), (1.0, 0.3, -math.exp(0.25)), (-1.0, None, math.exp(0.25))):
        one = item(model, advantages=(advantage,) * 3, old=old)
        found = columns(model, one, PolicySettings(clip_high=high, kl_weight=0.0))
        assert found["policy"] == pytest.approx(expected, abs=1e-5)


def test_the_divergence_is_zero_at_the_start_and_grows(model: Any) -> None:
    adapted = tiny_plus()
    add_lora(adapted, 4, 8)
    names = [name for name, _ in adapted.named_parameters() if ".lora_" in name]
    reference = Reference(adapted, names)
    assert reference.shares_features
    one = item(adapted)
    policy, of_reference = score_groups(adapted, [one.prompt], [COMPLETIONS], reference, policy=True, chunk=2)
    assert policy is not None
    assert of_reference is not None
    for ours, theirs in zip(policy[0], of_reference[0], strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    assert columns(adapted, item(adapted, reference=tuple(of_reference[0])))["kl"] == pytest.approx(0, abs=1e-9)
    for name in names:
        torch.nn.init.normal_(adapted.get_parameter(name), std=0.5)
    assert columns(adapted, item(adapted, reference=tuple(of_reference[0])))["kl"] > 1e-4


def test_the_reference_keeps_what_else_is_trained() -> None:
    """The aligner moves; the reference's log-probabilities do not, and the policy's come back afterwards."""
    model = tiny_plus()
    add_lora(model, 4, 8)
    names = [name for name, _ in model.named_parameters() if ".lora_" in name or "qformer" in name]
    assert any("qformer" in name for name in names)
    reference = Reference(model, names)
    assert not reference.shares_features
    one = item(model)

    def both() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        policy, fixed = score_groups(model, [one.prompt], [COMPLETIONS], reference, policy=True, chunk=100)
        assert policy is not None
        assert fixed is not None
        return policy[0], fixed[0]

    _, before = both()
    moved = {name: model.get_parameter(name) for name in names}
    with torch.no_grad():
        for parameter in moved.values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    values = {name: parameter.detach().clone() for name, parameter in moved.items()}
    policy, after = both()
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, atol=0, rtol=0)
    assert any((own - fixed).abs().max() > 1e-6 for own, fixed in zip(policy, after, strict=True))
    assert all(torch.equal(parameter, values[name]) for name, parameter in moved.items())


def test_mismatch_is_measured_where_the_engine_tells(model: Any) -> None:
    policy = own_scores(model, item(model))
    sampled = (policy[0] + 0.5, None, policy[2] - 0.1)
    assert columns(model, item(model, sampled=sampled))["mismatch"] == pytest.approx(0.3, abs=1e-6)
    assert "mismatch" not in columns(model, item(model))


def test_the_likelier_token_is_the_better_one() -> None:
    """A bandit of two tokens: what is rewarded becomes likelier, the other one less likely."""
    model = tiny_plus()
    prompt = filler(model).items[0].prompt
    answers = ((21,), (22,))
    objective = GroupPolicy(PolicySettings(kl_weight=0.0), max_new_tokens=1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    advantages = group_advantages(torch.tensor([[1.0, 0.0]]))[0].tolist()
    # std of (1, 0) is sqrt(1/2): (1 - 0.5) / (0.7071 + 1e-4)
    assert advantages == pytest.approx([0.70701, -0.70701], abs=1e-4)
    group = GroupTokens(completions=answers, advantages=tuple(advantages), reference=None)
    one = Item(index=0, task="caption", prompt=prompt, target=(), group=group)

    def chances() -> list[float]:
        with torch.no_grad():
            scores = score_shared(model.language_decoder(), model.encode([prompt]), [answers])[0]
        return [score.item() for score in scores]

    before = chances()
    module = objective.module(model, loss_chunk=8)
    for _ in range(3):
        optimizer.zero_grad()
        (module(MicroBatch(items=(one,)))[0, 0] / 2).backward()
        optimizer.step()
    after = chances()
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_a_filler_counts_nothing_and_has_a_graph(model: Any) -> None:
    objective = GroupPolicy(PolicySettings(), max_new_tokens=10)
    batch = filler(model)
    assert objective.counts(batch.items[0]) == (0,) * 6
    values = objective.module(model, loss_chunk=8)(batch)
    assert values.tolist() == [[0.0] * 6]
    assert values.requires_grad


def plan(**changes: Any) -> Grpo:
    settings: dict[str, Any] = {
        "name": "g",
        "model": "nano",
        "sources": (DataSource(path="x.jsonl"),),
        "trainable": (),
        "lora": LoraSettings(rank=2, alpha=4),
        "optimizer": FineTuneOptimizer(learning_rate=1e-4),
        "batch": BatchSettings(max_examples=2),
        "max_steps": 1,
    }
    return Grpo(**settings | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "group_size must be a whole number >= 2, got 1"),
        ({"group_size": 2.5}, "group_size must be a whole number >= 2, got 2.5"),
        ({"updates_per_batch": 1.5}, "updates_per_batch must be a whole number >= 1, got 1.5"),
        ({"batch": BatchSettings(max_examples=0)}, "max_examples must be a whole number >= 1, got 0"),
        ({"max_idle_steps": -1}, "max_idle_steps must be a whole number >= 0, got -1"),
        ({"length_soft": 5000}, "length_soft < length_hard must hold, got 5000 and 4096"),
        ({"mismatch_limit": float("nan")}, "mismatch_limit and log_ratio_limit must be > 0"),
        ({"log_ratio_limit": 0.0}, "mismatch_limit and log_ratio_limit must be > 0"),
        ({"sampling": Sampling()}, "a group of greedy captions is one caption"),
        ({"rewards": {}}, "rewards name at least one"),
        ({"overlap": "later"}, "'later' is none of within, next"),
        ({"epochs": 1}, "exactly one of epochs and max_steps"),
    ],
)
def test_plans_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**changes)


def test_settings_of_the_objective_are_checked() -> None:
    with pytest.raises(ConfigError, match="variant 'ppo' is none of grpo, dr_grpo, dapo"):
        PolicySettings(variant="ppo")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"clip_low must lie in \(0, 1\)"):
        PolicySettings(clip_low=1.0)
    for changes in ({"clip_high": 0.0}, {"clip_high": math.inf}, {"kl_weight": math.nan}, {"kl_weight": math.inf}):
        with pytest.raises(ConfigError, match=r"clip_high be a number > 0 and kl_weight a number >= 0"):
            PolicySettings(**changes)
    assert PolicySettings(clip_high=0.28).clip == (0.2, 0.28)
    assert dataclasses.replace(plan(), overlap="next").needs_old
    assert not plan().needs_old


def test_a_length_that_no_caption_can_reach_is_pointed_out() -> None:
    assert plan().notices == ()
    short = Sampling(temperature=1.0, max_new_tokens=1024)
    [notice] = plan(sampling=short).notices
    assert "no caption can reach length_hard, 4096 tokens, since max_new_tokens is 1024" in notice
    assert plan(sampling=short, rewards={"checklist": 1.0}).notices == ()


def test_the_plan_is_a_stage_that_is_exported(tmp_path: Path) -> None:
    stage = plan().stage()
    assert (stage.stage, stage.name, stage.lora) == ("grpo", "g", LoraSettings(rank=2, alpha=4))
