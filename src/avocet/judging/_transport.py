"""One attempt of one call: the OpenAI SDK, and what its outcomes mean.

Any server that speaks the chat-completions protocol will do. The SDK's own retries are off; whether an attempt is worth
repeating, and when, is decided by the client.
"""

from __future__ import annotations

import asyncio
import dataclasses
import email.utils
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from avocet.judging.errors import AccessDenied, EndpointNotFound, FailureKind

if TYPE_CHECKING:
    from openai import APIStatusError

DEFAULT_BASE_URL = "https://api.openai.com/v1"

_MESSAGE_CHARS = 300
_STEPS_OF_SENDING = 5
"""Rounds of the event loop that a request that is ready takes to go out."""
_REPEATABLE = frozenset({408, 409, 425, 429})
"""Client errors that pass: time-out, conflict, too early, too many requests."""


class AttemptFailed(Exception):
    """An attempt without a reply that is worth repeating."""

    def __init__(
        self, kind: FailureKind, detail: str, *, wait_seconds: float | None = None, maybe_billed: bool = False
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.wait_seconds = wait_seconds
        """How long the server asks us to wait."""
        self.maybe_billed = maybe_billed
        """Whether the server may have produced a reply that did not arrive."""


class Refused(Exception):
    """The server refuses this request as it is (400, 413, 422, or 403 where other requests were accepted)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerReply:
    """The parts of a chat completion that matter here."""

    text: str
    finish_reason: str | None
    usage: Any
    """The `usage` object, unchecked."""


class Turn:
    """An attempt's place among those that may be with the server at once.

    It is taken when the request is ready to be sent and given back when the reply begins to arrive; preparing the next
    request and reading the reply happen meanwhile.

    Args:
        slots: the places.
        timeout_seconds: for the reply, from the moment that the place is taken.
        before_sending: awaited with the place held.
    """

    def __init__(
        self, slots: asyncio.Semaphore, timeout_seconds: float, before_sending: Callable[[], Awaitable[None]]
    ) -> None:
        self._slots = slots
        self._before_sending = before_sending
        self._holds_place = False
        self.timeout_seconds = timeout_seconds
        self.timer = asyncio.timeout(None)
        self.was_sent = False
        """Whether the request may have reached the server."""

    async def begin(self) -> None:
        await self._slots.acquire()
        self._holds_place = True
        await self._before_sending()
        self.was_sent = True
        self.timer.reschedule(asyncio.get_running_loop().time() + self.timeout_seconds)

    def end(self) -> None:
        if self._holds_place:
            self._holds_place = False
            self._slots.release()


_TURN: ContextVar[Turn] = ContextVar("_TURN")


async def _begin_turn(_request: object) -> None:
    await _TURN.get().begin()


async def _end_turn(response: Any) -> None:
    if response.status_code >= 400:
        return  # it may say that nobody should send for a while: read it first
    _TURN.get().end()
    # Let the request that has been waiting for the place go out before this reply is read and the next request made,
    # which takes a millisecond. With 64 places and replies after 200 ms that is 96 % of the ideal throughput, not 91 %.
    for _ in range(_STEPS_OF_SENDING):
        await asyncio.sleep(0)


class Transport:
    """Connections to one server; they belong to the event loop in which they are made.

    Args:
        base_url: where the server is, "/v1" included.
        api_key: sent as the bearer token; never shown in messages.
    """

    def __init__(self, base_url: str, api_key: str) -> None:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        self._api_key = api_key
        self._base_url = base_url
        self._has_answered = False
        self._sdk = AsyncOpenAI(
            base_url=base_url,
            api_key=api_key,
            max_retries=0,
            http_client=DefaultAsyncHttpxClient(
                event_hooks={"request": [_begin_turn], "response": [_end_turn]}, follow_redirects=False
            ),
        )

    async def send(self, body: Mapping[str, Any], turn: Turn) -> ServerReply:
        """One attempt, when its turn has come.

        Raises `AttemptFailed` when another may succeed, `Refused` when it cannot, and `AccessDenied` or
        `EndpointNotFound` when no request of this run can.
        """
        import openai

        token = _TURN.set(turn)
        try:
            async with turn.timer:
                # The body is ours and the reply is read here, strictly; the SDK's models would accept anything.
                text: str = await self._sdk.post(
                    "/chat/completions", cast_to=str, body=dict(body), options={"timeout": turn.timeout_seconds}
                )
        except (TimeoutError, openai.APITimeoutError) as error:
            detail = f"no reply within {turn.timeout_seconds:.3g} s"
            raise AttemptFailed("timeout", detail, maybe_billed=True) from error
        except openai.APIStatusError as error:
            raise self._meaning(error) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            detail = self._clean(f"{self._base_url}: {type(cause).__name__}: {cause}")
            # Nothing was sent where not even the connection came about.
            billed = type(cause).__name__ not in ("ConnectError", "ConnectTimeout")
            raise AttemptFailed("connection", detail, maybe_billed=billed) from error
        finally:
            _TURN.reset(token)
            turn.end()
        reply = self._read(text)
        self._has_answered = True
        return reply

    async def close(self) -> None:
        await self._sdk.close()

    def _meaning(self, error: APIStatusError) -> Exception:
        status = error.status_code
        message = self._clean(f"HTTP {status}: {_server_message(error)}")
        if status == 402 or (status == 429 and _error_code(error) == "insufficient_quota"):
            return AccessDenied(f"{self._base_url}: the account has nothing left to spend: {message}")
        # Some servers answer 403 to a single request whose content they do not like.
        if status == 401 or (status == 403 and not self._has_answered):
            return AccessDenied(
                f"{self._base_url} refuses access: {message}; check AVOCET_JUDGE_API_KEY (or OPENAI_API_KEY) and the "
                "base URL"
            )
        if status == 404:
            return EndpointNotFound(f"{self._base_url}: {message}; check the model's name and the base URL")
        if status >= 500 or status in _REPEATABLE:
            kind: FailureKind = "rate_limited" if status == 429 else "server_error"
            return AttemptFailed(kind, message, wait_seconds=retry_after_seconds(error.response.headers))
        return Refused(message)

    def _read(self, text: str) -> ServerReply:
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._malformed(f"the body is not JSON: {text[:80]!r}") from error
        choices = data.get("choices") if isinstance(data, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if choice is None or not isinstance(message, dict):
            raise self._malformed(f"the body has no message in choices[0]: {text[:80]!r}")
        finish_reason = choice.get("finish_reason")
        if message.get("refusal"):
            finish_reason = "refusal"
        # Lone surrogates (from JSON escapes) could be neither stored nor sent back.
        content = _content_text(message.get("content")).encode(errors="replace").decode()
        return ServerReply(
            text=content,
            finish_reason=finish_reason if isinstance(finish_reason, str) else None,
            usage=data.get("usage"),
        )

    def _malformed(self, detail: str) -> AttemptFailed:
        return AttemptFailed("malformed", self._clean(detail), maybe_billed=True)

    def _clean(self, message: str) -> str:
        """One short line without the key, which some servers echo."""
        line = " ".join(message.replace(self._api_key, "***").split())
        return line if len(line) <= _MESSAGE_CHARS else line[:_MESSAGE_CHARS] + "…"


def retry_after_seconds(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """What `Retry-After` (seconds or an HTTP date) or `retry-after-ms` asks for; None when absent or unreadable."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    if date is None:
        return None
    return max(0.0, email.utils.mktime_tz(date) - (time.time() if now is None else now))


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return ""


def _server_message(error: APIStatusError) -> str:
    body = error.body
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body
    return str(body or error.message)


def _error_code(error: APIStatusError) -> object:
    return error.code or (error.body.get("type") if isinstance(error.body, Mapping) else None)
