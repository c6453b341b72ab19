"""Guided DPO as the stage computes it, against the released trainers' values on tiny models (AVOCET_GOLDEN_DIR).

What is run is what `avocet train` runs: the reference is scored into its file before the adapter is there, items go
through one shared forward, and the engine divides and weights. Expected are the arrays of the released code.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shared_files import golden_folder, require

from avocet.models.interface import Prompt
from avocet.models.layout import AUDIO, VISUAL, TokenPlan
from avocet.models.salmonn2 import load_checkpoint
from avocet.models.salmonn2.adapters import load_adapter, train_released_parts
from avocet.models.salmonn2.plus_loading import our_name
from avocet.models.salmonn2.v1_training_files import load_lora_weights
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer
from avocet.training.finetune.config import PreferenceSettings
from avocet.training.finetune.engine import Engine, StepResult
from avocet.training.finetune.module import Item, MicroBatch, PairTokens
from avocet.training.finetune.preference import REFERENCE_FILE, GuidedDpo, score_reference

FOLDER = golden_folder()
GDPO = FOLDER / "gdpo"
PLUS_RUNS = sorted(path.parent for path in GDPO.glob("*/adapter"))
V1_RUNS = sorted(path.parent for path in GDPO.glob("*/lora.safetensors"))
TOLERANCE = 1e-5

Arrays = dict[str, np.ndarray]


def values(folder: Path) -> tuple[Arrays, dict[str, Any]]:
    (path,) = folder.glob("*.npz")
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return arrays, json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def split(ids: np.ndarray, labels: np.ndarray) -> tuple[list[int], tuple[int, ...]]:
    """Prompt and answer: what follows the last ignored place."""
    first = int(np.flatnonzero(labels == -100)[-1]) + 1
    return ids[:first].tolist(), tuple(ids[first:].tolist())


def referenced(model: Any, prompt: Prompt, answers: Sequence[tuple[int, ...]], folder: Path) -> Item:
    """The pair with its reference scored by the model as it is now, and read again as a resumed stage does."""
    chosen, rejected, truth = answers
    item = Item(index=0, task="caption", prompt=prompt, target=truth, pair=PairTokens(chosen=chosen, rejected=rejected))
    pairs = {0: PairTokens(chosen=chosen, rejected=rejected)}
    for _ in range(2):
        found = score_reference(model, lambda places: [item], pairs, folder / REFERENCE_FILE, revision="golden")
    assert len((folder / REFERENCE_FILE).read_text().splitlines()) == 1
    return dataclasses.replace(item, pair=found[0])


def engine_step(model: Any, items: Sequence[Item], names: Sequence[str], beta: float, ce_weight: float) -> StepResult:
    """One step of the engine at a learning rate of 0."""
    config = FineTune(
        name="dpo",
        stage="dpo",
        model="salmonn2",
        sources=(DataSource(path="unread.json"),),
        trainable=("audio_qformer",),
        optimizer=FineTuneOptimizer(learning_rate=1e-9, clip_norm=0.0),
        batch=BatchSettings(max_examples=len(items), micro_examples=len(items)),
        preference=PreferenceSettings(beta=beta, ce_weight=ce_weight),
        precision="float32",
        gradient_checkpointing=False,
        loss_chunk=5,
        max_steps=1,
    )
    assert config.preference is not None
    engine = Engine(config, cpu=True)
    engine.prepare(model, names, GuidedDpo(config.preference))
    return engine.step([MicroBatch(items=tuple(items))], 0, 0.0)


def check(found: float, expected: Any, tolerance: float = TOLERANCE) -> None:
    assert found == pytest.approx(float(expected), abs=tolerance)


# video-SALMONN 2+: an adapter with replaced modules.


def plus_prompt(model: Any, stored: Arrays, ids: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> Prompt:
    """The prompt of the stored tensors. The arrays hold patches, so what makes patches of frames gives these."""
    pixels = torch.from_numpy(stored["pixel_values_videos"].astype(np.float32))
    grid = tuple(int(size) for size in stored["video_grid_thw"][0])
    monkeypatch.setattr(model, "patches", lambda frames: (pixels, grid))
    tokens = np.array(ids)
    streams = np.full(len(ids), -1)
    streams[tokens == model.config.video_token_id] = VISUAL
    streams[tokens == model.config.audio_token_id] = AUDIO
    media = streams[streams >= 0]
    plan = TokenPlan(
        stream=media.astype(np.uint8),
        index=np.where(media == VISUAL, np.cumsum(media == VISUAL), np.cumsum(media == AUDIO)) - 1,
        start_seconds=np.zeros(len(media)),
        end_seconds=np.zeros(len(media)),
    )
    return Prompt(
        clip_id="golden",
        instruction="",
        token_ids=tuple(ids),
        layout=plan,
        frames=torch.zeros((1, 3, 1, 1), dtype=torch.uint8),
        mel=torch.cat(list(torch.from_numpy(stored["audio_feature"].astype(np.float32))), dim=1),
        positions=stored["position_ids_gt"][:, : len(ids)].astype(np.float64),
    )


def plus_item(model: Any, stored: Arrays, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Item:
    sequences = (("chosen_ids", "chosen_labels"), ("reject_ids", "reject_labels"), ("input_ids_gt", "labels_gt"))
    parts = [split(stored[ids], stored[labels]) for ids, labels in sequences]
    prompts, answers = [prompt for prompt, _ in parts], [answer for _, answer in parts]
    assert prompts[0] == prompts[1] == prompts[2]
    for name, answer in zip(("chosen", "rejected"), answers, strict=False):
        assert list(answer) == stored[f"target_ids_{name}"].tolist()
    return referenced(model, plus_prompt(model, stored, prompts[0], monkeypatch), answers, folder)


@pytest.mark.parametrize("folder", PLUS_RUNS or [GDPO], ids=lambda path: path.name)
def test_golden_stage_of_plus(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(PLUS_RUNS, GDPO)
    stored, settings = values(folder)
    model: Any = load_checkpoint(FOLDER / "plus" / "model")
    item = plus_item(model, stored, tmp_path, monkeypatch)
    assert item.pair is not None
    check(item.pair.reference_chosen, stored["sum_logp_reference_chosen"], 1e-4)
    check(item.pair.reference_rejected, stored["sum_logp_reference_rejected"], 1e-4)

    load_adapter(model, folder / "adapter", merge=False)
    trained = train_released_parts(model)
    norms: dict[str, float] = {}
    for name in trained:
        model.get_parameter(name).register_post_accumulate_grad_hook(
            lambda parameter, name=name: norms.__setitem__(name, float(parameter.grad.norm()))
        )
    result = engine_step(model, [item], trained, settings["beta"], settings["ce_weight"])
    check(result.loss, stored["total_loss"])
    check(result.figures["dpo"], stored["dpo_loss"])
    check(result.figures["guide"], stored["ce_loss_gt"])
    check(result.figures["chosen_reward"], stored["reward_chosen"])
    check(result.figures["rejected_reward"], stored["reward_rejected"])
    check(result.figures["margin"], settings["beta"] * settings["z"])

    expected = {ours: norm for name, norm in settings["gradient_l2_norms"].items() if (ours := released_name(name))}
    assert norms.keys() <= expected.keys()
    assert norms.keys() == set(trained)
    for name, norm in norms.items():
        # Attention over a single query leaves no gradient but rounding in its query and key.
        assert norm == pytest.approx(expected[name], rel=1e-3, abs=1e-6), name


def released_name(name: str) -> str | None:
    """Our name of a parameter of the wrapped model."""
    inner = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
    return f"decoder.{inner}" if ".lora_" in inner else our_name(inner)


@pytest.mark.parametrize("folder", PLUS_RUNS or [GDPO], ids=lambda path: path.name)
def test_golden_rewards_are_zero_with_the_adapter_off(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policy and reference are then one model: the loss is log 2 and the released cross-entropy of the reference."""
    require(PLUS_RUNS, GDPO)
    stored, settings = values(folder)
    model: Any = load_checkpoint(FOLDER / "plus" / "model")
    item = plus_item(model, stored, tmp_path, monkeypatch)
    model.requires_grad_(False)
    names = ["audio.projection.weight"]
    model.get_parameter(names[0]).requires_grad_(True)
    result = engine_step(model, [item], names, settings["beta"], settings["ce_weight"])
    check(result.figures["dpo"], np.log(2))
    check(result.figures["guide"], stored["ce_loss_gt_reference"])


