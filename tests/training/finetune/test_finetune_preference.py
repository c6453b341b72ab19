"""Guided DPO in the engine: the loss by other means, a reference that does not move, resuming, mixing."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import pytest
import torch

from avocet.errors import ConfigError
from avocet.models.registry import load_model
from avocet.training.checkpoints import checkpoints
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTuneOptimizer
from avocet.training.finetune.config import PreferenceSettings
from avocet.training.finetune.inputs import BatchReader, read_stage_data
from avocet.training.finetune.lessons import GuidedPlan
from avocet.training.finetune.loop import fine_tune, put_weights, with_reference
from avocet.training.finetune.module import Item, MicroBatch
from avocet.training.finetune.preference import REFERENCE_FILE, GuidedDpo
from avocet.training.finetune.watch import METRICS_FILE, read_metrics
from avocet.training.losses import gdpo_loss

FAMILIES = ("paper", "v1", "plus", "omni")


@pytest.fixture
def pairs_file(staged, tmp_path):
    """Three pairs of the staged clips: the truth against another clip's truth, guided by a third text."""
    lines = [json.loads(line) for line in (staged / "train.jsonl").read_text().splitlines()]
    pairs = []
    for place in range(3):
        metrics = {"error_rate": 0.1, "repetition_rate": 0.0}
        clip = {**lines[place]["clip"], "path": str(staged / lines[place]["clip"]["path"])}
        pairs.append(
            {
                "clip": clip,
                "instruction": lines[place]["instruction"],
                "chosen": lines[place]["target"],
                "rejected": lines[place + 1]["target"],
                "ground_truth": " ".join(lines[place]["target"].split()[:5]),
                "chosen_metrics": metrics,
                "rejected_metrics": {**metrics, "error_rate": 0.9},
                "round": 1,
            }
        )
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


@pytest.fixture
def make_dpo(make_stage, pairs_file):
    def make(family, **changes):
        settings = {
            "name": "dpo",
            "stage": "dpo",
            "sources": (DataSource(path=str(pairs_file)),),
            "preference": PreferenceSettings(),
            "batch": BatchSettings(max_examples=3, micro_examples=2),
        }
        return make_stage(family, **settings | changes)

    return make


def loaded_items(config, tmp_path):
    """The model of a stage and its lessons, referenced."""
    model = load_model(config.model, device="cpu", dtype="float32").model.eval()
    data = with_reference(read_stage_data(config.sources, config, model, tmp_path), config, model, tmp_path, "r1")
    reader = BatchReader(data, data.plan(config, 1), config, model)
    items = reader.items(range(len(data.examples)))
    reader.close()
    return model, items


@pytest.mark.parametrize("family", FAMILIES)
def test_columns_are_the_loss_from_separate_forwards(family, make_dpo, tmp_path) -> None:
    """One shared forward against one plain forward for each answer, and `gdpo_loss` on their sums."""
    config = make_dpo(family)
    model, items = loaded_items(config, tmp_path)
    # As if the policy had moved away from the reference.
    moved = [
        dataclasses.replace(
            item, pair=dataclasses.replace(item.pair, reference_chosen=item.pair.reference_chosen - 1.5)
        )
        for item in items
    ]
    module = GuidedDpo(config.preference).module(model, config.loss_chunk)
    with torch.no_grad():
        columns = module(MicroBatch(items=tuple(moved)))
        prefixes = [model.encode([item.prompt]) for item in moved]

        def log_probs(item: Item, prefix, answer):
            return model.score(prefix, [[answer]])[0][0]

        scores = {
            name: [
                log_probs(item, prefix, getattr(item.pair, name)) for item, prefix in zip(moved, prefixes, strict=True)
            ]
            for name in ("chosen", "rejected")
        }
        truths = [log_probs(item, prefix, item.target) for item, prefix in zip(moved, prefixes, strict=True)]
    padded = torch.nn.utils.rnn.pad_sequence(truths, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(truth)) for truth in truths], batch_first=True)
    expected, metrics = gdpo_loss(
        torch.stack([score.sum() for score in scores["chosen"]]),
        torch.stack([score.sum() for score in scores["rejected"]]),
        torch.tensor([item.pair.reference_chosen for item in moved]),
        torch.tensor([item.pair.reference_rejected for item in moved]),
        padded,
        mask,
    )
    assert columns.shape == (3, 7)
    tokens = sum(len(item.target) for item in moved)
    assert columns[:, 0].mean().item() == pytest.approx(metrics["dpo"], abs=1e-5)
    assert columns[:, 1].sum().item() / tokens == pytest.approx(metrics["ce"], abs=1e-5)
    assert columns[:, 0].mean().item() + 0.1 * columns[:, 1].sum().item() / tokens == pytest.approx(
        expected.item(), abs=1e-5
    )
    # The chosen answer gained 1.5 on its reference, the rejected one nothing: z = 1.5, beta 0.1.
    assert columns[:, 4].tolist() == pytest.approx([0.15] * 3, abs=1e-5)
    assert columns[:, 3].tolist() == [1.0] * 3


