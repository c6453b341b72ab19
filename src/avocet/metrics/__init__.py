"""Pure numbers about captions: event rates, repetition, naturalness, dialogue, statistics and comparisons."""

from __future__ import annotations

from avocet.metrics.breakdown import (
    AnswerRates,
    BreakdownRow,
    answer_rates,
    breakdown_means,
    breakdown_ratios,
    duration_bucket,
)
from avocet.metrics.collapse import CollapseRate, collapse_rate, collapse_sign, is_collapsed
from avocet.metrics.comparison import (
    Comparison,
    PooledInterval,
    compare,
    compare_pooled,
    mcnemar_p_value,
    pooled_interval,
)
from avocet.metrics.dialogue import DialogueAlignment, Utterance, align_dialogue, utterance_similarity
from avocet.metrics.dialogue_corpus import CorpusDialogue, PooledRate, corpus_dialogue
from avocet.metrics.dialogue_scores import DialogueScores, scores_of_alignment
from avocet.metrics.events import EventFindings, EventRates, event_rates
from avocet.metrics.naturalness import (
    UnnaturalPattern,
    UnnaturalRate,
    is_unnatural,
    unnatural_patterns,
    unnatural_rate,
)
from avocet.metrics.repetition import repetition_rate
from avocet.metrics.statistics import (
    BootstrapInterval,
    MeanWithError,
    PairedDifference,
    Share,
    bootstrap_interval,
    mean_with_error,
    paired_bootstrap,
    ratio_of_sums,
    share,
)

__all__ = [
    "AnswerRates",
    "BootstrapInterval",
    "BreakdownRow",
    "CollapseRate",
    "Comparison",
    "CorpusDialogue",
    "DialogueAlignment",
    "DialogueScores",
    "EventFindings",
    "EventRates",
    "MeanWithError",
    "PairedDifference",
    "PooledInterval",
    "PooledRate",
    "Share",
    "UnnaturalPattern",
    "UnnaturalRate",
    "Utterance",
    "align_dialogue",
    "answer_rates",
    "bootstrap_interval",
    "breakdown_means",
    "breakdown_ratios",
    "collapse_rate",
    "collapse_sign",
    "compare",
    "compare_pooled",
    "corpus_dialogue",
    "duration_bucket",
    "event_rates",
    "is_collapsed",
    "is_unnatural",
    "mcnemar_p_value",
    "mean_with_error",
    "paired_bootstrap",
    "pooled_interval",
    "ratio_of_sums",
    "repetition_rate",
    "scores_of_alignment",
    "share",
    "unnatural_patterns",
    "unnatural_rate",
    "utterance_similarity",
]
