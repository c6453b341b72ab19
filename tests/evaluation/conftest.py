"""Surroundings without keys and caches of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, address, annotation folder or cache of whoever runs the tests."""
    for name in ("AVOCET_JUDGE_BASE_URL", "AVOCET_JUDGE_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AVOCET_BENCHMARK_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
