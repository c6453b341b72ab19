"""A teacher and a judge in this process that say what a test tells them, and a clip to ask about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avocet.curation import ManifestClip
from avocet.curation.outcomes import Cost
from avocet.curation.teachers import ROLES, Answer, Preview, Teachers, TeacherTask
from avocet.judging.completeness import FusedCaption
from avocet.records import Verdict

Reply = Callable[[TeacherTask], str]


class InProcess:
    """A teacher that says what a function gives, for 1 USD each."""

    name = "told"
    reads_texts = True

    def __init__(self, reply: Reply, version: str = "1") -> None:
        self.reply, self.version = reply, version
        self.tasks: list[TeacherTask] = []

    def ask(self, task: TeacherTask) -> Answer:
        self.tasks.append(task)
        text, cost = self.reply(task), Cost(usd=1.0, num_calls=1)
        return Answer(text=text, cost=cost, bought=cost, teacher="told", prompt_version="1", cached=False)

    def preview(self, task: TeacherTask) -> Preview:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to close."""


def told(reply: Reply | str, version: str = "1") -> tuple[Teachers, InProcess]:
    teacher = InProcess(reply if callable(reply) else lambda task: reply, version)
    return Teachers(dict.fromkeys(ROLES, teacher)), teacher


def clip_with(**facts: dict[str, Any]) -> ManifestClip:
    known = {"measure": {"duration_seconds": 24.0}, "caption": {"text": 'A dog barks. Ann says, "Come in."'}}
    return ManifestClip(id="a", path="/v/a.mp4", start_seconds=100.0, end_seconds=124.0, facts=known | facts)


class Scores:
    identity = "scores"

    def __init__(self, *verdicts: int | str) -> None:
        self.verdicts = list(verdicts)

    def score(self, item: FusedCaption, run_index: int) -> tuple[Verdict, Cost]:
        given, cost = self.verdicts[run_index], Cost(usd=1.0, num_calls=1)
        if isinstance(given, str):
            return Verdict(clip_id="a", judge="scores", status="unscored", reason=given), cost
        return Verdict(clip_id="a", judge="scores", findings={"score": given, "missing": ["1: x"]}), cost
