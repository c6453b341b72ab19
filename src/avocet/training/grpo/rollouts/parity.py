"""Are trainer and engine the same model on the same input? Asked before training starts, and refused if not.

The engine samples one completion of each of some clips, with a fixed seed and the training's sampling settings. The
trainer's model then says how likely it finds each of these tokens. Compared are the ids of the prompt, media
placeholders included, the rotary positions where the engine tells them, and the log-probabilities. That finds sound
that never arrives, other frames, other prompts, stale or wrongly merged weights, and log-probabilities that are those
of the sampler (after temperature and top-p) and not of the policy.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from avocet.errors import ConfigError
from avocet.media import open_clip
from avocet.models.interface import Prompt
from avocet.records import ClipRef, Record, Sampling
from avocet.training.data.formats_common import audio_policy
from avocet.training.grpo.rollouts.base import Inspection, RolloutEngine, rollout_seed

TOLERANCES = {torch.float32: 0.001, torch.bfloat16: 0.2, torch.float16: 0.05}
"""Largest difference of a token's log-probability by the precision of the decoder: two ways to the same numbers, with
other kernels and other orders of summation. A lost sound track or a stale adapter moves single tokens by 1 and more."""

_POSITION_TOLERANCE = 1e-3
_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipParity(Record):
    """What came out for one clip."""

    clip_id: str
    num_prompt_tokens: int
    prompt_ids_equal: bool | None = None
    """None: the engine does not tell its ids."""
    positions_equal: bool | None = None
    """None: the engine does not tell its positions."""
    num_tokens: int = 0
    """Tokens of the completion that was compared."""
    max_difference: float | None = None
    """Largest absolute difference of a token's log-probability; None: not measured."""
    mean_difference: float | None = None
    """Mean of trainer minus engine: not 0 when one of them is systematically surer."""
    problem: str = ""
    """"" where all is well."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityReport(Record):
    """The check of one engine."""

    engine: str
    tolerance: float
    clips: tuple[ClipParity, ...]
    rejections: dict[str, int] = dataclasses.field(default_factory=dict)
    """Reason -> completions that the engine rejected during the check."""

    @property
    def passed(self) -> bool:
        """Whether every clip agrees."""
        return bool(self.clips) and not any(clip.problem for clip in self.clips)

    def lines(self) -> list[str]:
        """What to print: one line per clip."""
        return [
            f"parity {clip.clip_id}: {clip.problem or 'equal'} ({clip.num_prompt_tokens} prompt tokens, "
            f"{clip.num_tokens} sampled, largest difference {_shown(clip.max_difference)})"
            for clip in self.clips
        ]

    def require(self) -> None:
        """Raise `ConfigError` unless it passed."""
        if self.passed:
            return
        wrong = [clip for clip in self.clips if clip.problem]
        said = "; ".join(f"{clip.clip_id}: {clip.problem}" for clip in wrong[:5])
        raise ConfigError(
            f"the rollout engine {self.engine} is not the trainer's model: {len(wrong)} of {len(self.clips)} clips "
            f"differ ({said}). Training on its samples would be off-policy from the first step; see docs/rollouts.md"
        )


def check_parity(
    engine: RolloutEngine,
    model: Any,
    clips: Sequence[ClipRef],
    tolerance: float | None = None,
    *,
    instruction: str | None = None,
    sampling: Sampling | None = None,
    max_tokens: int = 64,
) -> ParityReport:
    """Compare an engine with the trainer's model; the engine must be in step (`sync`) before.

    Args:
        engine: the one that will sample.
        model: the trainer's, its adapter on. Its modes stay as they are.
        clips: a few of the training's, best with and without sound.
        tolerance: largest difference of a log-probability; None takes that of the decoder's precision (`TOLERANCES`).
        instruction: None asks the model's own.
        sampling: the training's; None samples at temperature 1.
        max_tokens: tokens of each completion.

    Raises:
        ConfigError: no clips.
        MediaError: a clip cannot be read.
        RolloutError: the engine cannot be reached.
    """
    if not clips:
        raise ConfigError("the parity check needs at least one clip")
    asked = instruction or str(model.default_instruction)
    settings = dataclasses.replace(sampling or Sampling(temperature=1.0), repetition_guard="off")
    settings = dataclasses.replace(settings, max_new_tokens=min(max_tokens, settings.max_new_tokens))
    prompts = [_prompt(model, clip, asked) for clip in clips]
    seeds = [rollout_seed(_SEED, 0, clip.id) for clip in clips]
    before = Counter(engine.rejections)
    found = engine.inspect(prompts, clips, [asked] * len(clips), settings, seeds)
    limit = _tolerance(model) if tolerance is None else tolerance
    return ParityReport(
        engine=engine.name,
        tolerance=limit,
        clips=tuple(_compare(model, prompt, one, limit) for prompt, one in zip(prompts, found, strict=True)),
        rejections=dict(engine.rejections - before),
    )


def _prompt(model: Any, clip: ClipRef, instruction: str) -> Prompt:
    opened = open_clip(
        clip.path,
        fps=model.clip_fps,
        max_frames=model.max_frames,
        min_frames=model.min_frames,
        max_pixels=model.max_pixels,
        start_seconds=clip.start_seconds,
        end_seconds=clip.end_seconds,
        audio=audio_policy(clip),
        clip_id=clip.id,
    )
    prompt: Prompt = model.prepare(opened, instruction)
    return prompt


def _compare(model: Any, prompt: Prompt, found: Inspection, tolerance: float) -> ClipParity:
    row = ClipParity(clip_id=prompt.clip_id, num_prompt_tokens=len(prompt.token_ids))
    if found.prompt_token_ids is not None:
        row = dataclasses.replace(row, prompt_ids_equal=found.prompt_token_ids == prompt.token_ids)
    if found.positions is not None:
        row = dataclasses.replace(row, positions_equal=_same_positions(prompt, found.positions))
    rollout = found.rollout
    if rollout is not None:
        row = dataclasses.replace(row, num_tokens=len(rollout.token_ids))
    if rollout is not None and rollout.log_probs is not None:
        with model.evaluating():
            scores = model.score(model.encode([prompt]), [[rollout.token_ids]])[0][0]
        difference = scores.double().cpu() - torch.tensor(rollout.log_probs, dtype=torch.float64)
        row = dataclasses.replace(
            row, max_difference=float(difference.abs().max()), mean_difference=float(difference.mean())
        )
    return dataclasses.replace(row, problem=_problem(row, prompt, found, tolerance))


def _problem(row: ClipParity, prompt: Prompt, found: Inspection, tolerance: float) -> str:
    if row.prompt_ids_equal is False:
        return _other_prompt(prompt.token_ids, found.prompt_token_ids or ())
    if row.positions_equal is False:
        return "the rotary positions of the prompt differ"
    if found.rollout is None:
        return "its completion was rejected"
    if row.max_difference is None:
        return "the engine gives no log-probabilities, so nothing can be compared"
    # NaN is not above any tolerance.
    if not row.max_difference <= tolerance:
        return f"a log-probability differs by {row.max_difference:.3g}, {tolerance:g} is allowed"
    return ""


def _other_prompt(ours: Sequence[int], theirs: Sequence[int]) -> str:
    """In one line, where the prompts part."""
    place = next(
        (at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    return f"the prompts differ from token {place} on ({len(ours)} tokens here, {len(theirs)} in the engine)"


def _same_positions(prompt: Prompt, positions: np.ndarray) -> bool:
    count = len(prompt.token_ids)
    ours = np.tile(np.arange(count, dtype=np.float64), (3, 1)) if prompt.positions is None else prompt.positions
    return ours.shape == positions.shape and bool(np.abs(ours - positions).max() <= _POSITION_TOLERANCE)


def _tolerance(model: Any) -> float:
    kinds = {part.dtype for part in model.parameters()} & TOLERANCES.keys()
    return max((TOLERANCES[kind] for kind in kinds), default=TOLERANCES[torch.float32])


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2g}"
