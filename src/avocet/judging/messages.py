"""What is sent to a judge and comes back: messages of typed parts, sampling parameters, a schema for the reply.

The wire format is that of the chat-completions protocol. Text-only messages are sent as plain strings, which every
server understands; pictures go as `image_url`, sound as `input_audio`, video as `video_url` (which vLLM, SGLang and
some vendors take), inline as data URIs unless a URL is given.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from avocet.errors import ConfigError, RecordError
from avocet.judging.costs import Usage
from avocet.records import Record

Role = Literal["system", "user", "assistant"]

MAX_INLINE_BYTES = 20_000_000
"""Largest file that is sent inline; vendors refuse requests above about 20 MB."""

_BYTES_PER_TOKEN = 3
"""On the safe side for every script: English has about 4 UTF-8 bytes per token, Chinese about 3 to 4."""
_TOKENS_PER_MESSAGE = 8
_TOKENS_PER_IMAGE = 1_200
_TOKENS_PER_SECOND_OF_SOUND = 32
_TOKENS_PER_SECOND_OF_VIDEO = 300
"""Picture at 1 fps and sound together, as Gemini counts them."""

_IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
_VIDEO_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".webm": "video/webm"}
_SOUND_FORMATS = {".wav": "wav", ".mp3": "mp3", ".flac": "flac", ".ogg": "ogg", ".m4a": "m4a", ".aac": "aac"}


def _text_tokens(text: str) -> int:
    return math.ceil(len(text.encode()) / _BYTES_PER_TOKEN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPart:
    """Text. Raises `RecordError` for text that cannot be sent (lone surrogates)."""

    text: str

    def __post_init__(self) -> None:
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            raise RecordError(
                f"TextPart: not valid Unicode text ({error.reason} at character {error.start}); pass text from "
                "outside through avocet.judging.neutralise"
            ) from error

    def wire(self) -> dict[str, Any]:
        return {"type": "text", "text": self.text}

    @property
    def estimated_tokens(self) -> int:
        return _text_tokens(self.text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagePart:
    """A picture, by URL or data URI."""

    url: str

    @classmethod
    def from_bytes(cls, data: bytes, mime_type: str = "image/jpeg") -> ImagePart:
        return cls(url=_data_uri(data, mime_type, "image"))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ImagePart:
        """Raises `ConfigError` for a file that is too large or of a kind that servers do not take."""
        return cls.from_bytes(_read(path), _mime_type(path, _IMAGE_TYPES))

    def wire(self) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": self.url}}

    @property
    def estimated_tokens(self) -> int:
        return _TOKENS_PER_IMAGE


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioPart:
    """Sound, always inline."""

    data: str
    """Base64 of the file's bytes."""
    format: str
    """Name of the file format: "wav", "mp3", ..."""
    duration_seconds: float

    @classmethod
    def from_bytes(cls, data: bytes, format: str, duration_seconds: float) -> AudioPart:
        _check_size(len(data), "audio")
        return cls(data=base64.b64encode(data).decode(), format=format, duration_seconds=duration_seconds)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], duration_seconds: float) -> AudioPart:
        """Raises `ConfigError` for a file that is too large or of a kind that servers do not take."""
        return cls.from_bytes(_read(path), _mime_type(path, _SOUND_FORMATS), duration_seconds)

    def wire(self) -> dict[str, Any]:
        return {"type": "input_audio", "input_audio": {"data": self.data, "format": self.format}}

    @property
    def estimated_tokens(self) -> int:
        return math.ceil(self.duration_seconds * _TOKENS_PER_SECOND_OF_SOUND)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoPart:
    """A video with its sound, by URL or data URI. Only judges that can watch accept it."""

    url: str
    duration_seconds: float

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], duration_seconds: float) -> VideoPart:
        """Raises `ConfigError` for a file that is too large or of a kind that servers do not take."""
        return cls(
            url=_data_uri(_read(path), _mime_type(path, _VIDEO_TYPES), "video"), duration_seconds=duration_seconds
        )

    def wire(self) -> dict[str, Any]:
        return {"type": "video_url", "video_url": {"url": self.url}}

    @property
    def estimated_tokens(self) -> int:
        return math.ceil(self.duration_seconds * _TOKENS_PER_SECOND_OF_VIDEO)


