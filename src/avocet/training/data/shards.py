"""WebDataset shards: tar files whose members of one stem are one sample, read as a stream, and written.

    000017.mp4   the clip (also .wav, .flac, .jpg, ...)          clips/000018.wav
    000017.json  its record, or a list of records                clips/000018.txt   its caption

The JSON member is a record of any other format (native, ms-swift, conversations; the media it names are replaced by the
sample's own), or a plain {"caption" or "text", "instruction", "task"}. A text member is a caption. A sample's members
stand one after another, as the WebDataset convention has it.

Media are extracted into a cache folder while the shard is read, once: `<cache>/<shard>-<digest>/`, where the digest is
of the shard's path, size and time of change. Members are untrusted: only regular files are read; absolute names and
names with `..` are rejected; each is limited in size; a file of the cache is complete or not there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from avocet.errors import ConfigError, RecordError
from avocet.training.data.export_pairs_trl import is_trl
from avocet.training.data.formats_common import Context, ItemMedia, Media, clean_answer, clip_of, make_example, task_of
from avocet.training.data.formats_conversations import is_conversation
from avocet.training.data.formats_folders import AUDIO_CAPTION_INSTRUCTION
from avocet.training.data.formats_json import MAX_ITEM_BYTES, Item, parse_item
from avocet.training.data.formats_native import is_native
from avocet.training.data.formats_swift import is_swift
from avocet.training.data.records import Outcome, Rejected

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv"})
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tiff", ".avif"})
CAPTION_INSTRUCTION = "Describe this video with its sound."

MAX_MEMBER_BYTES = 8 * 2**30
MAX_SHARD_MEMBERS = 5_000_000
"""Limits on what an untrusted shard may make this machine write or remember."""

ReadItem = Callable[[Item, Context], list[Outcome]]
"""How the JSON member of a sample is read: the recognising reader of the other formats."""


@dataclasses.dataclass(kw_only=True)
class _Sample:
    """The members of one stem."""

    key: str
    json: bytes | None = None
    text: bytes | None = None
    media: Path | None = None
    media_name: str = ""


def is_shard(path: Path) -> bool:
    """Whether a path is a tar file (also compressed), or a folder with tar files in it."""
    if path.is_dir():
        return bool(shard_files(path))
    try:
        return path.is_file() and tarfile.is_tarfile(path)
    except OSError:
        return False


def shard_files(path: Path) -> list[Path]:
    """The tar files that a path stands for."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and {".tar", ".tgz"} & set(file.suffixes))


def read_shard(path: Path, context: Context, read_item: ReadItem, cache: Path | None) -> Iterator[Outcome]:
    """The samples of one tar file; `cache` None: the folder `avocet-media` beside the shard."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    identity = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}"
    digest = hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()[:12]
    folder = (cache or path.parent / "avocet-media") / f"{path.name.split('.')[0]}-{digest}"
    try:
        with tarfile.open(path, "r|*") as shard:
            for found in _samples(path, shard, folder):
                if isinstance(found, Rejected):
                    yield found
                else:
                    yield from _outcomes(found, f"{path}: {found.key}", context, read_item)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:  # zlib and lzma errors are among these
        yield Rejected(where=str(path), reason=f"the shard cannot be read on: {error}")


def _samples(path: Path, shard: tarfile.TarFile, folder: Path) -> Iterator[_Sample | Rejected]:
    """The samples in order; a stem that comes back after another one is rejected, since its sample is gone."""
    seen: set[str] = set()
    sample: _Sample | None = None
    for number, member in enumerate(shard):
        where = f"{path}: {member.name}"
        if number >= MAX_SHARD_MEMBERS:
            yield Rejected(where=str(path), reason=f"more than {MAX_SHARD_MEMBERS} members; the rest was not read")
            break
        if member.isdir():
            continue
        if (reason := _refused(member)) is not None:
            yield Rejected(where=where, reason=reason)
            continue
        key, suffix = split_name(member.name)
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            if key in seen:
                yield Rejected(where=where, reason="its sample stands in two places of the shard")
                sample = None
                continue
            seen.add(key)
            sample = _Sample(key=key)
        if (reason := _take(shard, member, suffix, sample, folder)) is not None:
            yield Rejected(where=where, reason=reason)
    if sample is not None:
        yield sample


def split_name(name: str) -> tuple[str, str]:
    """Stem and suffix by WebDataset's rule: the stem ends at the first dot of the last part of the name."""
    path = PurePosixPath(name)
    stem, dot, suffix = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, (dot + suffix).lower()


