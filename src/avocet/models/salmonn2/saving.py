"""Writing a model folder: what is in it and what its files are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from avocet.errors import CheckpointError
from avocet.models.loading import quiet_transformers
from avocet.models.salmonn2.config import Salmonn2Config
from avocet.models.salmonn2.tokenizer import save_tokenizer

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
WEIGHTS_FILE = "model.safetensors"
TIED_KEY = "decoder.lm_head.weight"
"""Not stored when the decoder ties it to its embeddings."""


def write_folder(
    folder: str | Path,
    config: Salmonn2Config,
    tokenizer: PreTrainedTokenizerFast,
    state: Mapping[str, torch.Tensor],
    dtype: torch.dtype | None = None,
) -> None:
    """Write config, tokenizer and weights; floating-point weights in `dtype` (None: as they are)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in state.items():
        if name == TIED_KEY and config.decoder.tie_embeddings:
            continue
        wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        tensors[name] = tensor.detach().to("cpu", wanted).contiguous()
    text = json.dumps(config.to_dict(), indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    save_tokenizer(tokenizer, folder / TOKENIZER_FILE)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def write_model(
    folder: str | Path,
    config: Mapping[str, Any],
    tokenizer: Any,
    state: Mapping[str, torch.Tensor],
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model of released size: config, tokenizer files if there are any, and weights in shards of 5 GB.

    Raises:
        CheckpointError: the folder holds weights already, which could end up mixed with these.
    """
    from huggingface_hub import save_torch_state_dict

    folder = Path(folder)
    if any(folder.glob("*.safetensors*")):
        raise CheckpointError(f"{folder} holds weights already; choose an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype)
        for name, tensor in state.items()
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    if tokenizer is not None:
        with quiet_transformers():
            tokenizer.save_pretrained(folder)
    save_torch_state_dict({name: tensor.contiguous() for name, tensor in tensors.items()}, folder)
