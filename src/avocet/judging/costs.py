"""What judging costs: prices, usage, and the accounts of a run.

The price table is small and dated; `--price` overrides it. A model that is not in it has no known cost, and that is
said, never taken for zero. Costs are kept apart by how sure they are: what a reply's usage says, and what attempts
without a reply may have been billed (a request that timed out was perhaps answered into the void).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from avocet.errors import ConfigError
from avocet.records import Record

PRICES_AS_OF = "2026-06"
"""When `PRICES` was last compared with what vendors publish."""

_MILLION = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage(Record):
    """Tokens of one call. Output includes reasoning that the reply does not show."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Those of the prompt that the server had in its own prefix cache."""
    estimated: bool = False
    """The server did not say; the numbers are guesses from the length of the texts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Price(Record):
    """USD per million tokens."""

    input_usd: float
    output_usd: float
    cached_usd: float | None = None
    """For prompt tokens from the server's prefix cache; None: as other prompt tokens."""
    max_prompt_tokens: int | None = None
    """Longer prompts are billed at rates that the table does not have: their cost is unknown."""

    def __post_init__(self) -> None:
        for name in ("input_usd", "output_usd", "cached_usd"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"Price: {name} must be a number >= 0 (USD per million tokens), got {value}")

    def cost_usd(self, usage: Usage) -> float | None:
        """None for prompts that are longer than the price holds for."""
        if self.max_prompt_tokens is not None and usage.prompt_tokens > self.max_prompt_tokens:
            return None
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        cached_usd = self.input_usd if self.cached_usd is None else self.cached_usd
        total = (usage.prompt_tokens - cached) * self.input_usd + cached * cached_usd
        return (total + usage.completion_tokens * self.output_usd) / _MILLION


def _price(input_usd: float, cached_usd: float | None, output_usd: float, limit: int | None = None) -> Price:
    return Price(input_usd=input_usd, cached_usd=cached_usd, output_usd=output_usd, max_prompt_tokens=limit)


PRICES: Mapping[str, Price] = MappingProxyType(
    {
        "gpt-3.5-turbo": _price(0.50, None, 1.50),
        "gpt-3.5-turbo-0125": _price(0.50, None, 1.50),
        "gpt-4.1": _price(2.00, 0.50, 8.00),
        "gpt-4.1-mini": _price(0.40, 0.10, 1.60),
        "gpt-4.1-nano": _price(0.10, 0.025, 0.40),
        "gpt-4o": _price(2.50, 1.25, 10.00),
        "gpt-4o-2024-05-13": _price(5.00, None, 15.00),
        "gpt-4o-mini": _price(0.15, 0.075, 0.60),
        "gpt-5": _price(1.25, 0.125, 10.00),
        "gpt-5-mini": _price(0.25, 0.025, 2.00),
        "gpt-5-nano": _price(0.05, 0.005, 0.40),
        "o3": _price(2.00, 0.50, 8.00),
        "o4-mini": _price(1.10, 0.275, 4.40),
        "gemini-2.5-pro": _price(1.25, 0.125, 10.00, 200_000),
    }
)
"""Standard rates by model name. A name may continue with a date ("gpt-4.1-2025-04-14"); any other continuation is
another model at another price ("gpt-5-pro")."""

_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}\Z")
_VENDOR = re.compile(r"\A(?:openai|google|models)/")


def find_price(model: str) -> Price | None:
    """The listed price of a model, or None. A vendor's prefix ("openai/gpt-4.1") and a date at the end may be there."""
    name = _VENDOR.sub("", model)
    return PRICES.get(name) or PRICES.get(_DATE.sub("", name))


def parse_price(text: str) -> Price:
    """Read `--price IN,OUT` or `--price IN,OUT,CACHED` (USD per million tokens). Raises `ConfigError`."""
    parts = text.split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3):
        raise ConfigError(
            f"a price is IN,OUT or IN,OUT,CACHED in USD per million tokens, for example 2,8; got {text!r}"
        )
    return Price(input_usd=numbers[0], output_usd=numbers[1], cached_usd=numbers[2] if len(numbers) == 3 else None)


