"""What a curation pipeline asks of its teachers: five roles, one question at a time, one answer with its cost.

A pipeline never names a model. It asks `teachers["visual"].ask(TeacherTask(...))`, and the bindings decide whether an
endpoint, one of Avocet's own captioners or a Whisper model answers.

The prompts, their fields and what comes back:

| prompt | role | media | fields | reply |
|---|---|---|---|---|
| `audio_caption` | audio | sound | | prose |
| `visual_caption` | visual | frames | | prose |
| `asr` | asr | sound | | the words, or `NO_SPEECH` |
| `fuse_vs2` | fuse | none | `visual_captions`, `audio_captions`, `transcripts`: see `segment_lines` | prose |
| `fuse_avocado` | fuse | none, or both | `visual_caption`, `audio_caption` | prose |
| `events` | check | none | `caption` | `EventsReply` |
| `local_intervals` | visual | both | `events`: see `numbered` | `IntervalsReply` |
| `local_caption` | fuse | none | `caption`, `events`, `start_seconds`, `end_seconds` | prose |
| `checklist` | check | none | `caption` | `ChecklistReply` |
| `dialogue` | check | none | `caption` | `DialogueReply` |
| `qa` | check | none | `caption`, `num_questions` | `QaReply` |
| `contradiction` | check | none | `visual_caption`, `audio_caption` | `ContradictionReply` |
| `sound_names` | check | none | `caption`, `audio_caption` | `SoundNamesReply` |

The role is the usual one; any teacher that takes the media may be asked anything. Replies are read with
`avocet.curation.teachers.replies.read_reply`. A stage puts the teacher's `version` and `prompt_version(name)` into its
own version, so that another model or another wording looks at the clips anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import Literal, Protocol, get_args

from avocet.curation.outcomes import Cost, Dropped, Failed, media_outcome
from avocet.errors import AvocetError, ConfigError, MediaError
from avocet.records import ClipRef, Record

Role = Literal["visual", "audio", "asr", "fuse", "check"]
Media = Literal["none", "frames", "sound", "both"]
ROLES: tuple[Role, ...] = get_args(Role)

_FOR_GOOD = ("no_sound", "no_picture", "too_large")
"""Reasons of `TeacherError` that lie in the clip."""

NO_SPEECH = "[no speech]"
"""What an `asr` answer says when nothing is spoken."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherTask:
    """One question to a teacher."""

    prompt: str
    """Name of a prompt; see the module."""
    fields: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    """The prompt's texts and numbers. They are taken for hostile: the prompt layer neutralises and quotes them."""
    clip: ClipRef | None = None
    """The media to send, its interval only; None for questions about texts."""
    media: Media = "none"
    fps: float | None = None
    """Frames per second to send; None leaves it to the teacher."""
    index: int = 0
    """Which of several independent answers to the same question this is."""

    def __post_init__(self) -> None:
        if self.media not in get_args(Media):
            raise ConfigError(f"TeacherTask: media must be one of {', '.join(get_args(Media))}, got {self.media!r}")
        if (self.clip is None) != (self.media == "none"):
            raise ConfigError(
                f"TeacherTask {self.prompt!r}: a clip and media other than 'none' go together, got clip "
                f"{None if self.clip is None else self.clip.id!r} with media {self.media!r}"
            )
        if self.fps is not None and not self.fps > 0:
            raise ConfigError(f"TeacherTask {self.prompt!r}: fps must be > 0 or None, got {self.fps}")
        if self.index < 0:
            raise ConfigError(f"TeacherTask {self.prompt!r}: index must be >= 0, got {self.index}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpokenSegment(Record):
    """Recognised words with their time, in seconds from the start of the clip."""

    start_seconds: float
    end_seconds: float
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a teacher said."""

    text: str
    """Never empty."""
    cost: Cost
    """What was paid now; nothing for answers from the cache."""
    teacher: str
    """Name and revision of the model."""
    prompt_version: str
    cached: bool
    bought: Cost = dataclasses.field(default_factory=Cost)
    """What the answer cost when it was bought, now or by an earlier run. Sums over this one are the same in a run
    that was killed and continued; a question that is asked twice counts twice."""
    segments: tuple[SpokenSegment, ...] = ()
    """Of a recogniser that tells times: what it heard when, in order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preview:
    """What sending one task would take, before it is sent and without decoding media."""

    tokens: int
    """Of the question, estimated on the high side."""
    reply_tokens: int
    """Longest reply."""
    bytes: int
    """About what goes over the wire: texts, and media in base64. 0 for models on this machine."""
    images: int = 0
    sound_seconds: float = 0.0
    video_seconds: float = 0.0
    usd: float | None = 0.0
    """At most; None where the price is not known, 0 for models on this machine."""


class TeacherError(AvocetError):
    """A question got no usable answer. `outcome` is what a stage may return for it.

    `reason` is a code to count by: `rejected`, `rate_limited`, `server_error`, `timeout`, `connection`, `malformed`
    (no reply, see `judging.errors.FailureKind`), `cut_off`, `withheld`, `empty` (a reply that is none), `too_large`,
    `no_sound`, `no_picture`, `media_error`, `media_unavailable` (the clip), `model_refused` (a local model).
    """

    def __init__(
        self,
        reason: str,
        detail: str,
        at_once: bool = True,
        *,
        cost: Cost | None = None,
        media_error: MediaError | None = None,
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.at_once = at_once
        """Whether another try in this run may go better."""
        self.cost = cost or Cost()
        """What was paid for nothing."""
        self.media_error = media_error

    def __reduce__(self) -> tuple[type[TeacherError], tuple[str, str, bool]]:
        return type(self), (self.reason, self.detail, self.at_once)

    def outcome(self, cost: Cost | None = None) -> Dropped | Failed:
        """What no other try can change (the clip is unreadable, lacks what was to be sent, or is too large to be sent)
        drops the clip, everything else fails. `cost`: of earlier questions of the same look."""
        spent = self.cost + (cost or Cost())
        if self.media_error is not None:
            return dataclasses.replace(media_outcome(self.media_error), cost=spent)
        if self.reason in _FOR_GOOD:
            return Dropped(reason=self.reason, detail=self.detail, cost=spent)
        return Failed(reason=self.reason, detail=self.detail, at_once=self.at_once, cost=spent)


class Teacher(Protocol):
    """Answers questions. `ask` is called from several threads at once."""

    @property
    def reads_texts(self) -> bool:
        """Whether it can be asked about texts; captioners and recognisers only tell what they see or hear."""

    @property
    def name(self) -> str:
        """Name and revision of the model."""

    @property
    def version(self) -> str:
        """Changes whenever the teacher may answer otherwise: model, sampling, how media are sent."""

    def ask(self, task: TeacherTask) -> Answer:
        """The answer, from the cache if it is there. Waits for it.

        Raises `TeacherError` when this question gets none, `ConfigError` for one that this teacher cannot be asked,
        and `JudgeStop` (no access, ceiling of costs) when no question will get any.
        """

    def preview(self, task: TeacherTask) -> Preview:
        """What `ask` would send, as if nothing was in the cache. Raises `TeacherError` for unreadable media."""

    def close(self) -> None:
        """Give back connections and files."""


class Teachers:
    """The teachers of a pipeline by role; a context manager that closes them (closing twice is harmless).

    `teachers["asr"]` raises `ConfigError` saying how to bind the role when nobody has it.
    """

    def __init__(
        self, bindings: Mapping[Role, Teacher], resources: contextlib.AbstractContextManager[object] | None = None
    ) -> None:
        for role in bindings:
            _check_role(role)
        self._bindings = dict(bindings)
        self._resources = resources
        """What several teachers share (event loop, caches): closed after them."""

    def __getitem__(self, role: Role) -> Teacher:
        _check_role(role)
        if role not in self._bindings:
            raise ConfigError(
                f"nobody is bound to the role {role!r} (bound: {', '.join(self._bindings) or 'none'}); "
                f"{how_to_bind(role)}"
            )
        return self._bindings[role]

    def __contains__(self, role: object) -> bool:
        return role in self._bindings

    @property
    def roles(self) -> tuple[Role, ...]:
        """Those that are bound, in the order of `ROLES`."""
        return tuple(role for role in ROLES if role in self._bindings)

    def versions(self) -> dict[str, str]:
        """Role -> name and version, for the records of a run."""
        return {role: f"{self[role].name} {self[role].version}" for role in self.roles}

    def close(self) -> None:
        for teacher in {id(teacher): teacher for teacher in self._bindings.values()}.values():
            teacher.close()
        if self._resources is not None:
            self._resources.__exit__(None, None, None)

    def __enter__(self) -> Teachers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def segment_lines(segments: Iterable[tuple[float, float, str]]) -> str:
    """(start, end, text) as the fields of `fuse_vs2` hold them: one line per segment, headed by its seconds."""
    return "\n".join(f"[{start:g}-{end:g} s] {' '.join(text.split())}" for start, end, text in segments)


def numbered(items: Iterable[str]) -> str:
    """Items as a numbered list from 1, one line each."""
    return "\n".join(f"{number}. {' '.join(item.split())}" for number, item in enumerate(items, start=1))


def how_to_bind(role: str) -> str:
    """For error messages: an example of a binding."""
    examples = {
        "visual": "gpt-4o@https://HOST/v1, or a captioner such as salmonn2-plus-7b",
        "audio": "MODEL@https://HOST/v1, or a captioner such as salmonn2-plus-7b",
        "asr": "whisper:FOLDER_OR_ID, or MODEL@https://HOST/v1",
    }
    return f"bind it with {role}=TEACHER, where TEACHER is {examples.get(role, 'MODEL@https://HOST/v1')}"


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise ConfigError(f"there is no role {role!r}; roles are {', '.join(ROLES)}")
