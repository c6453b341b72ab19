"""What a pipeline would send and pay, before anything is sent.

The stages that cost nothing are really run, and their results are kept for the real run. Behind them the stages that
ask teachers run for show: every question is previewed (`Teacher.preview`), and answered with text of about the usual
length that every filter lets through. So the sums are those of a run that drops nothing more: at most what a real one
needs, but for fusions and annotations that have to be asked for again.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from avocet.curation._stage_types import Progress, StageSummary
from avocet.curation.manifest import ManifestClip, read_manifest
from avocet.curation.outcomes import Cost
from avocet.curation.pipelines._asking import TeacherSource, TeacherStage
from avocet.curation.pipelines.completeness import ClientFusionJudge, CompletenessStage
from avocet.curation.pipelines.plan import FindDuplicates, Step
from avocet.curation.pipelines.run import STAGES_FOLDER, StageRunner, run_steps
from avocet.curation.stage import run_stage
from avocet.curation.teachers import Answer, Preview, Role, Teacher, TeacherError, TeacherTask, prompt_version
from avocet.curation.teachers.endpoint import LoopThread
from avocet.curation.teachers.preview import RoleTotal
from avocet.judging.client import JudgeClient
from avocet.judging.completeness import FusedCaption
from avocet.media import probe
from avocet.records import Verdict

_SENTENCES = {"visual_caption": 20, "audio_caption": 8, "fuse_vs2": 40, "local_caption": 12}
"""Prompt -> sentences of fifteen words that an answer is taken to have: AVoCaDO's captions stay below 1,437 tokens in
the mean, and those of the test set of video-SALMONN 2 have 605 words."""
_NUM_EVENTS = 34
"""The mean of that test set."""


class PreviewTeachers:
    """Teachers that send nothing: `totals` says what they would have sent."""

    def __init__(self, teachers: TeacherSource) -> None:
        self._teachers = teachers
        self._totals: dict[Role, RoleTotal] = {}
        self._lock = threading.Lock()

    def __getitem__(self, role: Role) -> Teacher:
        return _PreviewTeacher(self._teachers[role], role, self)

    def __contains__(self, role: object) -> bool:
        return role in self._teachers

    def add(self, role: Role, name: str, preview: Preview | TeacherError) -> None:
        """Count one question."""
        with self._lock:
            total = self._totals.setdefault(role, RoleTotal(name=f"{role} ({name})"))
            if isinstance(preview, TeacherError):
                total.unreadable[preview.reason] += 1
            else:
                total.add(preview)

    @property
    def totals(self) -> list[RoleTotal]:
        """One per role that was asked, and one in all."""
        whole = RoleTotal(name="in all")
        for total in self._totals.values():
            whole.merge(total)
        return [*self._totals.values(), whole]


class PreviewJudge:
    """Scores every fusion 5 and counts what the judge would have been asked."""

    def __init__(self, client: JudgeClient) -> None:
        self._loop = LoopThread()
        self._judge = ClientFusionJudge(client, self._loop)

    @property
    def identity(self) -> str:
        return f"preview of {self._judge.identity}"

    def score(self, item: FusedCaption, run_index: int) -> tuple[Verdict, Cost]:
        """`client` is in a dry run, so its summary counts the question and nothing is sent."""
        self._judge.score(item, run_index)
        return Verdict(clip_id=item.clip_id, judge=self.identity, findings={"score": 5, "missing": []}), Cost()

    def close(self) -> None:
        self._loop.close()


def preview_pipeline(
    steps: Sequence[Step],
    clips: Iterable[ManifestClip],
    folder: str | os.PathLike[str],
    *,
    runner: StageRunner = run_stage,
    workers: int = 1,
    max_attempts: int = 3,
    progress: Progress | None = None,
) -> tuple[int, list[StageSummary]]:
    """Run steps made with `PreviewTeachers`; arguments as in `run_steps`.

    The first ones, up to the first that asks, write into `folder`. They are those of the real run, which goes on
    behind them (`run_steps`, `gone_through`).

    Returns:
        How many clips would be asked about, and the summaries of the first steps.
    """
    first = next((place for place, step in enumerate(steps) if _asks(step)), len(steps))
    front: list[StageSummary] = []
    if first:
        front = run_steps(
            steps[:first],
            clips,
            folder,
            runner=runner,
            workers=workers,
            max_attempts=max_attempts,
            progress=progress,
        )
        clips = read_manifest(Path(folder) / STAGES_FOLDER / steps[first - 1].name / "clips.jsonl")
    asked = list(clips)
    if first < len(steps):
        with tempfile.TemporaryDirectory(prefix="avocet-dry-run-") as scratch:
            run_steps(steps[first:], asked, scratch, workers=workers, max_attempts=1)
    return len(asked), front


def _asks(step: Step) -> bool:
    return not isinstance(step, FindDuplicates) and isinstance(step, TeacherStage | CompletenessStage)


class _PreviewTeacher:
    def __init__(self, teacher: Teacher, role: Role, totals: PreviewTeachers) -> None:
        self._teacher = teacher
        self._role = role
        self._totals = totals

    @property
    def name(self) -> str:
        return self._teacher.name

    @property
    def version(self) -> str:
        return f"preview of {self._teacher.version}"

    @property
    def reads_texts(self) -> bool:
        return self._teacher.reads_texts

    def ask(self, task: TeacherTask) -> Answer:
        try:
            self._totals.add(self._role, self.name, self._teacher.preview(task))
        except TeacherError as error:
            self._totals.add(self._role, self.name, error)
            raise
        return Answer(
            text=_assumed(task),
            cost=Cost(),
            teacher=self.name,
            prompt_version=prompt_version(task.prompt),
            cached=False,
        )

    def preview(self, task: TeacherTask) -> Preview:
        return self._teacher.preview(task)

    def close(self) -> None:
        self._teacher.close()


def _assumed(task: TeacherTask) -> str:
    """An answer of about the usual length that no check refuses."""
    if task.prompt in _SENTENCES:
        return " ".join(_sentence(number, task.prompt) for number in range(_SENTENCES[task.prompt]))
    if task.prompt == "fuse_avocado":
        return "\n".join(task.fields[name] for name in ("visual_caption", "audio_caption"))
    if task.prompt == "asr":
        return "These are words that somebody says."
    reply: dict[str, object] = {"reasoning": ""}
    if task.prompt == "events":
        reply["events"] = [_sentence(number, "event") for number in range(_NUM_EVENTS)]
    elif task.prompt == "local_intervals":
        count = len(task.fields["events"].splitlines())
        times = {"start_seconds": 0.0, "end_seconds": _seconds(task)}
        reply["events"] = [{"number": number, **times} for number in range(1, count + 1)]
    else:
        name = {"checklist": "keypoints", "dialogue": "utterances", "qa": "pairs", "contradiction": "contradictions"}
        reply[name.get(task.prompt, "sounds")] = []
    return json.dumps(reply)


def _seconds(task: TeacherTask) -> float:
    """Of the media of a question."""
    assert task.clip is not None
    start, end = task.clip.start_seconds or 0.0, task.clip.end_seconds
    return (probe(task.clip.path).duration_seconds if end is None else end) - start


def _sentence(number: int, what: str) -> str:
    # Sentences that differ, and hold no mark inside: repetitive captions are dropped.
    what = what.replace("_", " ")
    return f"In {what} {number} a thing of colour {number} moves past mark {number} and noise {number} is heard."
