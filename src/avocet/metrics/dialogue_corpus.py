"""Dialogue F1 of a captioner over many clips (AVoCaDO, table 4, "Dlg. F1").

The paper defines the score of one clip and not how clips are put together. Both usual ways are here, each with its
error over clips: *pooled*, where S, M and N are summed first (a clip counts by its utterances; clips without any weigh
nothing), and the *mean* of the clips' own F1, over clips with dialogue on at least one side. Clips where nobody speaks
and nobody is said to would be a 1 for free in that mean; they are counted beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from avocet.metrics.dialogue_scores import DialogueScores
from avocet.metrics.statistics import MeanWithError, mean_with_error, ratio_of_sums
from avocet.records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class PooledRate(Record):
    """A ratio of two sums over clips."""

    rate: float
    """nan without anything to divide by."""
    standard_error: float
    """Linearised, over clips; nan with fewer than two."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusDialogue(Record):
    """Dialogue over clips, with S = (sum of similarities + right speakers) / 2, N generated, M reference utterances."""

    precision: PooledRate
    """sum(S) / sum(N)"""
    recall: PooledRate
    """sum(S) / sum(M)"""
    f1: PooledRate
    """2 sum(S) / (sum(N) + sum(M))"""
    content_f1: PooledRate
    """The same with S = sum of similarities: the words alone."""
    speaker_accuracy: PooledRate
    """Right speakers / aligned pairs."""
    mean_f1: MeanWithError
    """Of the clips with dialogue on at least one side."""
    num_generated: int
    num_reference: int
    num_pairs: int
    num_clips: int
    """Scored clips."""
    num_clips_without_dialogue: int
    """Of them, those with none on either side."""
    num_unscored: int


def corpus_dialogue(clips: Iterable[DialogueScores | None]) -> CorpusDialogue:
    """Put the scores of clips together; None is an unscored clip."""
    given = list(clips)
    scored = [clip for clip in given if clip is not None]
    spoken = [clip for clip in scored if clip.num_generated + clip.num_reference]
    generated = [clip.num_generated for clip in spoken]
    reference = [clip.num_reference for clip in spoken]
    both = [n + m for n, m in zip(generated, reference, strict=True)]
    similarity = [clip.similarity_sum for clip in spoken]
    combined = [(clip.similarity_sum + clip.num_same_speaker) / 2 for clip in spoken]
    pairs = [clip.num_pairs for clip in spoken]
    return CorpusDialogue(
        precision=_pooled(combined, generated),
        recall=_pooled(combined, reference),
        f1=_pooled([2 * value for value in combined], both),
        content_f1=_pooled([2 * value for value in similarity], both),
        speaker_accuracy=_pooled([clip.num_same_speaker for clip in spoken], pairs),
        mean_f1=mean_with_error([clip.f1 for clip in spoken]),
        num_generated=sum(generated),
        num_reference=sum(reference),
        num_pairs=sum(pairs),
        num_clips=len(scored),
        num_clips_without_dialogue=len(scored) - len(spoken),
        num_unscored=len(given) - len(scored),
    )


def _pooled(numerators: Sequence[float], denominators: Sequence[float]) -> PooledRate:
    rate, standard_error = ratio_of_sums(numerators, denominators)
    return PooledRate(rate=rate, standard_error=standard_error)
