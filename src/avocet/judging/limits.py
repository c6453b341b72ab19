"""What keeps a run within bounds: a pace per minute and a ceiling of costs.

Nothing here belongs to one event loop, so the bounds hold over several runs of one client.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

from avocet.errors import ConfigError
from avocet.judging.errors import CostCeilingReached


class Pace:
    """Spreads an amount (requests, tokens) evenly over time.

    Work is scheduled first come, first served: each piece moves the moment at which the next may start by its share of
    a minute. Up to a second's worth that was not used may be used at once.

    Args:
        per_minute: how much fits into a minute; None is no limit.
        clock: seconds, monotonic.
    """

    _BURST_SECONDS = 1.0

    def __init__(self, per_minute: float | None, clock: Callable[[], float]) -> None:
        self._seconds_per_unit = None if per_minute is None else 60 / per_minute
        self._clock = clock
        self._next = clock()

    def book(self, amount: float) -> float:
        """Take `amount` and return how many seconds to wait before using it."""
        if self._seconds_per_unit is None:
            return 0.0
        now = self._clock()
        start = max(self._next, now - self._BURST_SECONDS)
        self._next = start + amount * self._seconds_per_unit
        return max(0.0, start - now)

    def correct(self, amount: float) -> None:
        """Take `amount` more (give back, when negative) after the fact."""
        if self._seconds_per_unit is not None:
            self._next += amount * self._seconds_per_unit


class Pause:
    """A moment before which nothing is sent, because the server said so."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until = clock()

    def extend(self, seconds: float) -> None:
        self._until = max(self._until, self._clock() + seconds)

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._until - self._clock())


@dataclasses.dataclass(kw_only=True)
class CostCeiling:
    """Lets an attempt pass only if it cannot exceed the ceiling, whatever it and those in flight turn out to cost.

    Attempts that do not fit beside those in flight wait: most cost less than was set aside for them.
    """

    max_usd: float | None
    spent_usd: float = 0.0
    _reserved_usd: float = 0.0
    _num_reserved: int = 0
    _waiting: list[asyncio.Future[None]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.max_usd is not None and not self.max_usd >= 0:
            raise ConfigError(f"max_cost_usd must be >= 0, got {self.max_usd}")

    async def reserve(self, usd: float) -> None:
        """Set aside what an attempt can cost at most. Raises `CostCeilingReached` when it can never fit."""
        if self.max_usd is None:
            return
        while self.spent_usd + self._reserved_usd + usd > self.max_usd:
            if self._num_reserved == 0:
                raise CostCeilingReached(
                    f"the next call may cost up to ${usd:.4f}, but ${self.spent_usd:.4f} of the ceiling of "
                    f"${self.max_usd:.4f} are spent; raise the ceiling and run again: what was answered is in the "
                    "cache and is not paid twice"
                )
            changed = asyncio.get_running_loop().create_future()
            self._waiting.append(changed)
            await changed
        self._reserved_usd += usd
        self._num_reserved += 1

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """Replace what was set aside by what the attempt cost."""
        if self.max_usd is None:
            return
        self._reserved_usd -= reserved_usd
        self._num_reserved -= 1
        self.spent_usd += spent_usd
        waiting, self._waiting = self._waiting, []
        for changed in waiting:
            if not changed.done():
                changed.set_result(None)
