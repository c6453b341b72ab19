"""Which examples form the batch of step N: a pure function of seed and step.

Examples of similar length stand in one batch, so little is padded. The limits speak of the whole step: the same
settings give the same batches on one process and on many, where each takes a share of every batch. Nothing depends
on what was drawn before, so a run resumes at step N with nothing but N.

How: examples are sorted by length once and cut into buckets, each with one batch size that fits its longest example.
An epoch shuffles inside the buckets, cuts them into batches and shuffles these. Buckets do not change, so all epochs
have the same number of steps.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
from collections.abc import Sequence
from typing import Literal

import numpy as np

from avocet.errors import ConfigError

_SIMILAR = 0.9
"""A bucket goes on while its examples have at least this fraction of the length of its longest."""

_STEP_STREAM = 0x9B1A
"""Keeps these random numbers apart from others that are drawn with the same seed."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Epoch:
    number: int
    drawn: np.ndarray
    """int64 (num_draws,): the example in each slot, batch after batch."""
    order: np.ndarray
    """int64 (steps_per_epoch,): the batch of each step."""


class LengthPlan:
    """Batches of examples of similar length.

    Without `weights` every example comes once per epoch. With weights an epoch has as many draws as there are examples
    of positive weight; each draws with a probability proportional to the weight. Draws are stratified along the sorted
    lengths: slot k of an epoch draws from [k, k + 1) on an axis on which each example is as long as its expected number
    of draws. So that number, e.g. 2.4, is kept up to less than 2: 1 to 4 draws. Equal weights are the same as none.

    Args:
        lengths: tokens of each example (>= 1): what it takes on the device, media tokens included.
        max_examples: the most examples of one step, all processes together.
        max_tokens: the most tokens of one step when padded, all processes together: longest x count. None: no limit.
        seed: >= 0.
        num_processes: how many processes share each step.
        weights: how often to draw each example, in proportion; None: each once per epoch.
        too_long: what to do with an example that is longer than `max_tokens`: "error", or "skip" to leave it out and
            list it in `skipped`.
        bucket_batches: the fewest batches of one bucket. More mixes better, fewer pads less.

    Raises:
        ConfigError: an argument is outside of what is allowed, an example is too long, or nothing is left.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        *,
        max_examples: int,
        max_tokens: int | None = None,
        seed: int,
        num_processes: int = 1,
        weights: Sequence[float] | np.ndarray | None = None,
        too_long: Literal["error", "skip"] = "error",
        bucket_batches: int = 4,
    ) -> None:
        if too_long not in ("error", "skip"):
            raise ConfigError(f'too_long must be "error" or "skip", got {too_long!r}')
        for name, value in (("num_processes", num_processes), ("bucket_batches", bucket_batches)):
            _check_at_least_one(name, value)
        if seed < 0:
            raise ConfigError(f"seed must be >= 0, got {seed}")
        _check_limits(max_examples, max_tokens)
        self._lengths = _checked_lengths(lengths)
        self._seed = seed
        self._num_processes = num_processes
        usable = np.ones(len(self._lengths), bool) if max_tokens is None else self._lengths <= max_tokens
        if too_long == "error" and not usable.all():
            index = int(np.argmin(usable))
            raise ConfigError(
                f"example {index} has {self._lengths[index]} tokens, more than max_tokens={max_tokens}, and so have "
                f'{int((~usable).sum()) - 1} others; raise max_tokens or pass too_long="skip"'
            )
        self.skipped: tuple[int, ...] = tuple(np.flatnonzero(~usable).tolist())
        """Examples left out because they are longer than `max_tokens`."""
        if weights is not None:
            usable &= _checked_weights(weights, len(self._lengths)) > 0
        chosen = np.flatnonzero(usable)
        if not len(chosen):
            raise ConfigError(f"no example is left to train on: {len(self.skipped)} are longer than {max_tokens=}")
        # The longest first, so that only the shortest examples may be left with a smaller batch.
        self._sorted = chosen[np.argsort(-self._lengths[chosen], kind="stable")]
        self._ends = _expected_ends(self._sorted, weights)
        slot_lengths = self._lengths[self._draw(np.arange(len(chosen), dtype=np.float64))]
        self._buckets, self._starts = _cut(slot_lengths, max_examples, max_tokens, bucket_batches)
        self.steps_per_epoch = len(self._starts) - 1
        self._epoch: _Epoch | None = None

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.steps_per_epoch

    def __repr__(self) -> str:
        return (
            f"LengthPlan({len(self._lengths)} examples, {self.steps_per_epoch} steps per epoch, "
            f"{self._num_processes} processes, {len(self.skipped)} skipped)"
        )

    @property
    def examples_per_epoch(self) -> int:
        """Draws of one epoch."""
        return int(self._starts[-1])

    def epoch(self, step: int) -> int:
        """The epoch, counted from 0, that `step` belongs to."""
        return step // self.steps_per_epoch

    def global_batch(self, step: int) -> tuple[int, ...]:
        """Indices of all examples of `step` (counted from 0 over all epochs); independent of `num_processes`."""
        if step < 0:
            raise ConfigError(f"step must be >= 0, got {step}")
        number, position = divmod(step, self.steps_per_epoch)
        epoch = self._epoch
        if epoch is None or epoch.number != number:
            # One assignment, so that a thread that reads ahead and the loop may use one plan.
            epoch = self._epoch = self._shuffle(number)
        batch = epoch.order[position]
        indices: list[int] = epoch.drawn[self._starts[batch] : self._starts[batch + 1]].tolist()
        return tuple(indices)

    def batch(self, step: int) -> tuple[tuple[int, ...], ...]:
        """The indices that each process takes of `step`: num_processes shares with about equal numbers of tokens.

        A share is empty only if the batch has fewer examples than there are processes.
        """
        batch = self.global_batch(step)
        loads = [(0, process) for process in range(self._num_processes)]
        taken: list[list[int]] = [[] for _ in loads]
        # The longest example first, each to the process with the fewest tokens so far (Graham's LPT rule).
        for position in sorted(range(len(batch)), key=lambda position: -self._lengths[batch[position]]):
            load, process = loads[0]
            taken[process].append(position)
            heapq.heapreplace(loads, (load + int(self._lengths[batch[position]]), process))
        return tuple(tuple(batch[position] for position in sorted(share)) for share in taken)

    def micro_batches(
        self, share: Sequence[int], *, max_examples: int, max_tokens: int | None = None, at_least: int = 1
    ) -> tuple[tuple[int, ...], ...]:
        """Split a share for gradient accumulation, the longest examples first.

        Args:
            share: indices, as `batch` gives them.
            max_examples, max_tokens: limits of one forward pass on one process; tokens are padded ones.
            at_least: split into no fewer parts than this, as far as there are examples. Processes that must make
                equally many forward passes (FSDP) pass the largest number that any of the shares needs.

        Raises:
            ConfigError: an example alone is longer than `max_tokens`.
        """
        _check_limits(max_examples, max_tokens)
        ordered = sorted(share, key=lambda index: -self._lengths[index])
        parts: list[list[int]] = []
        room = 0
        for index in ordered:
            if not room:
                room = max_examples
                if max_tokens is not None:
                    room = min(room, max_tokens // int(self._lengths[index]))
                if not room:
                    raise ConfigError(
                        f"example {index} has {self._lengths[index]} tokens, more than max_tokens={max_tokens} of one "
                        "forward pass; raise it, or leave such examples out of the plan"
                    )
                parts.append([])
            parts[-1].append(index)
            room -= 1
        while len(parts) < min(at_least, len(ordered)):
            widest = max(range(len(parts)), key=lambda part: self._splitting_gain(parts[part]))
            half = (len(parts[widest]) + 1) // 2
            parts[widest : widest + 1] = [parts[widest][:half], parts[widest][half:]]
        return tuple(tuple(part) for part in parts)

    def padding_fraction(self, step: int) -> float:
        """The fraction of the padded tokens of `step` that is padding, each share padded to its own longest."""
        shares = [self._lengths[list(share)] for share in self.batch(step) if share]
        padded = sum(int(share.max()) * len(share) for share in shares)
        return 1 - sum(int(share.sum()) for share in shares) / padded

    def _splitting_gain(self, part: list[int]) -> int:
        """Tokens of a part that can be split; a single example cannot."""
        return int(self._lengths[part].sum()) if len(part) > 1 else 0

    def _draw(self, positions: np.ndarray) -> np.ndarray:
        """The examples at positions on the axis on which each example is as long as its expected number of draws."""
        if self._ends is None:
            # Floating point might round k + 0.99... up; here every example must come exactly once.
            return self._sorted[positions.astype(np.int64)]
        places = np.searchsorted(self._ends, positions, side="right")
        drawn: np.ndarray = self._sorted[np.minimum(places, len(self._sorted) - 1)]
        return drawn

    def _shuffle(self, number: int) -> _Epoch:
        rng = np.random.default_rng([_STEP_STREAM, self._seed, number])
        num_draws = self.examples_per_epoch
        slots = np.arange(num_draws, dtype=np.float64)
        drawn = self._draw(slots if self._ends is None else slots + rng.random(num_draws))
        within = np.argsort(self._buckets + rng.random(num_draws), kind="stable")
        order = np.argsort(rng.random(self.steps_per_epoch), kind="stable")
        return _Epoch(number=number, drawn=drawn[within], order=order)


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} must be >= 1, got {value}")


def _check_limits(max_examples: int, max_tokens: int | None) -> None:
    _check_at_least_one("max_examples", max_examples)
    if max_tokens is not None:
        _check_at_least_one("max_tokens", max_tokens)


def _checked_lengths(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    array = np.asarray(lengths)
    if array.ndim != 1 or not len(array):
        raise ConfigError(f"lengths must be a sequence of at least one number, got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise ConfigError(f"lengths must be whole numbers of tokens, got {array.dtype}")
    if array.min() < 1:
        index = int(array.argmin())
        raise ConfigError(f"lengths must be >= 1, got {array[index]} for example {index}")
    return array.astype(np.int64)


def _checked_weights(weights: Sequence[float] | np.ndarray, count: int) -> np.ndarray:
    array = np.asarray(weights, np.float64)
    if array.shape != (count,):
        raise ConfigError(f"weights must be one number per example: {count} examples, weights of shape {array.shape}")
    wrong = ~(np.isfinite(array) & (array >= 0))
    if wrong.any():
        index = int(np.argmax(wrong))
        raise ConfigError(f"weights must be finite and >= 0, got {array[index]} for example {index}")
    if not array.any():
        raise ConfigError("all weights are 0; at least one must be positive")
    return array


def _expected_ends(ordered: np.ndarray, weights: Sequence[float] | np.ndarray | None) -> np.ndarray | None:
    """float64 (N,): running sum of the expected numbers of draws per epoch, N in all. None: each example once."""
    if weights is None:
        return None
    share = np.asarray(weights, np.float64)[ordered]
    if (share == share[0]).all():
        return None
    ends = np.cumsum(share)
    scaled: np.ndarray = ends * (len(ordered) / ends[-1])
    return scaled


def _cut(
    slot_lengths: np.ndarray, max_examples: int, max_tokens: int | None, bucket_batches: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bucket of each slot, int64 (N,), and the first slot of each batch with N at the end, int64 (steps + 1,).

    `slot_lengths` int64 (N,), falling: the longest example that each slot can draw.
    """
    rising = (-slot_lengths).tolist()
    count = len(rising)
    buckets = np.empty(count, np.int64)
    starts: list[np.ndarray] = []
    begin, bucket = 0, 0
    while begin < count:
        longest = -rising[begin]
        size = max_examples if max_tokens is None else min(max_examples, max_tokens // longest)
        similar = bisect.bisect_right(rising, -_SIMILAR * longest, begin) - begin
        end = min(count, begin + size * max(bucket_batches, similar // size))
        buckets[begin:end] = bucket
        starts.append(np.arange(begin, end, size))
        begin, bucket = end, bucket + 1
    return buckets, np.concatenate([*starts, [count]])
