"""`avocet probe MODEL CLIP`: does a model use sound and picture? `avocet probe --parity`: is our path transformers'?

Exit code 2 when the clip has a stream whose content changes nothing or could not be tested.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.captioning.formats import printable
from avocet.errors import ConfigError

if TYPE_CHECKING:
    from rich.text import Text

    from avocet.captioning.probe import Effect, ProbeReport


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeArguments:
    """Change the sound or the picture of a clip and see whether a model's answer moves."""

    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="[MODEL CLIP]")]
    """A model name or checkpoint folder, and a media file."""
    other: Path | None = None
    """A clip whose sound is swapped in; without it the seconds of the clip's own sound are shuffled."""
    parity: bool = False
    """Compare our path with transformers' own processor and model instead; on tiny random models unless --model."""
    model: str | None = None
    """With --parity: a Qwen-Omni name or folder to compare on."""
    json: bool = False
    """Print JSON: one object, or with --parity one line per case."""
    instruction: str | None = None
    """What to ask of the model; its own default if not given."""
    max_tokens: int = 64
    """Tokens of the answer to look at."""
    shift_seconds: float = 2.0
    """How far the sound is moved in one of the changes."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    dtype: str = "auto"
    """auto, float32, bfloat16, float16, or 4bit where the model can."""
    revision: str | None = None
    """Version of the weights, for models that have several."""
    layout: str | None = None
    """Name of the model's layout to use."""
    fps: float | None = None
    """Frames per second to sample."""
    max_frames: int | None = None
    """The most frames of the clip."""
    patch_pixels: int | None = None
    """The most pixels of a temporal patch, for models that can be told."""
    total_pixels: int | None = None
    """The most pixels of all temporal patches of the clip, for models that can be told."""


def main(argv: list[str]) -> int:
    """Run `avocet probe`. Returns 2 when a stream is not used or not tested, or a parity case does not pass."""
    arguments = tyro.cli(
        ProbeArguments, args=argv, prog="avocet probe", config=(FlagCreatePairsOff,), description=__doc__
    )
    if arguments.parity:
        if arguments.inputs:
            raise ConfigError("--parity takes no MODEL CLIP; name a model with --model")
        if foreign := _given_flags(arguments) - {"--parity", "--model", "--json"}:
            raise ConfigError(f"{', '.join(sorted(foreign))}: not with --parity, which takes only --model and --json")
        return _parity(arguments)
    if arguments.model is not None:
        raise ConfigError("--model belongs to --parity; without it name the model first: avocet probe MODEL CLIP")
    if len(arguments.inputs) != 2:
        raise ConfigError("name a model and one media file: avocet probe MODEL CLIP")
    return _use_of_streams(arguments)


def _given_flags(arguments: ProbeArguments) -> set[str]:
    fields = [field for field in dataclasses.fields(arguments) if field.name != "inputs"]
    changed = [field.name for field in fields if getattr(arguments, field.name) != field.default]
    return {"--" + name.replace("_", "-") for name in changed}


def _use_of_streams(arguments: ProbeArguments) -> int:
    from avocet.captioning.captioner import load_captioner
    from avocet.captioning.probe import probe_clip
    from avocet.models.registry import ModelOptions

    name, path = arguments.inputs
    options = ModelOptions(
        layout=arguments.layout,
        fps=arguments.fps,
        max_frames=arguments.max_frames,
        patch_pixels=arguments.patch_pixels,
        total_pixels=arguments.total_pixels,
    )
    captioner = load_captioner(name, arguments.device, arguments.dtype, arguments.revision, options)
    report = probe_clip(
        captioner,
        captioner.open(path).clip,
        other=None if arguments.other is None else captioner.open(str(arguments.other)).clip,
        instruction=arguments.instruction,
        max_tokens=arguments.max_tokens,
        shift_seconds=arguments.shift_seconds,
    )
    if arguments.json:
        print(report.to_json_line())
    else:
        _print_report(report)
    problems = _problems(report)
    for problem in problems:
        print(printable(f"avocet probe: {problem}"), file=sys.stderr)
    return 2 if problems else 0


