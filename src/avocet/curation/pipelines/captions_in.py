"""Captions that are there already, as clips for annotation, and their annotations put back."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from avocet.curation.manifest import ManifestClip
from avocet.errors import RecordError
from avocet.records import Caption, ClipRef, TrainingExample

CAPTION_STAGE = "caption"


def is_caption_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds the records of `avocet caption`, by its first line."""
    try:
        with Path(path).open(encoding="utf-8") as lines:
            first = json.loads(next((line for line in lines if line.strip()), "null"))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and "stop_reason" in first and "clip_id" in first


def read_captions(path: str | os.PathLike[str]) -> Iterator[TrainingExample]:
    """The captions of `avocet caption` as training examples; clips that could not be captioned are left out there.

    Raises `RecordError` naming file and line.
    """
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                caption = Caption.from_json(line)
            except RecordError as error:
                raise RecordError(f"{path}:{number}: {error}") from error
            clip = ClipRef(
                id=caption.clip_id,
                path=caption.path,
                start_seconds=caption.start_seconds,
                end_seconds=caption.end_seconds,
                meta={"captioner": f"{caption.model} {caption.revision}"},
            )
            yield TrainingExample(clip=clip, task="caption", instruction=caption.instruction, target=caption.text)


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
            (they failed) come back as they were, as do annotations that were not made.
    """
    waiting = iter(clips)
    clip = next(waiting, None)
    for example in examples:
        if clip is None or example.task != "caption" or example.clip.id != clip.id:
            yield example
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
    return dataclasses.replace(example, **changes)  # type: ignore[arg-type]  # names and types of its fields