def test_first_step_is_log_two_and_the_margin_grows(make_dpo, tmp_path) -> None:
    config = make_dpo("paper", max_steps=12, save_every=0, optimizer=FineTuneOptimizer(learning_rate=3e-3))
    folder = fine_tune(config, tmp_path)
    lines = [line for line in read_metrics(folder / METRICS_FILE) if "loss" in line]
    assert lines[0]["mean/dpo"] == pytest.approx(math.log(2), abs=0.05)  # LoRA dropout moves it a little
    assert lines[-1]["mean/margin"] > lines[0]["mean/margin"] + 0.2
    assert lines[-1]["mean/accuracy"] == 1.0
    assert lines[-1]["mean/guide"] < lines[0]["mean/guide"]


@pytest.mark.parametrize("family", ["paper", "v1"])
def test_reference_stays_although_the_aligner_trains(family, make_dpo, tmp_path) -> None:
    config = make_dpo(family, max_steps=4, save_every=0, optimizer=FineTuneOptimizer(learning_rate=1e-2))
    folder = fine_tune(config, tmp_path)
    lines = [json.loads(line) for line in (folder / REFERENCE_FILE).read_text().splitlines()]
    kept = [(line["chosen"], line["rejected"]) for line in lines]
    # From the model as it was, anew: the same; from the trained one: not.
    _, fresh = loaded_items(config, tmp_path / "again")
    again = [(item.pair.reference_chosen, item.pair.reference_rejected) for item in fresh]
    assert sorted(again) == sorted(kept)
    trained = load_model(config.model, device="cpu", dtype="float32").model
    names = put_weights(trained, config, folder)
    assert any("qformer" in name for name in names)
    with torch.no_grad():
        prefix = trained.eval().encode([fresh[0].prompt])
        moved = float(trained.score(prefix, [[fresh[0].pair.chosen]])[0][0].sum())
    assert abs(moved - fresh[0].pair.reference_chosen) > 0.1


def test_resumed_equals_undisturbed(make_dpo, tmp_path, losses) -> None:
    config = make_dpo("paper", max_steps=6)
    whole = fine_tune(config, tmp_path / "whole")
    folder = fine_tune(config, tmp_path / "cut")
    for _, checkpoint in checkpoints(folder)[2:]:
        shutil.rmtree(checkpoint)
    before = (folder / REFERENCE_FILE).read_bytes()
    fine_tune(config, tmp_path / "cut", resume=True)
    assert (folder / REFERENCE_FILE).read_bytes() == before
    assert losses(folder) == losses(whole)


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        (PreferenceSettings(variant="dpo"), {"dpo"}),
        (PreferenceSettings(variant="cdpo"), {"dpo", "guide"}),
        (PreferenceSettings(ground_truth="random"), {"dpo", "guide"}),
    ],
)
def test_variants(settings, columns, make_dpo, tmp_path) -> None:
    config = make_dpo("paper", preference=settings, max_steps=4, batch=BatchSettings(max_examples=8, micro_examples=3))
    folder = fine_tune(config, tmp_path)
    lines = [line for line in read_metrics(folder / METRICS_FILE) if "loss" in line]
    watched = {"accuracy", "margin", "chosen_reward", "rejected_reward"}
    seen = {name.removeprefix("mean/") for line in lines for name in line if name.startswith("mean/")}
    assert seen == columns | watched
    assert lines[0]["examples"] == (6 if settings.ground_truth == "random" else 3)
    guide = lines[0].get("mean/guide", 0.0)
    assert lines[0]["loss"] == pytest.approx(lines[0]["mean/dpo"] + settings.guide_weight * guide)


