"""Folders of video-SALMONN 2 models: which variant one holds, and reading it.

* `paper`: the paper's model in Avocet's own layout (`config.json`, `tokenizer.json`, `model.safetensors`);
* `v1`, `plus`: the released 7B and the 3B/7B/72B, in the layout of the releases or in Avocet's.

Weights are read tensor by tensor into an empty model, so that loading never holds two full copies. Only safetensors
are read; nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from avocet.errors import CheckpointError, ConfigError, RecordError
from avocet.models.loading import listed, read_config, resolve_device, resolve_dtype
from avocet.models.registry import ModelOptions
from avocet.models.salmonn2 import towers
from avocet.models.salmonn2.config import Salmonn2Config
from avocet.models.salmonn2.modeling import Salmonn2Model
from avocet.models.salmonn2.saving import CONFIG_FILE, TIED_KEY, TOKENIZER_FILE, WEIGHTS_FILE
from avocet.models.salmonn2.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from avocet.models.salmonn2.plus import PlusModel
    from avocet.models.salmonn2.v1 import V1Model

VARIANTS = ("paper", "v1", "plus")
OWN_TYPE = "avocet-salmonn2"


def save_checkpoint(
    model: Salmonn2Model | V1Model | PlusModel, folder: str | Path, dtype: torch.dtype | None = None
) -> None:
    """Write the model folder in Avocet's layout; floating-point weights in `dtype` (None: as they are)."""
    model.save(folder, dtype)


def load_checkpoint(
    folder: str | Path,
    variant: str = "auto",
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    options: ModelOptions | None = None,
    tokenizer: Any = None,
    sizes: Mapping[str, int] | None = None,
) -> Salmonn2Model | V1Model | PlusModel:
    """Read a model folder, in evaluation mode.

    Args:
        folder: in Avocet's layout or in that of a release.
        variant: one of `VARIANTS`, or "auto" to take it from the config.
        device: "auto" takes a GPU when there is one.
        dtype: a torch dtype, its name, or "auto": float32 on a CPU, bfloat16 on a GPU.
        options: changes to how clips are read (`v1`, `plus`).
        tokenizer: instead of the folder's (`v1`, `plus`); a folder without tokenizer files loads too, but such a model
            reads ids only.
        sizes: of a `v1` folder, what neither its config nor its weights tell; see `load_v1`.

    Raises:
        CheckpointError: a file is missing or unreadable, the config is of another model, or keys or shapes differ.
        ConfigError: an argument that the variant does not take.
    """
    folder = Path(folder)
    found = find_variant(folder, variant)
    options = options or ModelOptions()
    if sizes is not None and found != "v1":
        raise ConfigError(f"sizes are given for v1 checkpoints only; {folder} holds variant {found!r}")
    # Each variant is imported when it is needed: together they cost seconds.
    if found == "v1":
        from avocet.models.salmonn2.v1_loading import load_v1

        return load_v1(folder, device=device, dtype=dtype, tokenizer=tokenizer, sizes=sizes, options=options)
    if found == "plus":
        from avocet.models.salmonn2.plus_loading import load_plus

        return load_plus(folder, device=device, dtype=dtype, tokenizer=tokenizer, options=options)
    if options.given() or tokenizer is not None:
        given = [*options.given(), *(["tokenizer"] if tokenizer is not None else [])]
        raise ConfigError(f"model {folder.name!r} has no settings {', '.join(given)}")
    return _load_paper(folder, device, dtype)


def find_variant(folder: Path, variant: str = "auto") -> str:
    """Which variant a folder holds.

    Raises:
        CheckpointError: an unknown variant, a config of another model, or not the variant that was asked for.
    """
    if variant not in ("auto", *VARIANTS):
        raise CheckpointError(f"unknown variant {variant!r}; allowed: auto, {', '.join(VARIANTS)}")
    data = read_config(folder)
    model_type, found = data.get("model_type"), None
    if model_type == OWN_TYPE and data.get("variant") in VARIANTS:
        found = str(data["variant"])
    elif model_type == "video_salmonn_2":
        found = "v1"
    elif model_type == "qwen2_5_vl" and "audio_config" in data:
        # The release keeps Qwen2.5-VL's model type; only the hearing tells it apart.
        found = "plus"
    if found is None:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: model_type {model_type!r} is of another model; video-SALMONN 2 has "
            f"{OWN_TYPE!r} with a variant ({', '.join(VARIANTS)}), 'video_salmonn_2' (v1), or 'qwen2_5_vl' with an "
            "audio_config (plus)"
        )
    if variant not in ("auto", found):
        raise CheckpointError(f"{folder} holds variant {found!r}, not {variant!r}")
    return found


def _load_paper(folder: Path, device: str | torch.device, dtype: str | torch.dtype) -> Salmonn2Model:
    config = _read_config(folder)
    tokenizer = load_tokenizer(_existing(folder, TOKENIZER_FILE))
    device = resolve_device(device)
    with torch.device("meta"):
        model = Salmonn2Model(config, tokenizer)
    model = model.to(resolve_dtype(dtype, device)).to_empty(device=device)
    model.decoder.tie_weights()
    towers.restore_buffers(model.vision, model.decoder, device)
    _read_weights(model, _existing(folder, WEIGHTS_FILE))
    return model.eval()


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no {name}; a model folder holds {CONFIG_FILE}, {TOKENIZER_FILE}, {WEIGHTS_FILE}"
        )
    return path


def _read_config(folder: Path) -> Salmonn2Config:
    try:
        return Salmonn2Config.from_dict(read_config(folder))
    except (RecordError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from error


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
