"""Guided DPO inside the engine: columns of the loss, and the reference that stays as the stage began.

    loss = mean over pairs of -log sigmoid(beta * z) + lambda * CE per token of the ground truths
           (+ CE per token of other examples, which the released code mixes in)
    z = (log pi(chosen) - log ref(chosen)) - (log pi(rejected) - log ref(rejected)), summed over tokens

The reference is scored once, before the first step, without dropout, and kept in a file: whatever trains (also the
aligner, whose features the released v1 code lets the reference share), it stays the model as the stage began.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from avocet.errors import ConfigError
from avocet.ledger import Ledger
from avocet.models.prefix import score_shared
from avocet.training.finetune.config import PreferenceSettings
from avocet.training.finetune.module import Column, FineTuneModule, Item, MicroBatch, PairTokens

REFERENCE_FILE = "reference.jsonl"

_REFERENCE_CHUNK = 1024
"""Tokens whose logits exist at once."""

_WATCHED = ("accuracy", "margin", "chosen_reward", "rejected_reward")


class GuidedDpo:
    """Pairs, ground truths and other examples in one objective."""

    def __init__(self, settings: PreferenceSettings) -> None:
        self._settings = settings
        self.columns: Sequence[Column] = (
            Column(name="dpo", weight=settings.pair_weight),
            Column(name="guide", weight=settings.guide_weight),
            Column(name="supervised", weight=1.0),
            *(Column(name=name, weight=0.0) for name in _WATCHED),
        )

    def counts(self, item: Item) -> Sequence[int]:
        """Pairs, tokens that guide, tokens of other examples; and pairs again for what is watched."""
        is_pair = int(item.pair is not None)
        guides = len(item.target) if is_pair or item.is_guide else 0
        return (is_pair, guides, len(item.target) - guides, *[is_pair] * len(_WATCHED))

    def module(self, model: nn.Module, loss_chunk: int) -> FineTuneModule:
        return PreferenceModule(model, loss_chunk, self._settings)


class PreferenceModule(FineTuneModule):
    """A model with the columns of guided DPO as `forward`; a prompt is read once for all its answers."""

    def __init__(self, model: nn.Module, loss_chunk: int, settings: PreferenceSettings) -> None:
        super().__init__(model, loss_chunk)
        self._settings = settings

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """float64 (B, 7): the columns of `GuidedDpo`, summed over the tokens of each item."""
        model: Any = self.model
        prefix = self.encode(batch)
        scores = score_shared(
            model.language_decoder(), prefix, [_answers(item) for item in batch.items], chunk=self.loss_chunk
        )
        rows = [
            self._row(item, [score.double() for score in own]) for item, own in zip(batch.items, scores, strict=True)
        ]
        return torch.stack(rows)

    def _row(self, item: Item, scores: Sequence[torch.Tensor]) -> torch.Tensor:
        """(7,) of one item."""
        zero = scores[0].new_zeros(())
        if item.pair is None:
            loss = -scores[0].sum()
            return torch.stack(
                [zero, loss, zero, *[zero] * len(_WATCHED)]
                if item.is_guide
                else [zero, zero, loss, *[zero] * len(_WATCHED)]
            )
        pair, beta = item.pair, self._settings.beta
        chosen = beta * (scores[0].sum() - pair.reference_chosen)
        rejected = beta * (scores[1].sum() - pair.reference_rejected)
        margin = chosen - rejected
        guide = -(scores[2].sum() if len(scores) > 2 else scores[0].sum()) if item.target else zero
        watched = (margin.detach() > 0).to(margin.dtype), margin.detach(), chosen.detach(), rejected.detach()
        return torch.stack([-F.logsigmoid(margin), guide, zero, *watched])


def _answers(item: Item) -> list[tuple[int, ...]]:
    """What is scored after an item's prompt; a ground truth that is the chosen answer itself is not scored twice."""
    if item.pair is None:
        return [item.target]
    answers = [item.pair.chosen, item.pair.rejected]
    return [*answers, item.target] if item.target and item.target != item.pair.chosen else answers


def score_reference(
    model: Any,
    items: Callable[[Sequence[int]], Sequence[Item]],
    pairs: Mapping[int, PairTokens],
    path: Path,
    *,
    revision: str,
    batch_size: int = 4,
) -> dict[int, PairTokens]:
    """The pairs with the log-probabilities of their answers under the model as it is now, without dropout.

    A fresh adapter is the identity, so this is the merged model of the round before.

    Args:
        items: reads the items of some places, without failures.
        pairs: place -> answers.
        path: a ledger: what is in it is taken from it, so that a resumed stage has the reference that it began with.
        revision: of the reference; a ledger of another one is refused.

    Raises `ConfigError` for a ledger of another reference.
    """
    found: dict[int, PairTokens] = {}
    with Ledger(path, key="key") as ledger:
        known = {record["key"]: record for record in ledger.records()}
        if any(record.get("revision") != revision for record in known.values()):
            raise ConfigError(f"{path} holds log-probabilities of another reference; choose another run folder")
        for place, pair in pairs.items():
            record = known.get(_key(place, pair))
            if record is not None:
                found[place] = _referenced(pair, record["chosen"], record["rejected"])
        missing = [place for place in pairs if place not in found]
        for start in range(0, len(missing), batch_size):
            for item, (chosen, rejected) in _scored(model, items(missing[start : start + batch_size]), pairs):
                pair = pairs[item.index]
                ledger.append(
                    {"key": _key(item.index, pair), "revision": revision, "chosen": chosen, "rejected": rejected}
                )
                found[item.index] = _referenced(pair, chosen, rejected)
    return found


def _scored(
    model: Any, items: Sequence[Item], pairs: Mapping[int, PairTokens]
) -> list[tuple[Item, tuple[float, float]]]:
    answers = [[pairs[item.index].chosen, pairs[item.index].rejected] for item in items]
    with model.evaluating():
        prefix = model.encode([item.prompt for item in items])
        scores = score_shared(model.language_decoder(), prefix, answers, chunk=_REFERENCE_CHUNK)
    return [
        (item, (float(own[0].double().sum()), float(own[1].double().sum())))
        for item, own in zip(items, scores, strict=True)
    ]


def _referenced(pair: PairTokens, chosen: float, rejected: float) -> PairTokens:
    return dataclasses.replace(pair, reference_chosen=chosen, reference_rejected=rejected)


def _key(place: int, pair: PairTokens) -> str:
    """Place and answers, so that other data in the same folder never meet old numbers."""
    digest = hashlib.sha256(json.dumps([pair.chosen, pair.rejected]).encode()).hexdigest()
    return f"{place}-{digest[:16]}"
