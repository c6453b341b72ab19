"""Which clips form batch number N, and what is asked and answered about each: pure functions of seed and step.

Batches hold clips of one duration, so media tensors need no padding. Because nothing depends on what was
drawn before, a run resumes at step N with exactly the batches it would have seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from avocet.theatre.language import INSTRUCTIONS, reference_caption, sound_caption, transcript
from avocet.theatre.script import make_script
from avocet.training.config import ExampleKind
from avocet.training.labels import sound_symbols
from avocet.training.store import ClipStore, StoredClip


class BatchPlan:
    """Order of batches over pooled stores: every clip once per epoch, one duration per batch.

    The last, smaller batch of a duration is kept (its clips are seen too). The number of batches per epoch
    is the same in every epoch.
    """

    def __init__(self, stores: list[ClipStore], batch_size: int, seed: int) -> None:
        self._stores = stores
        self._seed = seed
        self._batch_size = batch_size
        self._origin = [(store, index) for store in range(len(stores)) for index in range(len(stores[store]))]
        durations = np.concatenate([store.duration_seconds for store in stores])
        self._by_duration = [np.flatnonzero(durations == value) for value in np.unique(durations)]
        self.batches_per_epoch = sum(-(-len(group) // batch_size) for group in self._by_duration)
        self._epoch = -1
        self._batches: list[np.ndarray] = []

    def batch(self, step: int) -> list[StoredClip]:
        """The clips of batch `step` (counted from 0 over all epochs)."""
        epoch, position = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            batches = []
            for group in self._by_duration:
                shuffled = rng.permutation(group)
                batches += [shuffled[i : i + self._batch_size] for i in range(0, len(group), self._batch_size)]
            self._batches = [batches[i] for i in rng.permutation(len(batches))]
            self._epoch = epoch
        origins = (self._origin[i] for i in self._batches[position])
        return [self._stores[store][index] for store, index in origins]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One clip with what is asked and what is to be answered."""

    clip: StoredClip
    kind: ExampleKind
    frames: np.ndarray | None
    """uint8 (T, 3, S, S), or None when the example has no picture."""
    mel: np.ndarray | None
    """float (M, num_mels), or None when the example has no sound track."""
    instruction: str
    target: str
    symbols: list[int]
    """What is really heard, for the CTC loss (empty when the sound is muted)."""


def make_example(
    clip: StoredClip, mixture: Mapping[ExampleKind, float], rng: np.random.Generator, augment: bool = False
) -> Example:
    """Draw what to make of `clip`; `augment` applies SpecAugment.

    Kinds that do not fit the clip (no frames, nobody speaks) are not drawn; when none fits, it is `sound_caption`.
    """
    script = make_script(clip.seed, clip.level)
    kind = _draw_kind(mixture, has_frames=len(clip.frames) > 0, has_speech=bool(transcript(script)), rng=rng)
    see = kind in ("caption", "caption_muted", "caption_no_track", "text")
    hear = kind not in ("caption_muted", "caption_no_track")
    wording = int(rng.integers(1_000_000))
    target, task = reference_caption(script, wording, see=see, hear=hear), "caption"
    if kind == "asr":
        target, task = transcript(script), "asr"
    elif kind == "sound_caption":
        target, task = sound_caption(script, wording), "audio_caption"
    instructions = INSTRUCTIONS[task]
    frames: np.ndarray | None = clip.frames
    if kind in ("sound_caption", "asr", "text"):
        frames = None
    elif kind == "caption_black":
        frames = np.zeros_like(clip.frames)
    mel: np.ndarray | None = clip.mel
    if kind in ("caption_no_track", "text"):
        mel = None
    elif kind == "caption_muted":
        mel = muted_mel(clip.mel)
    if augment and mel is not None:
        mel = spec_augment(mel, rng)
    return Example(
        clip=clip,
        kind=kind,
        frames=frames,
        mel=mel,
        instruction=instructions[int(rng.integers(len(instructions)))],
        target=target,
        symbols=sound_symbols(script) if hear and mel is not None else [],
    )


def _draw_kind(
    mixture: Mapping[ExampleKind, float], *, has_frames: bool, has_speech: bool, rng: np.random.Generator
) -> ExampleKind:
    fitting = [
        kind
        for kind in mixture
        if (has_frames or kind in ("sound_caption", "asr", "text")) and (has_speech or kind != "asr")
    ]
    if not fitting:
        return "sound_caption"
    weights = np.array([mixture[kind] for kind in fitting])
    return fitting[int(rng.choice(len(fitting), p=weights / weights.sum()))]


SILENT_MEL_VALUE = -1.5
"""Log-mel of digital silence: Whisper's (log10(1e-10) + 4) / 4 in every bin."""


def muted_mel(mel: np.ndarray) -> np.ndarray:
    """The spectrogram of digital silence of the same length."""
    return np.full_like(mel, SILENT_MEL_VALUE)


def spec_augment(mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light SpecAugment (Park et al. 2019): one band of up to 8 mels, two spans of up to 12 frames, set to the mean."""
    mel = mel.copy()
    fill = mel.mean()
    width = int(rng.integers(0, 9))
    start = int(rng.integers(0, mel.shape[1] - width + 1))
    mel[:, start : start + width] = fill
    for _ in range(2):
        span = int(rng.integers(0, min(12, len(mel)) + 1))
        start = int(rng.integers(0, len(mel) - span + 1))
        mel[start : start + span] = fill
    return mel
