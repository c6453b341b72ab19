"""With what something was made: commit, uncommitted changes, versions of libraries, machine."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve()
PACKAGES = ("avocet", "torch", "transformers", "tokenizers", "numpy", "av")


def code_facts(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Commit and state of the repository of Avocet's code (not of the folder it is called from), versions of those
    packages that are installed, and the machine; JSON types. `commit` and `uncommitted` are None where the code is in
    no repository."""
    found = {name: _version(name) for name in packages}
    changes = _git("status", "--porcelain")
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": None if changes is None else bool(changes),
        "versions": {name: version for name, version in found.items() if version is not None},
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def write_uncommitted(folder: Path) -> None:
    """Write the uncommitted change of Avocet's code, when there is one, to `uncommitted.diff`."""
    diff = _git("diff", "HEAD")
    if diff:
        (folder / "uncommitted.diff").write_text(diff + "\n", encoding="utf-8")


def _git(*arguments: str) -> str | None:
    """What git says of the repository of this file; None where it is in none."""
    # Installed below somebody's project it lies in the folder of a repository whose code it is not.
    if _run_git("ls-files", "--error-unmatch", "--", _HERE.name) is None:
        return None
    return _run_git(*arguments)


def _run_git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(  # noqa: S603
            ("git", "-C", str(_HERE.parent), *arguments),  # noqa: S607
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
