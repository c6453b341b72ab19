"""Does a model use the sound and the picture it is given? Change one stream and see whether its answers move.

The model answers a clip greedily. For each change of the clip (sound muted, picture black, ...) it is then asked how
likely each next token of that same answer is, and the distributions are compared with those of the unchanged clip:
Jensen-Shannon divergence in bits, 0 where nothing moved and at most 1. The unchanged clip asked again gives the noise
of the arithmetic. A stream that is there and whose every change moves nothing beyond the noise is *not used*: its
tokens are lost or misplaced on the way, which no fluent caption would show.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from avocet.captioning.captioner import Captioner
from avocet.captioning.instructions import InstructionChoice, instruction_rule
from avocet.errors import AvocetError, ConfigError
from avocet.models.interface import CaptionModel, Prefix
from avocet.records import SAMPLE_RATE, Clip, ClipRef, Record, Sampling

Stream = Literal["none", "sound", "picture", "both"]

MIN_BITS = 1e-6
"""Least divergence that counts as a change; rounding in float32 stays below 1e-9."""

NOISE_FACTOR = 10.0
"""How many times the noise of a repetition a change must exceed (half precision on GPUs does not repeat exactly)."""

NOISE = "repeat"
_SHUFFLE_SEED = 20_261_121


@dataclasses.dataclass(frozen=True, kw_only=True)
class Intervention:
    """One change of a clip."""

    name: str
    stream: Stream
    about_time: bool
    """Whether it only moves content in time."""
    change: Callable[[Clip], Clip]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect(Record):
    """What one change did to the model's distributions over the tokens of its answer."""

    intervention: str
    stream: Stream
    about_time: bool
    skipped: str | None = None
    """Why it was not tried; then the numbers below are 0."""
    mean_bits: float = 0.0
    max_bits: float = 0.0
    changed_choices: float = 0.0
    """Share of the tokens whose most likely token is another one now."""
    mean_logp_change: float = 0.0
    """Of the answer's own tokens, in nats."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeReport(Record):
    """The effects of all changes, and what follows."""

    model: str
    revision: str
    clip_id: str
    answer: str
    num_tokens: int
    threshold_bits: float
    effects: tuple[Effect, ...]
    sound_used: bool | None
    """None for a clip without sound."""
    picture_used: bool | None
    sound_time_used: bool | None
    """Whether it matters when a sound is heard."""
    picture_order_used: bool | None
    """Whether it matters in which order frames are shown."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Streams that the clip has and the model does not use."""
        found = (("sound", self.sound_used), ("picture", self.picture_used))
        return tuple(name for name, used in found if used is False)


@torch.no_grad()
def probe_clip(
    captioner: Captioner,
    clip: Clip,
    *,
    other: Clip | None = None,
    instruction: InstructionChoice = None,
    completion: Sequence[int] | None = None,
    max_tokens: int = 64,
    shift_seconds: float = 2.0,
) -> ProbeReport:
    """Probe one clip.

    Args:
        other: whose sound to swap in; None shuffles the seconds of the clip's own sound.
        instruction: None for the model's own.
        completion: token ids to ask about; None takes the model's greedy answer, at most `max_tokens` of it.
        shift_seconds: how far `shift_sound` moves the sound; it goes around.

    Raises:
        ConfigError: nothing to ask about, or impossible arguments.
        AvocetError: whatever the model raises for the unchanged clip.
    """
    if max_tokens < 1 or not shift_seconds > 0:
        raise ConfigError(f"max_tokens must be >= 1 and shift_seconds > 0, got {max_tokens} and {shift_seconds}")
    model = captioner.model
    rule = instruction_rule(instruction, model.default_instruction)
    text = rule(ClipRef(id=clip.id, path=clip.source.path)).text
    prefix = _encode(model, clip, text)
    if completion is None:
        sampling = Sampling(max_new_tokens=max_tokens, repetition_guard="off")
        completion = model.generate(prefix, 1, sampling)[0][0].token_ids
    if not completion:
        raise ConfigError(f"clip {clip.id!r}: the model answers nothing, so there is nothing to compare")
    baseline = model.next_token_log_probs(prefix, completion)
    effects = tuple(
        _effect(model, clip, text, step, completion, baseline) for step in interventions(clip, other, shift_seconds)
    )
    noise = next(effect.max_bits for effect in effects if effect.intervention == NOISE)
    threshold = max(NOISE_FACTOR * noise, MIN_BITS)
    return ProbeReport(
        model=captioner.model_id,
        revision=captioner.revision,
        clip_id=clip.id,
        answer=model.tokenizer.decode(list(completion), skip_special_tokens=True),
        num_tokens=len(completion),
        threshold_bits=threshold,
        effects=effects,
        sound_used=_moved(effects, "sound", threshold),
        picture_used=_moved(effects, "picture", threshold),
        sound_time_used=_moved(effects, "sound", threshold, about_time=True),
        picture_order_used=_moved(effects, "picture", threshold, about_time=True),
    )


