"""Pure numbers about captions: event rates, repetition, dialogue alignment, statistics."""

from __future__ import annotations

from avocet.metrics.dialogue import DialogueAlignment, Utterance, align_dialogue, utterance_similarity
from avocet.metrics.events import EventFindings, EventRates, event_rates
from avocet.metrics.repetition import repetition_rate
from avocet.metrics.statistics import (
    BootstrapInterval,
    MeanWithError,
    PairedDifference,
    bootstrap_interval,
    mean_with_error,
    paired_bootstrap,
)

__all__ = [
    "BootstrapInterval",
    "DialogueAlignment",
    "EventFindings",
    "EventRates",
    "MeanWithError",
    "PairedDifference",
    "Utterance",
    "align_dialogue",
    "bootstrap_interval",
    "event_rates",
    "mean_with_error",
    "paired_bootstrap",
    "repetition_rate",
    "utterance_similarity",
]
