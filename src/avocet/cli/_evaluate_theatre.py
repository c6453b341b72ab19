"""`avocet evaluate theatre`: stage clips nobody has seen, caption them, count exactly what is wrong."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class TheatreArguments:
    """Stage clips nobody has seen, caption them, count exactly what is wrong."""

    benchmark: Annotated[Positional[Literal["theatre"]], arg(metavar="{theatre}")]
    """What to measure on."""
    level: int = 1
    """Difficulty of the theatre: 1 or 2."""
    model: str = "nano"
    """A model name or a checkpoint folder."""
    num_clips: int = 200
    """How many clips."""
    seed: int = 990_000
    """First seed; clip i is the script of seed + i."""
    control: Literal["none", "muted", "black", "swapped"] = "none"
    """Spoil one stream of each clip, to see that the captioner needs it."""
    out: Path | None = None
    """Keep clips, captions with findings, and the report here; an interrupted run goes on where it stopped."""
    json: bool = False
    """Print one JSON object instead of a text."""
    batch_size: int = 8
    """Clips per forward pass."""
    workers: int = 2
    """Processes that stage clips."""
    max_new_tokens: int | None = None
    """Longest caption in tokens."""
    temperature: float | None = None
    """0 is greedy decoding."""
    top_p: float | None = None
    """Nucleus sampling: the probability mass that is kept."""
    sampling_seed: int | None = None
    """Seed of the sampling (not of the scripts)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16."""
    revision: str | None = None
    """Version of the weights, for models that have several."""


def main(argv: list[str]) -> int:
    """Run `avocet evaluate`. Returns 0 once the report is printed, 2 when no clip could be scored."""
    arguments = tyro.cli(
        TheatreArguments, args=argv, prog="avocet evaluate", config=(FlagCreatePairsOff,), description=__doc__
    )
    from avocet.captioning.captioner import load_captioner
    from avocet.evaluation.benchmarks.theatre import evaluate_theatre

    captioner = load_captioner(arguments.model, arguments.device, arguments.dtype, arguments.revision)
    given: dict[str, Any] = {
        "max_new_tokens": arguments.max_new_tokens,
        "temperature": arguments.temperature,
        "top_p": arguments.top_p,
        "seed": arguments.sampling_seed,
    }
    report = evaluate_theatre(
        captioner,
        arguments.level,
        arguments.num_clips,
        arguments.seed,
        control=arguments.control,
        out_dir=arguments.out,
        sampling=dataclasses.replace(
            captioner.model.default_sampling, **{name: value for name, value in given.items() if value is not None}
        ),
        workers=arguments.workers,
        batch_size=arguments.batch_size,
        progress=_progress if sys.stderr.isatty() else None,
    )
    print(json.dumps(report.to_dict(), ensure_ascii=False) if arguments.json else report.to_text())
    return 0 if report.num_scored else 2


def _progress(finished: int, total: int) -> None:
    print(f"\r{finished}/{total} captions", end="\n" if finished == total else "", file=sys.stderr, flush=True)
