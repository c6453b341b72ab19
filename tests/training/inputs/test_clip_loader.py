"""The loader with real files and real processes: order, equality, hanging and dying workers, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from avocet.errors import ConfigError
from avocet.media import open_clip
from avocet.records import Clip, ClipRef, Failure
from avocet.training.inputs import ClipLoader, WorkerError

ODD = "odd_openers:open_or_misbehave"


def ref(path: Path | str, **fields: float) -> ClipRef:
    return ClipRef(id=f"id of {Path(path).name}", path=str(path), **fields)


def child_processes() -> set[int]:
    """Children of this process, zombies included."""
    children = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            if int(stat.rsplit(")", 1)[1].split()[1]) == os.getpid():
                children.add(int(folder.name))
    return children


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    processes, descriptors = child_processes(), len(os.listdir("/proc/self/fd"))
    yield
    assert child_processes() == processes
    assert len(os.listdir("/proc/self/fd")) == descriptors


def assert_same(clip: Clip | Failure, expected: Clip) -> None:
    assert isinstance(clip, Clip)
    np.testing.assert_array_equal(clip.frames, expected.frames)
    np.testing.assert_array_equal(clip.frame_times_seconds, expected.frame_times_seconds)
    assert (clip.waveform is None) == (expected.waveform is None)
    if clip.waveform is not None and expected.waveform is not None:
        np.testing.assert_array_equal(clip.waveform, expected.waveform)
        assert clip.waveform.dtype == np.float32
    assert clip.frames.dtype == np.uint8
    assert clip.frames.flags.writeable  # PyTorch warns about arrays that are not
    for name in ("id", "start_seconds", "duration_seconds", "audio_status", "source", "warnings"):
        assert getattr(clip, name) == getattr(expected, name)
    assert clip.sampling_step_seconds == expected.sampling_step_seconds


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_clips_are_those_of_open_clip_in_order(media_folder: Path, num_workers: int) -> None:
    refs = [
        ref(media_folder / "a.mp4"),
        ref(media_folder / "b.mp4"),
        ref(media_folder / "gone.mp4"),
        ref(media_folder / "sub" / "c.mp4", start_seconds=0.3, end_seconds=1.7),
        ref(media_folder / "a.mp4"),
        ref(media_folder / "notes.txt"),
        ref(media_folder / "b.mp4"),
    ]
    with ClipLoader({"fps": 4.0, "max_frames": 5}, num_workers, prefetch=3) as loader:
        results = list(loader.load(iter(refs)))
        again = list(loader.load(refs[:1]))
    for asked, result in zip([*refs, refs[0]], [*results, *again], strict=True):
        if Path(asked.path).name in ("gone.mp4", "notes.txt"):
            assert isinstance(result, Failure)
            assert (result.clip_id, result.path, result.stage) == (asked.id, asked.path, "media")
            assert asked.path in result.error
        else:
            expected = open_clip(
                asked.path,
                fps=4.0,
                max_frames=5,
                start_seconds=asked.start_seconds,
                end_seconds=asked.end_seconds,
                clip_id=asked.id,
            )
            assert_same(result, expected)
    statistics = loader.statistics
    assert statistics.num_clips == 6
    assert statistics.failures == {"media": 2}
    assert statistics.num_failures == 2
    assert 0 < statistics.wait_seconds <= statistics.elapsed_seconds
    assert statistics.clips_per_second == 6 / statistics.elapsed_seconds
    assert statistics.num_replaced_workers == 0


def test_a_picture_without_sound_and_a_sound_without_picture(media_folder: Path) -> None:
    """Arrays of no elements and arrays that are not there come over, too."""
    from PIL import Image

    Image.new("RGB", (30, 20), (250, 10, 20)).save(media_folder / "picture.png")
    with wave.open(str(media_folder / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((8000 * np.sin(np.arange(8000) / 5)).astype("<i2").tobytes())
    with ClipLoader(num_workers=1) as loader:
        picture, sound = loader.load([ref(media_folder / "picture.png"), ref(media_folder / "a.wav")])
    assert_same(picture, open_clip(media_folder / "picture.png", clip_id="id of picture.png"))
    assert_same(sound, open_clip(media_folder / "a.wav", clip_id="id of a.wav"))
    assert isinstance(sound, Clip)
    assert sound.frames.shape[0] == 0


def test_a_hanging_worker_is_killed_and_costs_only_its_clip(media_folder: Path) -> None:
    os.mkfifo(media_folder / "hangs_in_the_system")
    names = ["a.mp4", "hangs", "b.mp4", "hangs_in_the_system", "a.mp4"]
    began = time.monotonic()
    with ClipLoader(num_workers=2, timeout_seconds=0.7, opener=ODD) as loader:
        results = list(loader.load(ref(media_folder / name) for name in names))
    assert time.monotonic() - began < 10
    assert [isinstance(result, Clip) for result in results] == [True, False, True, False, True]
    for position in (1, 3):
        failure = results[position]
        assert isinstance(failure, Failure)
        pattern = rf".*{names[position]}: reading was stopped after 0\.\d s; .* raise timeout_seconds \(now 0\.7\).*"
        assert re.fullmatch(pattern, failure.error)
    assert loader.statistics.failures == {"timeout": 2}
    assert loader.statistics.num_replaced_workers == 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_named_pipe_is_no_media_file(tmp_path: Path, num_workers: int) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with ClipLoader(num_workers=num_workers) as loader:
        (failure,) = loader.load([ref(tmp_path / "pipe.mp4")])
    assert isinstance(failure, Failure)
    assert "not a regular file" in failure.error
    assert loader.statistics.failures == {"media": 1}


def test_a_dying_worker_is_replaced_and_costs_only_its_clip(media_folder: Path) -> None:
    names = ["dies", "a.mp4", "exits", "b.mp4", "raises", "returns_nothing", "a.mp4"]
    with ClipLoader(num_workers=1, opener=ODD) as loader:
        results = list(loader.load(ref(media_folder / name) for name in names))
    errors = [result.error if isinstance(result, Failure) else "" for result in results]
    assert "the process that read it died after" in errors[0]
    assert "killed by SIGKILL, perhaps for lack of memory" in errors[0]
    assert "exit code 7" in errors[2]
    assert errors[4] == "ValueError: a bug on two lines"
    assert errors[5] == "TypeError: the opener must return a Clip, got NoneType"
    assert [bool(error) for error in errors] == [True, False, True, False, True, True, False]
    assert loader.statistics.failures == {"crash": 2, "error": 2}
    assert loader.statistics.num_replaced_workers == 2


def test_a_worker_killed_from_outside_while_idle_is_replaced(media_folder: Path) -> None:
    with ClipLoader(num_workers=1) as loader:
        before = child_processes()
        next(loader.load([ref(media_folder / "a.mp4")]))
        (worker,) = child_processes() - before
        os.kill(worker, signal.SIGKILL)
        assert wait_until(lambda: loader.statistics.num_replaced_workers == 1)
        (clip,) = loader.load([ref(media_folder / "b.mp4")])
    assert isinstance(clip, Clip)
    assert loader.statistics.failures == {}


def test_workers_hold_the_media_package_only_and_stay(tmp_path: Path) -> None:
    assert "torch" in sys.modules  # here, but not there
    with ClipLoader(num_workers=1, opener=ODD) as loader:
        results = list(loader.load([ref(tmp_path / "modules")] * 2))
        results += loader.load([ref(tmp_path / "modules")])
    errors = {result.error for result in results if isinstance(result, Failure)}
    assert len(errors) == 1  # one process for all
    assert errors.pop().endswith(" loaded av")


def test_two_workers_work_at_the_same_time(tmp_path: Path) -> None:
    with ClipLoader(num_workers=2, opener=ODD) as loader:
        list(loader.load([ref(tmp_path / "raises")] * 8))  # both are up
        results = list(loader.load(ref(tmp_path / f"slow_{k}") for k in range(4)))
    begins = [float(result.error.rsplit(" ", 1)[1]) for result in results if isinstance(result, Failure)]
    assert [f"slow_{k} " in str(result) for k, result in enumerate(results)] == [True] * 4
    assert begins[1] - begins[0] < 0.14  # each takes 0.15 s
    assert begins[2] - begins[0] > 0.14


@pytest.mark.parametrize("prefetch", [1, 3])
def test_refs_are_read_no_further_ahead_than_prefetch(media_folder: Path, prefetch: int) -> None:
    read: list[int] = []

    def refs() -> Iterator[ClipRef]:
        for number in range(20):
            read.append(number)
            yield ref(media_folder / "a.mp4")

    with ClipLoader(num_workers=1, prefetch=prefetch) as loader:
        clips = loader.load(refs())
        for delivered in range(1, 5):
            next(clips)
            assert len(read) == delivered + prefetch
        clips.close()


def test_a_dropped_iterator_frees_the_loader(media_folder: Path) -> None:
    with ClipLoader(num_workers=1) as loader:
        clips = loader.load([ref(media_folder / "a.mp4")] * 50)
        next(clips)
        with pytest.raises(ConfigError, match="this loader is in use"):
            next(loader.load([ref(media_folder / "b.mp4")]))
        clips.close()
        (clip,) = loader.load([ref(media_folder / "b.mp4")])
    assert isinstance(clip, Clip)
    assert clip.id == "id of b.mp4"


def test_errors_of_the_refs_pass_through(media_folder: Path) -> None:
    def refs() -> Iterator[ClipRef]:
        yield ref(media_folder / "a.mp4")
        raise KeyError("no more")

    with ClipLoader(num_workers=1) as loader, pytest.raises(KeyError, match="no more"):
        list(loader.load(refs()))


def test_closing_kills_a_worker_that_hangs(tmp_path: Path) -> None:
    began = time.monotonic()
    loader = ClipLoader(num_workers=2, prefetch=2, opener=ODD)
    before = child_processes()
    clips = loader.load([ref(tmp_path / "raises"), ref(tmp_path / "hangs"), ref(tmp_path / "hangs")])
    next(clips)
    assert wait_until(lambda: len(child_processes() - before) == 2)
    loader.close()
    loader.close()
    assert child_processes() == before
    assert time.monotonic() - began < 10
    with pytest.raises(WorkerError, match="closed; make a new loader"):
        next(clips)
    with pytest.raises(ConfigError, match="this loader is closed"):
        next(loader.load([]))


def test_a_dropped_loader_ends_its_workers(media_folder: Path) -> None:
    loader = ClipLoader(num_workers=1)
    assert len(list(loader.load([ref(media_folder / "a.mp4")]))) == 1
    before = child_processes()
    del loader
    assert len(child_processes()) == len(before) - 1


SCRIPT = """
import sys
from avocet.records import ClipRef
from avocet.training.inputs import ClipLoader

