"""Entries of caption files, each recognised by its fields; `avocet.evaluation.captions` lists the forms."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError, RecordError
from avocet.evaluation.benchmarks._reading import Entry, first_turn, read_entries, read_text
from avocet.records import Caption, Failure

ID_FIELDS = ("clip_id", "item_id", "question_id")
VIDEO_FIELDS = ("video", "video_id", "video_path", "video_name", "path", "file", "filename", "id", *ID_FIELDS)
CAPTION_FIELDS = ("caption", "text", "pred", "prediction")

_INTERVAL = re.compile(r"#t=(\d+(?:\.\d+)?)?(?:,(\d+(?:\.\d+)?))?$")
_MEDIA_MARK = re.compile(r"<(?:image|video|audio)>\n?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundCaption:
    """A caption, a failure (`failure`), or an entry that is neither (`skip_reason`)."""

    where: str
    format_name: str
    video: str
    text: str | None = None
    clip_id: str | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    instruction: str | None = None
    audio_used: bool | None = None
    record: Caption | None = None
    failure: Failure | None = None
    skip_reason: str | None = None
    is_mended: bool = False
    """Whether halves of surrogate pairs in its entry became U+FFFD."""


def read_outputs(path: Path, video_field: str | None, caption_field: str | None) -> list[FoundCaption]:
    """The captions of one file. Raises `ConfigError` or `RecordError` when it cannot be read; see `read_captions`."""
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        return list(_read_table(path, "\t" if ending == ".tsv" else ",", video_field, caption_field))
    if ending not in (".json", ".jsonl"):
        raise ConfigError(
            f"{path}: captions are read from .json, .jsonl, .csv and .tsv files, not {ending or 'this'!r}"
        )
    found = [
        dataclasses.replace(one, is_mended=entry.is_mended)
        for entry in read_entries(path, mend=True)
        for one in _read_entry(entry, video_field, caption_field)
    ]
    if caption_field is not None and found and all(one.text is None for one in found):
        raise RecordError(f"{path}: none of {len(found)} entries has a caption in field {caption_field!r}")
    return found


def _read_entry(entry: Entry, video_field: str | None, caption_field: str | None) -> list[FoundCaption]:
    if video_field is not None or caption_field is not None:
        return _read_named(entry, video_field, caption_field)
    for fits, read in _FORMS:
        if fits(entry.value):
            return read(entry)
    if _video_fields(entry) and any(name in entry.value for name in CAPTION_FIELDS):
        return _read_fields(entry, entry.text(_video_fields(entry)[0]), None)
    return _read_map(entry)


def _read_avocet(entry: Entry) -> list[FoundCaption]:
    own = entry.inner("caption") if isinstance(entry.value.get("caption"), dict) else entry
    try:
        record = Caption.from_dict(own.value)
    except RecordError as error:
        raise RecordError(f"{own.where}: {error}") from error
    start = end = None
    if record.clip_id.startswith(record.path):
        _, start, end = _split_interval(record.clip_id, len(record.path))
    return [
        FoundCaption(
            where=own.where,
            format_name="avocet",
            video=record.path,
            text=record.text,
            clip_id=record.clip_id,
            start_seconds=start,
            end_seconds=end,
            instruction=record.instruction,
            audio_used=record.audio_used,
            record=record,
        )
    ]


def _read_failure(entry: Entry) -> list[FoundCaption]:
    try:
        failure = Failure.from_dict(entry.value)
    except RecordError as error:
        raise RecordError(f"{entry.where}: {error}") from error
    return [FoundCaption(where=entry.where, format_name="avocet failures", video=failure.path, failure=failure)]


def _read_dream(entry: Entry) -> list[FoundCaption]:
    user, answer = (first_turn(entry, "messages", "role", role) for role in ("user", "assistant"))
    video = first_turn(user, "content", "type", "video").inner("video").text("video_file")
    asked = first_turn(user, "content", "type", "text").optional_text("text")
    text = first_turn(answer, "content", "type", "text").value.get("text")
    return _found(entry, "dream1k", video, text, instruction=asked)


def _read_ids(entry: Entry) -> list[FoundCaption]:
    """video-SALMONN 2 before plus, and AVoCaDO's script for its test set: the video is the first of the ids."""
    ids = entry.value["id"]
    video = ids[0] if isinstance(ids, list) and ids else ids
    if not isinstance(video, str) or not video:
        raise entry.wrong("id", "a text or a list that begins with one")
    texts = [entry.value[name] for name in ("pred", "pred1", "pred2") if name in entry.value]
    asked = _prompt_text(entry.value.get("prompt"))
    return [one for text in texts for one in _found(entry, "salmonn2", video, text, instruction=asked)]


