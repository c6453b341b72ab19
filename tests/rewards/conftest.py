"""A scripted server, and clients that are patient for milliseconds instead of minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from judge_server import JudgeServer

from avocet.judging import ClientSettings, JudgeClient


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AVOCET_JUDGE_BASE_URL", "AVOCET_JUDGE_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as running:
        yield running


@pytest.fixture
def make_client(server: JudgeServer) -> Callable[..., JudgeClient]:
    def make(**settings: Any) -> JudgeClient:
        quick = {"backoff_base_seconds": 0.01, "backoff_cap_seconds": 0.05, "deadline_seconds": 20.0, "max_retries": 1}
        return JudgeClient("judge-model", base_url=server.base_url, settings=ClientSettings(**{**quick, **settings}))

    return make
