"""What all judges share: items in, verdicts out, concurrently, with every failure a value.

`Judge` is the interface; a judge without a language model implements `judge` and nothing else. `LlmJudge` adds
prompts, a client and the rules of asking: a reply that cannot be read is followed by one more question that says what
was wrong; after that the item is unscored. Only what concerns the whole run (credentials, cost ceiling, a damaged
cache) is raised: then nothing new begins, what is on its way is waited for, and every reply is in the cache.
"""

from __future__ import annotations

import abc
import asyncio
import dataclasses
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from avocet.errors import ConfigError, RecordError
from avocet.judging.client import JudgeClient
from avocet.judging.errors import CallFailed, JudgeError, JudgeStop, NotSent, ParseError
from avocet.judging.messages import CallParameters, ChatRequest, Message, Reply, ReplySchema
from avocet.judging.prompts import Prompt, RenderedPrompt, load_prompt
from avocet.records import Verdict


class Judgeable(Protocol):
    """What can be judged: anything that says which clip it belongs to."""

    @property
    def clip_id(self) -> str: ...


ItemT = TypeVar("ItemT", bound=Judgeable)
ValueT = TypeVar("ValueT")

Progress = Callable[[Verdict, int, int], None]
"""Called with each verdict, how many there are now and how many there will be."""


