"""The published settings that can be chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avocet.errors import ConfigError
from avocet.training.recipes import load_recipe

RECIPE = Path(__file__).parents[3] / "recipes" / "salmonn2_7b" / "mrdpo.py"


@pytest.mark.parametrize(
    ("settings", "rate", "length", "rank", "pairs", "ground_truth"),
    [
        ({}, 2e-5, (3, None), 128, 8, "same_item"),
        ({"variant": "released_v1"}, 2e-5, (3, None), 128, 8, "same_item"),
        ({"variant": "released_plus"}, 5e-6, (1, None), 128, 8, "same_item"),
        ({"variant": "paper"}, 5e-6, (None, 1000), 256, 64, "random"),
    ],
)
def test_variants_of_video_salmonn_2(
    settings: dict[str, str], rate: float, length: tuple[Any, Any], rank: int, pairs: int, ground_truth: str
) -> None:
    recipe = load_recipe(RECIPE, settings)
    rounds = recipe.mrdpo
    assert rounds is not None
    assert (rounds.optimizer.learning_rate, rounds.lora.rank, rounds.lora.alpha / rounds.lora.rank) == (rate, rank, 2.0)
    assert ((rounds.epochs, rounds.max_steps), rounds.batch.max_examples) == (length, pairs)
    assert (rounds.preference.ground_truth, rounds.preference.beta, rounds.preference.ce_weight) == (
        ground_truth,
        0.1,
        0.1,
    )
    # The round of the rebirth is the seventh: gaps of table 3 for the sixth.
    assert recipe.rebirth is not None
    assert recipe.rebirth.round is not None
    assert recipe.rebirth.round.thresholds == {1: rounds.thresholds[6]}


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(ConfigError, match="'released' is none of released_v1, released_plus, paper"):
        load_recipe(RECIPE, {"variant": "released"})
