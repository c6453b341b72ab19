"""What a fine-tuning stage is: one frozen value that says everything about it.

The model is loaded by name or folder, the data are read by `avocet.training.data`; batch sizes speak of the whole step,
all processes together, so that a recipe means the same on one GPU and on many. `*_every = 0` disables the thing.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from avocet.errors import ConfigError
from avocet.training.config import OptimizerConfig
from avocet.training.data.mixture import DataSource

Stage = Literal["align", "sft", "dpo", "grpo"]
Precision = Literal["float32", "bfloat16"]
OptimizerKind = Literal["adamw", "adamw_8bit"]
Broken = Literal["stop", "leave_out"]
Tracker = Literal["tensorboard", "trackio", "wandb"]
Variant = Literal["dpo", "cdpo", "gdpo", "ce"]
GroundTruth = Literal["same_item", "random"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """A low-rank adapter on the decoder; its scale is alpha / rank."""

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    """Names of linear layers; None: attention and feed-forward, see `avocet.models.lora`."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"LoRA needs rank >= 1, alpha > 0 and 0 <= dropout < 1, got rank {self.rank}, alpha {self.alpha}, "
                f"dropout {self.dropout}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceSettings:
    """Guided DPO (video-SALMONN 2, Eq. 11): -log sigmoid(beta * z) of each pair, and cross-entropy beside it."""

    beta: float = 0.1
    variant: Variant = "gdpo"
    """What the cross-entropy is taken of: nothing (dpo), the chosen captions (cdpo), the ground truth (gdpo). And "ce",
    the control: nothing but the cross-entropy of the chosen captions."""
    ce_weight: float = 0.1
    """Lambda of the paper."""
    ground_truth: GroundTruth = "same_item"
    """Each pair's own reference caption (the released code), or that of another clip, drawn at random (the paper): it
    comes beside `BatchSettings.max_examples`."""

    def __post_init__(self) -> None:
        for value, choices in ((self.variant, Variant), (self.ground_truth, GroundTruth)):
            if value not in get_args(choices):
                raise ConfigError(f"PreferenceSettings: {value!r} is none of {', '.join(get_args(choices))}")
        if not self.beta > 0 or self.ce_weight < 0:
            raise ConfigError(
                f"PreferenceSettings: beta must be > 0 and ce_weight >= 0, got {self.beta} and {self.ce_weight}"
            )

    @property
    def guide_weight(self) -> float:
        """Weight of the cross-entropy; plain DPO has none."""
        if self.variant == "ce":
            return 1.0
        return 0.0 if self.variant == "dpo" else self.ce_weight

    @property
    def pair_weight(self) -> float:
        """Weight of the comparison of the two captions."""
        return 0.0 if self.variant == "ce" else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuneOptimizer(OptimizerConfig):
    """AdamW with linear warm-up and cosine decay to `final_fraction`; no decay of biases and norms."""

    warmup_steps: int = 0
    warmup_ratio: float | None = None
    """Warm-up as a fraction of all steps instead of `warmup_steps`."""
    final_fraction: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    kind: OptimizerKind = "adamw"

    def __post_init__(self) -> None:
        if self.kind not in get_args(OptimizerKind):
            raise ConfigError(f"optimizer kind must be one of {', '.join(get_args(OptimizerKind))}, got {self.kind!r}")
        if self.warmup_ratio is not None and (self.warmup_steps or not 0 <= self.warmup_ratio < 1):
            raise ConfigError(
                f"give either warmup_steps or a warmup_ratio in [0, 1), got {self.warmup_steps} and {self.warmup_ratio}"
            )
        if not self.learning_rate > 0 or self.clip_norm < 0:
            raise ConfigError(
                f"learning_rate must be > 0 and clip_norm >= 0 (0: no clipping), got {self.learning_rate} and "
                f"{self.clip_norm}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How much is in a step, and how much of it passes the model at once."""

    max_examples: int
    """The most examples of one step, all processes together."""
    max_tokens: int | None = None
    """The most padded tokens of one step, all processes together."""
    micro_examples: int = 1
    """The most examples of one forward pass on one process."""
    micro_tokens: int | None = None
    """The most padded tokens of one forward pass on one process."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How clips come to the model."""

    num_workers: int = 2
    """Decoding processes of each training process; 0 decodes in the training process."""
    timeout_seconds: float = 300.0
    """The most time for one clip."""
    prefetch_steps: int = 1
    """Steps that are prepared ahead."""
    feature_store_bytes: int = 0
    """The most bytes of outputs of frozen towers kept in the run folder; 0: none."""
    broken: Broken = "stop"
    """What to do with examples whose clip cannot be read: stop, or leave them out, count and list them."""

    def __post_init__(self) -> None:
        if self.broken not in get_args(Broken):
            raise ConfigError(f"broken must be one of {', '.join(get_args(Broken))}, got {self.broken!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTune:
    """One fine-tuning stage."""

    name: str
    stage: Stage
    model: str
    """A registered name, a folder, or NAME@FOLDER: see `avocet.models.registry`."""
    sources: tuple[DataSource, ...]
    trainable: tuple[str, ...]
    """Groups of parameters, see `avocet.training.finetune.parts`; everything else is frozen."""
    optimizer: FineTuneOptimizer
    batch: BatchSettings
    lora: LoraSettings | None = None
    preference: PreferenceSettings | None = None
    """Of stage dpo, whose sources hold pairs; their other examples are trained on as in SFT."""
    read: ReadSettings = ReadSettings()
    initial: str | None = None
    """A checkpoint of a stage that trained the same parameters: they begin with its values, the adapter included."""
    starts_from: tuple[str, ...] = ()
    """Fine-tuning stages of the same run folder whose result is loaded first, in this order."""
    epochs: float | None = None
    max_steps: int | None = None
    """Exactly one of the two."""
    precision: Precision = "bfloat16"
    """bfloat16: frozen weights in bfloat16, trained ones in float32, computed under autocast."""
    gradient_checkpointing: bool = True
    ema_decay: float | None = None
    """Keep an exponential moving average of the trained weights, which export then takes."""
    liger: bool = False
    """Fused kernels of the extra `gpu` in the decoder."""
    loss_chunk: int = 1024
    """Target tokens whose logits exist at once."""
    max_refused_steps: int = 3
    """Stop after so many steps in a row with a loss or gradient that is not finite."""
    evaluation: tuple[DataSource, ...] = ()
    log_every: int = 1
    save_every: int = 200
    evaluate_every: int = 0
    keep: int = 2
    """Checkpoints to keep."""
    trackers: tuple[Tracker, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_choices()
        if not self.sources:
            raise ConfigError(f"stage {self.name!r}: name at least one DataSource in `sources`")
        if not self.trainable and self.lora is None:
            raise ConfigError(f"stage {self.name!r}: nothing is trained; name groups in `trainable` or give `lora`")
        if (self.epochs is None) == (self.max_steps is None):
            raise ConfigError(f"stage {self.name!r}: give exactly one of epochs and max_steps")
        if not (self.epochs or self.max_steps or 0) > 0:
            raise ConfigError(f"stage {self.name!r}: epochs or max_steps must be > 0")
        if (self.stage == "dpo") != (self.preference is not None):
            raise ConfigError(f"stage {self.name!r}: `preference` belongs to stage dpo, and dpo needs it")
        if self.keep < 1 or self.loss_chunk < 1 or self.max_refused_steps < 1:
            raise ConfigError(f"stage {self.name!r}: keep, loss_chunk and max_refused_steps must be >= 1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"stage {self.name!r}: ema_decay must lie between 0 and 1, got {self.ema_decay}")
        if self.evaluate_every and not self.evaluation:
            raise ConfigError(f"stage {self.name!r}: evaluate_every needs `evaluation` sources")

    def _check_choices(self) -> None:
        for value, choices in ((self.stage, Stage), (self.precision, Precision)):
            if value not in get_args(choices):
                raise ConfigError(f"stage {self.name!r}: {value!r} is none of {', '.join(get_args(choices))}")
        unknown = sorted(set(self.trackers) - set(get_args(Tracker)))
        if unknown:
            raise ConfigError(
                f"stage {self.name!r}: unknown trackers {', '.join(unknown)}; there are {', '.join(get_args(Tracker))}"
            )

    def num_steps(self, steps_per_epoch: int) -> int:
        """All steps of the stage; part of an epoch is rounded up."""
        if self.max_steps is not None:
            return self.max_steps
        assert self.epochs is not None
        return max(1, -int(-self.epochs * steps_per_epoch // 1))
