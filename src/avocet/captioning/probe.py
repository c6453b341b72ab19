"""Does a model use the sound and the picture it is given? Change one stream and see whether its answers move.

The model answers a clip greedily. For each change of the clip (sound muted, picture black, ...) it is then asked how
likely each next token of that same answer is, and the distributions are compared with those of the unchanged clip:
Jensen-Shannon divergence in bits, 0 where nothing moved and at most 1. The unchanged clip asked again gives the noise
of the arithmetic. A stream that is there and whose content moves nothing beyond the noise is *not used*: it is lost or
misplaced on the way, which no fluent caption would show.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch

from avocet.captioning.captioner import Captioner, clip_name
from avocet.captioning.instructions import InstructionChoice
from avocet.errors import AvocetError, ConfigError
from avocet.models.interface import CaptionModel, Prefix, Prompt
from avocet.records import SAMPLE_RATE, Clip, Record, Sampling

Stream = Literal["none", "sound", "picture"]

Aspect = Literal["nothing", "content", "time", "presence"]
"""What a change takes away: nothing, what is seen or heard, only its place in time, or the stream with its tokens."""

MIN_BITS = 1e-6
"""Least divergence that counts as a change.

If no log-probability moves by more than d, the divergence is at most about d^2 / (8 ln 2) bits: this is d = 0.0024.
Rounding in float32 moves log-probabilities of nano by 1e-5, 1e-12 bits.
"""

NOISE_FACTOR = 10.0
"""How many times the noise of a repetition a change must exceed (half precision on GPUs does not repeat exactly)."""

NOISE = "repeat"
_SHUFFLE_SEED = 20_261_121


@dataclasses.dataclass(frozen=True, kw_only=True)
class Intervention:
    """One change of a clip."""

    name: str
    stream: Stream
    aspect: Aspect
    change: Callable[[Clip], Clip]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect(Record):
    """What one change did to the model's distributions over the tokens of its answer."""

    intervention: str
    stream: Stream
    aspect: Aspect
    skipped: str | None = None
    """Why it was not measured; then the numbers below are None."""
    mean_bits: float | None = None
    max_bits: float | None = None
    changed_choices: float | None = None
    """Share of the tokens whose most likely token is another one now."""
    mean_logp_change: float | None = None
    """Of the answer's own tokens, in nats."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeReport(Record):
    """The effects of all changes, and what follows."""

    model: str
    revision: str
    layout_rule: str
    clip_id: str
    other_id: str | None
    """The clip whose sound was swapped in."""
    instruction: str
    shift_seconds: float
    answer: str
    num_tokens: int
    threshold_bits: float
    effects: tuple[Effect, ...]
    has_sound: bool
    has_picture: bool
    sound_used: bool | None
    """Whether what is heard moves the answer; None where no change of it could be measured."""
    picture_used: bool | None
    sound_time_used: bool | None
    """Whether it matters when a sound is heard."""
    picture_order_used: bool | None
    """Whether it matters in which order frames are shown."""
    warnings: tuple[str, ...] = ()

    @property
    def unused(self) -> tuple[Literal["sound", "picture"], ...]:
        """Streams that the clip has and whose content changes nothing."""
        return tuple(stream for stream, _, used in self._streams() if used is False)

    @property
    def untested(self) -> tuple[Literal["sound", "picture"], ...]:
        """Streams that the clip has and of which no change of content could be measured."""
        return tuple(stream for stream, present, used in self._streams() if present and used is None)

    def largest_bits(self, stream: Stream, *aspects: Aspect) -> float | None:
        """The largest divergence that a change of these aspects of a stream made; None if none was measured."""
        return _largest(self.effects, stream, aspects)

    def _streams(self) -> tuple[tuple[Literal["sound", "picture"], bool, bool | None], ...]:
        return ("sound", self.has_sound, self.sound_used), ("picture", self.has_picture, self.picture_used)


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

    Every change is reported: one that the clip leaves no room for, that would leave it as it is, or that the model
    refuses carries the reason instead of numbers.

    Args:
        other: whose sound to swap in; None shuffles the seconds of the clip's own sound.
        instruction: None for the model's own.
        completion: token ids to ask about; None takes the model's greedy answer, at most `max_tokens` of it.
        shift_seconds: how far `shift_sound` moves the sound; it goes around.

    Raises:
        ConfigError: nothing to ask about, or impossible arguments.
        AvocetError: whatever the model raises for the unchanged clip, and distributions that are not numbers.
    """
    if max_tokens < 1 or not 0 < shift_seconds < math.inf:
        raise ConfigError(f"max_tokens must be >= 1 and shift_seconds > 0, got {max_tokens} and {shift_seconds}")
    if other is not None and not _has_sound(other):
        raise ConfigError(f"clip {other.id!r} has no sound to swap in; name another, or none")
    model = captioner.model
    text = captioner.rule(instruction)(clip_name(clip.id, clip.source.path)).text
    prompt = model.prepare(clip, text)
    prefix = model.encode([prompt])
    if completion is None:
        completion = _greedy_answer(model, prefix, max_tokens)
    if not completion:
        raise ConfigError(f"clip {clip.id!r}: the model answers nothing, so there is nothing to compare")
    baseline = _check_numbers(model.next_token_log_probs(prefix, completion))
    steps = interventions(other, shift_seconds)
    effects = tuple(_effect(model, clip, text, step, completion, baseline) for step in steps)
    noise = next(effect for effect in effects if effect.intervention == NOISE)
    if noise.max_bits is None:
        raise AvocetError(f"clip {clip.id!r}: the model answered once and not again: {noise.skipped}")
    threshold = max(NOISE_FACTOR * noise.max_bits, MIN_BITS)
    return ProbeReport(
        model=captioner.model_id,
        revision=captioner.revision,
        layout_rule=model.layout_rule,
        clip_id=clip.id,
        other_id=None if other is None else other.id,
        instruction=text,
        shift_seconds=shift_seconds,
        answer=model.tokenizer.decode(list(completion), skip_special_tokens=True),
        num_tokens=len(completion),
        threshold_bits=threshold,
        effects=effects,
        has_sound=_has_sound(clip),
        has_picture=clip.num_frames > 0,
        # Taking a stream away also takes its tokens away, which moves even a model that reads nothing from them.
        sound_used=_moved(effects, "sound", threshold, "content", "time"),
        picture_used=_moved(effects, "picture", threshold, "content", "time"),
        sound_time_used=_moved(effects, "sound", threshold, "time"),
        picture_order_used=_moved(effects, "picture", threshold, "time"),
        warnings=_warnings(captioner, clip, prompt),
    )


