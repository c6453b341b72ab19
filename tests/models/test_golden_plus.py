"""video-SALMONN 2+ against the values of the released code on tiny random models.

Cases and sizes are discovered from the folder, so that any folder of the same form can be tested (AVOCET_GOLDEN_DIR).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shared_files import golden_folder, require

from avocet.models.interface import Prefix
from avocet.models.salmonn2 import load_checkpoint
from avocet.models.salmonn2.adapters import adapter_disabled, load_adapter, train_released_parts
from avocet.models.salmonn2.plus import PlusModel
from avocet.models.salmonn2.plus_loading import our_name
from avocet.models.salmonn2.released_plus_layout import plus_layout
from avocet.models.tmrope import prompt_positions
from avocet.records import Sampling
from avocet.training.losses import gdpo_loss

FOLDER = golden_folder()
PLUS = FOLDER / "plus"
END_TO_END = FOLDER / "gdpo" / "plus_end_to_end"


def _cases() -> list[str]:
    path = PLUS / "cases.json"
    return sorted(json.loads(path.read_text(encoding="utf-8"))["cases"]) if path.is_file() else []


CASES = _cases()


@pytest.fixture(autouse=True)
def _needs_golden() -> None:
    require(CASES, PLUS / "cases.json")


@functools.cache
def load() -> PlusModel:
    model: Any = load_checkpoint(PLUS / "model")
    assert isinstance(model, PlusModel)
    return model


@functools.cache
def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(params=CASES or [""])
def case(request) -> dict[str, np.ndarray]:
    return arrays(PLUS / f"{request.param}.npz")


def close(ours: torch.Tensor, theirs: np.ndarray, tolerance: float) -> None:
    torch.testing.assert_close(ours.double(), torch.from_numpy(theirs).double(), atol=tolerance, rtol=0)


def features(model: PlusModel, stored: dict[str, np.ndarray]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    visual = audio = None
    if "pixel_values_videos" in stored:
        patches = torch.from_numpy(stored["pixel_values_videos"]).float()
        visual = model.vision_features(patches, torch.from_numpy(stored["video_grid_thw"]))
    if "audio_feature" in stored:
        audio = model.audio_tokens(torch.from_numpy(stored["audio_feature"]).float().transpose(0, 1))
    return visual, audio


def run(model: PlusModel, stored: dict[str, np.ndarray], ids: np.ndarray, positions: np.ndarray) -> torch.Tensor:
    """Logits (L, vocabulary)."""
    embeddings = model.embed(ids.tolist(), *features(model, stored))
    decoder = model.language_decoder()
    hidden, _ = decoder.run(embeddings[None], positions=torch.from_numpy(positions)[:, None])
    return decoder.logits(hidden)[0]


def target_logps(logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    targets = torch.from_numpy(labels)[1:]
    kept = targets != -100
    return logits[:-1][kept].log_softmax(-1).gather(-1, targets[kept][:, None])[:, 0]


def planned(model: PlusModel, stored: dict[str, np.ndarray], rule: str) -> tuple[list[int], np.ndarray]:
    """Token ids and positions of the prompt, laid out by our rule from the counts of the case."""
    config, ids = model.config, stored["input_ids"][: int(stored["prompt_len"])].tolist()
    grids, rows, columns, seconds = 0, 0, 0, 1.0
    if "video_grid_thw" in stored:
        (grids, height, width), merge = stored["video_grid_thw"][0].tolist(), config.vision["spatial_merge_size"]
        rows, columns, seconds = height // merge, width // merge, float(stored["second_per_grid_ts"][0])
    num_samples = 16_000 * 30 * len(stored["audio_feature"]) if "audio_feature" in stored else 0
    start, end = ids.index(config.vision_start_token_id), ids.index(config.vision_end_token_id)
    times = np.arange(grids) * seconds
    plan = plus_layout(rule, times, rows, columns, num_samples, seconds, grids * seconds or 1.0).plan
    block = np.where(plan.stream == 0, config.video_token_id, config.audio_token_id).tolist()
    after = len(ids) - end - 1
    return [*ids[: start + 1], *block, *ids[end:]], prompt_positions(plan, start, after, 1, shared_markers=False)


@torch.no_grad()
def test_golden_towers(case):
    model = load()
    visual, audio = features(model, case)
    if visual is not None:
        close(visual, case["video_embeds"], 1e-4)
    if audio is not None:
        encoded = model.audio.encode(torch.from_numpy(case["audio_feature"]).float())
        close(encoded[:, :: model.audio.settings.window_frames], case["audio_encoder_out_every25"], 1e-4)
        if "audio_encoder_out" in case:
            close(encoded, case["audio_encoder_out"], 1e-4)
        windows = encoded.reshape(-1, model.audio.settings.window_frames, encoded.shape[-1])
        close(model.audio.query(windows).flatten(0, 1), case["qformer_out"], 1e-4)
        close(audio, case["audio_embeds"], 1e-4)


@torch.no_grad()
def test_golden_processing(case):
    model = load()
    if "frames_u8" in case and "pixel_values_videos" in case:
        frames = torch.from_numpy(case["frames_u8"])
        patches, _ = model.patches(frames)
        close(patches, case["pixel_values_videos"][: len(patches)].astype(np.float32), 2e-3)
    if "waveform_i16" in case:
        from avocet.models.salmonn2.audio_branch import segment_mels

        mels = segment_mels(case["waveform_i16"].astype(np.float32) / 32768, model.config.audio)
        close(mels, case["audio_feature"].astype(np.float32), 1e-3)


@torch.no_grad()
def test_golden_training_path(case):
    model = load()
    close(model.embed(case["input_ids"].tolist(), *features(model, case)), case["inputs_embeds"], 1e-4)
    logits = run(model, case, case["input_ids"], case["position_ids_train"])
    close(logits[-16:], case["logits_last16"], 1e-3)
    logps = target_logps(logits, case["labels"])
    close(logps, case["target_logprobs"], 1e-3)
    close(-logps.mean(), case["sft_loss"], 1e-4)


@torch.no_grad()
def test_golden_layout_and_positions_of_prompts(case):
    model, length = load(), int(case["prompt_len"])
    if not {"video_grid_thw", "audio_feature"} & set(case):
        return
    for rule, expected in (
        ("train", case["position_ids_train"][:, :length]),
        ("released_generate", case["position_ids_generate_prompt"]),
    ):
        ids, positions = planned(model, case, rule)
        assert ids == case["input_ids"][:length].tolist()
        np.testing.assert_array_equal(positions, expected)


@torch.no_grad()
def test_golden_generation(case):
    model, length = load(), int(case["prompt_len"])
    embeddings = model.embed(case["input_ids"][:length].tolist(), *features(model, case))
    modes = (
        (case["position_ids_generate_prompt"], "greedy_tokens", "greedy_step_logits"),
        (case["position_ids_train"][:, :length], "greedy_tokens_train_positions", None),
    )
    for positions, tokens, step_logits in modes:
        prefix = Prefix(
            clip_ids=("golden",),
            embeddings=embeddings[None],
            lengths=torch.tensor([length]),
            positions=torch.from_numpy(positions)[:, None],
            next_positions=torch.tensor([int(positions[0, -1]) + 1]),
        )
        expected = case[tokens].tolist()
        sampling = Sampling(max_new_tokens=len(expected), repetition_guard="off")
        (completion,) = model.generate(prefix, 1, sampling)[0]
        assert list(completion.token_ids) == expected
        logps = model.next_token_log_probs(prefix, expected)
        if step_logits is not None:
            close(logps, torch.from_numpy(case[step_logits]).log_softmax(-1).numpy(), 1e-3)


@torch.no_grad()
def test_golden_generation_positions_of_whole_sequences(case):
    model, length = load(), int(case["prompt_len"])
    prompt = case["position_ids_generate_prompt"]
    rest = prompt[0, -1] + 1 + np.arange(len(case["input_ids"]) - length)
    positions = np.concatenate([prompt, np.broadcast_to(rest, (3, len(rest)))], axis=1)
    steps = case["position_ids_generate_steps"]
    np.testing.assert_array_equal(positions[:, length : length + steps.shape[1]], steps)
    assert int(prompt[0, -1]) + 1 - length == int(case["rope_delta_generate"][0])
    logits = run(model, case, case["input_ids"], positions)
    close(logits[-16:], case["logits_last16_generate_positions"], 1e-3)
    close(-target_logps(logits, case["labels"]).mean(), case["sft_loss_generate_positions"], 1e-4)


def _end_to_end() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    require(END_TO_END.is_dir(), END_TO_END)
    settings = json.loads((END_TO_END / "gdpo_end_to_end.json").read_text(encoding="utf-8"))
    return arrays(END_TO_END / "gdpo_end_to_end.npz"), settings


def test_golden_gdpo_with_an_attached_adapter():
    stored, settings = _end_to_end()
    model: Any = load_checkpoint(PLUS / "model")
    (warning,) = load_adapter(model, END_TO_END / "adapter", merge=False)
    assert "no query token" in warning
    trained = set(train_released_parts(model))
    whisper = {f"audio.encoder.{name}" for name, _ in model.audio.encoder.named_parameters()}
    listed = {our_trainable_name(name) for name in settings["trainable_parameter_names"]}
    assert listed - whisper == trained
    assert not settings["q_tokens_in_adapter"]
    assert "audio.query_tokens" not in trained

    sequences = {"chosen": "chosen_{}", "rejected": "reject_{}", "gt": "{}_gt"}
    logps: dict[str, torch.Tensor] = {}
    for name, pattern in sequences.items():
        ids = stored[pattern.format("input_ids" if name == "gt" else "ids")]
        logits = run(model, stored, ids, stored[pattern.format("position_ids")])
        logps[name] = target_logps(logits, stored[pattern.format("labels")])
        if name == "gt":
            close(logits[-16:].detach(), stored["logits_last16_gt_policy"], 1e-3)
    with adapter_disabled(model):
        for name, pattern in sequences.items():
            ids = stored[pattern.format("input_ids" if name == "gt" else "ids")]
            logits = run(model, stored, ids, stored[pattern.format("position_ids")])
            logps[f"reference_{name}"] = target_logps(logits, stored[pattern.format("labels")])
            if name == "gt":
                close(logits[-16:], stored["logits_last16_gt_reference"], 1e-3)
    for name in ("chosen", "rejected"):
        for who in ("policy", "reference"):
            values = logps[name if who == "policy" else f"reference_{name}"].detach()
            close(values, stored[f"{who}_logp_{name}"], 1e-3)
            close(values.double().sum(), stored[f"sum_logp_{who}_{name}"], 2e-3)
    close(-logps["reference_gt"].mean(), stored["ce_loss_gt_reference"], 5e-4)
    sums = [logps[name].sum()[None] for name in ("chosen", "rejected", "reference_chosen", "reference_rejected")]
    truth = logps["gt"][None]
    loss, metrics = gdpo_loss(*sums, truth, torch.ones_like(truth), settings["beta"], settings["ce_weight"])
    for ours, theirs in (("loss", "total_loss"), ("dpo", "dpo_loss"), ("ce", "ce_loss_gt")):
        assert metrics[ours] == pytest.approx(float(stored[theirs]), abs=5e-4)
    for side in ("reward_chosen", "reward_rejected"):
        assert metrics[side] == pytest.approx(float(stored[side]), abs=5e-4)
    loss.backward()
    parameters = dict(model.named_parameters())
    for name, norm in settings["gradient_l2_norms"].items():
        ours = our_trainable_name(name)
        if ours in trained:
            # Attention over a single query leaves no gradient but rounding in its query and key.
            assert float(parameters[ours].grad.norm()) == pytest.approx(norm, rel=1e-3, abs=1e-6)


def our_trainable_name(name: str) -> str | None:
    inner = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
    return f"decoder.{inner}" if ".lora_" in inner else our_name(inner)


@torch.no_grad()
def test_golden_gdpo_with_a_merged_adapter():
    stored, _ = _end_to_end()
    model: Any = load_checkpoint(PLUS / "model")
    load_adapter(model, END_TO_END / "adapter")
    logits = run(model, stored, stored["input_ids_gt"], stored["position_ids_gt"])
    close(logits[-16:], stored["logits_last16_gt_merged"], 1e-3)


@torch.no_grad()
def test_golden_case_survives_saving_in_our_layout(case, tmp_path):
    model = load()
    model.save(tmp_path / "ours")
    again: Any = load_checkpoint(tmp_path / "ours")
    logits = run(again, case, case["input_ids"], case["position_ids_train"])
    torch.testing.assert_close(logits, run(model, case, case["input_ids"], case["position_ids_train"]), atol=0, rtol=0)
