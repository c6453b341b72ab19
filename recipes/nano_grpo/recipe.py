"""GRPO with `nano` on the theatre, from an SFT on captions with the faults of a teacher.

    avocet theatre make --level 1 --seed 10000000 --num-clips 240 --out data/mrdpo/train \
        --examples data/mrdpo/train.jsonl --captions teacher
    avocet train sft nano_grpo --part sft && avocet train export nano_grpo --part sft
    avocet train grpo nano_grpo --judge exact
    avocet train export nano_grpo --part grpo
    avocet evaluate theatre --model runs/nano_grpo/export-grpo-merged --num-clips 200

Other rewards to compare: --set rewards=dialogue or --set rewards=checklist,dialogue,events,repetition. After mrDPO
instead of after SFT: --set model=runs/nano_mrdpo/round-3/model.
"""

from __future__ import annotations

import dataclasses

from avocet.records import Sampling
from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.grpo.config import Grpo

CLIPS = (DataSource(path="data/mrdpo/train.jsonl"),)
READ = ReadSettings(num_workers=1, feature_store_bytes=2 * 2**30)
LORA = LoraSettings(rank=16, alpha=32)

SFT = FineTune(
    name="sft",
    stage="sft",
    model="nano",
    sources=CLIPS,
    trainable=(),
    lora=LORA,
    optimizer=FineTuneOptimizer(learning_rate=1e-3, warmup_steps=10),
    batch=BatchSettings(max_examples=16, micro_examples=16),
    read=READ,
    max_steps=150,
    precision="float32",
    gradient_checkpointing=False,
    save_every=50,
)
"""Ten epochs of teacher captions, decoder only: the same as of `nano_mrdpo`."""

SFT_MORE = dataclasses.replace(SFT, name="sft_more", starts_from=("sft",), max_steps=90)
"""The control: more of the same captions, for as many steps as the reinforcement has."""

GRPO = Grpo(
    name="grpo",
    model="runs/nano_grpo/export-sft-merged",
    sources=CLIPS,
    trainable=(),
    lora=LORA,
    optimizer=FineTuneOptimizer(learning_rate=4e-4, warmup_steps=5),
    batch=BatchSettings(max_examples=16, micro_examples=16),
    rewards={"checklist": 1.0, "dialogue": 1.0, "length": 1.0},
    length_soft=64,
    length_hard=128,
    sampling=Sampling(temperature=1.0, max_new_tokens=128, repetition_guard="off"),
    max_steps=90,
    precision="float32",
    gradient_checkpointing=False,
    read=READ,
    save_every=30,
)
"""Six epochs of 240 clips, 8 captions each."""


def recipe(
    data: str = "data/mrdpo",
    model: str = "runs/nano_grpo/export-sft-merged",
    rewards: str = "checklist,dialogue,length",
) -> Recipe:
    """The whole plan.

    Args:
        data: folder of train.jsonl.
        model: what the reinforcement starts from.
        rewards: names, each with weight 1.
    """
    clips = (DataSource(path=f"{data}/train.jsonl"),)
    grpo = dataclasses.replace(GRPO, sources=clips, model=model, rewards=dict.fromkeys(rewards.split(","), 1.0))
    sft = tuple(dataclasses.replace(stage, sources=clips) for stage in (SFT, SFT_MORE))
    return Recipe(name="nano_grpo", sft=sft, grpo=grpo)
