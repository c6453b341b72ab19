"""Writing a model folder: what is in it and what its files are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

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
