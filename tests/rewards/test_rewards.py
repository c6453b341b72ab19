"""Rewards by hand."""

from __future__ import annotations

import pytest

from avocet.errors import ConfigError
from avocet.metrics import Utterance
from avocet.rewards import checklist_reward, dialogue_reward, length_reward


@pytest.mark.parametrize(
    ("tokens", "reward"), [(0, 1.0), (2047, 1.0), (2048, 1.0), (3072, 0.5), (4095, 1 / 2048), (4096, 0.0), (9999, 0.0)]
)
def test_length_reward(tokens: int, reward: float) -> None:
    assert length_reward(tokens) == pytest.approx(reward)


def test_length_reward_checks_its_arguments() -> None:
    assert length_reward(15, soft=10, hard=20) == 0.5
    with pytest.raises(ConfigError, match="0 <= soft < hard"):
        length_reward(1, soft=5, hard=5)
    with pytest.raises(ConfigError, match="num_tokens >= 0"):
        length_reward(-1)


def test_checklist_reward() -> None:
    assert checklist_reward(3, 4) == 0.75
    assert checklist_reward(0, 4) == 0.0
    assert checklist_reward(0, 0) is None
    with pytest.raises(ConfigError, match="got 5 of 4"):
        checklist_reward(5, 4)


def says(*texts: str) -> list[Utterance]:
    return [Utterance(speaker="x", text=text) for text in texts]


def test_dialogue_reward_by_hand() -> None:
    """Three generated, two reference. "abcd" = "abcd" (1.0), "hello" and "hellp" (1 - 1/5 = 0.8); one right speaker.

    S = (1.8 + 1) / 2 = 1.4; precision 1.4 / 3, recall 1.4 / 2, F1 = 2 * 1.4 / (3 + 2) = 0.56.
    """
    result = dialogue_reward(says("abcd", "zzz", "hello"), says("abcd", "hellp"), lambda i, j: (i, j) == (0, 0))
    assert result.precision == pytest.approx(1.4 / 3)
    assert result.recall == pytest.approx(0.7)
    assert result.value == pytest.approx(0.56)


def test_dialogue_reward_of_empty_sides() -> None:
    never = lambda i, j: pytest.fail("nobody to compare")  # noqa: E731
    assert dialogue_reward([], [], never).value == 1.0
    assert dialogue_reward(says("a"), [], never).value == 0.0
    assert dialogue_reward([], says("a"), never).value == 0.0
    assert dialogue_reward(says("abc"), says("xyz"), never).value == 0.0