# video-SALMONN 2 (v1): LoRA alone, and role markers of the prompt among the released targets.


class Letters:
    """Enough of a tokenizer for the texts of times: a known word is a token, any other one token per character."""

    def __init__(self, words: dict[str, int], ids: dict[str, int]) -> None:
        self._words = words
        self._special = {"<|im_start|>": ids["im_start"], "<|im_end|>": ids["im_end"]}

    def get_vocab(self) -> dict[str, int]:
        return self._words | self._special

    def encode(self, text: str, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        return [self._words[text]] if text in self._words else [self._words[letter] for letter in text]


def load_v1() -> Any:
    facts = json.loads((FOLDER / "v1" / "cases.json").read_text(encoding="utf-8"))
    extra = facts["hyperparameters_not_in_config"]
    sizes = {
        "vision_heads": extra["siglip"]["num_attention_heads"],
        "audio_heads": extra["whisper"]["encoder_attention_heads"],
        "qformer_heads": extra["qformer"]["num_attention_heads"],
        "image_size": extra["siglip"]["image_size"],
        "window_frames": round(1500 * extra["audio_load_arguments"]["second_per_window"] / 30),
    }
    tokenizer = Letters(facts["vocab_words"], facts["token_ids"])
    return load_checkpoint(FOLDER / "v1" / "model", sizes=sizes, tokenizer=tokenizer)


def v1_prompt(model: Any, stored: Arrays, ids: Sequence[int]) -> Prompt:
    frames = torch.from_numpy(stored["frames_u8"]) if "frames_u8" in stored else None
    mel = None
    if "spectrogram" in stored:
        mel = torch.cat(list(torch.from_numpy(stored["spectrogram"].astype(np.float32))), dim=1)
    times = np.arange(0 if frames is None else len(frames), dtype=np.float64)
    prompt: Prompt = model.prompt_from_ids("golden", ids, frames, times, mel, float(stored["real_time"]))
    return prompt


@torch.no_grad()
def marker_log_prob(model: Any, prompt: Prompt, ids: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    """Summed log-probability and number of the released targets inside of the prompt, from a plain forward.

    `ids` and `labels` are of the sequence before the media took the place of their marker.
    """
    prefix = model.encode([prompt])
    decoder = model.language_decoder()
    hidden, _ = decoder.run(prefix.embeddings)
    log_probs = decoder.logits(hidden)[0].double().log_softmax(-1)
    first = int(np.flatnonzero(labels == -100)[-1]) + 1
    media = int(np.flatnonzero(ids < 0)[0])
    length = len(prompt.token_ids) - (first - 1)
    # Nothing predicts the first token.
    targets = [place for place in range(1, first) if labels[place] != -100]
    places = [place if place < media else place + length - 1 for place in targets]
    return sum(float(log_probs[place - 1, labels[at]]) for at, place in zip(targets, places, strict=True)), len(targets)


@pytest.mark.parametrize("folder", V1_RUNS or [GDPO], ids=lambda path: path.name)
def test_golden_stage_of_v1(folder: Path, tmp_path: Path) -> None:
    require(V1_RUNS, GDPO)
    stored, settings = values(folder)
    model = load_v1()
    sequences = [(stored[f"input_ids_{role}"], stored[f"labels_{role}"]) for role in ("chosen", "rejected", "gt")]
    parts = [split(ids, labels) for ids, labels in sequences]
    prompts, answers = [prompt for prompt, _ in parts], [answer for _, answer in parts]
    assert prompts[0] == prompts[1] == prompts[2]
    item = referenced(model, v1_prompt(model, stored, prompts[0]), answers, tmp_path)

    adapter = load_lora_weights(model, folder / "lora.safetensors", settings["lora"]["alpha"])
    model.requires_grad_(False)
    chosen = {id(parameter) for parameter in adapter}
    names = [name for name, parameter in model.named_parameters() if id(parameter) in chosen]
    for parameter in adapter:
        parameter.requires_grad_(True)
    markers, num_markers = marker_log_prob(model, item.prompt, *sequences[2])
    result = engine_step(model, [item], names, settings["beta"], settings["ce_weight"])
    # Role markers are in every released sum alike, and cancel; only answers are in ours.
    check(result.figures["margin"], settings["beta"] * settings["z"])
    check(result.figures["dpo"], stored["dpo_loss"])
    difference = float(stored["reward_chosen"]) - float(stored["reward_rejected"])
    check(result.figures["chosen_reward"] - result.figures["rejected_reward"], difference)
    # The released mean is over markers and answer; with them, ours is the released one.
    num_answer = len(item.target)
    entropy = (result.figures["guide"] * num_answer - markers) / (num_answer + num_markers)
    assert num_answer + num_markers == np.count_nonzero(stored["labels_gt"][1:] != -100)
    check(entropy, stored["ce_loss_gt"])
    check(result.figures["dpo"] + settings["ce_weight"] * entropy, stored["total_loss"])


# The arithmetic alone: log-probabilities in, columns out.


class Fixed(torch.nn.Module):
    """Stands where a model does; what it scores is what a case says."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList()

    def encode(self, prompts: Sequence[Prompt]) -> int:
        return len(prompts)

    def language_decoder(self) -> Any:
        return type("Decoder", (), {"backbone": self})


def test_golden_arithmetic_of_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    path = GDPO / "gdpo_arithmetic.json"
    require(path.is_file(), path)
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    names = ("policy_chosen", "policy_rejected", "policy_gt")
    scores = [[torch.tensor(case[name], dtype=torch.float64) for name in names] for case in cases]
    monkeypatch.setattr("avocet.training.finetune.preference.score_shared", lambda *_, **__: scores)
    items = [arithmetic_item(case) for case in cases]
    objective = GuidedDpo(PreferenceSettings())
    columns = objective.module(Fixed(), 7)(MicroBatch(items=tuple(items)))
    totals = np.array([objective.counts(item) for item in items])
    weights = [column.weight for column in objective.columns]
    for case, row, counts in zip(cases, columns, totals, strict=True):
        expected = case["expected"]
        means = {
            column.name: float(row[place]) / max(counts[place], 1) for place, column in enumerate(objective.columns)
        }
        assert means["dpo"] == pytest.approx(expected["dpo_loss"], abs=1e-9)
        assert means["guide"] == pytest.approx(expected["ce_gt_token_mean"], abs=1e-9)
        assert means["chosen_reward"] == pytest.approx(expected["reward_chosen"], abs=1e-9)
        assert means["rejected_reward"] == pytest.approx(expected["reward_rejected"], abs=1e-9)
        assert means["margin"] == pytest.approx(expected["reward_margin"], abs=1e-9)
        assert means["accuracy"] == expected["accuracy"]
        total = sum(weight * mean for weight, mean in zip(weights, means.values(), strict=True))
        assert total == pytest.approx(expected["total_loss"], abs=1e-9)


def arithmetic_item(case: dict[str, Any]) -> Item:
    pair = PairTokens(
        chosen=(1,) * len(case["policy_chosen"]),
        rejected=(2,) * len(case["policy_rejected"]),
        reference_chosen=float(np.sum(case["reference_chosen"])),
        reference_rejected=float(np.sum(case["reference_rejected"])),
    )
    unread: Any = None
    return Item(index=0, task="caption", prompt=unread, target=(3,) * len(case["policy_gt"]), pair=pair)
