"""Safetensors files of a folder, read tensor by tensor into an empty model: never two full copies in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from avocet.errors import CheckpointError
from avocet.models.loading import listed

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

Rename = Callable[[str], str | None]
"""A stored name -> our name, "" for a tensor that is not needed, None for an unknown one."""


class StoredTensors:
    """The tensors of one checkpoint, whichever file each is in."""

    def __init__(self, places: Mapping[str, Any]) -> None:
        self._places = places

    def names(self) -> set[str]:
        return set(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._places[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        # An empty slice: the type without the values.
        empty: torch.Tensor = self._places[name].get_slice(name)[:0] if self.shape(name) else self.read(name)
        return empty.dtype

    def read(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._places[name].get_tensor(name)
        return tensor


@contextmanager
def stored_tensors(folder: Path, single: str = SINGLE_FILE) -> Iterator[StoredTensors]:
    """Open the one file (named `single`) or the indexed shards of a folder.

    Raises:
        CheckpointError: no safetensors, shards without an index, or an index that does not fit its shards.
    """
    with ExitStack() as stack:
        places: dict[str, Any] = {}
        try:
            for path, expected in _files(folder, single):
                file = stack.enter_context(safe_open(path, framework="pt"))
                names = set(file.keys())
                if expected is not None and expected - names:
                    raise CheckpointError(
                        f"{path}: the index names tensors it lacks: {listed(sorted(expected - names))}"
                    )
                places.update(dict.fromkeys(names if expected is None else expected, file))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{folder}: not readable safetensors files ({error})") from error
        yield StoredTensors(places)


def fill_model(
    model: nn.Module, stored: StoredTensors, folder: Path, rename: Rename, *, skipped: frozenset[str] = frozenset()
) -> None:
    """Copy every stored tensor to its place in `model` (any dtype and device).

    Args:
        rename: stored name -> name in the model's state.
        skipped: names of the model's state that the checkpoint need not have (tied weights).

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors, by name.
    """
    targets = {name: tensor for name, tensor in model.state_dict().items() if name not in skipped}
    sources, unexpected = {}, []
    for name in sorted(stored.names()):
        ours = rename(name)
        if ours is None or (ours and ours not in targets and ours not in skipped):
            unexpected.append(name)
        elif ours and ours in targets:
            sources[ours] = name
    problems = []
    for label, names in (("missing", sorted(targets.keys() - sources.keys())), ("unexpected", unexpected)):
        if names:
            problems.append(f"{len(names)} {label} keys: {listed(names)}")
    wrong = [
        f"{stored_name} is {stored.shape(stored_name)}, the config says {tuple(targets[ours].shape)}"
        for ours, stored_name in sources.items()
        if stored.shape(stored_name) != tuple(targets[ours].shape)
    ]
    if wrong:
        problems.append(f"{len(wrong)} keys of another shape: {listed(wrong)}")
    if problems:
        raise CheckpointError(f"{folder}: the weights do not fit: " + "; ".join(problems))
    with torch.no_grad():
        for ours, name in sources.items():
            targets[ours].copy_(stored.read(name))


def _files(folder: Path, single: str) -> list[tuple[Path, set[str] | None]]:
    """Each file with the names that the index expects in it (None: whatever is there)."""
    index = folder / INDEX_FILE
    if not index.is_file():
        if not (folder / single).is_file():
            raise CheckpointError(f"{folder}: neither {single} nor {INDEX_FILE}; pickled weights are not read")
        return [(folder / single, None)]
    if (folder / single).is_file():
        raise CheckpointError(f"{folder}: both {single} and {INDEX_FILE}; which of them is meant?")
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards: dict[str, set[str]] = {}
        for name, shard in weight_map.items():
            shards.setdefault(str(shard), set()).add(str(name))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of safetensors shards ({error})") from error
    wrong = [shard for shard in shards if Path(shard).name != shard or not (folder / shard).is_file()]
    if wrong:
        raise CheckpointError(f"{folder}: shards of the index that are not here: {listed(sorted(wrong))}")
    return [(folder / shard, names) for shard, names in sorted(shards.items())]
