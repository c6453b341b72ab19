"""AVoCaDO's supervised fine-tuning of Qwen2.5-Omni-7B, with the paper's numbers.

Two epochs over the captions, 128 clips a step, learning rate 2e-5 with a cosine, both encoders frozen, adapters and
language model trained in full (AVoCaDO, appendix C). The paper does not name warm-up, weight decay or the longest
sequence; the values here are those of its authors' sister project.

    avocet data check data/avocado/train.jsonl --model qwen2.5-omni-7b
    torchrun --nproc-per-node 8 --no-python avocet train sft avocado_7b --engine fsdp2
"""

from __future__ import annotations

from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, ReadSettings
from avocet.training.finetune.parts import AVOCADO_SFT

MODEL = "avocado@models/Qwen2.5-Omni-7B"
"""The weights of Qwen2.5-Omni, read with AVoCaDO's settings: 2 frames per second, 512 tokens a patch, 25,600 a clip."""

SFT = FineTune(
    name="sft",
    stage="sft",
    model=MODEL,
    sources=(DataSource(path="data/avocado/train.jsonl"),),
    trainable=AVOCADO_SFT,
    optimizer=FineTuneOptimizer(learning_rate=2e-5, warmup_ratio=0.05, clip_norm=1.0),
    batch=BatchSettings(max_examples=128, micro_examples=1, micro_tokens=32_768),
    read=ReadSettings(num_workers=4),
    epochs=2,
    precision="bfloat16",
    gradient_checkpointing=True,
    save_every=100,
    seed=42,
)


def recipe() -> Recipe:
    """The whole plan."""
    return Recipe(name="avocado_7b", sft=(SFT,))
