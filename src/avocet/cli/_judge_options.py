"""The options of every command that asks a judge, and the client that they stand for."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from avocet.errors import ConfigError

if TYPE_CHECKING:
    from avocet.judging.client import JudgeClient
    from avocet.judging.messages import CallParameters

EXACT = "exact"
"""Name of the theatre's own judge, for commands that can use it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """Whom to ask, how fast, and for how much. The key comes from AVOCET_JUDGE_API_KEY or OPENAI_API_KEY."""

    judge: str | None = None
    """The judge's model, as its server calls it (gpt-4.1, ...)."""
    base_url: str | None = None
    """Address of the judge's server, with /v1; AVOCET_JUDGE_BASE_URL or OPENAI_BASE_URL if not given."""
    price: str | None = None
    """IN,OUT or IN,OUT,CACHED in USD per million tokens, for models that are not in the table."""
    max_cost: float | None = None
    """Stop before more than so many USD are spent."""
    dry_run: bool = False
    """Send nothing; say how many calls and tokens it would be, and what they would cost."""
    ask_again: bool = False
    """Where the cache has a reply that cannot be read, ask again. Without it the same run gives the same verdicts."""
    concurrency: int = 16
    """Calls with the judge's server at once."""
    requests_per_minute: float | None = None
    """Calls per minute at most."""
    tokens_per_minute: float | None = None
    """Tokens per minute at most, of questions and replies together."""
    attempt_timeout: float = 120.0
    """Seconds until an attempt is given up and made again."""
    deadline: float = 600.0
    """Seconds for a call with all its attempts."""
    judge_temperature: float = 0.0
    """Of the judge's sampling; negative leaves it to the server, for models that refuse it."""
    judge_max_tokens: int = 4096
    """Longest reply, reasoning included."""
    cache: Path | None = None
    """Where replies are kept, so that nothing is asked twice; ~/.cache/avocet/judge.sqlite if not given."""

    def open_client(self, stack: contextlib.ExitStack, model: str | None = None) -> JudgeClient:
        """A client for `model` (the judge if not given), whose cache closes with `stack`.

        Raises `ConfigError` without a model, and what `JudgeClient` and `ReplyCache` raise.
        """
        from avocet.judging.cache import ReplyCache
        from avocet.judging.client import ClientSettings, JudgeClient
        from avocet.judging.costs import parse_price

        name = model or self.judge
        if name is None:
            raise ConfigError("name the judge's model with --judge, for example --judge gpt-4.1")
        if name == EXACT:
            raise ConfigError("the exact judge knows the truth of theatre clips alone; name a model: --judge gpt-4.1")
        path = self.cache or default_cache_path()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the folder of the cache {path} cannot be made: {error.strerror or error}") from error
        return JudgeClient(
            name,
            base_url=self.base_url,
            settings=ClientSettings(
                concurrency=self.concurrency,
                requests_per_minute=self.requests_per_minute,
                tokens_per_minute=self.tokens_per_minute,
                attempt_timeout_seconds=self.attempt_timeout,
                deadline_seconds=self.deadline,
            ),
            cache=stack.enter_context(ReplyCache(path)),
            price=None if self.price is None else parse_price(self.price),
            max_cost_usd=self.max_cost,
            ask_again=self.ask_again,
            dry_run=self.dry_run,
        )

    def parameters(self) -> CallParameters:
        """How the judge samples."""
        from avocet.judging.messages import CallParameters

        temperature = None if self.judge_temperature < 0 else self.judge_temperature
        return CallParameters(temperature=temperature, max_tokens=self.judge_max_tokens)


def default_cache_path() -> Path:
    """Below the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "avocet" / "judge.sqlite"
