"""What is asked of the model: one text, a style with paraphrases, or the wording of a benchmark's own file.

Which paraphrase of a style a clip gets depends only on (style, seed, clip id), never on the order of the clips or on
the batch. (The released AVoCaDO code draws from its paraphrases without a seed.) `InstructionFile` reads what a
benchmark asks about each of its videos from the user's copy of the benchmark's file:

    video-SALMONN 2 test set   [{"video": "video/0.mp4", "conversations": [{"from": "human", "value": ...}, ...]}, ...]
    DREAM-1K                   {"messages": [{"role": "user", "content": [{"type": "video", ...}, ...]}, ...]} per line
    UGC-VideoCap               {"question": ...}, one for all videos
    Avocet                     {"clip_id" or "video": ..., "instruction": ...} per line
    plain text (.txt)          one for all videos
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avocet.captioning.styles import STYLES, Style
from avocet.errors import ConfigError
from avocet.records import ClipRef, Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction(Record):
    """What a model is asked, and where the question came from.

    Raises `ConfigError` for a text without words, or with half of a surrogate pair (bytes of a shell that were no
    UTF-8 become such).
    """

    text: str
    source: str = "given"
    """For example "given", "default", "full[3] (seed 7)" or "file:NAME"; travels in `Caption.instruction_source`."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigError(f"the instruction ({self.source}) is empty; leave it out to use the model's own")
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"the instruction ({self.source}) {self.text!r:.100} is no Unicode text: {error.reason} at character "
                f"{error.start}; write it in UTF-8"
            ) from error


InstructionRule = Callable[[ClipRef], Instruction]
"""From a clip (its id and path; no other field is filled in) to what is asked about it. It must give the same answer
for the same clip each time: a resumed run asks again, to know whether it still does what the first one did."""

InstructionChoice = str | Instruction | InstructionRule | None
"""One instruction for all clips, a rule that gives each clip its own, or None for the model's default."""


