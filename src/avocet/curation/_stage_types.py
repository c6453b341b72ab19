"""What a stage is, and the numbers that a run of it gives."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import ClassVar, Protocol

from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Cost, Outcome
from avocet.records import Record


class CurationStage(Protocol):
    """What `run_stage` asks of a stage. `process` is called from several threads at once."""

    @property
    def name(self) -> str:
        """Names the folder and the section of facts; differs from all other stages of a pipeline."""

    @property
    def version(self) -> str:
        """Changes whenever the stage may judge otherwise."""

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The earlier stages whose facts it looks at; None for all of them."""

    @property
    def reads_media(self) -> bool:
        """Whether it opens the file."""

    def process(self, clip: ManifestClip) -> Outcome:
        """What becomes of the clip.

        What concerns this clip alone is an outcome; an exception stops the run (a missing dependency, a server that
        refuses every question, a defect). Finished looks stay recorded.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Record):
    """Base of stages whose fields are their settings: the version is a hash over them."""

    name: str
    revision: ClassVar[int] = 1
    """Raised whenever the code judges otherwise with the same settings."""

    @functools.cached_property
    def version(self) -> str:
        settings = {key: value for key, value in self.to_dict().items() if key != "name"}
        text = json.dumps([type(self).__name__, self.revision, settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def reads(self) -> tuple[str, ...] | None:
        return ()

    @property
    def reads_media(self) -> bool:
        return True

    def process(self, clip: ManifestClip) -> Outcome:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSummary(Record):
    """What a stage did to its input. Only `num_reused` and the last two depend on how many runs it took."""

    stage: str
    version: str
    num_in: int = 0
    num_kept: int = 0
    num_split: int = 0
    num_dropped: int = 0
    num_failed: int = 0
    """Clips without an outcome yet."""
    num_out: int = 0
    """Clips that go on: kept ones and pieces."""
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    """Reason code -> clips, the most frequent first."""
    failed: dict[str, int] = dataclasses.field(default_factory=dict)
    num_failed_attempts: int = 0
    """Over all runs, of all clips of this input."""
    cost: Cost = dataclasses.field(default_factory=Cost)
    """Over all runs, failed attempts included."""
    media_seconds_in: float = 0.0
    media_seconds_out: float = 0.0
    """Playing time, of the clips whose duration is known."""
    num_unknown_duration: int = 0
    """Clips of the input whose duration is not known."""
    num_reused: int = 0
    """Outcomes that an earlier run had recorded."""
    work_seconds: float = 0.0
    """Sum over looks, over all runs."""
    wall_seconds: float = 0.0
    """Of the latest run."""

    @property
    def clip_yield(self) -> float | None:
        """Clips out per clip in; above 1 where clips are split, None without input."""
        return self.num_out / self.num_in if self.num_in else None

    def line(self) -> str:
        """For people."""
        counts = [f"{self.num_in} in", f"{self.num_out} out"]
        counts += [f"{self.num_split} split"] * bool(self.num_split)
        counts += [f"{number} dropped ({reason})" for reason, number in self.dropped.items()]
        counts += [f"{number} failed ({reason})" for reason, number in self.failed.items()]
        counts += [f"{self.num_failed_attempts} failed attempts"] * bool(self.num_failed_attempts)
        if self.cost.num_calls or self.cost.usd:
            unknown = f", cost of {self.cost.num_unpriced} unknown" if self.cost.num_unpriced else ""
            counts.append(f"{self.cost.num_calls} calls, ${self.cost.usd:.4f}{unknown}")
        return f"{self.stage}: {', '.join(counts)}; {self.wall_seconds:.1f} s"


Progress = Callable[[StageSummary], None]
"""Called with the summary so far whenever a clip has gone through."""


def look_key(stage: CurationStage, clip: ManifestClip) -> str:
    """The name under which a stage's outcome for a clip is recorded."""
    return f"{clip.id}@{stage.version}.{clip.digest(stage.reads, reads_media=stage.reads_media)}"
