"""Gradients of guided DPO by finite differences, and a reference that no training moves.

The loss is that of the stage: what the engine makes of the columns of `PreferenceModule`, in float64.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from avocet.models.prefix import reference_log_probs
from avocet.models.registry import load_model
from avocet.training.checkpoints import checkpoints
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings
from avocet.training.finetune.checkpoints import load_weights
from avocet.training.finetune.config import PreferenceSettings
from avocet.training.finetune.inputs import BatchReader, read_stage_data
from avocet.training.finetune.loop import fine_tune, with_reference
from avocet.training.finetune.module import FineTuneModule, Item, MicroBatch
from avocet.training.finetune.parts import groups_of, set_trainable
from avocet.training.finetune.preference import REFERENCE_FILE, GuidedDpo
from avocet.training.finetune.watch import METRICS_FILE, read_metrics

LORA = LoraSettings(rank=4, alpha=8, targets=("q_proj", "k_proj", "v_proj"))
"""Without dropout, so that the same weights give the same loss."""
ALIGNERS = {
    "paper": ("audio_aligner",),
    "v1": ("visual_aligner", "audio_aligner"),
    "plus": ("visual_aligner", "audio_aligner"),
    "omni": ("visual_aligner", "audio_aligner"),
}
STEP = 1e-5
"""Of the differences. Their error is about STEP^2 x the third derivative + 1e-16 / STEP."""


@pytest.fixture
def pairs_file(staged: Path, tmp_path: Path) -> Path:
    """Three pairs: the truth against another clip's truth, guided by the truth's first words."""
    lines = [json.loads(line) for line in (staged / "train.jsonl").read_text().splitlines()]
    pairs = [
        {
            "clip": {**line["clip"], "path": str(staged / line["clip"]["path"])},
            "instruction": line["instruction"],
            "chosen": line["target"],
            "rejected": other["target"],
            "ground_truth": " ".join(line["target"].split()[:6]),
            "chosen_metrics": {},
            "rejected_metrics": {},
            "round": 1,
        }
        for line, other in itertools.pairwise(lines)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


@pytest.fixture
def make_dpo(make_stage: Callable[..., FineTune], pairs_file: Path) -> Callable[..., FineTune]:
    def make(family: str, **changes: Any) -> FineTune:
        settings = {
            "name": "dpo",
            "stage": "dpo",
            "sources": (DataSource(path=str(pairs_file)),),
            "preference": PreferenceSettings(),
            "batch": BatchSettings(max_examples=3, micro_examples=3),
            "trainable": ALIGNERS[family],
            "lora": LORA,
            "gradient_checkpointing": False,
        }
        return make_stage(family, **settings | changes)

    return make


def referenced_items(config: FineTune, folder: Path) -> tuple[Any, list[Item]]:
    """The model that the stage starts from, and its pairs with their reference."""
    folder.mkdir(exist_ok=True)
    model: Any = load_model(config.model, device="cpu", dtype="float32").model.eval()
    data = with_reference(read_stage_data(config.sources, config, model, folder), config, model, folder, "r")
    reader = BatchReader(data, data.plan(config, 1), config, model)
    try:
        return model, reader.items(range(len(data.examples)))
    finally:
        reader.close()


def in_float64(model: nn.Module) -> None:
    """Everything, also the norms, which transformers computes in float32 whatever comes in."""
    model.double()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = exact_norm(module)  # type: ignore[method-assign]


def exact_norm(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(hidden: torch.Tensor) -> torch.Tensor:
        eps = getattr(module, "variance_epsilon", None) or getattr(module, "eps", 0.0)
        normed: torch.Tensor = module.weight * hidden * (hidden.square().mean(-1, keepdim=True) + eps).rsqrt()
        return normed

    return forward


def stage_loss(module: FineTuneModule, objective: GuidedDpo, items: Sequence[Item]) -> torch.Tensor:
    """Columns -> loss as `Engine.step` weighs and divides them."""
    columns = module(MicroBatch(items=tuple(items)))
    totals = torch.tensor([objective.counts(item) for item in items]).sum(0).clamp(min=1)
    weights = torch.tensor([column.weight for column in objective.columns], dtype=torch.float64)
    return (columns * weights / totals).sum()


@pytest.fixture
def nothing_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models give logits in float32, and our attention of short rows makes its weights in float32; the fused kernel
    takes the type that it is given."""
    monkeypatch.setattr("avocet.models.decoder.Decoder.logits", lambda decoder, hidden: decoder.lm_head(hidden))
    monkeypatch.setattr("avocet.models.attention._MAX_SCORES", 0)


