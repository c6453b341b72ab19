"""The repetition guard: does a completion, as far as it has come, run in a loop?

A loop is a block of tokens at the end of a text that follows itself without a gap: at least 4 times, over at least
64 tokens. "Ha ha ha ha!" and a refrain sung three times are no loops.

    ... the dog barks , the dog barks , the dog barks , ...      period 4: a loop from 16 repeats (64 tokens) on
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHECK_EVERY = 16
"""New tokens between two checks."""

MIN_REPEATS = 4
MIN_TOKENS = 64
MAX_PERIOD = 256


def loop_period(token_ids: Sequence[int]) -> int | None:
    """Length of the block that the text ends in repeating, None when it does not."""
    tokens = np.asarray(token_ids, dtype=np.int64)
    for period in range(1, min(MAX_PERIOD, len(tokens) // MIN_REPEATS) + 1):
        span = max(MIN_REPEATS * period, MIN_TOKENS)
        if span > len(tokens):
            continue
        tail = tokens[-span:]
        # The cheap comparison first: most periods fail on their last token.
        if tail[-1] == tail[-1 - period] and np.array_equal(tail[period:], tail[:-period]):
            return period
    return None
