"""A real HTTP server on loopback that speaks the chat-completions protocol and does what a script says.

In a test: `with JudgeServer(script) as server:`; `script(request)` gives a `Step` per request. Alone, as a process of
its own: `python judge_server.py LATENCY_SECONDS` prints its port and answers after that time; GET /count says how many
completions it was asked for, GET /peak how many at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import threading
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as the server saw it."""

    index: int
    """Which request to the server this is, from 0."""
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def user_texts(self) -> list[str]:
        """The text of each user message."""
        contents = [message["content"] for message in self.body["messages"] if message["role"] == "user"]
        return [
            content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
            for content in contents
        ]

    @property
    def text(self) -> str:
        """What the user says in all."""
        return "\n".join(self.user_texts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What the server does with one request."""

    text: str | None = "ok"
    status: int = 200
    latency_seconds: float = 0.0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    finish_reason: str = "stop"
    usage: dict[str, Any] | None = dataclasses.field(
        default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    )
    error: dict[str, Any] | None = None
    """The error object of a status other than 200."""
    raw: str | None = None
    """Sent as the body instead of a completion."""
    drop: str | None = None
    """"before" the head or in the "middle" of the body: the connection is cut."""

    def payload(self, model: str) -> bytes:
        if self.raw is not None:
            return self.raw.encode()
        if self.status != 200:
            return json.dumps({"error": self.error or {"message": f"scripted {self.status}"}}).encode()
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        completion: dict[str, Any] = {"id": "c", "object": "chat.completion", "created": 0, "model": model}
        completion["choices"] = [choice]
        if self.usage is not None:
            completion["usage"] = self.usage
        return json.dumps(completion).encode()


Script = Callable[[Asked], Step]


class JudgeServer:
    """The server in a thread of its own; `asked` lists what it was asked, `peak` the most requests at once."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or (lambda asked: Step())
        self.asked: list[Asked] = []
        self.peak = 0
        self._num_now = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> JudgeServer:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.start(), self._loop).result(10)
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._one_request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client hung up, which some tests make it do
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        data = await reader.readexactly(int(headers.get("content-length", "0")))
        if first.startswith("GET"):
            number = self.peak if "peak" in first else len(self.asked)
            await _write(writer, Step(raw=str(number)), str(number).encode())
            return True
        asked = Asked(index=len(self.asked), body=json.loads(data), headers=headers)
        self.asked.append(asked)
        self._num_now += 1
        self.peak = max(self.peak, self._num_now)
        try:
            step = self.script(asked)
            if step.latency_seconds:
                await asyncio.sleep(step.latency_seconds)
        finally:
            self._num_now -= 1
        return await _write(writer, step, step.payload(asked.body["model"]))


async def _write(writer: asyncio.StreamWriter, step: Step, payload: bytes) -> bool:
    if step.drop == "before":
        return False
    fields = {"content-type": "application/json", "content-length": str(len(payload)), **step.headers}
    head = f"HTTP/1.1 {step.status} Scripted\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(head.encode() + b"\r\n" + (payload[: len(payload) // 2] if step.drop == "middle" else payload))
    await writer.drain()
    return step.drop is None


async def _serve_alone(latency_seconds: float) -> None:
    server = JudgeServer(lambda asked: Step(text=f"reply to {asked.text[:40]}", latency_seconds=latency_seconds))
    await server.start()
    print(server.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve_alone(float(sys.argv[1])))
