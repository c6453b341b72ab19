"""What a multi-round run is: one frozen value that says everything about all of its rounds."""

from __future__ import annotations

import dataclasses
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
    PreferenceSettings,
    ReadSettings,
)
from avocet.training.mrdpo.gate import StopRules
from avocet.training.pairs import ROUND_THRESHOLDS, RoundThresholds

AdapterPlan = Literal["proxy", "direct"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MrDpo:
    """Rounds of sampling, judging, pair selection and guided DPO (video-SALMONN 2, section 3.3)."""

    name: str
    model: str
    """What the first round starts from: a registered name, a folder, or NAME@FOLDER."""
    sources: tuple[DataSource, ...]
    """Clips with what the judge needs of them, and their reference captions as targets."""
    held_out: tuple[DataSource, ...]
    """Clips (and questions, task qa) that no round trains on: the gate looks at them."""
    trainable: tuple[str, ...]
    lora: LoraSettings
    optimizer: FineTuneOptimizer
    batch: BatchSettings
    rounds: int = 6
    samples_per_clip: int = 2
    sampling: Sampling = dataclasses.field(default_factory=lambda: Sampling(temperature=1.0, top_p=0.9))
    clips_per_round: int | None = None
    """Clips drawn for each round; None: all of them in each."""
    thresholds: Mapping[int, RoundThresholds] = dataclasses.field(default_factory=lambda: dict(ROUND_THRESHOLDS))
    """By round; later rounds take the last one's."""
    preference: PreferenceSettings = dataclasses.field(default_factory=PreferenceSettings)
    adapter: AdapterPlan = "proxy"
    """A fresh adapter for each round, merged at its end (proxy), or one that is trained on and on (direct)."""
    mixed_in: tuple[DataSource, ...] = ()
    """Examples, such as QA, that each round trains on as in SFT."""
    epochs: float | None = None
    max_steps: int | None = None
    """Of each round; exactly one of the two."""
    stop: StopRules = dataclasses.field(default_factory=StopRules)
    min_pairs: int = 8
    """A round with fewer pairs is not trained, and ends the run."""
    precision: Precision = "bfloat16"
    gradient_checkpointing: bool = True
    read: ReadSettings = dataclasses.field(default_factory=ReadSettings)
    sampling_batch: int = 8
    """Prompts that are sampled at once."""
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.samples_per_clip < 2 or self.min_pairs < 1 or self.sampling_batch < 1:
            raise ConfigError(
                f"MrDpo {self.name!r}: rounds, min_pairs and sampling_batch must be >= 1 and samples_per_clip >= 2, "
                f"got {self.rounds}, {self.min_pairs}, {self.sampling_batch}, {self.samples_per_clip}"
            )
        if self.adapter not in get_args(AdapterPlan):
            raise ConfigError(f"MrDpo {self.name!r}: adapter must be proxy or direct, got {self.adapter!r}")
        if not self.thresholds or 1 not in self.thresholds:
            raise ConfigError(f"MrDpo {self.name!r}: thresholds must begin with round 1")
        if self.clips_per_round is not None and self.clips_per_round < 1:
            raise ConfigError(f"MrDpo {self.name!r}: clips_per_round must be >= 1, got {self.clips_per_round}")

    def thresholds_of(self, number: int) -> RoundThresholds:
        """Of a round, the last known ones for rounds beyond the table."""
        return self.thresholds[max(known for known in self.thresholds if known <= number)]

    def stage_of(self, number: int, model: str, pairs: str, initial: str | None) -> FineTune:
        """The training of one round.

        Args:
            number: of the round, from 1.
            model: folder (or name) of the model that it starts from.
            pairs: file with the pairs.
            initial: checkpoint that a direct adapter goes on from.
        """
        return FineTune(
            name="dpo",
            stage="dpo",
            model=model,
            sources=(DataSource(path=pairs), *self.mixed_in),
            trainable=self.trainable,
            lora=self.lora,
            preference=self.preference,
            optimizer=self.optimizer,
            batch=self.batch,
            read=self.read,
            initial=initial,
            epochs=self.epochs,
            max_steps=self.max_steps,
            precision=self.precision,
            gradient_checkpointing=self.gradient_checkpointing,
            save_every=self.save_every,
            seed=self.seed * 1000 + number,
        )
