"""From a server's reply to rollouts whose tokens are certain.

A gradient on tokens that were not sampled is a wrong gradient without an error message. Token ids come from the server
(`token_ids`, vLLM); where it says none, the text is tokenised anew and every token must be spelt as the server's. In
both cases tokens and text must agree. What does not is rejected with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from avocet.models.loops import CHECK_EVERY, loop_period
from avocet.records import Sampling, StopReason
from avocet.training.grpo.rollouts.base import Rollout

Reason = Literal[
    "finish_reason",
    "no_token_ids",
    "text_differs_from_tokens",
    "no_end_token",
    "end_token_inside",
    "log_probs_do_not_fit",
]
"""Why a rollout is rejected: it ended in another way than by itself or at its limit; neither ids nor tokens came; text
and tokens disagree; the end was sampled and its token is not there, or one stands before the end; log-probabilities are
fewer or more than tokens, positive, or no numbers."""

_TOKEN_ID = "token_id:"  # noqa: S105  # how vLLM spells tokens with return_tokens_as_token_ids
_LARGEST_LOG_PROB = 1e-4
"""Rounding in half precision takes the log-probability of a certain token a little above 0."""


class Texts(Protocol):
    """What is needed of the trainer's model: its tokenizer, and nothing that computes."""

    tokenizer: Any
    stop_ids: tuple[int, ...]

    def decode(self, token_ids: Sequence[int]) -> str: ...

    def encode_text(self, text: str) -> list[int]: ...


class Rejected(Exception):
    """This rollout cannot be trained on."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: str = reason


def read_rollout(
    texts: Texts,
    *,
    text: str,
    token_ids: Sequence[int] | None,
    tokens: Sequence[str] | None,
    log_probs: Sequence[float] | None,
    finish_reason: Any,
    sampling: Sampling,
) -> Rollout:
    """Check one answer and put it into our terms.

    Args:
        texts: the trainer's model.
        text: as the engine decoded it, without special tokens.
        token_ids: as the engine sampled them; None where it does not say.
        tokens: their spelling, used without ids.
        log_probs: at temperature 1, None where the engine does not say.
        finish_reason: "stop" or "length".
        sampling: its repetition guard is applied to the tokens, as generation in process does.

    Raises:
        Rejected: with the reason.
    """
    if finish_reason not in ("stop", "length"):
        raise Rejected("finish_reason")
    if token_ids is not None:
        ids = tuple(token_ids)
        if texts.decode(ids).rstrip("\ufffd") != text.strip().rstrip("\ufffd"):
            # A character cut in half at the limit may or may not be shown as one of those.
            raise Rejected("text_differs_from_tokens")
    elif tokens:
        ids = _retokenised(texts, text, tokens)
    else:
        raise Rejected("no_token_ids")
    stopped = bool(ids) and ids[-1] in texts.stop_ids
    if finish_reason == "stop" and not stopped:
        raise Rejected("no_end_token")
    if any(token in texts.stop_ids for token in ids[:-1]):
        raise Rejected("end_token_inside")
    if log_probs is not None:
        _check_log_probs(log_probs, len(ids))
    reason: StopReason = "end" if stopped else "length"
    if sampling.repetition_guard != "off" and (cut := _loop_end(ids)) is not None:
        ids, reason = ids[:cut], "repetition"
        log_probs = None if log_probs is None else log_probs[:cut]
    return Rollout(
        token_ids=ids,
        text=texts.decode(ids),
        stop_reason=reason,
        log_probs=None if log_probs is None else tuple(min(0.0, float(value)) for value in log_probs),
    )


def read_choice(texts: Texts, choice: Mapping[str, Any], sampling: Sampling) -> Rollout:
    """One entry of `choices` of a chat completion; raises as `read_rollout`."""
    message, logged = choice.get("message"), choice.get("logprobs")
    text = message.get("content") if isinstance(message, Mapping) else None
    entries = logged.get("content") if isinstance(logged, Mapping) else None
    tokens: list[str] | None = None
    log_probs: list[float] | None = None
    if isinstance(entries, list) and all(isinstance(entry, Mapping) for entry in entries):
        tokens = [str(entry.get("token")) for entry in entries]
        log_probs = [entry["logprob"] for entry in entries if _is_number(entry.get("logprob"))]
    ids = choice.get("token_ids")
    if not (isinstance(ids, list) and all(isinstance(token, int) for token in ids)):
        ids = _ids_in_spelling(tokens)
    return read_rollout(
        texts,
        text=text if isinstance(text, str) else "",
        token_ids=ids,
        tokens=tokens,
        log_probs=log_probs,
        finish_reason=choice.get("finish_reason"),
        sampling=sampling,
    )


def _ids_in_spelling(tokens: Sequence[str] | None) -> list[int] | None:
    if not tokens or not all(token.startswith(_TOKEN_ID) and token[len(_TOKEN_ID) :].isdigit() for token in tokens):
        return None
    return [int(token[len(_TOKEN_ID) :]) for token in tokens]


def _retokenised(texts: Texts, text: str, tokens: Sequence[str]) -> tuple[int, ...]:
    """Ids of the text, if they are spelt like the tokens. The model may have cut the same text in another way."""
    ends = {texts.tokenizer.convert_ids_to_tokens(stop): stop for stop in texts.stop_ids}
    end = [ends[tokens[-1]]] if tokens[-1] in ends else []
    ids = [*texts.encode_text(text), *end]
    spelt = [tokens[-1] if token in texts.stop_ids else texts.tokenizer.decode([token]) for token in ids]
    if spelt != list(tokens):
        raise Rejected("text_differs_from_tokens")
    return tuple(ids)


def _check_log_probs(log_probs: Sequence[float], count: int) -> None:
    if len(log_probs) != count or not all(math.isfinite(one) and one <= _LARGEST_LOG_PROB for one in log_probs):
        raise Rejected("log_probs_do_not_fit")


def _loop_end(ids: Sequence[int]) -> int | None:
    """How many tokens the guard of our own generation would have let pass, None for all."""
    for seen in range(CHECK_EVERY, len(ids) + 1, CHECK_EVERY):
        if loop_period(ids[:seen]) is not None:
            return seen
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
