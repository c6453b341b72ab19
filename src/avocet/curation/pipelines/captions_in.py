"""Captions that are there already, as clips for annotation, and their annotations put back."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from avocet.curation.manifest import ManifestClip
from avocet.errors import RecordError
from avocet.records import DIALOGUE_UNKNOWN, Caption, ClipRef, Record, TrainingExample

CAPTION_STAGE = "caption"


def is_caption_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds the records of `avocet caption`, by its first line."""
    try:
        with Path(path).open(encoding="utf-8") as lines:
            first = json.loads(next((line for line in lines if line.strip()), "null"))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and "stop_reason" in first and "clip_id" in first


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeftOut(Record):
    """A line of the input from which nothing is to be learned."""

    where: str
    """File and line."""
    reason: str
    """`unreadable`: no caption and no example; `empty`: a caption without text; `cut_off`, `repetition`: a caption
    that its model did not end."""
    detail: str
    clip_id: str | None = None
    text: str = ""
    """Of the caption."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionsIn:
    """What a file holds, every line of it."""

    examples: tuple[TrainingExample, ...]
    left_out: tuple[LeftOut, ...]


def read_captions(path: str | os.PathLike[str], *, keep_cut_off: bool = False) -> CaptionsIn:
    """The captions of `avocet caption` as training examples; clips that could not be captioned are left out there.

    Args:
        keep_cut_off: also captions that reached the token limit or that the repetition guard ended.
    """
    examples: list[TrainingExample] = []
    left_out: list[LeftOut] = []
    with Path(path).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            found = _read_line(line, f"{path}:{number}", keep_cut_off)
            if isinstance(found, LeftOut):
                left_out.append(found)
            else:
                examples.append(found)
    return CaptionsIn(examples=tuple(examples), left_out=tuple(left_out))


def _read_line(line: bytes, where: str, keep_cut_off: bool) -> TrainingExample | LeftOut:
    try:
        caption = Caption.from_json(line.decode())
    except (RecordError, UnicodeDecodeError) as error:
        return LeftOut(where=where, reason="unreadable", detail=str(error))
    fault = _fault(caption, keep_cut_off)
    if fault is not None:
        reason, detail = fault
        return LeftOut(where=where, reason=reason, detail=detail, clip_id=caption.clip_id, text=caption.text)
    clip = ClipRef(
        id=caption.clip_id,
        path=caption.path,
        start_seconds=caption.start_seconds,
        end_seconds=caption.end_seconds,
        meta={"captioner": f"{caption.model} {caption.revision}", DIALOGUE_UNKNOWN: True}
        | ({} if caption.stop_reason == "end" else {"stop_reason": caption.stop_reason}),
    )
    return TrainingExample(clip=clip, task="caption", instruction=caption.instruction, target=caption.text)


def _fault(caption: Caption, keep_cut_off: bool) -> tuple[str, str] | None:
    """Why a caption is no target."""
    if not caption.text.strip():
        return "empty", "the caption is empty"
    if caption.stop_reason == "end" or keep_cut_off:
        return None
    if caption.stop_reason == "length":
        return "cut_off", f"the caption reached its limit of {caption.sampling.max_new_tokens} tokens"
    return "repetition", f"the caption ran in a loop and was stopped after {caption.num_tokens} tokens"


def caption_clips(examples: Sequence[TrainingExample]) -> Iterator[ManifestClip]:
    """A clip for each global caption, with its text among the facts.

    Raises `RecordError` for a clip with two captions: nobody could tell whose annotations are whose.
    """
    seen: set[str] = set()
    for example in examples:
        if example.task != "caption":
            continue
        clip = example.clip
        if clip.id in seen:
            raise RecordError(f"clip {clip.id!r} has two captions; annotate them in two files")
        seen.add(clip.id)
        source = clip.meta.get("source_id")
        yield ManifestClip(
            id=clip.id,
            path=clip.path,
            start_seconds=clip.start_seconds,
            end_seconds=clip.end_seconds,
            source_id=source if isinstance(source, str) else "",
            meta=dict(clip.meta),
            facts={CAPTION_STAGE: {"text": example.target}},
        )


def annotated(examples: Iterable[TrainingExample], clips: Iterable[ManifestClip]) -> Iterator[TrainingExample]:
    """The examples with what was found about their clips, and the questions behind them.

    Args:
        clips: what is left of `caption_clips(examples)`, in the same order. Captions of clips that are not among them
            (they failed) come back without annotations. Where dialogue was looked for and not found out, the clip's
            meta says so (`DIALOGUE_UNKNOWN`).

    Paths are absolute, for a file that may lie anywhere.
    """
    waiting = iter(clips)
    clip = next(waiting, None)
    for given in examples:
        example = dataclasses.replace(given, clip=given.clip.absolute())
        if example.task != "caption":
            yield example
            continue
        if clip is None or example.clip.id != clip.id:
            yield example if example.dialogue else _with_meta(example, {DIALOGUE_UNKNOWN: True})
            continue
        yield _with_annotations(example, clip)
        for pair in clip.facts.get("qa", {}).get("pairs", ()):
            yield TrainingExample(
                clip=example.clip, task="qa", instruction=str(pair["question"]), target=str(pair["answer"])
            )
        clip = next(waiting, None)


def _with_annotations(example: TrainingExample, clip: ManifestClip) -> TrainingExample:
    changes: dict[str, tuple[object, ...]] = {}
    if "events" in (found := clip.facts.get("events", {})):
        changes["events"] = tuple(found["events"])
    if "keypoints" in (found := clip.facts.get("checklist", {})):
        changes["checklist"] = tuple(point["text"] for point in found["keypoints"])
    if "utterances" in (found := clip.facts.get("dialogue", {})):
        changes["dialogue"] = tuple(dict(line) for line in found["utterances"])
        example = _with_meta(example, {})
    elif "dialogue" in clip.facts and not example.dialogue:
        example = _with_meta(example, {DIALOGUE_UNKNOWN: True})
    return dataclasses.replace(example, **changes)  # type: ignore[arg-type]  # names and types of its fields


def _with_meta(example: TrainingExample, mark: dict[str, bool]) -> TrainingExample:
    """With this mark on dialogue and no other."""
    meta = {name: value for name, value in example.clip.meta.items() if name != DIALOGUE_UNKNOWN} | mark
    return dataclasses.replace(example, clip=dataclasses.replace(example.clip, meta=meta))
