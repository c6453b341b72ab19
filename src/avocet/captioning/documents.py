"""One file per caption, in any of the output formats: what players and editors want beside the video.

clips/day1/a.mp4, clips/day2/b.mp4  ->  DIR/day1/a.vtt, DIR/day2/b.vtt
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from avocet.captioning.formats import FORMATS, SUFFIXES, Format
from avocet.errors import ConfigError
from avocet.records import Caption, ClipRef


def document_paths(clips: Sequence[ClipRef], folder: str | Path, format_name: Format) -> dict[str, Path]:
    """Clip id -> where its caption is written: folders below the clips' common one are kept.

    A file is called like its clip, with the interval and, where two clips of a folder differ only in it, the clip's
    own ending: `a.vtt`, `a_10-20.vtt`, `a.mp4.vtt`. Raises `ConfigError` where two clips would still share a file.
    """
    if not clips:
        return {}
    sources = {clip.id: Path(os.path.abspath(clip.path)) for clip in clips}
    common = os.path.commonpath([source.parent for source in sources.values()])
    plain = {clip.id: _place(clip, sources[clip.id].stem, sources, common) for clip in clips}
    counts = Counter(plain.values())
    paths: dict[Path, str] = {}
    for clip in clips:
        place = plain[clip.id]
        if counts[place] > 1:
            place = _place(clip, sources[clip.id].name, sources, common)
        path = Path(folder) / place.with_name(place.name + SUFFIXES[format_name])
        if path in paths:
            raise ConfigError(f"{paths[path]} and {clip.id} would both be written to {path}; caption them separately")
        paths[path] = clip.id
    return {clip_id: path for path, clip_id in paths.items()}


def write_document(paths: Mapping[str, Path], caption: Caption, format_name: Format) -> Path:
    """Write one caption to its place among `paths`, creating folders and replacing what is there; return the place.

    Raises `ConfigError` when the format cannot hold this caption (subtitles of a still image).
    """
    text, path = FORMATS[format_name](caption), paths[caption.clip_id]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.rstrip("\n") + "\n" if text else "", encoding="utf-8")
    return path


def _place(clip: ClipRef, name: str, sources: Mapping[str, Path], common: str) -> Path:
    interval = ""
    if clip.start_seconds is not None or clip.end_seconds is not None:
        end = "end" if clip.end_seconds is None else f"{clip.end_seconds:g}"
        interval = f"_{clip.start_seconds or 0:g}-{end}"
    return sources[clip.id].parent.relative_to(common) / f"{name}{interval}"
