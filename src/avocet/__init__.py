"""Avocet: caption videos with their sound, measure the captions, train the captioners.

Everything public hangs here and is imported on first use, so `import avocet` costs milliseconds:
PyTorch is loaded only when a model is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from avocet import errors
from avocet.errors import AvocetError

if TYPE_CHECKING:
    from avocet import (
        captioning,
        curation,
        evaluation,
        judging,
        ledger,
        media,
        metrics,
        models,
        records,
        review,
        rewards,
        theatre,
        training,
    )
    from avocet.captioning import Captioner, load_captioner
    from avocet.media import open_clip, probe

__version__ = "0.1.0"

_SUBMODULES = frozenset(
    {
        *("captioning", "curation", "evaluation", "judging", "ledger", "media", "metrics", "models"),
        *("records", "review", "rewards", "theatre", "training"),
    }
)
_HOMES = {
    "Captioner": "avocet.captioning",
    "load_captioner": "avocet.captioning",
    "open_clip": "avocet.media",
    "probe": "avocet.media",
}

__all__ = [
    "AvocetError",
    "Captioner",
    "__version__",
    "captioning",
    "curation",
    "errors",
    "evaluation",
    "judging",
    "ledger",
    "load_captioner",
    "media",
    "metrics",
    "models",
    "open_clip",
    "probe",
    "records",
    "review",
    "rewards",
    "theatre",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"avocet.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'avocet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
