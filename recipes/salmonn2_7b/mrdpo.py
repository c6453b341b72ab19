"""video-SALMONN 2 7B: multi-round guided DPO and rebirth tuning.

--set variant=NAME chooses between what is published. All have 6 rounds, beta 0.1, lambda 0.1 and the thresholds of
table 3, which are the paper's; the releases train one round on pairs that are given.

| variant | LoRA | learning rate | of each round | ground truth | trained beside |
|---|---|---|---|---|---|
| `released_v1` (the default) | 128, dropout 0.05 | 2e-5 | 3 epochs of 8 pairs | same clip | what v1's code trains |
| `released_plus` | 128 | 5e-6 | 1 epoch of 8 pairs | same clip | aligners, without the query tokens |
| `paper` | 256 | 5e-6, as plus has it: the paper names none | 1,000 steps of 64 pairs | other clips | audio aligner |

`released_v1` is `train_dpo.sh`, `released_plus` the DPO command of 2+; eight pairs are one on each of 8 GPUs.
LoRA has scale 2.0 in all.

    avocet train mrdpo recipes/salmonn2_7b/mrdpo.py --judge gpt-4.1 --dry-run
    avocet train mrdpo recipes/salmonn2_7b/mrdpo.py --judge gpt-4.1
    avocet train rebirth recipes/salmonn2_7b/mrdpo.py --judge gpt-4.1
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from avocet.records import Sampling
from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.finetune.config import PreferenceSettings
from avocet.training.finetune.parts import PAPER_SFT, PLUS_SFT, V1_SFT
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.gate import StopRules
from avocet.training.rebirth import Rebirth

RUN = "runs/salmonn2_7b_mrdpo"
CLIPS = (DataSource(path="data/salmonn2/dpo_clips.jsonl"),)
HELD_OUT = (DataSource(path="data/salmonn2/held_out.jsonl"), DataSource(path="data/salmonn2/held_out_qa.jsonl"))
QA = (DataSource(path="data/salmonn2/qa.jsonl", task="qa"),)
READ = ReadSettings(num_workers=4, feature_store_bytes=500 * 2**30)

RELEASED_V1 = MrDpo(
    name="mrdpo",
    model="runs/salmonn2_7b/export-sft-merged",
    sources=CLIPS,
    held_out=HELD_OUT,
    trainable=V1_SFT,
    lora=LoraSettings(rank=128, alpha=256, dropout=0.05, targets=("q_proj", "k_proj", "v_proj")),
    optimizer=FineTuneOptimizer(learning_rate=2e-5, warmup_ratio=0.03, clip_norm=1.0),
    batch=BatchSettings(max_examples=8),
    rounds=6,
    samples_per_clip=2,
    sampling=Sampling(temperature=1.0, top_p=0.9, max_new_tokens=2048),
    preference=PreferenceSettings(variant="gdpo", beta=0.1, ce_weight=0.1, ground_truth="same_item"),
    epochs=3,
    stop=StopRules(max_unnatural=0.05, max_qa_drop=0.03),
    read=READ,
    seed=2024,
)

RELEASED_PLUS = dataclasses.replace(
    RELEASED_V1,
    trainable=PLUS_SFT,
    lora=LoraSettings(rank=128, alpha=256, targets=("q_proj", "k_proj", "v_proj")),
    optimizer=dataclasses.replace(RELEASED_V1.optimizer, learning_rate=5e-6),
    epochs=1,
    seed=2025,
)

PAPER = dataclasses.replace(
    RELEASED_PLUS,
    trainable=PAPER_SFT,
    lora=LoraSettings(rank=256, alpha=512),
    batch=BatchSettings(max_examples=64),
    preference=dataclasses.replace(RELEASED_PLUS.preference, ground_truth="random"),
    epochs=None,
    max_steps=1000,
    seed=2024,
)

VARIANTS = {"released_v1": RELEASED_V1, "released_plus": RELEASED_PLUS, "paper": PAPER}

REBIRTH_SFT = FineTune(
    name="sft",
    stage="sft",
    model="runs/salmonn2_7b/export-align-merged",
    sources=CLIPS,
    trainable=PAPER_SFT,
    lora=LoraSettings(rank=256, alpha=512),
    optimizer=FineTuneOptimizer(learning_rate=2e-5, warmup_ratio=0.03, clip_norm=1.0),
    batch=BatchSettings(max_examples=64),
    read=READ,
    epochs=4,
    seed=2024,
)
"""From the aligned model, 4 epochs on 64 GPUs."""


def recipe(variant: Literal["released_v1", "released_plus", "paper"] = "released_v1") -> Recipe:
    """The whole plan, with one of `VARIANTS`."""
    rounds = VARIANTS[variant]
    reborn = Rebirth(
        name="rebirth",
        teacher=RUN,
        sources=(DataSource(path="data/salmonn2/rebirth_clips.jsonl"),),
        sft=REBIRTH_SFT,
        beside=QA,
        round=dataclasses.replace(rounds, name="round", rounds=1, thresholds={1: rounds.thresholds_of(6)}),
        sampling=Sampling(max_new_tokens=2048),
        read=READ,
    )
    return Recipe(name="salmonn2_7b_mrdpo", mrdpo=rounds, rebirth=reborn)
