"""The files of one stage: its two ledgers, with access by key, and the manifests that it leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from avocet.curation._stage_types import CurationStage, StageSummary
from avocet.curation.manifest import ManifestClip, replacing
from avocet.curation.outcomes import Cost, Dropped, Failed, Finished, Outcome, apply_outcome
from avocet.errors import ConfigError, RecordError
from avocet.ledger import Ledger
from avocet.records import Record

SUMMARY_FILE = "summary.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageEntry(Record):
    """One line of `results.jsonl`."""

    key: str
    clip_id: str
    outcome: Finished
    seconds: float
    """How long the look took that gave this outcome."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FailedAttempt(Record):
    """One line of `attempts.jsonl`."""

    key: str
    """That of the look, `#` and the number of the attempt, over all runs."""
    clip_id: str
    reason: str
    detail: str
    cost: Cost
    seconds: float


@dataclasses.dataclass(kw_only=True)
class Look:
    """One clip on its way through the stage."""

    clip: ManifestClip
    key: str
    reused: bool = False
    outcome: Outcome | None = None
    seconds: float = 0.0
    going_on: list[ManifestClip] = dataclasses.field(default_factory=list)

    def finish(self, stage: str, outcome: Outcome, seconds: float) -> None:
        """Note what came of it; `stage` is the name under which facts are filed."""
        self.outcome, self.seconds = outcome, seconds
        self.going_on = apply_outcome(self.clip, stage, outcome)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tried:
    """What a worker brings back."""

    failures: tuple[tuple[Failed, float], ...]
    """With the seconds of each."""
    outcome: Outcome
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tries:
    """How often a clip is looked at in one run, when looks fail."""

    max_attempts: int = 3
    retry_wait_seconds: float = 0.5
    """Before the second look; doubled before each further one."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.retry_wait_seconds < 0:
            raise ConfigError(
                "a stage needs max_attempts >= 1 and retry_wait_seconds >= 0, got "
                f"{self.max_attempts} and {self.retry_wait_seconds}"
            )

    def look(self, stage: CurationStage, clip: ManifestClip) -> Tried:
        """Look until there is an outcome that will do. Raises what the stage raises."""
        failures: list[tuple[Failed, float]] = []
        while True:
            began = time.monotonic()
            outcome = stage.process(clip)
            seconds = time.monotonic() - began
            if not isinstance(outcome, Failed):
                return Tried(failures=tuple(failures), outcome=outcome, seconds=seconds)
            failures.append((outcome, seconds))
            if len(failures) == self.max_attempts or not outcome.at_once:
                return Tried(failures=tuple(failures), outcome=outcome, seconds=0.0)
            time.sleep(self.retry_wait_seconds * 2 ** (len(failures) - 1))


class Books:
    """The two ledgers of a folder, with access to entries by key and the account of failed attempts."""

    def __init__(self, folder: Path) -> None:
        self._results = Ledger(folder / "results.jsonl", key="key")
        try:
            self._attempts = Ledger(folder / "attempts.jsonl", key="key")
        except BaseException:
            self._results.close()
            raise
        self._file = self._results.path.open("rb")
        self._offsets = self._find_offsets()
        self._failed: dict[str, list[FailedAttempt]] = {}
        for record in self._attempts.records():
            attempt = FailedAttempt.from_dict(record)
            self._failed.setdefault(attempt.key.rpartition("#")[0], []).append(attempt)

    def __enter__(self) -> Books:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._attempts.close()
        self._results.close()

    def reuse(self, look: Look, stage: str) -> bool:
        """Whether an earlier run recorded the outcome, which `look` then has."""
        if look.key not in self._offsets:
            return False
        entry = self.read(look.key)
        look.reused = True
        look.finish(stage, entry.outcome, entry.seconds)
        return True

    def read(self, key: str) -> StageEntry:
        """Raises `RecordError` for an entry that another program wrote."""
        self._file.seek(self._offsets[key])
        try:
            return StageEntry.from_json(self._file.readline().decode())
        except RecordError as error:
            raise RecordError(f"{self._results.path}: {key!r}: {error}; use another folder") from error

    def enter(self, look: Look, tried: Tried) -> None:
        """Record what a worker brought back, before anybody sees it."""
        before = len(self._failed.get(look.key, ()))
        for number, (failed, seconds) in enumerate(tried.failures, start=before + 1):
            attempt = FailedAttempt(
                key=f"{look.key}#{number}",
                clip_id=look.clip.id,
                reason=failed.reason,
                detail=failed.detail,
                cost=failed.cost,
                seconds=seconds,
            )
            self._attempts.append(attempt)
            self._failed.setdefault(look.key, []).append(attempt)
        if not isinstance(tried.outcome, Failed):
            self._results.append(
                StageEntry(key=look.key, clip_id=look.clip.id, outcome=tried.outcome, seconds=tried.seconds)
            )

    def failed_attempts(self, key: str) -> Sequence[FailedAttempt]:
        return self._failed.get(key, ())

    def _find_offsets(self) -> dict[str, int]:
        offsets: dict[str, int] = {}
        position = 0
        self._file.seek(0)
        for key, line in zip(self._results.keys(), self._file, strict=True):
            offsets[key] = position
            position += len(line)
        return offsets


class Outputs:
    """The manifests that a run leaves; they take their names together, at its end.

    Whoever finds a summary may rely on the manifests beside it: it goes when a run begins and is the last to come.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> Outputs:
        (self._folder / SUMMARY_FILE).unlink(missing_ok=True)
        for name in ("clips", "dropped", "failed"):
            self._files[name] = self._stack.enter_context(replacing(self._folder / f"{name}.jsonl"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, look: Look, stage: str) -> None:
        """The clips that go on, or the line that says why there are none."""
        outcome, clip = look.outcome, look.clip
        for going_on in look.going_on:
            self._files["clips"].write(going_on.located().to_json_line() + "\n")
        if isinstance(outcome, Dropped | Failed):
            row = {"id": clip.id, "source_id": clip.source_id, "path": clip.path, "stage": stage}
            row |= {"reason": outcome.reason, "detail": outcome.detail}
            name = "dropped" if isinstance(outcome, Dropped) else "failed"
            self._files[name].write(json.dumps(row, ensure_ascii=False) + "\n")

    def finish(self, summary: StageSummary) -> None:
        """Give the manifests their names and write the summary."""
        self._stack.close()
        with replacing(self._folder / SUMMARY_FILE) as file:
            file.write(json.dumps(summary.to_dict(), indent=2) + "\n")
