"""Published results, to stand beside one's own: `published.json`, with where each row is from.

They were made with other judges and other code (see each row's note), so they give the range, not a ranking.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from importlib import resources

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
    note: str = ""
    """Judge, inputs, and what else makes it comparable or not."""


def published_rows(benchmark: str) -> list[PublishedRow]:
    """The rows of one benchmark, in the order of the file."""
    return [row for row in _all_rows() if row.benchmark == benchmark]


@functools.cache
def _all_rows() -> tuple[PublishedRow, ...]:
    text = resources.files("avocet.evaluation").joinpath("published.json").read_text(encoding="utf-8")
    return tuple(
        PublishedRow(
            benchmark=table["benchmark"], source=table["source"], note=table["note"], model=model, values=values
        )
        for table in json.loads(text)
        for model, values in table["rows"].items()
    )
