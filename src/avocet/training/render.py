"""Render the theatre clips of a recipe into memory-mapped stores, on all cores, resumable shard by shard.

What the model will be evaluated on is what it trains on: `av` stores hold frames and sound that went
through the real mp4 encoder and `avocet.open_clip`.
"""

from __future__ import annotations

import math
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from avocet.media import open_clip
from avocet.theatre.picture import render_frame
from avocet.theatre.script import Script, make_script
from avocet.theatre.sound import render_waveform
from avocet.theatre.stage import stage
from avocet.training.config import Recipe, TheatreData
from avocet.training.labels import PATCH_LABELS, motion_pairs, patch_labels
from avocet.training.model import TrainableModel
from avocet.training.recipes import load_recipe
from avocet.training.store import ShardWriter, StoredClip


def store_folder(data_dir: Path, data: TheatreData) -> Path:
    """Where the store of `data` lives below the run's data folder."""
    return data_dir / data.name


def render_recipe(recipe_path: Path, data_dir: Path, *, workers: int, only: tuple[str, ...] = ()) -> None:
    """Render every missing shard of the recipe's stores.

    Args:
        recipe_path: the recipe file; worker processes load it themselves.
        data_dir: folder that receives one store folder per `TheatreData`.
        workers: number of processes.
        only: names of the stores to render; empty for all.
    """
    recipe = load_recipe(recipe_path)
    jobs = [
        (recipe_path, data_dir, number, shard)
        for number, data in enumerate(recipe.data)
        if not only or data.name in only
        for shard in range(-(-data.num_clips // data.clips_per_shard))
        if not (_shard_folder(data_dir, data, shard) / "index.json").exists()
    ]
    if not jobs:
        print("all shards are there")
        return
    print(f"rendering {len(jobs)} shards with {workers} workers", flush=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        futures = [pool.submit(_render_shard, *job) for job in jobs]
        for count, future in enumerate(as_completed(futures), 1):
            print(f"[{count}/{len(jobs)}] {future.result()}", flush=True)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _shard_folder(data_dir: Path, data: TheatreData, shard: int) -> Path:
    return store_folder(data_dir, data) / f"shard-{shard:05d}"


def _render_shard(recipe_path: Path, data_dir: Path, data_number: int, shard: int) -> str:
    recipe: Recipe = load_recipe(recipe_path)
    data = recipe.data[data_number]
    model = recipe.build_model()
    render, grid, writer = _RENDER[data.kind], patch_grid(model), ShardWriter()
    first = shard * data.clips_per_shard
    for number in range(first, min(first + data.clips_per_shard, data.num_clips)):
        script = _script(data, number)
        writer.add(render(model, script, grid))
    folder = _shard_folder(data_dir, data, shard)
    writer.write(folder)
    return str(folder)


def _script(data: TheatreData, number: int) -> Script:
    """Script `number` of the store: seeds run on from `first_seed`, one seed range of its own per clip."""
    if not data.with_speech_only:
        return make_script(data.first_seed + number, data.level)
    for attempt in range(100):
        script = make_script(data.first_seed + number * 100 + attempt, data.level)
        if any(event.kind == "speech" for event in script.events):
            return script
    raise AssertionError(f"no script with speech in 100 seeds from {data.first_seed + number * 100}")


def _sound_clip(model: TrainableModel, script: Script, grid: int) -> StoredClip:
    mel = model.log_mel(render_waveform(script))
    empty = np.zeros((0, 3, 1, 1), np.uint8)
    return StoredClip(
        seed=script.seed,
        level=script.level,
        duration_seconds=script.duration_seconds,
        frame_times_seconds=np.zeros(0),
        frames=empty,
        mel=mel.T.numpy().astype(np.float16),
        patches=np.zeros((0, grid * grid, len(PATCH_LABELS)), np.uint8),
        pairs=np.zeros(0, np.uint8),
    )


def _picture_clip(model: TrainableModel, script: Script, grid: int) -> StoredClip:
    times = np.arange(round(script.duration_seconds * model.clip_fps)) / model.clip_fps
    frames = np.stack([render_frame(script, float(time)) for time in times]).transpose(0, 3, 1, 2)
    return StoredClip(
        seed=script.seed,
        level=script.level,
        duration_seconds=script.duration_seconds,
        frame_times_seconds=times,
        frames=model.resize_frames(frames).numpy(),
        mel=np.zeros((0, 1), np.float16),
        patches=patch_labels(script, times, grid),
        pairs=motion_pairs(script, times),
    )


def render_clip(model: TrainableModel, script: Script, grid: int) -> StoredClip:
    """Stage `script` to an mp4, decode it again and keep what the model would see and hear."""
    shared_memory = "/dev/shm"  # noqa: S108 - a RAM disk spares the disk when there is one
    with tempfile.TemporaryDirectory(dir=shared_memory if os.path.isdir(shared_memory) else None) as folder:
        path = Path(folder) / "clip.mp4"
        stage(script, path)
        clip = open_clip(path, fps=model.clip_fps, max_frames=model.max_frames, audio="require")
    assert clip.waveform is not None
    times = clip.frame_times_seconds - clip.start_seconds
    frames = model.resize_frames(clip.frames).numpy()
    return StoredClip(
        seed=script.seed,
        level=script.level,
        duration_seconds=clip.duration_seconds,
        frame_times_seconds=times,
        frames=frames,
        mel=model.log_mel(clip.waveform).T.numpy().astype(np.float16),
        patches=patch_labels(script, times, grid),
        pairs=motion_pairs(script, times),
    )


_RENDER = {"sound": _sound_clip, "picture": _picture_clip, "av": render_clip}


def patch_grid(model: TrainableModel) -> int:
    """Patches along one side of a frame, found by encoding a blank one."""
    with torch.no_grad():
        features = model.vision_features(model.resize_frames(np.zeros((1, 3, 8, 8), np.uint8)))
    return math.isqrt(features.shape[1])
