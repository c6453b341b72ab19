"""One module per kind of benchmark, loaded when it is asked for: `load_scorer("events")`."""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import Any, get_args

from avocet.evaluation.items import JudgeKind
from avocet.evaluation.scorers.base import Finding, Judged, Scorer

_CLASSES = MappingProxyType(
    {
        "events": ("events", "EventScorer"),
        "qa": ("questions", "CaptionQaScorer"),
        "videomme": ("questions", "DirectAnswerScorer"),
        "ugc": ("ugc", "UgcScorer"),
        "vdc": ("vdc", "VdcScorer"),
        "dream": ("dream", "DreamScorer"),
    }
)
assert set(_CLASSES) == set(get_args(JudgeKind))

__all__ = ["Finding", "Judged", "Scorer", "load_scorer"]


def load_scorer(kind: JudgeKind) -> Scorer[Any]:
    """The scorer of a kind of benchmark."""
    module, name = _CLASSES[kind]
    scorer: Scorer[Any] = getattr(importlib.import_module(f"{__name__}.{module}"), name)()
    return scorer
