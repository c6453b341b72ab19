"""Small helpers of the data tests: files of JSON, and real sound files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

RATE = 16_000


def write_sound(path: Path, seconds: float = 1.0, tone_hertz: float | None = 440.0) -> Path:
    """A wav or flac file with a tone (digital silence when `tone_hertz` is None)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = {".wav": "pcm_s16le", ".flac": "flac"}[path.suffix]
    times = np.arange(round(seconds * RATE)) / RATE
    wave = np.zeros_like(times) if tone_hertz is None else 0.3 * np.sin(2 * np.pi * tone_hertz * times)
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.pts, frame.sample_rate, frame.time_base = 0, RATE, Fraction(1, RATE)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def dump(path: Path, items: Sequence[Any]) -> Path:
    """Items as a JSON list, or one per line where the path ends in .jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
    else:
        path.write_text(json.dumps(list(items), indent=1))
    return path


@pytest.fixture
def sound_writer() -> Callable[..., Path]:
    return write_sound


@pytest.fixture
def dumper() -> Callable[[Path, Sequence[Any]], Path]:
    return dump
