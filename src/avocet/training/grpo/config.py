"""What a GRPO run is: one frozen value that says everything about it but who judges and who samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, get_args

from avocet.errors import ConfigError
from avocet.records import Sampling
from avocet.training.data.mixture import DataSource
from avocet.training.finetune.config import (
    BatchSettings,
    FineTune,
    FineTuneOptimizer,
    LoraSettings,
    Precision,
    ReadSettings,
    Tracker,
)

LossVariant = Literal["grpo", "dr_grpo", "dapo"]
Overlap = Literal["within", "next"]
OnMismatch = Literal["warn", "stop"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """The objective: clipped surrogate minus KL to the reference (AVoCaDO, section 3.2.1)."""

    variant: LossVariant = "grpo"
    """How tokens are averaged. grpo: within each completion, then over completions. dapo: over all tokens of the step.
    dr_grpo: sums over `max_new_tokens`, then over completions; its advantages are not divided by the deviation."""
    clip_low: float = 0.2
    clip_high: float | None = None
    """Upper side of the clipping range; None: as `clip_low`. DAPO takes 0.28."""
    kl_weight: float = 0.04
    """Beta of the paper; 0 needs no reference."""

    def __post_init__(self) -> None:
        if self.variant not in get_args(LossVariant):
            raise ConfigError(f"PolicySettings: variant {self.variant!r} is none of {', '.join(get_args(LossVariant))}")
        low, high = self.clip
        if not 0 < low < 1 or not 0 < high < math.inf or not 0 <= self.kl_weight < math.inf:
            raise ConfigError(
                "PolicySettings: clip_low must lie in (0, 1), clip_high be a number > 0 and kl_weight a number >= 0, "
                f"got {self.clip_low}, {self.clip_high} and {self.kl_weight}"
            )

    @property
    def clip(self) -> tuple[float, float]:
        """How far the ratio may fall below 1 and rise above it."""
        return self.clip_low, self.clip_low if self.clip_high is None else self.clip_high

    @property
    def divides_by_deviation(self) -> bool:
        return self.variant != "dr_grpo"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grpo:
    """Group-relative policy optimisation of a captioner on rewards of its own captions."""

    name: str
    model: str
    """A registered name, a folder, or NAME@FOLDER; it is also the reference."""
    sources: tuple[DataSource, ...]
    """Clips with what the rewards look at (checklist, dialogue, events); reference captions are not trained on."""
    trainable: tuple[str, ...]
    optimizer: FineTuneOptimizer
    batch: BatchSettings
    """`max_examples` prompts per step, `micro_examples` of them (with all their completions) in one pass."""
    rewards: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"checklist": 1.0, "dialogue": 1.0, "length": 1.0}
    )
    """Name -> weight, see docs/rewards.md."""
    length_soft: int = 2048
    length_hard: int = 4096
    """Tokens, of the reward "length"."""
    lora: LoraSettings | None = None
    policy: PolicySettings = dataclasses.field(default_factory=PolicySettings)
    group_size: int = 8
    sampling: Sampling = dataclasses.field(
        default_factory=lambda: Sampling(temperature=1.0, max_new_tokens=4096, repetition_guard="off")
    )
    """The guard against loops would end them early, which the length reward would take for brevity."""
    updates_per_batch: int = 1
    overlap: Overlap = "within"
    """What the judge works beside. within: the rollouts of the same step. next: also those of the next one, which the
    policy then samples one update early; ratios are taken to the policy that sampled."""
    drop_cut_off: bool = False
    """Leave completions that ran into `max_new_tokens` out of the loss (their rewards still count in the group)."""
    mismatch_limit: float = 0.1
    """Mean absolute difference of log-probabilities per token between sampling and training that raises an alarm."""
    log_ratio_limit: float = 5.0
    """Largest absolute difference of a token's log-probability from that under the policy that sampled; more raises an
    alarm. Not 0 only with several updates per batch or `overlap="next"`."""
    on_mismatch: OnMismatch = "warn"
    """What both alarms do."""
    max_idle_steps: int = 5
    """Stop after so many steps in a row without a group to learn from; 0: never."""
    epochs: float | None = None
    max_steps: int | None = None
    precision: Precision = "bfloat16"
    gradient_checkpointing: bool = True
    read: ReadSettings = dataclasses.field(default_factory=ReadSettings)
    loss_chunk: int = 1024
    log_every: int = 1
    save_every: int = 50
    keep: int = 2
    trackers: tuple[Tracker, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        self.stage()  # its own checks
        self._check_whole_numbers()
        if not 0 <= self.length_soft < self.length_hard:
            raise ConfigError(
                f"Grpo {self.name!r}: 0 <= length_soft < length_hard must hold, got {self.length_soft} and "
                f"{self.length_hard}"
            )
        if self.sampling.temperature <= 0:
            raise ConfigError(f"Grpo {self.name!r}: a group of greedy captions is one caption; set a temperature")
        if not self.mismatch_limit > 0 or not self.log_ratio_limit > 0 or not self.rewards:
            raise ConfigError(
                f"Grpo {self.name!r}: mismatch_limit and log_ratio_limit must be > 0, and rewards name at least one "
                f"reward; got {self.mismatch_limit}, {self.log_ratio_limit} and {dict(self.rewards)}"
            )
        for value, choices in ((self.overlap, Overlap), (self.on_mismatch, OnMismatch)):
            if value not in get_args(choices):
                raise ConfigError(f"Grpo {self.name!r}: {value!r} is none of {', '.join(get_args(choices))}")

    def _check_whole_numbers(self) -> None:
        for name, value, least in (
            ("group_size", self.group_size, 2),
            ("updates_per_batch", self.updates_per_batch, 1),
            ("max_idle_steps", self.max_idle_steps, 0),
            ("batch.max_examples", self.batch.max_examples, 1),
            ("batch.micro_examples", self.batch.micro_examples, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"Grpo {self.name!r}: {name} must be a whole number >= {least}, got {value!r}")

    @property
    def notices(self) -> tuple[str, ...]:
        """What is allowed and yet unlikely to be meant, one line each."""
        if "length" in self.rewards and self.length_hard > self.sampling.max_new_tokens:
            return (
                f"{self.name}: no caption can reach length_hard, {self.length_hard} tokens, since max_new_tokens is "
                f"{self.sampling.max_new_tokens}: one that never ends keeps part of the length reward",
            )
        return ()

    @property
    def needs_old(self) -> bool:
        """Whether a pass may be of another policy than the one that sampled."""
        return self.updates_per_batch > 1 or self.overlap == "next"

    def stage(self) -> FineTune:
        """The same as a stage of the fine-tuning engine, which exports it too."""
        return FineTune(
            name=self.name,
            stage="grpo",
            model=self.model,
            sources=self.sources,
            trainable=self.trainable,
            lora=self.lora,
            optimizer=self.optimizer,
            batch=self.batch,
            read=self.read,
            epochs=self.epochs,
            max_steps=self.max_steps,
            precision=self.precision,
            gradient_checkpointing=self.gradient_checkpointing,
            loss_chunk=self.loss_chunk,
            log_every=self.log_every,
            save_every=self.save_every,
            keep=self.keep,
            trackers=self.trackers,
            seed=self.seed,
        )
