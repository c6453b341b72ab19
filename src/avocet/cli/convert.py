"""`avocet convert MODEL OUT`: a checkpoint in another layout, with adapters merged."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.errors import ConfigError

if TYPE_CHECKING:
    import torch

Layout = Literal["avocet", "released"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertArguments:
    """Write a checkpoint in Avocet's layout or in that of the release, adapters merged."""

    model: Annotated[Positional[Path], arg(metavar="MODEL")]
    """A checkpoint folder: Avocet's own, a released video-SALMONN 2, or a Qwen-Omni."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """The folder to write; it must not hold weights."""
    to: Layout = "avocet"
    """avocet: its own layout, which transformers' Auto classes read too; released: that of the release, key by key."""
    adapter: tuple[Path, ...] = ()
    """PEFT adapter folders to merge first, in this order: those that `avocet train export` writes, of any model, and
    those that video-SALMONN 2+ was released as."""
    training_file: Path | None = None
    """A training checkpoint of the released 7B (a .bin file, or the folder of all_parameters.bin) to put on MODEL."""
    allow_pickle: bool = False
    """Read such .bin files; they are pickles, although only tensors are taken from them."""
    dtype: str = "auto"
    """float32, bfloat16 or float16; auto keeps what MODEL holds."""


def main(argv: list[str]) -> int:
    """Run `avocet convert`. Returns 0; errors are raised and end with exit code 2."""
    arguments = tyro.cli(
        ConvertArguments, args=argv, prog="avocet convert", config=(FlagCreatePairsOff,), description=__doc__
    )
    if any(arguments.out.glob("*.safetensors*")):
        raise ConfigError(f"{arguments.out} holds weights already; choose an empty folder")
    model, warnings = _load(arguments)
    for warning in warnings:
        print(f"avocet convert: warning: {warning}", file=sys.stderr)
    _write(model, arguments)
    print(f"{arguments.out}: {type(model).__name__} in the layout {arguments.to!r}")
    return 0


def _load(arguments: ConvertArguments) -> tuple[Any, tuple[str, ...]]:
    """The model with everything merged, and what to know about it."""
    from avocet.models.loading import read_config

    dtype: Any = arguments.dtype
    if dtype == "auto" and arguments.training_file is None:
        dtype = _stored_dtype(arguments.model)
    if str(read_config(arguments.model).get("model_type", "")).startswith(("qwen2_5_omni", "qwen3_omni")):
        if arguments.training_file or arguments.to == "released":
            raise ConfigError(
                "a Qwen-Omni checkpoint has one layout; only its dtype can change and adapters be merged into it"
            )
        from avocet.models.qwen_omni.checkpoint import load_checkpoint as load_omni

        omni: Any = load_omni(arguments.model, device="cpu", dtype=dtype)
        return omni, _merge(omni, arguments.adapter)
    if arguments.training_file is not None:
        from avocet.models.salmonn2.v1_training_files import load_v1_bin

        model: Any = load_v1_bin(
            arguments.training_file, arguments.model, allow_pickle=arguments.allow_pickle, dtype=dtype
        )
    else:
        from avocet.models.salmonn2.checkpoint import load_checkpoint

        model = load_checkpoint(arguments.model, dtype=dtype)
    return model, _merge(model, arguments.adapter)


def _merge(model: Any, adapters: tuple[Path, ...]) -> tuple[str, ...]:
    """Merge adapters, ours or released ones; what to know about them."""
    if not adapters:
        return ()
    from avocet.models.adapters import is_exported, load_adapter_folder
    from avocet.models.salmonn2.adapters import load_adapter
    from avocet.models.salmonn2.plus import PlusModel

    warnings: dict[str, None] = {}
    for folder in adapters:
        if isinstance(model, PlusModel) and not is_exported(folder):
            warnings |= dict.fromkeys(load_adapter(model, folder))
        else:
            load_adapter_folder(model, folder)
    return tuple(warnings)


def _write(model: Any, arguments: ConvertArguments) -> None:
    if arguments.to == "avocet":
        model.save(arguments.out)
        return
    from avocet.models.salmonn2 import plus_loading, v1_loading
    from avocet.models.salmonn2.plus import PlusModel
    from avocet.models.salmonn2.v1 import V1Model

    if isinstance(model, PlusModel):
        plus_loading.write_released(model, arguments.out)
    elif isinstance(model, V1Model):
        v1_loading.write_released(model, arguments.out)
    else:
        raise ConfigError(f"{type(model).__name__} was never released in another layout; use --to avocet")


def _stored_dtype(folder: Path) -> torch.dtype:
    """The floating-point type that most of the folder's tensors have."""
    from collections import Counter

    from avocet.models.weights import stored_tensors

    with stored_tensors(folder) as stored:
        counts = Counter(stored.dtype(name) for name in stored.names())
    floating = [dtype for dtype, _ in counts.most_common() if dtype.is_floating_point]
    if not floating:
        raise ConfigError(f"{folder}: no floating-point tensors")
    return floating[0]
