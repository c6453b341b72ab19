"""Training data: readers of all formats, checks before a GPU is spent, conversion, mixtures."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from avocet.training.data.examples import Format, read_examples, recognise
from avocet.training.data.formats_common import audio_policy
from avocet.training.data.mixture import DataSource, load_mixture
from avocet.training.data.records import ExampleSet, Rejected

if TYPE_CHECKING:
    from avocet.training.data.check import CheckReport, check_examples
    from avocet.training.data.convert import ConvertReport, convert_examples

__all__ = [
    "CheckReport",
    "ConvertReport",
    "DataSource",
    "ExampleSet",
    "Format",
    "Rejected",
    "audio_policy",
    "check_examples",
    "convert_examples",
    "load_mixture",
    "read_examples",
    "recognise",
]

_HOME = {"CheckReport": "check", "check_examples": "check", "ConvertReport": "convert", "convert_examples": "convert"}


def __getattr__(name: str) -> Any:
    # These decode media. A stage whose clips are in memory must not need PyAV for its configuration.
    if name in _HOME:
        return getattr(importlib.import_module(f"avocet.training.data.{_HOME[name]}"), name)
    raise AttributeError(f"module 'avocet.training.data' has no attribute {name!r}")
