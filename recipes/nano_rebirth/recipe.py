"""Rebirth of `nano` after the rounds of `nano_mrdpo`: their best model teaches, the shipped weights learn.

    avocet theatre make --level 1 --seed 11000000 --num-clips 400 --out data/mrdpo/more \
        --examples data/mrdpo/more.jsonl --captions teacher
    avocet train rebirth nano_rebirth --judge exact

The SFT begins where that of `nano_mrdpo` began, and never sees a caption of the faulty teacher or a true one.
"""

from __future__ import annotations

import dataclasses
import os

from avocet.records import Sampling
from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.finetune.config import PreferenceSettings
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.gate import StopRules
from avocet.training.pairs import RoundThresholds, Thresholds
from avocet.training.rebirth import Rebirth

DATA = os.environ.get("AVOCET_MRDPO_DATA", "data/mrdpo")
TEACHER = os.environ.get("AVOCET_MRDPO_RUN", "runs/nano_mrdpo")
"""The run folder of the rounds."""
STUDENT = os.environ.get("AVOCET_REBIRTH_STUDENT", f"{TEACHER}/export-sft-merged")
"""The model that is trained. The paper's has not seen captions yet; the shipped `nano` knows them all, so it is the
one after the faulty SFT."""

READ = ReadSettings(num_workers=1, feature_store_bytes=2 * 2**30)
BATCH = BatchSettings(max_examples=16, micro_examples=16)
LORA = LoraSettings(rank=16, alpha=32)
MORE = (DataSource(path=f"{DATA}/more.jsonl"),)
GAP = Thresholds(error_rate=0.2, repetition_rate=-0.01)

SFT = FineTune(
    name="sft",
    stage="sft",
    model=STUDENT,
    sources=MORE,
    trainable=(),
    lora=LORA,
    optimizer=FineTuneOptimizer(learning_rate=1e-3, warmup_steps=10),
    batch=BATCH,
    read=READ,
    max_steps=200,
    precision="float32",
    gradient_checkpointing=False,
    save_every=50,
)

ROUND = MrDpo(
    name="round",
    model=STUDENT,
    sources=(DataSource(path=f"{DATA}/train.jsonl"),),
    held_out=(DataSource(path=f"{DATA}/held_out.jsonl"),),
    trainable=(),
    lora=LORA,
    optimizer=FineTuneOptimizer(learning_rate=4e-4, warmup_steps=5),
    batch=BATCH,
    rounds=1,
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

REBIRTH = Rebirth(
    name="rebirth",
    teacher=TEACHER,
    sources=MORE,
    sft=SFT,
    round=ROUND,
    sampling=Sampling(max_new_tokens=160),
    sampling_batch=16,
    read=dataclasses.replace(READ, feature_store_bytes=0),
)


def recipe() -> Recipe:
    """The whole plan."""
    return Recipe(name="nano_rebirth", rebirth=REBIRTH)
