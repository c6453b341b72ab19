"""What the readers of all formats share: paths, media of an item, cleaning of questions, and the guess of the task.

Tasks are guessed by the first of these rules that fits, unless the caller or the item names one:

1. the question lists choices ("A. ...", "(B) ..."): qa
2. it asks for a transcript ("transcribe", "speech recognition", "write down what is said"): asr
3. it asks for a description of an interval of a video ("from 10 to 20 seconds", "between 0:10 and 0:20"): local_caption
4. it asks for a description ("describe", "caption", "narrate", "summarise", ...): audio_caption for files of sound,
   caption otherwise
5. it has a question mark: qa
6. else as in 4.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from avocet.errors import ConfigError, RecordError
from avocet.records import AudioPolicy, ClipRef, PreferencePair, Task, TrainingExample, is_url

Media = Literal["video", "audio", "image"]

PLACEHOLDERS = ("<video>", "<audio>", "<image>")
POLICY_KEY = "audio_policy"
"""Where `ClipRef.meta` holds what the format says of the sound: "require", "ignore"; nothing for "auto"."""
SEPARATE_SOUND_KEY = "audio_path"
"""Where `ClipRef.meta` holds the path of a sound file beside a video."""
MEDIA_KEY = "media"
"""Where `ClipRef.meta` holds "audio" or "image" for clips that are no video."""

# Questions are hostile text: each pattern takes time linear in their length.
_CHOICE_A, _CHOICE_B = re.compile(r"(?:^|\s)\(?A[.):]\s"), re.compile(r"\s\(?B[.):]\s")
_TRANSCRIPT = re.compile(
    r"\btranscri(?:be|pt|ption)|\bspeech (?:recognition|to text)|\brecogni[sz]e the speech|"
    r"\bwrite down (?:what|the words|the speech|all speech)",
    re.IGNORECASE,
)
_DESCRIBE = re.compile(
    r"\bdescri(?:be|ption|bing)|\bcaption|\bnarrat|\bsummari[sz]|\brecount\b|\bdepict|\bgive (?:a|an) .{0,100}account|"
    r"\btell .{0,100}what (?:happens|is shown)",
    re.IGNORECASE,
)
_TIME = r"(?:\d+:\d\d(?:\.\d+)?|\d+(?:\.\d+)?)\s*+(?:s\b|sec\w*)?"
_INTERVAL = re.compile(
    rf"\b(?:from|between)\s+(?:the\s+)?(?:second\s+)?{_TIME}\s*(?:to|and|until|till|-|–)\s*(?:second\s+)?{_TIME}",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?:(\d+):)?(\d+(?:\.\d+)?)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemMedia:
    """The one file that an item is about."""

    kind: Media
    path: str
    """As the file spells it."""
    separate_sound: str | None = None
    """A sound file beside a video."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """How the items of one file are read."""

    path: Path
    media_root: Path | None = None
    """Where relative media paths begin; the folder of the file if None."""
    task: Task | None = None
    """The task of every item, instead of a guess."""
    notes: Counter[str] = dataclasses.field(default_factory=Counter)
    media: ItemMedia | None = None
    """The media of the item whatever its fields say: a member of a shard that was extracted."""
    clip_id: str | None = None
    """The id of clips whose item has none."""

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in get_args(Task):
            raise ConfigError(f"unknown task {self.task!r}; tasks are {', '.join(get_args(Task))}")

    @property
    def root(self) -> Path:
        return self.path.parent if self.media_root is None else self.media_root

    def resolve(self, media_path: str) -> str:
        """An absolute path or URL as it is; a relative path below the media root."""
        return media_path if is_url(media_path) else str(self.root / media_path)


def take_media(context: Context, fields: Mapping[str, Any]) -> ItemMedia:
    """The media of an item from its fields `video`, `audio`, `image` (a path, or a list of one).

    Raises `RecordError` for none, for several, and for what is no path.
    """
    if context.media is not None:
        return context.media
    found = {kind: path for kind in get_args(Media) if (path := _one_path(kind, fields.get(kind))) is not None}
    if "image" in found and len(found) > 1:
        raise RecordError(f"an image together with {', '.join(sorted(set(found) - {'image'}))}: one clip per item")
    if "video" in found:
        return ItemMedia(kind="video", path=found["video"], separate_sound=found.get("audio"))
    for kind, path in found.items():
        return ItemMedia(kind=kind, path=path)
    raise RecordError("names no video, audio or image; text without media is nothing to learn captioning from")


def _one_path(kind: str, value: Any) -> str | None:
    if value is None or value == []:
        return None
    if isinstance(value, list):
        if len(value) > 1:
            raise RecordError(f"{len(value)} files in {kind!r}: one clip per item")
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        raise RecordError(f"{kind!r} must be a path, got {value!r:.60}")
    if "\0" in value:
        raise RecordError(f"{kind!r} holds a NUL character, which no path can have")
    return value


def clip_of(
    context: Context,
    media: ItemMedia,
    *,
    clip_id: str | None = None,
    policy: AudioPolicy = "auto",
    interval: tuple[float, float] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> ClipRef:
    """The clip; its id is `clip_id`, or the media path as the file spells it with `#t=start,end` after it."""
    start, end = interval or (None, None)
    name = clip_id or (context.clip_id or media.path) + ("" if interval is None else f"#t={start:g},{end:g}")
    kept: dict[str, Any] = dict(meta or {})
    if media.kind != "video":
        kept[MEDIA_KEY] = media.kind
    if policy != "auto":
        kept[POLICY_KEY] = policy
    if media.separate_sound is not None:
        kept[SEPARATE_SOUND_KEY] = context.resolve(media.separate_sound)
    return ClipRef(id=name, path=context.resolve(media.path), start_seconds=start, end_seconds=end, meta=kept)


def audio_policy(clip: ClipRef) -> AudioPolicy:
    """What the data say of the clip's sound, for `open_clip(audio=...)`; "auto" when they say nothing.

    Raises `RecordError` for another word in its meta.
    """
    policy = clip.meta.get(POLICY_KEY, "auto")
    if policy not in get_args(AudioPolicy):
        raise RecordError(
            f"clip {clip.id!r}: meta[{POLICY_KEY!r}] must be one of {', '.join(get_args(AudioPolicy))}, got {policy!r}"
        )
    found: AudioPolicy = policy
    return found


def media_kind(clip: ClipRef) -> Media:
    """Whether a clip is a video, a sound or a still picture, as far as the data say."""
    kind = clip.meta.get(MEDIA_KEY, "video")
    return kind if kind in get_args(Media) else "video"


def read_interval(value: Any) -> tuple[float, float] | None:
    """`[start, end]` in seconds, None for None. Raises `RecordError` for anything else."""
    if value is None:
        return None
    good = isinstance(value, list) and len(value) == 2 and all(_is_number(number) for number in value)
    if not good or not 0 <= value[0] < value[1]:
        raise RecordError(f"'timestamps' must be [start, end] in seconds with 0 <= start < end, got {value!r:.60}")
    return float(value[0]), float(value[1])


def clean_question(text: str, context: Context) -> str:
    """A question without media placeholders. Raises `RecordError` when no words are left or it asks for two clips."""
    for placeholder in PLACEHOLDERS:
        if text.count(placeholder) > 1:
            raise RecordError(f"{text.count(placeholder)} placeholders {placeholder} in a question: one clip per item")
        if placeholder in text:
            before, after = text.split(placeholder)
            if before.strip() and after.strip():
                context.notes["a placeholder inside of a question was taken out; the clip comes before the text"] += 1
            text = f"{before.rstrip()} {after.lstrip()}" if before.strip() else before + after
            text = text.strip()
    if not text.strip():
        raise RecordError("the question has no words")
    return text.strip()


def clean_answer(text: str, what: str = "the answer") -> str:
    """An answer without outer white space. Raises `RecordError` when no words are left."""
    if not text.strip():
        raise RecordError(f"{what} has no words")
    return text.strip()


def guess_task(question: str, kind: Media) -> Task:
    """By the rules in the module's description."""
    described: Task = "audio_caption" if kind == "audio" else "caption"
    first = _CHOICE_A.search(question)
    if first is not None and _CHOICE_B.search(question, first.end()):
        return "qa"
    if _TRANSCRIPT.search(question):
        return "asr"
    if _DESCRIBE.search(question):
        return "local_caption" if kind == "video" and names_interval(question) else described
    return "qa" if "?" in question or "？" in question else described


