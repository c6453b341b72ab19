"""Published results, to stand beside one's own: `published.json`, with where each row is from.

They were made with other judges and other code (see each row's note), so they give the range, not a ranking.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from importlib import resources

from avocet.evaluation.scores import PROTOCOL_SUFFIX, Score
from avocet.metrics.events import Protocol
from avocet.records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedRow(Record):
    """One model's results on one benchmark, as published."""

    benchmark: str
    model: str
    values: dict[str, float]
    """Score name -> value in the unit of `avocet.evaluation.scores`: fractions, grades."""
    source: str
    """Paper and table."""
    protocol: Protocol | None = None
    """The one of event rates that it was made with; None for other benchmarks."""
    note: str = ""
    """Judge, inputs, and what else makes it comparable or not."""


def published_rows(benchmark: str) -> list[PublishedRow]:
    """The rows of one benchmark, in the order of the file."""
    return [row for row in _all_rows() if row.benchmark == benchmark]


def variant_under(protocol: Protocol | None, scores: Sequence[Score]) -> str:
    """What own scores of `protocol` are called after their name: "" where it is the one that leads, or there is one."""
    ending = "" if protocol is None else PROTOCOL_SUFFIX[protocol]
    return ending if any(score.name.endswith(ending) for score in scores) else ""


def figures_under(protocol: Protocol | None, scores: Sequence[Score]) -> dict[str, Score]:
    """Own scores by the names that published ones have: where there are two protocols, those of `protocol`."""
    own = {score.name: score for score in scores}
    variant = variant_under(protocol, scores)
    if not variant:
        return own
    return own | {name.removesuffix(variant): score for name, score in own.items() if name.endswith(variant)}


@functools.cache
def _all_rows() -> tuple[PublishedRow, ...]:
    text = resources.files("avocet.evaluation").joinpath("published.json").read_text(encoding="utf-8")
    return tuple(
        PublishedRow(
            benchmark=table["benchmark"],
            source=table["source"],
            protocol=table.get("protocol"),
            note=table["note"],
            model=model,
            values=values,
        )
        for table in json.loads(text)
        for model, values in table["rows"].items()
    )