Part = TextPart | ImagePart | AudioPart | VideoPart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """One turn."""

    role: Role
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise RecordError(f"Message: role must be one of {', '.join(get_args(Role))}, got {self.role!r}")
        if not self.parts:
            raise RecordError("Message: needs at least one part")

    @classmethod
    def of_text(cls, role: Role, text: str) -> Message:
        return cls(role=role, parts=(TextPart(text=text),))

    def wire(self) -> dict[str, Any]:
        if all(isinstance(part, TextPart) for part in self.parts):
            return {"role": self.role, "content": "\n\n".join(part.wire()["text"] for part in self.parts)}
        return {"role": self.role, "content": [part.wire() for part in self.parts]}

    @property
    def estimated_tokens(self) -> int:
        return _TOKENS_PER_MESSAGE + sum(part.estimated_tokens for part in self.parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CallParameters(Record):
    """How the judge samples. None leaves a parameter out, for models that refuse it."""

    temperature: float | None = 0.0
    top_p: float | None = None
    max_tokens: int = 4096
    """Longest reply, reasoning included; also what a reply is assumed to cost before it is there."""
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # noqa: S105  # no secret
    """What the server calls `max_tokens`; OpenAI's reasoning models insist on the second name."""
    seed: int | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further fields of the request, for example {"reasoning_effort": "low"}."""

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature >= 0:
            raise RecordError(f"CallParameters: temperature must be >= 0 or None, got {self.temperature}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise RecordError(f"CallParameters: top_p must be in (0, 1] or None, got {self.top_p}")
        if self.max_tokens < 1:
            raise RecordError(f"CallParameters: max_tokens must be >= 1, got {self.max_tokens}")
        own = {"model", "messages", "response_format", "stream", "n", "max_completion_tokens"}
        taken = sorted((own | {field.name for field in dataclasses.fields(self)}) & set(self.extra))
        if taken:
            raise RecordError(f"CallParameters: extra must not hold {', '.join(taken)}; there are fields for those")

    def wire(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("temperature", "top_p", "seed")}
        named[self.token_limit_field] = self.max_tokens
        return {name: value for name, value in named.items() if value is not None} | self.extra


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplySchema:
    """The JSON schema that a reply should follow, where the server can enforce one."""

    name: str
    schema: Mapping[str, Any]

    def wire(self) -> dict[str, Any]:
        content = {"name": self.name, "strict": True, "schema": dict(self.schema)}
        return {"type": "json_schema", "json_schema": content}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """One question to a judge."""

    messages: tuple[Message, ...]
    parameters: CallParameters = CallParameters()
    schema: ReplySchema | None = None
    run_index: int = 0
    """Which of several independent replies to the same question this is."""
    prompt_version: str = ""
    judge: str = "judge"
    """Who asks; for the accounts, not part of the key."""
    is_reask: bool = False
    """Whether this repeats a question whose reply could not be read; for the accounts, not part of the key."""

    def key(self, model: str) -> str:
        """sha256 (hex) of everything that decides the reply, except the address of the server."""
        content = {
            "model": model,
            "messages": [message.wire() for message in self.messages],
            "parameters": self.parameters.wire(),
            "schema": None if self.schema is None else self.schema.wire(),
            "run_index": self.run_index,
            "prompt_version": self.prompt_version,
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def body(self, model: str, *, structured: bool) -> dict[str, Any]:
        """The JSON body of the HTTP request."""
        body = {"model": model, "messages": [message.wire() for message in self.messages], **self.parameters.wire()}
        if structured and self.schema is not None:
            body["response_format"] = self.schema.wire()
        return body

    @functools.cached_property
    def estimated_prompt_tokens(self) -> int:
        """On the high side for text; see the constants of this module for media."""
        schema = "" if self.schema is None else json.dumps(self.schema.wire())
        return sum(message.estimated_tokens for message in self.messages) + _text_tokens(schema)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """What the judge said."""

    text: str
    finish_reason: str | None
    usage: Usage
    from_cache: bool
    key: str

    @property
    def shortcoming(self) -> str | None:
        """Why this is no whole reply; None when it is one."""
        if self.finish_reason == "length":
            return f"it was cut off after {self.usage.completion_tokens} tokens"
        if self.finish_reason in ("content_filter", "refusal"):
            return f"it was withheld ({self.finish_reason})"
        return None if self.text.strip() else "it is empty"


def _mime_type(path: str | os.PathLike[str], types: Mapping[str, str]) -> str:
    mime_type = types.get(Path(path).suffix.lower())
    if mime_type is None:
        raise ConfigError(f"{path}: only {', '.join(types)} can be sent here; convert the file or give a URL")
    return mime_type


def _data_uri(data: bytes, mime_type: str, kind: str) -> str:
    _check_size(len(data), kind)
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


def _check_size(num_bytes: int, what: str) -> None:
    if num_bytes > MAX_INLINE_BYTES:
        raise ConfigError(
            f"{num_bytes:,} bytes of {what} are too many to be sent inline (at most {MAX_INLINE_BYTES:,}); "
            "give a URL, a smaller file or a shorter interval"
        )


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        _check_size(os.path.getsize(path), os.fspath(path))
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
