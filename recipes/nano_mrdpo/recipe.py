"""Multi-round guided DPO with `nano` on the theatre, from an SFT on captions with the faults of a teacher.

    avocet theatre make --level 1 --seed 10000000 --num-clips 240 --out data/mrdpo/train \
        --examples data/mrdpo/train.jsonl --captions teacher
    avocet theatre make --level 1 --seed 10500000 --num-clips 80 --out data/mrdpo/held_out \
        --examples data/mrdpo/held_out.jsonl
    avocet train sft nano_mrdpo && avocet train export nano_mrdpo
    avocet train mrdpo nano_mrdpo --judge exact

The SFT makes nano forget to tell what it sees and hears; the rounds bring it back without ever seeing a true caption:
the exact judge only ranks what nano itself samples.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from avocet.errors import ConfigError
from avocet.records import Sampling
from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.finetune.config import PreferenceSettings
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.gate import StopRules
from avocet.training.pairs import RoundThresholds, Thresholds

DATA = os.environ.get("AVOCET_MRDPO_DATA", "data/mrdpo")
RUN = os.environ.get("AVOCET_MRDPO_RUN", "runs/nano_mrdpo")
"""The folder of the run: the rounds start from the SFT that was exported there."""

READ = ReadSettings(num_workers=1, feature_store_bytes=2 * 2**30)
BATCH = BatchSettings(max_examples=16, micro_examples=16)
LORA = LoraSettings(rank=16, alpha=32)

SFT = FineTune(
    name="sft",
    stage="sft",
    model="nano",
    sources=(DataSource(path=f"{DATA}/train.jsonl"),),
    trainable=(),
    lora=LORA,
    optimizer=FineTuneOptimizer(learning_rate=1e-3, warmup_steps=10),
    batch=BATCH,
    read=READ,
    max_steps=150,
    precision="float32",
    gradient_checkpointing=False,
    save_every=50,
)
"""Ten epochs of teacher captions, decoder only."""

GAP = Thresholds(error_rate=0.2, repetition_rate=-0.01)

MRDPO = MrDpo(
    name="nano_mrdpo",
    model=f"{RUN}/export-sft-merged",
    sources=(DataSource(path=f"{DATA}/train.jsonl"),),
    held_out=(DataSource(path=f"{DATA}/held_out.jsonl"),),
    trainable=(),
    lora=LORA,
    optimizer=FineTuneOptimizer(learning_rate=4e-4, warmup_steps=5),
    batch=BATCH,
    rounds=3,
    samples_per_clip=4,
    sampling=Sampling(temperature=1.0, max_new_tokens=160),
    thresholds={1: RoundThresholds(global_=GAP, local=GAP)},
    preference=PreferenceSettings(variant="dpo"),
    epochs=2,
    stop=StopRules(max_unnatural=0.05),
    precision="float32",
    gradient_checkpointing=False,
    read=READ,
    sampling_batch=16,
)
"""Without a ground truth: the captions at hand are the teacher's, which is what is to be left behind."""

VARIANTS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "gdpo": {"preference": PreferenceSettings(variant="gdpo")},
    "cdpo": {"preference": PreferenceSettings(variant="cdpo")},
    "ce": {"preference": PreferenceSettings(variant="ce")},
    "direct": {"adapter": "direct"},
    "fast": {"optimizer": FineTuneOptimizer(learning_rate=1e-3, warmup_steps=5)},
}
"""What to compare: the environment variable AVOCET_MRDPO_VARIANT names one."""

VARIANT = os.environ.get("AVOCET_MRDPO_VARIANT", "dpo")


def recipe() -> Recipe:
    """The whole plan."""
    if VARIANT not in VARIANTS:
        raise ConfigError(f"AVOCET_MRDPO_VARIANT is {VARIANT!r}; there are {', '.join(VARIANTS)}")
    return Recipe(name="nano_mrdpo", sft=(SFT,), mrdpo=dataclasses.replace(MRDPO, **VARIANTS[VARIANT]))
