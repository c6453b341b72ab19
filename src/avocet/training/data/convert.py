"""Write training data in any format; what a format cannot hold is listed, what it would distort is skipped.

| format | pairs | interval of the clip | lost (counted in `ConvertReport.lost`) |
|---|---|---|---|
| native | yes | yes | nothing |
| webdataset | yes | yes | nothing (records are native, clips travel with them) |
| v1 | yes | `timestamps` | see below; sound only where a separate sound file is known or `write_sound` makes one |
| plus | yes | no: skipped | see below |
| ms_swift | yes | no: skipped | see below |
| trl | only these | no: skipped | nothing |
| llava | no: skipped | no: skipped | see below |

See below: events, checklist, dialogue, the interval that a local caption is about (it stays in the question), and the
clip's meta. The released formats have no fields for `id` and `task`; they are written all the same, since the released
trainers read only the fields they know and a later reading then restores them. So it is with pairs, of which nothing is
lost: what their trainers do not see (metrics, rounds, the clip's meta, in ms_swift and trl the ground truth) is kept in
the field `avocet` (`export_pairs`) for our own reading, and counted in `ConvertReport.kept`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import wave
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from avocet.errors import AvocetError, ConfigError, RecordError
from avocet.media import open_clip
from avocet.records import SAMPLE_RATE, ClipRef, PreferencePair, Record, TrainingExample, is_url
from avocet.training.data.export_pairs import Reader, keep_rest
from avocet.training.data.export_pairs_trl import read_trl, trl_item
from avocet.training.data.formats_common import (
    MEDIA_KEY,
    POLICY_KEY,
    SEPARATE_SOUND_KEY,
    Context,
    audio_policy,
    media_kind,
)
from avocet.training.data.formats_conversations import read_conversation
from avocet.training.data.formats_swift import read_swift
from avocet.training.data.records import ExampleSet, Rejected
from avocet.training.data.shards import write_shards

WriteFormat = Literal["native", "v1", "plus", "llava", "ms_swift", "trl", "webdataset", "ms-swift", "vs2-dpo"]
"""The last two are other names of `ms_swift` and `plus`, by which their trainers' users look for them."""

Target = TrainingExample | PreferencePair