class Unscorable(JudgeError):
    """An item cannot be judged; the message, which becomes the verdict's reason, says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(Generic[ItemT]):
    """One item to be judged once."""

    item: ItemT
    run_index: int = 0


class Judge(abc.ABC, Generic[ItemT]):
    """Judges items of one kind."""

    name: ClassVar[str]

    @property
    def identity(self) -> str:
        """What verdicts give as their judge: everything that makes two verdicts comparable."""
        return self.name

    @property
    def prompt_version(self) -> str | None:
        """None: no prompt."""
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its replies beside its identity, as JSON types; {}: nothing does.

        A verdict under other settings is another verdict: none is reused for the other.
        """
        return {}

    @property
    def server(self) -> str | None:
        """Where it asks; None: nowhere."""
        return None

    @property
    def concurrency(self) -> int:
        """How many items are judged at once."""
        return 1

    def is_final(self, item: ItemT, verdict: Verdict) -> bool:
        """Whether judging `item` again can find nothing more than `verdict`, apart from other replies."""
        return verdict.status == "scored"

    @abc.abstractmethod
    async def judge(self, item: ItemT, run_index: int = 0) -> Verdict:
        """The verdict on one item. Whatever goes wrong with this item alone is an unscored verdict."""

    async def disconnect(self) -> None:
        """Let go of what belongs to the running event loop."""

    async def verdicts(self, jobs: Iterable[Job[ItemT]]) -> AsyncGenerator[tuple[Job[ItemT], Verdict], None]:
        """Judge `jobs`, yielding each with its verdict as soon as it is there, in no particular order.

        Jobs are taken one by one as they are needed, so a generator of millions is fine. After an error that
        concerns the whole run, verdicts that are on their way are still yielded before it is raised.
        """
        waiting = iter(jobs)
        outcomes: asyncio.Queue[tuple[Job[ItemT], Verdict] | None] = asyncio.Queue(self.concurrency)
        errors: list[Exception] = []

        async def work() -> None:
            try:
                while not errors and (job := next(waiting, None)) is not None:
                    await outcomes.put((job, await self.judge(job.item, job.run_index)))
            except Exception as error:  # raised below, when the others have finished what they have begun
                errors.append(error)
            await outcomes.put(None)

        tasks = [asyncio.create_task(work()) for _ in range(self.concurrency)]
        num_working = len(tasks)
        try:
            while num_working:
                outcome = await outcomes.get()
                if outcome is None:
                    num_working -= 1
                else:
                    yield outcome
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if errors:
            raise errors[0]

    def judge_many(
        self, items: Sequence[ItemT], runs: int = 1, progress: Progress | None = None
    ) -> list[list[Verdict]]:
        """Judge every item `runs` times; `result[run][i]` is the verdict on `items[i]`.

        Earlier runs come first. Raises `ConfigError` for less than one run and inside of a running event loop (use
        `verdicts` there), and what concerns the whole run: then `progress` has seen the verdicts so far, and a second
        call gets their replies from the cache.
        """
        if runs < 1:
            raise ConfigError(f"runs must be >= 1, got {runs}")
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._judge_all(items, runs, progress))
        raise ConfigError("judge_many cannot run inside of an event loop; use `async for` over `verdicts` there")

    async def _judge_all(self, items: Sequence[ItemT], runs: int, progress: Progress | None) -> list[list[Verdict]]:
        jobs = (
            _IndexedJob(item=item, run_index=run, index=index)
            for run in range(runs)
            for index, item in enumerate(items)
        )
        found: dict[tuple[int, int], Verdict] = {}
        try:
            async for job, verdict in self.verdicts(jobs):
                assert isinstance(job, _IndexedJob)
                found[job.run_index, job.index] = verdict
                if progress is not None:
                    progress(verdict, len(found), runs * len(items))
        finally:
            await self.disconnect()
        return [[found[run, index] for index in range(len(items))] for run in range(runs)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _IndexedJob(Job[ItemT]):
    index: int


class LlmJudge(Judge[ItemT]):
    """A judge that asks a language model. Subclasses name their prompts and say in `examine` what to do with them.

    Args:
        client: where to ask.
        parameters: how the model samples.
        prompts: other texts in place of the packaged ones, by name.
    """

    prompt_names: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        client: JudgeClient,
        *,
        parameters: CallParameters | None = None,
        prompts: Mapping[str, Prompt] | None = None,
    ) -> None:
        given = dict(prompts or {})
        unknown = sorted(set(given) - set(self.prompt_names))
        if unknown:
            raise ConfigError(
                f"judge {self.name!r} has no prompt {', '.join(unknown)}; it has {', '.join(self.prompt_names)}"
            )
        self.client = client
        self.parameters = parameters or CallParameters()
        self.prompts = {name: given.get(name) or load_prompt(name) for name in self.prompt_names}

    @property
    def identity(self) -> str:
        """name/model/prompt version."""
        return f"{self.name}/{self.client.model}/{self.prompt_version}"

    @property
    def prompt_version(self) -> str:
        """The version of the prompt; of several prompts, the first 12 hex digits of the sha256 of their versions."""
        versions = [self.prompts[name].version for name in self.prompt_names]
        return versions[0] if len(versions) == 1 else hashlib.sha256(" ".join(versions).encode()).hexdigest()[:12]

    @property
    def settings(self) -> dict[str, Any]:
        """How the model samples, as it is sent."""
        return self.parameters.wire()

    @property
    def server(self) -> str:
        return self.client.base_url

    @property
    def concurrency(self) -> int:
        # A few more than may be with the server, so that there is always one ready when a place falls free.
        places = self.client.settings.concurrency
        return places + max(4, places // 4)

    async def disconnect(self) -> None:
        await self.client.disconnect()

    @abc.abstractmethod
    async def examine(self, item: ItemT, examination: Examination) -> dict[str, Any]:
        """The findings on one item, JSON types only, from replies to `examination.ask`.

        May raise `Unscorable`; what `ask` raises should pass.
        """

    async def judge(self, item: ItemT, run_index: int = 0) -> Verdict:
        examination = Examination(self.client, self.name, self.parameters, run_index)
        findings: dict[str, Any] = {}
        reason = None
        try:
            findings = await self.examine(item, examination)
        except CallFailed as error:
            reason = f"no reply: {error}"
        except Unscorable as error:
            reason = str(error)
        except NotSent:
            pass  # counted by the examination
        if examination.num_not_sent:
            findings, reason = {}, f"not sent: dry run ({examination.num_not_sent} calls)"
        if examination.notes:
            findings = {**findings, "notes": examination.notes}
        return Verdict(
            clip_id=item.clip_id,
            judge=self.identity,
            run_index=run_index,
            status="scored" if reason is None else "unscored",
            reason=reason,
            findings=findings,
            raw_reply=examination.raw_reply,
        )


class Examination:
    """The questions about one item in one run, and what they brought to light."""

    def __init__(self, client: JudgeClient, judge: str, parameters: CallParameters, run_index: int) -> None:
        self._client = client
        self._judge = judge
        self._parameters = parameters
        self.run_index = run_index
        self.notes: list[str] = []
        """What was done to the texts that were shown."""
        self.num_not_sent = 0
        self._raw_replies: list[str | None] = []

    @property
    def raw_reply(self) -> str | None:
        """The last reply to each question: as it is when there was one, as a JSON array when there were several."""
        replies = [reply for reply in self._raw_replies if reply is not None]
        if len(replies) > 1:
            return json.dumps(replies, ensure_ascii=False)
        return replies[0] if replies else None

    async def ask(
        self,
        prompt: RenderedPrompt,
        parse: Callable[[str], ValueT],
        *,
        schema: ReplySchema | None = None,
        assumed: ValueT | None = None,
    ) -> ValueT:
        """Ask and read the reply, once more if it cannot be read.

        Args:
            prompt: the question.
            parse: from the text of the reply to its value; raises `ParseError`, or `RecordError` for a verdict that
                contradicts itself.
            schema: the form of the reply, for servers that can enforce it.
            assumed: taken for the value in a dry run, so that further questions that depend on it are counted too.

        Raises `Unscorable` for a second reply that cannot be read, `CallFailed` and `NotSent`.
        """
        self.notes += prompt.notes
        # Questions may be asked at once; what they were is in the order in which they were asked.
        place = len(self._raw_replies)
        self._raw_replies.append(None)

        request = ChatRequest(
            messages=prompt.messages,
            parameters=self._parameters,
            schema=schema,
            run_index=self.run_index,
            prompt_version=prompt.version,
            judge=self._judge,
        )
        try:
            try:
                return await self._attempt(request, place, parse)
            except ParseError as error:
                corrected = dataclasses.replace(request, messages=_corrected(prompt.messages, error), is_reask=True)
            return await self._attempt(corrected, place, parse)
        except ParseError as error:
            kind = "unusable" if isinstance(error, _NoWholeReply) else "unreadable"
            raise Unscorable(f"{kind} reply: {error}") from error
        except NotSent:
            self.num_not_sent += 1
            if assumed is None:
                raise
            return assumed

    async def _attempt(self, request: ChatRequest, place: int, parse: Callable[[str], ValueT]) -> ValueT:
        reply = await self._client.complete(request)
        self._raw_replies[place] = reply.text
        try:
            return _read(reply, parse)
        except ParseError:
            if not (reply.from_cache and self._client.ask_again):
                raise
        renewed = await self._client.complete(request, renewing=True)
        self._raw_replies[place] = renewed.text
        return _read(renewed, parse)


def none_scored(reasons: Sequence[str]) -> Unscorable:
    """No question of an item could be scored: what they died of comes before the first colon, as in every reason."""
    kinds = dict.fromkeys(reason.partition(":")[0] for reason in reasons)
    return Unscorable(
        f"{' and '.join(kinds)}: none of {len(reasons)} questions could be scored; the first: {reasons[0]}"
    )


async def settled(calls: Iterable[Coroutine[Any, Any, ValueT]]) -> list[ValueT | Unscorable]:
    """The results of calls made at once, when all are there. Raises the first error that is not `Unscorable`."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException) and not isinstance(result, Unscorable)]
    if errors:
        # What concerns the whole run goes before what concerns one question.
        raise min(errors, key=lambda error: not isinstance(error, JudgeStop))
    return [result for result in results if not isinstance(result, BaseException) or isinstance(result, Unscorable)]


class _NoWholeReply(ParseError):
    """The reply is cut off, empty or withheld, so there is nothing to read."""


def _read(reply: Reply, parse: Callable[[str], ValueT]) -> ValueT:
    if reply.shortcoming is not None:
        raise _NoWholeReply("a whole answer", reply.shortcoming, reply.text)
    try:
        return parse(reply.text)
    except RecordError as error:
        raise ParseError("an answer that agrees with itself", str(error), reply.text) from error


def _corrected(messages: tuple[Message, ...], error: ParseError) -> tuple[Message, ...]:
    """The question again, with what was wrong with the reply."""
    correction = load_prompt("correction").render(expected=error.expected, problem=error.problem).messages[-1]
    if not isinstance(error, _NoWholeReply):
        return (*messages, Message.of_text("assistant", error.reply), correction)
    # Servers refuse an empty turn, and half of an answer invites its other half.
    last = messages[-1]
    return (*messages[:-1], dataclasses.replace(last, parts=(*last.parts, *correction.parts)))
