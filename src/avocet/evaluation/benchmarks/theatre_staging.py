"""Stage many scripts to mp4 files, on several cores, reusing files that are already there.

Controls spoil one stream, which shows whether a captioner uses it: `muted` has a silent sound track, `black`
has black frames, `swapped` has the sound of another clip. Captions are still judged against the clip's own script,
so the part of the score that the lost stream carries must fall.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import av

from avocet.errors import ConfigError, MediaError
from avocet.theatre.script import Script
from avocet.theatre.stage import stage

Control = Literal["none", "muted", "black", "swapped"]
CONTROLS: tuple[Control, ...] = get_args(Control)

_Job = TypeVar("_Job")


def stage_scripts(
    scripts: Sequence[Script], folder: Path, *, control: Control = "none", workers: int = 2
) -> list[Path]:
    """Stage every script into `folder` and return the files in the order of `scripts`.

    A finished file is reused; files appear whole or not at all. `swapped` stages the plain clips beside the swapped
    ones and gives each clip the sound of the next in the list (the last that of the first). `workers` > 1 starts
    fresh Python processes, so a program that calls this needs the usual `if __name__ == "__main__"` guard. Raises
    `ConfigError` for an unknown control, fewer than one worker, or `swapped` with fewer than two scripts.
    """
    if control not in CONTROLS:
        raise ConfigError(f"control must be one of {', '.join(CONTROLS)}, got {control!r}")
    if workers < 1:
        raise ConfigError(f"workers must be >= 1, got {workers}")
    if control == "swapped" and len(scripts) < 2:
        raise ConfigError("the control 'swapped' needs at least two clips; raise num_clips")
    folder.mkdir(parents=True, exist_ok=True)
    mark = "" if control in ("none", "swapped") else f"-{control}"
    paths = [folder / f"{script.id}{mark}.mp4" for script in scripts]
    _run_all(_stage_one, [(script, path, control) for script, path in zip(scripts, paths, strict=True)], workers)
    if control != "swapped":
        return paths
    partners = [*scripts[1:], scripts[0]]
    swapped = [
        folder / f"{script.id}-sound-of-{partner.seed}.mp4" for script, partner in zip(scripts, partners, strict=True)
    ]
    _run_all(_swap_one, list(zip(paths, [*paths[1:], paths[0]], swapped, strict=True)), workers)
    return swapped


def swap_sound(picture_path: Path, sound_path: Path, target: Path) -> None:
    """Write an mp4 with the picture and tags of one clip and the sound of another, cut where the picture ends.

    Packets are copied, so both streams stay bit for bit what they were; a shorter sound leaves silence at the end.
    Raises `MediaError` when the container does not say how long the picture is.
    """
    with av.open(str(picture_path)) as picture_file, av.open(str(sound_path)) as sound_file:
        picture, sound = picture_file.streams.video[0], sound_file.streams.audio[0]
        if picture.duration is None or picture.time_base is None:
            raise MediaError(str(picture_path), "video", "the container does not say how long the picture is")
        end = Fraction(((picture.start_time or 0) + picture.duration) * picture.time_base)
        with av.open(str(target), "w") as output:
            output.metadata.update(picture_file.metadata)
            video, audio = output.add_stream_from_template(picture), output.add_stream_from_template(sound)
            packets = _packets(picture_file, picture, video)
            packets += [packet for packet in _packets(sound_file, sound, audio) if _decode_time(packet) < end]
            for packet in sorted(packets, key=_decode_time):
                output.mux(packet)


def _packets(container: Any, stream: Any, output: Any) -> list[Any]:
    # The demuxer ends with an empty packet without a time, which is a request to flush and no data.
    packets = [packet for packet in container.demux(stream) if packet.dts is not None]
    for packet in packets:
        packet.stream = output
    return packets


def _decode_time(packet: Any) -> Fraction:
    return Fraction(packet.dts * packet.time_base)


def _run_all(function: Callable[[_Job], None], jobs: Sequence[_Job], workers: int) -> None:
    if workers == 1 or len(jobs) == 1:
        for job in jobs:
            function(job)
        return
    # spawn: a forked copy of a process that has used PyTorch's threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        for _ in pool.map(function, jobs, chunksize=4):
            pass


def _stage_one(job: tuple[Script, Path, Control]) -> None:
    script, path, control = job
    if not path.exists():
        stage(script, path, muted=control == "muted", black=control == "black")


def _swap_one(job: tuple[Path, Path, Path]) -> None:
    picture_path, sound_path, target = job
    if not target.exists():
        part = target.with_name(f"{target.stem}.part{os.getpid()}{target.suffix}")
        swap_sound(picture_path, sound_path, part)
        os.replace(part, target)
