"""Exact and near duplicates: found over a whole manifest from the fingerprints that `MeasureStage` left in it.

Two clips are the same when file and interval, or all decoded samples, are the same (exact), or when they last about
as long and their fingerprints agree (near): pictures and sound both where both clips have sound that can be heard,
and otherwise the pictures alone, by a stricter threshold. A still card or a dark room is not enough: pictures without
edges do not count.

Who is compared: clips that share a part of a hash, found by sorting. A common part (a logo, a fade) is shared by many,
and of those each is compared only with the next few in the order of duration, so the work grows as n log n. Groups are
the connected clips; one of each is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from avocet.curation.fingerprints import (
    PICTURE_STEP_SECONDS,
    SOUND_STEP_SECONDS,
    best_match,
    decode_hashes,
)
from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Dropped, Kept, Outcome
from avocet.curation.stage import Stage
from avocet.errors import ConfigError, RecordError
from avocet.records import Record

_NEIGHBOURS = 6
"""With how many others that share a part of a hash a clip is compared, for each such part."""
_FEWEST_PICTURE_STEPS = 3
_FEWEST_SOUND_STEPS = 8
"""Hashes that a comparison needs: 1.5 s of pictures, 1 s of sound."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DuplicateRules(Record):
    """When two clips are the same."""

    picture_distance: float = 0.16
    """Largest share of differing bits (10 of 64) where the sound agrees, too."""
    picture_only_distance: float = 0.05
    """The same (3 of 64) where there is no sound to compare."""
    sound_distance: float = 0.3
    """Re-encoded sound differs in 0.03 to 0.2 of the bits, other sound in 0.37 and more."""
    max_offset_seconds: float = 2.0
    """How much later one may begin in the other."""
    min_overlap: float = 0.8
    """Of the longer clip; so much of it must be in the other, too."""

    def __post_init__(self) -> None:
        for name in ("picture_distance", "picture_only_distance", "sound_distance"):
            value = getattr(self, name)
            if not 0 <= value < 0.5:
                raise ConfigError(f"DuplicateRules: {name} must be from 0 to below 0.5 (chance), got {value}")
        if not 0 < self.min_overlap <= 1:
            raise ConfigError(f"DuplicateRules: min_overlap must be in (0, 1], got {self.min_overlap}")
        if not self.max_offset_seconds >= 0:
            raise ConfigError(f"DuplicateRules: max_offset_seconds must be >= 0, got {self.max_offset_seconds}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duplicate(Record):
    """Why a clip is not kept."""

    keeper: str
    """Id of the clip of its group that is kept."""
    kind: Literal["exact", "near"]
    """How it is tied to the clip that it was found with."""
    like: str
    """Id of that clip; the keeper, or another one of the group."""
    picture_distance: float | None = None
    sound_distance: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What duplicates are found by, of one clip."""

    clip_id: str
    duration_seconds: float
    exact: tuple[str, ...] = ()
    """Clips that share any of these are the same."""
    pictures: np.ndarray
    """uint64, one per 0.5 s, 0 where there is nothing to see."""
    sounds: np.ndarray
    """uint32, one per 0.125 s, 0 where there is nothing to hear."""
    quality: tuple[float, ...] = ()
    """Of the clips of a group the one with the largest is kept; of equals the one with the smallest id."""

    @classmethod
    def of_clip(cls, clip: ManifestClip, facts_of: str = "measure") -> Fingerprint:
        """Raises `RecordError` for a clip that the stage `facts_of` has not measured."""
        facts = clip.facts.get(facts_of)
        if not isinstance(facts, dict) or "picture_hashes" not in facts or "sound_hashes" not in facts:
            raise RecordError(
                f"clip {clip.id!r} has no fingerprints in its facts of {facts_of!r}; run MeasureStage before"
            )
        try:
            pictures = decode_hashes(facts["picture_hashes"], np.uint64)
            sounds = decode_hashes(facts["sound_hashes"], np.uint32)
        except RecordError as error:
            raise RecordError(f"clip {clip.id!r}: {error}") from error
        size = float(facts.get("width") or 0) * float(facts.get("height") or 0)
        duration = float(facts.get("duration_seconds") or 0.0)
        exact = tuple(_exact_keys(clip, facts))
        # Sound counts before size, and coarse length before size: a cut copy is worth less than a small one.
        quality = (float((sounds != 0).any()), round(duration), size, duration)
        return cls(
            clip_id=clip.id,
            duration_seconds=duration,
            exact=exact,
            pictures=pictures,
            sounds=sounds,
            quality=quality,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DuplicateStage(Stage):
    """Drops all but one clip of each group of duplicates, and the fingerprints, which nobody needs afterwards."""

    name: str = "duplicates"
    facts_of: str = "measure"
    duplicates: dict[str, Duplicate] = dataclasses.field(default_factory=dict)
    """Id of a clip that goes -> why. They belong to one manifest and to the version of the stage."""

    @classmethod
    def of_clips(
        cls,
        clips: Iterable[ManifestClip],
        rules: DuplicateRules | None = None,
        *,
        name: str = "duplicates",
        facts_of: str = "measure",
    ) -> DuplicateStage:
        """Compare all clips of a manifest; about 3 KB of fingerprints per minute of media are in memory.

        Raises `RecordError` for clips that have not been measured.
        """
        prints = [Fingerprint.of_clip(clip, facts_of) for clip in clips]
        return cls(name=name, facts_of=facts_of, duplicates=find_duplicates(prints, rules))

    @property
    def reads_media(self) -> bool:
        return False

    def process(self, clip: ManifestClip) -> Outcome:
        duplicate = self.duplicates.get(clip.id)
        if duplicate is None:
            return Kept(forget=(f"{self.facts_of}.picture_hashes", f"{self.facts_of}.sound_hashes"))
        distances = [("pictures", duplicate.picture_distance), ("sound", duplicate.sound_distance)]
        measured = [f"{name} differ by {100 * value:.1f} %" for name, value in distances if value is not None]
        through = [] if duplicate.like == duplicate.keeper else [f"found through {duplicate.like}"]
        detail = f"same as {duplicate.keeper}" + (f" ({'; '.join(measured + through)})" if measured or through else "")
        return Dropped(reason=f"{duplicate.kind}_duplicate", detail=detail)


def find_duplicates(prints: Sequence[Fingerprint], rules: DuplicateRules | None = None) -> dict[str, Duplicate]:
    """Id of each clip that goes -> why. The same for any order of `prints`. Raises `RecordError` for equal ids."""
    rules = rules or DuplicateRules()
    # Neighbours in a bucket are those of similar duration, which duplicates have.
    prints = sorted(prints, key=lambda one: (one.duration_seconds, one.clip_id))
    if len({one.clip_id for one in prints}) < len(prints):
        raise RecordError("find_duplicates: ids of clips must differ")
    groups = _Groups(len(prints))
    ties: list[tuple[int, int, Duplicate]] = []
    for first, second in _exact_pairs(prints):
        ties += [(first, second, _tie("exact", prints[first]))] if groups.join(first, second) else []
    for first, second in _candidates(prints):
        if groups.root(first) != groups.root(second):
            tie = compare_prints(prints[first], prints[second], rules)
            if tie is not None:
                groups.join(first, second)
                ties.append((first, second, tie))
    return _name_keepers(prints, groups, ties)


def compare_prints(a: Fingerprint, b: Fingerprint, rules: DuplicateRules) -> Duplicate | None:
    """Whether two clips are near duplicates, as a `Duplicate` of `a`; None when they are not."""
    durations = sorted((a.duration_seconds, b.duration_seconds))
    if durations[0] < rules.min_overlap * durations[1]:
        return None
    a_seen, b_seen = (np.count_nonzero(one.pictures) >= _FEWEST_PICTURE_STEPS for one in (a, b))
    heard = all(np.count_nonzero(one.sounds) >= _FEWEST_SOUND_STEPS for one in (a, b))
    # A video is not the same as a sound file, nor as one in which nothing can be seen.
    if bool(len(a.pictures)) != bool(len(b.pictures)) or a_seen != b_seen or not (a_seen or heard):
        return None
    picture = sound = None
    # Pictures first: they are a quarter of the steps, and tell most pairs apart.
    if a_seen:
        picture = _distance(a.pictures, b.pictures, PICTURE_STEP_SECONDS, _FEWEST_PICTURE_STEPS, rules)
        if picture is None or picture > (rules.picture_distance if heard else rules.picture_only_distance):
            return None
    if heard:
        sound = _distance(a.sounds, b.sounds, SOUND_STEP_SECONDS, _FEWEST_SOUND_STEPS, rules)
        if sound is None or sound > rules.sound_distance:
            return None
    return _tie("near", a, picture, sound)


def _distance(a: np.ndarray, b: np.ndarray, step_seconds: float, fewest: int, rules: DuplicateRules) -> float | None:
    usable = min(np.count_nonzero(a), np.count_nonzero(b))
    match = best_match(
        a,
        b,
        max_shift=round(rules.max_offset_seconds / step_seconds),
        # At other shifts a few steps that happen to agree would do.
        min_steps=max(fewest, int(usable) // 2),
        min_overlap=rules.min_overlap,
    )
    return None if match is None else round(match.distance, 4)


def _tie(
    kind: Literal["exact", "near"], like: Fingerprint, picture: float | None = None, sound: float | None = None
) -> Duplicate:
    return Duplicate(keeper=like.clip_id, kind=kind, like=like.clip_id, picture_distance=picture, sound_distance=sound)


def _exact_keys(clip: ManifestClip, facts: Mapping[str, Any]) -> Iterator[str]:
    file = clip.file_sha256
    if file:
        yield f"file {file} {clip.start_seconds} {clip.end_seconds}"
    if facts.get("content_sha256"):
        yield f"content {facts['content_sha256']}"


def _exact_pairs(prints: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    owners: dict[str, int] = {}
    for index, one in enumerate(prints):
        for key in one.exact:
            owner = owners.setdefault(key, index)
            if owner != index:
                yield owner, index


def _candidates(prints: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Pairs (i < j) worth comparing, those that share most first."""
    keys, owners = _shared_parts(prints)
    order = np.lexsort((owners, keys))
    keys, owners = keys[order], owners[order]
    pairs = []
    for step in range(1, _NEIGHBOURS + 1):
        same = keys[step:] == keys[:-step]
        pairs.append(owners[:-step][same] * len(prints) + owners[step:][same])
    codes, counts = np.unique(np.concatenate(pairs), return_counts=True)
    by_count = codes[np.lexsort((codes, -counts))]
    return [(int(code) // len(prints), int(code) % len(prints)) for code in by_count]


def _shared_parts(prints: Sequence[Fingerprint]) -> tuple[np.ndarray, np.ndarray]:
    """Keys uint64 and the index of the clip each belongs to, int64; each key once per clip.

    A key is one of three kinds: the upper half of a picture's hash, its lower half, the hash of a step of sound.
    """
    keys, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for index, one in enumerate(prints):
        pictures = one.pictures[one.pictures != 0]
        sounds = one.sounds[one.sounds != 0].astype(np.uint64)
        low = np.uint64(2**32 - 1)
        parts = (pictures >> np.uint64(32), (pictures & low) | np.uint64(1 << 32), sounds | np.uint64(2 << 32))
        mine = np.unique(np.concatenate(parts))
        keys.append(mine)
        owners.append(np.full(len(mine), index, np.int64))
    return np.concatenate(keys), np.concatenate(owners)


class _Groups:
    """Union-find."""

    def __init__(self, size: int) -> None:
        self._parents = list(range(size))

    def root(self, index: int) -> int:
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index

    def join(self, first: int, second: int) -> bool:
        """False when they were together already."""
        first, second = sorted((self.root(first), self.root(second)))
        self._parents[second] = first
        return first != second


def _name_keepers(
    prints: Sequence[Fingerprint], groups: _Groups, ties: Sequence[tuple[int, int, Duplicate]]
) -> dict[str, Duplicate]:
    neighbours: dict[int, list[tuple[int, Duplicate]]] = {}
    for first, second, tie in ties:
        neighbours.setdefault(first, []).append((second, tie))
        neighbours.setdefault(second, []).append((first, tie))
    found: dict[str, Duplicate] = {}
    members: dict[int, list[int]] = {}
    for index in sorted(neighbours):
        members.setdefault(groups.root(index), []).append(index)
    for group in members.values():
        keeper = min(group, key=lambda index: ([-part for part in prints[index].quality], prints[index].clip_id))
        found |= _follow(prints, keeper, neighbours)
    return {clip_id: found[clip_id] for clip_id in sorted(found)}


def _follow(
    prints: Sequence[Fingerprint], keeper: int, neighbours: Mapping[int, Sequence[tuple[int, Duplicate]]]
) -> dict[str, Duplicate]:
    """Walk the ties of a group away from its keeper: each clip is reported as like the one it was reached from."""
    found: dict[str, Duplicate] = {}
    seen, border = {keeper}, [keeper]
    while border:
        at = border.pop()
        for other, tie in neighbours[at]:
            if other not in seen:
                seen.add(other)
                border.append(other)
                name = prints[keeper].clip_id
                found[prints[other].clip_id] = dataclasses.replace(tie, keeper=name, like=prints[at].clip_id)
    return found
