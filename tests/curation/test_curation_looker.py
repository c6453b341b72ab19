"""What an actor of Ray does, with the actor in this process; Ray itself is in test_curate_ray."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Cost, Dropped, Failed, Kept, Outcome
from avocet.curation.ray_run import RayRunner, _Looker
from avocet.curation.stage import Stage, run_stage
from avocet.errors import AvocetError, ConfigError, RecordError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging(Stage):
    """Clip 1 fails for now, clip 2 for good, clip 3 stops the run where that is asked for; others are kept."""

    name: str = "judging"
    stop: bool = False

    @property
    def reads_media(self) -> bool:
        return False

    def process(self, clip: ManifestClip) -> Outcome:
        cost = Cost.of_answer(0.5, "shared")
        if clip.id == "1":
            return Failed(reason="busy", cost=Cost(usd=0.1, num_calls=1))
        if clip.id == "2":
            return Dropped(reason="bad", cost=cost)
        if clip.id == "3" and self.stop:
            raise RecordError("stop")
        return Kept(facts={"number": int(clip.id)}, cost=cost)


class InProcess(RayRunner):
    """Batches of two go through one actor that was sent as Ray sends it."""

    def _reports(self, lines: list[str], looker: tuple[Any, ...]) -> Iterator[str]:
        actor = _Looker(*pickle.loads(pickle.dumps(looker)))
        for place in range(0, len(lines), 2):
            yield from actor({"line": lines[place : place + 2]})["report"]


def test_actors_look_as_threads_do(tmp_path: Path) -> None:
    clips = [ManifestClip(id=str(number), path=f"/v/{number}.mp4") for number in range(5)]
    plain = run_stage(Judging(), clips, tmp_path / "plain", max_attempts=2, retry_wait_seconds=0.0)
    actors = InProcess()(Judging(), clips, tmp_path / "ray", max_attempts=2, retry_wait_seconds=0.0)
    timed = {"work_seconds": 0.0, "wall_seconds": 0.0}
    assert dataclasses.replace(actors, **timed) == dataclasses.replace(plain, **timed)
    assert (plain.num_failed_attempts, plain.cost.num_calls) == (2, 3)
    for name in ("clips.jsonl", "dropped.jsonl", "failed.jsonl"):
        assert (tmp_path / "ray" / name).read_text() == (tmp_path / "plain" / name).read_text()
    assert run_stage(Judging(), clips, tmp_path / "ray", max_attempts=1).num_reused == 4
    with pytest.raises(AvocetError, match="stage judging: RecordError: stop"):
        InProcess()(Judging(stop=True), clips, tmp_path / "stopped", retry_wait_seconds=0.0)
    with pytest.raises(ConfigError, match="RayRunner: workers must be >= 1, got 0"):
        InProcess()(Judging(), clips, tmp_path / "none", workers=0)
