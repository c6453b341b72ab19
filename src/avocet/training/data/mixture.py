"""Several data sets as one, each with a weight.

A weight is how often an example of a source is drawn relative to one of a source with weight 1; the share of a source
in training is weight x number of examples / the sum of these. Weights are per example, so that
`training.inputs.LengthPlan(weights=...)` takes them as they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

from avocet.errors import ConfigError
from avocet.records import PreferencePair, Record, Task, TrainingExample
from avocet.training.data.examples import Format, read_examples
from avocet.training.data.records import ExampleSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSource(Record):
    """One file or folder of a mixture."""

    path: str
    weight: float = 1.0
    """How often each of its examples is drawn, relative to a weight of 1."""
    task: Task | None = None
    """The task of all its examples instead of their own or the guess."""
    format: Format = "auto"
    media_root: str | None = None
    """Where relative media paths begin; the folder of the file if None."""
    limit: int | None = None
    """Only the first so many examples and pairs."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("DataSource: path must not be empty")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ConfigError(f"DataSource {self.path}: weight must be a number > 0, got {self.weight}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"DataSource {self.path}: limit must be >= 1 or None, got {self.limit}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceReport(Record):
    """What one source gave."""

    path: str
    format: str
    weight: float
    num_examples: int
    num_pairs: int
    num_rejected: int
    share: float
    """Of the draws when examples are drawn by weight, from 0 to 1."""
    tasks: dict[str, int]
    notes: dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureReport(Record):
    """What a mixture is made of."""

    sources: tuple[SourceReport, ...]
    num_examples: int
    num_pairs: int
    num_rejected: int
    tasks: dict[str, int]

    def lines(self) -> list[str]:
        """One line per source and a total, to print before training."""
        lines = [
            f"{source.path}: {source.format}, {source.num_examples} examples and {source.num_pairs} pairs, weight "
            f"{source.weight:g}, {100 * source.share:.1f} % of the draws; {source.num_rejected} rejected"
            for source in self.sources
        ]
        tasks = ", ".join(f"{task} {count}" for task, count in sorted(self.tasks.items()))
        return [*lines, f"together {self.num_examples} examples ({tasks or 'none'}) and {self.num_pairs} pairs"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairMixture:
    """The preference pairs of a mixture, with their weights and everything that was refused."""

    pairs: tuple[PreferencePair, ...]
    weights: tuple[float, ...]
    report: MixtureReport


def load_mixture(
    sources: Sequence[DataSource],
) -> tuple[tuple[TrainingExample, ...], tuple[float, ...], MixtureReport]:
    """The examples of all sources in order, the weight of each, and what each source gave.

    Pairs are counted in the report and not among the examples; `load_pairs` gives them. Raises `ConfigError` without
    any source or example, and what `read_examples` raises.
    """
    sets = _read(sources)
    report = _report(sources, sets, [len(one.examples) for one in sets])
    if not report.num_examples:
        hint = "; it holds pairs, which are read by load_pairs" if report.num_pairs else ""
        raise ConfigError(f"no example in {', '.join(source.path for source in sources)}{hint}{_first_reason(sets)}")
    examples = tuple(example for one in sets for example in one.examples)
    weights = tuple(source.weight for source, one in zip(sources, sets, strict=True) for _ in one.examples)
    return examples, weights, report


def load_pairs(sources: Sequence[DataSource]) -> PairMixture:
    """The preference pairs of all sources likewise; shares are of the draws of pairs."""
    sets = _read(sources)
    report = _report(sources, sets, [len(one.pairs) for one in sets])
    if not report.num_pairs:
        raise ConfigError(f"no pair in {', '.join(source.path for source in sources)}{_first_reason(sets)}")
    return PairMixture(
        pairs=tuple(pair for one in sets for pair in one.pairs),
        weights=tuple(source.weight for source, one in zip(sources, sets, strict=True) for _ in one.pairs),
        report=report,
    )


def load_pairs_and_examples(
    sources: Sequence[DataSource],
) -> tuple[tuple[PreferencePair | TrainingExample, ...], tuple[float, ...], MixtureReport]:
    """Pairs and, after them, examples of all sources, with one weight each: what a stage with preferences draws from.

    Raises `ConfigError` without any pair, and what `read_examples` raises.
    """
    sets = _read(sources)
    report = _report(sources, sets, [len(one.pairs) + len(one.examples) for one in sets])
    if not report.num_pairs:
        raise ConfigError(f"no pair in {', '.join(source.path for source in sources)}{_first_reason(sets)}")
    items: list[PreferencePair | TrainingExample] = []
    weights: list[float] = []
    for source, one in zip(sources, sets, strict=True):
        items += one.pairs
        weights += [source.weight] * len(one.pairs)
    for source, one in zip(sources, sets, strict=True):
        items += one.examples
        weights += [source.weight] * len(one.examples)
    return tuple(items), tuple(weights), report


def _read(sources: Sequence[DataSource]) -> list[ExampleSet]:
    if not sources:
        raise ConfigError("a mixture needs at least one DataSource")
    return [
        read_examples(
            source.path, format=source.format, media_root=source.media_root, task=source.task, limit=source.limit
        )
        for source in sources
    ]


def _report(sources: Sequence[DataSource], sets: Sequence[ExampleSet], drawn: Sequence[int]) -> MixtureReport:
    mass = [source.weight * count for source, count in zip(sources, drawn, strict=True)]
    tasks = [Counter(str(example.task) for example in one.examples) for one in sets]
    return MixtureReport(
        sources=tuple(
            SourceReport(
                path=source.path,
                format=one.formats[source.path],
                weight=source.weight,
                num_examples=len(one.examples),
                num_pairs=len(one.pairs),
                num_rejected=len(one.rejected),
                share=part / (sum(mass) or 1.0),
                tasks=dict(counts),
                notes=one.notes,
            )
            for source, one, part, counts in zip(sources, sets, mass, tasks, strict=True)
        ),
        num_examples=sum(len(one.examples) for one in sets),
        num_pairs=sum(len(one.pairs) for one in sets),
        num_rejected=sum(len(one.rejected) for one in sets),
        tasks=dict(sum(tasks, Counter())),
    )


def _first_reason(sets: Sequence[ExampleSet]) -> str:
    rejected = [one for found in sets for one in found.rejected]
    if not rejected:
        return ""
    return f"; {len(rejected)} items were rejected, the first: {rejected[0].where}: {rejected[0].reason}"
