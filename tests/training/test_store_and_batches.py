"""The memory-mapped store, rendering and batch plans."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from avocet.errors import RecordError
from avocet.theatre.script import make_script
from avocet.training.batches import BatchPlan, make_example, muted_mel, spec_augment
from avocet.training.labels import SOUND_SYMBOLS, motion_pairs, patch_labels, sound_symbols
from avocet.training.render import render_recipe
from avocet.training.store import ClipStore, ShardWriter, StoredClip


def clip(seed: int, seconds: float, frames: int = 2) -> StoredClip:
    return StoredClip(
        seed=seed,
        level=1,
        duration_seconds=seconds,
        frame_times_seconds=np.arange(frames) / 2,
        frames=np.full((frames, 3, 4, 4), seed % 256, np.uint8),
        mel=np.full((5 + seed, 8), seed, np.float16),
        patches=np.full((frames, 4, 4), 1, np.uint8),
        pairs=np.full(frames, 3, np.uint8),
    )


def test_a_shard_gives_back_what_was_written(tmp_path: Path) -> None:
    writer = ShardWriter()
    writer.add(clip(1, 4.0))
    writer.add(clip(2, 5.0, frames=3))
    writer.write(tmp_path / "shard-00000")
    store = ClipStore(tmp_path)
    assert len(store) == 2
    assert store.duration_seconds.tolist() == [4.0, 5.0]
    second = store[1]
    assert second.seed == 2
    assert second.frames.shape == (3, 3, 4, 4)
    assert (second.frames == 2).all()
    assert second.mel.shape == (7, 8)
    assert (second.mel == 2).all()
    assert second.frame_times_seconds.tolist() == [0.0, 0.5, 1.0]


def test_a_shard_without_index_does_not_exist_and_a_short_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no complete shard"):
        ClipStore(tmp_path)
    writer = ShardWriter()
    writer.add(clip(1, 4.0))
    writer.write(tmp_path / "shard-00000")
    with (tmp_path / "shard-00000" / "mels.f16").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(RecordError, match=r"mels\.f16 has 10 bytes"):
        ClipStore(tmp_path)


def test_every_clip_once_per_epoch_in_batches_of_one_duration(tmp_path: Path) -> None:
    writer = ShardWriter()
    for seed in range(11):
        writer.add(clip(seed, 4.0 if seed < 6 else 5.0))
    writer.write(tmp_path / "shard-00000")
    plan = BatchPlan([ClipStore(tmp_path)], batch_size=4, seed=3)
    # 6 clips of 4 s: batches of 4 + 2; 5 clips of 5 s: 4 + 1.
    assert plan.batches_per_epoch == 4
    first = [[c.seed for c in plan.batch(step)] for step in range(4)]
    assert sorted(seed for batch in first for seed in batch) == list(range(11))
    assert all(len({seed < 6 for seed in batch}) == 1 for batch in first)
    second = [[c.seed for c in plan.batch(step)] for step in range(4, 8)]
    assert sorted(seed for batch in second for seed in batch) == list(range(11))
    assert first != second
    fresh = BatchPlan([ClipStore(tmp_path)], batch_size=4, seed=3)
    assert [c.seed for c in fresh.batch(6)] == second[2]


def test_rendering_goes_on_where_it_was_killed(recipe_file: Path, run_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(run_dir / "data", data)
    untouched = (data / "av" / "shard-00000" / "index.json").stat().st_mtime_ns
    (data / "av" / "shard-00001" / "index.json").unlink()
    render_recipe(recipe_file, data, workers=1)
    assert (data / "av" / "shard-00000" / "index.json").stat().st_mtime_ns == untouched
    for name in ("index.json", "frames.u8", "mels.f16", "patches.u8"):
        again, before = (root / "av" / "shard-00001" / name for root in (data, run_dir / "data"))
        assert again.read_bytes() == before.read_bytes(), name


def test_rendered_clips_hold_what_the_script_says(run_dir: Path) -> None:
    store = ClipStore(run_dir / "data" / "av")
    stored = store[0]
    script = make_script(stored.seed, 1)
    assert stored.duration_seconds == pytest.approx(script.duration_seconds, abs=0.1)
    assert len(stored.frames) == 2 * script.duration_seconds
    assert np.array_equal(stored.patches, patch_labels(script, stored.frame_times_seconds, 6))
    # 50 mel frames per second in windows of 0.2 s.
    assert abs(len(stored.mel) - 50 * script.duration_seconds) <= 10


def test_labels_by_hand() -> None:
    script = next(s for s in map(make_script, range(100)) if s.events[0].kind == "visual" and len(s.beats()[0]) == 1)
    event = script.events[0]
    times = np.array([0.0, 0.5, event.end_seconds])
    labels = patch_labels(script, times, 6)
    assert labels.shape == (3, 36, 4)
    bit = 1 << ("slide left", "slide right", "rise", "fall", "spin", "blink", "grow", "shrink").index(event.motion)
    pairs = motion_pairs(script, times)
    assert pairs[0] & bit
    assert not pairs[2]


def test_sound_symbols_are_tags_and_words_in_order() -> None:
    script = next(s for s in map(make_script, range(200)) if {"sound", "speech"} <= {e.kind for e in s.events})
    names = [SOUND_SYMBOLS[symbol] for symbol in sound_symbols(script)]
    expected: list[str] = []
    for event in script.events:
        if event.kind == "sound":
            expected.append(f"<{event.sound}>")
        if event.kind == "speech":
            expected += [f"<{event.speaker}>", *event.utterance.lower().split()]
    assert names == expected


def test_examples_say_what_can_be_seen_and_heard(run_dir: Path) -> None:
    stored = ClipStore(run_dir / "data" / "av")[0]
    rng = np.random.default_rng(0)
    muted = make_example(stored, {"caption_muted": 1.0}, rng)
    assert muted.mel is not None
    assert (muted.mel == np.float16(-1.5)).all()
    assert muted.symbols == []
    assert "No sound is heard" in muted.target
    black = make_example(stored, {"caption_black": 1.0}, rng)
    assert black.frames is not None
    assert not black.frames.any()
    assert "stays black" in black.target
    assert make_example(stored, {"caption_no_track": 1.0}, rng).mel is None
    sound = make_example(stored, {"sound_caption": 1.0}, rng)
    assert sound.frames is None


def test_only_kinds_that_fit_a_clip_are_drawn(run_dir: Path) -> None:
    sound_only = ClipStore(run_dir / "data" / "sound")[0]  # somebody speaks in it
    rng = np.random.default_rng(0)
    mixture = {"caption": 0.98, "asr": 0.01, "sound_caption": 0.01}
    kinds = [make_example(sound_only, mixture, rng).kind for _ in range(60)]
    assert set(kinds) == {"asr", "sound_caption"}
    assert make_example(sound_only, {"caption": 1.0}, rng).kind == "sound_caption"


def test_spec_augment_keeps_shape_and_input() -> None:
    mel = np.arange(400, dtype=np.float32).reshape(50, 8)
    before = mel.copy()
    augmented = spec_augment(mel, np.random.default_rng(1))
    assert augmented.shape == mel.shape
    assert np.array_equal(mel, before)
    assert (muted_mel(mel) == -1.5).all()


def test_index_is_json_without_surprises(run_dir: Path) -> None:
    index = json.loads((run_dir / "data" / "sound" / "shard-00000" / "index.json").read_text())
    assert index["format"] == 1
    assert index["shapes"]["frames"][0] == 0
    assert [entry["level"] for entry in index["clips"]] == [2, 2]
