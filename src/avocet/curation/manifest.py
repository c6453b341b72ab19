"""Manifests: which clips there are, where they come from, and what is known about them so far.

A manifest is a JSONL file with one `ManifestClip` per line. A hand-written line needs a `path` only; everything else
has a default. Stages read manifests and write manifests, so the output of one is the input of the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError, RecordError
from avocet.records import ClipRef, Record, is_url

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_READ_BYTES = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifestClip(Record):
    """One clip: an interval of a media file, with its provenance and the facts that stages found."""

    id: str
    path: str
    """A file path or URL."""
    start_seconds: float | None = None
    end_seconds: float | None = None
    source_id: str = ""
    """The video that the clip was cut from: clips of one source never stand on both sides of a train/validation
    split. Where nothing is given, the address, or the real path of the file, however it is spelled."""
    licence: str | None = None
    url: str | None = None
    """Where the source was published."""
    sha256: str | None = None
    """Of the file, as 64 hex digits, as its publisher states it; of pieces also as it was measured."""
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Anything else that was given; carried along, read by no stage."""
    facts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Name of a stage -> what it found."""

    def __post_init__(self) -> None:
        self.ref  # noqa: B018  # the rules of ids, paths and intervals
        if not self.source_id:
            object.__setattr__(self, "source_id", _real_path(self.path))
        try:
            f"{self.id}{self.path}".encode()
        except UnicodeEncodeError as error:
            raise RecordError(
                f"ManifestClip {self.id!r}: the name is not valid Unicode, which no manifest can hold; rename the file"
            ) from error
        for name in ("source_id", "licence", "url", "meta"):
            if problem := _unwritable(getattr(self, name)):
                raise RecordError(f"ManifestClip {self.id!r}: {name} cannot be written to a manifest: {problem}")
        if self.sha256 is not None and not _SHA256.match(self.sha256):
            raise RecordError(
                f"ManifestClip {self.id!r}: sha256 must be 64 lower-case hex digits or null, got {self.sha256!r}"
            )

    @property
    def ref(self) -> ClipRef:
        """Where the clip is, with its `meta`."""
        return ClipRef(
            id=self.id,
            path=self.path,
            start_seconds=self.start_seconds,
            end_seconds=self.end_seconds,
            meta=dict(self.meta),
        )

    @property
    def duration_seconds(self) -> float | None:
        """Of the clip: as the latest stage that measured it found, else from its interval; None when nobody knows."""
        for found in reversed(self.facts.values()):
            duration = found.get("duration_seconds")
            if isinstance(duration, int | float) and not isinstance(duration, bool):
                return float(duration)
        return None if self.end_seconds is None else self.end_seconds - (self.start_seconds or 0.0)

    @property
    def file_sha256(self) -> str | None:
        """Of the file: as it was stated, else as the latest stage that measured it found; None when nobody knows."""
        found = (facts.get("file_sha256") for facts in reversed(self.facts.values()))
        return self.sha256 or next((str(digest) for digest in found if digest), None)

    def located(self) -> ManifestClip:
        """The clip with an absolute path, which means the same from everywhere; a relative one counts from here."""
        if is_url(self.path) or os.path.isabs(self.path):
            return self
        return dataclasses.replace(self, path=os.path.abspath(self.path))

    def with_facts(self, stage: str, facts: Mapping[str, Any], forget: Iterable[str] = ()) -> ManifestClip:
        """The clip with the findings of `stage`, which replace older ones of it; without any there is no section.

        `forget` names what is no longer needed as "stage.fact", such as "measure.video_hashes".
        """
        merged = {name: dict(found) for name, found in self.facts.items() if name != stage}
        for dotted in forget:
            section, _, fact = dotted.partition(".")
            merged.get(section, {}).pop(fact, None)
        return dataclasses.replace(self, facts={**merged, stage: dict(facts)} if facts else merged)

    def piece(self, start_seconds: float, end_seconds: float) -> ManifestClip:
        """A part of the clip, in seconds of the file's timeline, under an id of its own.

        Facts are not inherited: they were found about the whole. But for the hash, which is that of the file.
        """
        times = ",".join(f"{seconds:.3f}".rstrip("0").rstrip(".") for seconds in (start_seconds, end_seconds))
        return dataclasses.replace(
            self,
            id=f"{self.id}#t={times}",
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            sha256=self.file_sha256,
            facts={},
        )

    def digest(self, reads: Sequence[str] | None, *, reads_media: bool) -> str:
        """16 hex digits that change when something changes that a stage looks at.

        Args:
            reads: the stages whose facts count; None for all.
            reads_media: also the file counts, by its hash where it was measured, and by size and time of change of a
                local one, so that a file that was fetched anew is looked at anew.
        """
        facts = self.facts if reads is None else {name: self.facts.get(name) for name in reads}
        seen: dict[str, Any] = {"clip": [self.path, self.start_seconds, self.end_seconds, self.sha256], "facts": facts}
        if reads_media:
            seen["file"] = [self.file_sha256, *file_state(self.path)]
        text = json.dumps(seen, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_manifest(path: str | os.PathLike[str]) -> Iterator[ManifestClip]:
    """The clips of a JSONL manifest, one at a time.

    Relative paths are relative to the manifest's folder. Missing ids become the absolute path, with `#t=start,end` for
    an interval. Empty lines are skipped. Raises `RecordError` naming file and line for lines that are no clip and for
    ids that stand there twice, and `ConfigError` for a file that cannot be opened.
    """
    manifest = Path(path)
    lines_of_ids: dict[str, int] = {}
    try:
        lines = manifest.open(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read manifest {str(manifest)!r}: {error.strerror or error}") from error
    with lines:
        try:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                clip = _parse_line(line, manifest, number)
                if clip.id in lines_of_ids:
                    first = lines_of_ids[clip.id]
                    raise RecordError(f"{manifest}:{number}: id {clip.id!r} was already given in line {first}")
                lines_of_ids[clip.id] = number
                yield clip
        except UnicodeDecodeError as error:
            raise RecordError(f"{manifest}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def find_manifest_clips(
    paths: Iterable[str | os.PathLike[str]], merged: list[str] | None = None
) -> Iterator[ManifestClip]:
    """The clips of manifests (`.jsonl`), folders (searched for media) and single media files, in order, each once.

    Args:
        merged: takes the ids of clips that more than one of the inputs names.

    Raises `ConfigError` for a folder without media, `RecordError` for an id under which two inputs name different
    clips, and what `read_manifest` raises.
    """
    from avocet.captioning.bulk import find_clips

    seen: dict[str, tuple[str, bytes]] = {}
    for given in paths:
        if Path(given).suffix == ".jsonl":
            found: Iterable[ManifestClip] = read_manifest(given)
        else:
            refs, failures = find_clips([os.fspath(given)])
            if failures:
                raise ConfigError(failures[0].error)
            found = (_of_path(ref.path) for ref in refs)
        for clip in found:
            content = hashlib.sha256(clip.to_json_line().encode()).digest()
            if clip.id not in seen:
                seen[clip.id] = (os.fspath(given), content)
                yield clip
                continue
            first, before = seen[clip.id]
            if content != before:
                raise RecordError(
                    f"{os.fspath(given)}: id {clip.id!r} was already given in {first}, to a clip with another path, "
                    "interval or provenance; name each clip once, or give ids that differ"
                )
            if merged is not None:
                merged.append(clip.id)


def write_manifest(path: str | os.PathLike[str], clips: Iterable[ManifestClip]) -> int:
    """Write clips one by one, with absolute paths, and return how many.

    The file appears under its name only when it is complete.
    """
    count = 0
    with replacing(path) as lines:
        for clip in clips:
            lines.write(clip.located().to_json_line() + "\n")
            count += 1
    return count


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Any]:
    """A text file beside `path` that takes its name when the block ends well and is removed otherwise."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.part")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            yield file
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def file_state(path: str) -> tuple[int, int] | tuple[None, None]:
    """Bytes of a local file and when it was changed, in nanoseconds; None for URLs and files that are not there."""
    try:
        found = None if is_url(path) else os.stat(path)
    except (OSError, ValueError):
        found = None
    return (None, None) if found is None else (found.st_size, found.st_mtime_ns)


