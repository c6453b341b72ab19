"""`avocet train` hands its arguments to the stages and reports what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from avocet import training
from avocet.cli import main


def test_arguments_reach_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(training, "run", lambda *arguments: calls.append(arguments) or 0)
    assert main(["train", "sft", "nano", "--run-dir", "runs/x", "--resume", "--part", "late"]) == 0
    settings = ["--set", "a=1", "--set", "b=c=d"]
    assert main(["train", "align", "recipes/other.py", "--engine", "fsdp2", *settings]) == 0
    assert calls == [
        ("sft", "nano", "runs/x", True, "late", "auto", "merged", {}),
        ("align", "recipes/other.py", None, False, None, "fsdp2", "merged", {"a": "1", "b": "c=d"}),
    ]


def test_unknown_stages_and_recipes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "nothing", "nano"]) == 2
    assert main(["train", "sft", "no-such-recipe"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "unknown stage 'nothing'" in errors[0]
    assert "no recipe 'no-such-recipe'" in errors[1]
