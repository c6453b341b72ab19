"""The pipelines as lists of stages, and what is set about them.

    front      probe, format, (shots), length, measure, picture, sound, duplicates: cost nothing
    vs2        audio, generic_speech, asr, transcript, visual, caption, caption_filter, events, local, local_filter,
               checks
    avocado    visual, audio, caption, caption_filter, completeness, (asr), checklist, dialogue, qa, checks
    annotate   events, checklist, dialogue, qa: of captions that are there

What is cheap or drops much stands before what is dear.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from avocet.curation._stage_types import CurationStage
from avocet.curation.checks import TranscriptRules
from avocet.curation.duplicates import DuplicateStage
from avocet.curation.filters import FormatFilter, LengthFilter, PictureFilter, SoundFilter
from avocet.curation.manifest import ManifestClip
from avocet.curation.measure import MeasureStage, ProbeStage
from avocet.curation.pipelines._asking import TeacherSource
from avocet.curation.pipelines.annotate import ChecklistStage, DialogueStage, EventsStage, LocalStage, QaStage
from avocet.curation.pipelines.completeness import CompletenessStage, FusionJudge
from avocet.curation.pipelines.describe import DescribeStage
from avocet.curation.pipelines.fuse import FuseSegmentsStage, FuseSentencesStage
from avocet.curation.pipelines.text_filters import CaptionFilter, GenericSpeechFilter, LocalFilter, TranscriptFilter
from avocet.curation.pipelines.verify import ContradictionCheck, DialogueCheck, SoundCheck
from avocet.curation.segments import SEGMENT_SECONDS, ShotStage
from avocet.curation.teachers import ROLES, Role
from avocet.errors import ConfigError
from avocet.records import Record

PipelineName = Literal["vs2", "avocado"]
Annotation = Literal["events", "checklist", "dialogue", "qa"]
ANNOTATIONS: tuple[Annotation, ...] = get_args(Annotation)

_LENGTHS = {"vs2": (30.0, 60.0), "avocado": (0.0, 100.0)}
"""Seconds, as in the papers."""
_ROLES_OF: dict[PipelineName, tuple[Role, ...]] = {
    "vs2": ROLES,
    "avocado": ("visual", "audio", "fuse", "check"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineSettings(Record):
    """What may be set about a pipeline; stages have more settings of their own."""

    pipeline: PipelineName
    min_seconds: float | None = None
    """Shortest clip; None: as in the paper (vs2 30 s, avocado 0)."""
    max_seconds: float | None = None
    """Longest clip; None: as in the paper (vs2 60 s, avocado 100 s)."""
    cut_shots: bool = False
    """Cut longer files at shots into clips of these lengths."""
    segment_seconds: float = SEGMENT_SECONDS
    """vs2: of what is captioned and transcribed at a time."""
    transcript: TranscriptRules = dataclasses.field(default_factory=TranscriptRules)
    """vs2: when a transcript is no speech."""
    min_caption_words: int = 10
    max_caption_words: int = 3000
    max_repetition: float = 0.25
    min_completeness: int = 4
    """avocado: the lowest score that is kept; 0 leaves the judge out."""
    fuse_tries: int = 3
    """avocado: fusions that are asked for until one holds all sentences."""
    fuse_watching: bool = True
    """avocado: the fusing teacher gets the clip too."""
    local_seconds: float = 10.0
    """vs2: of the interval that a local caption tells; 0 leaves local captions out."""
    num_questions: int = 3
    """avocado: per clip; 0 leaves them out."""
    keep_all_sounds: bool = False
    """Do not drop silent and static clips. What has no sound at all has no audio caption and no transcript."""

    def __post_init__(self) -> None:
        if self.pipeline not in get_args(PipelineName):
            raise ConfigError(f"pipeline must be one of {', '.join(get_args(PipelineName))}, got {self.pipeline!r}")
        if not 0 <= self.min_completeness <= 5:
            raise ConfigError(f"min_completeness must be from 0 (no judge) to 5, got {self.min_completeness}")
        if self.num_questions < 0 or not 0 <= self.local_seconds < math.inf:
            raise ConfigError(
                "num_questions and local_seconds must be >= 0 and finite, got "
                f"{self.num_questions} and {self.local_seconds}"
            )

    @property
    def lengths(self) -> tuple[float, float]:
        """Shortest and longest clip in seconds."""
        low, high = _LENGTHS[self.pipeline]
        return (
            low if self.min_seconds is None else self.min_seconds,
            high if self.max_seconds is None else self.max_seconds,
        )

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that must be bound."""
        return _ROLES_OF[self.pipeline]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindDuplicates:
    """A step that is made into a stage once its whole input is known."""

    name: str = "duplicates"

    def stage(self, clips: Iterable[ManifestClip]) -> CurationStage:
        return DuplicateStage.of_clips(clips, name=self.name)


Step = CurationStage | FindDuplicates


def pipeline_steps(settings: PipelineSettings, teachers: TeacherSource, judge: FusionJudge | None = None) -> list[Step]:
    """All stages of a pipeline, in their order.

    Raises `ConfigError` for a role that nobody is bound to, and for a missing judge.
    """
    missing = [role for role in settings.roles if role not in teachers]
    if missing:
        teachers[missing[0]]  # whose error says how to bind the role
    make = _vs2_steps if settings.pipeline == "vs2" else _avocado_steps
    return [*front_steps(settings), *make(settings, teachers, judge)]