_OTHER_NAMES: dict[str, WriteFormat] = {"ms-swift": "ms_swift", "vs2-dpo": "plus"}
_LINES = ("ms_swift", "trl")
"""Formats of one item per line; the others are one list."""
_READERS: dict[str, Reader] = {
    "v1": lambda item, context: read_conversation(item, context, "v1"),
    "plus": lambda item, context: read_conversation(item, context, "plus"),
    "ms_swift": read_swift,
    "trl": read_trl,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertReport(Record):
    """What became of a set of examples and pairs."""

    format: str
    paths: tuple[str, ...]
    """The files that were written."""
    num_examples: int
    num_pairs: int
    lost: dict[str, int]
    """What the format has no place for -> in how many written items."""
    kept: dict[str, int]
    """What it has no place for either, and only Avocet reads again, from the field `avocet` of pairs."""
    skipped: tuple[Rejected, ...]
    """Items that the format would distort or cannot hold."""


def convert_examples(
    data: ExampleSet,
    format: WriteFormat,
    out: str | Path,
    *,
    media_root: str | Path | None = None,
    write_sound: bool = False,
    instruction: str = "",
    shard_bytes: int = 10**9,
) -> ConvertReport:
    """Write examples and pairs, examples first.

    Args:
        data: from `read_examples`; its rejected items are not written and not repeated in the report.
        format: see the module's description.
        out: the file to write (a folder for webdataset); it must not exist yet.
        media_root: media below this folder are written with paths relative to it; all others with absolute paths.
        write_sound: for v1, write the sound of each video as 16 kHz wav files into `<out>.sound/`, since the released
            trainer reads the sound only from such files.
        instruction: what foreign formats ask where an item has no instruction, which means the model's own.
        shard_bytes: where a shard of webdataset ends.

    Raises:
        ConfigError: an unknown format, an output that is there already, `write_sound` or `instruction` for a format
            that has no use for it.
    """
    out = Path(out)
    _check_request(format, out, write_sound, instruction)
    format = _OTHER_NAMES.get(format, format)
    given: list[Target] = [*data.examples, *data.pairs]
    targets = [_absolute(target) for target in given]
    paths: list[Path] = []
    lost: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    skipped: list[Rejected] = []
    root = None if media_root is None else Path(media_root)
    if format == "native":
        paths = _write_lines(out, [_native_dict(target, root) for target in targets])
    elif format == "webdataset":
        targets, skipped = _with_files(targets)
        paths = write_shards(_samples(targets), out, max_bytes=shard_bytes)
    else:
        sound = out.with_name(out.name + ".sound") if write_sound else None
        context = Context(path=out, media_root=root)
        writer = _Writer(
            format=format,
            sound=sound,
            root=root,
            instruction=instruction,
            context=context,
            lost=lost,
            kept=kept,
            skipped=skipped,
        )
        items = [(target, writer.item(target)) for target in targets]
        targets = [target for target, item in items if item is not None]
        written = [item for _, item in items if item is not None]
        paths = _write_lines(out, written) if format in _LINES else _write_list(out, written)
    num_pairs = sum(isinstance(target, PreferencePair) for target in targets)
    return ConvertReport(
        format=format,
        paths=tuple(map(str, paths)),
        num_examples=len(targets) - num_pairs,
        num_pairs=num_pairs,
        lost=dict(lost),
        kept=dict(kept),
        skipped=tuple(skipped),
    )


def _check_request(asked: WriteFormat, out: Path, write_sound: bool, instruction: str) -> None:
    if asked not in get_args(WriteFormat):
        raise ConfigError(f"unknown format {asked!r} to write; formats are {', '.join(get_args(WriteFormat))}")
    format = _OTHER_NAMES.get(asked, asked)
    if instruction and format in ("native", "webdataset"):
        raise ConfigError(f"{format} keeps empty instructions as they are; leave `instruction` out")
    if write_sound and format != "v1":
        raise ConfigError(f"write_sound belongs to the format v1; {format} reads the sound of the video itself")
    if out.is_file() or (out.is_dir() and format != "webdataset"):
        raise ConfigError(f"{out} is there already; choose another output")


@dataclasses.dataclass(kw_only=True)
class _Writer:
    """One foreign format, and what it could not hold so far."""

    format: str
    sound: Path | None
    root: Path | None
    instruction: str
    context: Context
    """Of the file that is written."""
    lost: Counter[str] = dataclasses.field(default_factory=Counter)
    kept: Counter[str] = dataclasses.field(default_factory=Counter)
    skipped: list[Rejected] = dataclasses.field(default_factory=list)
    sound_files: dict[str, str] = dataclasses.field(default_factory=dict)

    def item(self, target: Target) -> dict[str, Any] | None:
        """The item of an example or a pair; None when it was skipped."""
        if (reason := self._obstacle(target)) is not None:
            self.skipped.append(Rejected(where=target.clip.id, reason=reason))
            return None
        asked = target.instruction or self.instruction
        if self.format == "ms_swift":
            item = _swift_item(target, asked, _portable(target.clip.path, self.root))
        elif self.format == "trl":
            assert isinstance(target, PreferencePair)
            item = trl_item(target, asked, _portable(target.clip.path, self.root))
        else:
            fields = self._media_fields(target.clip)
            if isinstance(fields, str):
                self.skipped.append(Rejected(where=target.clip.id, reason=fields))
                return None
            item = {"id": target.clip.id, **fields, "conversations": self._turns(target, asked)}
        if isinstance(target, TrainingExample):
            item["task"] = target.task
        else:
            try:
                item = keep_rest(item, target, _READERS[self.format], self.context)
            except RecordError as error:
                self.skipped.append(Rejected(where=target.clip.id, reason=_advised(target, str(error))))
                return None
        # `keep_rest` has read the whole pair again.
        counts = self.lost if isinstance(target, TrainingExample) else self.kept
        counts.update(_unplaced_fields(target, self.format))
        return item

    def _obstacle(self, target: Target) -> str | None:
        """Why the format cannot hold an item without changing what it says."""
        clip = target.clip
        if clip.start_seconds is not None or clip.end_seconds is not None:
            if self.format != "v1":
                return f"{self.format} has no place for an interval of a clip; cut the file first"
            if clip.end_seconds is None:
                return "v1 needs both ends of an interval; give the clip an end_seconds"
        if isinstance(target, TrainingExample):
            return "trl holds preference pairs only" if self.format == "trl" else None
        if self.format == "llava":
            return "llava has no preference pairs"
        if not target.ground_truth.strip() and self.format in ("v1", "plus"):
            return f"the pair has no ground truth, which {self.format} trains on"
        return None

    def _media_fields(self, clip: ClipRef) -> dict[str, Any] | str:
        """The fields that name the clip, or why they cannot be made."""
        kind = media_kind(clip)
        fields: dict[str, Any] = {kind: _portable(clip.path, self.root)}
        policy = audio_policy(clip)
        if kind == "video" and self.format == "plus" and policy != "ignore":
            fields["use_audio"] = True
        if kind == "video" and self.format == "llava" and policy != "auto":
            fields["use_audio"] = policy == "require"
        if kind == "video" and self.format == "v1" and policy != "ignore":
            sound = clip.meta.get(SEPARATE_SOUND_KEY)
            if self.sound is not None:
                try:
                    sound = self._sound_file(clip)
                except (AvocetError, OSError) as error:
                    return f"its sound cannot be written: {error}"
            if isinstance(sound, str):
                fields["audio"] = _portable(sound, self.root)
            elif self.sound is None:
                self.lost["sound: v1 reads it only from separate files (write_sound makes them)"] += 1
        if clip.end_seconds is not None:
            fields["timestamps"] = [_whole(clip.start_seconds or 0.0), _whole(clip.end_seconds)]
            if not all(isinstance(number, int) for number in fields["timestamps"]) and "audio" in fields:
                self.lost["the released v1 trainer fails on timestamps that are not whole seconds, with sound"] += 1
        return fields

    def _sound_file(self, clip: ClipRef) -> str | None:
        """The wav file of a video's sound, written once per video; None for a video without sound under "auto"."""
        assert self.sound is not None
        if clip.path not in self.sound_files:
            # v1 cuts the sound by `timestamps` itself, so the file holds all of it. One small frame is enough.
            whole = open_clip(clip.path, fps=0.01, max_frames=1, max_pixels=4096, audio=audio_policy(clip))
            if whole.waveform is None:
                return None
            target = self.sound / f"{len(self.sound_files):06d}-{Path(clip.path).stem[:100]}.wav"
            target.parent.mkdir(parents=True, exist_ok=True)
            with wave.open(str(target), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(SAMPLE_RATE)
                file.writeframes((whole.waveform.clip(-1, 1) * 32767).round().astype(np.int16).tobytes())
            self.sound_files[clip.path] = str(target)
        return self.sound_files[clip.path]

    def _turns(self, target: Target, asked: str) -> list[dict[str, str]]:
        # v1 and LLaVA write <image> for every kind of media.
        placeholder = f"<{media_kind(target.clip)}>" if self.format == "plus" else "<image>"
        turns = [("human", f"{placeholder}\n{asked}")]
        if isinstance(target, TrainingExample):
            turns += [("gpt", target.target)]
        elif self.format == "v1":
            turns += [("gpt", target.chosen), ("reject_gpt", target.rejected), ("gt", target.ground_truth)]
        else:
            turns += [("gpt", target.ground_truth), ("chosen", target.chosen), ("reject", target.rejected)]
        return [{"from": role, "value": text} for role, text in turns]


def _absolute(target: Target) -> Target:
    """The same with a media path that means something from any folder."""
    if is_url(target.clip.path):
        return target
    return dataclasses.replace(target, clip=dataclasses.replace(target.clip, path=os.path.abspath(target.clip.path)))


def _portable(path: str, root: Path | None) -> str:
    """A path below `root` relative to it, any other absolute."""
    if is_url(path):
        return path
    path = os.path.abspath(path)
    base = os.path.abspath(root) if root is not None else None
    return os.path.relpath(path, base) if base is not None and Path(path).is_relative_to(base) else path


def _native_dict(target: Target, root: Path | None) -> dict[str, Any]:
    record = target.to_dict()
    record["clip"]["path"] = _portable(target.clip.path, root)
    return record


def _advised(pair: PreferencePair, reason: str) -> str:
    """A refusal, with what helps."""
    return reason if pair.instruction else f"{reason}; give what is to be asked (`instruction`)"


def _swift_item(target: Target, asked: str, path: str) -> dict[str, Any]:
    kind = media_kind(target.clip)
    chosen = target.target if isinstance(target, TrainingExample) else target.chosen
    item: dict[str, Any] = {
        "id": target.clip.id,
        "messages": [
            {"role": "user", "content": f"<{kind}>{asked}"},
            {"role": "assistant", "content": chosen},
        ],
    }
    if isinstance(target, PreferencePair):
        item["rejected_response"] = target.rejected
    item[kind + "s"] = [path]
    return item


def _unplaced_fields(target: Target, format: str) -> list[str]:
    """Names of what an item holds and the format has no place for."""
    lost = []
    if isinstance(target, TrainingExample):
        lost += [name for name in ("events", "checklist", "dialogue") if getattr(target, name)]
        if target.start_seconds is not None or target.end_seconds is not None:
            lost.append("interval of the local caption")
    else:
        if target.chosen_metrics or target.rejected_metrics:
            lost.append("metrics")
        if target.round != 1:
            lost.append("round")
        if format in _LINES and target.ground_truth:
            lost.append("ground truth")
    known = {POLICY_KEY, MEDIA_KEY} | ({SEPARATE_SOUND_KEY} if format == "v1" else set())
    if format in _LINES and audio_policy(target.clip) != "auto":
        lost.append("whether the sound is used")
    if format == "plus" and audio_policy(target.clip) == "auto" and media_kind(target.clip) == "video":
        lost.append("sound where there is some: plus knows only with and without, 'with' is written")
    if set(target.clip.meta) - known:
        lost.append("meta of the clip")
    return lost


def _with_files(targets: Sequence[Target]) -> tuple[list[Target], list[Rejected]]:
    """The items whose clip is a local file, and the others."""
    missing = {path for path in {target.clip.path for target in targets} if not Path(path).is_file()}
    reason = "the clip is no file on this machine, so it cannot travel in a shard"
    skipped = [Rejected(where=target.clip.id, reason=reason) for target in targets if target.clip.path in missing]
    return [target for target in targets if target.clip.path not in missing], skipped


def _samples(targets: Sequence[Target]) -> list[tuple[Path, list[bytes]]]:
    """One sample per file, with all that is asked about it."""
    by_path: dict[str, list[bytes]] = {}
    for target in targets:
        record = target.to_dict()
        # The reader puts in where it extracted the file; a path of this machine means nothing elsewhere.
        record["clip"]["path"] = Path(target.clip.path).name
        line = json.dumps(record, ensure_ascii=False).encode()
        by_path.setdefault(target.clip.path, []).append(line)
    return [(Path(path), records) for path, records in by_path.items()]


def _write_lines(out: Path, items: Sequence[dict[str, Any]]) -> list[Path]:
    return _write(out, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))


def _write_list(out: Path, items: Sequence[dict[str, Any]]) -> list[Path]:
    return _write(out, "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n]\n")


def _write(out: Path, text: str) -> list[Path]:
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(out.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(out)
    return [out]


def _whole(seconds: float) -> int | float:
    return int(seconds) if seconds == int(seconds) else seconds
