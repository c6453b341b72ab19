"""Staging in bulk: reuse, controls, and what each control leaves untouched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from avocet.errors import ConfigError
from avocet.evaluation.benchmarks.theatre_staging import stage_scripts, swap_sound
from avocet.theatre.script import make_script

COMMENT = "avocet theatre theatre-1-7"


def pictures(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [(float(frame.pts * frame.time_base), frame.to_ndarray(format="gray")) for frame in frames]


def sound(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])


def loudest_hertz(wave: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(wave)).argmax() * 16_000 / len(wave))


@pytest.fixture
def clips(tmp_path: Path, clip_writer: Callable[..., Path]) -> tuple[Path, Path]:
    return (
        clip_writer(tmp_path / "one.mp4", seconds=1.0, comment=COMMENT, tone_hertz=440),
        clip_writer(tmp_path / "two.mp4", seconds=2.0, comment="another", tone_hertz=1000),
    )


@pytest.mark.parametrize(("own", "other", "hertz"), [(0, 1, 1000), (1, 0, 440)])
def test_swapped_has_the_other_sound_no_longer_than_the_picture(
    clips: tuple[Path, Path], tmp_path: Path, own: int, other: int, hertz: float
) -> None:
    swap_sound(clips[own], clips[other], tmp_path / "out.mp4")
    wave = sound(tmp_path / "out.mp4")
    assert loudest_hertz(wave) == pytest.approx(hertz, abs=5)
    # One second is the shorter of both; an AAC packet (1024 samples) more may stand at either end.
    assert abs(len(wave) - 16_000) <= 2 * 1024
    for (time, frame), (kept_time, kept) in zip(pictures(clips[own]), pictures(tmp_path / "out.mp4"), strict=True):
        assert time == kept_time
        assert np.array_equal(frame, kept)


def test_swapping_keeps_the_tags_of_the_picture(clips: tuple[Path, Path], tmp_path: Path) -> None:
    swap_sound(*clips, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["comment"] == COMMENT


@pytest.mark.parametrize("workers", [1, 2])
def test_files_come_in_order_and_are_reused(tmp_path: Path, workers: int) -> None:
    scripts = [make_script(seed) for seed in (3, 4)]
    paths = stage_scripts(scripts, tmp_path / "new", workers=workers)
    assert [path.name for path in paths] == ["theatre-1-3.mp4", "theatre-1-4.mp4"]
    before = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    assert stage_scripts(scripts, tmp_path / "new", workers=1) == paths
    assert paths[0].stat().st_mtime_ns == before[0]
    assert paths[1].exists()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [path.name for path in paths]


def test_each_control_spoils_one_stream(tmp_path: Path) -> None:
    scripts = [make_script(seed) for seed in (3, 4)]
    plain, _ = stage_scripts(scripts, tmp_path, workers=1)
    muted, black, swapped = (
        stage_scripts(scripts, tmp_path, control=control, workers=1)[0] for control in ("muted", "black", "swapped")
    )
    assert len({plain, muted, black, swapped}) == 4
    assert np.abs(sound(plain)).max() > 0.05
    assert np.abs(sound(muted)).max() < 1e-3
    assert max(int(frame.max()) for _, frame in pictures(black)) < 20
    assert max(int(frame.max()) for _, frame in pictures(plain)) > 60
    for other in (muted, swapped):
        for (_, frame), (_, kept) in zip(pictures(plain), pictures(other), strict=True):
            assert np.array_equal(frame, kept)
    assert np.array_equal(sound(plain), sound(black))
    assert not np.array_equal(sound(plain)[:16_000], sound(swapped)[:16_000])


def test_what_cannot_be_staged_is_refused(tmp_path: Path) -> None:
    scripts = [make_script(3)]
    with pytest.raises(ConfigError, match="workers must be >= 1, got 0"):
        stage_scripts(scripts, tmp_path, workers=0)
    with pytest.raises(ConfigError, match="needs at least two clips"):
        stage_scripts(scripts, tmp_path, control="swapped")
    with pytest.raises(ConfigError, match="control must be one of none, muted, black, swapped, got 'loud'"):
        stage_scripts(scripts, tmp_path, control="loud")