def plan_notes(settings: PipelineSettings, teachers: TeacherSource) -> tuple[str, ...]:
    """What `pipeline_steps` leaves out, because no teacher can do it, and what to bind for it."""
    if settings.pipeline != "vs2" or not settings.local_seconds or _times_events(teachers):
        return ()
    visual = teachers["visual"].name
    return (
        f"no local captions: {visual} describes clips and cannot say when the events of a caption happen; for local "
        "captions bind visual to MODEL@https://HOST/v1",
    )


def _times_events(teachers: TeacherSource) -> bool:
    """Whether the teacher of the picture can be told which events to time."""
    return teachers["visual"].reads_texts


def front_steps(settings: PipelineSettings) -> list[Step]:
    """Those that need no teacher."""
    low, high = settings.lengths
    steps: list[Step] = [ProbeStage(), FormatFilter()]
    steps += [ShotStage(min_seconds=max(low, 1.0), max_seconds=high)] if settings.cut_shots else []
    steps += [LengthFilter(min_seconds=low, max_seconds=high), MeasureStage(max_seconds=max(300.0, high))]
    if not settings.keep_all_sounds:
        steps += [PictureFilter(), SoundFilter()]
    return [*steps, FindDuplicates()]


def annotation_steps(
    annotations: Sequence[Annotation], teachers: TeacherSource, num_questions: int = 3
) -> list[CurationStage]:
    """Stages that annotate captions which stand in the facts of "caption". Raises `ConfigError` for unknown names."""
    unknown = [name for name in annotations if name not in ANNOTATIONS]
    if unknown or not annotations:
        raise ConfigError(f"annotations are {', '.join(ANNOTATIONS)}; got {', '.join(unknown) or 'none'}")
    teachers["check"]
    made: dict[Annotation, CurationStage] = {
        "events": EventsStage(teachers=teachers),
        "checklist": ChecklistStage(teachers=teachers),
        "dialogue": DialogueStage(teachers=teachers),
        "qa": QaStage(teachers=teachers, num_questions=max(1, num_questions)),
    }
    return [made[name] for name in ANNOTATIONS if name in annotations]


def _vs2_steps(settings: PipelineSettings, teachers: TeacherSource, judge: FusionJudge | None) -> list[Step]:
    def describe(sense: Literal["visual", "audio", "asr"]) -> DescribeStage:
        return DescribeStage(
            name=sense,
            sense=sense,
            teachers=teachers,
            segment_seconds=settings.segment_seconds,
            silence_is_empty=settings.keep_all_sounds,
        )

    steps: list[Step] = [describe("audio"), GenericSpeechFilter(), describe("asr")]
    steps += [TranscriptFilter(rules=settings.transcript), describe("visual"), FuseSegmentsStage(teachers=teachers)]
    steps += [_caption_filter(settings), EventsStage(teachers=teachers)]
    if settings.local_seconds and _times_events(teachers):
        steps += [LocalStage(teachers=teachers, interval_seconds=settings.local_seconds), _local_filter(settings)]
    return [*steps, *_checks(teachers, with_transcript=True)]


def _avocado_steps(settings: PipelineSettings, teachers: TeacherSource, judge: FusionJudge | None) -> list[Step]:
    steps: list[Step] = [
        DescribeStage(
            name=sense,
            sense=sense,
            teachers=teachers,
            segment_seconds=None,
            silence_is_empty=settings.keep_all_sounds,
        )
        for sense in ("visual", "audio")
    ]
    steps.append(FuseSentencesStage(teachers=teachers, tries=settings.fuse_tries, watch=settings.fuse_watching))
    steps.append(_caption_filter(settings))
    if settings.min_completeness:
        if judge is None:
            raise ConfigError(
                "avocado keeps captions by their completeness: name a judge (--judge MODEL), or leave it out with "
                "min_completeness 0"
            )
        steps.append(CompletenessStage(judge=judge, min_score=settings.min_completeness))
    with_transcript = "asr" in teachers
    if with_transcript:
        steps.append(
            # Nothing depends on it but a check, so a clip whose sound ends early stays.
            DescribeStage(
                name="asr",
                sense="asr",
                teachers=teachers,
                segment_seconds=settings.segment_seconds,
                silence_is_empty=True,
            )
        )
    steps += [ChecklistStage(teachers=teachers), DialogueStage(teachers=teachers)]
    steps += [QaStage(teachers=teachers, num_questions=settings.num_questions)] if settings.num_questions else []
    return [*steps, *_checks(teachers, with_transcript=with_transcript)]


def _caption_filter(settings: PipelineSettings) -> CaptionFilter:
    return CaptionFilter(
        min_words=settings.min_caption_words,
        max_words=settings.max_caption_words,
        max_repetition=settings.max_repetition,
    )


def _local_filter(settings: PipelineSettings) -> LocalFilter:
    return LocalFilter(
        min_words=settings.min_caption_words,
        max_words=settings.max_caption_words,
        max_repetition=settings.max_repetition,
    )


def _checks(teachers: TeacherSource, *, with_transcript: bool) -> list[CurationStage]:
    dialogue: list[CurationStage] = [DialogueCheck()] if with_transcript else []
    return [*dialogue, SoundCheck(teachers=teachers), ContradictionCheck(teachers=teachers)]
