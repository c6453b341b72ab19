"""AVoCaDO's GRPO of Qwen2.5-Omni-7B, with the paper's numbers where it gives any.

2,000 clips of the SFT set, one epoch, groups of 8 at temperature 1.0, batch 64, learning rate 1e-5, KL weight 0.04, the
checklist, dialogue and length rewards with equal weights (AVoCaDO, section 3.2 and appendix C). The paper leaves open
whether 64 counts prompts or captions (here prompts: 32 updates), the clipping range (0.2), the longest caption (4,096,
where the length reward reaches 0), and whether all weights were trained: here a LoRA adapter, which fits eight GPUs of
80 GB beside the group's keys and values.

    avocet train grpo recipes/avocado_7b/grpo.py --judge gpt-4.1 --dry-run
    torchrun --nproc-per-node 8 --no-python avocet train grpo recipes/avocado_7b/grpo.py --judge gpt-4.1 --engine ddp
    avocet train export recipes/avocado_7b/grpo.py

Examples need `checklist` and `dialogue`; `avocet curate annotate` makes them.
"""

from __future__ import annotations

from avocet.records import Sampling
from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.grpo.config import Grpo, PolicySettings

GRPO = Grpo(
    name="grpo",
    model="avocado@runs/avocado_7b/export-sft-merged",
    sources=(DataSource(path="data/avocado/grpo.jsonl", limit=2000),),
    trainable=(),
    lora=LoraSettings(rank=64, alpha=128),
    optimizer=FineTuneOptimizer(learning_rate=1e-5, warmup_ratio=0.05, clip_norm=1.0),
    batch=BatchSettings(max_examples=64, micro_examples=1),
    rewards={"checklist": 1.0, "dialogue": 1.0, "length": 1.0},
    policy=PolicySettings(variant="grpo", clip_low=0.2, kl_weight=0.04),
    group_size=8,
    sampling=Sampling(temperature=1.0, max_new_tokens=4096, repetition_guard="off"),
    overlap="within",
    read=ReadSettings(num_workers=4),
    epochs=1,
    save_every=4,
    seed=42,
)


def recipe() -> Recipe:
    """The whole plan."""
    return Recipe(name="avocado_7b_grpo", grpo=GRPO)
