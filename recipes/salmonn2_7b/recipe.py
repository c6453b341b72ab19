"""video-SALMONN 2 7B: audio alignment and audiovisual fine-tuning.

`align` and `sft` follow the released scripts (facts of `train_sft.sh` and of what the code really trains), `sft_paper`
the paper, which trains the audio aligner only beside LoRA, of rank 256. Alignment has no released script for v1; its
numbers are those of 2+.

    torchrun --nproc-per-node 8 --no-python avocet train align salmonn2_7b
    torchrun --nproc-per-node 8 --no-python avocet train sft salmonn2_7b --part sft
    avocet train export salmonn2_7b --part sft
"""

from __future__ import annotations

from avocet.training.config import Recipe
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.finetune.parts import PAPER_SFT, V1_ALIGN, V1_SFT

MODEL = "models/video_salmonn_2_base"
"""A v1 folder whose Q-Former is not trained yet."""

OPTIMIZER = FineTuneOptimizer(learning_rate=2e-5, warmup_ratio=0.03, clip_norm=1.0)
CAPTIONS = (DataSource(path="data/salmonn2/sft.jsonl"),)
ATTENTION = ("q_proj", "k_proj", "v_proj")

ALIGN = FineTune(
    name="align",
    stage="align",
    model=MODEL,
    sources=(
        DataSource(path="data/LibriSpeech", task="asr"),
        DataSource(path="data/audiocaps/train.csv", task="audio_caption"),
    ),
    trainable=V1_ALIGN,
    optimizer=OPTIMIZER,
    batch=BatchSettings(max_examples=128, micro_examples=16),
    read=ReadSettings(num_workers=4, feature_store_bytes=500 * 2**30),
    max_steps=35_000,
    save_every=1000,
    seed=2024,
)
"""35,000 steps as in the paper; 128 clips a step are 16 on each of 8 GPUs."""

SFT = FineTune(
    name="sft",
    stage="sft",
    model=MODEL,
    sources=CAPTIONS,
    trainable=V1_SFT,
    lora=LoraSettings(rank=128, alpha=256, dropout=0.05, targets=ATTENTION),
    starts_from=("align",),
    optimizer=OPTIMIZER,
    batch=BatchSettings(max_examples=8),
    read=ReadSettings(num_workers=4, feature_store_bytes=500 * 2**30),
    epochs=5,
    seed=2024,
)
"""As released: batch 1 on each of 8 GPUs, 5 epochs."""

SFT_PAPER = FineTune(
    name="sft_paper",
    stage="sft",
    model=MODEL,
    sources=CAPTIONS,
    trainable=PAPER_SFT,
    lora=LoraSettings(rank=256, alpha=512),
    starts_from=("align",),
    optimizer=OPTIMIZER,
    batch=BatchSettings(max_examples=16),
    read=ReadSettings(num_workers=4, feature_store_bytes=500 * 2**30),
    epochs=4,
    seed=2024,
)
"""As in the paper: rank 256 with scale 2.0 (alpha / rank), the audio aligner, 16 GPUs, 4 epochs."""


def recipe() -> Recipe:
    """The whole plan."""
    return Recipe(name="salmonn2_7b", align=(ALIGN,), sft=(SFT, SFT_PAPER))
