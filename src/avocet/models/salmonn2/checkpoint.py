"""A model folder: `config.json`, `tokenizer.json`, `model.safetensors`.

Weights are read tensor by tensor into an empty model, so that loading never holds two full copies. Only safetensors
are read; nothing is unpickled.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from avocet.errors import CheckpointError, RecordError
from avocet.models.salmonn2.config import Salmonn2Config
from avocet.models.salmonn2.modeling import Salmonn2Model
from avocet.models.salmonn2.saving import CONFIG_FILE, TIED_KEY, TOKENIZER_FILE, WEIGHTS_FILE
from avocet.models.salmonn2.tokenizer import load_tokenizer

VARIANTS = ("paper",)

_MAX_LISTED_KEYS = 8


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


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto": a GPU when there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """ "auto": float32 on a CPU, bfloat16 on a GPU. Raises `CheckpointError` for an unknown name."""
    if isinstance(dtype, torch.dtype):
        return dtype
    choices = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    choices["auto"] = torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in choices:
        raise CheckpointError(f"unknown dtype {dtype!r}; allowed: {', '.join(sorted(choices))}")
    return choices[dtype]


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no {name}; a model folder holds {CONFIG_FILE}, {TOKENIZER_FILE}, {WEIGHTS_FILE}"
        )
    return path


def _read_config(folder: Path, variant: str) -> Salmonn2Config:
    path = _existing(folder, CONFIG_FILE)
    if variant not in ("auto", *VARIANTS):
        raise CheckpointError(f"unknown variant {variant!r}; this version reads: {', '.join(VARIANTS)} (or auto)")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    model_type = data.get("model_type") if isinstance(data, dict) else None
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
            problems.append(f"{len(names)} {label} keys: {_listed(sorted(names))}")
    wrong = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    if wrong:
        shapes = [f"{name} is {found[name]}, the config says {expected[name]}" for name in wrong]
        problems.append(f"{len(wrong)} keys of another shape: {_listed(shapes)}")
    if problems:
        raise CheckpointError(f"{path}: " + "; ".join(problems))


def _listed(names: list[str]) -> str:
    rest = len(names) - _MAX_LISTED_KEYS
    return ", ".join(names[:_MAX_LISTED_KEYS]) + (f" and {rest} more" if rest > 0 else "")
