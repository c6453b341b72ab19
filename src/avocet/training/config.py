"""What a recipe says: frozen configurations of the data and of every training stage.

A recipe is a Python file with a function `recipe()` that returns a `Recipe`; the command line picks one
and overrides nothing but the run folder. `*_every = 0` disables the thing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, get_args

from avocet.errors import ConfigError

if TYPE_CHECKING:
    from avocet.training.finetune.config import FineTune
    from avocet.training.grpo.config import Grpo
    from avocet.training.model import TrainableModel
    from avocet.training.mrdpo.config import MrDpo
    from avocet.training.rebirth import Rebirth

StoreKind = Literal["av", "sound", "picture"]
ExampleKind = Literal["caption", "caption_muted", "caption_no_track", "caption_black", "sound_caption", "asr", "text"]
Objective = Literal["ctc", "frame_labels", "tokens"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TheatreData:
    """Theatre clips to render into one memory-mapped store."""

    name: str
    kind: StoreKind
    """`av`: staged to mp4 and decoded again, frames and sound; `sound`, `picture`: only the one, without a
    codec, a tenth of the cost."""
    level: int
    first_seed: int
    num_clips: int
    clips_per_shard: int = 500
    with_speech_only: bool = False
    """Skip scripts in which nobody speaks (for a denser diet of words)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float
    warmup_steps: int = 150
    final_fraction: float = 0.03
    """The learning rate ends at this fraction of its peak."""
    decay_steps: int = 0
    """Step at which the decay ends; 0 for the stage's last step. A stage may stop before its decay does."""
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage: what is read, what is trained, on which loss and for how long."""

    name: str
    objective: Objective
    stores: tuple[str, ...]
    """Names of `TheatreData` entries; their clips are pooled."""
    mixture: Mapping[ExampleKind, float]
    """Weight of each kind of example; drawn per clip."""
    trainable: tuple[str, ...]
    """Top-level modules of the model that are trained; everything else is frozen."""
    optimizer: OptimizerConfig
    batch_size: int
    max_steps: int
    starts_from: tuple[str, ...] = ()
    """Stages whose final weights are loaded first, in this order (each gives only what it trained)."""
    ctc_weight: float = 0.0
    """Weight of the CTC loss on the audio encoder beside the token loss."""
    token_ctc_weight: float = 0.0
    """Weight of the CTC loss on the aligned audio tokens, what the decoder reads, beside the token loss."""
    frame_weight: float = 0.0
    """Weight of the per-patch label loss on the vision encoder beside the token loss."""
    spec_augment: bool = True
    autocast: bool = True
    """bfloat16 autocast."""
    seed: int = 0
    num_processes: int = 1
    """Processes that share each batch on this machine (see `parallel`)."""
    log_every: int = 20
    save_every: int = 500
    evaluate_every: int = 0
    evaluate_store: str | None = None
    evaluate_clips: int = 100

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise ConfigError(
                f"stage {self.name!r}: objective must be one of {get_args(Objective)}, got {self.objective!r}"
            )
        unknown = set(self.mixture) - set(get_args(ExampleKind))
        if unknown or not self.mixture or min(self.mixture.values()) <= 0:
            raise ConfigError(
                f"stage {self.name!r}: mixture must give positive weights to kinds among {get_args(ExampleKind)}, "
                f"got {dict(self.mixture)}"
            )
        if not self.trainable:
            raise ConfigError(f"stage {self.name!r}: name at least one module in `trainable`")
        if self.batch_size < 1 or self.max_steps < 1:
            raise ConfigError(f"stage {self.name!r}: batch_size and max_steps must be >= 1")
        if self.evaluate_every and self.evaluate_store is None:
            raise ConfigError(f"stage {self.name!r}: evaluate_every needs evaluate_store")


def _no_model() -> TrainableModel:
    raise ConfigError("this recipe makes no model of its own: its stages fine-tune one that they load by name")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training plan: model, data and stages in order."""

    name: str
    build_model: Callable[[], TrainableModel] = _no_model
    """Makes the untrained model (random weights, its tokenizer); only for stages on theatre clips."""
    data: tuple[TheatreData, ...] = ()
    towers: tuple[StageConfig, ...] = ()
    """Stage 0: what real models get as pretrained weights."""
    align: tuple[StageConfig | FineTune, ...] = ()
    sft: tuple[StageConfig | FineTune, ...] = ()
    dpo: tuple[FineTune, ...] = ()
    """Single stages on preference pairs that are there, such as released ones."""
    mrdpo: MrDpo | None = None
    """Rounds that make their own pairs; a command of its own (`avocet train mrdpo`)."""
    rebirth: Rebirth | None = None
    """A fresh start from what the rounds' best model tells; a command of its own (`avocet train rebirth`)."""
    grpo: Grpo | None = None
    """Reinforcement on rewards of its own captions; a command of its own (`avocet train grpo`)."""

    def __post_init__(self) -> None:
        known = {data.name for data in self.data}
        done: set[str] = set()
        for stage in self.stages():
            missing = {*stage.stores, *([stage.evaluate_store] if stage.evaluate_store else [])} - known
            if missing:
                raise ConfigError(
                    f"stage {stage.name!r} reads {sorted(missing)}; the recipe's data are {sorted(known)}"
                )
            late = set(stage.starts_from) - done
            if late:
                raise ConfigError(f"stage {stage.name!r} starts from {sorted(late)}, which do not come before it")
            done.add(stage.name)
        names = [stage.name for stage in (*self.towers, *self.align, *self.sft, *self.dpo)]
        if len(set(names)) < len(names):
            raise ConfigError(f"recipe {self.name!r} has several stages of one name: {sorted(names)}")

    @property
    def pretrains(self) -> bool:
        """Whether it makes clips or has stages on them, which processes of their own load by the recipe's path."""
        return bool(self.data or self.stages())

    def stages(self) -> tuple[StageConfig, ...]:
        """The stages on theatre clips, in order."""
        every = (*self.towers, *self.align, *self.sft)
        return tuple(stage for stage in every if isinstance(stage, StageConfig))

    def fine_tunes(self) -> tuple[FineTune, ...]:
        """The stages that fine-tune a loaded model, in order."""
        before = (one for one in (*self.align, *self.sft) if not isinstance(one, StageConfig))
        return (*before, *self.dpo, *([self.grpo.stage()] if self.grpo else []))
