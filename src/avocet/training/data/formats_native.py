"""Avocet's own format: one `TrainingExample` or `PreferencePair` per line (or item of a list)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from avocet.errors import RecordError
from avocet.records import ClipRef, PreferencePair, TrainingExample
from avocet.training.data.formats_common import Context, audio_policy, clean_answer
from avocet.training.data.formats_json import Item
from avocet.training.data.records import Outcome


def is_native(value: Mapping[str, Any]) -> bool:
    """Whether an object has the shape of this format."""
    return isinstance(value.get("clip"), dict) and ("target" in value or "chosen" in value)


def read_native(item: Item, context: Context) -> list[Outcome]:
    """The record of one line. Raises `RecordError` naming the wrong fields."""
    if "chosen" in item.value:
        pair = PreferencePair.from_dict(item.value)
        _check_words(pair.chosen, pair.rejected)
        return [dataclasses.replace(pair, clip=_resolved(pair.clip, context))]
    example = TrainingExample.from_dict(item.value)
    _check_words(example.target)
    task = example.task if context.task is None else context.task
    return [dataclasses.replace(example, clip=_resolved(example.clip, context), task=task)]


def _resolved(clip: ClipRef, context: Context) -> ClipRef:
    if "\0" in clip.path:
        raise RecordError("the clip's path holds a NUL character, which no path can have")
    audio_policy(clip)
    return dataclasses.replace(clip, path=context.resolve(clip.path if context.media is None else context.media.path))


def _check_words(*answers: str) -> None:
    for answer in answers:
        clean_answer(answer)
