"""`avocet caption FILE...`: captions to the terminal or one file each, and with `--out` to a resumable JSONL file."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.captioning.formats import FORMATS, SUBTITLES, Format, printable
from avocet.captioning.styles import Style
from avocet.errors import ConfigError
from avocet.records import AudioPolicy, Caption, ClipRef, Failure, RepetitionGuard, Sampling

if TYPE_CHECKING:
    from avocet.captioning.instructions import InstructionChoice
    from avocet.ledger import Ledger
    from avocet.models.registry import ModelOptions


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
    """prose for reading, json (one record per line), markdown, or subtitles of one clip: vtt (WebVTT), srt (SubRip)."""
    documents: Path | None = None
    """Write each caption to a file of its own in this folder, replacing it, instead of printing it."""
    instruction: str | None = None
    """What to ask of the model; its own default if not given."""
    style: Style | None = None
    """Ask in one of our own wordings instead: full (picture and sound), visual, ugc (one paragraph), dream (events)."""
    instruction_seed: int | None = None
    """Which wording of --style each clip gets; 0 if not given."""
    instructions_from: Path | None = None
    """Ask each clip what this file says: the test file of video-SALMONN 2, DREAM-1K or UGC-VideoCap, JSON lines
    {"video": ..., "instruction": ...}, or a .txt file with one instruction for all."""
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
    repetition_penalty: float | None = None
    """Above 1 makes words that were written already less likely; 1 changes nothing."""
    repetition_guard: RepetitionGuard | None = None
    """A caption that runs in a loop: off lets it, stop ends it, retry ends it and tries once more with a penalty."""
    logprobs: bool = False
    """Keep the log-probability of each token in the records."""
    batch_size: int = 8
    """Clips per forward pass."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16."""
    revision: str | None = None
    """Version of the weights, for models that have several."""
    layout: str | None = None
    """Rule by which the model orders picture and sound, for models that have several."""
    fps: float | None = None
    """Frames per second to sample, for models that can be told."""
    max_frames: int | None = None
    """The most frames of a clip, for models that can be told."""
    patch_pixels: int | None = None
    """The most pixels of a temporal patch, for models that can be told."""
    total_pixels: int | None = None
    """The most pixels of all temporal patches of a clip, for models that can be told."""


def main(argv: list[str]) -> int:
    """Run `avocet caption`. Returns 2 when a clip failed, else 0."""
    arguments = tyro.cli(
        CaptionArguments, args=argv, prog="avocet caption", config=(FlagCreatePairsOff,), description=__doc__
    )
    if not arguments.files:
        print("avocet caption: name at least one media file or folder", file=sys.stderr)
        return 2
    return 2 if _caption_all(arguments) else 0


def _caption_all(arguments: CaptionArguments) -> int:
    """How many clips could not be captioned, or captioned but not put out in the format asked for."""
    from avocet.captioning.bulk import find_clips, find_instructions, write_failures

    instruction = _instruction(arguments)
    found, failures = find_clips(arguments.files, arguments.start, arguments.end)
    output = _Output(arguments, found)
    clips, unasked = find_instructions(found, instruction)
    failures += unasked
    for failure in failures:
        _report(failure.error)
    # Large models take minutes to load: not for nothing.
    num_done = _caption_clips(arguments, clips, instruction, output, failures) if clips else 0
    if arguments.out is not None:
        write_failures(arguments.out, failures)
        _print_summary(arguments.out, len(found), num_done, len(failures))
    return len(failures) + output.num_refused


