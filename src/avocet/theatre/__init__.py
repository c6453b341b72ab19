"""The theatre: scripts with exact truth, their staging, their language and their exact judge.

Staging needs the media libraries and a voice, so `stage` and `stage_arrays` are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from avocet.theatre.judge import TheatreFindings, judge
from avocet.theatre.language import reference_caption, reference_captions
from avocet.theatre.script import Event, Script, make_script

if TYPE_CHECKING:
    from avocet.theatre.stage import stage, stage_arrays

__all__ = [
    "Event",
    "Script",
    "TheatreFindings",
    "judge",
    "make_script",
    "reference_caption",
    "reference_captions",
    "stage",
    "stage_arrays",
]


def __getattr__(name: str) -> Any:
    if name in ("stage", "stage_arrays"):
        return getattr(importlib.import_module("avocet.theatre.stage"), name)
    raise AttributeError(f"module 'avocet.theatre' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
