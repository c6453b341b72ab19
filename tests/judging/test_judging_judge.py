"""Judging many items: every failure is a verdict, nothing is lost, and what stops a run says so."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import Asked, JudgeServer, Step

from avocet.errors import ConfigError, RecordError
from avocet.judging import (
    CallParameters,
    CompletenessJudge,
    Examination,
    FusedCaption,
    Job,
    Judge,
    JudgeClient,
    LlmJudge,
    Price,
    Prompt,
    ReplyCache,
    Unscorable,
    Untrusted,
    last_integer,
    last_json,
)
from avocet.judging.errors import AccessDenied, CostCeilingReached
from avocet.records import Verdict

MakeClient = Callable[..., JudgeClient]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    clip_id: str
    caption: str = "A dog barks."


class CountJudge(LlmJudge[Item]):
    """Two questions, the second about the answer to the first."""

    name = "count"
    prompt_names = ("correction",)
    first = Prompt.from_text("first", "[user]\nHow many animals?\n$caption")
    second = Prompt.from_text("second", "[user]\nWhich $number animals?\n$caption")

    async def examine(self, item: Item, examination: Examination) -> dict[str, Any]:
        caption = Untrusted(text=item.caption, max_chars=40)
        number = await examination.ask(
            self.first.render(caption=caption), lambda text: last_integer(text, 0, 9), assumed=2
        )
        if number == 0:
            raise Unscorable("no animals: nothing to name")
        names = await examination.ask(
            self.second.render(caption=caption, number=number),
            lambda text: _names(text, number),
            assumed=["?"] * number,
        )
        return {"names": names}


def _names(text: str, number: int) -> list[str]:
    names: list[str] = last_json(text, "array")
    if len(names) != number:
        raise RecordError(f"{len(names)} names for {number} animals")
    return names


def answers(asked: Asked) -> Step:
    return Step(text='["dog"]' if "Which" in asked.text else "1")


def total(client: JudgeClient) -> dict[str, Any]:
    return client.summary().total


def test_verdicts_by_run_and_item(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = answers
    judge = CountJudge(make_client())
    seen: list[tuple[int, int, int]] = []
    runs = judge.judge_many(
        [Item(clip_id="a"), Item(clip_id="b"), Item(clip_id="c")],
        runs=2,
        progress=lambda verdict, done, of: seen.append((verdict.run_index, done, of)),
    )
    assert [[verdict.clip_id for verdict in run] for run in runs] == [["a", "b", "c"]] * 2
    assert [[verdict.run_index for verdict in run] for run in runs] == [[0] * 3, [1] * 3]
    # Run 0 is asked first, but all are on their way at once and may come back in any order.
    assert sorted(row[0] for row in seen) == [0, 0, 0, 1, 1, 1]
    assert [row[1:] for row in seen] == [(number, 6) for number in range(1, 7)]
    verdict = runs[0][0]
    assert (verdict.status, verdict.findings, verdict.reason) == ("scored", {"names": ["dog"]}, None)
    assert verdict.raw_reply == json.dumps(["1", '["dog"]'])
    assert verdict.judge == f"count/judge-model/{judge.prompt_version}"
    assert len(judge.prompt_version) == 12


def test_an_unreadable_reply_is_asked_about_once(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = lambda asked: Step(text={0: "One dog.", 1: "1"}.get(asked.index, '["dog"]'))
    client = make_client()
    [[verdict]] = CountJudge(client).judge_many([Item(clip_id="a")])
    assert verdict.findings == {"names": ["dog"]}
    assert total(client)["reasks"] == 1
    question, reply, correction = server.asked[1].body["messages"]
    assert question == server.asked[0].body["messages"][0]
    assert reply == {"role": "assistant", "content": "One dog."}
    assert "it should contain an integer from 0 to 9, but the reply has no integer." in correction["content"]


def test_a_verdict_that_contradicts_itself_is_asked_about_too(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = lambda asked: Step(text="2" if "Which" not in asked.text else '["dog"]')
    client = make_client()
    [[verdict]] = CountJudge(client).judge_many([Item(clip_id="a")])
    assert verdict.status == "unscored"
    assert verdict.reason is not None
    assert verdict.reason.startswith("unreadable reply: expected an answer that agrees with itself, but 1 names for 2")
    assert total(client)["reasks"] == 1


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Step(text="dunno"), "unreadable reply: expected an integer from 0 to 9, but the reply has no integer"),
        (Step(text="7 of the", finish_reason="length"), "unusable reply: expected a whole answer, but it was cut off"),
        (Step(text=""), "unusable reply: expected a whole answer, but it is empty"),
        (Step(text="", finish_reason="content_filter"), "unusable reply: expected a whole answer, but it was withheld"),
        (Step(text="0"), "no animals: nothing to name"),
        (Step(status=500), "no reply: server_error: HTTP 500: scripted 500 (attempts: 2)"),
        (Step(status=429), "no reply: rate_limited: HTTP 429"),
        (Step(status=400), "no reply: rejected: HTTP 400"),
        (Step(raw="<html>"), "no reply: malformed: the body is not JSON"),
        (Step(drop="middle"), "no reply: connection:"),
        (Step(latency_seconds=30), "no reply: timeout: no reply within 0.2 s"),
    ],
)
def test_failures_are_unscored_verdicts(server: JudgeServer, make_client: MakeClient, step: Step, reason: str) -> None:
    server.script = lambda asked: step if "bad" in asked.text else answers(asked)
    client = make_client(max_retries=1, attempt_timeout_seconds=0.2)
    items = [Item(clip_id="good"), Item(clip_id="bad", caption="a bad one"), Item(clip_id="also good")]
    [verdicts] = CountJudge(client).judge_many(items)
    assert [verdict.status for verdict in verdicts] == ["scored", "unscored", "scored"]
    assert verdicts[1].reason is not None
    assert verdicts[1].reason.startswith(reason)
    assert verdicts[1].findings == {}


def test_half_an_answer_is_not_shown_to_the_judge_again(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = lambda asked: Step(text="7 of", finish_reason="length") if asked.index == 0 else answers(asked)
    [[verdict]] = CountJudge(make_client()).judge_many([Item(clip_id="a")])
    assert verdict.status == "scored"
    assert [message["role"] for message in server.asked[1].body["messages"]] == ["user"]
    assert "it was cut off after 10 tokens" in server.asked[1].text


def test_notes_on_what_was_shown(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = answers
    [[verdict]] = CountJudge(make_client()).judge_many([Item(clip_id="a", caption="x" * 50)])
    assert verdict.findings["notes"] == ["caption: cut from 50 to 40 characters"] * 2


def test_a_second_run_makes_no_call(server: JudgeServer, make_client: MakeClient, cache: ReplyCache) -> None:
    server.script = lambda asked: Step(text="dunno") if "third" in asked.text else answers(asked)
    items = [Item(clip_id=name, caption=name) for name in ("first", "second", "third")]
    first = CountJudge(make_client(cache=cache)).judge_many(items, runs=2)
    num_asked = len(server.asked)
    client = make_client(cache=cache)
    assert CountJudge(client).judge_many(items, runs=2) == first  # unscored ones too
    assert len(server.asked) == num_asked
    assert (total(client)["calls"], total(client)["hits"]) == (0, num_asked)


@pytest.mark.parametrize("status", [401, 404])
def test_what_concerns_every_call_stops_the_run(server: JudgeServer, make_client: MakeClient, status: int) -> None:
    server.script = lambda asked: Step(status=status)
    with pytest.raises(Exception, match=f"HTTP {status}"):
        CountJudge(make_client(concurrency=2)).judge_many([Item(clip_id=str(index)) for index in range(500)])
    assert len(server.asked) < 20


def test_a_stop_loses_nothing(server: JudgeServer, make_client: MakeClient, cache: ReplyCache) -> None:
    lock = threading.Lock()
    num_answered = 0

    def script(asked: Asked) -> Step:
        nonlocal num_answered
        with lock:
            if num_answered >= 25:
                return Step(status=401)
            num_answered += 1
        # Some are still on their way when the first refusal arrives.
        return dataclasses.replace(answers(asked), latency_seconds=0.1 if asked.index % 3 else 0.01)

    server.script = script
    items = [Item(clip_id=str(index), caption=f"caption {index}") for index in range(100)]
    seen: list[Verdict] = []
    with pytest.raises(AccessDenied):
        CountJudge(make_client(cache=cache)).judge_many(items, progress=lambda verdict, *_: seen.append(verdict))
    assert len(cache) == num_answered == 25
    assert 0 < len(seen) <= 12
    num_asked = len(server.asked)
    server.script = answers
    [verdicts] = CountJudge(make_client(cache=cache)).judge_many(items)
    assert {verdict.status for verdict in verdicts} == {"scored"}
    assert len(server.asked) - num_asked == 200 - 25


def test_the_ceiling_stops_the_run(server: JudgeServer, make_client: MakeClient, cache: ReplyCache) -> None:
    server.script = lambda asked: dataclasses.replace(
        answers(asked), usage={"prompt_tokens": 0, "completion_tokens": 100}
    )
    client = make_client(price=Price(input_usd=0, output_usd=1000), max_cost_usd=2.05, cache=cache)
    seen: list[Verdict] = []
    with pytest.raises(CostCeilingReached):
        CountJudge(client, parameters=CallParameters(max_tokens=100)).judge_many(
            [Item(clip_id=str(index), caption=str(index)) for index in range(100)],
            progress=lambda verdict, *_: seen.append(verdict),
        )
    assert total(client)["cost_usd"] == pytest.approx(2.0)  # 20 calls of 0.1 USD
    assert len(cache) == len(server.asked) == 20
    assert {verdict.status for verdict in seen} <= {"scored"}


def test_a_dry_run_counts_questions_that_depend_on_answers(server: JudgeServer, make_client: MakeClient) -> None:
    client = make_client(dry_run=True)
    [verdicts] = CountJudge(client).judge_many([Item(clip_id="a"), Item(clip_id="b")])
    assert [verdict.reason for verdict in verdicts] == ["not sent: dry run (2 calls)"] * 2
    assert server.asked == []
    assert total(client)["not_sent"] == 4


def test_mistakes_of_a_judge_are_not_hidden(server: JudgeServer, make_client: MakeClient) -> None:
    class Broken(CountJudge):
        async def examine(self, item: Item, examination: Examination) -> dict[str, Any]:
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        Broken(make_client()).judge_many([Item(clip_id="a")])


class LengthJudge(Judge[Item]):
    """A judge without a language model."""

    name = "length"

    async def judge(self, item: Item, run_index: int = 0) -> Verdict:
        return Verdict(
            clip_id=item.clip_id, judge=self.name, run_index=run_index, findings={"length": len(item.caption)}
        )


def test_judges_without_a_language_model() -> None:
    judge = LengthJudge()
    assert (judge.identity, judge.prompt_version, judge.concurrency) == ("length", None, 1)
    runs = judge.judge_many([Item(clip_id="a", caption="four")], runs=3)
    assert [run[0].findings for run in runs] == [{"length": 4}] * 3
    assert judge.judge_many([]) == [[]]


def test_judge_many_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match="runs must be >= 1, got 0"):
        LengthJudge().judge_many([], runs=0)

    async def inside() -> None:
        LengthJudge().judge_many([])

    with pytest.raises(ConfigError, match="cannot run inside of an event loop; use `async for`"):
        asyncio.run(inside())


def test_jobs_are_taken_as_they_are_needed_and_may_be_left() -> None:
    taken = 0

    def jobs() -> Iterator[Job[Item]]:
        nonlocal taken
        for index in range(10**9):
            taken += 1
            yield Job(item=Item(clip_id=str(index)))

    async def main() -> list[str]:
        seen: list[str] = []
        verdicts = LengthJudge().verdicts(jobs())
        async for job, verdict in verdicts:
            assert job.item.clip_id == verdict.clip_id
            seen.append(verdict.clip_id)
            if len(seen) == 5:
                break
        await verdicts.aclose()
        return seen

    assert asyncio.run(main()) == ["0", "1", "2", "3", "4"]
    assert taken < 10


def test_other_prompts_change_the_version(make_client: MakeClient) -> None:
    own = Prompt.from_text("completeness", "[user]\n$num_sources $sources $merged")
    judge = CompletenessJudge(make_client(), prompts={"completeness": own})
    assert judge.prompt_version == own.version != CompletenessJudge(make_client()).prompt_version
    with pytest.raises(ConfigError, match="judge 'completeness' has no prompt fusion; it has completeness"):
        CompletenessJudge(make_client(), prompts={"fusion": own})


# --- many calls ------------------------------------------------------------------------------------------------------


def fused(index: int) -> FusedCaption:
    return FusedCaption(clip_id=f"clip {index}", caption=f"caption number {index}", sources=(f"source {index}",))


def score(asked: Asked) -> Step:
    """A score that depends on the item; every seventh item gets prose instead, however often it is asked."""
    text = asked.text
    index = int(text.split("caption number ")[1].split("\n")[0])
    if index % 7 == 3:
        return Step(text=f"Item {index} is fine.", latency_seconds=0.02)
    verdict = {"reasoning": "r", "missing": ["1: x"] * (index % 2), "score": 5 - index % 2}
    return Step(text=json.dumps(verdict), latency_seconds=0.02)


RUN = """
import sys
from avocet.judging import ClientSettings, CompletenessJudge, FusedCaption, JudgeClient, ReplyCache
sys.path.insert(0, {folder!r})
from test_judging_judge import fused
with ReplyCache({cache!r}) as cache:
    client = JudgeClient("m", base_url={url!r}, cache=cache, settings=ClientSettings(concurrency=4))
    runs = CompletenessJudge(client).judge_many([fused(index) for index in range(40)], runs=2)