def read_usage(data: object, estimate: Usage) -> Usage:
    """The `usage` object of a reply as `Usage`; `estimate` for what is missing or absurd.

    Some servers leave reasoning out of `completion_tokens` and count it only in `total_tokens`; it is billed as output.
    """
    if not isinstance(data, Mapping):
        return estimate
    prompt, completion, total = (_count(data.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    if prompt is None or completion is None:
        return estimate
    details = data.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else None
    completion = max(completion, (total or 0) - prompt)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=min(cached or 0, prompt))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


@dataclasses.dataclass(kw_only=True)
class Account:
    """What one judge did in this run."""

    calls: int = 0
    """Questions that were answered by the server."""
    hits: int = 0
    """Questions that were answered from the cache."""
    retries: int = 0
    """Attempts beyond the first of each call."""
    reasks: int = 0
    """Questions that were repeated because the reply could not be read."""
    failed: int = 0
    """Questions that got no reply."""
    unusable: int = 0
    """Of the calls: replies that were cut off, empty or withheld. Paid for, not cached."""
    not_sent: int = 0
    """Questions of a dry run."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    num_estimated: int = 0
    """Calls whose server did not say how many tokens they took."""
    cost_usd: float = 0.0
    num_unpriced: int = 0
    """Calls whose cost is not known; `cost_usd` leaves them out."""
    possible_usd: float = 0.0
    """What attempts without a reply may have cost on top, at most."""
    call_seconds: float = 0.0
    """Sum over calls, from first attempt to reply."""

    def add_usage(self, usage: Usage, cost_usd: float | None) -> None:
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.cached_tokens += usage.cached_tokens
        self.num_estimated += usage.estimated
        if cost_usd is None:
            self.num_unpriced += 1
        else:
            self.cost_usd += cost_usd

    def __add__(self, other: Account) -> Account:
        names = [field.name for field in dataclasses.fields(self)]
        return Account(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSummary(Record):
    """The accounts of a run, per judge and in all. Of a dry run tokens and cost are estimates of what would be sent."""

    model: str
    dry_run: bool
    wall_seconds: float
    """From the first question to the last answer."""
    judges: dict[str, dict[str, Any]]
    """The fields of `Account` for each judge."""
    total: dict[str, Any]

    def lines(self) -> list[str]:
        """For people: one line per judge, and one in all when there are several."""
        rows = list(self.judges.items())
        if len(rows) != 1:
            rows.append(("all", self.total))
        return [f"{name}: {self._line(row)}" for name, row in rows] + [f"wall time: {self.wall_seconds:.1f} s"]

    def _line(self, row: Mapping[str, Any]) -> str:
        tokens = f"{row['prompt_tokens']:,} + {row['completion_tokens']:,} tokens"
        if self.dry_run:
            return f"{row['not_sent']} calls not sent, {row['hits']} cached, about {tokens}, {_cost(row, 'at most ')}"
        rare = {"reasks": "asked again", "failed": "failed", "unusable": "unusable"}
        notes = "".join(f", {row[name]} {words}" for name, words in rare.items() if row[name])
        if row["num_estimated"]:
            notes += f", tokens of {row['num_estimated']} calls estimated"
        return f"{row['calls']} calls, {row['hits']} cached, {row['retries']} retries{notes}, {tokens}, {_cost(row)}"


def _cost(row: Mapping[str, Any], qualifier: str = "") -> str:
    if row["num_unpriced"] and row["num_unpriced"] == row["calls"] + row["not_sent"]:
        return "cost unknown (give --price IN,OUT)"
    text = f"{qualifier}${row['cost_usd']:.4f}"
    if row["possible_usd"]:
        text += f" (and up to ${row['possible_usd']:.4f} for attempts without a reply)"
    if row["num_unpriced"]:
        text += f", cost of {row['num_unpriced']} calls unknown"
    return text
