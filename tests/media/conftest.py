"""The shared media files, and where to look for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture(scope="session")
def media_dir() -> Path:
    """Folder of real media files. Tests skip where there is none, but not in CI when the shared folder is there."""
    named = os.environ.get("AVOCET_MEDIA_DIR")
    folder = Path(named) if named else _SHARED / "media"
    if not folder.is_dir():
        if os.environ.get("CI") == "true" and _SHARED.is_dir():
            pytest.fail(f"{folder} is missing although {_SHARED} is there")
        pytest.skip(f"no media files at {folder}")
    return folder
