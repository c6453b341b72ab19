"""Clip -> tokens -> features -> text: the four verbs, the token plan, the registry, and one folder per model family."""

from __future__ import annotations

import importlib
from types import ModuleType

_FAMILIES = ("qwen_omni", "salmonn2")


def __getattr__(name: str) -> ModuleType:
    # `avocet.models.salmonn2` works without an import of its own, and transformers loads only when it is used.
    if name in _FAMILIES:
        return importlib.import_module(f"avocet.models.{name}")
    raise AttributeError(f"module 'avocet.models' has no attribute {name!r}")
