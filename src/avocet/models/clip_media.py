"""What a model reads of a clip whatever is asked about it.

`prepare(clip, instruction)` is `write_prompt(read_clip(clip), instruction)`. Resizing and spectrograms are all in the
first half, so that a feature store can keep its outcome while later epochs ask other things of the same clip.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from avocet.records import Clip


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClipMedia:
    """One clip in the form that one model reads."""

    clip_id: str
    frames: torch.Tensor
    """uint8 (T, 3, H, W), after the model's own resize; T is 0 without picture. On the meta device (shape and type,
    no values) where the outputs of the vision tower are in `features`."""
    times_seconds: np.ndarray
    """float64 (T,): the moments at which the model lays the frames out, from the start of the clip."""
    frame_size: tuple[int, int]
    """Height and width of the decoded frames, before the resize; (0, 0) without picture."""
    mel: torch.Tensor | None
    """float32 (mel bins, mel frames), or None without sound; on the meta device like the frames."""
    num_samples: int
    """Samples of the sound that the model hears, at 16 kHz."""
    duration_seconds: float
    is_image: bool
    """Whether the file is a still picture."""
    warnings: tuple[str, ...] = ()
    content_key: str = ""
    """What the media were made from, see `features.content_key`; "" if unknown."""
    features: Mapping[str, tuple[torch.Tensor, ...]] = dataclasses.field(default_factory=dict)
    """Outputs of frozen towers that are known already, by the feature store's key."""

    @staticmethod
    def of(
        clip: Clip,
        frames: torch.Tensor,
        times_seconds: np.ndarray,
        mel: torch.Tensor | None,
        num_samples: int,
        warnings: tuple[str, ...],
    ) -> ClipMedia:
        """The clip's own facts with what a model made of its frames and its sound."""
        height, width = clip.frames.shape[2:] if clip.num_frames else (0, 0)
        return ClipMedia(
            clip_id=clip.id,
            frames=frames,
            times_seconds=times_seconds,
            frame_size=(int(height), int(width)),
            mel=mel,
            num_samples=num_samples,
            duration_seconds=clip.duration_seconds,
            is_image=clip.source.is_image,
            warnings=warnings,
        )

    @property
    def streams(self) -> dict[str, torch.Tensor]:
        """What each tower reads, by the tower's name; empty streams are left out."""
        streams = {"vision": self.frames} if len(self.frames) else {}
        return streams if self.mel is None else streams | {"audio": self.mel}

    def to_entry(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Everything but the values of the media: tensors and metadata of a file."""
        facts: dict[str, Any] = {
            "frames": list(self.frames.shape),
            "frame_size": list(self.frame_size),
            "mel": None if self.mel is None else list(self.mel.shape),
            "num_samples": self.num_samples,
            "is_image": self.is_image,
            "warnings": list(self.warnings),
        }
        numbers = {
            "times_seconds": torch.from_numpy(np.ascontiguousarray(self.times_seconds, dtype=np.float64)),
            "duration_seconds": torch.tensor([self.duration_seconds], dtype=torch.float64),
        }
        return numbers, {"media": json.dumps(facts)}

    @classmethod
    def from_entry(cls, clip_id: str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> ClipMedia:
        """What `to_entry` wrote, with media on the meta device."""
        facts = json.loads(metadata["media"])
        mel = facts["mel"]
        height, width = facts["frame_size"]
        return cls(
            clip_id=clip_id,
            frames=torch.empty(facts["frames"], dtype=torch.uint8, device="meta"),
            times_seconds=tensors["times_seconds"].numpy(),
            frame_size=(height, width),
            mel=None if mel is None else torch.empty(mel, device="meta"),
            num_samples=facts["num_samples"],
            duration_seconds=float(tensors["duration_seconds"]),
            is_image=facts["is_image"],
            warnings=tuple(facts["warnings"]),
        )