def interventions(clip: Clip, other: Clip | None, shift_seconds: float) -> Iterator[Intervention]:
    """The changes that can be made to this clip; streams that it lacks are left alone."""
    yield Intervention(name=NOISE, stream="none", about_time=False, change=lambda clip: clip)
    if clip.waveform is not None and len(clip.waveform):
        yield Intervention(name="mute", stream="sound", about_time=False, change=mute)
        if clip.num_frames:
            yield Intervention(name="no_sound", stream="sound", about_time=False, change=drop_sound)
        swap = "shuffle_sound" if other is None else "swap_sound"
        yield Intervention(
            name=swap, stream="sound", about_time=other is None, change=lambda clip: swap_sound(clip, other)
        )
        yield Intervention(
            name="shift_sound", stream="sound", about_time=True, change=lambda clip: shift_sound(clip, shift_seconds)
        )
    if clip.num_frames:
        yield Intervention(name="black", stream="picture", about_time=False, change=black)
        if clip.waveform is not None and len(clip.waveform):
            yield Intervention(name="no_picture", stream="picture", about_time=False, change=drop_picture)
    if clip.num_frames > 1:
        yield Intervention(name="freeze", stream="picture", about_time=False, change=freeze)
        yield Intervention(name="reverse_picture", stream="picture", about_time=True, change=reverse_picture)


def divergence_bits(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence of log-probabilities (T, V) and (T, V), in bits: (T,), from 0 to 1."""
    p, q = first.double(), second.double()
    middle = torch.logaddexp(p, q) - math.log(2)

    def against(logs: torch.Tensor) -> torch.Tensor:
        # Where a probability is 0 its term is 0, not 0 times infinity.
        return torch.where(logs.isneginf(), 0.0, logs.exp() * (logs - middle)).sum(-1)

    bits: torch.Tensor = (against(p) + against(q)) / (2 * math.log(2))
    return bits.clamp(min=0.0)


def mute(clip: Clip) -> Clip:
    """Digital silence of the same length."""
    assert clip.waveform is not None
    return dataclasses.replace(clip, waveform=np.zeros_like(clip.waveform), audio_status="silent")


def drop_sound(clip: Clip) -> Clip:
    """No sound track at all."""
    return dataclasses.replace(clip, waveform=None, audio_status="absent")


def swap_sound(clip: Clip, other: Clip | None) -> Clip:
    """The sound of `other`, repeated or cut to length; without one, the clip's own seconds in another order."""
    assert clip.waveform is not None
    length = len(clip.waveform)
    if other is None:
        starts = np.arange(0, length, SAMPLE_RATE)
        order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(starts))
        if len(starts) > 1 and np.array_equal(order, np.arange(len(starts))):
            order = order[::-1]
        parts = [clip.waveform[starts[place] : starts[place] + SAMPLE_RATE] for place in order]
        return dataclasses.replace(clip, waveform=np.concatenate(parts))
    if other.waveform is None or not len(other.waveform):
        raise ConfigError(f"clip {other.id!r} has no sound to swap in")
    return dataclasses.replace(clip, waveform=np.resize(other.waveform, length).astype(np.float32))


def shift_sound(clip: Clip, seconds: float) -> Clip:
    """The sound so much later; what leaves at the end comes in at the start."""
    assert clip.waveform is not None
    return dataclasses.replace(clip, waveform=np.roll(clip.waveform, round(seconds * SAMPLE_RATE)))


def black(clip: Clip) -> Clip:
    """All frames black."""
    return dataclasses.replace(clip, frames=np.zeros_like(clip.frames))


def drop_picture(clip: Clip) -> Clip:
    """No frames at all."""
    return dataclasses.replace(clip, frames=clip.frames[:0], frame_times_seconds=clip.frame_times_seconds[:0])


def freeze(clip: Clip) -> Clip:
    """The first frame everywhere."""
    return dataclasses.replace(clip, frames=np.repeat(clip.frames[:1], clip.num_frames, axis=0))


def reverse_picture(clip: Clip) -> Clip:
    """Frames in reverse order at the same times."""
    return dataclasses.replace(clip, frames=np.ascontiguousarray(clip.frames[::-1]))


def _encode(model: CaptionModel, clip: Clip, instruction: str) -> Prefix:
    return model.encode([model.prepare(clip, instruction)])


def _effect(
    model: CaptionModel,
    clip: Clip,
    instruction: str,
    step: Intervention,
    completion: Sequence[int],
    baseline: torch.Tensor,
) -> Effect:
    facts = {"intervention": step.name, "stream": step.stream, "about_time": step.about_time}
    try:
        logs = model.next_token_log_probs(_encode(model, step.change(clip), instruction), completion)
    except AvocetError as error:
        return Effect(skipped=" ".join(str(error).split()), **facts)  # type: ignore[arg-type]
    bits = divergence_bits(baseline, logs)
    ids = torch.tensor(list(completion), device=logs.device)[:, None]
    change = logs.gather(-1, ids) - baseline.gather(-1, ids)
    return Effect(
        mean_bits=float(bits.mean()),
        max_bits=float(bits.max()),
        changed_choices=float((logs.argmax(-1) != baseline.argmax(-1)).double().mean()),
        mean_logp_change=float(change.double().mean()),
        **facts,  # type: ignore[arg-type]
    )


def _moved(effects: Sequence[Effect], stream: Stream, threshold: float, *, about_time: bool = False) -> bool | None:
    """Whether any change of the stream moved the model; None when none could be tried."""
    tried = [
        effect
        for effect in effects
        if effect.stream == stream and effect.skipped is None and (effect.about_time or not about_time)
    ]
    return any(effect.max_bits > threshold for effect in tried) if tried else None
