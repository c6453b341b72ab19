"""Answers of models on this machine, kept in the same kind of file as the replies of servers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from avocet.judging.cache import CachedReply, CallRecord, ReplyCache
from avocet.judging.costs import Usage
from avocet.records import Clip


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalReply:
    """What a model made, and what it took."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


def kept_or_made(
    cache: ReplyCache | None, asked: Sequence[Any], *, model: str, judge: str, make: Callable[[], LocalReply]
) -> tuple[LocalReply, bool]:
    """The reply to what is asked (JSON types that decide it), and whether it was there already.

    A new one is stored before it is returned.
    """
    key = hashlib.sha256(json.dumps(list(asked), sort_keys=True).encode()).hexdigest()
    stored = None if cache is None else cache.get(key)
    if stored is not None:
        return _reply(stored), True
    made = make()
    if cache is None:
        return made, False
    usage = Usage(prompt_tokens=made.prompt_tokens, completion_tokens=made.completion_tokens)
    fresh = CachedReply(text=made.text, finish_reason="stop", usage=usage, created=time.time())
    call = CallRecord(
        judge=judge,
        model=model,
        key=key,
        outcome="answered",
        attempts=1,
        seconds=made.seconds,
        usage=usage,
        cost_usd=0.0,
    )
    return _reply(cache.put(key, fresh, call)), False


def clip_digest(clip: Clip) -> str:
    """Hex digits over what a model sees and hears of a clip."""
    digest = hashlib.sha256(json.dumps([list(clip.frames.shape), clip.start_seconds, clip.duration_seconds]).encode())
    digest.update(clip.frames.tobytes())
    digest.update(clip.frame_times_seconds.tobytes())
    digest.update(b"" if clip.waveform is None else clip.waveform.tobytes())
    return digest.hexdigest()


def _reply(stored: CachedReply) -> LocalReply:
    return LocalReply(
        text=stored.text,
        prompt_tokens=stored.usage.prompt_tokens,
        completion_tokens=stored.usage.completion_tokens,
        seconds=0.0,
    )
