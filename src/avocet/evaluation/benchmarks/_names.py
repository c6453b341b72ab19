"""Which name means which video: annotation files, caption files and folders spell the same video differently.

`video/0.mp4`, `/data/video/0.mp4`, `0` and `0.mkv` may all be one video. Of the names that agree in the last
component but for a media ending, those with the same ending win, then names of which one has no ending; of these, the
longest common end of the paths. What is still equal is ambiguous and for the caller to report.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from avocet.captioning.instructions import name_parts, num_shared_parts
from avocet.errors import ConfigError

OwnerT = TypeVar("OwnerT")

VIDEO_ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".3gp", ".wmv", ".gif"),
)
# Not "any ending": ids like "noon.v2" have dots of their own.
_ENDINGS = (*VIDEO_ENDINGS, ".wav", ".mp3", ".flac", ".m4a", ".ogg", ".opus", ".aac")


class Fit(NamedTuple):
    """How well two names agree; larger is better."""

    endings: int
    """2: the same ending, 1: one name has none, 0: they differ."""
    num_shared: int
    """Path components in common, counted from the end."""
    is_contained: bool
    """Whether one name is the end of the other."""


EXACT = Fit(3, 0, True)
"""The fit of an id that is the item's own: better than any name."""


class _Name(NamedTuple):
    parts: tuple[str, ...]
    ending: str

    @property
    def stem(self) -> str:
        return self.parts[-1] if self.parts else ""


class NameIndex(Generic[OwnerT]):
    """Names with their owners, searchable by another spelling of the name."""

    def __init__(self, names: Iterable[tuple[str, OwnerT]]) -> None:
        self._by_stem: dict[str, list[tuple[_Name, OwnerT]]] = {}
        for text, owner in names:
            name = _read_name(text)
            self._by_stem.setdefault(name.stem, []).append((name, owner))

    def find(self, text: str) -> tuple[list[OwnerT], Fit | None]:
        """The owners whose name fits best, each once in order, and how well it fits; ([], None) without any."""
        name = _read_name(text)
        if not name.stem:
            return [], None
        fits = [(_fit(name, key), owner) for key, owner in self._by_stem.get(name.stem, ())]
        if not fits:
            return [], None
        best = max(fit for fit, _ in fits)
        owners: list[OwnerT] = []
        for fit, owner in fits:
            if fit == best and owner not in owners:
                owners.append(owner)
        return owners, best


class VideoFolder:
    """The video files below a folder, listed once. Raises `ConfigError` when it is no folder."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)
        if not self.path.is_dir():
            raise ConfigError(f"{folder} is no folder; expected the folder that holds the benchmark's videos")
        self.files = sorted(_video_files(self.path))
        # Absolute, so that the folder's own name counts: "video/0.mp4" is found from inside of "video".
        self._index = NameIndex((os.path.abspath(file), file) for file in self.files)

    def __len__(self) -> int:
        return len(self.files)

    def find(self, names: Sequence[str]) -> Path | None:
        """The file that the first name to fit any means. Raises `ConfigError` when several fit equally well."""
        for name in names:
            found, _ = self._index.find(name)
            if len(found) > 1:
                some = ", ".join(str(file) for file in found[:3]) + (", ..." if len(found) > 3 else "")
                raise ConfigError(
                    f"{self.path} has {len(found)} files that may be {name!r}: {some}; keep only one of them below the "
                    "folder, or name a folder further down"
                )
            if found:
                return found[0]
        return None


def _video_files(folder: Path) -> Iterable[Path]:
    seen: set[str] = set()
    # Data sets are often folders of links; a link back up must not be walked for ever.
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(root) / name for name in files if name.lower().endswith(VIDEO_ENDINGS))


def _read_name(text: str) -> _Name:
    parts = [unicodedata.normalize("NFC", part) for part in name_parts(text)]
    if not parts:
        return _Name((), "")
    ending = next((ending for ending in _ENDINGS if parts[-1].lower().endswith(ending)), "")
    stem = parts[-1][: len(parts[-1]) - len(ending)]
    if not stem:  # a file called ".mp4"
        return _Name(tuple(parts), "")
    return _Name((*parts[:-1], stem), ending)


def _fit(first: _Name, second: _Name) -> Fit:
    shared = num_shared_parts(first.parts, second.parts)
    endings = 2 if first.ending == second.ending else int(not first.ending or not second.ending)
    return Fit(endings, shared, shared == min(len(first.parts), len(second.parts)))
