"""From curated clips to training data: examples, a split by source video, JSONL and Parquet.

    OUT/train.jsonl, OUT/val.jsonl      one `TrainingExample` per line (the native format of `avocet data`)
    OUT/train.parquet, OUT/val.parquet  the same, if asked for

Tar shards and the released formats are written from these files by `avocet data convert`, as `avocet curate --format`
does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from avocet.captioning.instructions import choose_instruction
from avocet.curation.manifest import ManifestClip, read_manifest, replacing
from avocet.curation.pipelines.verify import flags_of
from avocet.errors import ConfigError, MissingExtraError, RecordError
from avocet.records import DIALOGUE_UNKNOWN, ClipRef, Record, Task, TrainingExample

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = get_args(Split)

DEFAULT_TASKS: tuple[Task, ...] = ("caption", "local_caption", "qa")

_LOCAL_INSTRUCTIONS = (
    "Describe what is seen and heard from {start:g} to {end:g} seconds of this video.",
    "What happens between {start:g} and {end:g} seconds, in picture and sound? Tell it in detail.",
    "Give a detailed description of the part of the video from second {start:g} to second {end:g}, with its sound.",
)
_SOUND_INSTRUCTIONS = ("Describe what can be heard in this video.", "Give an account of the sound of this video.")
_SPEECH_INSTRUCTIONS = ("Write down the words that are spoken in this video.", "Transcribe the speech of this video.")
_ROWS_PER_GROUP = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputSettings(Record):
    """What is written of each clip."""

    tasks: tuple[Task, ...] = DEFAULT_TASKS
    val_fraction: float = 0.05
    """Share of the source videos that validation gets; 0 for none."""
    seed: int = 0
    """Another seed, another split and other wordings of the instructions."""

    def __post_init__(self) -> None:
        if not self.tasks or set(self.tasks) - set(get_args(Task)):
            raise ConfigError(f"tasks are some of {', '.join(get_args(Task))}, got {', '.join(self.tasks) or 'none'}")
        if not 0 <= self.val_fraction <= 1:
            raise ConfigError(f"val_fraction must be from 0 to 1, got {self.val_fraction}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitCounts(Record):
    """What one side of the split holds."""

    num_sources: int
    num_clips: int
    tasks: dict[str, int]
    """Task -> examples."""
    media_seconds: float
    path: str
    """Name of the file, in the folder of the run."""
    sha256: str


def split_of(source_id: str, settings: OutputSettings) -> Split:
    """On which side a source video stands: by a hash of its id, so that more videos move none of those before."""
    return "val" if _share(settings.seed, "split", source_id) < settings.val_fraction else "train"


def examples_of(clip: ManifestClip, settings: OutputSettings) -> list[TrainingExample]:
    """What a curated clip teaches, in the order of the tasks. Raises `RecordError` for a clip without a caption."""
    makers = {
        "caption": _caption,
        "local_caption": _local_caption,
        "qa": _questions,
        "asr": _speech,
        "audio_caption": _sound,
    }
    ref = ClipRef(
        id=clip.id,
        path=clip.located().path,
        start_seconds=clip.start_seconds,
        end_seconds=clip.end_seconds,
        meta=_provenance(clip),
    )
    return [example for task in settings.tasks for example in makers[task](clip, ref, settings.seed)]


def shared_sources(clips: Iterable[ManifestClip]) -> dict[str, str]:
    """Sources that share a file with another one -> the smallest id among those that hang together.

    Copies of one file have sources of their own when nothing else is stated, and belong on one side of the split.
    """
    owners: dict[str, str] = {}
    smaller: dict[str, str] = {}

    def smallest(source: str) -> str:
        while source in smaller:
            source = smaller[source]
        return source

    for clip in clips:
        if clip.file_sha256 is not None:
            owner = owners.setdefault(clip.file_sha256, clip.source_id)
            low, high = sorted((smallest(owner), smallest(clip.source_id)))
            if low != high:
                smaller[high] = low
    return {source: smallest(source) for source in smaller}


def write_examples(
    manifest: str | os.PathLike[str], folder: str | os.PathLike[str], settings: OutputSettings
) -> dict[Split, SplitCounts]:
    """Write `train.jsonl` and `val.jsonl` clip by clip; both take their names together, when they are complete.

    The manifest is read twice. What is in memory grows with its files and sources, not with its clips.
    """
    sources = shared_sources(read_manifest(manifest))
    counts: dict[Split, _Counts] = {split: _Counts() for split in SPLITS}
    with contextlib.ExitStack() as stack:
        files = {split: stack.enter_context(replacing(Path(folder) / f"{split}.jsonl")) for split in SPLITS}
        for clip in read_manifest(manifest):
            clip = dataclasses.replace(clip, source_id=sources.get(clip.source_id, clip.source_id))
            split = split_of(clip.source_id, settings)
            examples = examples_of(clip, settings)
            lines = "".join(example.to_json_line() + "\n" for example in examples)
            files[split].write(lines)
            counts[split].add(clip, examples, lines)
    return {split: counts[split].summary(f"{split}.jsonl") for split in SPLITS}


def write_parquet(examples: Iterable[TrainingExample], path: str | os.PathLike[str]) -> int:
    """Write examples as a table and return how many; `read_parquet` reads it back.

    Columns: clip_id, path, clip_start_seconds, clip_end_seconds, meta (JSON), task, instruction, target, events,
    checklist, dialogue (lists), start_seconds, end_seconds. Raises `MissingExtraError` without pyarrow.
    """
    arrow, parquet = _arrow()
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.part")
    schema, count = _schema(arrow), 0
    source = iter(examples)
    try:
        with parquet.ParquetWriter(unfinished, schema) as writer:
            while rows := [_row(example) for example in itertools.islice(source, _ROWS_PER_GROUP)]:
                writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
                count += len(rows)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def read_parquet(path: str | os.PathLike[str]) -> Iterator[TrainingExample]:
    """The examples of a table that `write_parquet` wrote. Raises `RecordError` for rows that are none."""
    _, parquet = _arrow()
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS_PER_GROUP):
            for row in batch.to_pylist():
                yield _example(row)


def check_parquet() -> None:
    """Raises `MissingExtraError` where tables cannot be written."""
    _arrow()


def read_native(path: str | os.PathLike[str]) -> Iterator[TrainingExample]:
    """The examples of a `train.jsonl`, one by one."""
    with Path(path).open(encoding="utf-8") as lines:
        for line in lines:
            yield TrainingExample.from_json(line)


@dataclasses.dataclass(kw_only=True)
class _Counts:
    sources: set[str] = dataclasses.field(default_factory=set)
    num_clips: int = 0
    tasks: Counter[str] = dataclasses.field(default_factory=Counter)
    media_seconds: float = 0.0
    digest: Any = dataclasses.field(default_factory=hashlib.sha256)

    def add(self, clip: ManifestClip, examples: list[TrainingExample], lines: str) -> None:
        # Hashes of ids: a million long URLs would not be flat memory.
        self.sources.add(hashlib.sha256(clip.source_id.encode()).hexdigest()[:16])
        self.num_clips += 1
        self.tasks.update(example.task for example in examples)
        self.media_seconds += clip.duration_seconds or 0.0
        self.digest.update(lines.encode())

    def summary(self, name: str) -> SplitCounts:
        return SplitCounts(
            num_sources=len(self.sources),
            num_clips=self.num_clips,
            tasks=dict(sorted(self.tasks.items())),
            media_seconds=round(self.media_seconds, 3),
            path=name,
            sha256=self.digest.hexdigest(),
        )


def _provenance(clip: ManifestClip) -> dict[str, Any]:
    """The meta of every example: what was given, where the clip comes from, and what the checks flagged."""
    known = {"licence": clip.licence, "url": clip.url, "sha256": clip.file_sha256, "flags": flags_of(clip) or None}
    return {
        **clip.meta,
        "source_id": clip.source_id,
        **{name: value for name, value in known.items() if value is not None},
    }


def _caption(clip: ManifestClip, ref: ClipRef, seed: int) -> Iterator[TrainingExample]:
    text = str(clip.facts.get("caption", {}).get("text", ""))
    if not text.strip():
        raise RecordError(f"clip {clip.id!r} has no caption among its facts ({', '.join(clip.facts) or 'none'})")
    if "utterances" not in clip.facts.get("dialogue", {}):
        ref = dataclasses.replace(ref, meta={**ref.meta, DIALOGUE_UNKNOWN: True})
    yield TrainingExample(
        clip=ref,
        task="caption",
        instruction=str(clip.facts["caption"].get("instruction") or choose_instruction("full", seed, clip.id).text),
        target=text,
        events=tuple(clip.facts.get("events", {}).get("events", ())),
        checklist=tuple(point["text"] for point in clip.facts.get("checklist", {}).get("keypoints", ())),
        dialogue=tuple(dict(line) for line in clip.facts.get("dialogue", {}).get("utterances", ())),
    )


def _local_caption(clip: ManifestClip, ref: ClipRef, seed: int) -> Iterator[TrainingExample]:
    local = clip.facts.get("local", {}).get("local")
    if local is None:
        return
    begin = clip.start_seconds or 0.0
    wording = _pick(_LOCAL_INSTRUCTIONS, seed, clip.id)
    yield TrainingExample(
        clip=ref,
        task="local_caption",
        # The model is asked in seconds of what it sees; the record tells them on the file's timeline.
        instruction=wording.format(start=local["start_seconds"], end=local["end_seconds"]),
        target=str(local["text"]),
        events=tuple(local["events"]),
        start_seconds=round(begin + local["start_seconds"], 3),
        end_seconds=round(begin + local["end_seconds"], 3),
    )


def _questions(clip: ManifestClip, ref: ClipRef, seed: int) -> Iterator[TrainingExample]:
    for pair in clip.facts.get("qa", {}).get("pairs", ()):
        yield TrainingExample(clip=ref, task="qa", instruction=str(pair["question"]), target=str(pair["answer"]))


def _speech(clip: ManifestClip, ref: ClipRef, seed: int) -> Iterator[TrainingExample]:
    text = _joined(clip, "asr")
    if text:
        wording = _pick(_SPEECH_INSTRUCTIONS, seed, clip.id)
        yield TrainingExample(clip=ref, task="asr", instruction=wording, target=text)


def _sound(clip: ManifestClip, ref: ClipRef, seed: int) -> Iterator[TrainingExample]:
    text = _joined(clip, "audio")
    if text:
        wording = _pick(_SOUND_INSTRUCTIONS, seed, clip.id)
        yield TrainingExample(clip=ref, task="audio_caption", instruction=wording, target=text)


def _joined(clip: ManifestClip, stage: str) -> str:
    segments = clip.facts.get(stage, {}).get("segments", ())
    return " ".join(" ".join(str(segment["text"]).split()) for segment in segments if segment["text"])


def _pick(wordings: tuple[str, ...], seed: int, clip_id: str) -> str:
    return wordings[int(_share(seed, "wording", clip_id) * len(wordings))]


def _share(seed: int, what: str, name: str) -> float:
    """From 0 to below 1, the same for a name on every machine."""
    return int.from_bytes(hashlib.sha256(f"{what} {seed} {name}".encode()).digest()[:6], "big") / 2**48


def _arrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError("Parquet", "train") from error


def _schema(arrow: Any) -> Any:
    text, number = arrow.string(), arrow.float64()
    line = arrow.struct([("speaker", text), ("text", text)])
    columns = [("clip_id", text), ("path", text), ("clip_start_seconds", number), ("clip_end_seconds", number)]
    columns += [("meta", text), ("task", text), ("instruction", text), ("target", text)]
    columns += [("events", arrow.list_(text)), ("checklist", arrow.list_(text)), ("dialogue", arrow.list_(line))]
    return arrow.schema([*columns, ("start_seconds", number), ("end_seconds", number)])


def _row(example: TrainingExample) -> dict[str, Any]:
    row = example.to_dict()
    clip = row.pop("clip")
    return {
        "clip_id": clip["id"],
        "path": clip["path"],
        "clip_start_seconds": clip["start_seconds"],
        "clip_end_seconds": clip["end_seconds"],
        "meta": json.dumps(clip["meta"], ensure_ascii=False),
        **row,
    }


def _example(row: dict[str, Any]) -> TrainingExample:
    try:
        clip = {
            "id": row.pop("clip_id"),
            "path": row.pop("path"),
            "start_seconds": row.pop("clip_start_seconds"),
            "end_seconds": row.pop("clip_end_seconds"),
            "meta": json.loads(row.pop("meta")),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"a row of the table is no training example: {error}") from error
    return TrainingExample.from_dict({"clip": clip, **row})
