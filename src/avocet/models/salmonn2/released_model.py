"""What the released variants share: reading settings that their configs hold under the same names."""

from __future__ import annotations

from typing import Protocol

from avocet.models.base import DecoderModel
from avocet.records import Sampling


class ReadingConfig(Protocol):
    """How clips are read and asked about."""

    @property
    def default_instruction(self) -> str: ...

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def fps(self) -> float: ...

    @property
    def max_frames(self) -> int: ...


class ReleasedModel(DecoderModel):
    """Base of `v1` and `plus`."""

    world = None

    @property
    def reading(self) -> ReadingConfig:
        """The subclass's config."""
        raise NotImplementedError

    @property
    def default_instruction(self) -> str:
        return self.reading.default_instruction

    @property
    def default_sampling(self) -> Sampling:
        return Sampling(max_new_tokens=self.reading.max_new_tokens)

    @property
    def clip_fps(self) -> float:
        return self.reading.fps

    @property
    def max_frames(self) -> int:
        return self.reading.max_frames
