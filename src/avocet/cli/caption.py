"""`avocet caption FILE...`: captions to the terminal and, with `--out`, to a resumable JSONL file."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.captioning.formats import FORMATS, Format, printable
from avocet.records import AudioPolicy, Caption, Failure, Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionArguments:
    """Caption videos with their sound."""

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE [FILE ...]")]
    """Media files, or folders that are searched for them."""
    model: str = "nano"
    """A model name or a checkpoint folder."""
    out: Path | None = None
    """Append records to this JSONL file; clips that are in it already are skipped."""
    format: Format = "prose"
    """What is printed: prose for reading, json (one record per line), or markdown."""
    instruction: str | None = None
    """What to ask of the model; its own default if not given."""
    audio: AudioPolicy = "auto"
    """auto: use sound where there is any; require: a clip without usable sound is an error; ignore."""
    start: float | None = None
    """Caption only from this second on."""
    end: float | None = None
    """Caption only up to this second."""
    max_new_tokens: int | None = None
    """Longest caption in tokens."""
    temperature: float | None = None
    """0 is greedy decoding."""
    top_p: float | None = None
    """Nucleus sampling: the probability mass that is kept."""
    seed: int | None = None
    """Seed of the sampling."""
    batch_size: int = 8
    """Clips per forward pass."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16."""
    revision: str | None = None
    """Version of the weights, for models that have several."""


def main(argv: list[str]) -> int:
    """Run `avocet caption`. Returns 2 when a clip failed, else 0."""
    arguments = tyro.cli(
        CaptionArguments, args=argv, prog="avocet caption", config=(FlagCreatePairsOff,), description=__doc__
    )
    if not arguments.files:
        print("avocet caption: name at least one media file or folder", file=sys.stderr)
        return 2
    failures = _caption_all(arguments)
    return 2 if failures else 0


def _caption_all(arguments: CaptionArguments) -> list[Failure]:
    from avocet.captioning.bulk import caption_clips, find_clips, open_caption_ledger, write_failures
    from avocet.captioning.captioner import load_captioner

    clips, failures = find_clips(arguments.files, arguments.start, arguments.end)
    for failure in failures:
        _report(failure)
    captioner = load_captioner(arguments.model, arguments.device, arguments.dtype, arguments.revision)
    sampling = _sampling(arguments, captioner.model.default_sampling)
    num_done = 0
    with contextlib.ExitStack() as stack:
        ledger = None
        if arguments.out is not None:
            ledger = stack.enter_context(open_caption_ledger(arguments.out, captioner, arguments.instruction, sampling))
            num_done = sum(clip.id in ledger for clip in clips)
        outcomes = caption_clips(
            captioner,
            clips,
            ledger=ledger,
            batch_size=arguments.batch_size,
            instruction=arguments.instruction,
            sampling=sampling,
            audio=arguments.audio,
        )
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                failures.append(outcome)
                _report(outcome)
            else:
                _show(outcome, arguments.format)
    if arguments.out is not None:
        write_failures(arguments.out, failures)
        _print_summary(arguments.out, len(clips), num_done, len(failures))
    return failures


def _sampling(arguments: CaptionArguments, default: Sampling) -> Sampling:
    names = ("max_new_tokens", "temperature", "top_p", "seed")
    given: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    return dataclasses.replace(default, **{name: value for name, value in given.items() if value is not None})


def _show(caption: Caption, format_name: Format) -> None:
    text = FORMATS[format_name](caption)
    if format_name != "prose" or not sys.stdout.isatty():
        print(text, flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    heading, *body = text.split("\n")
    console = Console(highlight=False)
    console.print(Text(heading, style="dim"))
    for line in body:
        console.print(Text(line, style="yellow" if line.startswith("warning: ") else ""))
    console.print()


def _report(failure: Failure) -> None:
    print(printable(f"avocet caption: {failure.error}"), file=sys.stderr, flush=True)


def _print_summary(out: Path, num_clips: int, num_done: int, num_failures: int) -> None:
    parts = [f"{out}: {num_clips} clips asked for"]
    if num_done:
        parts.append(f"{num_done} were there already")
    if num_failures:
        parts.append(f"{num_failures} failed")
    print("; ".join(parts), file=sys.stderr)