def _read_plus(entry: Entry) -> list[FoundCaption]:
    video = next((entry.text(name) for name in ("video", "image", "audio") if entry.value.get(name) is not None), None)
    if video is None:
        raise RecordError(f"{entry.where} names no video, image or audio file")
    if entry.value.get("should_use") is False:
        reason = f"{video!r} is padding (should_use is false)"
        return [FoundCaption(where=entry.where, format_name="salmonn2+", video=video, skip_reason=reason)]
    audio, asked = entry.value.get("use_audio"), _prompt_text(entry.value.get("prompt"))
    if audio is not None and not isinstance(audio, bool):
        raise entry.wrong("use_audio", "true or false")
    return _found(entry, "salmonn2+", video, entry.value["pred"], instruction=asked, audio_used=audio)


_FORMS: Sequence[tuple[Callable[[dict[str, Any]], bool], Callable[[Entry], list[FoundCaption]]]] = (
    (lambda value: {"clip_id", "text", "sampling"} <= value.keys(), _read_avocet),
    (lambda value: isinstance(value.get("caption"), dict) and "clip_id" in value["caption"], _read_avocet),
    (lambda value: {"clip_id", "stage", "error"} <= value.keys(), _read_failure),
    (lambda value: "messages" in value, _read_dream),
    (lambda value: "id" in value and bool({"pred", "pred1"} & value.keys()), _read_ids),
    (lambda value: {"pred", "should_use"} <= value.keys(), _read_plus),
)
"""What tells a form by its fields, and its reader; the first that fits counts."""


def _read_named(entry: Entry, video_field: str | None, caption_field: str | None) -> list[FoundCaption]:
    """Objects whose fields the caller has named, also inside of {video: object}."""
    if entry.value and all(isinstance(value, dict) for value in entry.value.values()):
        parts = {name: entry.inner(name) for name in entry.value}
        return [
            one
            for name, part in parts.items()
            for one in _read_fields(part, part.text(video_field) if video_field else name, caption_field)
        ]
    if video_field is None and not _video_fields(entry):
        raise RecordError(f"{entry.where} has no field for the video; name it with video_field ({entry.field_names()})")
    return _read_fields(entry, entry.text(video_field or _video_fields(entry)[0]), caption_field)


def _read_fields(entry: Entry, video: str, caption_field: str | None) -> list[FoundCaption]:
    """An object with fields of its own for the caption and perhaps for id, interval and instruction."""
    # A field that the caller has named may be missing in some entries: merged files have only what there was.
    text = entry.value.get(caption_field) if caption_field else entry.value[_only(entry, CAPTION_FIELDS)]
    start, end = (
        None if entry.value.get(name) is None else entry.number(name) for name in ("start_seconds", "end_seconds")
    )
    asked = entry.value.get("instruction")
    found = _found(
        entry,
        "fields",
        video,
        text,
        instruction=asked if isinstance(asked, str) else None,
        interval=(start, end),
    )
    ids = [entry.text(name) for name in ID_FIELDS if name in entry.value]
    return [dataclasses.replace(one, clip_id=ids[0]) for one in found] if ids else found


def _read_map(entry: Entry) -> list[FoundCaption]:
    """{video: caption}, {video: [captions]}."""
    looks_known = [
        name for name in (*VIDEO_FIELDS, *CAPTION_FIELDS, "questions", "conversations") if name in entry.value
    ]
    is_map = all(value is None or isinstance(value, (str, list)) for value in entry.value.values())
    if looks_known or not is_map or not entry.value:
        raise RecordError(
            f"{entry.where} is no caption of a known form ({entry.field_names()}); name the fields with video_field "
            "and caption_field"
        )
    parts = [
        (video, Entry(where=f"{entry.where}, {video!r}", value={video: entry.value[video]})) for video in entry.value
    ]
    return [one for video, part in parts for one in _found(part, "map", video, part.value[video])]


