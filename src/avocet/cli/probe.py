"""`avocet probe MODEL CLIP`: does a model use sound and picture? `avocet probe --parity`: is our path transformers'?"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.errors import ConfigError

if TYPE_CHECKING:
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


def main(argv: list[str]) -> int:
    """Run `avocet probe`. Returns 2 when a stream is not used, or a parity case does not pass."""
    arguments = tyro.cli(
        ProbeArguments, args=argv, prog="avocet probe", config=(FlagCreatePairsOff,), description=__doc__
    )
    if arguments.parity:
        if arguments.inputs:
            raise ConfigError("--parity takes no MODEL CLIP; name a model with --model")
        return _parity(arguments)
    if len(arguments.inputs) != 2:
        raise ConfigError("name a model and one media file: avocet probe MODEL CLIP")
    return _audibility(arguments)


def _audibility(arguments: ProbeArguments) -> int:
    from avocet.captioning.captioner import load_captioner
    from avocet.captioning.probe import probe_clip
    from avocet.models.registry import ModelOptions

    name, path = arguments.inputs
    options = ModelOptions(layout=arguments.layout, fps=arguments.fps, max_frames=arguments.max_frames)
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
    for stream in report.unused:
        print(
            f"avocet probe: the {stream} changes nothing: {report.model} answers as if the clip had none "
            f"(every change of it moves the answer by at most {report.threshold_bits:.1e} bits)",
            file=sys.stderr,
        )
    return 2 if report.unused else 0


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

    console = Console(highlight=False)
    console.print(Text(f"{report.model} ({report.revision}) on {report.clip_id}", style="bold"))
    console.print(Text(f"its answer, {report.num_tokens} tokens: {report.answer}"), soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading, side in (("change", "left"), ("mean bits", "right"), ("max bits", "right"), ("other words", "right")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    table.add_column("answer's log-probability", justify="right")
    for effect in report.effects:
        table.add_row(*_cells(effect))
    console.print(table)
    for name, used in (
        ("sound", report.sound_used),
        ("picture", report.picture_used),
        ("time of the sound", report.sound_time_used),
        ("order of the frames", report.picture_order_used),
    ):
        verdict = {True: "used", False: "NOT USED", None: "not there to test"}[used]
        console.print(Text(f"{name}: {verdict}", style="red" if used is False else ""))


def _cells(effect: Effect) -> tuple[Any, ...]:
    if effect.skipped is not None:
        return effect.intervention, "-", "-", "-", f"skipped: {effect.skipped}"
    return (
        effect.intervention,
        f"{effect.mean_bits:.4f}",
        f"{effect.max_bits:.4f}",
        f"{100 * effect.changed_choices:.0f} %",
        f"{effect.mean_logp_change:+.3f}",
    )
