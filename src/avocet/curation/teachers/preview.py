"""What a pipeline would send and pay, before anything is sent."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping

from avocet.curation.teachers.roles import ROLES, Preview, Role, TeacherError, Teachers, TeacherTask

_MEGABYTE = 1_000_000


@dataclasses.dataclass(kw_only=True)
class RoleTotal:
    """Sums over the questions of one role, or of all."""

    name: str
    num_tasks: int = 0
    tokens: int = 0
    reply_tokens: int = 0
    bytes: int = 0
    images: int = 0
    sound_seconds: float = 0.0
    video_seconds: float = 0.0
    usd: float = 0.0
    num_unpriced: int = 0
    """Questions whose price is not known; `usd` leaves them out."""
    unreadable: Counter[str] = dataclasses.field(default_factory=Counter)
    """Why questions cannot be asked -> how many; the other numbers leave them out."""

    def add(self, preview: Preview) -> None:
        self.num_tasks += 1
        for name in ("tokens", "reply_tokens", "bytes", "images", "sound_seconds", "video_seconds"):
            setattr(self, name, getattr(self, name) + getattr(preview, name))
        if preview.usd is None:
            self.num_unpriced += 1
        else:
            self.usd += preview.usd

    def merge(self, other: RoleTotal) -> None:
        for field in dataclasses.fields(self):
            if field.name != "name":
                setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def line(self) -> str:
        """For people."""
        items = [f"{self.num_tasks:,} question{'' if self.num_tasks == 1 else 's'}"]
        items += [f"{self.images:,} pictures"] * bool(self.images)
        items += [f"{self.sound_seconds / 60:,.1f} min of sound"] * bool(self.sound_seconds)
        items += [f"{self.video_seconds / 60:,.1f} min of video"] * bool(self.video_seconds)
        items += [f"about {self.bytes / _MEGABYTE:,.1f} MB"] * bool(self.bytes)
        items.append(f"about {self.tokens:,} tokens and up to {self.reply_tokens:,} in reply")
        items.append(self._price())
        items += [f"{number:,} cannot be asked ({reason})" for reason, number in sorted(self.unreadable.items())]
        return f"{self.name}: {', '.join(items)}"

    def _price(self) -> str:
        if self.num_unpriced and self.num_unpriced == self.num_tasks:
            return "price unknown (give --price IN,OUT)"
        unknown = f" (price of {self.num_unpriced:,} unknown)" if self.num_unpriced else ""
        return f"at most ${self.usd:,.4f}{unknown}"


def preview_totals(teachers: Teachers, tasks_by_role: Mapping[Role, Iterable[TeacherTask]]) -> list[RoleTotal]:
    """One total per role, in the order of `ROLES`. The tasks are read once, one by one; nothing is sent.

    Fields that earlier answers will fill may hold text of the expected length. Raises `ConfigError` for roles that
    nobody is bound to.
    """
    totals = []
    for role in ROLES:
        if role not in tasks_by_role:
            continue
        teacher = teachers[role]
        total = RoleTotal(name=f"{role} ({teacher.name})")
        for task in tasks_by_role[role]:
            try:
                total.add(teacher.preview(task))
            except TeacherError as error:
                total.unreadable[error.reason] += 1
        totals.append(total)
    return totals


def preview_lines(teachers: Teachers, tasks_by_role: Mapping[Role, Iterable[TeacherTask]]) -> list[str]:
    """For people: a line per role and one in all. As if nothing was in the cache; see `preview_totals`."""
    totals = preview_totals(teachers, tasks_by_role)
    whole = RoleTotal(name="in all")
    for total in totals:
        whole.merge(total)
    return [total.line() for total in [*totals, *([whole] if len(totals) > 1 else [])]]
