"""The typed records that cross the seams between stages.

All are frozen, keyword-only and check themselves on creation. Records without arrays travel as one
JSON line each (`to_json_line`, `from_json`); a `Clip` holds arrays and stays in memory. Times are
seconds on the file's own timeline, whose zero is the start of its earliest stream (what a player
shows as 0:00); intervals are half-open.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from avocet._record import FloatOrNan as FloatOrNan
from avocet._record import Record as Record
from avocet._record import json_line as json_line
from avocet.errors import RecordError

AudioStatus = Literal["present", "silent", "absent", "undecodable"]
AudioPolicy = Literal["auto", "require", "ignore"]
StopReason = Literal["end", "length", "repetition"]
"""Why a completion ended: the model ended it, its token limit, or the repetition guard."""
RepetitionGuard = Literal["off", "stop", "retry"]
Stage = Literal["media", "model", "judge"]
VerdictStatus = Literal["scored", "unscored"]
Task = Literal["caption", "local_caption", "qa", "asr", "audio_caption"]

SAMPLE_RATE = 16_000
"""Samples per second of every waveform inside Avocet."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise RecordError(message)


def _check_choice(name: str, value: object, choices: object) -> None:
    allowed = get_args(choices)
    _check(value in allowed, f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _check_interval(name: str, start_seconds: float | None, end_seconds: float | None) -> None:
    for field, seconds in (("start_seconds", start_seconds), ("end_seconds", end_seconds)):
        good = seconds is None or (isinstance(seconds, int | float) and math.isfinite(seconds) and seconds >= 0)
        _check(good, f"{name}: {field} must be a number of seconds >= 0, got {seconds!r}")
    if end_seconds is not None:
        _check(
            end_seconds > (start_seconds or 0.0),
            f"{name}: the interval [{start_seconds}, {end_seconds}) is empty; end_seconds must be larger",
        )


def _check_strings(record: Record, name: str, *fields: str) -> None:
    """The fields as tuples of strings; a list is taken, a string by itself, which would be its letters, is not."""
    for field in fields:
        values = getattr(record, field)
        good = isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)
        _check(good, f"{name}: {field} must be a tuple of strings, got {values!r:.60}")
        object.__setattr__(record, field, tuple(values))


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(path: str) -> bool:
    """Whether a clip's path is an address rather than a local file."""
    return _URL.match(path) is not None