def _refused(member: tarfile.TarInfo) -> str | None:
    """Why a member is not read."""
    parts = PurePosixPath(member.name).parts
    if not member.isreg():
        return "neither a regular file nor a folder"
    if not parts or PurePosixPath(member.name).is_absolute() or ".." in parts or "\0" in member.name:
        return "its name leads out of the shard"
    if len(member.name.encode(errors="surrogatepass")) > 1024 or any(len(part) > 200 for part in parts):
        return "its name is too long"
    if member.size > MAX_MEMBER_BYTES:
        return f"{member.size} bytes; a member may have at most {MAX_MEMBER_BYTES}"
    return None


def _take(shard: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, sample: _Sample, folder: Path) -> str | None:
    """Read one member into its sample. Returns why it was not taken."""
    last = "." + suffix.rpartition(".")[2]
    if last in (".json", ".txt"):
        if member.size > MAX_ITEM_BYTES:
            return f"{member.size} bytes; a text may have at most {MAX_ITEM_BYTES}"
        file = shard.extractfile(member)
        assert file is not None
        field = last[1:].replace("txt", "text")
        if getattr(sample, field) is not None:
            return f"the sample has a second {last} member"
        setattr(sample, field, file.read())
        return None
    if _kind_of(last) is None:
        return f"unknown kind of member {suffix!r}"
    if sample.media is not None:
        return f"the sample has a second clip (the first is {sample.media_name})"
    target = folder.joinpath(*PurePosixPath(sample.key).parts).with_name(PurePosixPath(member.name).name)
    file = shard.extractfile(member)
    assert file is not None
    extract(file, target, member.size)
    sample.media, sample.media_name = target, member.name
    return None


def extract(source: IO[bytes], target: Path, size: int) -> None:
    """Write `size` bytes to `target` unless it is there already; it is complete or absent at any instant.

    Raises `OSError` when the disk has no room for it or the source ends early.
    """
    if target.is_file() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(target.parent).free) < size:
        raise OSError(f"{target}: needs {size} bytes, the disk has {free}")
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".extracting-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(source, file, 2**20)
            if file.tell() != size:
                raise OSError(f"{target.name}: {file.tell()} of {size} bytes; the shard is cut off")
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _outcomes(sample: _Sample, where: str, context: Context, read_item: ReadItem) -> list[Outcome]:
    if sample.media is None:
        return [Rejected(where=where, reason="the sample has no clip")]
    kind = _kind_of(sample.media.suffix.lower())
    assert kind is not None
    media = ItemMedia(kind=kind, path=str(sample.media.absolute()))
    context = dataclasses.replace(context, media=media, clip_id=sample.key)
    try:
        if sample.json is not None:
            return _of_json(sample.json, where, context, read_item)
        if sample.text is not None:
            return [_plain(context, media, {"text": sample.text.decode("utf-8-sig")})]
    except (RecordError, UnicodeDecodeError) as error:
        return [Rejected(where=where, reason=str(error))]
    return [Rejected(where=where, reason="the sample has neither a .json nor a .txt member")]


