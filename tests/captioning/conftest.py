"""Where the benchmarks' own files are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """Folder of the benchmarks' files. Tests skip without it, but not in CI when the shared folder is there."""
    named = os.environ.get("AVOCET_BENCHMARK_DATA")
    folder = Path(named) if named else _SHARED / "data"
    if not folder.is_dir():
        if os.environ.get("CI") == "true" and _SHARED.is_dir():
            pytest.fail(f"{folder} is missing although {_SHARED} is there")
        pytest.skip(f"no benchmark files at {folder}")
    return folder
