"""Fine-tunes the shipped `nano` further: the whole path of `salmonn2_7b` on two CPU cores, in minutes.

The examples are any file that `avocet data check` reads (--set data=FILE); theatre clips make some:

    avocet theatre make --seed 10000000 --num-clips 16 --out data/nano --examples data/nano/train.jsonl
    avocet train align nano_finetune
    avocet train sft nano_finetune
    avocet train export nano_finetune
    avocet evaluate theatre --model runs/nano_finetune/export-sft-merged --num-clips 20

nano's vocabulary is the theatre's; it spells other words letter by letter.
"""

from __future__ import annotations

import dataclasses

from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.finetune.parts import PAPER_ALIGN, PAPER_SFT

SOURCES = (DataSource(path="data/nano/train.jsonl"),)
READ = ReadSettings(num_workers=1, feature_store_bytes=2 * 2**30)
"""Both towers are frozen: from the second epoch on nothing is decoded."""

ALIGN = FineTune(
    name="align",
    stage="align",
    model="nano",
    sources=SOURCES,
    trainable=PAPER_ALIGN,
    optimizer=FineTuneOptimizer(learning_rate=1e-4, warmup_ratio=0.1),
    batch=BatchSettings(max_examples=8, micro_examples=8),
    read=READ,
    max_steps=10,
    precision="float32",
    gradient_checkpointing=False,
)

SFT = FineTune(
    name="sft",
    stage="sft",
    model="nano",
    sources=SOURCES,
    trainable=PAPER_SFT,
    lora=LoraSettings(rank=16, alpha=32),
    starts_from=("align",),
    optimizer=FineTuneOptimizer(learning_rate=2e-4, warmup_ratio=0.1),
    batch=BatchSettings(max_examples=8, micro_examples=8),
    read=READ,
    max_steps=20,
    precision="float32",
    gradient_checkpointing=False,
    save_every=10,
)
"""20 steps are 10 epochs of 16 clips. LoRA and the audio aligner, as the paper."""


def recipe(data: str = "data/nano/train.jsonl") -> Recipe:
    """The whole plan for the examples in `data`."""
    sources = (DataSource(path=data),)
    align, sft = (dataclasses.replace(stage, sources=sources) for stage in (ALIGN, SFT))
    return Recipe(name="nano_finetune", align=(align,), sft=(sft,))
