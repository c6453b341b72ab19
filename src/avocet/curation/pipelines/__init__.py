"""Both papers' data pipelines as stages of curation, and the annotation of captions that are there.

    with load_teachers(bindings, cache="replies.sqlite") as teachers:
        steps = pipeline_steps(PipelineSettings(pipeline="vs2"), teachers)
        run_steps(steps, find_manifest_clips(["videos/"]), "out", workers=8)

Names are imported on first use.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avocet.curation.pipelines.annotate import ChecklistStage, DialogueStage, EventsStage, LocalStage, QaStage
    from avocet.curation.pipelines.completeness import ClientFusionJudge, CompletenessStage
    from avocet.curation.pipelines.describe import DescribeStage
    from avocet.curation.pipelines.dry_run import PreviewTeachers, preview_pipeline
    from avocet.curation.pipelines.fuse import FuseSegmentsStage, FuseSentencesStage
    from avocet.curation.pipelines.plan import (
        ANNOTATIONS,
        PipelineSettings,
        annotation_steps,
        front_steps,
        pipeline_steps,
        plan_notes,
    )
    from avocet.curation.pipelines.run import RunRecord, last_manifest, run_steps
    from avocet.curation.pipelines.text_filters import (
        CaptionFilter,
        GenericSpeechFilter,
        LocalFilter,
        TranscriptFilter,
    )
    from avocet.curation.pipelines.verify import ContradictionCheck, DialogueCheck, SoundCheck

_HOMES = MappingProxyType(
    {
        **dict.fromkeys(("ChecklistStage", "DialogueStage", "EventsStage", "LocalStage", "QaStage"), "annotate"),
        **dict.fromkeys(("ClientFusionJudge", "CompletenessStage"), "completeness"),
        "DescribeStage": "describe",
        **dict.fromkeys(("PreviewTeachers", "preview_pipeline"), "dry_run"),
        **dict.fromkeys(("FuseSegmentsStage", "FuseSentencesStage"), "fuse"),
        **dict.fromkeys(
            ("ANNOTATIONS", "PipelineSettings", "annotation_steps", "front_steps", "pipeline_steps", "plan_notes"),
            "plan",
        ),
        **dict.fromkeys(("RunRecord", "last_manifest", "run_steps"), "run"),
        **dict.fromkeys(("CaptionFilter", "GenericSpeechFilter", "LocalFilter", "TranscriptFilter"), "text_filters"),
        **dict.fromkeys(("ContradictionCheck", "DialogueCheck", "SoundCheck"), "verify"),
    }
)

__all__ = [
    "ANNOTATIONS",
    "CaptionFilter",
    "ChecklistStage",
    "ClientFusionJudge",
    "CompletenessStage",
    "ContradictionCheck",
    "DescribeStage",
    "DialogueCheck",
    "DialogueStage",
    "EventsStage",
    "FuseSegmentsStage",
    "FuseSentencesStage",
    "GenericSpeechFilter",
    "LocalFilter",
    "LocalStage",
    "PipelineSettings",
    "PreviewTeachers",
    "QaStage",
    "RunRecord",
    "SoundCheck",
    "TranscriptFilter",
    "annotation_steps",
    "front_steps",
    "last_manifest",
    "pipeline_steps",
    "plan_notes",
    "preview_pipeline",
    "run_steps",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'avocet.curation.pipelines' has no attribute {name!r}")
    return getattr(importlib.import_module(f"avocet.curation.pipelines.{_HOMES[name]}"), name)
