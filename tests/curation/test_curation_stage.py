"""Running a stage: order, retries, costs, yields, resuming, being killed, and memory."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from avocet.curation.manifest import ManifestClip, read_manifest
from avocet.curation.outcomes import (
    Cost,
    Dropped,
    Failed,
    Kept,
    Outcome,
    Piece,
    Split,
    apply_outcome,
    media_outcome,
)
from avocet.curation.stage import Stage, StageSummary, run_stage, run_stages
from avocet.errors import ConfigError, MediaError, RecordError

OUTPUTS = ("clips.jsonl", "dropped.jsonl", "failed.jsonl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sorting(Stage):
    """Clip n: every 5th is dropped, every 7th split, every 11th fails at first; each look costs a cent."""

    name: str = "sorting"
    threshold: int = 0

    @property
    def reads_media(self) -> bool:
        return False

    def process(self, clip: ManifestClip) -> Outcome:
        number = int(clip.id)
        CALLS[clip.id] += 1
        cost = Cost(usd=0.01, num_calls=1)
        if number % 11 == 0 and CALLS[clip.id] == 1:
            return Failed(reason="busy", cost=Cost(usd=0.001, num_calls=1))
        if number % 5 == 0:
            return Dropped(reason="fifth", detail=f"{number} of five", cost=cost)
        if number % 7 == 0:
            pieces = (Piece(start_seconds=0.0, end_seconds=4.0), Piece(start_seconds=4.0, end_seconds=9.0))
            return Split(pieces=pieces, cost=cost)
        return Kept(facts={"number": number}, cost=cost)


CALLS: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    CALLS.clear()


def make_clips(count: int) -> Iterator[ManifestClip]:
    for number in range(1, count + 1):
        yield ManifestClip(id=str(number), path=f"{number}.mp4", start_seconds=0.0, end_seconds=10.0)


def outputs(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in OUTPUTS}


def counts(summary: StageSummary) -> dict[str, object]:
    """Everything that must not depend on how many runs it took."""
    timed = ("num_reused", "work_seconds", "wall_seconds")
    return {key: value for key, value in summary.to_dict().items() if key not in timed}


def test_every_outcome_is_counted(tmp_path: Path) -> None:
    summary = run_stage(Sorting(), make_clips(35), tmp_path, retry_wait_seconds=0.0)
    # 1..35: dropped 5 10 15 20 25 30 35; split 7 14 21 28; 24 kept; 11, 22 and 33 failed once and were then kept.
    assert (summary.num_in, summary.num_kept, summary.num_split, summary.num_dropped) == (35, 24, 4, 7)
    assert (summary.num_out, summary.num_failed, summary.dropped) == (24 + 2 * 4, 0, {"fifth": 7})
    assert (summary.num_failed_attempts, summary.num_reused) == (3, 0)
    assert summary.cost.usd == pytest.approx(35 * 0.01 + 3 * 0.001)
    assert summary.cost.num_calls == 38
    # 24 clips of 10 s go on, and 4 times 4 + 5 s.
    assert (summary.media_seconds_in, summary.media_seconds_out) == (350.0, 24 * 10 + 4 * 9)
    assert summary.clip_yield == 32 / 35
    assert "35 in, 32 out, 4 split, 7 dropped (fifth), 3 failed attempts, 38 calls, $0.3530" in summary.line()
    assert StageSummary.from_json((tmp_path / "summary.json").read_text()) == summary
    out = list(read_manifest(tmp_path / "clips.jsonl"))
    assert [clip.id for clip in out[:9]] == ["1", "2", "3", "4", "6", "7#t=0,4", "7#t=4,9", "8", "9"]
    assert out[0].path == os.path.abspath("1.mp4")
    assert out[0].facts == {"sorting": {"number": 1}}
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert dropped[0] == {
        "id": "5",
        "source_id": os.path.abspath("5.mp4"),
        "path": "5.mp4",
        "stage": "sorting",
        "reason": "fifth",
        "detail": "5 of five",
    }


@pytest.mark.parametrize("workers", [1, 4])
def test_a_second_run_looks_at_nothing_and_writes_the_same(tmp_path: Path, workers: int) -> None:
    first = run_stage(Sorting(), make_clips(50), tmp_path, workers=workers, retry_wait_seconds=0.0)
    before = outputs(tmp_path)
    CALLS.clear()
    second = run_stage(Sorting(), make_clips(50), tmp_path, workers=workers)
    assert not CALLS
    assert outputs(tmp_path) == before
    assert counts(second) == counts(first)
    assert second.num_reused == 50


def test_the_order_does_not_depend_on_workers(tmp_path: Path) -> None:
    class Slow(Sorting):
        def process(self, clip: ManifestClip) -> Outcome:
            time.sleep(random.Random(clip.id).random() / 200)
            return super().process(clip)

    run_stage(Sorting(), make_clips(100), tmp_path / "one", retry_wait_seconds=0.0)
    CALLS.clear()
    run_stage(Slow(), make_clips(100), tmp_path / "many", workers=8, retry_wait_seconds=0.0)
    assert outputs(tmp_path / "one") == outputs(tmp_path / "many")
    recorded = [json.loads(line)["clip_id"] for line in (tmp_path / "many" / "results.jsonl").read_text().splitlines()]
    assert sorted(recorded, key=int) == [str(number) for number in range(1, 101)]


def test_other_settings_are_another_look_and_old_looks_still_count(tmp_path: Path) -> None:
    run_stage(Sorting(), make_clips(10), tmp_path)
    CALLS.clear()
    assert run_stage(Sorting(threshold=1), make_clips(10), tmp_path).num_reused == 0
    assert len(CALLS) == 10
    assert Sorting(threshold=1, name="other").version == Sorting(threshold=1).version != Sorting().version
    assert run_stage(Sorting(), make_clips(10), tmp_path).num_reused == 10


def test_a_changed_input_is_another_look(tmp_path: Path) -> None:
    run_stage(Sorting(), make_clips(3), tmp_path)
    CALLS.clear()
    longer = [dataclasses.replace(clip, end_seconds=12.0) for clip in make_clips(1)]
    run_stage(Sorting(), [*longer, *list(make_clips(3))[1:]], tmp_path)
    assert CALLS == {"1": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flaky(Stage):
    name: str = "flaky"
    fail_times: int = 0
    at_once: bool = True

    def process(self, clip: ManifestClip) -> Outcome:
        CALLS[clip.id] += 1
        if CALLS[clip.id] <= self.fail_times:
            detail = f"try {CALLS[clip.id]}"
            return Failed(reason="no_answer", detail=detail, at_once=self.at_once, cost=Cost(usd=1.0, num_calls=1))
        return Kept()


def test_failures_are_tried_again_within_a_run_and_by_the_next(tmp_path: Path) -> None:
    stage = Flaky(fail_times=5)
    first = run_stage(stage, make_clips(1), tmp_path, retry_wait_seconds=0.0)
    assert (first.num_failed, first.failed, first.num_failed_attempts, first.num_out) == (1, {"no_answer": 1}, 3, 0)
    assert json.loads((tmp_path / "failed.jsonl").read_text())["detail"] == "try 3"
    second = run_stage(stage, make_clips(1), tmp_path, retry_wait_seconds=0.0)
    assert (second.num_failed, second.num_failed_attempts, second.num_out) == (0, 5, 1)
    assert second.cost == Cost(usd=5.0, num_calls=5)
    assert (tmp_path / "failed.jsonl").read_text() == ""
    lines = (tmp_path / "attempts.jsonl").read_text().splitlines()
    attempts = [json.loads(line)["key"].rpartition("#")[2] for line in lines]
    assert attempts == ["1", "2", "3", "4", "5"]


def test_what_will_not_go_better_at_once_is_left_for_the_next_run(tmp_path: Path) -> None:
    assert run_stage(Flaky(fail_times=1, at_once=False), make_clips(1), tmp_path).num_failed_attempts == 1
    assert run_stage(Flaky(fail_times=1, at_once=False), make_clips(1), tmp_path).num_out == 1


def test_an_exception_stops_the_run_and_keeps_what_was_finished(tmp_path: Path) -> None:
    started = threading.Barrier(4)

    class Breaks(Sorting):
        def process(self, clip: ManifestClip) -> Outcome:
            started.wait(timeout=10)
            if clip.id == "2":
                raise ConfigError("no such server")
            time.sleep(0.1)
            return super().process(clip)

    with pytest.raises(ConfigError, match="no such server"):
        run_stage(Breaks(), make_clips(4), tmp_path, workers=4)
    recorded = [json.loads(line)["clip_id"] for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert sorted(recorded) == ["1", "3", "4"]
    assert not (tmp_path / "clips.jsonl").exists()
    assert not list(tmp_path.glob(".*"))


def test_looks_are_kept_when_the_caller_stops(tmp_path: Path) -> None:
    class Slow(Sorting):
        def process(self, clip: ManifestClip) -> Outcome:
            time.sleep(0.02)
            return super().process(clip)

    def stop(so_far: StageSummary) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(Slow(), make_clips(20), tmp_path, workers=2, progress=stop)
    recorded = (tmp_path / "results.jsonl").read_text().count("\n")
    assert recorded == CALLS.total() >= 1, "every look that was begun is on file"


def test_wrong_arguments_and_repeated_ids(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers must be >= 1, got 0"):
        run_stage(Sorting(), make_clips(1), tmp_path, workers=0)
    with pytest.raises(ConfigError, match=r"needs max_attempts >= 1 .*, got 0 and 0\.5"):
        run_stage(Sorting(), make_clips(1), tmp_path, max_attempts=0)
    with pytest.raises(RecordError, match="id '1' comes twice"):
        run_stage(Sorting(), [*make_clips(1), *make_clips(1)], tmp_path)
    with pytest.raises(ConfigError, match="names that differ"):
        run_stages([Sorting(), Sorting(threshold=2)], make_clips(1), tmp_path)


def test_one_process_works_in_a_folder(tmp_path: Path) -> None:
    class Nested(Sorting):
        def process(self, clip: ManifestClip) -> Outcome:
            run_stage(Sorting(), make_clips(1), tmp_path)
            return Kept()

    with pytest.raises(ConfigError, match="another process is writing"):
        run_stage(Nested(), make_clips(1), tmp_path)


def test_stages_follow_one_another(tmp_path: Path) -> None:
    class Second(Stage):
        @property
        def reads(self) -> tuple[str, ...]:
            return ("sorting",)

        def process(self, clip: ManifestClip) -> Outcome:
            return Kept(facts={"double": 2 * clip.facts.get("sorting", {}).get("number", 0)})

    summaries = run_stages([Sorting(), Second(name="second")], make_clips(8), tmp_path, retry_wait_seconds=0.0)
    assert [(summary.num_in, summary.num_out) for summary in summaries] == [(8, 8), (8, 8)]
    last = list(read_manifest(tmp_path / "second" / "clips.jsonl"))
    assert last[3].facts == {"sorting": {"number": 4}, "second": {"double": 8}}


def test_progress_is_told_after_every_clip(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    run_stage(Sorting(), make_clips(6), tmp_path, progress=lambda so_far: told.append((so_far.num_in, so_far.num_out)))
    assert told == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 5)]


def test_outcomes_check_themselves() -> None:
    with pytest.raises(RecordError, match="finite"):
        Kept(facts={"level": float("-inf")})
    with pytest.raises(RecordError, match="JSON types"):
        Kept(facts={"level": {1, 2}})
    with pytest.raises(RecordError, match="lower-case letters"):
        Dropped(reason="Too short")
    with pytest.raises(RecordError, match="needs pieces"):
        Split(pieces=())
    piece = Piece(start_seconds=0.0, end_seconds=1.0)
    with pytest.raises(RecordError, match="interval of its own"):
        Split(pieces=(piece, piece))
    with pytest.raises(RecordError, match="not one of a file"):
        Piece(start_seconds=2.0, end_seconds=2.0)


def test_applying_an_outcome_is_all_that_a_stage_does() -> None:
    clip = ManifestClip(id="a", path="a.mp4")
    assert apply_outcome(clip, "s", Dropped(reason="x")) == []
    assert apply_outcome(clip, "s", Failed(reason="x")) == []
    assert apply_outcome(clip, "s", Kept(facts={"y": 1})) == [clip.with_facts("s", {"y": 1})]
    split = Split(pieces=(Piece(start_seconds=0.0, end_seconds=1.0, facts={"z": 2}),))
    assert apply_outcome(clip, "s", split) == [clip.piece(0.0, 1.0).with_facts("s", {"z": 2})]


@pytest.mark.parametrize(
    ("path", "stream", "reason", "kind"),
    [
        ("a.mp4", "container", "not a readable media file: x", "dropped"),
        ("a.mp4", "video", "12 of 13 packets are damaged", "dropped"),
        ("a.mp4", "container", "no such file", "failed"),
        ("a.mp4", "container", "gave up after 120.0 s", "failed"),
        ("https://host/a.mp4", "container", "cannot be read: Server returned 404", "failed"),
        ("https://host/a.mp4", "video", "no frame could be decoded", "dropped"),
    ],
)
def test_media_errors_are_for_good_or_not(path: str, stream: str, reason: str, kind: str) -> None:
    outcome = media_outcome(MediaError(path, stream, reason))
    assert outcome.kind == kind
    assert outcome.detail == f"{path}: {stream}: {reason}"


VICTIM = """
import dataclasses, random, sys, time
from pathlib import Path
from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Cost, Dropped, Kept, Piece, Split
from avocet.curation.stage import Stage, run_stage

