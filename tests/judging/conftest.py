"""A scripted server, a cache, and a client that is patient for milliseconds instead of minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer

from avocet.judging import ClientSettings, JudgeClient, ReplyCache


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
def cache(tmp_path: Path) -> Iterator[ReplyCache]:
    with ReplyCache(tmp_path / "replies.sqlite") as opened:
        yield opened


@pytest.fixture
def make_client(server: JudgeServer) -> Callable[..., JudgeClient]:
    def make(model: str = "judge-model", **given: Any) -> JudgeClient:
        names = {name: given.pop(name) for name in list(given) if name in ClientSettings.__dataclass_fields__}
        quick = {"backoff_base_seconds": 0.01, "backoff_cap_seconds": 0.05, "deadline_seconds": 20.0, **names}
        return JudgeClient(
            model, base_url=given.pop("base_url", server.base_url), settings=ClientSettings(**quick), **given
        )

    return make
