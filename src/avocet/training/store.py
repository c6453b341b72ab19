"""Memory-mapped clip store: frames, mel spectrograms and dense labels of many clips in flat files.

A store is a folder of shards. A shard's `index.json` is written last, so a shard either is complete or
does not exist: rendering can be killed and run again, and readers never see half a shard. Files are flat
arrays that every process maps instead of copying:

    frames.u8   (sum T, 3, S, S) uint8      frames as the model sees them, after the codec
    mels.f16    (sum M, num_mels) float16   log-mel frames
    patches.u8  (sum T, P, C) uint8         per-patch labels, 0 = nothing
    pairs.u8    (sum T,) uint8              bit k: motion k goes on from this frame to the next
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from avocet.errors import RecordError

_FILES = {"frames": np.uint8, "mels": np.float16, "patches": np.uint8, "pairs": np.uint8}
_SUFFIX = {"frames": "u8", "mels": "f16", "patches": "u8", "pairs": "u8"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredClip:
    """Arrays of one clip (views into the mapped files)."""

    seed: int
    level: int
    duration_seconds: float
    frame_times_seconds: np.ndarray
    """(T,) relative to the clip's start."""
    frames: np.ndarray
    mel: np.ndarray
    """(M, num_mels) float16."""
    patches: np.ndarray
    pairs: np.ndarray


class ShardWriter:
    """Collects clips in memory and writes them as one shard."""

    def __init__(self) -> None:
        self._arrays: dict[str, list[np.ndarray]] = {name: [] for name in _FILES}
        self._entries: list[dict[str, Any]] = []

    def add(self, clip: StoredClip) -> None:
        """Append one clip. Frames may be empty (T = 0) for sound-only stores."""
        self._arrays["frames"].append(clip.frames)
        self._arrays["mels"].append(clip.mel)
        self._arrays["patches"].append(clip.patches)
        self._arrays["pairs"].append(clip.pairs)
        self._entries.append(
            {
                "seed": clip.seed,
                "level": clip.level,
                "duration_seconds": clip.duration_seconds,
                "frame_times_seconds": [round(float(time), 6) for time in clip.frame_times_seconds],
                "num_mel_frames": len(clip.mel),
            }
        )

    def write(self, folder: Path) -> None:
        """Write the shard; `index.json` appears last and at once."""
        folder.mkdir(parents=True, exist_ok=True)
        shapes = {}
        for name, dtype in _FILES.items():
            array = np.concatenate(self._arrays[name]).astype(dtype, copy=False)
            array.tofile(folder / f"{name}.{_SUFFIX[name]}")
            shapes[name] = list(array.shape)
        index = {"format": 1, "shapes": shapes, "clips": self._entries}
        temporary = folder / "index.json.partial"
        temporary.write_text(json.dumps(index))
        temporary.rename(folder / "index.json")


class ClipStore:
    """Reads a store folder. Raises `RecordError` when it has no complete shard or a file's size is wrong."""

    def __init__(self, folder: Path) -> None:
        self._shards: list[dict[str, np.ndarray]] = []
        self._where: list[tuple[int, int, int, dict[str, Any]]] = []
        indexes = sorted(folder.glob("shard-*/index.json"))
        if not indexes:
            raise RecordError(f"{folder} holds no complete shard; render it first with `avocet train data RECIPE`")
        for path in indexes:
            self._open_shard(path)
        self.duration_seconds = np.array([entry["duration_seconds"] for *_, entry in self._where])

    def _open_shard(self, index_path: Path) -> None:
        index = json.loads(index_path.read_text())
        arrays = {}
        for name, dtype in _FILES.items():
            shape = tuple(index["shapes"][name])
            path = index_path.parent / f"{name}.{_SUFFIX[name]}"
            expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
            if path.stat().st_size != expected:
                raise RecordError(
                    f"{path} has {path.stat().st_size} bytes, its index says {expected}; delete the shard"
                )
            empty = expected == 0
            arrays[name] = np.zeros(shape, dtype) if empty else np.memmap(path, dtype, mode="r", shape=shape)
        self._shards.append(arrays)
        frame, mel = 0, 0
        for entry in index["clips"]:
            self._where.append((len(self._shards) - 1, frame, mel, entry))
            frame += len(entry["frame_times_seconds"])
            mel += entry["num_mel_frames"]

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> StoredClip:
        shard, frame, mel, entry = self._where[index]
        arrays = self._shards[shard]
        frames = slice(frame, frame + len(entry["frame_times_seconds"]))
        return StoredClip(
            seed=entry["seed"],
            level=entry["level"],
            duration_seconds=entry["duration_seconds"],
            frame_times_seconds=np.array(entry["frame_times_seconds"]),
            frames=arrays["frames"][frames],
            mel=arrays["mels"][mel : mel + entry["num_mel_frames"]],
            patches=arrays["patches"][frames],
            pairs=arrays["pairs"][frames],
        )
