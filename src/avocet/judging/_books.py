"""The accounts of one client: every question is entered once, with what it cost, when its fate is known."""

from __future__ import annotations

import dataclasses
import time

from avocet.judging._transport import ServerReply
from avocet.judging.cache import CachedReply, CallRecord, ReplyCache
from avocet.judging.costs import Account, Price, RunSummary, Usage, read_usage
from avocet.judging.messages import ChatRequest, Reply

_BYTES_PER_TOKEN = 3


@dataclasses.dataclass(kw_only=True)
class Call:
    """One question on its way to the server."""

    request: ChatRequest
    key: str
    started: float | None = None
    """Monotonic time of the first attempt."""
    num_attempts: int = 0
    possible_usd: float = 0.0
    last_problem: str = "no attempt was made"
    without_schema: bool = False
    """The server refused the request with the schema; it is tried without."""


class Books:
    """Accounts by judge, and the cache that replies and calls are written to."""

    def __init__(self, model: str, price: Price | None, cache: ReplyCache | None) -> None:
        self._model = model
        self._price = price
        self._cache = cache
        self.accounts: dict[str, Account] = {}
        self._first_question: float | None = None
        self._last_answer: float | None = None

    def account(self, request: ChatRequest) -> Account:
        return self.accounts.setdefault(request.judge, Account())

    def enter_question(self, request: ChatRequest) -> None:
        self.account(request).reasks += request.is_reask
        if self._first_question is None:
            self._first_question = time.monotonic()

    def enter_hit(self, request: ChatRequest) -> None:
        self.account(request).hits += 1
        self._last_answer = time.monotonic()

    def enter_not_sent(self, request: ChatRequest) -> None:
        usage = self.usage_at_most(request)
        account = self.account(request)
        account.not_sent += 1
        account.add_usage(usage, self.cost_usd(usage))
        self._last_answer = time.monotonic()

    def enter_answer(self, call: Call, answer: ServerReply) -> Reply:
        """Account for an answered call and cache the reply if it is whole. Returns what the cache holds."""
        usage = self.usage(call.request, answer)
        reply = Reply(text=answer.text, finish_reason=answer.finish_reason, usage=usage, from_cache=False, key=call.key)
        shortcoming = reply.shortcoming
        record = self._record(call, "answered" if shortcoming is None else "unusable", shortcoming, usage)
        account = self.account(call.request)
        account.calls += 1
        account.unusable += shortcoming is not None
        account.add_usage(usage, record.cost_usd)
        self._enter_attempts(call, record)
        if self._cache is None:
            return reply
        if shortcoming is not None:
            self._cache.record(record)
            return reply
        fresh = CachedReply(text=reply.text, finish_reason=reply.finish_reason, usage=usage, created=time.time())
        stored = self._cache.put(call.key, fresh, record)
        return dataclasses.replace(reply, text=stored.text, finish_reason=stored.finish_reason, usage=stored.usage)

    def enter_failure(self, call: Call, detail: str) -> None:
        """Account for a call without a reply."""
        record = self._record(call, "failed", detail, Usage(prompt_tokens=0, completion_tokens=0))
        self.account(call.request).failed += 1
        self._enter_attempts(call, record)
        if self._cache is not None:
            self._cache.record(record)

    def usage(self, request: ChatRequest, answer: ServerReply) -> Usage:
        """What the server counted, else an estimate."""
        completion_tokens = len(answer.text.encode()) // _BYTES_PER_TOKEN + 1
        prompt_tokens = request.estimated_prompt_tokens
        return read_usage(
            answer.usage, Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, estimated=True)
        )

    def usage_at_most(self, request: ChatRequest) -> Usage:
        """An estimate of the prompt and the longest reply."""
        return Usage(
            prompt_tokens=request.estimated_prompt_tokens,
            completion_tokens=request.parameters.max_tokens,
            estimated=True,
        )

    def cost_usd(self, usage: Usage) -> float | None:
        return None if self._price is None else self._price.cost_usd(usage)

    def summary(self, *, dry_run: bool) -> RunSummary:
        wall_seconds = 0.0
        if self._first_question is not None and self._last_answer is not None:
            wall_seconds = max(0.0, self._last_answer - self._first_question)
        return RunSummary(
            model=self._model,
            dry_run=dry_run,
            wall_seconds=wall_seconds,
            judges={name: dataclasses.asdict(account) for name, account in self.accounts.items()},
            total=dataclasses.asdict(sum(self.accounts.values(), Account())),
        )

    def _enter_attempts(self, call: Call, record: CallRecord) -> None:
        account = self.account(call.request)
        account.retries += max(0, call.num_attempts - 1)
        account.possible_usd += call.possible_usd
        account.call_seconds += record.seconds
        self._last_answer = time.monotonic()

    def _record(self, call: Call, outcome: str, detail: str | None, usage: Usage) -> CallRecord:
        return CallRecord(
            judge=call.request.judge,
            model=self._model,
            key=call.key,
            outcome=outcome,
            detail=detail,
            attempts=call.num_attempts,
            seconds=0.0 if call.started is None else time.monotonic() - call.started,
            usage=usage,
            cost_usd=None if outcome == "failed" else self.cost_usd(usage),
            possible_usd=call.possible_usd,
        )
