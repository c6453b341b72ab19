"""The cache file: shared by processes and threads, never silently wrong."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from avocet.judging import ReplyCache, Usage
from avocet.judging.cache import CachedReply, CallRecord
from avocet.judging.errors import CacheError, JudgeStop

USAGE = Usage(prompt_tokens=10, completion_tokens=5)


def reply(text: str) -> CachedReply:
    return CachedReply(text=text, finish_reason="stop", usage=USAGE, created=time.time())


def call(key: str, **given: object) -> CallRecord:
    fields = {"judge": "events", "model": "m", "outcome": "answered", "attempts": 1, "seconds": 0.5, "cost_usd": 0.25}
    return CallRecord(key=key, usage=USAGE, **{**fields, **given})  # type: ignore[arg-type]


def test_what_is_put_is_got(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "c.sqlite"
    text = 'line one\nliné "two" \x00 \U0001f3ac'
    with ReplyCache(path) as cache:
        assert cache.get("k") is None
        cache.put("k", reply(text), call("k"))
    with ReplyCache(path) as cache:
        stored = cache.get("k")
        assert stored is not None
        assert (stored.text, stored.finish_reason, stored.usage) == (text, "stop", USAGE)
        assert len(cache) == 1


def test_the_first_reply_stays(tmp_path: Path) -> None:
    with ReplyCache(tmp_path / "c.sqlite") as one, ReplyCache(tmp_path / "c.sqlite") as other:
        assert one.put("k", reply("first"), call("k")).text == "first"
        assert other.put("k", reply("second"), call("k")).text == "first"
        assert [row["calls"] for row in one.accounts()] == [2]  # both were paid


def test_accounts(tmp_path: Path) -> None:
    with ReplyCache(tmp_path / "c.sqlite") as cache:
        cache.put("a", reply("x"), call("a"))
        cache.put("b", reply("x"), call("b", attempts=3, possible_usd=0.5))
        cache.record(call("c", outcome="unusable", cost_usd=None))
        cache.record(call("d", outcome="failed", attempts=0, cost_usd=None))
        cache.record(call("e", judge="dialogue"))
        dialogue, events = cache.accounts()
    assert (dialogue["judge"], dialogue["calls"]) == ("dialogue", 1)
    assert {name: events[name] for name in ("calls", "retries", "failed", "unusable", "num_unpriced")} == {
        "calls": 4,
        "retries": 2,
        "failed": 1,
        "unusable": 1,
        "num_unpriced": 1,
    }
    assert (events["prompt_tokens"], events["cost_usd"], events["possible_usd"]) == (40, 0.5, 0.5)
    assert events["call_seconds"] == 2.0


def _write_many(path: Path, worker: int, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    with ReplyCache(path) as cache:  # all create the file at the same instant
        for index in range(100):
            cache.put(f"{worker}-{index}", reply(f"{worker} {index}"), call("x"))
            cache.put(f"shared-{index}", reply(f"shared {worker}"), call("x"))


def test_several_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    path = tmp_path / "c.sqlite"
    processes = [context.Process(target=_write_many, args=(path, worker, barrier)) for worker in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    with ReplyCache(path) as cache:
        assert len(cache) == 500
        assert cache.accounts()[0]["calls"] == 800
        stored = cache.get("3-99")
        assert stored is not None
        assert stored.text == "3 99"


def test_several_threads(tmp_path: Path) -> None:
    with ReplyCache(tmp_path / "c.sqlite") as cache, ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda index: cache.put(f"k{index}", reply(str(index)), call("x")).text, range(200)))
        assert texts == [str(index) for index in range(200)]
        assert len(cache) == 200


def test_a_fork_opens_its_own_connection(tmp_path: Path) -> None:
    with ReplyCache(tmp_path / "c.sqlite") as cache:
        cache.put("before", reply("x"), call("x"))
        child = os.fork()
        if child == 0:
            try:
                found = cache.get("before") is not None
                cache.put("in the child", reply("y"), call("x"))
                os._exit(0 if found else 1)
            except BaseException:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert cache.get("in the child") is not None
        cache.put("after", reply("z"), call("x"))
        assert len(cache) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is no database, only text" * 100, "file is not a database; nothing was changed; restore a copy"),
        (b"SQLite format 3\x00" + b"\x01" * 4080, r"(malformed|not a database|unsupported).*nothing was changed"),
    ],
)
def test_a_damaged_file_is_an_error_and_stays(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(content)
    with pytest.raises(CacheError, match=message) as error:
        ReplyCache(path)
    assert str(path) in str(error.value)
    assert isinstance(error.value, JudgeStop)
    assert path.read_bytes() == content


def test_damage_inside_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    with ReplyCache(path) as cache:
        for index in range(200):
            cache.put(f"key {index}", reply("text " * 200), call("x"))
    data = bytearray(path.read_bytes())
    for page in range(3, len(data) // 4096):
        data[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    path.write_bytes(data)
    with ReplyCache(path) as cache, pytest.raises(CacheError, match="malformed; nothing was changed"):
        [cache.get(f"key {index}") for index in range(200)]


def test_a_flipped_bit_in_a_reply_is_found(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    with ReplyCache(path) as cache:
        cache.put("k", reply('{"score": 4, "id": "needle"}'), call("x"))
    data = path.read_bytes()
    assert data.count(b'{"score": 4, "id": "needle"}') == 1
    path.write_bytes(data.replace(b'{"score": 4, "id": "needle"}', b'{"score": 5, "id": "needle"}'))
    with ReplyCache(path) as cache, pytest.raises(CacheError, match="the reply k is damaged"):
        cache.get("k")


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE replies (a)")
    other.commit()
    other.close()
    with pytest.raises(CacheError, match="an SQLite file of another program"):
        ReplyCache(path)


def test_files_of_newer_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    ReplyCache(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 2")
    newer.commit()
    newer.close()
    with pytest.raises(CacheError, match=r"made by a newer Avocet \(format 2, this one knows 1\)"):
        ReplyCache(path)


def test_a_path_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="unable to open database file; check that the path"):
        ReplyCache(tmp_path)


def test_a_closed_cache(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "c.sqlite")
    cache.close()
    cache.close()
    with pytest.raises(CacheError, match="the cache is closed"):
        cache.get("k")
