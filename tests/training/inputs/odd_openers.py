"""Stands in for `open_clip` in the worker processes of the loader's tests: some names hang, crash or lie."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from avocet.media import open_clip
from avocet.records import Clip


def open_or_misbehave(path: str, **arguments: Any) -> Clip:
    """What the file is called decides; any other file is opened as usual."""
    name = os.path.basename(path)
    if name == "hangs":
        time.sleep(3600)
    if name == "hangs_in_the_system":  # nobody will ever write to this named pipe
        os.open(path, os.O_RDONLY)
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "exits":
        os._exit(7)
    if name == "raises":
        raise ValueError("a bug\non two lines")
    if name == "returns_nothing":
        return None  # type: ignore[return-value]
    if name == "modules":
        loaded = [module for module in ("torch", "transformers", "av") if module in sys.modules]
        raise ValueError(f"pid {os.getpid()} loaded {' '.join(loaded)}")
    if name.startswith("slow_"):
        time.sleep(0.15)
        raise ValueError(f"{name} began at {time.time() - 0.15}")
    return open_clip(path, **arguments)
