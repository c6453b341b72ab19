"""What the keys of a feature store are made of: hashes of facts, of media, and the versions of the libraries."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from typing import Any

import torch

from avocet.models.trunks import update_with_tensor


def hash_of(facts: list[Any]) -> str:
    """SHA-256 of JSON values, in hex."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def media_digest(media: torch.Tensor, detail: str) -> str:
    """SHA-256 over bytes, type and shape of a media tensor, and whatever else its features depend on."""
    digest = hashlib.sha256(detail.encode())
    update_with_tensor(digest, media)
    return digest.hexdigest()


@functools.cache
def library_versions() -> tuple[str, ...]:
    """Of everything between a file and a tower's output: other versions may give other bits."""
    names = ("avocet", "torch", "transformers", "av", "numpy")
    return tuple(f"{name} {importlib.metadata.version(name)}" for name in names)
