"""Teachers and the judge of a run, loaded on first use, in each process that needs them.

Stages hold these, so a stage can be sent to another machine (`avocet.curation.ray_run`): what travels is names and
settings, never connections or weights.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avocet.curation.outcomes import Cost
from avocet.curation.pipelines.completeness import ClientFusionJudge
from avocet.curation.teachers import Role, Teacher, Teachers, load_teachers
from avocet.curation.teachers.bindings import TeacherOptions
from avocet.curation.teachers.endpoint import EndpointTeacher, LoopThread
from avocet.judging.cache import ReplyCache
from avocet.judging.client import ClientSettings, JudgeClient
from avocet.judging.completeness import FusedCaption
from avocet.judging.costs import Price
from avocet.judging.limits import CostCeiling
from avocet.judging.messages import CallParameters
from avocet.records import Verdict


class LazyTeachers:
    """`load_teachers` at the first question; pickles as its arguments, so its cache must be named by a path."""

    def __init__(self, bindings: Mapping[Role, str], options: TeacherOptions) -> None:
        self._bindings = dict(bindings)
        self._options = options
        self._loaded: Teachers | None = None
        self._lock = threading.Lock()

    def __getitem__(self, role: Role, /) -> Teacher:
        return self.loaded[role]

    def __contains__(self, role: object, /) -> bool:
        return role in self._bindings

    @property
    def loaded(self) -> Teachers:
        """The teachers. Raises what `load_teachers` raises."""
        with self._lock:
            if self._loaded is None:
                self._loaded = load_teachers(self._bindings, self._options)
            return self._loaded

    def versions(self) -> dict[str, str]:
        """Role -> name and version."""
        return self.loaded.versions()

    def close(self) -> None:
        """Give back what was loaded."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyTeachers, (self._bindings, self._options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """The judge of completeness."""

    model: str
    base_url: str | None = None
    client: ClientSettings = dataclasses.field(default_factory=ClientSettings)
    cache: Path | None = None
    price: Price | None = None
    max_cost_usd: float | None = None
    parameters: CallParameters = dataclasses.field(default_factory=CallParameters)


class LazyJudge:
    """`ClientFusionJudge` at the first question. Its ceiling of costs is one with that of the teachers."""

    def __init__(self, settings: JudgeSettings, teachers: LazyTeachers) -> None:
        self._settings = settings
        self._teachers = teachers
        self._judge: ClientFusionJudge | None = None
        self._own: list[LoopThread | ReplyCache] = []
        self._lock = threading.Lock()

    @property
    def identity(self) -> str:
        return self._loaded().identity

    def score(self, item: FusedCaption, run_index: int) -> tuple[Verdict, Cost]:
        return self._loaded().score(item, run_index)

    def close(self) -> None:
        """To be called before the teachers are closed."""
        with self._lock:
            judge, self._judge = self._judge, None
            if judge is not None:
                judge.close()
            while self._own:
                self._own.pop().close()

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyJudge, (self._settings, self._teachers)

    def _loaded(self) -> ClientFusionJudge:
        with self._lock:
            if self._judge is None:
                self._judge = self._load()
            return self._judge

    def _load(self) -> ClientFusionJudge:
        settings = self._settings
        cache = None if settings.cache is None else ReplyCache(settings.cache)
        self._own += [cache] if cache is not None else []
        loaded = self._teachers.loaded
        served = [one for role in loaded.roles if isinstance(one := loaded[role], EndpointTeacher)]
        if served:
            # A ceiling belongs to one event loop, so the judge works on that of the teachers.
            loop, ceiling = served[0].loop, served[0].client.ceiling
        else:
            loop, ceiling = LoopThread(), CostCeiling(max_usd=settings.max_cost_usd)
            self._own.append(loop)
        client = JudgeClient(
            settings.model,
            base_url=settings.base_url,
            settings=settings.client,
            cache=cache,
            price=settings.price,
            ceiling=ceiling,
        )
        return ClientFusionJudge(client, loop, parameters=settings.parameters)
