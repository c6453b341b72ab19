"""Multi-round guided DPO with `nano` on the theatre, from an SFT on captions with the faults of a teacher.

    avocet theatre make --level 1 --seed 10000000 --num-clips 240 --out data/mrdpo/train \
        --examples data/mrdpo/train.jsonl --captions teacher --questions data/mrdpo/train_qa.jsonl
    avocet theatre make --level 1 --seed 10500000 --num-clips 80 --out data/mrdpo/held_out \
        --examples data/mrdpo/held_out.jsonl --questions data/mrdpo/held_out_qa.jsonl
    avocet train sft nano_mrdpo && avocet train export nano_mrdpo
    avocet train mrdpo nano_mrdpo --judge exact

The SFT makes nano forget to tell what it sees and hears; the rounds bring it back without ever seeing a true caption:
the exact judge only ranks what nano itself samples. `--set variant=NAME` compares: gdpo, cdpo, ce (cross-entropy on the
chosen captions, the control), direct (one adapter trained on and on), fast (learning rate 1e-3).

`--set questions=watched` makes the SFT teach answers too, from the questions of 300 more clips beside those above:

    avocet theatre make --level 1 --seed 11000000 --num-clips 300 --out data/mrdpo/more \
        --examples data/mrdpo/more.jsonl --captions teacher --questions data/mrdpo/more_qa.jsonl

and has the gate compare held-out answers; `--set questions=mixed_in` also trains on questions in the rounds.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from avocet.records import Sampling
from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.finetune.config import PreferenceSettings
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.gate import StopRules
from avocet.training.pairs import RoundThresholds, Thresholds

CAPTIONS = DataSource(path="data/mrdpo/train.jsonl")
HELD_OUT = DataSource(path="data/mrdpo/held_out.jsonl")
AFTER_SFT = "runs/nano_mrdpo/export-sft-merged"

READ = ReadSettings(num_workers=1, feature_store_bytes=2 * 2**30)
BATCH = BatchSettings(max_examples=16, micro_examples=16)
LORA = LoraSettings(rank=16, alpha=32)

SFT = FineTune(
    name="sft",
    stage="sft",
    model="nano",
    sources=(CAPTIONS,),
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

SFT_WITH_QUESTIONS = dataclasses.replace(
    SFT,
    trainable=("decoder",),
    lora=None,
    optimizer=FineTuneOptimizer(learning_rate=5e-4, warmup_steps=20, weight_decay=0.01),
    batch=BatchSettings(max_examples=32, micro_examples=32),
    max_steps=400,
    save_every=100,
)
"""`nano` was never asked anything, so this is more than an adapter can learn."""

GAP = Thresholds(error_rate=0.2, repetition_rate=-0.01)

MRDPO = MrDpo(
    name="nano_mrdpo",
    model=AFTER_SFT,
    sources=(CAPTIONS,),
    held_out=(HELD_OUT,),
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
"""What to compare."""


def recipe(
    variant: Literal["dpo", "gdpo", "cdpo", "ce", "direct", "fast"] = "dpo",
    questions: Literal["none", "watched", "mixed_in"] = "none",
    data: str = "data/mrdpo",
    model: str = AFTER_SFT,
) -> Recipe:
    """The whole plan.

    Args:
        variant: one of `VARIANTS`.
        questions: whether held-out questions are answered after each round, and others trained on in it.
        data: folder of the examples.
        model: what the rounds start from.
    """
    captions = DataSource(path=f"{data}/train.jsonl")
    asked = tuple(DataSource(path=f"{data}/{name}_qa.jsonl", weight=2.0) for name in ("train", "more"))
    held_out: tuple[DataSource, ...] = (DataSource(path=f"{data}/held_out.jsonl"),)
    sft = dataclasses.replace(SFT, sources=(captions,))
    if questions != "none":
        sft = dataclasses.replace(SFT_WITH_QUESTIONS, sources=(captions, *asked))
        held_out += (DataSource(path=f"{data}/held_out_qa.jsonl"),)
    mixed_in = (dataclasses.replace(asked[0], weight=1.0, limit=240),) if questions == "mixed_in" else ()
    rounds = dataclasses.replace(MRDPO, model=model, sources=(captions,), held_out=held_out, mixed_in=mixed_in)
    return Recipe(name="nano_mrdpo", sft=(sft,), mrdpo=dataclasses.replace(rounds, **VARIANTS[variant]))
