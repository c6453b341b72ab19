"""The theatre: scripts with exact truth, their staging, their language and their exact judge.

Staging needs the media libraries and a voice, so `stage` and `stage_arrays` are imported on first use.
`avocet.theatre.stage` is always the function, also after the module of the same name was imported.
"""

from __future__ import annotations

import importlib
import sys
import types
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


class _Theatre(types.ModuleType):
    """This package: keeps the import system from putting the module `stage` over the function `stage`."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "stage" and isinstance(value, types.ModuleType):
            value = value.stage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Theatre


def __getattr__(name: str) -> Any:
    if name in ("stage", "stage_arrays"):
        return getattr(importlib.import_module("avocet.theatre.stage"), name)
    raise AttributeError(f"module 'avocet.theatre' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
