"""A token plan put so that people can read it: runs of tokens, what is read together, how far apart it is in time.

A *run* is what the decoder reads in a row of one stream: visual tokens of one time, or sound without a picture between.
A *reading* is some visual runs and the audio runs after them, up to the next visual run: what the decoder meets
together. Where the seconds of both halves of a reading differ, sound stands beside the wrong picture.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from avocet.models.layout import AUDIO, VISUAL, TokenPlan

STREAM_NAMES = ("visual", "audio")
_SAME_SECONDS = 1e-8
"""Times closer than this are the same, so that a token that begins at k / 25 s is found there."""
_SHORTEST_ROW = 3
"""Placeholders stand in rows; two equal tokens in a row are ordinary text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenRun:
    """Neighbouring media tokens of one stream and, for pictures, of one time."""

    stream: int
    first: int
    """Place of its first token among all media tokens, from 0."""
    count: int
    start_seconds: float
    end_seconds: float
    positions: tuple[tuple[float, float], ...] = ()
    """(smallest, largest) rotary position on each axis (time, height, width), () for plans without."""

    @property
    def name(self) -> str:
        """ "visual" or "audio"."""
        return STREAM_NAMES[self.stream]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """Visual runs and the audio runs read directly after them; one of both may be missing."""

    visual: tuple[TokenRun, ...] = ()
    audio: tuple[TokenRun, ...] = ()

    @property
    def gap_seconds(self) -> float:
        """How far apart picture and sound begin; 0 where only one of them is there."""
        if not self.visual or not self.audio:
            return 0.0
        return abs(self.visual[0].start_seconds - self.audio[0].start_seconds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distance:
    """The largest distance between picture and sound, and where it is."""

    value: float
    at_seconds: float
    """When the picture token begins, from the start of the clip."""


def token_runs(plan: TokenPlan) -> list[TokenRun]:
    """The runs of a plan, in the order the decoder reads them."""
    stream, starts = plan.stream, plan.start_seconds
    begins = np.ones(len(plan), dtype=bool)
    begins[1:] = (stream[1:] != stream[:-1]) | ((stream[1:] == VISUAL) & (starts[1:] != starts[:-1]))
    bounds = [*np.flatnonzero(begins).tolist(), len(plan)]
    return [
        TokenRun(
            stream=int(stream[first]),
            first=first,
            count=end - first,
            start_seconds=float(starts[first]),
            end_seconds=float(plan.end_seconds[end - 1]),
            positions=_ranges(plan, first, end),
        )
        for first, end in itertools.pairwise(bounds)
    ]


def _ranges(plan: TokenPlan, first: int, end: int) -> tuple[tuple[float, float], ...]:
    if plan.positions is None:
        return ()
    part = plan.positions[:, first:end]
    return tuple(zip(part.min(axis=1).tolist(), part.max(axis=1).tolist(), strict=True))


def readings(runs: Sequence[TokenRun]) -> list[Reading]:
    """Runs grouped into what is read together."""
    groups: list[list[TokenRun]] = []
    for run in runs:
        if not groups or (run.stream == VISUAL and groups[-1][-1].stream == AUDIO):
            groups.append([])
        groups[-1].append(run)
    return [
        Reading(
            visual=tuple(run for run in group if run.stream == VISUAL),
            audio=tuple(run for run in group if run.stream == AUDIO),
        )
        for group in groups
    ]


def largest_reading_gap(runs: Sequence[TokenRun]) -> Distance | None:
    """Seconds between the beginnings of picture and sound that are read together; None where nothing is."""
    together = [reading for reading in readings(runs) if reading.visual and reading.audio]
    if not together:
        return None
    worst = max(together, key=lambda reading: reading.gap_seconds)
    return Distance(value=worst.gap_seconds, at_seconds=worst.visual[0].start_seconds)


def largest_position_distance(plan: TokenPlan) -> Distance | None:
    """Time positions between a picture token and the sound token of the same second.

    None without positions, and where no picture token begins while there is sound.
    """
    if plan.positions is None:
        return None
    is_audio = plan.stream == AUDIO
    order = np.argsort(plan.start_seconds[is_audio], kind="stable")
    starts, ends = plan.start_seconds[is_audio][order], plan.end_seconds[is_audio][order]
    seconds, positions = plan.start_seconds[~is_audio], plan.positions[0][~is_audio]
    token = np.searchsorted(starts, seconds + _SAME_SECONDS, side="right") - 1
    heard = np.flatnonzero(token >= 0)
    heard = heard[seconds[heard] < ends[token[heard]] - _SAME_SECONDS]
    if not len(heard):
        return None
    distances = np.abs(positions[heard] - plan.positions[0][is_audio][order][token[heard]])
    worst = int(distances.argmax())
    return Distance(value=float(distances[worst]), at_seconds=float(seconds[heard[worst]]))


def positions_per_second(plan: TokenPlan) -> float | None:
    """How fast the time position of the sound runs; None without positions or with fewer than two audio tokens."""
    if plan.positions is None or plan.num_audio_tokens < 2:
        return None
    is_audio = plan.stream == AUDIO
    seconds, positions = plan.start_seconds[is_audio], plan.positions[0][is_audio]
    length = float(seconds.max() - seconds.min())
    return float(positions.max() - positions.min()) / length if length > 0 else None


def prompt_pieces(token_ids: Sequence[int], tokenizer: Any) -> list[tuple[str, int]]:
    """A prompt's text as (text, times in a row): placeholders stand once per row, with their number.

    A token that stands at least three times in a row somewhere counts as a placeholder. Special tokens are shown as
    their text.
    """
    rows = [(token, len(list(group))) for token, group in itertools.groupby(token_ids)]
    placeholders = {token for token, count in rows if count >= _SHORTEST_ROW}
    pieces: list[tuple[str, int]] = []
    for is_placeholder, group in itertools.groupby(rows, key=lambda row: row[0] in placeholders):
        if is_placeholder:
            pieces += [(_decoded(tokenizer, [token]), count) for token, count in group]
        else:
            ids = [token for token, count in group for _ in range(count)]
            pieces.append((_decoded(tokenizer, ids), 1))
    return pieces


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    text = str(tokenizer.decode(ids, skip_special_tokens=False))
    # Some models' placeholders are no tokens of the vocabulary.
    return text or "[placeholder]"
