"""A teacher behind any server that speaks the chat-completions protocol and takes pictures, sound or video.

Questions go through the judges' client: its cache, retries, limits and accounts hold here too. The caller waits in its
own thread; the calls of all teachers run on one event loop in a thread of its own. A reply is in the cache before the
caller sees it, so what was paid for is not paid for again after the process is killed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import json
import threading
from collections.abc import Coroutine
from types import MappingProxyType
from typing import Any, TypeVar

from avocet.curation.outcomes import Cost
from avocet.curation.teachers.media_parts import MediaParts, MediaSettings, media_parts, plan_parts
from avocet.curation.teachers.replies import check_task, render_prompt, reply_schema
from avocet.curation.teachers.roles import Answer, Preview, TeacherError, TeacherTask
from avocet.errors import ConfigError
from avocet.judging.client import JudgeClient
from avocet.judging.costs import Usage
from avocet.judging.errors import CallFailed
from avocet.judging.messages import CallParameters, ChatRequest, Reply
from avocet.judging.prompts import DEFAULT_MAX_CHARS

_T = TypeVar("_T")

_SHORTCOMINGS = MappingProxyType({"length": "cut_off", "content_filter": "withheld", "refusal": "withheld"})
"""Finish reason -> code; every other reply that is none is empty."""


_KEY_DIGITS = 16
"""Of the key of an answer that are kept with its cost: 64 bits tell a million answers apart."""


def reply_cost(client: JudgeClient, reply: Reply, number: int = 1) -> Cost:
    """What a reply cost when it was bought.

    Args:
        number: of those that were bought for the same question; an unreadable one is asked for anew.
    """
    usd = None if client.price is None else client.price.cost_usd(reply.usage)
    # What is no whole reply is not kept, and is bought again by whoever asks again.
    kept = client.cache is not None and reply.shortcoming is None
    return Cost.of_answer(usd, f"{reply.key[:_KEY_DIGITS]}.{number}" if kept else None)


class LoopThread:
    """An event loop in a thread of its own, which others hand their calls to."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="teachers", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._loop.is_closed()

    def run(self, call: Coroutine[Any, Any, _T]) -> _T:
        """Wait for the call and return its result, or raise its exception.

        Raises `ConfigError` after `close`, also when that happens meanwhile.
        """
        if self.closed:
            call.close()
            raise ConfigError("the teachers are closed; load them again")
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop).result()
        except concurrent.futures.CancelledError as error:
            raise ConfigError("the teachers were closed while a question was on its way") from error

    def close(self) -> None:
        """Cancel what is on its way and stop. Closing twice is harmless."""
        if not self.closed:
            asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EndpointTeacher:
    """A model on a server.

    Args:
        client: where to ask; with a cache, or nothing is kept.
        loop: where its calls run; one for all clients that share a ceiling.
        parameters: how the model samples.
        media: how pictures and sound are sent.
    """

    def __init__(
        self,
        client: JudgeClient,
        loop: LoopThread,
        *,
        parameters: CallParameters | None = None,
        media: MediaSettings | None = None,
    ) -> None:
        self._client = client
        self._loop = loop
        self._parameters = parameters or CallParameters()
        self._media = media or MediaSettings()

    @property
    def name(self) -> str:
        """The model's name; servers do not tell a revision."""
        return self._client.model

    @property
    def version(self) -> str:
        """12 hex digits over the model, its sampling and how media are sent."""
        settings = [self.name, self._parameters.wire(), self._media.to_dict()]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def reads_texts(self) -> bool:
        """See `Teacher.reads_texts`."""
        return True

    @property
    def client(self) -> JudgeClient:
        """For its accounts (`summary`), and for judges that ask the same model."""
        return self._client

    @property
    def loop(self) -> LoopThread:
        """Where the client's calls must run."""
        return self._loop

    def ask(self, task: TeacherTask) -> Answer:
        """See `Teacher.ask`. What the client gives up after its own attempts is not tried again in this run."""
        check_task(task)
        request = self._request(task, media_parts(task, self._media))
        try:
            reply = self._loop.run(self._client.complete(request))
        except CallFailed as error:
            raise TeacherError(error.kind, f"{self.name}: {error}", at_once=False) from error
        bought = reply_cost(self._client, reply)
        if reply.shortcoming is not None:
            raise self._unusable(reply, bought)
        return Answer(
            text=reply.text.strip(),
            cost=Cost() if reply.from_cache else bought,
            bought=bought,
            teacher=self.name,
            prompt_version=request.prompt_version,
            cached=reply.from_cache,
        )

    def preview(self, task: TeacherTask) -> Preview:
        """See `Teacher.preview`."""
        check_task(task)
        plan = plan_parts(task, self._media)
        request = self._request(task, plan)
        tokens, reply_tokens = request.estimated_prompt_tokens, self._parameters.max_tokens
        price = self._client.price
        usage = Usage(prompt_tokens=tokens, completion_tokens=reply_tokens, estimated=True)
        body = json.dumps(request.body(self.name, structured=True), ensure_ascii=False)
        return Preview(
            tokens=tokens,
            reply_tokens=reply_tokens,
            bytes=len(body.encode()) + plan.num_bytes,
            images=plan.num_images,
            sound_seconds=plan.sound_seconds,
            video_seconds=plan.video_seconds,
            usd=None if price is None else price.cost_usd(usage),
        )

    def close(self) -> None:
        """Close the connections; the loop belongs to whoever started it. Closing twice is harmless."""
        if not self._loop.closed:
            self._loop.run(self._client.disconnect())

    def _request(self, task: TeacherTask, media: MediaParts) -> ChatRequest:
        for field, text in task.fields.items():
            if len(text) > DEFAULT_MAX_CHARS:  # the prompt layer would cut it
                raise TeacherError(
                    "too_large",
                    f"{task.prompt}: {field} has {len(text):,} characters, at most {DEFAULT_MAX_CHARS:,} may be sent",
                    at_once=False,
                )
        prompt = render_prompt(task.prompt, task.fields, media.note).with_parts(media.parts)
        return ChatRequest(
            messages=prompt.messages,
            parameters=self._parameters,
            schema=reply_schema(task.prompt),
            run_index=task.index,
            prompt_version=prompt.version,
            judge=task.prompt,
        )

    def _unusable(self, reply: Reply, cost: Cost) -> TeacherError:
        reason = _SHORTCOMINGS.get(reply.finish_reason or "", "empty")
        # A sampled reply may come out shorter another time; the same refusal comes again.
        at_once = reason == "empty" or (reason == "cut_off" and self._parameters.temperature != 0)
        return TeacherError(reason, f"{self.name}: the reply cannot be used: {reply.shortcoming}", at_once, cost=cost)