CALLS = open(sys.argv[2], "a")

@dataclasses.dataclass(frozen=True, kw_only=True)
class Work(Stage):
    name: str = "work"

    def process(self, clip):
        number = int(clip.id)
        time.sleep(random.Random(number).random() / 50)
        CALLS.write(clip.id + "\\n"); CALLS.flush()
        cost = Cost(usd=number / 1000, num_calls=1)
        if number % 3 == 0:
            return Dropped(reason="third", cost=cost)
        if number % 4 == 0:
            return Split(pieces=(Piece(start_seconds=0.0, end_seconds=number + 1.0, facts={"n": number}),), cost=cost)
        return Kept(facts={"text": "x" * (number * 10)}, cost=cost)

clips = (ManifestClip(id=str(number), path=f"{number}.mp4") for number in range(200))
print(run_stage(Work(), clips, Path(sys.argv[1]), workers=4).cost.usd)
"""


def start(folder: Path, calls: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", VICTIM, str(folder), str(calls)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_runs_end_like_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed = start(tmp_path / "calm", tmp_path / "calm_calls")
    moments, calls = random.Random(5), tmp_path / "calls"
    for _ in range(4):
        victim = start(tmp_path / "killed", calls)
        known = calls.read_text().count("\n") if calls.exists() else 0
        aim, deadline = known + moments.randrange(1, 40), time.monotonic() + 30
        while victim.poll() is None and (not calls.exists() or calls.read_text().count("\n") < aim):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        assert not (tmp_path / "killed" / "clips.jsonl").exists()
    last = start(tmp_path / "killed", calls)
    cost, calm_cost = last.communicate(timeout=60)[0], undisturbed.communicate(timeout=60)[0]
    assert (last.returncode, undisturbed.returncode) == (0, 0)
    assert outputs(tmp_path / "killed") == outputs(tmp_path / "calm")
    assert float(cost) == pytest.approx(sum(range(200)) / 1000)
    assert cost == calm_cost
    # A kill loses at most what the 4 workers had under way; nothing that was recorded is looked at again.
    looks = Counter(calls.read_text().split())
    assert len(looks) == 200
    assert sum(looks.values()) <= 200 + 4 * (4 + 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stubbed(Stage):
    """As much text per clip as a fingerprint, so that keeping it would show."""

    name: str = "stubbed"

    def process(self, clip: ManifestClip) -> Outcome:
        number = int(clip.id)
        return Dropped(reason="tenth") if number % 10 == 0 else Kept(facts={"text": f"{number:05d}" * 800})


@pytest.mark.parametrize("most", [1_500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_clips(tmp_path: Path, most: int) -> None:
    peaks = {}
    for count in (500, most):
        tracemalloc.start()
        summary = run_stage(Stubbed(), make_clips(count), tmp_path / str(count), workers=2)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert summary.num_out == count * 9 // 10
    # Facts are 4,000 bytes per clip; its id and its key in the ledger are some 600.
    grown = (peaks[most] - peaks[500]) / (most - 500)
    assert grown < 1_000, f"{grown:.0f} bytes per clip"
    assert os.path.getsize(tmp_path / str(most) / "clips.jsonl") > 4_000 * most * 9 // 10
