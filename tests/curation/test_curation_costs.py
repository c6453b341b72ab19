"""What answers cost, counted once each, and summaries that belong to their manifests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Cost, Kept, Outcome
from avocet.curation.stage import Stage, run_stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keeping(Stage):
    """Keeps everything."""

    name: str = "keeping"
    threshold: int = 0

    @property
    def reads_media(self) -> bool:
        return False

    def process(self, clip: ManifestClip) -> Outcome:
        return Kept()


def make_clips(count: int) -> list[ManifestClip]:
    return [ManifestClip(id=str(number), path=f"/v/{number}.mp4") for number in range(count)]


def test_a_summary_is_there_only_when_its_manifests_are(tmp_path: Path) -> None:
    class Stopping(Keeping):
        def process(self, clip: ManifestClip) -> Outcome:
            assert not (tmp_path / "summary.json").exists(), "that of the run before is gone"
            raise RuntimeError("stop")

    run_stage(Keeping(), make_clips(2), tmp_path)
    assert (tmp_path / "summary.json").exists()
    with pytest.raises(RuntimeError, match="stop"):
        run_stage(Stopping(threshold=1), make_clips(2), tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_an_answer_that_serves_two_clips_is_counted_once(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Asking(Keeping):
        def process(self, clip: ManifestClip) -> Outcome:
            own = Cost.of_answer(0.5, f"own {clip.id}")
            shared = Cost.of_answer(0.25, "shared")
            unpriced = Cost.of_answer(None, "shared, of unknown price")
            return Kept(cost=own + shared + unpriced)

    summary = run_stage(Asking(), make_clips(3), tmp_path)
    # Three answers of their own at 0.5, and once each the two that all have.
    assert summary.cost == Cost(usd=3 * 0.5 + 0.25, num_calls=5, num_unpriced=1)
    assert (summary.cost.answers, run_stage(Asking(), make_clips(3), tmp_path).cost) == ({}, summary.cost)


def test_costs_add_up_and_count_an_answer_once() -> None:
    one, two = Cost.of_answer(1.0, "a"), Cost.of_answer(None, "b")
    both = one + two
    assert both == one + two + one == Cost(usd=1.0, num_calls=2, num_unpriced=1)
    assert both.answers == {"a": 1.0, "b": None}
    assert both.without({"b"}) == Cost(usd=1.0, num_calls=1)
    assert Cost.of_answer(1.0) + Cost.of_answer(1.0) == Cost(usd=2.0, num_calls=2), "bought twice"
