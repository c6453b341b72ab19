"""Calls to a rollout server: patient where waiting helps, clear where it does not."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from typing import Any

from avocet.training.grpo.rollouts.base import RolloutError

_REPEATABLE = frozenset({408, 409, 425, 429})
"""Client errors that pass: time-out, conflict, too early, too many requests. So do all server errors."""
_MESSAGE_CHARS = 400


class HttpCalls:
    """One server; may be used from several threads.

    Args:
        root: http://host:port, without "/v1".
        api_key: sent as the bearer token; never shown in messages.
        timeout_seconds: of one attempt.
        max_retries: attempts beyond the first.
        backoff_base_seconds, backoff_cap_seconds: waits are drawn from [0, min(cap, base * 2^k)).
    """

    def __init__(
        self,
        root: str,
        api_key: str,
        *,
        timeout_seconds: float,
        max_retries: int,
        backoff_base_seconds: float,
        backoff_cap_seconds: float,
    ) -> None:
        from openai import DefaultHttpxClient, OpenAI

        self.root = root
        self._key = api_key
        self._timeout_seconds = timeout_seconds
        self._max_retries = max_retries
        self._base_seconds, self._cap_seconds = backoff_base_seconds, backoff_cap_seconds
        self._sdk = OpenAI(
            base_url=root, api_key=api_key, max_retries=0, http_client=DefaultHttpxClient(follow_redirects=False)
        )

    def post(self, path: str, body: Mapping[str, Any]) -> str:
        """The reply's text.

        Raises `RolloutError` naming server, path and reason: at once when the request is refused, after the last
        attempt when the server is busy, slow or away.
        """
        attempt = 0
        while True:
            try:
                return self._attempt(path, body)
            except _Repeatable as error:
                attempt += 1
                if attempt > self._max_retries:
                    raise RolloutError(f"{self.root}{path}: {error} (after {attempt} attempts)") from error
                longest = min(self._cap_seconds, self._base_seconds * 2 ** min(attempt - 1, 30))
                time.sleep(max(random.uniform(0, longest), error.wait_seconds))

    def post_json(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply as a JSON object. Raises as `post`, and when it is none."""
        text = self.post(path, body)
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RolloutError(f"{self.root}{path}: the reply is not JSON: {text[:80]!r}") from error
        if not isinstance(data, dict):
            raise RolloutError(f"{self.root}{path}: the reply is not a JSON object: {text[:80]!r}")
        return data

    def close(self) -> None:
        """Close the connections."""
        self._sdk.close()

    def _attempt(self, path: str, body: Mapping[str, Any]) -> str:
        import openai

        try:
            text: str = self._sdk.post(path, cast_to=str, body=dict(body), options={"timeout": self._timeout_seconds})
        except openai.APITimeoutError as error:
            raise _Repeatable(f"no reply within {self._timeout_seconds:g} s") from error
        except openai.APIStatusError as error:
            status = error.status_code
            message = self._clean(f"HTTP {status}: {_server_message(error)}")
            if status >= 500 or status in _REPEATABLE:
                raise _Repeatable(message, _retry_after(error.response.headers)) from error
            raise RolloutError(f"{self.root}{path}: {message}{_hint(status)}") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise _Repeatable(self._clean(f"{type(cause).__name__}: {cause}")) from error
        return text

    def _clean(self, message: str) -> str:
        line = " ".join(message.replace(self._key, "***").split())
        return line if len(line) <= _MESSAGE_CHARS else line[:_MESSAGE_CHARS] + "…"


class _Repeatable(Exception):
    """An attempt that is worth repeating."""

    def __init__(self, message: str, wait_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return max(0.0, min(float(headers.get("retry-after", "0")), 600.0))
    except ValueError:
        return 0.0


def _server_message(error: Any) -> str:
    body = error.body
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body
    return str(body or error.message)


def _hint(status: int) -> str:
    if status == 404:
        return (
            "; check the base URL and the model's name; adapters need VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and "
            "reloading VLLM_SERVER_DEV_MODE=1 in the server's environment"
        )
    return "; check the API key" if status in (401, 403) else ""
