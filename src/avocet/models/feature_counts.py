"""What a feature store did, and whether it pays."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from typing import Literal

from avocet.records import Record

StoreMode = Literal["auto", "on", "off"]
KINDS = ("clip", "vision", "audio")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureCounts(Record):
    """What a store did in this process, over one kind of entry or several."""

    hits: int = 0
    misses: int = 0
    damaged: int = 0
    """Misses because a file was not what had been written."""
    bytes_read: int = 0
    bytes_written: int = 0
    compute_seconds: float = 0.0
    """Spent on misses: towers, and for clips decoding and spectrograms."""
    read_seconds: float = 0.0
    """Spent on hits: hashing and reading."""

    @property
    def hit_rate(self) -> float:
        """Share of hits, 0 before the first question."""
        return self.hits / max(self.hits + self.misses, 1)

    def __add__(self, other: FeatureCounts) -> FeatureCounts:
        mine, theirs = self.to_dict(), other.to_dict()
        return FeatureCounts(**{name: value + theirs[name] for name, value in mine.items()})


class FeatureTally:
    """Counts by kind of entry, and the switch of each kind.

    In mode "auto" a kind goes off when its last `window` hits together took longer than the computations that they
    saved, each as long as it took when the entry was made.
    """

    def __init__(self, mode: StoreMode, window: int) -> None:
        self._mode = mode
        self._off: set[str] = set(KINDS) if mode == "off" else set()
        self._counts = {kind: FeatureCounts() for kind in KINDS}
        self._recent: dict[str, deque[tuple[float, float]]] = {kind: deque(maxlen=window) for kind in KINDS}
        self._lock = threading.Lock()

    def is_on(self, kind: str) -> bool:
        return kind not in self._off

    def counts(self, kind: str) -> FeatureCounts:
        return self._counts[kind]

    @property
    def off(self) -> tuple[str, ...]:
        """The kinds that are off."""
        return tuple(kind for kind in KINDS if kind in self._off)

    def note(self, kind: str, more: FeatureCounts) -> None:
        with self._lock:
            self._counts[kind] += more

    def judge(self, kind: str, spent_seconds: float, saved_seconds: float) -> str | None:
        """Take a hit into account; a sentence if it was the one that switched its kind off."""
        with self._lock:
            recent = self._recent[kind]
            recent.append((spent_seconds, saved_seconds))
            spent, saved = (sum(column) for column in zip(*recent, strict=True))
            if self._mode != "auto" or kind in self._off or len(recent) != recent.maxlen or spent <= saved:
                return None
            self._off.add(kind)
        return (
            f"switched off for {kind}: the last {len(recent)} hits took {spent:.3g} s to read, computing them took "
            f"{saved:.3g} s. Put the folder on a faster disk, store bfloat16, or force it with mode 'on'"
        )