DIALOGUE_UNKNOWN = "dialogue_unknown"
"""Field of `ClipRef.meta`, true where nobody looked for dialogue or what was found could not be read: the empty
`TrainingExample.dialogue` then does not say that nobody speaks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipRef(Record):
    """Where a clip is, without its pixels."""

    id: str
    path: str
    """A file path or URL."""
    start_seconds: float | None = None
    end_seconds: float | None = None
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(bool(self.id), "ClipRef: id must not be empty")
        _check(bool(self.path), f"ClipRef {self.id!r}: path must not be empty")
        _check_interval(f"ClipRef {self.id!r}", self.start_seconds, self.end_seconds)

    def absolute(self) -> ClipRef:
        """The clip by a path that means the same from any folder, for files that may lie anywhere."""
        return self if is_url(self.path) else dataclasses.replace(self, path=os.path.abspath(self.path))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFacts(Record):
    """What the file itself says, before any sampling."""

    path: str
    container: str
    duration_seconds: float
    start_time_seconds: float = 0.0
    """Timestamp in the file that the timeline calls zero; add it to a time to get the raw timestamp."""
    video_codec: str | None = None
    width: int | None = None
    """Display width in pixels, after rotation."""
    height: int | None = None
    average_fps: float | None = None
    rotation_degrees: int = 0
    is_image: bool = False
    """Whether the file is a still picture."""
    video_start_seconds: float | None = None
    video_end_seconds: float | None = None
    audio_codec: str | None = None
    audio_sample_rate: int | None = None
    audio_channels: int | None = None
    audio_start_seconds: float | None = None
    audio_end_seconds: float | None = None
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    """Container metadata (untrusted text)."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Decoded frames and sound of one interval of one file."""

    id: str
    frames: np.ndarray
    """uint8 (T, 3, H, W), RGB; T is 0 for audio-only clips."""
    frame_times_seconds: np.ndarray
    """float64 (T,), strictly increasing: when each frame is first shown, on the file's timeline."""
    waveform: np.ndarray | None
    """float32 (S,) in [-1, 1], 16 kHz mono; sample 0 plays at `start_seconds`. None without usable sound."""
    start_seconds: float
    duration_seconds: float
    audio_status: AudioStatus
    source: SourceFacts
    warnings: tuple[str, ...] = ()
    sampling_step_seconds: float | None = None
    """Spacing of the targets that the frames were sampled for; None when they were not sampled on a grid."""

    def __post_init__(self) -> None:
        frames, times, name = self.frames, self.frame_times_seconds, f"Clip {self.id!r}"
        _check(
            frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[1] == 3,
            f"{name}: frames must be uint8 (T, 3, H, W), got {frames.dtype} {frames.shape}",
        )
        _check(times.shape == (len(frames),), f"{name}: {len(frames)} frames but times of shape {times.shape}")
        _check(len(times) < 2 or bool(np.all(np.diff(times) > 0)), f"{name}: frame times must increase strictly")
        _check_choice(f"{name}: audio_status", self.audio_status, AudioStatus)
        if self.waveform is not None:
            _check(
                self.waveform.dtype == np.float32 and self.waveform.ndim == 1,
                f"{name}: waveform must be float32 (S,), got {self.waveform.dtype} {self.waveform.shape}",
            )
        has_sound = self.audio_status in ("present", "silent")
        _check(
            has_sound or self.waveform is None, f"{name}: audio_status is {self.audio_status} but a waveform was given"
        )
        _check(self.duration_seconds > 0, f"{name}: duration_seconds must be > 0, got {self.duration_seconds}")
        step = self.sampling_step_seconds
        _check(step is None or step > 0, f"{name}: sampling_step_seconds must be > 0 or None, got {step}")

    @property
    def sample_times_seconds(self) -> np.ndarray:
        """float64 (T,), strictly increasing: the moment that each frame stands for, from the start of the clip.

        A frame sampled on a grid stands for the first target at which it is on screen; otherwise, and for a first
        frame that appears only after the targets it was taken for, it is the time at which it is first shown.
        """
        shown = self.frame_times_seconds - self.start_seconds
        if self.sampling_step_seconds is None or not len(shown):
            return shown.clip(min=0)
        targets = np.ceil(shown / self.sampling_step_seconds - 1e-6) * self.sampling_step_seconds
        # The grid cannot tell for a first frame that was taken for targets before it appeared.
        late = np.append(targets[:-1] >= targets[1:], False)
        times: np.ndarray = np.where(late, shown, targets).clip(min=0)
        return times

    @property
    def end_seconds(self) -> float:
        return self.start_seconds + self.duration_seconds

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def fps(self) -> float:
        """Frames per second really sampled."""
        return self.num_frames / self.duration_seconds

    def __repr__(self) -> str:
        sound = "None" if self.waveform is None else f"float32 {self.waveform.shape}"
        return (
            f"Clip(id={self.id!r}, frames=uint8 {self.frames.shape}, waveform={sound}, "
            f"start_seconds={self.start_seconds:.3f}, duration_seconds={self.duration_seconds:.3f}, "
            f"audio_status={self.audio_status!r}, warnings={list(self.warnings)})"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling(Record):
    """How to sample a completion. `temperature=0` is greedy decoding."""

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float = 1.0
    """Logits of tokens that were generated already are divided (positive) or multiplied (negative) by this."""
    repetition_guard: RepetitionGuard = "stop"
    """What to do when a completion runs in a loop: nothing ("off"), end it ("stop"), or end it and let the captioner
    try once more with a penalty ("retry")."""

    def __post_init__(self) -> None:
        _check(self.max_new_tokens >= 1, f"Sampling: max_new_tokens must be >= 1, got {self.max_new_tokens}")
        _check(self.temperature >= 0, f"Sampling: temperature must be >= 0, got {self.temperature}")
        _check(0 < self.top_p <= 1, f"Sampling: top_p must be in (0, 1], got {self.top_p}")
        _check(self.repetition_penalty > 0, f"Sampling: repetition_penalty must be > 0, got {self.repetition_penalty}")
        _check_choice("Sampling: repetition_guard", self.repetition_guard, RepetitionGuard)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caption(Record):
    """One caption with all that is needed to know how it came about."""

    clip_id: str
    path: str
    text: str
    model: str
    revision: str
    """Version of the weights: a hub commit, or a hash of the weight file."""
    instruction: str
    sampling: Sampling
    stop_reason: StopReason
    num_tokens: int
    audio_used: bool
    audio_status: AudioStatus
    num_frames: int
    fps: float
    """Frames per second really used."""
    start_seconds: float
    end_seconds: float
    layout_rule: str
    instruction_source: str = "given"
    """Where the instruction came from: "given", "default", a style with its number, or a file."""
    media: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the model really read: numbers of visual and audio tokens, size of the frames, the model's limits."""
    token_logps: tuple[float, ...] = ()
    """Log-probability of each token, when asked for."""
    timings_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(bool(self.clip_id), "Caption: clip_id must not be empty")
        name = f"Caption of {self.clip_id!r}"
        _check_interval(name, self.start_seconds, self.end_seconds)
        _check_choice(f"{name}: stop_reason", self.stop_reason, StopReason)
        _check_choice(f"{name}: audio_status", self.audio_status, AudioStatus)
        for field in ("num_tokens", "num_frames", "fps"):
            value = getattr(self, field)
            _check(0 <= value < math.inf, f"{name}: {field} must be >= 0, got {value}")
        _check_strings(self, name, "warnings")
        object.__setattr__(self, "token_logps", tuple(self.token_logps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure(Record):
    """A clip that could not be processed: a value to count and report, never a silent hole."""

    clip_id: str
    path: str
    stage: Stage
    error: str
    """One line: what happened."""

    def __post_init__(self) -> None:
        _check_choice(f"Failure of {self.clip_id!r}: stage", self.stage, Stage)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict(Record):
    """What a judge found in one caption."""

    clip_id: str
    judge: str
    run_index: int = 0
    status: VerdictStatus = "scored"
    reason: str | None = None
    """Why it is unscored."""
    findings: dict[str, Any] = dataclasses.field(default_factory=dict)
    raw_reply: str | None = None

    def __post_init__(self) -> None:
        name = f"Verdict on {self.clip_id!r}"
        _check_choice(f"{name}: status", self.status, VerdictStatus)
        _check(self.run_index >= 0, f"{name}: run_index must be >= 0, got {self.run_index}")
        good = self.reason is None if self.status == "scored" else bool(self.reason and self.reason.strip())
        _check(good, f"{name}: an unscored verdict needs a reason, a scored one has none; got {self.reason!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingExample(Record):
    """One thing to learn: a clip, what is asked about it and what should be answered."""

    clip: ClipRef
    task: Task
    instruction: str
    target: str
    events: tuple[str, ...] = ()
    checklist: tuple[str, ...] = ()
    dialogue: tuple[dict[str, str], ...] = ()
    """Utterances as {"speaker": ..., "text": ...}, in order."""
    start_seconds: float | None = None
    """The interval a local caption is about."""
    end_seconds: float | None = None

    def __post_init__(self) -> None:
        name = f"TrainingExample {self.clip.id!r}"
        _check_choice(f"{name}: task", self.task, Task)
        _check(bool(self.target), f"{name}: target must not be empty")
        _check_strings(self, name, "events", "checklist")
        _check_dialogue(self, name)
        _check_interval(name, self.start_seconds, self.end_seconds)
        _check(
            (self.start_seconds is None) == (self.end_seconds is None),
            f"{name}: an interval has both ends, got [{self.start_seconds}, {self.end_seconds})",
        )


def _check_dialogue(example: TrainingExample, name: str) -> None:
    said = example.dialogue
    _check(isinstance(said, list | tuple), f"{name}: dialogue must be a tuple of utterances, got {said!r:.60}")
    for one in said:
        good = isinstance(one, Mapping) and one.keys() == {"speaker", "text"}
        good = good and all(isinstance(part, str) for part in one.values())
        _check(good, f'{name}: an utterance of the dialogue is {{"speaker": ..., "text": ...}}, got {one!r:.100}')
    object.__setattr__(example, "dialogue", tuple(said))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferencePair(Record):
    """Two captions of one clip, the first better than the second in every metric."""

    clip: ClipRef
    instruction: str
    chosen: str
    rejected: str
    ground_truth: str
    chosen_metrics: dict[str, FloatOrNan]
    rejected_metrics: dict[str, FloatOrNan]
    round: int

    def __post_init__(self) -> None:
        _check(self.chosen != self.rejected, f"PreferencePair {self.clip.id!r}: chosen and rejected are the same text")
        _check(self.round >= 1, f"PreferencePair {self.clip.id!r}: round starts at 1, got {self.round}")


if not TYPE_CHECKING:  # to a type checker every name would be in a module that has this

    def __getattr__(name: str) -> Any:
        # A prompt crosses the seams like the others, but holds tensors: asking for it loads PyTorch.
        if name == "Prompt":
            return importlib.import_module("avocet.models.interface").Prompt
        raise AttributeError(f"module 'avocet.records' has no attribute {name!r}")
