"""What a stage learns from: examples, and pairs as examples of their clips with two more answers each."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from avocet.errors import ConfigError
from avocet.records import PreferencePair, Task, TrainingExample
from avocet.training.data.mixture import DataSource, MixtureReport, load_mixture, load_pairs_and_examples
from avocet.training.finetune.config import FineTune, PreferenceSettings
from avocet.training.finetune.module import PairTokens
from avocet.training.inputs.plan import LengthPlan

_NOTHING: Mapping[int, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Lessons:
    """Everything that batches are drawn from; places count from 0."""

    examples: tuple[TrainingExample, ...]
    """Of a pair, its clip and question with the ground truth (where there is none, the chosen answer) as target."""
    weights: tuple[float, ...]
    pairs: Mapping[int, PairTokens] = dataclasses.field(default_factory=lambda: _NOTHING)
    """Place -> answers of a pair."""
    targets: Mapping[int, tuple[int, ...]] = dataclasses.field(default_factory=lambda: _NOTHING)
    """Place -> target of a pair in tokens; () where it has no part in the loss."""
    guides: frozenset[int] = frozenset()
    """Places of ground truths that guide the pairs of other clips, see `guide_of`."""

    def length(self, place: int, model: Any) -> int:
        """Tokens of all answers of a lesson."""
        if place in self.pairs:
            pair = self.pairs[place]
            return len(pair.chosen) + len(pair.rejected) + len(self.targets[place])
        return len(model.encode_text(self.examples[place].target, end=True))

    def guide_of(self, seed: int) -> dict[int, int]:
        """Place of each pair -> place of the ground truth of another clip that guides it; {} without `guides`.

        Each ground truth guides one pair. Raises `ConfigError` when that cannot be, because more than half of the pairs
        are of one clip.
        """
        if not self.guides:
            return {}
        rng = random.Random(f"guides {seed}")
        truths = dict(zip(sorted(self.pairs), sorted(self.guides), strict=True))
        by_clip: dict[str, list[int]] = {}
        for place in rng.sample(sorted(self.pairs), len(self.pairs)):
            by_clip.setdefault(self.examples[place].clip.path, []).append(place)
        order = [place for places in by_clip.values() for place in places]
        # So far along the clips that even the one with the most pairs meets none of its own.
        step = max(map(len, by_clip.values()))
        if 2 * step > len(order):
            raise ConfigError(
                f"{step} of {len(order)} pairs are of one clip, so that not every pair can have the ground truth of "
                'another clip; use ground_truth="same_item", or more clips'
            )
        return {place: truths[order[(number + step) % len(order)]] for number, place in enumerate(order)}

    def select(self, places: Sequence[int]) -> Lessons:
        """Some of the lessons, numbered anew."""
        new = {place: number for number, place in enumerate(places)}
        return Lessons(
            examples=tuple(self.examples[place] for place in places),
            weights=tuple(self.weights[place] for place in places),
            pairs={new[place]: pair for place, pair in self.pairs.items() if place in new},
            targets={new[place]: target for place, target in self.targets.items() if place in new},
            guides=frozenset(new[place] for place in self.guides if place in new),
        )


class GuidedPlan(LengthPlan):
    """Batches in which every pair comes with the ground truth that guides it.

    `max_examples` counts pairs (and other examples) without their guides, `max_tokens` counts both.

    Args:
        lengths: tokens of each lesson, guides included.
        guide_of: see `Lessons.guide_of`; guides are not drawn for themselves.
        weights: of each lesson; those of guides do not count.
        limits: the other arguments of `LengthPlan`.
    """

    def __init__(
        self, lengths: Sequence[int], guide_of: Mapping[int, int], weights: Sequence[float], **limits: Any
    ) -> None:
        guides = set(guide_of.values())
        together = [
            length + (lengths[guide_of[place]] if place in guide_of else 0) for place, length in enumerate(lengths)
        ]
        drawn = [0.0 if place in guides else weight for place, weight in enumerate(weights)]
        super().__init__(together, weights=drawn, **limits)
        self._guide_of = guide_of
        # Whoever shares a batch out, or cuts it into micro-batches, looks at pairs and guides one by one.
        self._lengths = np.asarray(lengths, np.int64)

    def global_batch(self, step: int) -> tuple[int, ...]:
        """What `LengthPlan` draws, then the guides of its pairs."""
        drawn = super().global_batch(step)
        return (*drawn, *(self._guide_of[place] for place in drawn if place in self._guide_of))


def read_lessons(sources: Sequence[DataSource], config: FineTune, model: Any) -> tuple[Lessons, MixtureReport]:
    """Read the sources of a stage.

    Raises `ConfigError` for sources without examples (or, in stage dpo, without pairs), and for pairs without a ground
    truth where the loss needs one.
    """
    if config.preference is None:
        examples, weights, report = load_mixture(sources)
        return Lessons(examples=tuple(examples), weights=tuple(weights)), report
    items, weights, report = load_pairs_and_examples(sources)
    pairs = [item for item in items if isinstance(item, PreferencePair)]
    _check_ground_truths(pairs, config.preference)
    return _with_guides(items, weights, config.preference, model), report


def _check_ground_truths(pairs: Sequence[PreferencePair], settings: PreferenceSettings) -> None:
    without = [pair.clip.id for pair in pairs if not pair.ground_truth]
    if without and settings.variant == "gdpo" and settings.guide_weight:
        raise ConfigError(
            f"{len(without)} of {len(pairs)} pairs have no ground truth (the first: {without[0]!r}), which gdpo takes "
            "its cross-entropy of; add it, or use variant cdpo or dpo"
        )


def _with_guides(
    items: Sequence[PreferencePair | TrainingExample],
    weights: Sequence[float],
    settings: PreferenceSettings,
    model: Any,
) -> Lessons:
    examples: list[TrainingExample] = []
    tokens: dict[int, PairTokens] = {}
    targets: dict[int, tuple[int, ...]] = {}
    for place, item in enumerate(items):
        if isinstance(item, TrainingExample):
            examples.append(item)
            continue
        chosen, rejected = (tuple(model.encode_text(text, end=True)) for text in (item.chosen, item.rejected))
        examples.append(_example(item))
        tokens[place] = PairTokens(chosen=chosen, rejected=rejected)
        targets[place] = _target(item, chosen, settings, model)
    guides: list[int] = []
    all_weights = list(weights)
    if settings.variant == "gdpo" and settings.ground_truth == "random" and settings.guide_weight:
        # One for each pair, read for itself: what guides a pair is the truth about some other clip.
        for place in tokens:
            guides.append(len(examples))
            examples.append(examples[place])
            all_weights.append(weights[place])
    return Lessons(
        examples=tuple(examples),
        weights=tuple(all_weights),
        pairs=tokens,
        targets=targets,
        guides=frozenset(guides),
    )


def _target(pair: PreferencePair, chosen: tuple[int, ...], settings: PreferenceSettings, model: Any) -> tuple[int, ...]:
    """What the cross-entropy of a pair is taken of."""
    if not settings.guide_weight:
        return ()
    if settings.variant in ("cdpo", "ce"):
        return chosen
    if settings.ground_truth == "random":
        return ()
    return tuple(model.encode_text(pair.ground_truth, end=True))


def _example(pair: PreferencePair) -> TrainingExample:
    task: Task = "caption" if pair.clip.start_seconds is None else "local_caption"
    return TrainingExample(
        clip=pair.clip, task=task, instruction=pair.instruction, target=pair.ground_truth or pair.chosen
    )
