"""Clips per second that `ClipLoader` decodes with 0, 1, 2, ... worker processes.

    python benchmarks/clip_loading.py --out benchmarks/results/clip_loading.json

The theatre stages clips (192 x 192 pixels, 8 frames per second, 4 to 12 s, AAC sound), and each loader opens all of
them several times. Two consumers are measured: one that only takes the clips, and one that computes as long for each
clip as opening one takes in the loader's own process, as training does; then the share of time spent waiting counts.
Starting the workers is measured apart. `--media` measures on files of your own instead.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from avocet.records import Clip, ClipRef
from avocet.theatre import make_script, stage
from avocet.training.inputs import ClipLoader


def stage_clips(folder: Path, count: int) -> list[str]:
    paths = [folder / f"{seed}.mp4" for seed in range(count)]
    for seed, path in enumerate(paths):
        stage(make_script(seed, level=2), path)
    return [str(path) for path in paths]


def compute(seconds: float) -> None:
    """Work like a model's: it uses a core and does not hold the interpreter's lock."""
    end = time.perf_counter() + seconds
    matrix = np.ones((256, 256), np.float32)
    while time.perf_counter() < end:
        matrix @ matrix


def measure(loader: ClipLoader, paths: list[str], rounds: int, work_seconds: float) -> dict[str, float]:
    """Speed and waiting of one pass over all paths, `rounds` times."""
    refs = [ClipRef(id=f"{path} {turn}", path=path) for turn in range(rounds) for path in paths]
    before = loader.statistics
    began = time.perf_counter()
    num_bytes = 0
    for clip in loader.load(refs):
        assert isinstance(clip, Clip), clip
        num_bytes += clip.frames.nbytes + (0 if clip.waveform is None else clip.waveform.nbytes)
        if work_seconds:
            compute(work_seconds)
    seconds = time.perf_counter() - began
    return {
        "clips_per_second": round(len(refs) / seconds, 2),
        "mib_per_second": round(num_bytes / seconds / 2**20, 1),
        "waiting": round((loader.statistics.wait_seconds - before.wait_seconds) / seconds, 3),
    }


def measure_workers(paths: list[str], num_workers: int, arguments: argparse.Namespace, work: float) -> dict[str, Any]:
    began = time.perf_counter()
    with ClipLoader({"fps": arguments.fps}, num_workers) as loader:
        list(loader.load(ClipRef(id=path, path=path) for path in paths[: 2 * max(1, num_workers)]))
        first_seconds = time.perf_counter() - began
        passes = {
            "taking_only": [measure(loader, paths, arguments.rounds, 0.0) for _ in range(arguments.repeats)],
            "with_work": [measure(loader, paths, arguments.rounds, work) for _ in range(arguments.repeats)],
        }
    result: dict[str, Any] = {"num_workers": num_workers, "start_and_first_clips_seconds": round(first_seconds, 3)}
    for name, results in passes.items():
        result[name] = {key: round(statistics.median(one[key] for one in results), 3) for key in results[0]}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", nargs="*", default=[], help="files to open instead of staged clips")
    parser.add_argument("--clips", type=int, default=24, help="how many clips to stage")
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3, help="how often a pass opens each clip")
    parser.add_argument("--repeats", type=int, default=3, help="passes; the median counts")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = arguments.media or stage_clips(Path(folder), arguments.clips)
        with ClipLoader({"fps": arguments.fps}, num_workers=0) as loader:
            work_seconds = 1 / measure(loader, paths, arguments.rounds, 0.0)["clips_per_second"]
        loaders = [measure_workers(paths, count, arguments, work_seconds) for count in arguments.workers]
    result = {
        "what": f"{len(paths)} {'files' if arguments.media else 'theatre clips'} at {arguments.fps:g} fps, "
        f"opened {arguments.rounds} times, median of {arguments.repeats} passes",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "work_seconds_per_clip": round(work_seconds, 4),
        "loaders": loaders,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
