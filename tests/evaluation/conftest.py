"""The released annotation files, and surroundings without keys and caches of the user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """Tests skip without the files, but not in CI when the shared folder is there."""
    named = os.environ.get("AVOCET_BENCHMARK_DATA")
    folder = Path(named) if named else _SHARED / "data"
    if not folder.is_dir():
        if os.environ.get("CI") == "true" and _SHARED.is_dir():
            pytest.fail(f"{folder} is missing although {_SHARED} is there")
        pytest.skip(f"no benchmark files at {folder}")
    return folder


@pytest.fixture
def no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, address, annotation folder or cache of whoever runs the tests."""
    for name in ("AVOCET_JUDGE_BASE_URL", "AVOCET_JUDGE_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AVOCET_BENCHMARK_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
