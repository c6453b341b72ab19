"""`avocet data check FILES...` before a GPU is spent, `avocet data convert IN... --to FORMAT --out PATH`.

Exit codes of `check`: 0 nothing is broken, 1 something is, 2 it could not be checked. `convert` ends with 1 when items
were rejected or skipped, with what could be converted written.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.captioning.formats import printable
from avocet.errors import ConfigError

if TYPE_CHECKING:
    from avocet.training.data import CheckReport, ConvertReport, ExampleSet

Verb = Literal["check", "convert"]
ReadFormat = Literal[
    "auto", "native", "v1", "plus", "llava", "ms_swift", "trl", "librispeech", "audiocaps", "webdataset"
]
WriteFormat = Literal["native", "v1", "plus", "llava", "ms_swift", "trl", "webdataset", "ms-swift", "vs2-dpo"]
ChosenTask = Literal["caption", "local_caption", "qa", "asr", "audio_caption"]

_SHOWN = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataArguments:
    """Check training data, or write it in another format."""

    verb: Annotated[Positional[Verb], arg(metavar="{check,convert}")]
    """check: open every item's media and report what is broken; convert: write another format."""
    paths: Annotated[Positional[tuple[str, ...]], arg(metavar="FILES")]
    """Files or folders of training data, of any known format."""
    format: ReadFormat = "auto"
    """What the files are; auto recognises by content."""
    media_root: Path | None = None
    """Where relative media paths begin; the folder of each file if not given."""
    task: ChosenTask | None = None
    """The task of every item, instead of its own or a guess by its question."""
    limit: int | None = None
    """Only the first so many items of each file."""
    cache: Path | None = None
    """Where clips of tar shards are extracted to; avocet-media beside the shard if not given."""
    out: Path | None = None
    """check: a folder for report.json, report.md and the ledger of an interrupted check; convert: what to write."""
    decode: bool = False
    """check: decode every clip in full, not only its header."""
    model: str | None = None
    """check: count prompt and target tokens with this model's tokenizer and layout (decodes every clip)."""
    max_tokens: int | None = None
    """check: with --model, the most tokens of prompt and target together."""
    workers: int = 2
    """check: processes that read media."""
    json: bool = False
    """Print the report as one JSON object."""
    to: WriteFormat | None = None
    """convert: the format to write; ms-swift is ms_swift, vs2-dpo (the released preference data) is plus."""
    instruction: str = ""
    """convert: what foreign formats ask where an item has no instruction, which means the model's own."""
    write_sound: bool = False
    """convert --to v1: write each video's sound as a wav file, which the released trainer reads it from."""
    relative_to: Path | None = None
    """convert: write media paths below this folder relative to it; otherwise absolute."""


_ONLY: dict[Verb, tuple[str, ...]] = {
    "check": ("decode", "model", "max_tokens", "workers"),
    "convert": ("to", "write_sound", "relative_to", "instruction"),
}
"""Options of one verb, refused with the other."""


def main(argv: list[str]) -> int:
    """Run `avocet data`."""
    arguments = tyro.cli(
        DataArguments, args=argv, prog="avocet data", config=(FlagCreatePairsOff,), description=__doc__
    )
    if not arguments.paths:
        raise ConfigError(f"name at least one file: avocet data {arguments.verb} FILES")
    _refuse_foreign(arguments)
    from avocet.training.data import read_examples

    data = read_examples(
        arguments.paths,
        format=arguments.format,
        media_root=arguments.media_root,
        task=arguments.task,
        limit=arguments.limit,
        cache=arguments.cache,
    )
    return _check(arguments, data) if arguments.verb == "check" else _convert(arguments, data)


def _refuse_foreign(arguments: DataArguments) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(arguments)}
    for verb, names in _ONLY.items():
        for name in names:
            if verb != arguments.verb and getattr(arguments, name) != defaults[name]:
                raise ConfigError(f"--{name.replace('_', '-')} belongs to avocet data {verb}")