def randomise(model: nn.Module, names: Sequence[str]) -> None:
    """A policy that has moved: with the adapter's B at zero, its A would have no gradient at all."""
    generator = torch.Generator().manual_seed(1)
    for name in names:
        parameter = model.get_parameter(name)
        with torch.no_grad():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(parameter))


def slopes(
    loss: Callable[[], torch.Tensor], directions: Sequence[tuple[nn.Parameter, torch.Tensor]]
) -> tuple[float, float]:
    """Derivative along one direction in several tensors: by central difference, and by the gradients that are there."""
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in directions:
                parameter.add_(sign * STEP * direction)
            values.append(loss().item())
            for parameter, direction in directions:
                parameter.sub_(sign * STEP * direction)
    expected = 0.0
    for parameter, direction in directions:
        assert parameter.grad is not None
        expected += float((parameter.grad * direction).sum())
    return (values[0] - values[1]) / (2 * STEP), expected


def group_of(model: nn.Module, name: str) -> str:
    """The adapter's A or B, or the group of the aligner."""
    if ".lora_" in name:
        return "lora_A" if ".lora_A." in name else "lora_B"
    return next(group for group, names in groups_of(model).items() if name in names)


def check_gradients(config: FineTune, folder: Path, *, each_tensor: bool) -> None:
    """Along random directions in each group of tensors, or in each tensor; none of them is a mere rounding error."""
    model, items = referenced_items(config, folder)
    names = set_trainable(model, config.trainable, config.lora)
    randomise(model, names)
    in_float64(model.eval())
    assert config.preference is not None
    objective = GuidedDpo(config.preference)
    module = objective.module(model, config.loss_chunk)

    def loss() -> torch.Tensor:
        return stage_loss(module, objective, items)

    loss().backward()  # type: ignore[no-untyped-call]
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of(model, name), []).append(name)
    assert {"lora_A", "lora_B"} < groups.keys()
    generator = torch.Generator().manual_seed(2)
    for group, members in groups.items():
        largest = 0.0
        for part in [[name] for name in members] if each_tensor else [members]:
            directions = []
            for name in part:
                parameter = model.get_parameter(name)
                direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                directions.append((parameter, direction / direction.norm()))
            found, expected = slopes(loss, directions)
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-8), part
            largest = max(largest, abs(expected))
        assert largest > 1e-5, group


@pytest.mark.parametrize("family", ["paper", "v1", "plus", "omni"])
@pytest.mark.usefixtures("nothing_in_float32")
def test_gradients_by_finite_differences(family: str, make_dpo: Callable[..., FineTune], tmp_path: Path) -> None:
    """Adapter and aligners of every family, through the shared forward."""
    check_gradients(make_dpo(family), tmp_path / "data", each_tensor=family == "paper")


@pytest.mark.parametrize(
    "preference",
    [
        PreferenceSettings(variant="dpo", beta=0.5),
        PreferenceSettings(variant="cdpo", ce_weight=1.0),
        PreferenceSettings(ground_truth="random"),
    ],
    ids=lambda settings: f"{settings.variant}-{settings.ground_truth}",
)
@pytest.mark.usefixtures("nothing_in_float32")
def test_gradients_of_the_variants(
    preference: PreferenceSettings, make_dpo: Callable[..., FineTune], tmp_path: Path
) -> None:
    check_gradients(make_dpo("paper", preference=preference), tmp_path / "data", each_tensor=False)


