"""What every family's loader needs: devices, dtypes, the folder's config, and a version for weights without one."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from avocet.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "config.json"

REVISION_DIGITS = 12
_MAX_HASHED_BYTES = 2**30
_SAMPLE_BYTES = 4096
_MAX_HEADER_BYTES = 100 * 2**20


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto": a GPU when there is one, else the CPU. Raises `ConfigError` for an unknown or absent device."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}; allowed: auto, cpu, cuda, cuda:0, ...") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {str(device)!r} was asked for, but there is no GPU that PyTorch can use")
    return resolved


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """ "auto": float32 on a CPU, bfloat16 on a GPU. Raises `ConfigError` for an unknown name."""
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    choices = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    choices["auto"] = torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in choices:
        raise ConfigError(f"unknown dtype {dtype!r}; allowed: {', '.join(sorted(choices))}")
    return choices[dtype]


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`. Raises `CheckpointError` when it is missing or no JSON object."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no {CONFIG_FILE}; a model folder holds config.json, tokenizer files and safetensors weights"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return data


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' reports and, where nobody watches, its progress bars out of the output.

    What it reports of missing keys is judged by the caller; its warnings about configs are not about ours.
    """
    from transformers.utils import logging

    log: Any = logging
    verbosity, had_bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    if not sys.stderr.isatty():
        log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if had_bars:
            log.enable_progress_bar()


def folder_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer, None without tokenizer files. Raises `CheckpointError` for unreadable ones."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return None
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its many parsers raise
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({type(error).__name__}: {error})") from error


def weights_revision(folder: Path) -> str:
    """A version for the safetensors files of a folder: 12 hex digits of a SHA-256, "" without such files.

    Up to 1 GiB the hash is of every byte. Hashing tens of gigabytes would take longer than loading them, so that of
    larger files is of their headers and the first 4 KiB of every tensor, which any training changes.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        return ""
    if sum(path.stat().st_size for path in paths) > _MAX_HASHED_BYTES:
        digest = hashlib.sha256()
        for path in paths:
            with path.open("rb") as file:
                for part in _samples(path, file):
                    digest.update(part)
        return digest.hexdigest()[:REVISION_DIGITS]
    digests = [file_digest(path) for path in paths]
    if len(digests) == 1:
        return digests[0][:REVISION_DIGITS]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:REVISION_DIGITS]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _samples(path: Path, file: BinaryIO) -> Sequence[bytes]:
    """The header of a safetensors file and the start of each of its tensors."""
    size = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
    if size > _MAX_HEADER_BYTES:
        raise CheckpointError(f"{path}: not a safetensors file (a header of {size} bytes)")
    header = file.read(size)
    try:
        entries = json.loads(header)
        starts = sorted(entry["data_offsets"] for name, entry in entries.items() if name != "__metadata__")
        parts = [header]
        for start, end in starts:
            file.seek(8 + size + max(start, 0))
            parts.append(file.read(max(min(_SAMPLE_BYTES, end - start), 0)))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error
    return parts


def listed(names: Sequence[str], limit: int = 8) -> str:
    """Some names for an error message, and how many more there are."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
