"""From "visual=gpt-4o@https://host/v1" to a teacher.

A teacher is named by one of

    MODEL@http://HOST/v1, MODEL@https://HOST/v1    a model on a server
    endpoint:MODEL                                 the same, on the server of AVOCET_JUDGE_BASE_URL or OPENAI_BASE_URL
    whisper:FOLDER_OR_ID                           a Whisper model, for the role asr
    nano, salmonn2-plus-7b, FOLDER, OWNER/NAME     one of Avocet's captioners, for the roles visual and audio
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from avocet.curation.teachers.endpoint import EndpointTeacher, LoopThread
from avocet.curation.teachers.media_parts import MediaSettings
from avocet.curation.teachers.roles import ROLES, Role, Teacher, Teachers, how_to_bind
from avocet.errors import ConfigError
from avocet.judging.cache import ReplyCache
from avocet.judging.client import ClientSettings, JudgeClient
from avocet.judging.costs import Price
from avocet.judging.limits import CostCeiling
from avocet.judging.messages import CallParameters
from avocet.records import Sampling

_ON_SERVER = re.compile(r"(?P<model>.+?)@(?P<url>https?://.+)")
_ENDPOINT, _WHISPER = "endpoint:", "whisper:"
_CAPTIONER_ROLES: tuple[Role, ...] = ("visual", "audio")

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """What the teachers are loaded with. Mappings give each role (or model) its own; others have the default."""

    cache: ReplyCache | str | os.PathLike[str] | None = None
    """Where answers are kept; without it nothing is, and a killed run pays again."""
    settings: ClientSettings = dataclasses.field(default_factory=ClientSettings)
    """Of each server: concurrency, pace, retries, deadline."""
    parameters: CallParameters | Mapping[Role, CallParameters] = dataclasses.field(default_factory=CallParameters)
    media: MediaSettings | Mapping[Role, MediaSettings] = dataclasses.field(default_factory=MediaSettings)
    price: Price | Mapping[str, Price] | None = None
    """By model name where several models have no price in the table."""
    max_cost_usd: float | None = None
    """Of all teachers together, in this run."""
    api_key: str | None = None
    """Else AVOCET_JUDGE_API_KEY or OPENAI_API_KEY."""
    sampling: Sampling | None = None
    """Of captioners; None for their own."""
    use_prompts: bool = False
    """Ask captioners with the text of the prompt in place of their own instruction."""
    language: str | None = None
    """Of Whisper; None lets it find out."""
    device: str = "auto"
    dtype: str = "auto"


def parse_bindings(texts: Iterable[str]) -> dict[Role, str]:
    """ROLE=TEACHER texts of a command line by role. Raises `ConfigError` for other texts and for roles given twice."""
    bindings: dict[Role, str] = {}
    for text in texts:
        name, _, teacher = text.partition("=")
        role = next((role for role in ROLES if role == name.strip()), None)
        if role is None or not teacher.strip():
            raise ConfigError(
                f"a binding is ROLE=TEACHER with one of the roles {', '.join(ROLES)}, got {text!r}; "
                f"{how_to_bind('visual')}"
            )
        if role in bindings:
            raise ConfigError(f"the role {role!r} is bound twice: to {bindings[role]!r} and to {teacher.strip()!r}")
        bindings[role] = teacher.strip()
    return bindings


def load_teachers(
    bindings: Mapping[Role, str] | Mapping[str, str],
    options: TeacherOptions | None = None,
    **changes: object,
) -> Teachers:
    """The teachers of a pipeline; close them, or use them as a context manager.

    Roles that name the same model share it: its weights, and on a server its connections and limits.

    Args:
        bindings: role -> teacher, as in the module's description.
        options: see `TeacherOptions`; `changes` are fields of it.

    Raises:
        ConfigError: unknown roles and options, a teacher that cannot fill its role, no key, a ceiling without a price.
        ModelNotFoundError: weights that are not here.
        CacheError: the cache is damaged or no cache.
    """
    chosen = _with_changes(options or TeacherOptions(), changes)
    with contextlib.ExitStack() as stack:
        loader = _Loader(chosen, stack)
        loaded: dict[Role, Teacher] = {}
        for role, name in parse_bindings(f"{role}={name}" for role, name in bindings.items()).items():
            loaded[role] = loader.load(role, name)
        return Teachers(loaded, stack.pop_all())


def _with_changes(options: TeacherOptions, changes: Mapping[str, object]) -> TeacherOptions:
    names = [field.name for field in dataclasses.fields(TeacherOptions)]
    unknown = sorted(set(changes) - set(names))
    if unknown:
        raise ConfigError(f"load_teachers has no option {', '.join(unknown)}; it has {', '.join(names)}")
    return dataclasses.replace(options, **changes)  # type: ignore[arg-type]  # the names are checked


class _Loader:
    """Loads each model once."""

    def __init__(self, options: TeacherOptions, stack: contextlib.ExitStack) -> None:
        self._options = options
        self._stack = stack
        self._shared: dict[str, object] = {}
        self._ceiling = CostCeiling(max_usd=options.max_cost_usd)
        cache = options.cache
        if cache is not None and not isinstance(cache, ReplyCache):
            cache = stack.enter_context(ReplyCache(cache))
        self._cache = cache

    def load(self, role: Role, name: str) -> Teacher:
        on_server = _ON_SERVER.fullmatch(name)
        if on_server is not None:
            return self._endpoint(role, on_server["model"], on_server["url"])
        if name.startswith(_ENDPOINT):
            return self._endpoint(role, name.removeprefix(_ENDPOINT), None)
        if name.startswith(_WHISPER):
            return self._whisper(role, name.removeprefix(_WHISPER))
        return self._captioner(role, name)

    def _endpoint(self, role: Role, model: str, url: str | None) -> Teacher:
        options = self._options
        loop = self._once("loop", self._start_loop)

        def connect() -> JudgeClient:
            price = options.price.get(model) if isinstance(options.price, Mapping) else options.price
            return JudgeClient(
                model,
                base_url=url,
                api_key=options.api_key,
                settings=options.settings,
                cache=self._cache,
                price=price,
                ceiling=self._ceiling,
            )

        return EndpointTeacher(
            self._once(f"client {model}@{url}", connect),
            loop,
            parameters=_of_role(options.parameters, role, CallParameters()),
            media=_of_role(options.media, role, MediaSettings()),
        )

    def _whisper(self, role: Role, name: str) -> Teacher:
        if role != "asr":
            raise ConfigError(
                f"whisper:{name} recognises speech and cannot fill the role {role!r}; {how_to_bind(role)}"
            )

        def load() -> Teacher:
            from avocet.curation.teachers.whisper import WhisperTeacher

            options = self._options
            return WhisperTeacher.load(
                name, cache=self._cache, language=options.language, device=options.device, dtype=options.dtype
            )

        return self._once(f"whisper {name}", load)

    def _captioner(self, role: Role, name: str) -> Teacher:
        if role not in _CAPTIONER_ROLES:
            raise ConfigError(
                f"{name!r} names a captioner, which can fill the roles {', '.join(_CAPTIONER_ROLES)}, not {role!r}; "
                f"{how_to_bind(role)}"
            )

        def load() -> Teacher:
            from avocet.captioning import load_captioner
            from avocet.curation.teachers.captioner import CaptionerTeacher

            options = self._options
            captioner = load_captioner(name, device=options.device, dtype=options.dtype)
            return CaptionerTeacher(
                captioner, cache=self._cache, sampling=options.sampling, use_prompts=options.use_prompts
            )

        return self._once(f"captioner {name}", load)

    def _start_loop(self) -> LoopThread:
        loop = LoopThread()
        self._stack.callback(loop.close)
        return loop

    def _once(self, key: str, make: Callable[[], _T]) -> _T:
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]  # type: ignore[return-value]  # one type per key


def _of_role(given: _T | Mapping[Role, _T], role: Role, default: _T) -> _T:
    return given.get(role, default) if isinstance(given, Mapping) else given
