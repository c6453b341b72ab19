"""Where foreign files are looked for, and when their absence is a failure."""

from __future__ import annotations

from pathlib import Path

import pytest
import shared_files
from shared_files import golden_folder, require, shared_folder


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr(shared_files, "SHARED", folder)
    for name in ("AVOCET_GOLDEN_DIR", "CI"):
        monkeypatch.delenv(name, raising=False)
    return folder


def test_the_variable_names_the_family_or_the_folder_above(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = shared.parent / "other" / "salmonn2"
    (other / "plus").mkdir(parents=True)
    (shared / "golden" / "salmonn2").mkdir(parents=True)
    assert golden_folder() == shared / "golden" / "salmonn2"
    for named in (other.parent, other):
        monkeypatch.setenv("AVOCET_GOLDEN_DIR", str(named))
        assert golden_folder() == other
    assert shared_folder("AVOCET_GOLDEN_DIR", "golden") == other


def test_absence_fails_where_the_files_must_be(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(["a case"], shared / "cases.json")
    with pytest.raises(pytest.skip.Exception, match=r"nothing to compare with: .*cases.json is missing or empty"):
        require([], shared / "cases.json")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"cases.json is missing or empty although .*shared is there"):
        require([], shared / "cases.json")
    shared.rmdir()
    with pytest.raises(pytest.skip.Exception):
        require([], shared / "cases.json")
