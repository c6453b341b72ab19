"""The checklist reward R_C (AVoCaDO, section 3.2.2)."""

from __future__ import annotations

from avocet.errors import ConfigError


def checklist_reward(num_hit: int, num_keypoints: int) -> float | None:
    """Share of keypoints that the caption mentions, in [0, 1]; None without keypoints: unscored, never 1.

    Raises `ConfigError` when more are hit than there are: such a count is a judge's mistake, not a reward.
    """
    if num_keypoints < 0 or not 0 <= num_hit <= num_keypoints:
        raise ConfigError(f"num_hit must be in 0..num_keypoints, got {num_hit} of {num_keypoints}")
    return num_hit / num_keypoints if num_keypoints else None
