"""The one captioning call, bulk runs with resume, and output formats.

Names are imported on first use: the output formats are needed where no model is, and a model means PyTorch.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avocet.captioning.bulk import caption_clips, find_clips, open_caption_ledger
    from avocet.captioning.captioner import Captioner, OpenedClip, load_captioner
    from avocet.captioning.formats import FORMATS
    from avocet.captioning.instructions import (
        Instruction,
        InstructionChoice,
        InstructionFile,
        InstructionRule,
        StyleRule,
        choose_instruction,
    )
    from avocet.captioning.styles import STYLES

__all__ = [
    "FORMATS",
    "STYLES",
    "Captioner",
    "Instruction",
    "InstructionChoice",
    "InstructionFile",
    "InstructionRule",
    "OpenedClip",
    "StyleRule",
    "caption_clips",
    "choose_instruction",
    "find_clips",
    "load_captioner",
    "open_caption_ledger",
]

_HOMES = MappingProxyType(
    {
        "FORMATS": "formats",
        "STYLES": "styles",
        "Captioner": "captioner",
        "Instruction": "instructions",
        "InstructionChoice": "instructions",
        "InstructionFile": "instructions",
        "InstructionRule": "instructions",
        "OpenedClip": "captioner",
        "StyleRule": "instructions",
        "caption_clips": "bulk",
        "choose_instruction": "instructions",
        "find_clips": "bulk",
        "load_captioner": "captioner",
        "open_caption_ledger": "bulk",
    }
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'avocet.captioning' has no attribute {name!r}")
    return getattr(importlib.import_module(f"avocet.captioning.{_HOMES[name]}"), name)
