"""The length reward R_L (AVoCaDO, eq. 8)."""

from __future__ import annotations

from avocet.errors import ConfigError


def length_reward(num_tokens: int, soft: int = 2048, hard: int = 4096) -> float:
    """1 below `soft` tokens, falling linearly to 0 at `hard` tokens.

    Raises `ConfigError` unless 0 <= num_tokens and 0 <= soft < hard.
    """
    if num_tokens < 0 or not 0 <= soft < hard:
        raise ConfigError(f"length_reward needs num_tokens >= 0 and 0 <= soft < hard, got {num_tokens}, {soft}, {hard}")
    return min(1.0, max(0.0, 1.0 - (num_tokens - soft) / (hard - soft)))