def _caption_clips(
    arguments: CaptionArguments,
    clips: Sequence[ClipRef],
    instruction: InstructionChoice,
    output: _Output,
    failures: list[Failure],
) -> int:
    """Caption what is missing, adding to `failures`; how many were there already."""
    from avocet.captioning.bulk import caption_clips, open_caption_ledger
    from avocet.captioning.captioner import load_captioner

    captioner = load_captioner(
        arguments.model, arguments.device, arguments.dtype, arguments.revision, _options(arguments)
    )
    sampling = _sampling(arguments, captioner.model.default_sampling)
    num_done = 0
    with contextlib.ExitStack() as stack:
        ledger = None
        if arguments.out is not None:
            ledger = open_caption_ledger(arguments.out, captioner, instruction, sampling, keep_logps=arguments.logprobs)
            stack.enter_context(ledger)
            num_done = sum(clip.id in ledger for clip in clips)
            output.write_recorded(ledger)
        for outcome in caption_clips(
            captioner,
            clips,
            ledger=ledger,
            batch_size=arguments.batch_size,
            instruction=instruction,
            sampling=sampling,
            audio=arguments.audio,
            keep_logps=arguments.logprobs,
        ):
            if isinstance(outcome, Failure):
                failures.append(outcome)
                _report(outcome.error)
            else:
                output.put(outcome)
    return num_done


def _instruction(arguments: CaptionArguments) -> InstructionChoice:
    from avocet.captioning.instructions import InstructionFile, StyleRule

    names = ("instruction", "style", "instructions_from")
    given = ["--" + name.replace("_", "-") for name in names if getattr(arguments, name) is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} exclude each other; give one of them")
    if arguments.instruction_seed is not None and arguments.style is None:
        raise ConfigError("--instruction-seed chooses among the wordings of a --style; give one, or leave it out")
    if arguments.style is not None:
        return StyleRule(style=arguments.style, seed=arguments.instruction_seed or 0)
    if arguments.instructions_from is not None:
        return InstructionFile.read(arguments.instructions_from)
    return arguments.instruction


def _options(arguments: CaptionArguments) -> ModelOptions:
    from avocet.models.registry import ModelOptions

    return ModelOptions(
        layout=arguments.layout,
        fps=arguments.fps,
        max_frames=arguments.max_frames,
        patch_pixels=arguments.patch_pixels,
        total_pixels=arguments.total_pixels,
    )


def _sampling(arguments: CaptionArguments, default: Sampling) -> Sampling:
    names = ("max_new_tokens", "temperature", "top_p", "seed", "repetition_penalty", "repetition_guard")
    given: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    return dataclasses.replace(default, **{name: value for name, value in given.items() if value is not None})


class _Output:
    """Where captions go: to the terminal, or to one file each."""

    def __init__(self, arguments: CaptionArguments, clips: Sequence[ClipRef]) -> None:
        from avocet.captioning.documents import document_paths

        self.num_refused = 0
        """Captions that the format cannot hold."""
        self._format = arguments.format
        self._paths: dict[str, Path] | None = None
        if arguments.documents is not None:
            self._paths = document_paths(clips, arguments.documents, arguments.format)
        elif arguments.format in SUBTITLES and len(clips) > 1:
            raise ConfigError(
                f"--format {arguments.format} describes one clip, not {len(clips)}; add --documents FOLDER to get one "
                "file for each"
            )

    def put(self, caption: Caption) -> None:
        """Print one caption, or write it and print where; one line on stderr when the format cannot hold it."""
        try:
            if self._paths is None:
                _show(caption, self._format)
            else:
                print(printable(str(self._write(caption))), flush=True)
        except ConfigError as error:
            self._refuse(error)

    def write_recorded(self, ledger: Ledger) -> None:
        """Write the files of captions that an earlier run has recorded: it may have been stopped before it wrote them,
        or have had another format."""
        for record in ledger.records():
            if self._paths is not None and record["clip_id"] in self._paths:
                try:
                    self._write(Caption.from_dict(record))
                except ConfigError as error:
                    self._refuse(error)

    def _write(self, caption: Caption) -> Path:
        from avocet.captioning.documents import write_document

        return write_document(self._paths or {}, caption, self._format)

    def _refuse(self, error: ConfigError) -> None:
        self.num_refused += 1
        _report(str(error))


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


def _report(error: str) -> None:
    print(printable(f"avocet caption: {error}"), file=sys.stderr, flush=True)


def _print_summary(out: Path, num_clips: int, num_done: int, num_failures: int) -> None:
    parts = [f"{out}: {num_clips} clips asked for"]
    if num_done:
        parts.append(f"{num_done} were there already")
    if num_failures:
        parts.append(f"{num_failures} failed")
    print("; ".join(parts), file=sys.stderr)
