"""Batches by length: a plan worked out by hand, and what holds for every plan."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from avocet.errors import ConfigError
from avocet.training.inputs import LengthPlan

RNG = np.random.default_rng(0)
LENGTHS = np.clip(RNG.lognormal(6, 0.8, 997), 20, 4000).astype(int)


def epoch_batches(plan: LengthPlan, epoch: int = 0) -> list[tuple[int, ...]]:
    first = epoch * plan.steps_per_epoch
    return [plan.global_batch(step) for step in range(first, first + plan.steps_per_epoch)]


def test_a_plan_worked_out_by_hand() -> None:
    """Longest first: 100 90 | 60 60 50 | 40 30 10 | 10, one batch per bucket, so an epoch can only reorder them.

    max_tokens=200: 200 // 100 = 2 examples, then 200 // 60 = 3, then 200 // 40 = 5 but at most 3 examples, then the
    one that is left.
    """
    lengths = [10, 60, 100, 30, 60, 40, 90, 50, 10]
    plan = LengthPlan(lengths, max_examples=3, max_tokens=200, seed=5, bucket_batches=1)
    assert plan.steps_per_epoch == len(plan) == 4
    assert plan.examples_per_epoch == 9
    # The two examples of length 10 keep their order: 0 goes with 40 and 30, 8 is left.
    expected = {frozenset({2, 6}), frozenset({1, 4, 7}), frozenset({5, 3, 0}), frozenset({8})}
    for epoch in range(3):
        assert {frozenset(batch) for batch in epoch_batches(plan, epoch)} == expected
    orders = {tuple(len(batch) for batch in epoch_batches(plan, epoch)) for epoch in range(10)}
    assert len(orders) > 1


def test_shares_worked_out_by_hand() -> None:
    """Lengths 7 6 5 4 3 to two processes, each time to the one with less: 7 | 6, 6+5=11, 7+4=11, then 3 to one."""
    lengths = [3, 4, 5, 6, 7]
    plan = LengthPlan(lengths, max_examples=5, seed=0, num_processes=2)
    shares = plan.batch(0)
    assert [sorted(lengths[index] for index in share) for share in shares] == [[3, 4, 7], [5, 6]]
    # Padded to 7 and to 6: 21 + 12 = 33 for 14 + 11 = 25 tokens.
    assert plan.padding_fraction(0) == pytest.approx(8 / 33)


@pytest.mark.parametrize("max_tokens", [None, 8000])
def test_every_example_once_per_epoch_within_the_limits(max_tokens: int | None) -> None:
    plan = LengthPlan(LENGTHS, max_examples=16, max_tokens=max_tokens, seed=3)
    first, second = epoch_batches(plan, 0), epoch_batches(plan, 1)
    for batches in (first, second):
        assert sorted(index for batch in batches for index in batch) == list(range(997))
        for batch in batches:
            assert 1 <= len(batch) <= 16
            assert max_tokens is None or max(LENGTHS[list(batch)]) * len(batch) <= max_tokens
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    if max_tokens is None:
        assert plan.steps_per_epoch == 63  # ceil(997 / 16): only one batch is smaller
    padding = np.mean([plan.padding_fraction(step) for step in range(plan.steps_per_epoch)])
    shuffled = RNG.permutation(LENGTHS)[:992].reshape(-1, 16)
    padding_by_chance = 1 - shuffled.sum() / (shuffled.max(axis=1) * 16).sum()
    assert padding < padding_by_chance / 4


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    settings: dict[str, Any] = {"max_examples": 16, "max_tokens": 9000}
    plan = LengthPlan(LENGTHS, seed=3, **settings)
    steps = [0, 5, 3 * plan.steps_per_epoch + 7, 1, plan.steps_per_epoch, 5]
    in_any_order = [plan.batch(step) for step in steps]
    assert in_any_order == [LengthPlan(list(LENGTHS), seed=3, **settings).batch(step) for step in steps]
    assert plan.epoch(steps[2]) == 3
    other = LengthPlan(LENGTHS, seed=4, **settings)
    assert [plan.global_batch(step) for step in range(20)] != [other.global_batch(step) for step in range(20)]


@pytest.mark.parametrize("num_processes", [2, 3, 8])
@pytest.mark.parametrize("weighted", [False, True])
def test_processes_share_the_batches_of_one_process(num_processes: int, weighted: bool) -> None:
    weights = np.where(np.arange(997) < 100, 5.0, 0.5) if weighted else None
    settings: dict[str, Any] = {"max_examples": 24, "max_tokens": 20_000, "seed": 1, "weights": weights}
    alone, together = LengthPlan(LENGTHS, **settings), LengthPlan(LENGTHS, num_processes=num_processes, **settings)
    assert alone.steps_per_epoch == together.steps_per_epoch
    for step in range(alone.steps_per_epoch + 10):
        (batch,) = alone.batch(step)
        shares = together.batch(step)
        assert len(shares) == num_processes
        assert sorted(index for share in shares for index in share) == sorted(batch)
        assert all(shares) == (len(batch) >= num_processes)
        tokens = [int(LENGTHS[list(share)].sum()) for share in shares]
        # The shares of Graham's rule differ by no more than one example.
        assert max(tokens) - min(tokens) <= max(LENGTHS[list(batch)])


def test_shares_are_empty_only_when_there_is_nothing_to_share() -> None:
    plan = LengthPlan([5, 5, 5, 5, 5], max_examples=4, seed=0, num_processes=3)
    sizes = sorted(sorted(len(share) for share in plan.batch(step)) for step in range(2))
    assert sizes == [[0, 0, 1], [1, 1, 2]]


def test_examples_that_are_too_long() -> None:
    lengths = [10, 500, 20, 600]
    with pytest.raises(ConfigError, match="example 1 has 500 tokens, more than max_tokens=100, and so have 1 others"):
        LengthPlan(lengths, max_examples=2, max_tokens=100, seed=0)
    plan = LengthPlan(lengths, max_examples=2, max_tokens=100, seed=0, too_long="skip")
    assert plan.skipped == (1, 3)
    assert [sorted(batch) for batch in epoch_batches(plan)] == [[0, 2]]
    with pytest.raises(ConfigError, match="no example is left"):
        LengthPlan(lengths, max_examples=2, max_tokens=5, seed=0, too_long="skip")


def test_weights_are_expected_numbers_of_draws() -> None:
    """Weights 0, 1, 2, 5 for 25 examples each: of 75 draws they get 0, 9.375, 18.75 and 46.875."""
    group = np.arange(100) % 4
    weights = np.array([0.0, 1.0, 2.0, 5.0])[group]
    lengths = RNG.integers(50, 500, 100)
    plan = LengthPlan(lengths, max_examples=4, max_tokens=1500, seed=0, weights=weights)
    assert plan.examples_per_epoch == 75
    counts = np.zeros((200, 4))
    for epoch in range(200):
        drawn = [index for batch in epoch_batches(plan, epoch) for index in batch]
        assert len(drawn) == 75
        for batch in epoch_batches(plan, epoch):
            assert max(lengths[list(batch)]) * len(batch) <= 1500
        counts[epoch] = np.bincount(group[drawn], minlength=4)
        per_example = np.bincount(drawn, minlength=100)
        # An example of weight 5 is expected 1.875 times: it lies in three slots at most, and may fill none.
        assert per_example[group == 3].max() <= 3
    assert counts.mean(axis=0) == pytest.approx([0, 9.375, 18.75, 46.875], abs=0.5)
    assert (counts[:, 0] == 0).all()


def test_equal_weights_are_no_weights() -> None:
    plain = LengthPlan(LENGTHS, max_examples=8, seed=2)
    equal = LengthPlan(LENGTHS, max_examples=8, seed=2, weights=[0.1] * 997)
    assert epoch_batches(plain) == epoch_batches(equal)


def test_micro_batches() -> None:
    """Lengths 50 40 30 20 10 with 100 tokens: 50+40 (2 x 50), then 30 20 10 (3 x 30)."""
    plan = LengthPlan([10, 20, 30, 40, 50], max_examples=5, seed=0)
    share = (0, 1, 2, 3, 4)
    assert plan.micro_batches(share, max_examples=5, max_tokens=100) == ((4, 3), (2, 1, 0))
    assert plan.micro_batches(share, max_examples=2) == ((4, 3), (2, 1), (0,))
    assert plan.micro_batches((), max_examples=2) == ()
    # The part with most tokens is split first: 90 of two examples, then 60 of three into 30 20 | 10.
    assert plan.micro_batches(share, max_examples=5, max_tokens=100, at_least=3) == ((4,), (3,), (2, 1, 0))
    assert plan.micro_batches(share, max_examples=5, max_tokens=100, at_least=4) == ((4,), (3,), (2, 1), (0,))
    assert plan.micro_batches(share, max_examples=5, at_least=9) == ((4,), (3,), (2,), (1,), (0,))
    with pytest.raises(ConfigError, match="example 4 has 50 tokens, more than max_tokens=45 of one forward pass"):
        plan.micro_batches(share, max_examples=5, max_tokens=45)


def test_a_million_examples_take_seconds() -> None:
    """Measured at 0.3 s; the limit leaves room for a busy machine and none for a quadratic method."""
    lengths = np.random.default_rng(1).integers(100, 20_000, 1_000_000)
    began = time.process_time()
    plan = LengthPlan(lengths, max_examples=64, max_tokens=100_000, seed=0, num_processes=8)
    plan.batch(0)
    plan.batch(plan.steps_per_epoch)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": []}, "at least one number"),
        ({"lengths": [1.5]}, "whole numbers of tokens, got float64"),
        ({"lengths": [3, 0]}, "lengths must be >= 1, got 0 for example 1"),
        ({"max_examples": 0}, "max_examples must be >= 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be >= 1, got 0"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"num_processes": 0}, "num_processes must be >= 1, got 0"),
        ({"bucket_batches": 0}, "bucket_batches must be >= 1, got 0"),
        ({"too_long": "cut"}, """too_long must be "error" or "skip", got 'cut'"""),
        ({"weights": [1.0]}, r"3 examples, weights of shape \(1,\)"),
        ({"weights": [1.0, -1.0, 1.0]}, "finite and >= 0, got -1.0 for example 1"),
        ({"weights": [1.0, 1.0, float("nan")]}, "finite and >= 0, got nan for example 2"),
        ({"weights": [0.0, 0.0, 0.0]}, "all weights are 0"),
    ],
)
def test_wrong_plan_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LengthPlan(**{"lengths": [5, 6, 7], "max_examples": 2, "seed": 0, **arguments})


def test_wrong_steps_are_named() -> None:
    with pytest.raises(ConfigError, match="step must be >= 0, got -1"):
        LengthPlan([5], max_examples=1, seed=0).batch(-1)
