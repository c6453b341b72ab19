"""Fine-tuning of real captioners: audio alignment and audiovisual SFT on one device or many.

config = FineTune(name="sft", stage="sft", model="avocado", sources=(DataSource(path="train.jsonl"),), ...)
fine_tune(config, Path("runs/mine"))
"""

from __future__ import annotations

from avocet.training.finetune.config import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings, ReadSettings

__all__ = ["BatchSettings", "FineTune", "FineTuneOptimizer", "LoraSettings", "ReadSettings"]
