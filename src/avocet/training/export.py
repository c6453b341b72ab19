"""Write the result of a recipe's last stage as a folder that `avocet.load_captioner` opens."""

from __future__ import annotations

from pathlib import Path

import torch

from avocet.errors import ConfigError
from avocet.training import checkpoints
from avocet.training.config import Recipe
from avocet.training.loop import build_heads
from avocet.training.model import as_module
from avocet.training.objectives import TrainingModule


def export_model(recipe: Recipe, run_dir: Path, folder: Path) -> Path:
    """Write config, tokenizer and float16 weights (without the training heads) to `folder`."""
    stage = recipe.stages()[-1]
    found = checkpoints.checkpoints(run_dir / stage.name)
    if not found:
        raise ConfigError(f"stage {stage.name!r} has no checkpoint below {run_dir}; train it first")
    model = recipe.build_model()
    module = TrainingModule(as_module(model), build_heads(model))
    checkpoints.load_weights(found[-1][1], module)
    model.save(folder, dtype=torch.float16)
    print(f"wrote {folder} from {found[-1][1]}")
    return folder
