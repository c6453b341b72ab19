"""The client against a real server on loopback: retries, deadlines, limits, schemas, costs, dry runs."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from judge_server import Asked, JudgeServer, Step

from avocet.errors import ConfigError
from avocet.judging import (
    AudioPart,
    CallFailed,
    CallParameters,
    ChatRequest,
    ClientSettings,
    ImagePart,
    JudgeClient,
    JudgeStop,
    Message,
    Price,
    Reply,
    ReplyCache,
    ReplySchema,
    TextPart,
    VideoPart,
)
from avocet.judging.errors import AccessDenied, CostCeilingReached, EndpointNotFound, NotSent
from avocet.records import RecordError

MakeClient = Callable[..., JudgeClient]
SCHEMA = ReplySchema(name="Verdict", schema={"type": "object"})


def question(text: str = "How many?", **fields: Any) -> ChatRequest:
    return ChatRequest(messages=(Message.of_text("user", text),), **fields)


def run(client: JudgeClient, *requests: ChatRequest) -> list[Reply | BaseException]:
    """Ask all at once; the outcome of each."""

    async def main() -> list[Reply | BaseException]:
        async with client:
            return await asyncio.gather(*(client.complete(request) for request in requests), return_exceptions=True)

    return asyncio.run(main())


def one(client: JudgeClient, request: ChatRequest) -> Reply:
    outcome = run(client, request)[0]
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def total(client: JudgeClient) -> dict[str, Any]:
    return client.summary().total


def steps(*given: Step) -> Callable[[Asked], Step]:
    """The given steps in turn, the last one for ever."""
    return lambda asked: given[min(asked.index, len(given) - 1)]


def test_a_question_and_its_reply(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = steps(Step(text="three"))
    parameters = CallParameters(temperature=0.5, top_p=0.9, max_tokens=77, seed=3, extra={"reasoning_effort": "low"})
    client = make_client(api_key="secret-key")
    request = ChatRequest(
        messages=(Message.of_text("system", "Count."), Message.of_text("user", "How many?")), parameters=parameters
    )
    reply = one(client, request)
    assert (reply.text, reply.finish_reason, reply.from_cache, reply.shortcoming) == ("three", "stop", False, None)
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.estimated) == (100, 10, False)
    assert server.asked[0].headers["authorization"] == "Bearer secret-key"
    body = server.asked[0].body
    assert body.pop("model") == "judge-model"
    assert body.pop("messages") == [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": "How many?"},
    ]
    assert body == {"temperature": 0.5, "top_p": 0.9, "max_tokens": 77, "seed": 3, "reasoning_effort": "low"}


def test_media_go_as_typed_parts(server: JudgeServer, make_client: MakeClient) -> None:
    parts = (
        TextPart(text="Look and listen."),
        ImagePart.from_bytes(b"\xff\xd8", "image/jpeg"),
        AudioPart.from_bytes(b"RIFF", "wav", duration_seconds=2.0),
        VideoPart(url="https://example.org/clip.mp4", duration_seconds=10.0),
    )
    one(make_client(), ChatRequest(messages=(Message(role="user", parts=parts),)))
    assert server.asked[0].body["messages"][0]["content"] == [
        {"type": "text", "text": "Look and listen."},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9g="}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "https://example.org/clip.mp4"}},
    ]


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Step(status=500), "server_error"),
        (Step(status=503), "server_error"),
        (Step(status=429), "rate_limited"),
        (Step(status=408), "server_error"),
        (Step(raw="{not json"), "malformed"),
        (Step(raw='{"choices": []}'), "malformed"),
        (Step(raw='{"choices": [{"message": null}]}'), "malformed"),
        (Step(raw="[" * 100_000), "malformed"),
        (Step(drop="before"), "connection"),
        (Step(drop="middle"), "connection"),
        (Step(latency_seconds=30.0), "timeout"),
    ],
)
def test_passing_trouble_is_survived_and_lasting_trouble_is_named(
    server: JudgeServer, make_client: MakeClient, trouble: Step, kind: str
) -> None:
    server.script = steps(trouble, trouble, Step(text="at last"))
    client = make_client(attempt_timeout_seconds=0.15)
    assert one(client, question()).text == "at last"
    assert (total(client)["calls"], total(client)["retries"], total(client)["failed"]) == (1, 2, 0)

    server.asked.clear()
    server.script = steps(trouble)
    client = make_client(attempt_timeout_seconds=0.15, max_retries=1)
    with pytest.raises(CallFailed, match=kind) as failure:
        one(client, question())
    assert (failure.value.kind, failure.value.num_attempts, len(server.asked)) == (kind, 2, 2)
    assert (total(client)["calls"], total(client)["retries"], total(client)["failed"]) == (0, 1, 1)


def test_a_server_that_is_not_there(make_client: MakeClient) -> None:
    client = make_client(base_url="http://127.0.0.1:9/v1", max_retries=1, price=Price(input_usd=1, output_usd=1))
    with pytest.raises(CallFailed, match=r"connection: http://127.0.0.1:9/v1: ConnectError"):
        one(client, question())
    assert total(client)["possible_usd"] == 0  # nothing was sent


def test_retry_after_is_honoured_by_everybody(server: JudgeServer, make_client: MakeClient) -> None:
    times: list[float] = []

    def script(asked: Asked) -> Step:
        times.append(time.monotonic())
        return Step(status=429, headers={"retry-after": "0.4"}) if asked.index == 0 else Step()

    server.script = script
    client = make_client(concurrency=1)
    replies = run(client, question("a"), question("b"), question("c"))
    assert [type(reply) for reply in replies] == [Reply] * 3
    assert len(times) == 4
    assert times[1] - times[0] >= 0.39  # also the questions that had not been sent away


def test_a_wait_beyond_the_deadline_fails_at_once(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = lambda asked: Step(status=429, headers={"retry-after": "3600"}) if "first" in asked.text else Step()
    client = make_client(deadline_seconds=5.0, concurrency=1)
    started = time.monotonic()
    failed, answered = run(client, question("first"), question("second"))
    assert time.monotonic() - started < 3
    assert isinstance(failed, CallFailed)
    assert "would come after the deadline of 5 s" in failed.detail
    assert isinstance(answered, Reply)  # one question's bad luck does not hold up the others


def test_the_deadline_covers_all_attempts(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = steps(Step(status=500, latency_seconds=0.1))
    client = make_client(deadline_seconds=0.5, max_retries=1000)
    started = time.monotonic()
    with pytest.raises(CallFailed, match=r"deadline of 0\.5 s") as failure:
        one(client, question())
    assert time.monotonic() - started < 2
    assert 1 < failure.value.num_attempts < 6


def test_the_deadline_ends_an_attempt_that_hangs(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = steps(Step(latency_seconds=30))
    client = make_client(deadline_seconds=0.3, attempt_timeout_seconds=60, price=Price(input_usd=0, output_usd=1000))
    with pytest.raises(CallFailed, match=r"timeout: the deadline of 0\.3 s is over"):
        one(client, question(parameters=CallParameters(max_tokens=100)))
    assert total(client)["possible_usd"] == pytest.approx(0.1)  # 100 tokens at 1000 USD per million


def test_time_in_the_queue_is_not_counted_against_the_deadline(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = steps(Step(latency_seconds=0.1))
    client = make_client(concurrency=1, deadline_seconds=0.5)
    outcomes = run(client, *(question(str(index)) for index in range(10)))  # a second in all
    assert [type(outcome) for outcome in outcomes] == [Reply] * 10


def test_waits_grow_and_are_drawn_from_zero(
    server: JudgeServer, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)
    server.script = steps(*[Step(status=500)] * 5, Step())
    one(make_client(backoff_base_seconds=0.5, backoff_cap_seconds=3.0), question())
    assert drawn == [(0, 0.5), (0, 1.0), (0, 2.0), (0, 3.0), (0, 3.0)]


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (Step(status=401, error={"message": "bad key sk-private"}), AccessDenied, r"HTTP 401: bad key \*\*\*; check"),
        (Step(status=403), AccessDenied, "HTTP 403"),
        (Step(status=402), AccessDenied, "nothing left to spend"),
        (Step(status=429, error={"message": "x", "code": "insufficient_quota"}), AccessDenied, "nothing left"),
        (Step(status=404, error={"message": "no such model"}), EndpointNotFound, "no such model; check the model"),
        (Step(status=400, error={"message": "context too long"}), CallFailed, "rejected: HTTP 400: context too long"),
        (Step(status=413), CallFailed, "rejected: HTTP 413"),
        (Step(status=422, error=None), CallFailed, "rejected: HTTP 422"),
        (Step(status=400, raw="<html>bad</html>"), CallFailed, "rejected: HTTP 400"),
    ],
)
def test_what_cannot_succeed_is_tried_once(
    server: JudgeServer, make_client: MakeClient, step: Step, error: type[Exception], message: str
) -> None:
    server.script = steps(step)
    client = make_client(api_key="sk-private")
    with pytest.raises(error, match=message) as failure:
        one(client, question())
    assert len(server.asked) == 1
    assert isinstance(failure.value, JudgeStop) == (error is not CallFailed)
    assert "sk-private" not in str(failure.value)
    assert total(client)["failed"] == 1


def test_a_403_after_answers_is_about_the_request(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = lambda asked: Step(status=403) if "flagged" in asked.text else Step()

    async def main(client: JudgeClient) -> None:
        async with client:
            await client.complete(question("fine"))
            with pytest.raises(CallFailed, match="rejected: HTTP 403"):
                await client.complete(question("flagged"))

    asyncio.run(main(make_client()))


def test_redirects_are_not_followed_with_the_key(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = steps(Step(status=307, headers={"location": f"{server.base_url}/elsewhere"}))
    with pytest.raises(CallFailed, match="rejected: HTTP 307"):
        one(make_client(), question())
    assert len(server.asked) == 1


def test_concurrency_is_used_and_kept(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = steps(Step(latency_seconds=0.05))
    client = make_client(concurrency=7)
    outcomes = run(client, *(question(str(index)) for index in range(70)))
    assert [type(outcome) for outcome in outcomes] == [Reply] * 70
    assert server.peak == 7
    assert client.summary().wall_seconds < 10 * 0.05 * 4  # one by one it would be 70 * 0.05


def test_requests_per_minute(server: JudgeServer, make_client: MakeClient) -> None:
    times: list[float] = []

    def script(asked: Asked) -> Step:
        times.append(time.monotonic())
        return Step()

    server.script = script
    run(make_client(requests_per_minute=1200), *(question(str(index)) for index in range(30)))
    # 20 per second; at most one second's worth at once, hence at least 10 / 20 s for 30.
    assert 0.35 < times[-1] - times[0] < 3


def test_tokens_per_minute_are_corrected_by_what_was_used(server: JudgeServer, make_client: MakeClient) -> None:
    client = make_client(tokens_per_minute=60_000)  # 1000 a second
    parameters = CallParameters(max_tokens=1000)

    async def main() -> float:
        async with client:
            await client.complete(question("first", parameters=parameters))
            started = time.monotonic()
            for index in range(10):
                await client.complete(question(str(index), parameters=parameters))
            return time.monotonic() - started

    # Each may take 1009 tokens and takes 110: 0.11 s apart instead of 1.009 s.
    assert 0.9 < asyncio.run(main()) < 5


def test_a_schema_is_sent_where_it_is_understood(server: JudgeServer, make_client: MakeClient) -> None:
    one(make_client(), question(schema=SCHEMA))
    assert server.asked[0].body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "Verdict", "strict": True, "schema": {"type": "object"}},
    }


def test_a_refused_schema_is_remembered(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = lambda asked: (
        Step(status=400, error={"message": "response_format is not supported"})
        if "response_format" in asked.body
        else Step(text="plain")
    )
    client = make_client()
    assert [one(client, question(text, schema=SCHEMA)).text for text in "ab"] == ["plain", "plain"]
    assert ["response_format" in asked.body for asked in server.asked] == [True, False, False]


def test_a_refusal_for_another_reason_is_not_blamed_on_the_schema(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = lambda asked: Step(status=400) if "bad" in asked.text else Step()

    async def main(client: JudgeClient) -> None:
        async with client:
            with pytest.raises(CallFailed, match="rejected"):
                await client.complete(question("bad", schema=SCHEMA))
            await client.complete(question("good", schema=SCHEMA))
            with pytest.raises(CallFailed, match="rejected"):
                await client.complete(question("bad again", schema=SCHEMA))

    asyncio.run(main(make_client()))
    # With and without for the first; once the server has accepted a schema, a refusal is about something else.
    assert ["response_format" in asked.body for asked in server.asked] == [True, False, True, True]


def test_trouble_while_trying_without_the_schema_is_retried(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = steps(Step(status=400), Step(status=500), Step(text="plain"))
    assert one(make_client(), question(schema=SCHEMA)).text == "plain"
    assert ["response_format" in asked.body for asked in server.asked] == [True, False, False]


def test_the_cache_answers_without_a_call(server: JudgeServer, make_client: MakeClient, cache: ReplyCache) -> None:
    server.script = lambda asked: Step(text=f"reply {asked.index}")
    assert one(make_client(cache=cache), question()).text == "reply 0"
    # Another address, another key, another judge's name: the same question.
    with JudgeServer() as other:
        client = make_client(cache=cache, base_url=other.base_url, api_key="x")
        reply = one(client, question(judge="someone else"))
        assert (reply.text, reply.from_cache, other.asked) == ("reply 0", True, [])
        assert (total(client)["hits"], total(client)["calls"]) == (1, 0)


@pytest.mark.parametrize(
    "other",
    [
        question("Another question"),
        question(run_index=1),
        question(prompt_version="v2"),
        question(schema=SCHEMA),
        question(parameters=CallParameters(temperature=1.0)),
        ChatRequest(messages=(Message.of_text("system", "x"), Message.of_text("user", "How many?"))),
    ],
)
def test_everything_that_decides_the_reply_is_in_the_key(
    server: JudgeServer, make_client: MakeClient, cache: ReplyCache, other: ChatRequest
) -> None:
    assert not any(isinstance(reply, BaseException) for reply in run(make_client(cache=cache), question(), other))
    assert len(server.asked) == 2
    assert one(make_client("other-model", cache=cache), question()).from_cache is False


def test_a_question_on_its_way_is_not_sent_twice(
    server: JudgeServer, make_client: MakeClient, cache: ReplyCache
) -> None:
    server.script = steps(Step(latency_seconds=0.1))
    client = make_client(cache=cache)
    replies = run(client, *[question()] * 5)
    assert len(server.asked) == 1
    assert sorted(reply.from_cache for reply in replies if isinstance(reply, Reply)) == [False] + [True] * 4
    assert (total(client)["calls"], total(client)["hits"]) == (1, 4)


def test_who_waits_for_another_caller_goes_on_when_that_one_is_cancelled(
    server: JudgeServer, make_client: MakeClient, cache: ReplyCache
) -> None:
    server.script = steps(Step(latency_seconds=0.2))

    async def main(client: JudgeClient) -> Reply:
        async with client:
            first = asyncio.create_task(client.complete(question()))
            second = asyncio.create_task(client.complete(question()))
            await asyncio.sleep(0.1)
            first.cancel()
            return await second

    assert asyncio.run(main(make_client(cache=cache))).from_cache is False


def test_a_shared_failure_reaches_all_who_wait(server: JudgeServer, make_client: MakeClient, cache: ReplyCache) -> None:
    server.script = steps(Step(status=400, latency_seconds=0.05))
    outcomes = run(make_client(cache=cache), question(), question())
    assert [type(outcome) for outcome in outcomes] == [CallFailed, CallFailed]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("step", "shortcoming"),
    [
        (Step(text='{"score":', finish_reason="length"), "it was cut off after 10 tokens"),
        (Step(text="", finish_reason="stop"), "it is empty"),
        (Step(text=" \n", finish_reason="stop"), "it is empty"),
        (Step(text=None, finish_reason="stop"), "it is empty"),
        (Step(text="", finish_reason="content_filter"), "it was withheld (content_filter)"),
        (
            Step(raw='{"choices": [{"message": {"content": null, "refusal": "no"}, "finish_reason": "stop"}]}'),
            "it was withheld (refusal)",
        ),
    ],
)
def test_what_is_no_whole_reply_is_accounted_for_but_not_cached(
    server: JudgeServer, make_client: MakeClient, cache: ReplyCache, step: Step, shortcoming: str
) -> None:
    server.script = steps(step, Step(text="whole"))
    client = make_client(cache=cache)
    assert one(client, question()).shortcoming == shortcoming
    assert (total(client)["calls"], total(client)["unusable"], len(cache)) == (1, 1, 0)
    assert one(client, question()).text == "whole"
    assert [(row["calls"], row["unusable"]) for row in cache.accounts()] == [(2, 1)]


def test_replies_in_parts_and_broken_unicode(server: JudgeServer, make_client: MakeClient, cache: ReplyCache) -> None:
    content = [{"type": "text", "text": "caf\u00e9 \ud800"}, {"type": "text", "text": " ok"}, {"type": "thinking"}]
    server.script = steps(Step(raw=json.dumps({"choices": [{"message": {"content": content}}]})))
    reply = one(make_client(cache=cache), question())
    assert (reply.text, reply.finish_reason) == ("café ? ok", None)
    assert reply.usage.estimated is True
    assert one(make_client(cache=cache), question()).text == reply.text


def test_costs_and_their_summary(server: JudgeServer, make_client: MakeClient) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}
    server.script = steps(Step(usage=usage), Step(status=500), Step(usage=usage))
    client = make_client("gpt-4.1", concurrency=1)
    run(client, question("a", judge="events"), question("b", judge="dialogue"))
    # (600 * 2.00 + 400 * 0.50 + 100 * 8.00) / 1e6 USD per call.
    assert client.summary().judges["events"]["cost_usd"] == pytest.approx(0.0022)
    assert total(client)["cost_usd"] == pytest.approx(0.0044)
    assert (total(client)["cached_tokens"], total(client)["retries"]) == (800, 1)
    lines = client.summary().lines()
    assert lines[0] == "events: 1 calls, 0 cached, 0 retries, 1,000 + 100 tokens, $0.0022"
    assert lines[2] == "all: 2 calls, 0 cached, 1 retries, 2,000 + 200 tokens, $0.0044"
    assert lines[3].startswith("wall time: 0.")


def test_an_unknown_price_is_said_and_makes_a_ceiling_impossible(make_client: MakeClient) -> None:
    client = make_client()
    one(client, question())
    assert client.summary().lines()[0].endswith("cost unknown (give --price IN,OUT)")
    assert total(client)["num_unpriced"] == 1
    with pytest.raises(ConfigError, match="price of 'judge-model' is not known, so a cost ceiling cannot hold"):
        make_client(max_cost_usd=1.0)


# One call: at most (prompt + 100) * 0 + 1000 tokens at 1000 USD per million = 1 USD; really 0.1 USD.
COSTLY = Price(input_usd=0, output_usd=1000)
REAL = Step(usage={"prompt_tokens": 10, "completion_tokens": 100}, latency_seconds=0.02)


def costly(index: int) -> ChatRequest:
    return question(str(index), parameters=CallParameters(max_tokens=1000))


def test_the_ceiling_stops_before_the_call_that_could_pass_it(
    server: JudgeServer, make_client: MakeClient, cache: ReplyCache
) -> None:
    server.script = steps(REAL)
    client = make_client(price=COSTLY, max_cost_usd=1.25, cache=cache)
    outcomes = run(client, *(costly(index) for index in range(10)))
    answered = [outcome for outcome in outcomes if isinstance(outcome, Reply)]
    # After three calls 0.3 USD are spent and another one could cost 1: 1.3 > 1.25.
    assert len(answered) == len(server.asked) == 3
    assert all(isinstance(outcome, CostCeilingReached) for outcome in outcomes if outcome not in answered)
    assert any("$0.3000 of the ceiling of $1.2500 are spent" in str(outcome) for outcome in outcomes)
    # What was answered is not paid twice: a second client with the same ceiling gets three more.
    again = make_client(price=COSTLY, max_cost_usd=1.25, cache=cache)
    assert sum(isinstance(outcome, Reply) for outcome in run(again, *(costly(index) for index in range(10)))) == 6


def test_the_ceiling_lets_calls_run_side_by_side_as_far_as_they_fit(
    server: JudgeServer, make_client: MakeClient
) -> None:
    server.script = steps(REAL)
    client = make_client(price=COSTLY, max_cost_usd=3.5, concurrency=16)
    outcomes = run(client, *(costly(index) for index in range(20)))
    assert [type(outcome) for outcome in outcomes] == [Reply] * 20  # 2 USD in all
    assert server.peak == 3


def test_attempts_without_a_reply_count_towards_the_ceiling(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = steps(Step(latency_seconds=30))
    client = make_client(price=COSTLY, max_cost_usd=2.5, attempt_timeout_seconds=0.05)
    with pytest.raises(CostCeilingReached, match=r"\$2.0000 of the ceiling"):
        one(client, costly(0))
    assert len(server.asked) == 2
    assert total(client)["possible_usd"] == pytest.approx(2.0)


def test_prompts_beyond_the_price_table_are_not_sent_under_a_ceiling(
    server: JudgeServer, make_client: MakeClient
) -> None:
    client = make_client("gemini-2.5-pro", max_cost_usd=100.0)
    with pytest.raises(CallFailed, match=r"rejected: the price of a prompt of about 200,\d+ tokens is not known"):
        one(client, question("x" * 600_100))
    assert server.asked == []


def test_a_dry_run_sends_nothing_and_counts(server: JudgeServer, make_client: MakeClient, cache: ReplyCache) -> None:
    one(make_client("gpt-4.1", cache=cache), question("cached"))
    client = make_client("gpt-4.1", cache=cache, dry_run=True)
    parameters = CallParameters(max_tokens=1000)
    outcomes = run(client, question("cached"), *(question(f"q{index}", parameters=parameters) for index in range(3)))
    assert isinstance(outcomes[0], Reply)
    assert [type(outcome) for outcome in outcomes[1:]] == [NotSent] * 3
    assert len(server.asked) == 1
    # A question of 2 bytes: 8 tokens for the message and 1 for the text.
    assert (total(client)["not_sent"], total(client)["prompt_tokens"], total(client)["completion_tokens"]) == (
        3,
        27,
        3000,
    )
    assert client.summary().lines()[0] == "judge: 3 calls not sent, 1 cached, about 27 + 3,000 tokens, at most $0.0241"


def test_a_dry_run_needs_no_key() -> None:
    with pytest.raises(ConfigError, match=r"no key for https://api\.openai\.com/v1: set AVOCET_JUDGE_API_KEY"):
        JudgeClient("gpt-4.1")
    assert JudgeClient("gpt-4.1", dry_run=True).dry_run


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, server: JudgeServer) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "second")
    assert JudgeClient("m").base_url == "http://127.0.0.1:9/v1"
    monkeypatch.setenv("AVOCET_JUDGE_BASE_URL", server.base_url + "/")
    monkeypatch.setenv("AVOCET_JUDGE_API_KEY", "first")
    one(JudgeClient("m"), question())
    assert server.asked[0].headers["authorization"] == "Bearer first"
    one(JudgeClient("m", api_key="given"), question())
    assert server.asked[1].headers["authorization"] == "Bearer given"


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "ftp://host/v1", "http://", "http://[bad/v1", "http://host:port/v1"]
)
def test_an_impossible_address(url: str) -> None:
    with pytest.raises(ConfigError, match="must look like http://host:port/v1"):
        JudgeClient("m", base_url=url)


@pytest.mark.parametrize(
    "settings",
    [
        {"concurrency": 0},
        {"max_retries": -1},
        {"requests_per_minute": 0},
        {"tokens_per_minute": -1.0},
        {"attempt_timeout_seconds": 0},
        {"deadline_seconds": 0},
    ],
)
def test_impossible_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"ClientSettings: {next(iter(settings))} must be"):
        ClientSettings(**settings)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra": {"stream": True, "seed": 1}}, "extra must not hold seed, stream"),
    ],
)
def test_impossible_parameters(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        CallParameters(**fields)


def test_a_client_moves_between_event_loops(server: JudgeServer, make_client: MakeClient) -> None:
    client = make_client(concurrency=2)
    for start in (0, 10):
        outcomes = run(client, *(question(str(start + index)) for index in range(10)))
        assert [type(outcome) for outcome in outcomes] == [Reply] * 10

    async def from_another_thread(other: Coroutine[Any, Any, Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(other))

    async def main() -> None:
        async with client:
            await client.complete(question("here"))
            with pytest.raises(ConfigError, match="in use in another event loop"):
                await from_another_thread(client.complete(question("there")))

    asyncio.run(main())


def test_importing_is_light() -> None:
    code = (
        "import sys, avocet.judging, avocet.judging.completeness, avocet.judging.client; "
        "print([name for name in ('openai', 'httpx', 'httpx2', 'pydantic', 'torch') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