def names_interval(question: str, seconds: tuple[float, float] | None = None, tolerance_seconds: float = 0.0) -> bool:
    """Whether a question names an interval in any of the forms known here; with `seconds`, whether it names both of
    these times in any way: "at 0:10", "10 s", "second 10"."""
    if seconds is None:
        return _INTERVAL.search(question) is not None
    named = [60 * float(minutes or 0) + float(rest) for minutes, rest in _NUMBER.findall(question)]
    return all(any(abs(one - wanted) <= tolerance_seconds for one in named) for wanted in seconds)


def task_of(context: Context, fields: Mapping[str, Any], question: str, kind: Media) -> Task:
    """The caller's task, else the item's own, else a guess. Raises `RecordError` for an unknown one."""
    if context.task is not None:
        return context.task
    own = fields.get("task")
    if own is None:
        return guess_task(question, kind)
    if own not in get_args(Task):
        raise RecordError(f"unknown task {own!r:.40}; tasks are {', '.join(get_args(Task))} (or pass one)")
    task: Task = own
    return task


def make_pair(clip: ClipRef, question: str, chosen: str, rejected: str, ground_truth: str) -> PreferencePair:
    """A pair of the first round without metrics, which no foreign file holds."""
    return PreferencePair(
        clip=clip,
        instruction=question,
        chosen=chosen,
        rejected=rejected,
        ground_truth=ground_truth,
        chosen_metrics={},
        rejected_metrics={},
        round=1,
    )


def make_example(clip: ClipRef, task: Task, question: str, answer: str) -> TrainingExample:
    """An example with nothing but a question and its answer."""
    return TrainingExample(clip=clip, task=task, instruction=question, target=answer)


def _is_number(value: Any) -> bool:
    # An int of 400 digits is JSON too, and True is an int to Python.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (abs(value) < 2**53) if isinstance(value, int) else math.isfinite(value)
