"""Going on in a run folder: with another judge, with other numbers of rounds, and with rounds that are done anew."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from avocet.errors import ConfigError
from avocet.evaluation.exact_judge import ExactEventJudge
from avocet.training.mrdpo import driver
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.driver import dry_run, run_mrdpo
from avocet.training.mrdpo.scoring import CaptionScorer, theatre_item


class OtherJudge(ExactEventJudge):
    @property
    def identity(self) -> str:
        return "other/1"


class Killed(Exception):
    pass


def quiet(text: str) -> None:
    """Says nothing."""


def sampled(run_dir: Path, number: int) -> int:
    return (run_dir / f"round-{number}" / "samples.jsonl").stat().st_mtime_ns


def test_a_run_belongs_to_its_judge(plan: MrDpo, scorer: CaptionScorer, tmp_path: Path) -> None:
    one = dataclasses.replace(plan, rounds=1)
    run_mrdpo(one, tmp_path, scorer, say=quiet)
    config = json.loads((tmp_path / "run.json").read_text())["config"]
    assert (config["judge"], config["judge_runs"]) == (ExactEventJudge().identity, 1)
    with pytest.raises(ConfigError, match=r"another plan \(judge changed\)"):
        run_mrdpo(one, tmp_path, CaptionScorer(OtherJudge(), theatre_item), from_round=1, say=quiet)
    with pytest.raises(ConfigError, match=r"another plan \(judge_runs changed\)"):
        run_mrdpo(plan, tmp_path, CaptionScorer(ExactEventJudge(), theatre_item, runs=3), say=quiet)
    assert (tmp_path / "round-1" / "result.json").exists()


def test_rounds_may_grow_and_later_ones_are_never_taken_up_again(
    plan: MrDpo, scorer: CaptionScorer, tmp_path: Path
) -> None:
    three = dataclasses.replace(plan, rounds=3)
    run_mrdpo(dataclasses.replace(plan, rounds=1), tmp_path, scorer, say=quiet)
    run_mrdpo(three, tmp_path, scorer, say=quiet)
    assert json.loads((tmp_path / "run.json").read_text())["config"]["rounds"] == 3
    with pytest.raises(ConfigError, match="holds rounds up to 3, more than the 2 of the plan; give at least 3"):
        run_mrdpo(plan, tmp_path, scorer, say=quiet)
    before = sampled(tmp_path, 3)
    two = run_mrdpo(plan, tmp_path, scorer, from_round=2, say=quiet)
    assert two.stopped == "all 2 rounds are done"
    assert not (tmp_path / "round-3").exists()
    assert json.loads((tmp_path / "run.json").read_text())["config"]["rounds"] == 2
    run_mrdpo(three, tmp_path, scorer, say=quiet)
    assert sampled(tmp_path, 3) > before


def test_from_round_goes_on_after_a_kill_and_starts_over_when_done(
    plan: MrDpo, scorer: CaptionScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_mrdpo(plan, tmp_path, scorer, say=quiet)
    first = sampled(tmp_path, 2)

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(driver, "fine_tune", die)
        with pytest.raises(Killed):
            run_mrdpo(plan, tmp_path, scorer, from_round=2, say=quiet)
    second = sampled(tmp_path, 2)
    assert second > first
    run_mrdpo(plan, tmp_path, scorer, from_round=2, say=quiet)
    assert sampled(tmp_path, 2) == second
    # That was the request fulfilled; the next one is another.
    run_mrdpo(plan, tmp_path, scorer, from_round=2, say=quiet)
    assert sampled(tmp_path, 2) > second


def test_a_kill_while_rounds_are_deleted(
    plan: MrDpo, scorer: CaptionScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_mrdpo(plan, tmp_path, scorer, say=quiet)
    first = sampled(tmp_path, 1)
    delete, deleted = shutil.rmtree, []

    def die_at_the_second(path: Path, *_: Any, **__: Any) -> None:
        if deleted:
            raise Killed
        deleted.append(path.name)
        delete(path)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die_at_the_second)
        with pytest.raises(Killed):
            run_mrdpo(plan, tmp_path, scorer, from_round=1, say=quiet)
    assert deleted == ["round-2"]
    # Round 1 was asked to be done anew too, also by who only goes on.
    again = run_mrdpo(plan, tmp_path, scorer, say=quiet)
    assert sampled(tmp_path, 1) > first
    assert again == whole


def test_rounds_that_the_plan_does_not_have(plan: MrDpo, scorer: CaptionScorer, tmp_path: Path) -> None:
    for number in (0, 3, 9):
        with pytest.raises(ConfigError, match=f"--from-round must be from 1 to 2, got {number}"):
            dry_run(plan, tmp_path, from_round=number)
        with pytest.raises(ConfigError, match=f"--from-round must be from 1 to 2, got {number}"):
            run_mrdpo(plan, tmp_path, scorer, from_round=number)
    assert not any(tmp_path.iterdir())
    run_mrdpo(plan, tmp_path, scorer, say=quiet)
    assert dry_run(plan, tmp_path, from_round=2).endswith("finished: 0, 1, 2; done anew: 2")