def test_guides_of_other_clips_come_beside_the_pairs_of_a_step(make_dpo, tmp_path) -> None:
    """`max_examples` is pairs; each comes with one ground truth, which is that of another clip, and all serve alike."""
    config = make_dpo(
        "paper",
        preference=PreferenceSettings(ground_truth="random"),
        batch=BatchSettings(max_examples=2, micro_examples=1),
    )
    model = load_model(config.model, device="cpu", dtype="float32").model
    data = read_stage_data(config.sources, config, model, tmp_path)
    plan = data.plan(config, 1)
    assert plan.steps_per_epoch == 2  # three pairs, two at a time
    pairs, guides = [], []
    for step in range(2):
        batch = plan.global_batch(step)
        own = [place for place in batch if place in data.lessons.pairs]
        beside = [place for place in batch if place in data.lessons.guides]
        assert len(own) == len(beside) == len(batch) / 2
        assert sorted(plan.batch(step)[0]) == sorted(batch)
        clips = [[data.examples[place].clip.id for place in places] for places in (own, beside)]
        assert all(a != b for a, b in zip(*clips, strict=True))
        pairs += own
        guides += beside
    assert (sorted(pairs), sorted(guides)) == ([0, 1, 2], [3, 4, 5])
    folder = fine_tune(config, tmp_path)
    examples = sorted(line["examples"] for line in read_metrics(folder / METRICS_FILE) if "loss" in line)
    assert examples[-1] == 4


def test_limits_of_tokens_count_a_pair_with_its_guide() -> None:
    # Pairs 0 and 1 of 10 and 20 tokens, guided by 3 (8) and 2 (5); 4 is an example for itself.
    plan = GuidedPlan([10, 20, 5, 8, 30], {0: 3, 1: 2}, [1.0] * 5, max_examples=8, max_tokens=60, seed=0)
    # Together 18, 25 and 30 tokens; padded to the longest, two of them fit into 60.
    assert plan.steps_per_epoch == 2
    for epoch in range(5):
        first, second = (sorted(plan.global_batch(2 * epoch + step)) for step in range(2))
        assert sorted([*first, *second]) == [0, 1, 2, 3, 4]
        assert all((0 in batch) == (3 in batch) and (1 in batch) == (2 in batch) for batch in (first, second))
    assert plan.micro_batches((1, 2, 4), max_examples=3, max_tokens=60) == ((4, 1), (2,))


def test_pairs_of_one_clip_have_no_ground_truth_of_others(make_dpo, pairs_file, tmp_path) -> None:
    one, two, three = pairs_file.read_text().splitlines()
    again = json.dumps({**json.loads(one), "chosen": "Another caption."})
    pairs_file.write_text("\n".join([one, again, two]) + "\n")
    config = make_dpo("paper", preference=PreferenceSettings(ground_truth="random"))
    model = load_model(config.model, device="cpu", dtype="float32").model
    data = read_stage_data(config.sources, config, model, tmp_path / "a")
    with pytest.raises(ConfigError, match="2 of 3 pairs are of one clip"):
        data.plan(config, 1)
    pairs_file.write_text("\n".join([one, again, two, three]) + "\n")
    data = read_stage_data(config.sources, config, model, tmp_path / "b")
    found = data.lessons.guide_of(config.seed)
    assert sorted(found) == [0, 1, 2, 3]
    assert sorted(found.values()) == [4, 5, 6, 7]
    assert all(data.examples[pair].clip.id != data.examples[guide].clip.id for pair, guide in found.items())


def test_other_examples_are_trained_on_as_in_sft(staged, make_dpo, pairs_file, tmp_path) -> None:
    sources = (DataSource(path=str(pairs_file)), DataSource(path=str(staged / "train.jsonl"), limit=1))
    config = make_dpo("paper", sources=sources, batch=BatchSettings(max_examples=4, micro_examples=2))
    folder = fine_tune(config, tmp_path)
    line = next(line for line in read_metrics(folder / METRICS_FILE) if "loss" in line)
    assert line["examples"] == 4
    assert line["loss"] == pytest.approx(line["mean/dpo"] + 0.1 * line["mean/guide"] + line["mean/supervised"])


def test_wrong_settings_and_data(staged, make_dpo, make_stage, pairs_file, tmp_path) -> None:
    with pytest.raises(ConfigError, match="dpo needs it"):
        make_dpo("paper", preference=None)
    with pytest.raises(ConfigError, match="belongs to stage dpo"):
        make_stage("paper", preference=PreferenceSettings())
    with pytest.raises(ConfigError, match="beta must be > 0"):
        PreferenceSettings(beta=0.0)
    with pytest.raises(ConfigError, match="none of dpo, cdpo, gdpo"):
        PreferenceSettings(variant="ppo")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no pair in"):
        fine_tune(make_dpo("paper", sources=(DataSource(path=str(staged / "train.jsonl")),)), tmp_path)
    without = tmp_path / "without.jsonl"
    lines = [{**json.loads(line), "ground_truth": ""} for line in pairs_file.read_text().splitlines()]
    without.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigError, match="have no ground truth"):
        fine_tune(make_dpo("paper", sources=(DataSource(path=str(without)),)), tmp_path)
