"""`avocet inspect FILE...`: what is read from a media file and what a model makes of it.

A table for people, JSON lines for programs (`--json`), a page with picture, sound and tokens on one time axis
(`--html`).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.errors import ConfigError, LayoutError, MediaError
from avocet.records import SAMPLE_RATE, AudioPolicy

if TYPE_CHECKING:
    from avocet.captioning.captioner import Captioner
    from avocet.models.interface import Prompt
    from avocet.models.layout import TokenPlan
    from avocet.records import Clip
    from avocet.review.clip_page import ClipView

_MODEL_FLAGS = ("layout", "patch_pixels", "total_pixels")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectArguments:
    """Show what is read from media files: source facts, frame times, sound, warnings."""

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE [FILE ...]")]
    """Media files or URLs."""
    json: bool = False
    """Print one JSON object per file and line."""
    html: Path | None = None
    """Write a page that shows it: the page's path for one file, a folder for several or where it exists. Pages that
    are there are replaced."""
    model: str | None = None
    """Show also what this model makes of it: its frame rate, and the order and times of its media tokens."""
    layout: str | None = None
    """With --model: another layout rule of the model ("tmrope" or "released" for the Qwen-Omni family)."""
    patch_pixels: int | None = None
    """With --model: the most pixels of a temporal patch."""
    total_pixels: int | None = None
    """With --model: the most pixels of all temporal patches of a clip together."""
    fps: float | None = None
    """Frames per second to sample; 2, or what the model asks for."""
    max_frames: int | None = None
    """The most frames to take, longer clips are sampled more sparsely; 768, or what the model asks for."""
    max_pixels: int | None = None
    """The most pixels per frame, larger pictures are scaled down; no limit, or what the model asks for."""
    start_seconds: float | None = None
    """Read only from this second on."""
    end_seconds: float | None = None
    """Read only up to this second."""
    audio: AudioPolicy = "auto"
    """auto: use sound where there is any; require: a clip without usable sound is an error; ignore."""


def main(argv: list[str]) -> int:
    """Run `avocet inspect`. Returns 2 when a file could not be read, after showing all others."""
    arguments = tyro.cli(
        InspectArguments, args=argv, prog="avocet inspect", config=(FlagCreatePairsOff,), description=__doc__
    )
    if not arguments.files:
        print("avocet inspect: name at least one media file", file=sys.stderr)
        return 2
    pages = page_paths(arguments.files, arguments.html) if arguments.html is not None else None
    captioner = _load(arguments)
    num_failed = 0
    for place, path in enumerate(arguments.files):
        try:
            clip = _open(path, arguments, captioner)
        except ConfigError as error:  # the arguments are wrong for every file
            print(f"avocet inspect: {error}", file=sys.stderr)
            return 2
        except MediaError as error:
            print(f"avocet inspect: {_plain(str(error))}", file=sys.stderr)
            num_failed += 1
            continue
        try:
            prompt = captioner.model.prepare(clip, captioner.model.default_instruction) if captioner else None
        except (ConfigError, LayoutError) as error:  # the model cannot take this one clip
            print(f"avocet inspect: {_plain(path)}: {_plain(str(error))}", file=sys.stderr)
            num_failed += 1
            continue
        _show(arguments, clip, prompt, captioner, None if pages is None else pages[place])
    return 2 if num_failed else 0


def _show(
    arguments: InspectArguments, clip: Clip, prompt: Prompt | None, captioner: Captioner | None, page: Path | None
) -> None:
    if arguments.json:
        facts = clip_facts(clip)
        if prompt is not None and captioner is not None:
            facts |= model_facts(prompt, captioner)
            facts["warnings"] = list(_view(clip, prompt, captioner).all_warnings)
        print(json.dumps(facts, ensure_ascii=False), flush=True)
    else:
        _print_table(clip, prompt, captioner)
    if page is not None:
        from avocet.review.clip_page import write_clip_page

        print(
            f"avocet inspect: wrote {_plain(str(write_clip_page(page, _view(clip, prompt, captioner))))}",
            file=sys.stderr,
        )


def page_paths(files: Sequence[str], out: Path) -> list[Path]:
    """Where each file's page goes: `out` for one file, else `out`/NAME.html with a number where names repeat.

    Raises `ConfigError` when a page would replace one of the files, or a file stands where the folder should.
    """
    if len(files) == 1 and not out.is_dir():
        paths = [out]
    else:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"--html {out} is a file; the pages of {len(files)} files need a folder")
        paths, taken = [], set()
        for file in files:
            stem = name = Path(urlsplit(file).path if "://" in file else file).stem or "clip"
            repeats = 1
            while name.casefold() in taken:
                repeats += 1
                name = f"{stem}-{repeats}"
            taken.add(name.casefold())
            paths.append(out / f"{name}.html")
    given = {Path(file).resolve() for file in files}
    for path in paths:
        if path.resolve() in given:
            raise ConfigError(f"--html {path} would replace the file that is to be inspected; name another")
    return paths


def model_facts(prompt: Prompt, captioner: Captioner) -> dict[str, Any]:
    """What the model makes of a clip, as JSON types: "model", "prompt" and "layout"."""
    text = _prompt_text(prompt, captioner)
    num_tokens = len(prompt.token_ids)
    return {
        "model": {"id": captioner.model_id, "revision": captioner.revision},
        "prompt": {
            "num_tokens": num_tokens,
            "num_visual_tokens": prompt.layout.num_visual_tokens,
            "num_audio_tokens": prompt.layout.num_audio_tokens,
            "num_text_tokens": num_tokens - len(prompt.layout),
            "frames_shape": list(prompt.frames.shape),
            "mel_shape": None if prompt.mel is None else list(prompt.mel.shape),
            "media": dict(prompt.media),
            "instruction": prompt.instruction,
            "text": None if text is None else [list(piece) for piece in text],
        },
        "layout": layout_facts(prompt.layout, captioner.model.layout_rule),
    }


def layout_facts(layout: TokenPlan, rule: str) -> dict[str, Any]:
    """The token plan as JSON types.

    "tokens" has one [stream, start_seconds, end_seconds] per media token, in order, followed by its three rotary
    positions [time, height, width] where the rule has them.
    """
    from avocet.review.token_runs import STREAM_NAMES, largest_position_distance, largest_reading_gap, token_runs

    streams = [STREAM_NAMES[stream] for stream in layout.stream]
    starts, ends = layout.start_seconds.round(6).tolist(), layout.end_seconds.round(6).tolist()
    places = [] if layout.positions is None else layout.positions.tolist()
    gap, distance = largest_reading_gap(token_runs(layout)), largest_position_distance(layout)
    return {
        "rule": rule,
        "num_visual_tokens": layout.num_visual_tokens,
        "num_audio_tokens": layout.num_audio_tokens,
        "largest_reading_gap_seconds": None if gap is None else round(gap.value, 6),
        "largest_position_distance": None if distance is None else distance.value,
        "positions_range": {
            axis: [min(values), max(values)] for axis, values in zip(("time", "height", "width"), places, strict=False)
        }
        or None,
        "end_position": layout.end_position,
        "tokens": [list(token) for token in zip(streams, starts, ends, *places, strict=True)],
    }


def layout_lines(layout: TokenPlan) -> list[str]:
    """The token plan in words, a line for each run of tokens of one stream and, for frames, of one time."""
    from avocet.review.clip_facts import number
    from avocet.review.token_runs import token_runs

    return [
        f"{run.count:3} {run.name:<6} {number(run.start_seconds)} to {number(run.end_seconds)} s"
        for run in token_runs(layout)
    ]


def clip_facts(clip: Clip) -> dict[str, Any]:
    """Everything about a clip but its pixels and samples, as JSON types; levels are dBFS, None for digital silence."""
    from avocet.review.clip_facts import levels

    peak, loudness = levels(clip)
    return {
        "id": clip.id,
        "path": clip.source.path,
        "start_seconds": clip.start_seconds,
        "duration_seconds": clip.duration_seconds,
        "num_frames": clip.num_frames,
        "frame_width": int(clip.frames.shape[3]),
        "frame_height": int(clip.frames.shape[2]),
        "frame_times_seconds": clip.frame_times_seconds.tolist(),
        "audio_status": clip.audio_status,
        "num_samples": 0 if clip.waveform is None else len(clip.waveform),
        "sample_rate": SAMPLE_RATE,
        "peak_dbfs": peak,
        "rms_dbfs": loudness,
        "source": dataclasses.asdict(clip.source),
        "warnings": list(clip.warnings),
    }


def _load(arguments: InspectArguments) -> Captioner | None:
    given = {name: value for name in _MODEL_FLAGS if (value := getattr(arguments, name)) is not None}
    if arguments.model is None:
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"{flags}: only with --model, it is the model that has such a setting")
        return None
    from avocet.captioning.captioner import Captioner
    from avocet.models.registry import ModelOptions, load_model

    loaded = load_model(arguments.model, device="auto", dtype="auto", revision=None, options=ModelOptions(**given))
    return Captioner(loaded.model, loaded.model_id, loaded.revision)


def _open(path: str, arguments: InspectArguments, captioner: Captioner | None) -> Clip:
    from avocet.media import open_clip

    model = captioner.model if captioner else None
    fps, max_frames = (model.clip_fps, model.max_frames) if model else (2.0, 768)
    max_pixels = model.max_pixels if model else None
    return open_clip(
        path,
        fps=fps if arguments.fps is None else arguments.fps,
        max_frames=max_frames if arguments.max_frames is None else arguments.max_frames,
        max_pixels=max_pixels if arguments.max_pixels is None else arguments.max_pixels,
        start_seconds=arguments.start_seconds,
        end_seconds=arguments.end_seconds,
        audio=arguments.audio,
    )


def _view(clip: Clip, prompt: Prompt | None, captioner: Captioner | None) -> ClipView:
    from avocet.review.clip_page import ClipView

    if prompt is None or captioner is None:
        return ClipView(clip=clip)
    world_warning = captioner.world_warning(clip)
    return ClipView(
        clip=clip,
        prompt=prompt,
        model_id=captioner.model_id,
        revision=captioner.revision,
        layout_rule=captioner.model.layout_rule,
        prompt_text=_prompt_text(prompt, captioner),
        warnings=() if world_warning is None else (world_warning,),
    )


def _prompt_text(prompt: Prompt, captioner: Captioner) -> list[tuple[str, int]] | None:
    from avocet.review.token_runs import prompt_pieces

    tokenizer = captioner.model.tokenizer
    return None if tokenizer is None else prompt_pieces(prompt.token_ids, tokenizer)


def _print_table(clip: Clip, prompt: Prompt | None, captioner: Captioner | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from avocet.review.clip_facts import clip_rows, source_rows

    tags = [(f"tag {key}", value) for key, value in clip.source.tags.items() if key.lower() in ("title", "comment")]
    rows = [*source_rows(clip), *tags, *clip_rows(clip)]
    if prompt is not None and captioner is not None:
        rows += _model_rows(prompt, captioner)
    # A view brings PyTorch along, which takes a second and is there already only when a model is.
    warnings = clip.warnings if prompt is None else _view(clip, prompt, captioner).all_warnings
    rows += [("warning", warning) for warning in warnings]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), title_justify="left")
    table.title = Text(_plain(clip.source.path), style="bold")
    for name, value in rows:
        table.add_row(Text(_plain(name), style="dim"), Text(_plain(value), style="yellow" if name == "warning" else ""))
    for number, line in enumerate([] if prompt is None else layout_lines(prompt.layout)):
        table.add_row(Text("tokens" if number == 0 else "", style="dim"), line)
    Console(highlight=False, soft_wrap=True).print(table)


def _model_rows(prompt: Prompt, captioner: Captioner) -> list[tuple[str, str]]:
    from avocet.review.clip_page import alignment_lines

    plan = prompt.layout
    num_text = len(prompt.token_ids) - len(plan)
    counts = f"{plan.num_visual_tokens} visual, {plan.num_audio_tokens} audio and {num_text} text tokens"
    rows = [("model", f"{captioner.model_id} ({captioner.revision}), layout {captioner.model.layout_rule}")]
    return [*rows, ("prompt", counts), *(("timing", sentence) for _, sentence in alignment_lines(plan))]


def _plain(text: str) -> str:
    """Text from outside on one line and without control characters, which could drive the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
