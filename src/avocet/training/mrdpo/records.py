"""What passes between the arrows of a round."""

from __future__ import annotations

import dataclasses
import math

from avocet.errors import RecordError
from avocet.records import FloatOrNan, Record, StopReason, TrainingExample


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledCaption(Record):
    """One caption that the model sampled."""

    text: str
    stop_reason: StopReason
    num_tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates(Record):
    """The sampled captions of one example."""

    key: str
    """Of the example, see `example_key`."""
    captions: tuple[SampledCaption, ...]

    def __post_init__(self) -> None:
        if not self.key or not self.captions:
            raise RecordError(f"Candidates {self.key!r}: needs a key and at least one caption")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionScore(Record):
    """What a caption is compared by; rates are fractions. nan: not scored."""

    miss: FloatOrNan
    hall: FloatOrNan
    error_rate: FloatOrNan
    """Miss + Hall."""
    repetition_rate: float
    unnatural: bool
    """Whether it has any unnatural pattern (`avocet.metrics.unnatural_patterns`)."""
    reason: str | None = None
    """Why the rates are nan."""

    @property
    def is_scored(self) -> bool:
        return not math.isnan(self.error_rate)


def example_key(example: TrainingExample) -> str:
    """Clip and interval: the same clip may be described as a whole and in parts."""
    if example.start_seconds is None and example.end_seconds is None:
        return example.clip.id
    return f"{example.clip.id}|{example.start_seconds},{example.end_seconds}"
