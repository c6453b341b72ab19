"""`avocet inspect FILE...`: what is read from a media file, for people or, with `--json`, for programs."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.errors import ConfigError, LayoutError, MediaError
from avocet.records import SAMPLE_RATE, AudioPolicy

if TYPE_CHECKING:
    from avocet.models.interface import CaptionModel
    from avocet.models.layout import TokenPlan
    from avocet.records import Clip


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectArguments:
    """Show what is read from media files: source facts, frame times, sound, warnings."""

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE [FILE ...]")]
    """Media files or URLs."""
    json: bool = False
    """Print one JSON object per file and line."""
    model: str | None = None
    """Show also what this model makes of it: its frame rate, and the order and times of its media tokens."""
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
    """Run `avocet inspect`. Returns 2 when a file could not be read, after printing all others."""
    arguments = tyro.cli(
        InspectArguments, args=argv, prog="avocet inspect", config=(FlagCreatePairsOff,), description=__doc__
    )
    if not arguments.files:
        print("avocet inspect: name at least one media file", file=sys.stderr)
        return 2
    model = _load(arguments.model) if arguments.model else None
    num_failed = 0
    for path in arguments.files:
        try:
            clip = _open(path, arguments, model)
        except ConfigError as error:  # the arguments are wrong for every file
            print(f"avocet inspect: {error}", file=sys.stderr)
            return 2
        except MediaError as error:
            print(f"avocet inspect: {_plain(str(error))}", file=sys.stderr)
            num_failed += 1
            continue
        try:
            layout = model.prepare(clip, model.default_instruction).layout if model else None
        except (ConfigError, LayoutError) as error:  # the model cannot take this one clip
            print(f"avocet inspect: {_plain(path)}: {_plain(str(error))}", file=sys.stderr)
            num_failed += 1
            continue
        if arguments.json:
            facts = clip_facts(clip)
            if layout is not None and model is not None:
                facts["layout"] = layout_facts(layout, model.layout_rule)
            print(json.dumps(facts, ensure_ascii=False), flush=True)
        else:
            _print_table(clip, [] if layout is None else layout_lines(layout))
    return 2 if num_failed else 0


def layout_facts(layout: TokenPlan, rule: str) -> dict[str, Any]:
    """The token plan as JSON types: one [stream, start_seconds, end_seconds] per media token, in order."""
    streams = ["visual" if stream == 0 else "audio" for stream in layout.stream]
    starts, ends = layout.start_seconds.round(6).tolist(), layout.end_seconds.round(6).tolist()
    return {
        "rule": rule,
        "num_visual_tokens": layout.num_visual_tokens,
        "num_audio_tokens": layout.num_audio_tokens,
        "tokens": [list(token) for token in zip(streams, starts, ends, strict=True)],
    }


def layout_lines(layout: TokenPlan) -> list[str]:
    """The token plan in words, a line for each run of tokens of one stream and, for frames, of one time."""
    runs: list[list[Any]] = []  # [stream, start, end, count]
    for stream, start, end in zip(
        layout.stream.tolist(), layout.start_seconds.tolist(), layout.end_seconds.tolist(), strict=True
    ):
        last = runs[-1] if runs else None
        if last and last[0] == stream and (stream == 1 or last[1] == start):
            last[2], last[3] = end, last[3] + 1
        else:
            runs.append([stream, start, end, 1])
    names = ("visual", "audio")
    return [f"{count:3} {names[stream]:<6} {_number(start)} to {_number(end)} s" for stream, start, end, count in runs]


def clip_facts(clip: Clip) -> dict[str, Any]:
    """Everything about a clip but its pixels and samples, as JSON types; levels are dBFS, None for digital silence."""
    peak, loudness = _levels(clip)
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


def _load(name: str) -> CaptionModel:
    from avocet.models.registry import load_model

    return load_model(name, device="auto", dtype="auto", revision=None).model


def _open(path: str, arguments: InspectArguments, model: CaptionModel | None) -> Clip:
    from avocet.media import open_clip

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


def _levels(clip: Clip) -> tuple[float | None, float | None]:
    """Peak and root mean square of the waveform in dBFS; None where there is nothing to measure."""
    import numpy as np

    if clip.waveform is None or not len(clip.waveform):
        return None, None
    peak = float(np.abs(clip.waveform).max())
    loudness = float(np.sqrt(np.mean(np.square(clip.waveform, dtype=np.float64))))
    return _decibels(peak), _decibels(loudness)


def _decibels(amplitude: float) -> float | None:
    return round(20 * math.log10(amplitude), 1) if amplitude > 0 else None


def _print_table(clip: Clip, layout: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), title_justify="left")
    table.title = Text(_plain(clip.source.path), style="bold")
    for name, value in _rows(clip):
        table.add_row(Text(name, style="dim"), Text(value, style="yellow" if name == "warning" else ""))
    for number, line in enumerate(layout):
        table.add_row(Text("tokens" if number == 0 else "", style="dim"), line)
    Console(highlight=False, soft_wrap=True).print(table)


def _rows(clip: Clip) -> list[tuple[str, str]]:
    source = clip.source
    rows = [("container", f"{source.container}, {_number(source.duration_seconds)} s")]
    if source.start_time_seconds:
        rows.append(("starts at", f"{_number(source.start_time_seconds)} s (raw timestamp, shown as 0)"))
    if source.video_codec is not None:
        turned = f", turned {source.rotation_degrees} degrees counterclockwise" if source.rotation_degrees else ""
        rate = f", {_number(source.average_fps)} frames/s" if source.average_fps else ""
        rows.append(("video", f"{source.video_codec}, {source.width}x{source.height}{rate}{turned}"))
    if source.audio_codec is not None:
        rows.append(("audio", f"{source.audio_codec}, {source.audio_sample_rate} Hz, {source.audio_channels} channels"))
    rows += [
        (f"tag {_plain(key)}", _plain(value))
        for key, value in source.tags.items()
        if key.lower() in ("title", "comment")
    ]
    rows.append(("interval", f"{_number(clip.start_seconds)} to {_number(clip.end_seconds)} s"))
    rows.append(("frames", _frames_line(clip)))
    rows.append(("sound", _sound_line(clip)))
    return rows + [("warning", _plain(warning)) for warning in clip.warnings]


def _frames_line(clip: Clip) -> str:
    if not clip.num_frames:
        return "none"
    times = [_number(float(time)) for time in clip.frame_times_seconds]
    if len(times) > 8:
        times = [*times[:4], "...", *times[-2:]]
    return f"{clip.num_frames} of {clip.frames.shape[3]}x{clip.frames.shape[2]} at {' '.join(times)} s"


def _sound_line(clip: Clip) -> str:
    if clip.waveform is None:
        return clip.audio_status
    peak, loudness = _levels(clip)
    levels = "digital silence" if peak is None else f"peak {peak:.1f} dBFS, RMS {loudness:.1f} dBFS"
    seconds = _number(len(clip.waveform) / SAMPLE_RATE)
    return f"{clip.audio_status}, {seconds} s ({len(clip.waveform)} samples at 16 kHz mono), {levels}"


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _plain(text: str) -> str:
    """Text from outside on one line and without control characters, which could drive the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