print("\\n".join(verdict.to_json_line() for run in runs for verdict in run))
"""


def test_killed_at_any_instant_nothing_answered_is_asked_again(server: JudgeServer, tmp_path: Path) -> None:
    server.script = score
    path = tmp_path / "c.sqlite"
    folder = str(Path(__file__).parent)
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(Path(__file__).parents[1])}

    def start(cache: Path) -> subprocess.Popen[str]:
        code = RUN.format(folder=folder, cache=str(cache), url=server.base_url)
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)

    undisturbed = start(tmp_path / "other.sqlite").communicate(timeout=60)[0]
    # In each of two runs 40 questions, and 6 more about the items 3, 10, 17, 24, 31 and 38, which get prose.
    assert len(server.asked) == 2 * (40 + 6)
    server.asked.clear()

    draw = random.Random(7)
    num_killed = 0
    for _ in range(4):
        process = start(path)
        wanted = len(server.asked) + draw.randrange(2, 20)
        give_up = time.monotonic() + 30
        while len(server.asked) < wanted and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.002)
        time.sleep(draw.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        num_killed += 1
    with ReplyCache(path) as cache:
        num_stored = len(cache)
        assert cache.accounts()[0]["calls"] == num_stored
    num_lost = len(server.asked) - num_stored
    # Only what was on its way: 4 calls whose replies come in, and 4 more that were sent into their places.
    assert 0 <= num_lost <= 2 * 4 * num_killed

    before = len(server.asked)
    finished = start(path).communicate(timeout=60)[0]
    assert len(server.asked) - before == 92 - num_stored
    assert finished == undisturbed
    with ReplyCache(path) as cache:
        assert len(cache) == 92


def test_two_hundred_calls_use_the_places(server: JudgeServer, make_client: MakeClient, cache: ReplyCache) -> None:
    server.script = lambda asked: dataclasses.replace(score(asked), latency_seconds=0.05)
    items = [fused(index) for index in range(200) if index % 7 != 3]
    client = make_client(concurrency=20, cache=cache)
    judge = CompletenessJudge(client)
    [verdicts] = judge.judge_many(items)
    assert {verdict.status for verdict in verdicts} == {"scored"}
    assert server.peak == 20
    ideal_seconds = len(items) * 0.05 / 20
    assert client.summary().wall_seconds < 6 * ideal_seconds  # one by one it would be 20 times
    again = make_client(concurrency=20, cache=cache)
    assert CompletenessJudge(again).judge_many(items) == [verdicts]
    assert len(server.asked) == len(items)
