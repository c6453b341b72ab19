"""Whose commit a run folder names: that of Avocet's code, not that of the folder it is called from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from avocet import provenance

PACKAGE = Path(provenance.__file__).resolve()


def in_repository(folder: Path) -> Path:
    """A repository with one commit."""
    folder.mkdir()
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "--allow-empty", "-m", "x")):
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)
    return folder


def test_the_commit_is_that_of_the_code(tmp_path, monkeypatch) -> None:
    before = provenance.code_facts()
    monkeypatch.chdir(in_repository(tmp_path / "work"))
    after = provenance.code_facts()
    assert (after["commit"], after["uncommitted"]) == (before["commit"], before["uncommitted"])


def test_code_that_is_installed_below_a_repository_is_not_of_it(tmp_path) -> None:
    installed = in_repository(tmp_path / "work") / "site-packages" / "avocet"
    installed.mkdir(parents=True)
    shutil.copy(PACKAGE, installed / "provenance.py")
    command = "import provenance; facts = provenance.code_facts(()); print(facts['commit'], facts['uncommitted'])"
    run = subprocess.run([sys.executable, "-c", command], cwd=installed, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["None", "None"]