def _problems(report: ProbeReport) -> list[str]:
    """One line for each stream of the clip that is not used, or of which that cannot be said."""
    lines = []
    for stream in report.unused:
        presence = report.largest_bits(stream, "presence")
        if presence is not None and presence > report.threshold_bits:
            how = f"the same whatever its content, only taking it away moves the answer, by {presence:.1e} bits"
        else:
            how = "as if the clip had none"
        lines.append(
            f"the {stream} changes nothing: {report.model} answers {how} (largest divergence when its content changes "
            f"{report.largest_bits(stream, 'content', 'time'):.1e} bits; at most {report.threshold_bits:.1e} is noise)"
        )
    for stream in report.untested:
        reasons = dict.fromkeys(effect.skipped for effect in report.effects if effect.stream == stream)
        said = "; ".join(reason for reason in reasons if reason)
        lines.append(f"the {stream} could not be tested: {said}; try another clip")
    return lines


def _parity(arguments: ProbeArguments) -> int:
    from avocet.models.qwen_omni.parity import check_parity

    num_failed = 0
    if not arguments.json:
        print(_row(("model", "case", "tokens", "ids", "positions", "logits", "transformers")))
    for row in check_parity(arguments.model):
        num_failed += not row.passed
        if arguments.json:
            print(row.to_json_line(), flush=True)
            continue
        logits = "-" if row.max_logit_difference is None else f"{row.max_logit_difference:.1e}"
        same = ("equal" if row.ids_equal else "differ", "equal" if row.positions_equal else "differ")
        said = "" if row.passed else "FAILED; "
        wrong = "right" if row.expected == "equal" else f"wrong: {row.expected}"
        print(_row((row.family, row.case, str(row.num_tokens), *same, logits, said + wrong)), flush=True)
    if num_failed:
        print(f"avocet probe: {num_failed} parity cases did not pass", file=sys.stderr)
    return 2 if num_failed else 0


def _row(cells: Sequence[str]) -> str:
    widths = (13, 34, 7, 7, 10, 8)
    padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)]
    return " ".join([*padded, *cells[len(widths) :]]).rstrip()


def _print_report(report: ProbeReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(printable(f"{report.model} ({report.revision}) on {report.clip_id}"), style="bold"))
    console.print(Text(printable(f"its answer, {report.num_tokens} tokens: {report.answer}")))
    for warning in report.warnings:
        console.print(Text(printable(f"warning: {warning}"), style="yellow"))
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("change")
    for heading in ("mean bits", "max bits", "other words", "answer's log-probability"):
        table.add_column(heading, justify="right")
    for effect in report.effects:
        if effect.skipped is None:
            table.add_row(*_cells(effect))
    console.print(table)
    for effect in report.effects:
        if effect.skipped is not None:
            console.print(Text(printable(f"{effect.intervention} was skipped: {effect.skipped}"), style="dim"))
    for line in _verdicts(report):
        console.print(line)


def _cells(effect: Effect) -> tuple[str, ...]:
    numbers = (effect.mean_bits, effect.max_bits, effect.changed_choices, effect.mean_logp_change)
    mean, largest, changed, logp = (math.nan if number is None else number for number in numbers)
    return effect.intervention, f"{mean:.4f}", _bits(largest), f"{100 * changed:.0f} %", f"{logp:+.3f}"


def _bits(bits: float) -> str:
    # Small but real must not look like the zero of a stream that never arrived.
    return f"{bits:.4f}" if bits == 0 or bits >= 0.001 else f"{bits:.0e}"


def _verdicts(report: ProbeReport) -> list[Text]:
    from rich.text import Text

    lines = []
    for name, present, used in (
        ("sound", report.has_sound, report.sound_used),
        ("picture", report.has_picture, report.picture_used),
        ("time of the sound", report.has_sound, report.sound_time_used),
        ("order of the frames", report.has_picture, report.picture_order_used),
    ):
        untold = "could not be tested" if present else "not in the clip"
        verdict = {True: "used", False: "NOT USED", None: untold}[used]
        lines.append(Text(f"{name}: {verdict}", style="red" if used is False else ""))
    return lines
