"""Real media for curation: plays of the theatre, staged and spoilt, and the shared files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from curation_media import write_video

from avocet.theatre import make_script
from avocet.theatre.stage import stage, stage_arrays

_SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture(scope="session")
def media_dir() -> Path:
    """Folder of real media files. Tests skip where there is none, but not in CI when the shared folder is there."""
    named = os.environ.get("AVOCET_MEDIA_DIR")
    folder = Path(named) if named else _SHARED / "media"
    if not folder.is_dir():
        if os.environ.get("CI") == "true" and _SHARED.is_dir():
            pytest.fail(f"{folder} is missing although {_SHARED} is there")
        pytest.skip(f"no media files at {folder}")
    return folder


@pytest.fixture(scope="session")
def stage_play(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Stage the play of a seed once per session: (seed, level=1, **options of `stage`) -> mp4."""
    folder = tmp_path_factory.mktemp("plays")

    def staged(seed: int, level: int = 1, **options: bool) -> Path:
        name = "_".join([str(seed), str(level), *sorted(options)])
        path = folder / f"{name}.mp4"
        if not path.exists():
            stage(make_script(seed, level=level), path, **options)
        return path

    return staged


@pytest.fixture(scope="session")
def static_play(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first picture of a play for all of its time, with all of its sound."""
    play = stage_arrays(make_script(2), fps=8.0)
    picture = play.frames[:1].transpose(0, 2, 3, 1)
    path = tmp_path_factory.mktemp("static") / "static.mp4"
    return write_video(path, np.repeat(picture, play.num_frames, axis=0), play.waveform)
