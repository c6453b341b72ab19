"""What rounds sample from and are gated on: only captions are sampled, and no held-out clip is trained on."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence

from avocet.errors import ConfigError
from avocet.records import ClipRef, TrainingExample, is_url
from avocet.training.data.examples import read_examples
from avocet.training.data.mixture import DataSource, load_mixture
from avocet.training.mrdpo.config import MrDpo

CAPTION_TASKS = ("caption", "local_caption")
"""Tasks whose answers are judged by the events of a clip."""


def read_round_data(plan: MrDpo) -> tuple[tuple[TrainingExample, ...], tuple[TrainingExample, ...]]:
    """The examples to sample captions of, and the held-out ones.

    Raises `ConfigError` for tasks that rounds have no use for, and for held-out clips that the rounds would train on.
    """
    examples, held_out = (load_mixture(sources)[0] for sources in (plan.sources, plan.held_out))
    _check_tasks(plan, "sources", examples, CAPTION_TASKS, "what a round learns beside its pairs belongs in `mixed_in`")
    _check_tasks(plan, "held_out", held_out, (*CAPTION_TASKS, "qa"), "take the others out")
    check_held_out(held_out, [*(example.clip for example in examples), *clips_of(plan.mixed_in)])
    return examples, held_out


def check_held_out(held_out: Iterable[TrainingExample], trained: Iterable[ClipRef]) -> None:
    """Raise `ConfigError` when a held-out clip is trained on, whatever is asked about it.

    A clip is a file (or URL) and an interval of it; intervals of one file that do not touch are different clips.
    """
    by_file: dict[str, list[ClipRef]] = {}
    for clip in trained:
        by_file.setdefault(_file(clip), []).append(clip)
    clips = {example.clip.id: example.clip for example in held_out}
    seen = [clip for clip in clips.values() if any(_overlap(clip, other) for other in by_file.get(_file(clip), ()))]
    if seen:
        raise ConfigError(
            f"{len(seen)} of {len(clips)} held-out clips are trained on too (the first: {seen[0].id!r}, "
            f"{seen[0].path}), so the gate would measure what was learnt by heart; hold out other clips, or take these "
            "out of everything that is trained on, questions included"
        )


def clips_of(sources: Sequence[DataSource]) -> list[ClipRef]:
    """The clips of all examples and pairs."""
    clips: list[ClipRef] = []
    for source in sources:
        found = read_examples(
            source.path, format=source.format, media_root=source.media_root, task=source.task, limit=source.limit
        )
        clips += [example.clip for example in found.examples]
        clips += [pair.clip for pair in found.pairs]
    return clips


def _check_tasks(
    plan: MrDpo, field: str, examples: Sequence[TrainingExample], allowed: Sequence[str], advice: str
) -> None:
    others = Counter(example.task for example in examples if example.task not in allowed)
    if others:
        given = ", ".join(f"{count} of task {task}" for task, count in others.items())
        raise ConfigError(
            f"MrDpo {plan.name!r}: `{field}` may hold tasks {', '.join(allowed)}, got {given}; they would be judged "
            f"as captions: {advice}"
        )


def _file(clip: ClipRef) -> str:
    return clip.path if is_url(clip.path) else os.path.realpath(clip.path)


def _overlap(a: ClipRef, b: ClipRef) -> bool:
    (start_a, end_a), (start_b, end_b) = (
        (clip.start_seconds or 0.0, math.inf if clip.end_seconds is None else clip.end_seconds) for clip in (a, b)
    )
    return start_a < end_b and start_b < end_a