loader = ClipLoader(num_workers=2, opener="odd_openers:open_or_misbehave")
refs = [ClipRef(id="m", path="modules")] * 8 + [ClipRef(id="h", path="hangs")] * 2
clips = loader.load(refs)
print(" ".join({next(clips).error.split()[2] for _ in range(8)}), flush=True)
next(clips)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_its_program(tmp_path: Path, how: signal.Signals) -> None:
    """Interrupted from the keyboard or killed outright, in a program without a guard around its main part."""
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    program = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=environment)  # fmt: skip
    assert program.stdout is not None
    workers = [int(pid) for pid in program.stdout.readline().split()]
    assert workers
    assert all(is_alive(pid) for pid in workers)
    program.send_signal(how)
    _, errors = program.communicate(timeout=20)
    assert program.returncode == -how
    assert wait_until(lambda: not any(is_alive(pid) for pid in workers))
    assert ("KeyboardInterrupt" in errors) == (how == signal.SIGINT)


def test_workers_that_cannot_start_are_an_error(media_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avocet.training.inputs._pool._COMMAND", "raise SystemExit(5)")
    with (
        ClipLoader(num_workers=1) as loader,
        pytest.raises(WorkerError, match=r"3 worker processes in a row did not start \(exit code 5\)"),
    ):
        list(loader.load([ref(media_folder / "a.mp4")]))
    missing = "import sys; sys.argv[3:] = [p for p in sys.argv[3:] if not p.endswith('inputs')]; "
    monkeypatch.undo()
    from avocet.training.inputs import _pool

    monkeypatch.setattr(_pool, "_COMMAND", missing + _pool._COMMAND)
    with (
        ClipLoader(num_workers=1, opener=ODD) as loader,
        pytest.raises(WorkerError, match="opener 'odd_openers:open_or_misbehave' cannot be imported"),
    ):
        list(loader.load([ref(media_folder / "a.mp4")]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_workers": -1}, "num_workers must be >= 0, got -1"),
        ({"timeout_seconds": 0}, "timeout_seconds must be a number > 0, got 0"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds must be a number > 0, got inf"),
        ({"prefetch": 0}, "prefetch must be >= 1 or None, got 0"),
        ({"opener": "odd_openers"}, 'opener must look like "package.module:function"'),
        ({"opener": "odd_openers:nothing"}, "opener 'odd_openers:nothing' cannot be imported"),
        ({"open_arguments": {"clip_id": "x", "path": "y"}}, "must not set clip_id, path"),
        ({"open_arguments": {"fps": -1}}, "fps must be a number > 0, got -1"),
        ({"open_arguments": {"speed": 1}}, "open_arguments do not fit open_clip: .*'speed'"),
        ({"open_arguments": {"fps": np.float32(2)}}, "open_arguments must be plain numbers and strings"),
    ],
)
def test_wrong_arguments_are_named_at_once(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipLoader(**arguments)  # type: ignore[arg-type]
