"""How much of a server's speed the judge client uses, and whether its memory grows with the number of calls.

    python benchmarks/judge_speed.py --out benchmarks/results/judge_speed.json

A server in a process of its own answers every question after 0.2 s. With 64 questions at once the most that anybody
could ask is 64 / 0.2 = 320 a second. Every reply goes into the cache; a second pass over the same questions must send
nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from avocet.judging.cache import ReplyCache
from avocet.judging.client import ClientSettings, JudgeClient
from avocet.judging.messages import ChatRequest, Message

ROOT = Path(__file__).resolve().parents[1]
SERVER = ROOT / "tests" / "judge_server.py"


def questions(count: int) -> Iterator[ChatRequest]:
    """Questions of a usual length: 30 events and a caption of 300 words."""
    words = " ".join(f"word{k}" for k in range(300))
    for number in range(count):
        yield ChatRequest(messages=(Message.of_text("user", f"Question {number}. {words}"),), judge="benchmark")


def resident_mib() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


async def ask_all(client: JudgeClient, count: int, workers: int) -> list[float]:
    """Ask every question once; the memory in MiB after each tenth of them."""
    waiting = questions(count)
    finished, memory = 0, []

    async def work() -> None:
        nonlocal finished
        for request in waiting:
            await client.complete(request)
            finished += 1
            if finished % (count // 10) == 0:
                memory.append(resident_mib())

    await asyncio.gather(*(work() for _ in range(workers)))
    await client.disconnect()
    return memory


def measure(base_url: str, count: int, concurrency: int, folder: Path) -> dict[str, Any]:
    settings = ClientSettings(concurrency=concurrency)
    with ReplyCache(folder / "cache.sqlite") as cache:
        results = {}
        for name in ("first", "second"):
            client = JudgeClient("model", base_url=base_url, api_key="none", settings=settings, cache=cache)
            began = time.perf_counter()
            memory = asyncio.run(ask_all(client, count, concurrency + 16))
            seconds = time.perf_counter() - began
            results[name] = {
                "seconds": round(seconds, 2),
                "calls_per_second": round(count / seconds, 1),
                "memory_mib": [round(value, 1) for value in memory],
                "sent": client.summary().total["calls"],
            }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    command = [sys.executable, str(SERVER), str(arguments.latency)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603  # our own server
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            passes = measure(f"http://127.0.0.1:{port}/v1", arguments.calls, arguments.concurrency, Path(folder))
    finally:
        server.terminate()
        server.wait()
    most = arguments.concurrency / arguments.latency
    result = {
        "what": f"{arguments.calls} calls, {arguments.concurrency} at once, {arguments.latency} s each",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "most_calls_per_second": most,
        "share_of_most": round(passes["first"]["calls_per_second"] / most, 3),
        "passes": passes,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
