"""What reading a data set gives: examples, preference pairs, everything that was refused, and what was read otherwise.

No item disappears: it is an example, a pair, or a `Rejected` with the place and the reason.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable

from avocet.records import PreferencePair, Record, TrainingExample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejected(Record):
    """An item that cannot be used."""

    where: str
    """File and line, file and item number, or shard and member."""
    reason: str


Outcome = TrainingExample | PreferencePair | Rejected
"""What one item of a file becomes; an item with several questions becomes several."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleSet:
    """The items of one or more files, in their order."""

    examples: tuple[TrainingExample, ...] = ()
    pairs: tuple[PreferencePair, ...] = ()
    """Two answers to one question, the first the better one. Files say nothing of metrics and rounds: `chosen_metrics`
    and `rejected_metrics` are empty and `round` is 1 unless the native format holds them."""
    rejected: tuple[Rejected, ...] = ()
    notes: dict[str, int] = dataclasses.field(default_factory=dict)
    """What was read in another way than it stands in the file -> for how many items."""
    formats: dict[str, str] = dataclasses.field(default_factory=dict)
    """Path -> the format that it was read as."""

    def __add__(self, other: ExampleSet) -> ExampleSet:
        return join_sets([self, other])

    @property
    def num_items(self) -> int:
        """Examples, pairs and rejected items together."""
        return len(self.examples) + len(self.pairs) + len(self.rejected)

    def __repr__(self) -> str:
        return (
            f"ExampleSet({len(self.examples)} examples, {len(self.pairs)} pairs, {len(self.rejected)} rejected, "
            f"formats={self.formats})"
        )


def join_sets(sets: Iterable[ExampleSet]) -> ExampleSet:
    """All of them as one, in order."""
    sets = list(sets)
    notes: Counter[str] = Counter()
    formats: dict[str, str] = {}
    for one in sets:
        notes.update(one.notes)
        formats |= one.formats
    return ExampleSet(
        examples=tuple(example for one in sets for example in one.examples),
        pairs=tuple(pair for one in sets for pair in one.pairs),
        rejected=tuple(rejected for one in sets for rejected in one.rejected),
        notes=dict(notes),
        formats=formats,
    )


def collect(outcomes: Iterable[Outcome]) -> ExampleSet:
    """Sort the outcomes of one file; notes and formats are the caller's."""
    examples: list[TrainingExample] = []
    pairs: list[PreferencePair] = []
    rejected: list[Rejected] = []
    for outcome in outcomes:
        if isinstance(outcome, TrainingExample):
            examples.append(outcome)
        elif isinstance(outcome, PreferencePair):
            pairs.append(outcome)
        else:
            rejected.append(outcome)
    return ExampleSet(examples=tuple(examples), pairs=tuple(pairs), rejected=tuple(rejected))
