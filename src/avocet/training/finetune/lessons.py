"""What a stage learns from: examples, and pairs as examples of their clips with two more answers each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from avocet.errors import ConfigError
from avocet.records import PreferencePair, Task, TrainingExample
from avocet.training.data.mixture import DataSource, MixtureReport, load_mixture, load_pairs_and_examples
from avocet.training.finetune.config import FineTune, PreferenceSettings
from avocet.training.finetune.module import PairTokens

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
    """Places of ground truths that guide the pairs of other clips."""

    def length(self, place: int, model: Any) -> int:
        """Tokens of all answers of a lesson."""
        if place in self.pairs:
            pair = self.pairs[place]
            return len(pair.chosen) + len(pair.rejected) + len(self.targets[place])
        return len(model.encode_text(self.examples[place].target, end=True))

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
        # As often as pairs, and each drawn for itself: what guides a pair is the truth about some other clip.
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