def _check(arguments: DataArguments, data: ExampleSet) -> int:
    from avocet.training.data import check_examples

    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
    report = check_examples(
        data,
        model=arguments.model,
        decode=arguments.decode,
        max_tokens=arguments.max_tokens,
        workers=arguments.workers,
        ledger=None if arguments.out is None else arguments.out / "media.jsonl",
        progress=_progress_line(),
    )
    if arguments.out is not None:
        (arguments.out / "report.json").write_text(report.to_json_line() + "\n", encoding="utf-8")
        (arguments.out / "report.md").write_text(report.markdown(), encoding="utf-8")
    print(report.to_json_line() if arguments.json else printable("\n".join(_summary(data, report))))
    return 1 if report.num_broken else 0


def _progress_line() -> Callable[[int, int], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        print(f"\r{done}/{total} clips", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def _summary(data: ExampleSet, report: CheckReport) -> list[str]:
    lines = [f"{path}: {found}" for path, found in data.formats.items()]
    tasks = ", ".join(f"{task} {count}" for task, count in sorted(report.tasks.items()))
    lines.append(
        f"{report.num_examples} examples ({tasks or 'none'}) and {report.num_pairs} pairs on {report.num_clips} clips"
    )
    lines.append(
        "sound: " + (", ".join(f"{status} {count}" for status, count in sorted(report.sound.items())) or "none")
    )
    for name, one in report.lengths.items():
        lines.append(
            f"{name}: mean {one.mean:.1f}, median {one.median:.1f}, 99 % {one.percentile_99:.1f}, largest "
            f"{one.largest:.1f}, together {one.total:.0f} {one.unit}"
        )
    lines += [f"{count} x {note}" for note, count in sorted(data.notes.items())]
    lines += _first([f"rejected: {one.where}: {one.reason}" for one in report.rejected])
    for kind in sorted(report.counts):
        found = [problem for problem in report.problems if problem.kind == kind]
        said = "warning" if found[0].is_warning else "broken"
        lines += _first([f"{said}: {kind}: {one.path} ({one.clip_id}): {one.message}" for one in found])
    lines.append(f"{report.num_broken} broken" if report.num_broken else "nothing is broken")
    return [" ".join(line.split()) for line in lines]


def _convert(arguments: DataArguments, data: ExampleSet) -> int:
    from avocet.training.data import convert_examples

    if arguments.to is None or arguments.out is None:
        raise ConfigError("name the format and the output: avocet data convert IN... --to FORMAT --out PATH")
    report = convert_examples(
        data,
        arguments.to,
        arguments.out,
        media_root=arguments.relative_to,
        write_sound=arguments.write_sound,
        instruction=arguments.instruction,
    )
    if arguments.json:
        print(report.to_json_line())
    else:
        print(printable("\n".join(" ".join(line.split()) for line in _conversion(data, report))))
    return 1 if data.rejected or report.skipped else 0


def _conversion(data: ExampleSet, report: ConvertReport) -> list[str]:
    paths = ", ".join(report.paths[:3]) + (", ..." if len(report.paths) > 3 else "")
    lines = [f"{paths}: {report.num_examples} examples and {report.num_pairs} pairs as {report.format}"]
    lines += [f"{count} x {note}" for note, count in sorted(data.notes.items())]
    lines += [f"lost in {count}: {name}" for name, count in sorted(report.lost.items())]
    lines += [
        f"in {count}, trainers do not see (the field 'avocet' keeps it): {name}"
        for name, count in sorted(report.kept.items())
    ]
    lines += _first([f"rejected: {one.where}: {one.reason}" for one in data.rejected])
    return lines + _first([f"skipped: {one.where}: {one.reason}" for one in report.skipped])


def _first(lines: list[str]) -> list[str]:
    more = [f"... and {len(lines) - _SHOWN} more like the last one"] if len(lines) > _SHOWN else []
    return lines[:_SHOWN] + more
