"""What can go wrong between a caption and its verdict.

Two kinds matter to callers. A `JudgeStop` concerns every call of the run (credentials, budget): the run ends with
it. The others concern one item and become an unscored `Verdict`.
"""

from __future__ import annotations

from typing import Literal

from avocet.errors import AvocetError, ConfigError

FailureKind = Literal["rejected", "rate_limited", "server_error", "timeout", "connection", "malformed"]
"""Why a call failed for good: the server refused this request (400, 413, 422), asked for more patience than the
deadline has (429), kept failing (5xx), did not answer in time, could not be reached or hung up, or answered with
something that is no chat completion."""


class JudgeError(AvocetError):
    """Root of the errors of judging."""


class JudgeStop(JudgeError):
    """Nothing more can be judged until a person acts. Replies that arrived before are in the cache."""


class AccessDenied(JudgeStop):
    """The server does not accept the key (401, 403), or the account cannot pay (402, or 429 without any quota)."""


class EndpointNotFound(JudgeStop):
    """The server does not know the address or the model (404)."""


class CostCeilingReached(JudgeStop):
    """The next call could cost more than what is left of the ceiling."""


class CacheError(JudgeStop):
    """The cache of replies is damaged, or is no cache of replies."""


class CallFailed(JudgeError):
    """One call got no reply although every allowed attempt was made, or its request was refused.

    `kind` is one of `FailureKind`, `num_attempts` counts what was sent.
    """

    def __init__(self, kind: FailureKind, detail: str, num_attempts: int) -> None:
        super().__init__(f"{kind}: {detail} (attempts: {num_attempts})")
        self.kind = kind
        self.detail = detail
        self.num_attempts = num_attempts

    def __reduce__(self) -> tuple[type[CallFailed], tuple[FailureKind, str, int]]:
        return type(self), (self.kind, self.detail, self.num_attempts)


class NotSent(JudgeError):
    """A dry run sends nothing, so there is no reply."""


class ParseError(JudgeError, ValueError):
    """A reply is not what was asked for.

    `expected` says what was asked for, `problem` what was found instead; the message ends with the end of the reply.
    """

    TAIL_CHARS = 160

    def __init__(self, expected: str, problem: str, reply: str) -> None:
        tail = reply if len(reply) <= self.TAIL_CHARS else "…" + reply[-self.TAIL_CHARS :]
        super().__init__(f"expected {expected}, but {problem}; the reply ends with {tail!r}")
        self.expected = expected
        self.problem = problem
        self.reply = reply

    def __reduce__(self) -> tuple[type[ParseError], tuple[str, str, str]]:
        return type(self), (self.expected, self.problem, self.reply)


class PromptError(ConfigError):
    """A prompt file is malformed, or is filled in with the wrong variables."""
