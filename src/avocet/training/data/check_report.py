"""The report of a check: problems, counts, length statistics; as a record and as Markdown."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from avocet.records import Record
from avocet.training.data.records import Rejected

ProblemKind = Literal[
    "missing_file",
    "broken_media",
    "missing_sound",
    "missing_picture",
    "interval_outside",
    "interval_unnamed",
    "empty_text",
    "one_id_two_clips",
    "prompt_refused",
    "too_long",
    "silent_sound",
    "repeated_example",
    "same_target",
    "media_warning",
]

WARNINGS: frozenset[ProblemKind] = frozenset(
    {"missing_picture", "interval_unnamed", "silent_sound", "repeated_example", "same_target", "media_warning"}
)
"""Kinds that are reported but do not make a data set broken."""

_BARS = 30
_SHOWN = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem(Record):
    """Something wrong with one item."""

    kind: ProblemKind
    clip_id: str
    path: str
    message: str

    @property
    def is_warning(self) -> bool:
        return self.kind in WARNINGS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distribution(Record):
    """How a number is distributed over the items."""

    unit: str
    num: int
    total: float
    smallest: float
    mean: float
    median: float
    percentile_90: float
    percentile_99: float
    largest: float
    edges: tuple[float, ...]
    """Borders of the histogram's bins, each half-open, the last closed."""
    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckReport(Record):
    """What a data set holds and what is wrong with it."""

    num_examples: int
    num_pairs: int
    num_clips: int
    """Different (file, interval)."""
    decoded: bool
    """Whether all media were decoded, or only their headers read."""
    model: str | None
    tasks: dict[str, int]
    sound: dict[str, int]
    """Examples and pairs whose sound is present, silent, absent, undecodable (the middle and the last are known by
    decoding only), or unknown because the file cannot be read."""
    notes: dict[str, int]
    rejected: tuple[Rejected, ...]
    problems: tuple[Problem, ...]
    lengths: dict[str, Distribution]
    """"duration", "target_words", and with a model "target_tokens", "prompt_tokens", "all_tokens"; over examples and
    pairs whose media could be read. The target of a pair is its chosen answer."""

    @property
    def counts(self) -> dict[str, int]:
        """Kind of problem -> how many."""
        return dict(Counter(str(problem.kind) for problem in self.problems))

    @property
    def num_broken(self) -> int:
        """Rejected items and problems that are more than warnings."""
        return len(self.rejected) + sum(not problem.is_warning for problem in self.problems)

    def markdown(self) -> str:
        """The report as a page."""
        read = "decoded in full" if self.decoded else "headers only (`--decode` reads everything)"
        tasks = ", ".join(f"{task} {count}" for task, count in sorted(self.tasks.items()))
        lines = [
            "# Check of training data",
            "",
            f"{self.num_examples} examples ({tasks or 'none'}) and {self.num_pairs} pairs on {self.num_clips} clips; "
            f"media: {read}; model: {self.model or 'none'}.",
            "",
            "Sound: " + ", ".join(f"{status} {count}" for status, count in sorted(self.sound.items())) + ".",
            "",
            f"**{self.num_broken} broken**, {sum(problem.is_warning for problem in self.problems)} warnings.",
        ]
        lines += self._lengths() + self._problems()
        if self.rejected:
            lines += ["", f"## Rejected items ({len(self.rejected)})", ""]
            lines += [f"- {_cell(one.where)}: {_cell(one.reason)}" for one in self.rejected[:_SHOWN]]
            lines += _more(len(self.rejected))
        if self.notes:
            lines += ["", "## Read in another way", ""]
            lines += [f"- {count} x {_cell(note)}" for note, count in sorted(self.notes.items())]
        return "\n".join(lines) + "\n"

    def _lengths(self) -> list[str]:
        lines = ["", "## Lengths", "", "| what | n | total | min | mean | median | 90 % | 99 % | max |"]
        lines += ["|---|" + "---:|" * 8]
        for name, one in self.lengths.items():
            numbers = (one.smallest, one.mean, one.median, one.percentile_90, one.percentile_99, one.largest)
            cells = " | ".join(f"{number:.1f}" for number in numbers)
            lines.append(f"| {name} ({one.unit}) | {one.num} | {one.total:.0f} | {cells} |")
        for name, one in self.lengths.items():
            lines += ["", f"### {name} ({one.unit})", "", "```", *histogram_lines(one), "```"]
        return lines

    def _problems(self) -> list[str]:
        lines = []
        for kind, count in sorted(self.counts.items()):
            weight = "warning" if kind in WARNINGS else "broken"
            lines += ["", f"## {kind} ({count}, {weight})", ""]
            found = [problem for problem in self.problems if problem.kind == kind]
            lines += [
                f"- {_cell(one.clip_id)} ({_cell(one.path)}): {_cell(one.message)}" for one in found[:_SHOWN]
            ] + _more(count)
        return lines


def distribution(values: Sequence[float], unit: str) -> Distribution | None:
    """Of finite numbers; None of none. Bins have round borders, at most ten of them."""
    if not values:
        return None
    data = np.asarray(values, dtype=np.float64)
    # Nobody counts half words.
    edges = _edges(float(data.max()), smallest_step=0.0 if unit == "seconds" else 1.0)
    counts, _ = np.histogram(data, bins=edges)
    median, high, highest = np.percentile(data, (50, 90, 99))
    return Distribution(
        unit=unit,
        num=len(data),
        total=float(data.sum()),
        smallest=float(data.min()),
        mean=float(data.mean()),
        median=float(median),
        percentile_90=float(high),
        percentile_99=float(highest),
        largest=float(data.max()),
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
    )


def histogram_lines(one: Distribution) -> list[str]:
    """The histogram as text, one line per bin."""
    most = max(one.counts)
    width = max(len(f"{edge:g}") for edge in one.edges)
    return [
        f"{low:>{width}g} - {high:>{width}g}  {count:>8}  {'#' * math.ceil(_BARS * count / most)}".rstrip()
        for low, high, count in zip(one.edges, one.edges[1:], one.counts, strict=False)
    ]


def _edges(largest: float, smallest_step: float) -> np.ndarray:
    """0, step, 2 step, ... with a step of 1, 2 or 5 times a power of ten, at most ten bins."""
    rough = max(largest, 1e-9) / 10
    power = 10.0 ** math.floor(math.log10(rough))
    # 1e-9: a rough step of exactly 2 must not become 5 by rounding.
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    step = max(step, smallest_step)
    return np.arange(math.ceil(largest / step * (1 - 1e-12)) + 1 if largest else 2) * step


def _cell(text: str) -> str:
    """Untrusted text on one line, without a meaning to Markdown."""
    flat = " ".join(text.split())[:300]
    return "".join("\\" + letter if letter in "\\`*_[]<>|#" else letter for letter in flat)


def _more(count: int) -> list[str]:
    return [f"- ... and {count - _SHOWN} more; the JSON report has all"] if count > _SHOWN else []