def _of_json(data: bytes, where: str, context: Context, read_item: ReadItem) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for item in _records(data, where):
        if isinstance(item, Rejected):
            outcomes.append(item)
        elif _is_plain(item.value):
            assert context.media is not None
            outcomes.append(_plain(context, context.media, item.value))
        else:
            outcomes.extend(read_item(item, context))
    return outcomes


def _records(data: bytes, where: str) -> Iterator[Item | Rejected]:
    """A JSON member's object, or the objects of its list."""
    if not data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield parse_item(where, data)
        return
    # The list becomes the field of an object, so that one parser with one set of rules reads both.
    wrapped = parse_item(where, b'{"records": ' + data.removeprefix(b"\xef\xbb\xbf") + b"}")
    if isinstance(wrapped, Rejected):
        yield wrapped
        return
    for number, value in enumerate(wrapped.value["records"], start=1):
        place = f"{where}, record {number}"
        if isinstance(value, dict):
            yield Item(where=place, value=value)
        else:
            yield Rejected(where=place, reason=f"no JSON object but {type(value).__name__}")


def _is_plain(value: Mapping[str, Any]) -> bool:
    """Whether an object is a caption and no record of another format that has one beside it."""
    has_format = is_native(value) or is_swift(value) or is_trl(value) or is_conversation(value)
    return not has_format and any(isinstance(value.get(name), str) for name in ("caption", "text"))


def _plain(context: Context, media: ItemMedia, value: Mapping[str, Any]) -> Outcome:
    """A caption without a format around it."""
    answer = value.get("caption", value.get("text"))
    asked = value.get("instruction") or (AUDIO_CAPTION_INSTRUCTION if media.kind == "audio" else CAPTION_INSTRUCTION)
    if not isinstance(answer, str) or not isinstance(asked, str):
        raise RecordError("'caption' (or 'text') and 'instruction' must be texts")
    task = task_of(context, value, asked, media.kind)
    return make_example(clip_of(context, media), task, asked, clean_answer(answer, "the caption"))


def _kind_of(suffix: str) -> Media | None:
    for kind, suffixes in (("video", VIDEO_SUFFIXES), ("audio", AUDIO_SUFFIXES), ("image", IMAGE_SUFFIXES)):
        if suffix in suffixes:
            return kind  # type: ignore[return-value]  # the three literals of Media
    return None


def write_shards(
    samples: Sequence[tuple[Path, Sequence[bytes]]], folder: Path, *, max_bytes: int = 10**9
) -> list[Path]:
    """Write samples (the clip's file, its records as JSON) to `shard-00000.tar`, ...; each is complete or not there.

    A shard ends before it would grow past `max_bytes`; a sample larger than that gets a shard of its own. Raises
    `ConfigError` when the folder holds shards already, and when a file cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("shard-*.tar")):
        raise ConfigError(f"{folder} holds shards already; choose another folder")
    shards: list[Path] = []
    numbered = iter(enumerate(samples))
    first = next(numbered, None)
    while first is not None:
        target = folder / f"shard-{len(shards):05d}.tar"
        unfinished = target.with_suffix(".unfinished")
        size = 0
        with tarfile.open(unfinished, "w") as shard:
            for number, (file, records) in itertools.chain([first], numbered):
                size += _file_size(file) + sum(map(len, records))
                if size > max_bytes and shard.getmembers():
                    first = (number, (file, records))
                    break
                _write_sample(shard, f"{number:09d}", file, records)
            else:
                first = None
        unfinished.replace(target)
        shards.append(target)
    return shards


def _file_size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error


def _write_sample(shard: tarfile.TarFile, key: str, file: Path, records: Sequence[bytes]) -> None:
    with file.open("rb") as data:
        member = tarfile.TarInfo(key + file.suffix.lower())
        member.size = os.fstat(data.fileno()).st_size
        shard.addfile(member, data)
    text = b"[" + b",\n".join(records) + b"]"
    member = tarfile.TarInfo(key + ".json")
    member.size = len(text)
    shard.addfile(member, io.BytesIO(text))
