"""One thin adapter per benchmark: `BENCHMARKS[name]()` loads the one that reads a released annotation file.

The theatre has no annotation file and its own module, `theatre`. Nothing is imported before it is asked for: the
processes that stage clips import this package too.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from avocet.errors import ConfigError

if TYPE_CHECKING:
    from avocet.evaluation.items import Benchmark

_CLASSES = {
    "vs2": ("vs2", "Vs2"),
    "vs2-local": ("vs2_local", "Vs2Local"),
    "ugc": ("ugc", "Ugc"),
    "daily-omni": ("daily_omni", "DailyOmni"),
    "worldsense": ("worldsense", "WorldSense"),
    "vdc": ("vdc", "Vdc"),
    "dream1k": ("dream1k", "Dream1k"),
    "videomme": ("videomme", "VideoMme"),
}


def _load(module: str, name: str) -> Benchmark:
    benchmark: Benchmark = getattr(importlib.import_module(f"{__name__}.{module}"), name)()
    return benchmark


BENCHMARKS: Mapping[str, Callable[[], Benchmark]] = MappingProxyType(
    {name: functools.partial(_load, *where) for name, where in _CLASSES.items()}
)
"""Name -> what loads the adapter, with its default settings."""


def load_benchmark(name: str) -> Benchmark:
    """The adapter of a benchmark. Raises `ConfigError` for an unknown name."""
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {name!r}; benchmarks with an annotation file are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]()
