"""What a stage says about one clip: kept, cut into several, dropped for good, or not to be looked at this time."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Container
from typing import Any, Literal

from avocet.curation.manifest import ManifestClip
from avocet.errors import MediaError, RecordError
from avocet.records import Record, is_url

_CODE = re.compile(r"[a-z][a-z0-9_]*\Z")

_TRANSIENT = ("no such file", "gave up after", "no data arrived", "the decoded clip does not fit into memory")
"""How reasons of `MediaError` begin that another try, or a repaired manifest, may do away with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost(Record):
    """What one look at a clip cost."""

    usd: float = 0.0
    num_calls: int = 0
    """Calls that a server answered; answers from a cache are none."""
    num_unpriced: int = 0
    """Of the calls: those whose price is not known; `usd` leaves them out."""
    answers: dict[str, float | None] = dataclasses.field(default_factory=dict, compare=False)
    """Those of the calls that can be told from each other: key of the answer -> its USD, None if not known. An answer
    that several clips got from the cache was paid for once."""

    @classmethod
    def of_answer(cls, usd: float | None, key: str | None = None) -> Cost:
        """Of one answer of a server, with its key where it is kept for whoever asks the same."""
        answers = {} if key is None else {key: usd}
        return cls(usd=usd or 0.0, num_calls=1, num_unpriced=int(usd is None), answers=answers)

    def __add__(self, other: Cost) -> Cost:
        """Of both together: an answer that is in both counts once."""
        new = other.without(self.answers)
        return Cost(
            usd=self.usd + new.usd,
            num_calls=self.num_calls + new.num_calls,
            num_unpriced=self.num_unpriced + new.num_unpriced,
            answers=self.answers | new.answers,
        )

    def without(self, counted: Container[str]) -> Cost:
        """What is left when the answers of these keys have been counted already."""
        known = {key: usd for key, usd in self.answers.items() if key in counted}
        if not known:
            return self
        return Cost(
            usd=self.usd - sum(usd or 0.0 for usd in known.values()),
            num_calls=self.num_calls - len(known),
            num_unpriced=self.num_unpriced - sum(usd is None for usd in known.values()),
            answers={key: usd for key, usd in self.answers.items() if key not in known},
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept(Record):
    """The clip goes on."""

    kind: Literal["kept"] = "kept"
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What was found; JSON types, finite numbers."""
    forget: tuple[str, ...] = ()
    """Facts of earlier stages that nobody needs any more, as "stage.fact"."""
    cost: Cost = dataclasses.field(default_factory=Cost)

    def __post_init__(self) -> None:
        _check_facts(self.facts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece(Record):
    """A part of a clip that becomes a clip of its own; seconds on the file's timeline."""

    start_seconds: float
    end_seconds: float
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds < self.end_seconds:
            raise RecordError(f"Piece: the interval [{self.start_seconds}, {self.end_seconds}) is not one of a file")
        _check_facts(self.facts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split(Record):
    """The clip is replaced by its pieces, in this order."""

    kind: Literal["split"] = "split"
    pieces: tuple[Piece, ...]
    cost: Cost = dataclasses.field(default_factory=Cost)

    def __post_init__(self) -> None:
        intervals = {(piece.start_seconds, piece.end_seconds) for piece in self.pieces}
        if not self.pieces or len(intervals) < len(self.pieces):
            raise RecordError("Split: needs pieces, each with an interval of its own; drop a clip without pieces")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropped(Record):
    """The clip ends here, for good."""

    kind: Literal["dropped"] = "dropped"
    reason: str
    """A code to count by, such as "too_short"."""
    detail: str = ""
    """For people: what was found and what is allowed."""
    cost: Cost = dataclasses.field(default_factory=Cost)

    def __post_init__(self) -> None:
        _check_code(self.reason)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failed(Record):
    """Nothing is known about the clip; the same look may go better another time."""

    kind: Literal["failed"] = "failed"
    reason: str
    detail: str = ""
    at_once: bool = True
    """Whether to try again in this run; otherwise only the next run does."""
    cost: Cost = dataclasses.field(default_factory=Cost)

    def __post_init__(self) -> None:
        _check_code(self.reason)


Finished = Kept | Split | Dropped
"""Outcomes that are recorded once and not asked for again."""

Outcome = Finished | Failed


def apply_outcome(clip: ManifestClip, stage: str, outcome: Outcome) -> list[ManifestClip]:
    """The clips that go on: one, several or none. `stage` is the name under which facts are filed."""
    if isinstance(outcome, Kept):
        return [clip.with_facts(stage, outcome.facts, outcome.forget)]
    if isinstance(outcome, Split):
        return [
            clip.piece(piece.start_seconds, piece.end_seconds).with_facts(stage, piece.facts)
            for piece in outcome.pieces
        ]
    return []


def media_outcome(error: MediaError) -> Dropped | Failed:
    """Unreadable media is dropped with the error as the detail.

    What another try may cure fails instead: a file that is not there, a source that is too slow, and anything about
    opening a URL, where a server's refusal cannot be told from damage.
    """
    detail = " ".join(str(error).split())
    if error.reason.startswith(_TRANSIENT) or (is_url(error.path) and error.stream == "container"):
        return Failed(reason="media_unavailable", detail=detail, at_once=is_url(error.path))
    return Dropped(reason="media_error", detail=detail)


def _check_code(reason: str) -> None:
    if not _CODE.match(reason):
        raise RecordError(f"a reason is a code of lower-case letters, digits and underscores, got {reason!r}")


def _check_facts(facts: dict[str, Any]) -> None:
    try:
        json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordError(f"facts must be JSON types with finite numbers: {error}") from error
