"""From raw videos to training data: stages over a manifest of clips, each resumable, with its costs and yield.

    clips = find_manifest_clips(["videos/"])
    stages = [ProbeStage(), FormatFilter(), ShotStage(), MeasureStage(), PictureFilter(), SoundFilter()]
    run_stages(stages, clips, "out")

Both papers' pipelines are in `avocet.curation.pipelines`, the teachers that they ask in `avocet.curation.teachers`.

Names are imported on first use: a manifest is read without decoders.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avocet.curation.checks import check_sentences
    from avocet.curation.data_card import DataCard, make_card, write_card
    from avocet.curation.duplicates import DuplicateRules, DuplicateStage, find_duplicates
    from avocet.curation.filters import (
        FactsFilter,
        FormatFilter,
        LengthFilter,
        PictureFilter,
        SoundFilter,
        SpeechLikePrefilter,
    )
    from avocet.curation.manifest import ManifestClip, find_manifest_clips, read_manifest, write_manifest
    from avocet.curation.measure import MeasureStage, ProbeStage
    from avocet.curation.outcomes import Cost, Dropped, Failed, Kept, Outcome, Piece, Split, apply_outcome
    from avocet.curation.outputs import OutputSettings, read_parquet, write_examples, write_parquet
    from avocet.curation.pipelines.plan import PipelineSettings, annotation_steps, pipeline_steps
    from avocet.curation.pipelines.run import run_steps
    from avocet.curation.ray_run import RayRunner
    from avocet.curation.segments import FixedStage, ShotStage, fixed_segments
    from avocet.curation.stage import CurationStage, Stage, StageSummary, run_stage, run_stages

__all__ = [
    "Cost",
    "CurationStage",
    "DataCard",
    "Dropped",
    "DuplicateRules",
    "DuplicateStage",
    "FactsFilter",
    "Failed",
    "FixedStage",
    "FormatFilter",
    "Kept",
    "LengthFilter",
    "ManifestClip",
    "MeasureStage",
    "Outcome",
    "OutputSettings",
    "PictureFilter",
    "Piece",
    "PipelineSettings",
    "ProbeStage",
    "RayRunner",
    "ShotStage",
    "SoundFilter",
    "SpeechLikePrefilter",
    "Split",
    "Stage",
    "StageSummary",
    "annotation_steps",
    "apply_outcome",
    "check_sentences",
    "find_duplicates",
    "find_manifest_clips",
    "fixed_segments",
    "make_card",
    "pipeline_steps",
    "read_manifest",
    "read_parquet",
    "run_stage",
    "run_stages",
    "run_steps",
    "write_card",
    "write_examples",
    "write_manifest",
    "write_parquet",
]

_HOMES = MappingProxyType(
    {
        "check_sentences": "checks",
        **dict.fromkeys(("DataCard", "make_card", "write_card"), "data_card"),
        **dict.fromkeys(("DuplicateRules", "DuplicateStage", "find_duplicates"), "duplicates"),
        **dict.fromkeys(
            ("FactsFilter", "FormatFilter", "LengthFilter", "PictureFilter", "SoundFilter", "SpeechLikePrefilter"),
            "filters",
        ),
        **dict.fromkeys(("ManifestClip", "find_manifest_clips", "read_manifest", "write_manifest"), "manifest"),
        **dict.fromkeys(("MeasureStage", "ProbeStage"), "measure"),
        **dict.fromkeys(
            ("Cost", "Dropped", "Failed", "Kept", "Outcome", "Piece", "Split", "apply_outcome"), "outcomes"
        ),
        **dict.fromkeys(("OutputSettings", "read_parquet", "write_examples", "write_parquet"), "outputs"),
        **dict.fromkeys(("PipelineSettings", "annotation_steps", "pipeline_steps"), "pipelines.plan"),
        "run_steps": "pipelines.run",
        "RayRunner": "ray_run",
        **dict.fromkeys(("FixedStage", "ShotStage", "fixed_segments"), "segments"),
        **dict.fromkeys(("CurationStage", "Stage", "StageSummary", "run_stage", "run_stages"), "stage"),
    }
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'avocet.curation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"avocet.curation.{_HOMES[name]}"), name)
