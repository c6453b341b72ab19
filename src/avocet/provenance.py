"""With what something was made: commit, uncommitted changes, versions of libraries, machine."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("avocet", "torch", "transformers", "tokenizers", "numpy", "av")


def code_facts(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Commit and state of the working folder, versions of those packages that are installed, and the machine; JSON
    types. `commit` is None outside of a repository."""
    found = {name: _version(name) for name in packages}
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": bool(_git("status", "--porcelain")),
        "versions": {name: version for name, version in found.items() if version is not None},
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def write_uncommitted(folder: Path) -> None:
    """Write the uncommitted diff of the working folder, when there is one, to `uncommitted.diff`."""
    diff = _git("diff", "HEAD")
    if diff:
        (folder / "uncommitted.diff").write_text(diff + "\n", encoding="utf-8")


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(  # noqa: S603
            ("git", *arguments),  # noqa: S607
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
