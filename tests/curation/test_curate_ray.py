"""Ray Data gives the files that a plain run gives, and each continues what the other began."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from curation_runs import command, files_of, make_corpus, teaching
from scripted_teachers import Faults

from avocet.cli import main
from avocet.curation import ManifestClip, ProbeStage, run_stage
from avocet.curation.ray_run import RayRunner
from avocet.errors import AvocetError, ConfigError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FAULTS = Faults(loses_always=frozenset({9}), incomplete=frozenset({10}), unread_always=frozenset({23}))


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Any]:
    """Ray on two cores of this machine, whose workers find the modules of the tests."""
    ray = pytest.importorskip("ray")
    os.environ["NO_PROXY"] = "127.0.0.1"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()


def test_the_same_files_as_a_plain_run(
    tmp_path: Path, stage_play: Callable[..., Path], static_play: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus(tmp_path / "corpus", stage_play, static_play)
    with teaching(FAULTS) as (server, teachers):
        plain, on_ray = tmp_path / "plain", tmp_path / "ray"
        assert main(command("avocado", corpus, plain, server, cache="plain.sqlite")) == 0
        num_asked = len(teachers.asked)
        words = command("avocado", corpus, on_ray, server, "--ray", "--ray-actors", "2")
        assert main(words) == 0
        assert len(teachers.asked) == 2 * num_asked
        assert files_of(on_ray) == files_of(plain)
        # The plain run goes on with what Ray recorded, and the other way round.
        assert main([word for word in words if word not in ("--ray", "--ray-actors", "2")]) == 0
        assert main(command("avocado", corpus, plain, server, "--ray", cache="plain.sqlite")) == 0
        assert len(teachers.asked) == 2 * num_asked


def test_failures_and_errors_come_home(tmp_path: Path) -> None:
    gone = [ManifestClip(id=name, path=str(tmp_path / f"{name}.mp4")) for name in "abc"]
    on_ray = RayRunner(num_actors=1)(ProbeStage(), gone, tmp_path / "ray")
    plain = run_stage(ProbeStage(), gone, tmp_path / "plain")
    assert (on_ray.failed, on_ray.num_failed_attempts) == (plain.failed, plain.num_failed_attempts)
    assert on_ray.failed == {"media_unavailable": 3}
    from avocet.curation import SoundFilter

    with pytest.raises(AvocetError, match="RecordError: stage sound: clip 'a' has no facts of 'measure'"):
        RayRunner(num_actors=1)(SoundFilter(), gone[:1], tmp_path / "wrong")
    with pytest.raises(AvocetError, match="id 'a' comes twice"):
        RayRunner(num_actors=1)(ProbeStage(), [gone[0], gone[0]], tmp_path / "twice")
    with pytest.raises(ConfigError, match="must be >= 1"):
        RayRunner()(ProbeStage(), gone, tmp_path / "none", workers=0)