def _read_table(
    path: Path, delimiter: str, video_field: str | None, caption_field: str | None
) -> Iterator[FoundCaption]:
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in rows.fieldnames or []]
        if len(set(header)) < len(header):
            raise RecordError(f"{path}: line 1: two columns have the same name: {', '.join(header)}")
        rows.fieldnames = header
        head = Entry(where=f"{path}: line 1", value=dict.fromkeys(header, ""))
        video_column = video_field or next(iter(_video_fields(head)), None)
        caption_column = caption_field or (_only(head, CAPTION_FIELDS) if video_column else None)
        if video_column not in header or caption_column not in header:
            raise RecordError(
                f"{path}: line 1: the table needs a column for the video and one for the caption, has "
                f"{', '.join(header) or 'none'}; name them with video_field and caption_field"
            )
        for row in rows:
            where = f"{path}: line {rows.reader.line_num}"
            if None in row or None in row.values():
                raise RecordError(f"{where} has another number of cells than the header has columns ({len(header)})")
            entry = Entry(where=where, value=dict(row))
            own_id = next((row[name] for name in ID_FIELDS if row.get(name)), None)
            for one in _found(entry, "table", entry.text(video_column), row[caption_column] or None):
                yield dataclasses.replace(one, clip_id=own_id or one.clip_id)
    except csv.Error as error:
        raise RecordError(f"{path}: line {rows.reader.line_num} is no row of a table: {error}") from error


def _found(
    entry: Entry,
    format_name: str,
    video: str,
    value: Any,
    *,
    instruction: str | None = None,
    audio_used: bool | None = None,
    interval: tuple[float | None, float | None] = (None, None),
) -> list[FoundCaption]:
    """The captions that one value holds: a text, a list of texts, or null for a failure."""
    values = value if isinstance(value, list) else [value]
    if not values:
        values = [None]
    found = []
    name, start, end = _split_interval(video) if interval == (None, None) else (video, *interval)
    for text in values:
        if text is not None and not isinstance(text, str):
            raise RecordError(f"{entry.where}: the caption of {video!r} must be a text, got {text!r:.60}")
        failure = None
        if text is None or text.strip() == "<error>":
            error = f"the caption file has {'no caption' if text is None else 'only an error mark'} ({entry.where})"
            failure = Failure(clip_id=video, path=name, stage="model", error=error)
        found.append(
            FoundCaption(
                where=entry.where,
                format_name=format_name,
                video=name,
                clip_id=video if name != video else None,
                text=text if failure is None else None,
                start_seconds=start,
                end_seconds=end,
                instruction=instruction,
                audio_used=audio_used,
                failure=failure,
            )
        )
    return found


def _split_interval(name: str, from_index: int = 0) -> tuple[str, float | None, float | None]:
    """ "a.mp4#t=0,10" -> ("a.mp4", 0.0, 10.0); a name without an interval stays as it is."""
    found = _INTERVAL.search(name, from_index)
    if found is None or not (found[1] or found[2]) or (from_index and found.start() != from_index):
        return name, None, None
    return name[: found.start()], float(found[1] or 0), None if found[2] is None else float(found[2])


def _prompt_text(prompt: Any) -> str | None:
    """What was asked, from a text, a turn of a conversation, or a list of turns."""
    first = prompt[0] if isinstance(prompt, list) and prompt else prompt
    text = first.get("value") if isinstance(first, dict) else first
    return (_MEDIA_MARK.sub("", text).strip() or None) if isinstance(text, str) else None


def _video_fields(entry: Entry) -> list[str]:
    return [name for name in VIDEO_FIELDS if name in entry.value]


def _only(entry: Entry, names: Sequence[str]) -> str:
    """The field of `names` that an entry has. Raises `RecordError` when it has none or several."""
    present = [name for name in names if name in entry.value]
    if len(present) != 1:
        problem = "has no field for the caption" if not present else f"has several: {', '.join(present)}"
        raise RecordError(f"{entry.where} {problem}; name it with caption_field ({entry.field_names()})")
    return present[0]