def choose_instruction(style: Style, seed: int, clip_id: str) -> Instruction:
    """The paraphrase of `style` that a clip gets under `seed`.

    Raises `ConfigError` for an unknown style.
    """
    if style not in STYLES:
        raise ConfigError(f"unknown style of instruction {style!r}; styles are {', '.join(STYLES)}")
    paraphrases = STYLES[style]
    # surrogatepass: file names need not be valid UTF-8.
    digest = hashlib.sha256(f"{style}\0{seed}\0{clip_id}".encode(errors="surrogatepass")).digest()
    index = int.from_bytes(digest[:8], "big") % len(paraphrases)
    return Instruction(text=paraphrases[index], source=f"{style}[{index}] (seed {seed})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleRule:
    """`choose_instruction` as an `InstructionRule`. Raises `ConfigError` for an unknown style."""

    style: Style
    seed: int = 0

    def __post_init__(self) -> None:
        choose_instruction(self.style, self.seed, "")

    def __call__(self, clip: ClipRef) -> Instruction:
        return choose_instruction(self.style, self.seed, clip.id)


def instruction_rule(choice: InstructionChoice, default: str) -> InstructionRule:
    """The rule that `choice` stands for; `default` is the model's own instruction.

    Raises `ConfigError` for an empty instruction.
    """
    if callable(choice):
        return choice
    if choice is None:
        instruction = Instruction(text=default, source="default")
    else:
        instruction = choice if isinstance(choice, Instruction) else Instruction(text=choice)
    return lambda clip: instruction


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InstructionFile:
    """The instructions of a file, as an `InstructionRule`; `read` makes one.

    A clip finds its instruction by the first of these that fits: its id or path is a key of the file; its path and one
    key end in the same path components (most of them first: `video/0.mp4` beats `old/0.mp4` for `/data/video/0.mp4`);
    a key is its file name without the ending; a key has the same file name but for the ending.
    """

    name: str
    """The file's name without its folder, as the captions record it."""
    for_all: str | None = None
    """The instruction of every clip, where the file has only one."""
    by_key: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Clip id or video path, as the file spells it -> instruction."""

    def __post_init__(self) -> None:
        if (self.for_all is None) == (not self.by_key):
            raise ConfigError(f"{self.name}: needs either one instruction for all clips or some that have keys")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> InstructionFile:
        """Read a .txt, .json or .jsonl file of one of the forms in the module's description.

        Raises `ConfigError` when it cannot be read, is of no such form, holds no instruction or two for one clip.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: the instructions cannot be read: {error}") from error
        kind = path.suffix.lower()
        if kind == ".txt":
            return cls(name=path.name, for_all=_words(text, f"{path}: the file"))
        if kind not in (".json", ".jsonl"):
            raise ConfigError(
                f"{path}: instructions are read from .txt, .json and .jsonl files, not {kind or 'this'!r}"
            )
        if kind == ".json":
            data = _parse(text, str(path))
            if isinstance(data, dict) and "question" in data:
                return cls(name=path.name, for_all=_words(data["question"], f"{path}: 'question'"))
            if not isinstance(data, list):
                raise ConfigError(f"{path}: expected a list of items, or an object with one 'question' for all clips")
            items = [(f"{path}: item {number}", item) for number, item in enumerate(data, start=1)]
        else:
            items = list(_lines(text, path))
        return cls(name=path.name, by_key=_collect(items, path))

    def __call__(self, clip: ClipRef) -> Instruction:
        """The instruction of a clip.

        Raises `ConfigError` when no key fits the clip, or several do equally well.
        """
        text = self.for_all if self.for_all is not None else self.by_key[self._key_of(clip)]
        return Instruction(text=text, source=f"file:{self.name}")

    def _key_of(self, clip: ClipRef) -> str:
        for exact in (clip.id, clip.path):
            if exact in self.by_key:
                return exact
        fitting = self._fitting(clip.path)
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            raise ConfigError(
                f"{self.name} has no instruction for clip {clip.id!r} ({clip.path}); its {len(self.by_key)} clips are "
                f"{_some(list(self.by_key))}"
            )
        raise ConfigError(
            f"{self.name} has {len(fitting)} instructions that fit clip {clip.id!r} ({clip.path}) equally well: "
            f"{_some(fitting)}; keep the folders of the file around the clips, or name the clips fully in the file"
        )

    def _fitting(self, path: str) -> list[str]:
        """The keys of the best rule that finds any."""
        parts, name = name_parts(path), _last(path)
        if same_name := self._keys_of_name.get(name, []):
            shared = {key: num_shared_parts(name_parts(key), parts) for key in same_name}
            most = max(shared.values())
            best = [key for key in same_name if shared[key] == most]
            # "video/0.mp4" agrees with /data/video/0.mp4 as a whole, "old/video/0.mp4" contradicts it in part.
            return [key for key in best if len(name_parts(key)) == most] or best
        return self._keys_of_name.get(_stem(name)) or self._keys_of_stem.get(_stem(name), [])

    @functools.cached_property
    def _keys_of_name(self) -> dict[str, list[str]]:
        return _index(self.by_key, _last)

    @functools.cached_property
    def _keys_of_stem(self) -> dict[str, list[str]]:
        return _index(self.by_key, lambda key: _stem(_last(key)))


def _index(keys: Iterable[str], name_of: Callable[[str], str]) -> dict[str, list[str]]:
    index: dict[str, list[str]] = {}
    for key in keys:
        index.setdefault(name_of(key), []).append(key)
    return index


def _collect(items: Sequence[tuple[str, Any]], path: Path) -> dict[str, str]:
    """Key -> instruction of parsed items, each with the words that say where it stands."""
    found: dict[str, str] = {}
    for where, item in items:
        key, text = read_item(item, where)
        if found.setdefault(key, text) != text:
            raise ConfigError(f"{where} gives {key!r} another instruction than an item before it")
    if not found:
        raise ConfigError(f"{path}: the file holds no instructions")
    return found


def read_item(item: Any, where: str) -> tuple[str, str]:
    """(key, instruction) of one item of any of the forms."""
    if isinstance(item, dict):
        if "instruction" in item:
            key, text = item.get("clip_id", item.get("video")), item["instruction"]
        elif "conversations" in item:
            turn = first_entry(item["conversations"], "from", "human")
            key, text = item.get("video"), turn.get("value")
            # Where the model's own code puts the media; here the captioner does.
            text = text.replace("<image>", "") if isinstance(text, str) else text
        elif "messages" in item:
            content = first_entry(item["messages"], "role", "user").get("content")
            video = first_entry(content, "type", "video").get("video")
            key = video.get("video_file") if isinstance(video, dict) else None
            text = first_entry(content, "type", "text").get("text")
        else:
            raise ConfigError(f"{where} has none of 'instruction', 'conversations' and 'messages'")
        if not isinstance(key, str) or not key:
            raise ConfigError(f"{where} does not name its clip: expected a text in 'clip_id', 'video' or 'video_file'")
        return key, _words(text, where)
    raise ConfigError(f"{where} is no JSON object but {type(item).__name__}")


def first_entry(entries: Any, field: str, value: str) -> dict[str, Any]:
    """The first entry whose `field` is `value`, {} where there is none."""
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get(field) == value:
            return entry
    return {}


def _lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): JSON strings may hold its other line separators as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}: line {number}"
            yield where, _parse(line, where)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested thousands deep
        raise ConfigError(f"{where} is not JSON: {error}") from error


def _words(text: Any, where: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{where} holds no instruction: expected a text, got {text!r:.60}")
    return text.strip()


def name_parts(path: str) -> list[str]:
    """Path components of a file path or URL, without empty ones."""
    plain = re.split("[?#]", path, maxsplit=1)[0] if "://" in path else path
    return [part for part in plain.replace("\\", "/").split("/") if part not in ("", ".")]


def _last(path: str) -> str:
    return (name_parts(path) or [""])[-1]


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def num_shared_parts(first: Sequence[str], second: Sequence[str]) -> int:
    """How many components two paths have in common, counted from the end."""
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count


def _some(keys: Sequence[str]) -> str:
    more = ", ..." if len(keys) > 3 else ""
    return ", ".join(repr(key) for key in keys[:3]) + more
