"""The one client through which judges ask language models.

    async with JudgeClient("gpt-4.1", cache=ReplyCache("judge.sqlite")) as client:
        reply = await client.complete(ChatRequest(messages=(Message.of_text("user", "..."),)))

The server is any that speaks the chat-completions protocol. Address and key come from the arguments, else from
AVOCET_JUDGE_BASE_URL and AVOCET_JUDGE_API_KEY, else from OPENAI_BASE_URL and OPENAI_API_KEY.

A call is answered from the cache if it can be. Otherwise it waits for a place (concurrency, pace per minute, ceiling of
costs) and is attempted until it succeeds, runs out of attempts or runs into its deadline, which starts with the first
attempt. Waits between attempts are drawn uniformly from [0, min(cap, base * 2^k)) ("full jitter"); when the server
says `Retry-After`, nobody sends anything before that.

Replies in the form of a JSON schema are asked for where a schema is given. A server that refuses the request with it
and accepts it without is not asked again; prompts therefore describe the form in words as well.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import random
import time
import urllib.parse
from types import TracebackType

from avocet.errors import ConfigError
from avocet.judging._books import Books, Call
from avocet.judging._transport import DEFAULT_BASE_URL, AttemptFailed, Refused, ServerReply, Transport, Turn
from avocet.judging.cache import ReplyCache
from avocet.judging.costs import Price, RunSummary, Usage, find_price
from avocet.judging.errors import CallFailed, JudgeStop, NotSent
from avocet.judging.limits import CostCeiling, Pace, Pause
from avocet.judging.messages import ChatRequest, Reply
from avocet.records import Record

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClientSettings(Record):
    """How a client treats its server."""

    concurrency: int = 16
    """Attempts in flight at once."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    """Prompt and reply together; scheduled by an estimate and corrected by what the server counts."""
    max_retries: int = 6
    """Attempts beyond the first."""
    attempt_timeout_seconds: float = 120.0
    deadline_seconds: float = 600.0
    """For a call with all its attempts and the waits between them."""
    backoff_base_seconds: float = 0.5
    backoff_cap_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ConfigError(f"ClientSettings: concurrency must be >= 1, got {self.concurrency}")
        if self.max_retries < 0:
            raise ConfigError(f"ClientSettings: max_retries must be >= 0, got {self.max_retries}")
        for name in ("requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"ClientSettings: {name} must be > 0 or None, got {value}")
        for name in ("attempt_timeout_seconds", "deadline_seconds", "backoff_base_seconds", "backoff_cap_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"ClientSettings: {name} must be > 0, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Session:
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    transport: Transport
    slots: asyncio.Semaphore


class JudgeClient:
    """Asks one model on one server.

    Args:
        model: the name that the server knows the model by.
        base_url, api_key: see the module; a server other than the default needs no key.
        settings: limits and patience.
        cache: where replies are looked up and kept; without one every question is sent.
        price: overrides the price table.
        max_cost_usd: ceiling on what this client may spend; needs a known price.
        ceiling: in place of that, one that clients on the same event loop share.
        ask_again: do not take a reply of an earlier run from the cache when it cannot be read.
        dry_run: send nothing; `complete` raises `NotSent` for what is not in the cache, and the summary says how many
            calls, tokens and dollars it would have been.

    One event loop at a time may use it; it may be used in another after `disconnect`. Raises `ConfigError` for a
    missing key, impossible settings, and a ceiling without a price.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        settings: ClientSettings | None = None,
        cache: ReplyCache | None = None,
        price: Price | None = None,
        max_cost_usd: float | None = None,
        ceiling: CostCeiling | None = None,
        ask_again: bool = False,
        dry_run: bool = False,
    ) -> None:
        if max_cost_usd is not None and ceiling is not None:
            raise ConfigError("give max_cost_usd or a ceiling that is shared, not both")
        self.model = model
        self.settings = settings or ClientSettings()
        self.base_url, self._api_key = _server(base_url, api_key, dry_run)
        self.cache = cache
        self.price = price or find_price(model)
        self.ask_again = ask_again
        self.dry_run = dry_run
        self.ceiling = ceiling or CostCeiling(max_usd=max_cost_usd)
        """What this client may spend, alone or together with others."""
        if self.ceiling.max_usd is not None and self.price is None:
            raise ConfigError(
                f"the price of {model!r} is not known, so a cost ceiling cannot hold; give --price IN,OUT"
            )
        self._books = Books(model, self.price, cache)
        self._request_pace = Pace(self.settings.requests_per_minute, time.monotonic)
        self._token_pace = Pace(self.settings.tokens_per_minute, time.monotonic)
        self._pause = Pause(time.monotonic)
        self._session: _Session | None = None
        self._in_flight: dict[str, asyncio.Future[Reply | None]] = {}
        self._renewed: set[str] = set()
        self._schema_refused = False
        self._schema_accepted = False

    async def __aenter__(self) -> JudgeClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    async def complete(self, request: ChatRequest, *, renewing: bool = False) -> Reply:
        """The reply to one question.

        `renewing` does not take the one in the cache, which cannot be read, but asks again: once per client.

        Raises `CallFailed` when this question gets none, a `JudgeStop` when no question will, and `NotSent` in a dry
        run. With a cache, a question that is already on its way is not sent twice.
        """
        self._books.enter_question(request)
        key = request.key(self.model)
        renewing = renewing and key not in self._renewed
        stored = None if self.cache is None or renewing else self.cache.get(key)
        if stored is not None:
            self._books.enter_hit(request)
            return Reply(
                text=stored.text, finish_reason=stored.finish_reason, usage=stored.usage, from_cache=True, key=key
            )
        if self.dry_run:
            self._books.enter_not_sent(request)
            raise NotSent(f"dry run: the question of {request.judge} was not sent")
        if renewing and self.cache is not None:
            self._renewed.add(key)
            self.cache.forget(key)
        if self.cache is None:
            return await self._call(request, key)
        return await self._call_once(request, key)

    async def disconnect(self) -> None:
        """Close the connections. The client can be used again, also in another event loop."""
        session, self._session = self._session, None
        if session is not None:
            await session.transport.close()

    def summary(self) -> RunSummary:
        """The accounts of this client so far."""
        return self._books.summary(dry_run=self.dry_run)

    async def _call_once(self, request: ChatRequest, key: str) -> Reply:
        while (running := self._in_flight.get(key)) is not None:
            reply = await asyncio.shield(running)
            if reply is not None:  # None: whoever asked was cancelled
                self._books.enter_hit(request)
                return dataclasses.replace(reply, from_cache=True)
        outcome: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._in_flight[key] = outcome
        try:
            reply = await self._call(request, key)
            outcome.set_result(reply)
            return reply
        except Exception as error:
            outcome.set_exception(error)
            outcome.exception()  # marks it as seen: often nobody else waits
            raise
        finally:
            del self._in_flight[key]
            if not outcome.done():
                outcome.set_result(None)

    async def _call(self, request: ChatRequest, key: str) -> Reply:
        call = Call(request=request, key=key)
        try:
            answer = await self._attempt_until_deadline(call)
        except (CallFailed, JudgeStop) as error:
            self._books.enter_failure(call, str(error))
            raise
        return self._books.enter_answer(call, answer)

    async def _attempt_until_deadline(self, call: Call) -> ServerReply:
        try:
            async with asyncio.timeout(None) as deadline:
                return await self._attempt_until_answered(call, deadline)
        except TimeoutError as error:
            raise CallFailed(
                "timeout",
                f"the deadline of {self.settings.deadline_seconds:g} s is over; last: {call.last_problem}",
                call.num_attempts,
            ) from error

    async def _attempt_until_answered(self, call: Call, deadline: asyncio.Timeout) -> ServerReply:
        while True:
            structured = call.request.schema is not None and not (self._schema_refused or call.without_schema)
            try:
                answer = await self._attempt(call, deadline, structured)
            except Refused as error:
                if not structured or self._schema_accepted:
                    raise CallFailed("rejected", str(error), call.num_attempts) from error
                call.without_schema = True
            except AttemptFailed as error:
                call.last_problem = error.detail
                _log.debug("%s: attempt %d: %s", call.request.judge, call.num_attempts, error.detail)
                if call.num_attempts > self.settings.max_retries:
                    raise CallFailed(error.kind, error.detail, call.num_attempts) from error
                await asyncio.sleep(self._wait_before_next(call, error, deadline))
            else:
                self._note_schema(call, structured)
                return answer

    async def _attempt(self, call: Call, deadline: asyncio.Timeout, structured: bool) -> ServerReply:
        """One attempt, when its turn has come."""
        session, request = self._connected(), call.request
        at_most = self._books.usage_at_most(request)
        num_tokens = at_most.prompt_tokens + at_most.completion_tokens
        at_most_usd = self._at_most_usd(call, at_most)
        await self.ceiling.reserve(at_most_usd)
        call.num_attempts += 1
        spent_usd = 0.0

        async def before_sending() -> None:
            await self._wait_to_send(num_tokens)
            if call.started is None:
                call.started = time.monotonic()
                deadline.reschedule(session.loop.time() + self.settings.deadline_seconds)

        turn = Turn(session.slots, self.settings.attempt_timeout_seconds, before_sending)
        try:
            answer = await session.transport.send(request.body(self.model, structured=structured), turn)
            usage = self._books.usage(request, answer)
            self._token_pace.correct(usage.prompt_tokens + usage.completion_tokens - num_tokens)
            cost_usd = self._books.cost_usd(usage)
            spent_usd = at_most_usd if cost_usd is None else cost_usd
            return answer
        except BaseException as error:
            # An attempt that is cut short (by the deadline) may have been answered into the void.
            if getattr(error, "maybe_billed", isinstance(error, asyncio.CancelledError) and turn.was_sent):
                spent_usd = at_most_usd
                call.possible_usd += at_most_usd
            raise
        finally:
            self.ceiling.settle(at_most_usd, spent_usd)

    def _at_most_usd(self, call: Call, at_most: Usage) -> float:
        cost_usd = self._books.cost_usd(at_most)
        if cost_usd is None and self.ceiling.max_usd is not None:
            raise CallFailed(
                "rejected",
                f"the price of a prompt of about {at_most.prompt_tokens:,} tokens is not known, so the cost ceiling "
                "cannot hold; give --price IN,OUT",
                call.num_attempts,
            )
        return cost_usd or 0.0

    def _note_schema(self, call: Call, structured: bool) -> None:
        """Remember whether it was the schema that the server refused."""
        self._schema_accepted |= structured
        if call.without_schema and not self._schema_refused:
            _log.warning("%s at %s takes no JSON schema; replies are parsed from text", self.model, self.base_url)
            self._schema_refused = True

    async def _wait_to_send(self, num_tokens: int) -> None:
        seconds = max(self._request_pace.book(1), self._token_pace.book(num_tokens))
        while (wait := max(seconds, self._pause.seconds_left)) > 0:
            await asyncio.sleep(wait)
            seconds = 0.0

    def _wait_before_next(self, call: Call, error: AttemptFailed, deadline: asyncio.Timeout) -> float:
        """Seconds to wait before the next attempt. Raises `CallFailed` when it would come after the deadline."""
        exponent = min(call.num_attempts - 1, 30)
        longest = min(self.settings.backoff_cap_seconds, self.settings.backoff_base_seconds * 2**exponent)
        wait = random.uniform(0, longest)
        if error.wait_seconds is not None:
            # The jitter comes on top, lest all that were sent away come back at the same instant.
            wait += error.wait_seconds
        over = deadline.when()
        if over is not None and asyncio.get_running_loop().time() + wait >= over:
            raise CallFailed(
                error.kind,
                f"{error.detail}; the next attempt in {wait:.3g} s would come after the deadline of "
                f"{self.settings.deadline_seconds:g} s",
                call.num_attempts,
            ) from error
        if error.wait_seconds is not None:
            self._pause.extend(error.wait_seconds)
        return wait

    def _connected(self) -> _Session:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.loop.is_closed():
            slots = asyncio.Semaphore(self.settings.concurrency)
            self._session = _Session(loop=loop, transport=Transport(self.base_url, self._api_key), slots=slots)
        if self._session.loop is not loop:
            raise ConfigError("this JudgeClient is in use in another event loop; await its disconnect() there first")
        return self._session


def _server(base_url: str | None, api_key: str | None, dry_run: bool) -> tuple[str, str]:
    url = base_url or os.environ.get("AVOCET_JUDGE_BASE_URL") or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
    key = api_key or os.environ.get("AVOCET_JUDGE_API_KEY") or os.environ.get("OPENAI_API_KEY")
    if not _is_http_url(url):
        raise ConfigError(f"the judge's base URL must look like http://host:port/v1 or https://host/v1, got {url!r}")
    if not key and url == DEFAULT_BASE_URL and not dry_run:
        raise ConfigError(
            f"no key for {url}: set AVOCET_JUDGE_API_KEY (or OPENAI_API_KEY), or give the base URL of a server that "
            "needs none (AVOCET_JUDGE_BASE_URL)"
        )
    return url.rstrip("/"), key or "none"


def _is_http_url(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bad port or a bad IPv6 address
        return False
