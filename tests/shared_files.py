"""Files of others that tests read: in the folder that an environment variable names, else in ../shared.

Without them tests skip, but not in continuous integration on a machine that has ../shared: there a skip would hide
that nothing was compared.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_folder(variable: str, name: str) -> Path:
    """The folder that the variable names, else `name` in ../shared; it may not be there."""
    named = os.environ.get(variable)
    return Path(named) if named else SHARED / name


def golden_folder() -> Path:
    """Values of the released video-SALMONN 2; AVOCET_GOLDEN_DIR names this folder or the one above it."""
    folder = shared_folder("AVOCET_GOLDEN_DIR", "golden")
    below = folder / "salmonn2"
    return below if below.is_dir() else folder


def require(found: object, where: Path) -> None:
    """Skip the test, or fail it (see above), unless something was `found` of what `where` should hold."""
    if found:
        return
    if os.environ.get("CI") == "true" and SHARED.is_dir():
        pytest.fail(f"nothing to compare with: {where} is missing or empty although {SHARED} is there")
    pytest.skip(f"nothing to compare with: {where} is missing or empty")
