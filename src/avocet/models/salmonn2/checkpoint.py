"""A model folder: `config.json`, `tokenizer.json`, `model.safetensors`.

Weights are read tensor by tensor into an empty model, so that loading never holds two full copies. Only safetensors
are read; nothing is unpickled.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from avocet.errors import CheckpointError, RecordError
from avocet.models.loading import listed, read_config, resolve_device, resolve_dtype
from avocet.models.salmonn2.config import Salmonn2Config
from avocet.models.salmonn2.modeling import Salmonn2Model
from avocet.models.salmonn2.saving import CONFIG_FILE, TIED_KEY, TOKENIZER_FILE, WEIGHTS_FILE
from avocet.models.salmonn2.tokenizer import load_tokenizer

VARIANTS = ("paper",)


def save_checkpoint(model: Salmonn2Model, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write the model folder; floating-point weights in `dtype` (None: as they are)."""
    model.save(folder, dtype)


def load_checkpoint(
    folder: str | Path,
    variant: str = "auto",
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
) -> Salmonn2Model:
    """Read a model folder, in evaluation mode.

    Args:
        folder: holds `config.json`, `tokenizer.json` and `model.safetensors`.
        variant: "paper", or "auto" to take it from the config.
        device: "auto" takes a GPU when there is one.
        dtype: a torch dtype, its name, or "auto": float32 on a CPU, bfloat16 on a GPU.

    Raises:
        CheckpointError: a file is missing or unreadable, the config is of another model, or keys or shapes differ.
    """
    folder = Path(folder)
    config = _read_config(folder, variant)
    tokenizer = load_tokenizer(_existing(folder, TOKENIZER_FILE))
    device = resolve_device(device)
    with torch.device("meta"):
        model = Salmonn2Model(config, tokenizer)
    model = model.to(resolve_dtype(dtype, device)).to_empty(device=device)
    model.decoder.tie_weights()
    _restore_buffers(model, device)
    _read_weights(model, _existing(folder, WEIGHTS_FILE))
    return model.eval()


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no {name}; a model folder holds {CONFIG_FILE}, {TOKENIZER_FILE}, {WEIGHTS_FILE}"
        )
    return path


def _read_config(folder: Path, variant: str) -> Salmonn2Config:
    if variant not in ("auto", *VARIANTS):
        raise CheckpointError(f"unknown variant {variant!r}; this version reads: {', '.join(VARIANTS)} (or auto)")
    path, data = folder / CONFIG_FILE, read_config(folder)
    model_type = data.get("model_type")
    if model_type != "avocet-salmonn2" or data.get("variant") not in VARIANTS:
        raise CheckpointError(
            f"{path}: model_type {model_type!r} is of another model; this version reads model_type 'avocet-salmonn2' "
            f"with variant: {', '.join(VARIANTS)}"
        )
    try:
        return Salmonn2Config.from_dict(data)
    except (RecordError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _restore_buffers(model: Salmonn2Model, device: torch.device) -> None:
    """Recompute what checkpoints do not store and an empty model therefore lacks; float32 whatever the weights are."""
    embeddings = model.vision.embeddings
    positions = torch.arange(embeddings.num_positions, device=device)[None]
    embeddings.register_buffer("position_ids", positions, persistent=False)
    model.decoder.model.rotary_emb = Qwen2RotaryEmbedding(config=model.decoder.config).to(device)


def _read_weights(model: Salmonn2Model, path: Path) -> None:
    expected = model.state_dict()
    if model.config.decoder.tie_embeddings:
        del expected[TIED_KEY]
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_keys(path, {name: tuple(tensor.shape) for name, tensor in expected.items()}, found)
            for name, tensor in expected.items():
                tensor.copy_(file.get_tensor(name))
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _check_keys(path: Path, expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    problems = []
    for label, names in (("missing", expected.keys() - found.keys()), ("unexpected", found.keys() - expected.keys())):
        if names:
            problems.append(f"{len(names)} {label} keys: {listed(sorted(names))}")
    wrong = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    if wrong:
        shapes = [f"{name} is {found[name]}, the config says {expected[name]}" for name in wrong]
        problems.append(f"{len(wrong)} keys of another shape: {listed(shapes)}")
    if problems:
        raise CheckpointError(f"{path}: " + "; ".join(problems))
