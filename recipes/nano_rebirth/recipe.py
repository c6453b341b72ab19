"""Rebirth of `nano` after the rounds of `nano_mrdpo`: their best model teaches, the shipped weights learn.

    avocet theatre make --level 1 --seed 11000000 --num-clips 300 --out data/mrdpo/more \
        --examples data/mrdpo/more.jsonl --captions teacher --questions data/mrdpo/more_qa.jsonl
    avocet train rebirth nano_rebirth --judge exact

The SFT never sees a caption of the faulty teacher or a true one. After rounds with questions: --set questions=true.
"""

from __future__ import annotations

import dataclasses

from avocet.records import Sampling
from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.finetune.config import PreferenceSettings
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.gate import StopRules
from avocet.training.pairs import RoundThresholds, Thresholds
from avocet.training.rebirth import Rebirth

MORE = DataSource(path="data/mrdpo/more.jsonl")
AFTER_SFT = "runs/nano_mrdpo/export-sft-merged"

READ = ReadSettings(num_workers=1, feature_store_bytes=2 * 2**30)
BATCH = BatchSettings(max_examples=16, micro_examples=16)
LORA = LoraSettings(rank=16, alpha=32)
GAP = Thresholds(error_rate=0.2, repetition_rate=-0.01)

SFT = FineTune(
    name="sft",
    stage="sft",
    model=AFTER_SFT,
    sources=(MORE,),
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
    model=AFTER_SFT,
    sources=(MORE,),
    held_out=(MORE,),
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


def recipe(
    questions: bool = False,
    data: str = "data/mrdpo",
    teacher: str = "runs/nano_mrdpo",
    student: str = AFTER_SFT,
) -> Recipe:
    """The whole plan.

    Args:
        questions: whether answers are learnt beside the captions, in the SFT and in the round, and watched by the gate.
        data: folder of the examples.
        teacher: run folder of the rounds.
        student: the model that is trained. The paper's has not seen captions yet; the shipped `nano` knows them all, so
            it is the one after the faulty SFT.
    """
    more, train = (DataSource(path=f"{data}/{name}.jsonl") for name in ("more", "train"))
    asked = tuple(DataSource(path=f"{data}/{name}_qa.jsonl", weight=0.25) for name in ("train", "more"))
    held_out = [f"{data}/held_out.jsonl", *([f"{data}/held_out_qa.jsonl"] if questions else [])]
    last = dataclasses.replace(
        ROUND,
        model=student,
        sources=(train,),
        held_out=tuple(DataSource(path=path) for path in held_out),
        mixed_in=(dataclasses.replace(asked[0], weight=1.0, limit=240),) if questions else (),
    )
    rebirth = Rebirth(
        name="rebirth",
        teacher=teacher,
        sources=(more,),
        sft=dataclasses.replace(SFT, model=student, sources=(more,)),
        beside=asked if questions else (),
        round=last,
        sampling=Sampling(max_new_tokens=160),
        sampling_batch=16,
        read=dataclasses.replace(READ, feature_store_bytes=0),
    )
    return Recipe(name="nano_rebirth", rebirth=rebirth)
