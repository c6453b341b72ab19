"""Prices, usage and accounts."""

from __future__ import annotations

import pytest

from avocet.errors import ConfigError
from avocet.judging import Price, Usage, find_price, parse_price
from avocet.judging.costs import PRICES, Account, read_usage

ESTIMATE = Usage(prompt_tokens=7, completion_tokens=3, estimated=True)


def test_cost_of_a_call() -> None:
    price = Price(input_usd=2.0, output_usd=8.0, cached_usd=0.5)
    usage = Usage(prompt_tokens=10_000, completion_tokens=1_000, cached_tokens=4_000)
    # 6000 * 2 + 4000 * 0.5 + 1000 * 8 = 22000 millionths.
    assert price.cost_usd(usage) == pytest.approx(0.022)
    # Without a rate of its own, what is cached costs as much as the rest: 20000 + 8000.
    assert Price(input_usd=2.0, output_usd=8.0).cost_usd(usage) == pytest.approx(0.028)


def test_a_price_that_holds_up_to_a_length() -> None:
    price = PRICES["gemini-2.5-pro"]
    assert price.cost_usd(Usage(prompt_tokens=200_000, completion_tokens=0)) == pytest.approx(0.25)
    assert price.cost_usd(Usage(prompt_tokens=200_001, completion_tokens=0)) is None


@pytest.mark.parametrize(
    ("model", "known_as"),
    [
        ("gpt-4.1", "gpt-4.1"),
        ("gpt-4.1-2025-04-14", "gpt-4.1"),
        ("openai/gpt-4.1-mini", "gpt-4.1-mini"),
        ("models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),  # dearer than its successors
        ("gpt-5-pro", None),  # twelve times the price of gpt-5
        ("gpt-4o-audio-preview", None),
        ("my-gpt-4.1", None),
        ("Qwen3-30B", None),
    ],
)
def test_models_are_found_by_name_and_not_by_likeness(model: str, known_as: str | None) -> None:
    assert find_price(model) == (None if known_as is None else PRICES[known_as])


def test_prices_on_the_command_line() -> None:
    assert parse_price("2,8") == Price(input_usd=2, output_usd=8)
    assert parse_price("2, 8, 0.5") == Price(input_usd=2, output_usd=8, cached_usd=0.5)
    assert parse_price("0,0").cost_usd(Usage(prompt_tokens=10**6, completion_tokens=10**6)) == 0


@pytest.mark.parametrize("text", ["", "2", "2;8", "a,b", "1,2,3,4"])
def test_what_is_no_price(text: str) -> None:
    with pytest.raises(ConfigError, match="a price is IN,OUT"):
        parse_price(text)


@pytest.mark.parametrize("text", ["-1,2", "nan,2", "2,inf"])
def test_impossible_prices(text: str) -> None:
    with pytest.raises(ConfigError, match="must be a number >= 0"):
        parse_price(text)


@pytest.mark.parametrize(
    ("data", "usage"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 20}, Usage(prompt_tokens=100, completion_tokens=20)),
        # 30 tokens of reasoning are only in the total.
        (
            {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 150},
            Usage(prompt_tokens=100, completion_tokens=50),
        ),
        (
            {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 64}},
            Usage(prompt_tokens=100, completion_tokens=20, cached_tokens=64),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 64}},
            Usage(prompt_tokens=10, completion_tokens=2, cached_tokens=10),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": None}, None),
        (None, ESTIMATE),
        ("many", ESTIMATE),
        ({"prompt_tokens": 10}, ESTIMATE),
        ({"prompt_tokens": True, "completion_tokens": 2}, ESTIMATE),
        ({"prompt_tokens": -1, "completion_tokens": 2}, ESTIMATE),
        ({"prompt_tokens": 1.5, "completion_tokens": 2}, ESTIMATE),
        ({"prompt_tokens": 10**30, "completion_tokens": 2}, ESTIMATE),
    ],
)
def test_usage_as_servers_tell_it(data: object, usage: Usage | None) -> None:
    assert read_usage(data, ESTIMATE) == (usage or Usage(prompt_tokens=10, completion_tokens=2))


def test_accounts_add_up() -> None:
    one, other = Account(calls=2, retries=1), Account(calls=3, hits=4)
    one.add_usage(Usage(prompt_tokens=10, completion_tokens=2, estimated=True), 0.5)
    one.add_usage(Usage(prompt_tokens=10, completion_tokens=2), None)
    both = one + other
    assert (both.calls, both.hits, both.retries, both.prompt_tokens) == (5, 4, 1, 20)
    assert (both.cost_usd, both.num_unpriced, both.num_estimated) == (0.5, 1, 1)