def file_size(path: str) -> int | None:
    """Bytes of a local file; None for URLs and files that are not there."""
    return file_state(path)[0]


def file_sha256(path: str | os.PathLike[str]) -> str:
    """64 hex digits over the bytes of a local file. Raises `OSError`."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _parse_line(line: str, manifest: Path, number: int) -> ManifestClip:
    try:
        data = json.loads(line, parse_constant=_refuse_constant)
    except ValueError as error:
        raise RecordError(f"{manifest}:{number}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise RecordError(f"{manifest}:{number}: expected a JSON object, got {type(data).__name__}")
    given = data.get("path")
    if not isinstance(given, str) or not given:
        raise RecordError(f"{manifest}:{number}: a clip needs a path (a file or a URL), got {given!r}")
    if not is_url(given):
        data["path"] = os.path.abspath(manifest.parent / given)
    data.setdefault("id", data["path"] + _interval_suffix(data))
    try:
        # Only escapes can bring in halves of surrogate pairs, and lines that Avocet wrote have next to none.
        if "\\u" in line and (problem := _unwritable(data)):
            raise RecordError(problem)
        return ManifestClip.from_dict(data)
    except RecordError as error:
        raise RecordError(f"{manifest}:{number}: {error}") from error


def _real_path(path: str) -> str:
    try:
        return path if is_url(path) else os.path.realpath(path)
    except (OSError, ValueError):  # a name that no file can have; probing will say so
        return path


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON; write null for a number that there is not")


def _unwritable(value: object) -> str | None:
    """Why a value cannot stand in a line of UTF-8 JSON; None when it can."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        return f"it holds half of a surrogate pair ({error.object[error.start : error.end]!a}), which is no character"
    except (TypeError, ValueError, RecursionError) as error:
        return f"it is no JSON ({error})"
    return None


def _of_path(path: str) -> ManifestClip:
    """A whole file that was named itself, or found in a folder."""
    place = path if is_url(path) else os.path.abspath(path)
    return ManifestClip(id=place, path=place)


def _interval_suffix(data: Mapping[str, Any]) -> str:
    start, end = data.get("start_seconds"), data.get("end_seconds")
    if start is None and end is None:
        return ""
    return f"#t={'' if start is None else start}" + ("" if end is None else f",{end}")
