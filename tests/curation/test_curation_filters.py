"""Real files through the stages: each spoilt one is dropped for its own reason, and the filters' thresholds by hand."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curation_media import encode_again, write_video

from avocet.curation import (
    CurationStage,
    Dropped,
    DuplicateStage,
    Failed,
    FormatFilter,
    Kept,
    LengthFilter,
    ManifestClip,
    MeasureStage,
    PictureFilter,
    ProbeStage,
    SoundFilter,
    SpeechLikePrefilter,
    read_manifest,
    run_stage,
    run_stages,
    write_manifest,
)
from avocet.curation.fingerprints import decode_hashes
from avocet.errors import ConfigError, RecordError

STAGES: tuple[CurationStage, ...] = (
    ProbeStage(),
    FormatFilter(),
    LengthFilter(min_seconds=3.5, max_seconds=9.0),
    MeasureStage(),
    PictureFilter(max_black_share=0.9),
    SoundFilter(),
)


@pytest.fixture
def corpus(tmp_path: Path, stage_play: Callable[..., Path], static_play: Path) -> Path:
    """A manifest of four good plays and twelve clips that each have one thing wrong; names say what is expected."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    plays = {"a_good": 0, "b_good": 2, "c_good": 4, "d_good": 6}
    for name, seed in plays.items():
        shutil.copy(stage_play(seed), folder / f"{name}.mp4")
    shutil.copy(stage_play(0), folder / "exact_duplicate.mp4")
    encode_again(stage_play(2), folder / "near_duplicate.mp4")
    shutil.copy(stage_play(8, muted=True), folder / "silent.mp4")
    shutil.copy(stage_play(8, with_audio_track=False), folder / "no_audio.mp4")
    shutil.copy(stage_play(8, black=True), folder / "black.mp4")
    shutil.copy(static_play, folder / "static.mp4")
    whole = stage_play(8).read_bytes()
    (folder / "media_error.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    moving = np.random.default_rng(0).integers(0, 255, (20, 96, 128, 3), dtype=np.uint8)
    tone = (0.2 * np.sin(np.arange(2.5 * 16_000) / 10)).astype(np.float32)
    write_video(folder / "too_short.mp4", moving, tone)
    write_video(folder / "too_long.mp4", np.repeat(moving, 4, axis=0), tone)
    write_video(folder / "too_small.mp4", np.repeat(moving[:, :64, :64], 2, axis=0), tone)
    write_video(folder / "low_fps.mp4", moving[:12], tone, fps=2)
    shutil.copy(stage_play(8), folder / "other_file.mp4")
    clips = [ManifestClip(id=path.stem, path=str(path), licence="CC0") for path in sorted(folder.glob("*.mp4"))]
    clips = [
        ManifestClip.from_dict(clip.to_dict() | {"sha256": "0" * 64}) if clip.id == "other_file" else clip
        for clip in clips
    ]
    write_manifest(folder / "clips.jsonl", clips)
    return folder / "clips.jsonl"


def dropped(folder: Path) -> dict[str, str]:
    """Id -> reason, over all stages."""
    lines = [line for path in sorted(folder.glob("*/dropped.jsonl")) for line in path.read_text().splitlines()]
    return {row["id"]: row["reason"] for row in map(json.loads, lines)}


def test_each_clip_is_dropped_for_its_own_reason(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summaries = run_stages(STAGES, read_manifest(corpus), out, workers=2)
    survivors = list(read_manifest(out / "sound" / "clips.jsonl"))
    stage = DuplicateStage.of_clips(survivors)
    summaries.append(run_stage(stage, survivors, out / stage.name))
    reasons = dropped(out)
    spoilt = {clip.id for clip in read_manifest(corpus) if not clip.id.endswith("good")}
    assert reasons == {name: name for name in spoilt}
    assert [(one.stage, one.num_in, one.num_out, one.num_failed) for one in summaries] == [
        ("probe", 16, 14, 0),  # media_error, other_file
        ("format", 14, 12, 0),  # too_small, low_fps
        ("length", 12, 10, 0),  # too_short, too_long
        ("measure", 10, 10, 0),
        ("picture", 10, 8, 0),  # black, static
        ("sound", 8, 6, 0),  # silent, no_audio
        ("duplicates", 6, 4, 0),  # exact and near
    ]
    kept = list(read_manifest(out / "duplicates" / "clips.jsonl"))
    assert [(clip.id, clip.licence) for clip in kept] == [(f"{letter}_good", "CC0") for letter in "abcd"]
    assert "picture_hashes" not in kept[0].facts["measure"]
    details = [json.loads(line) for line in (out / "probe" / "dropped.jsonl").read_text().splitlines()]
    assert details[0]["detail"].startswith(str(corpus.parent / "media_error.mp4") + ": container: not a readable media")
    assert "an MP4 whose index (moov) is missing" in details[0]["detail"]


def test_other_thresholds_decode_nothing_again(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stages(STAGES, read_manifest(corpus), tmp_path)
    monkeypatch.setattr("avocet.curation.measure.open_clip", lambda *_, **__: pytest.fail("decoded again"))
    stricter = (*STAGES[:-1], SoundFilter(max_silent_share=0.5))
    summary = run_stages(stricter, read_manifest(corpus), tmp_path)[-1]
    assert summary.dropped["mostly_silent"] >= 1


PIPELINE = """
import sys
from test_curation_filters import STAGES
from avocet.curation import read_manifest, run_stages
run_stages(STAGES, read_manifest(sys.argv[1]), sys.argv[2], workers=2)
"""


def test_a_killed_pipeline_ends_like_an_undisturbed_one(corpus: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    run_stages(STAGES, read_manifest(corpus), calm)
    command = [sys.executable, "-c", PIPELINE, str(corpus), str(killed)]
    for stage in ("probe", "measure"):
        victim = subprocess.Popen(command, env=environment)
        ledger, deadline = killed / stage / "results.jsonl", time.monotonic() + 60
        while victim.poll() is None and not (ledger.exists() and ledger.stat().st_size):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    subprocess.run(command, env=environment, check=True)
    for stage in STAGES:
        for name in ("clips.jsonl", "dropped.jsonl", "failed.jsonl"):
            assert (killed / stage.name / name).read_bytes() == (calm / stage.name / name).read_bytes()
        lines = (killed / stage.name / "results.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["key"] for line in lines) == sorted({json.loads(line)["key"] for line in lines})


def test_a_file_that_is_not_there_fails_and_is_tried_by_the_next_run(
    tmp_path: Path, stage_play: Callable[..., Path]
) -> None:
    clip = ManifestClip(id="a", path=str(tmp_path / "a.mp4"))
    first = run_stage(ProbeStage(), [clip], tmp_path / "out")
    assert (first.num_failed, first.failed, first.num_failed_attempts) == (1, {"media_unavailable": 1}, 1)
    shutil.copy(stage_play(2), tmp_path / "a.mp4")
    assert run_stage(ProbeStage(), [clip], tmp_path / "out").num_out == 1


def test_a_file_that_was_fetched_anew_is_looked_at_anew(tmp_path: Path, stage_play: Callable[..., Path]) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(stage_play(2).read_bytes()[:5000])
    clip = ManifestClip(id="a", path=str(path))
    assert run_stage(ProbeStage(), [clip], tmp_path / "out").dropped == {"media_error": 1}
    shutil.copy(stage_play(2), path)
    assert run_stage(ProbeStage(), [clip], tmp_path / "out").num_out == 1


def test_probe_facts(stage_play: Callable[..., Path]) -> None:
    path = stage_play(2)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    clip = ManifestClip(id="a", path=str(path), start_seconds=1.0, end_seconds=99.0, sha256=digest)
    outcome = ProbeStage().process(clip)
    assert isinstance(outcome, Kept)
    facts = outcome.facts
    assert (facts["duration_seconds"], facts["file_duration_seconds"]) == (3.0, 4.0)
    assert (facts["width"], facts["height"], facts["average_fps"]) == (192, 192, 8.0)
    assert (facts["video_codec"], facts["audio_codec"], facts["file_sha256"]) == ("h264", "aac", digest)
    late = ProbeStage().process(ManifestClip(id="a", path=str(path), start_seconds=4.0))
    assert late == Dropped(reason="outside_of_file", detail="begins at 4 s of a file of 4.000 s")


def test_still_images_are_dropped(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (128, 128), "red").save(tmp_path / "a.png")
    clip = ManifestClip(id="a", path=str(tmp_path / "a.png"))
    for stage in (ProbeStage(), MeasureStage()):
        outcome = stage.process(clip)
        assert isinstance(outcome, Dropped)
        assert outcome.reason == "still_image"


def test_measured_facts(stage_play: Callable[..., Path], static_play: Path) -> None:
    play = MeasureStage().process(ManifestClip(id="a", path=str(stage_play(2))))
    assert isinstance(play, Kept)
    assert (play.facts["duration_seconds"], play.facts["num_frames"], play.facts["audio_status"]) == (4.0, 8, "present")
    assert len(decode_hashes(play.facts["picture_hashes"], np.uint64)) == 8
    # 64,000 samples: floor((64000 - 8192) / 2000) + 1 = 28 windows, 27 hashes.
    assert len(decode_hashes(play.facts["sound_hashes"], np.uint32)) == 27
    static = MeasureStage().process(ManifestClip(id="a", path=str(static_play)))
    assert isinstance(static, Kept)
    assert static.facts["static_share"] == 1.0
    long = MeasureStage(max_seconds=3.9).process(ManifestClip(id="a", path=str(stage_play(2))))
    assert isinstance(long, Dropped)
    assert long.reason == "too_long_to_measure"
    gone = MeasureStage().process(ManifestClip(id="a", path="/nowhere/a.mp4"))
    assert isinstance(gone, Failed)


def test_hashes_of_a_frozen_picture_cover_its_time(tmp_path: Path) -> None:
    """Each frame is decoded once, also one that stays for seconds: its hash counts for all of them."""
    pictures = np.random.default_rng(1).integers(0, 255, (2, 96, 128, 3), dtype=np.uint8)
    path = write_video(tmp_path / "a.mp4", np.repeat(pictures, 2, axis=0)[[0, 2]], None, fps=1)
    outcome = MeasureStage().process(ManifestClip(id="a", path=str(path)))
    assert isinstance(outcome, Kept)
    hashes = decode_hashes(outcome.facts["picture_hashes"], np.uint64).tolist()
    assert outcome.facts["num_frames"] == 2
    assert (len(hashes), hashes[0] == hashes[1], hashes[2] == hashes[3]) == (4, True, True)


def clip_with(stage: str, **facts: Any) -> ManifestClip:
    return ManifestClip(id="a", path="a.mp4", facts={stage: facts})


PROBED = {"video_codec": "h264", "width": 640, "height": 360, "average_fps": 25.0, "duration_seconds": 20.0}
MEASURED = {
    "has_video": True,
    "black_share": 0.1,
    "static_share": 0.2,
    "audio_status": "present",
    "rms_dbfs": -20.0,
    "peak_dbfs": -3.0,
    "silent_share": 0.3,
    "speech_like_share": 0.5,
    "warnings": [],
}


@pytest.mark.parametrize(
    ("stage", "facts", "reason"),
    [
        (FormatFilter(), PROBED, None),
        (FormatFilter(), PROBED | {"video_codec": None}, "no_video"),
        (FormatFilter(), PROBED | {"height": 95}, "too_small"),
        (FormatFilter(), PROBED | {"width": 20_000, "height": 10_000}, "too_large"),
        (FormatFilter(), PROBED | {"width": 1441}, "too_narrow"),
        (FormatFilter(), PROBED | {"average_fps": 4.9}, "low_fps"),
        (FormatFilter(), PROBED | {"average_fps": 1000.0}, "odd_fps"),
        (FormatFilter(), PROBED | {"average_fps": None}, None),
        (PictureFilter(), MEASURED, None),
        (PictureFilter(), MEASURED | {"has_video": False}, "no_video"),
        (PictureFilter(), MEASURED | {"black_share": 0.81}, "black"),
        (PictureFilter(), MEASURED | {"black_share": 0.8, "static_share": 0.96}, "static"),
        (SoundFilter(), MEASURED, None),
        (SoundFilter(), MEASURED | {"audio_status": "absent"}, "no_audio"),
        (SoundFilter(), MEASURED | {"audio_status": "undecodable"}, "audio_undecodable"),
        (SoundFilter(), MEASURED | {"audio_status": "silent", "rms_dbfs": -90.0}, "silent"),
        (SoundFilter(), MEASURED | {"rms_dbfs": -55.1}, "too_quiet"),
        (SoundFilter(), MEASURED | {"silent_share": 0.91}, "mostly_silent"),
        (SpeechLikePrefilter(), MEASURED, None),
        (SpeechLikePrefilter(), MEASURED | {"speech_like_share": 0.04}, "nothing_like_speech"),
        (SpeechLikePrefilter(), MEASURED | {"audio_status": "silent"}, "nothing_like_speech"),
    ],
)
def test_thresholds(stage: Any, facts: dict[str, Any], reason: str | None) -> None:
    outcome = stage.process(clip_with(stage.facts_of, **facts))
    assert (outcome.reason if isinstance(outcome, Dropped) else None) == reason


@pytest.mark.parametrize(("seconds", "reason"), [(29.9, "too_short"), (30.0, None), (60.0, None), (60.1, "too_long")])
def test_lengths(seconds: float, reason: str | None) -> None:
    outcome = LengthFilter(min_seconds=30.0, max_seconds=60.0).process(clip_with("probe", duration_seconds=seconds))
    assert (outcome.reason if isinstance(outcome, Dropped) else None) == reason


def test_stages_in_the_wrong_order_are_told() -> None:
    with pytest.raises(RecordError, match="has no facts of 'measure', only of probe; run that stage before"):
        SoundFilter().process(clip_with("probe", **PROBED))
    with pytest.raises(RecordError, match="'black_share' of 'measure' is None, expected a number"):
        PictureFilter().process(clip_with("measure", has_video=True))
    with pytest.raises(RecordError, match="length of clip 'a' is not known; run ProbeStage before"):
        LengthFilter().process(ManifestClip(id="a", path="a.mp4"))
    with pytest.raises(ConfigError, match="max_black_share is a share from 0 to 1, got 80"):
        PictureFilter(max_black_share=80)