# The reference.


def policy_sums(model: Any, items: Sequence[Item]) -> list[tuple[float, float]]:
    """Summed log-probabilities of chosen and rejected answers."""
    found = []
    with torch.no_grad():
        for item in items:
            assert item.pair is not None
            prefix = model.encode([item.prompt])
            chosen, rejected = model.score(prefix, [[item.pair.chosen, item.pair.rejected]])[0]
            found.append((float(chosen.double().sum()), float(rejected.double().sum())))
    return found


def stored_sums(folder: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (folder / REFERENCE_FILE).read_text().splitlines()]
    lines.sort(key=lambda line: int(line["key"].split("-")[0]))
    return [(line["chosen"], line["rejected"]) for line in lines]


@pytest.mark.parametrize("family", ["paper", "v1", "plus"])
def test_the_reference_stands_still_through_a_round(
    family: str, make_dpo: Callable[..., FineTune], tmp_path: Path
) -> None:
    """Every step's rewards are measured from the model as the round began, though its aligner moves at every step."""
    config = make_dpo(family, max_steps=4, save_every=1, optimizer=FineTuneOptimizer(learning_rate=1e-2))
    assert config.preference is not None
    folder = fine_tune(config, tmp_path / "run")
    stored = stored_sums(folder)

    # Stored is what the starting weights say, scored again after the training.
    model, items = referenced_items(config, tmp_path / "again")
    again = [(item.pair.reference_chosen, item.pair.reference_rejected) for item in items if item.pair is not None]
    assert [sums for pair in again for sums in pair] == pytest.approx(
        [sums for pair in stored for sums in pair], abs=1e-4
    )

    # The rewards that each step logged, from the weights before the step and the one stored reference.
    names = set_trainable(model, config.trainable, config.lora)
    start = {name: model.get_parameter(name).detach().clone() for name in names}
    logged = [line for line in read_metrics(folder / METRICS_FILE) if "loss" in line]
    weights = {0: None, **dict(checkpoints(folder))}
    assert [line["step"] for line in logged] == [1, 2, 3, 4]
    for line in logged:
        before = weights[line["step"] - 1]
        if before is not None:
            load_weights(before, model, names)
        policy = policy_sums(model, items)
        for place, name in enumerate(("chosen_reward", "rejected_reward")):
            gains = [mine[place] - reference[place] for mine, reference in zip(policy, stored, strict=True)]
            expected = config.preference.beta * sum(gains) / len(gains)
            assert line[f"mean/{name}"] == pytest.approx(expected, abs=2e-5), line["step"]
    assert abs(logged[-1]["mean/margin"]) > 0.1

    # What the released v1 code takes for the reference: the adapter off, but the aligner as it is now. It has moved.
    load_weights(weights[4], model, names)
    assert furthest(adapter_off(model, items), stored) > 0.05
    # With the aligner put back it is the reference again: the adapter is all else that there is.
    with torch.no_grad():
        for name in names:
            if ".lora_" not in name:
                model.get_parameter(name).copy_(start[name])
    assert furthest(adapter_off(model, items), stored) < 1e-4


def furthest(found: Sequence[tuple[float, float]], stored: Sequence[tuple[float, float]]) -> float:
    """The largest difference of two lists of sums."""
    return max(
        abs(a - b) for mine, theirs in zip(found, stored, strict=True) for a, b in zip(mine, theirs, strict=True)
    )


def adapter_off(model: Any, items: Sequence[Item]) -> list[tuple[float, float]]:
    found = []
    for item in items:
        assert item.pair is not None
        with torch.no_grad():
            prefix = model.encode([item.prompt])
        ((chosen, rejected),) = reference_log_probs(model, prefix, [[item.pair.chosen, item.pair.rejected]])
        found.append((float(chosen.double().sum()), float(rejected.double().sum())))
    return found