def interventions(other: Clip | None, shift_seconds: float) -> tuple[Intervention, ...]:
    """All changes, in the order of the report."""
    if other is None:
        swap = Intervention(
            name="shuffle_sound", stream="sound", aspect="time", change=lambda clip: swap_sound(clip, None)
        )
    else:
        swap = Intervention(
            name="swap_sound", stream="sound", aspect="content", change=lambda clip: swap_sound(clip, other)
        )
    return (
        Intervention(name=NOISE, stream="none", aspect="nothing", change=lambda clip: clip),
        Intervention(name="mute", stream="sound", aspect="content", change=mute),
        Intervention(name="no_sound", stream="sound", aspect="presence", change=drop_sound),
        swap,
        Intervention(
            name="shift_sound", stream="sound", aspect="time", change=lambda clip: shift_sound(clip, shift_seconds)
        ),
        Intervention(name="black", stream="picture", aspect="content", change=black),
        Intervention(name="no_picture", stream="picture", aspect="presence", change=drop_picture),
        Intervention(name="freeze", stream="picture", aspect="content", change=freeze),
        Intervention(name="reverse_picture", stream="picture", aspect="time", change=reverse_picture),
    )


def divergence_bits(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence of log-probabilities (T, V) and (T, V), in bits: (T,), from 0 to 1."""
    p, q = first.double(), second.double()
    middle = torch.logaddexp(p, q) - math.log(2)

    def against(logs: torch.Tensor) -> torch.Tensor:
        # Where a probability is 0 its term is 0, not 0 times infinity.
        return torch.where(logs.isneginf(), 0.0, logs.exp() * (logs - middle)).sum(-1)

    bits: torch.Tensor = (against(p) + against(q)) / (2 * math.log(2))
    return bits.clamp(0.0, 1.0)


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


def _greedy_answer(model: CaptionModel, prefix: Prefix, max_tokens: int) -> tuple[int, ...]:
    sampling = Sampling(max_new_tokens=max_tokens, repetition_guard="off")
    return model.generate(prefix, 1, sampling)[0][0].token_ids


def _has_sound(clip: Clip) -> bool:
    return clip.waveform is not None and len(clip.waveform) > 0


def _effect(
    model: CaptionModel,
    clip: Clip,
    instruction: str,
    step: Intervention,
    completion: Sequence[int],
    baseline: torch.Tensor,
) -> Effect:
    effect = Effect(intervention=step.name, stream=step.stream, aspect=step.aspect)
    if (reason := _no_room(clip, step)) is not None:
        return dataclasses.replace(effect, skipped=reason)
    changed = step.change(clip)
    if step.name != NOISE and _same_content(clip, changed):
        return dataclasses.replace(effect, skipped="it leaves this clip as it is")
    try:
        prefix = model.encode([model.prepare(changed, instruction)])
        logs = _check_numbers(model.next_token_log_probs(prefix, completion))
    except AvocetError as error:
        return dataclasses.replace(effect, skipped=" ".join(str(error).split()))
    bits = divergence_bits(baseline, logs)
    ids = torch.tensor(list(completion), device=logs.device)[:, None]
    change = logs.gather(-1, ids) - baseline.gather(-1, ids)
    return dataclasses.replace(
        effect,
        mean_bits=float(bits.mean()),
        max_bits=float(bits.max()),
        changed_choices=float((logs.argmax(-1) != baseline.argmax(-1)).double().mean()),
        mean_logp_change=float(change.double().mean()),
    )


def _no_room(clip: Clip, step: Intervention) -> str | None:
    """Why a change cannot be made to this clip."""
    if step.stream == "sound" and not _has_sound(clip):
        return f"the clip has no sound (audio is {clip.audio_status})"
    if step.stream == "picture" and not clip.num_frames:
        return "the clip has no picture"
    if step.aspect == "presence" and not (_has_sound(clip) and clip.num_frames):
        return "nothing of the clip would be left"
    return None


def _same_content(clip: Clip, changed: Clip) -> bool:
    if not np.array_equal(clip.frames, changed.frames):
        return False
    if clip.waveform is None or changed.waveform is None:
        return clip.waveform is changed.waveform
    return np.array_equal(clip.waveform, changed.waveform)


def _check_numbers(logs: torch.Tensor) -> torch.Tensor:
    # NaN is not larger than any threshold, so it would pass for a stream that changes nothing.
    if bool(logs.isnan().any()):
        raise AvocetError("the model's probabilities are not numbers (NaN); try --dtype float32")
    return logs


def _largest(effects: Sequence[Effect], stream: Stream, aspects: Sequence[Aspect]) -> float | None:
    found = [effect.max_bits for effect in effects if effect.stream == stream and effect.aspect in aspects]
    return max((bits for bits in found if bits is not None), default=None)


def _moved(effects: Sequence[Effect], stream: Stream, threshold: float, *aspects: Aspect) -> bool | None:
    """Whether any change of these aspects moved the model; None when none was measured."""
    largest = _largest(effects, stream, aspects)
    return None if largest is None else largest > threshold


def _warnings(captioner: Captioner, clip: Clip, prompt: Prompt) -> tuple[str, ...]:
    world = captioner.world_warning(clip)
    return tuple(dict.fromkeys([*clip.warnings, *prompt.warnings, *([] if world is None else [world])]))
