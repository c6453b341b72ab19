"""From raw videos to training data: stages over a manifest of clips, each resumable, with its costs and yield.

    clips = find_manifest_clips(["videos/"])
    stages = [ProbeStage(), FormatFilter(), ShotStage(), MeasureStage(), PictureFilter(), SoundFilter()]
    run_stages(stages, clips, "out")

Names are imported on first use: a manifest is read without decoders.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from avocet.curation.segments import FixedStage, ShotStage, fixed_segments
    from avocet.curation.stage import CurationStage, Stage, StageSummary, run_stage, run_stages

__all__ = [
    "Cost",
    "CurationStage",
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
    "PictureFilter",
    "Piece",
    "ProbeStage",
    "ShotStage",
    "SoundFilter",
    "SpeechLikePrefilter",
    "Split",
    "Stage",
    "StageSummary",
    "apply_outcome",
    "find_duplicates",
    "find_manifest_clips",
    "fixed_segments",
    "read_manifest",
    "run_stage",
    "run_stages",
    "write_manifest",
]

_HOMES = MappingProxyType(
    {
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
        **dict.fromkeys(("FixedStage", "ShotStage", "fixed_segments"), "segments"),
        **dict.fromkeys(("CurationStage", "Stage", "StageSummary", "run_stage", "run_stages"), "stage"),
    }
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'avocet.curation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"avocet.curation.{_HOMES[name]}"), name)
