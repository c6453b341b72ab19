"""video-SALMONN 2 7B against the values of the released code on tiny random models.

Cases and sizes are discovered from the folder, so that any folder of the same form can be tested (AVOCET_GOLDEN_DIR).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shared_files import golden_folder, require

from avocet.models.interface import Prompt
from avocet.models.lora import lora_disabled, merge_lora
from avocet.models.salmonn2 import processing
from avocet.models.salmonn2.v1 import V1Model, segment_positions
from avocet.models.salmonn2.v1_loading import load_v1, released_state_dict
from avocet.models.salmonn2.v1_prompts import RELEASED_PLACEHOLDER
from avocet.models.salmonn2.v1_training_files import load_lora_weights
from avocet.records import Sampling
from avocet.training.losses import gdpo_loss

V1 = golden_folder() / "v1"
GDPO = golden_folder() / "gdpo"

COMPARED = frozenset(
    {
        *("input_ids", "labels", "prompt_ids", "spectrogram", "frames_u8", "pixel_values_frame0", "siglip_out_frame0"),
        *("mm_projector_out_frame0", "whisper_out_every25", "speech_embeds_no_segment", "speech_embeds"),
        *("segment_position_rows", "av_start_and_length", "inputs_embeds", "expanded_labels", "logits_last16"),
        *("ce_loss", "target_logprobs", "target_ids", "greedy_tokens", "greedy_step_logits"),
    }
)
"""Every array of a case; one that is not known here is one that no test compares."""

Arrays = dict[str, np.ndarray]


class ToyTokenizer:
    """The vocabulary of the references: a known word is a token, any other word one token per character."""

    def __init__(self, words: dict[str, int], turn_start: int, turn_end: int) -> None:
        self.words = words
        self.special = {"<|im_start|>": turn_start, "<|im_end|>": turn_end}

    def get_vocab(self) -> dict[str, int]:
        return self.words | self.special

    def encode(self, text: str, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        assert split_special_tokens
        ids: list[int] = []
        for number, line in enumerate(text.split("\n")):
            ids += [self.words["\n"]] * (number > 0)
            for word in line.split():
                ids += [self.words[word]] if word in self.words else [self.words[letter] for letter in word]
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        names = {number: word for word, number in self.words.items()}
        return " ".join(names.get(token, f"<{token}>") for token in ids)


@functools.cache
def facts() -> dict[str, Any]:
    path = V1 / "cases.json"
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"cases": {}}
    return data


@pytest.fixture(autouse=True)
def _needs_golden() -> None:
    require(facts()["cases"], V1 / "cases.json")


def load() -> V1Model:
    extra, ids = facts()["hyperparameters_not_in_config"], facts()["token_ids"]
    seconds = extra["audio_load_arguments"]["second_per_window"]
    sizes = {
        "vision_heads": extra["siglip"]["num_attention_heads"],
        "audio_heads": extra["whisper"]["encoder_attention_heads"],
        "qformer_heads": extra["qformer"]["num_attention_heads"],
        "image_size": extra["siglip"]["image_size"],
        "window_frames": round(1500 * seconds / 30),
    }
    tokenizer = ToyTokenizer(facts()["vocab_words"], ids["im_start"], ids["im_end"])
    return load_v1(V1 / "model", sizes=sizes, tokenizer=tokenizer)


cached_model = functools.cache(load)


@functools.cache
def arrays(path: Path) -> Arrays:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(params=sorted(facts()["cases"]) or [""])
def name(request) -> str:
    return str(request.param)


@pytest.fixture
def case(name) -> Arrays:
    return arrays(V1 / f"{name}.npz")


def close(ours: torch.Tensor, theirs: np.ndarray, tolerance: float) -> None:
    torch.testing.assert_close(ours.double(), torch.from_numpy(theirs).double(), atol=tolerance, rtol=0)


def prompt(model: V1Model, stored: Arrays, ids: Sequence[int] | str, real_time: float, times: np.ndarray) -> Prompt:
    """The prompt of released ids, or of an instruction."""
    frames = torch.from_numpy(stored["frames_u8"]) if "frames_u8" in stored else None
    mel = torch.cat(list(spectrogram(stored)), dim=1) if "spectrogram" in stored else None
    if isinstance(ids, str):
        return model.prompt_from_tensors("case", ids, frames, times, mel, real_time)
    return model.prompt_from_ids("case", ids, frames, times, mel, real_time)


def spectrogram(stored: Arrays) -> torch.Tensor:
    return torch.from_numpy(stored["spectrogram"].astype(np.float32))


def case_prompt(name: str, ids: Sequence[int] | str) -> Prompt:
    fact = facts()["cases"][name]
    times = np.array(fact.get("frame_idx", [])) / fact.get("native_fps", 1)
    return prompt(cached_model(), arrays(V1 / f"{name}.npz"), ids, fact["real_time"], times)


def logits_of(model: V1Model, whole: Prompt) -> torch.Tensor:
    """(L, vocabulary) of one plain forward."""
    decoder = model.language_decoder()
    hidden, _ = decoder.run(model.encode([whole]).embeddings)
    return decoder.logits(hidden)[0]


def expanded(ids: np.ndarray, labels: np.ndarray, length: int) -> np.ndarray:
    """Labels with the media's places as -100."""
    place = int(np.flatnonzero(ids == RELEASED_PLACEHOLDER)[0])
    return np.concatenate([labels[:place], np.full(length, -100), labels[place + 1 :]])


def target_logps(logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    targets = torch.from_numpy(labels)[1:]
    kept = targets != -100
    return logits[:-1][kept].log_softmax(-1).gather(-1, targets[kept][:, None])[:, 0]


def test_golden_every_array_is_compared(case):
    assert set(case) <= COMPARED


@torch.no_grad()
def test_golden_vision(case):
    if "frames_u8" not in case:
        return
    model = cached_model()
    frames = torch.from_numpy(case["frames_u8"])
    close(processing.normalise_frames(frames[:1], torch.float32)[0], case["pixel_values_frame0"], 2e-3)
    features = model.vision_features(frames)
    close(features[0], case["siglip_out_frame0"], 1e-4)
    close(model.visual_projection(features[0]), case["mm_projector_out_frame0"], 1e-4)


@torch.no_grad()
def test_golden_audio(case):
    if "spectrogram" not in case:
        return
    model, mels = cached_model(), spectrogram(case)
    (features,) = model.audio_features([torch.cat(list(mels), dim=1)])
    segments = features.reshape(len(mels), -1, features.shape[1])
    close(segments[:, ::25], case["whisper_out_every25"], 1e-4)
    close(model.audio.align(segments), case["speech_embeds_no_segment"], 1e-4)
    close(model.align_audio([features])[0], case["speech_embeds"], 1e-4)
    rows = case["segment_position_rows"]
    close(segment_positions(len(rows), rows.shape[1]), rows, 1e-6)


@torch.no_grad()
def test_golden_sequence_loss_and_logits(name, case):
    model, whole = cached_model(), case_prompt(name, case["input_ids"].tolist())
    start, length = case["av_start_and_length"].tolist()
    assert len(whole.layout) == length
    assert case["input_ids"][start] == RELEASED_PLACEHOLDER
    close(model.encode([whole]).embeddings[0], case["inputs_embeds"], 1e-4)
    labels = expanded(case["input_ids"], case["labels"], length)
    assert np.array_equal(labels, case["expanded_labels"])
    assert np.array_equal(labels[1:][labels[1:] != -100], case["target_ids"])
    logits = logits_of(model, whole)
    close(logits[-16:], case["logits_last16"], 1e-3)
    logps = target_logps(logits, labels)
    close(logps, case["target_logprobs"], 1e-3)
    close(-logps.mean(), case["ce_loss"], 1e-4)


@torch.no_grad()
def test_golden_prompt_and_greedy_tokens(name, case):
    model = cached_model()
    asked, given = case_prompt(name, facts()["question"]), case_prompt(name, case["prompt_ids"].tolist())
    assert asked.token_ids == given.token_ids
    prefix = model.encode([asked])
    tokens = case["greedy_tokens"].tolist()
    (completion,) = model.generate(prefix, 1, Sampling(max_new_tokens=len(tokens), repetition_guard="off"))[0]
    count = len(completion.token_ids)
    assert list(completion.token_ids) == tokens[:count]
    assert count == len(tokens) or completion.token_ids[-1] in model.stop_ids
    decoder = model.language_decoder()
    sequence = torch.cat([prefix.embeddings[0], decoder.embed(torch.tensor(tokens[:-1]))])
    steps = decoder.logits(decoder.run(sequence[None])[0])[0, len(prefix.embeddings[0]) - 1 :]
    close(steps, case["greedy_step_logits"], 1e-3)
    (scores,) = model.score(prefix, [[tokens]])
    expected = torch.from_numpy(case["greedy_step_logits"]).log_softmax(-1)
    close(scores[0], expected.gather(-1, torch.tensor(tokens)[:, None])[:, 0].numpy(), 1e-3)


def test_golden_round_trip_of_keys_and_bytes():
    stored = load_file(V1 / "model" / "model.safetensors")
    ours = released_state_dict(cached_model())
    assert ours.keys() == stored.keys()
    assert [name for name in stored if not torch.equal(ours[name], stored[name])] == []
    assert {name: list(tensor.shape) for name, tensor in ours.items()} == {
        name: list(shape) for name, shape in facts()["state_dict_shapes"].items()
    }


def end_to_end_folders() -> list[Path]:
    return sorted(path.parent for path in GDPO.glob("*/lora.safetensors"))


@pytest.fixture(params=end_to_end_folders() or [GDPO], ids=lambda folder: folder.name)
def trained(request) -> tuple[V1Model, dict[str, Any], Arrays]:
    """A model with the adapter of the run attached."""
    require(end_to_end_folders(), GDPO)
    folder = request.param
    (values,) = folder.glob("*.npz")
    record = json.loads(values.with_suffix(".json").read_text(encoding="utf-8"))
    model = load()
    added = load_lora_weights(model, folder / "lora.safetensors", record["lora"]["alpha"])
    assert sorted(list(part.shape) for part in added) == sorted(record["lora_tensors"].values())
    return model, record, arrays(values)


def places(stored: Arrays) -> np.ndarray:
    """Times of the frames; the released layout only needs their order."""
    return np.arange(len(stored.get("frames_u8", ())), dtype=np.float64)


def sequence(model: V1Model, stored: Arrays, role: str) -> tuple[Prompt, np.ndarray]:
    """Prompt of a whole sequence, and its labels with the media as -100."""
    ids = stored[f"input_ids_{role}"]
    whole = prompt(model, stored, ids.tolist(), float(stored["real_time"]), places(stored))
    return whole, expanded(ids, stored[f"labels_{role}"], len(whole.layout))


@torch.no_grad()
def test_golden_gdpo_end_to_end(trained):
    model, record, stored = trained
    sums, logps = {}, {}
    for role in ("chosen", "rejected"):
        whole, labels = sequence(model, stored, role)
        # The released DPO loss looks at the end of the sequence only, as many places as there were ids.
        count = len(stored[f"input_ids_{role}"])
        labels = labels[-count:]
        assert np.array_equal(labels[1:][labels[1:] != -100], stored[f"target_ids_{role}"])
        assert len(stored[f"target_ids_{role}"]) == record["n_target_tokens"][role]
        logps["policy", role] = target_logps(logits_of(model, whole)[-count:], labels)
        with lora_disabled(model):
            logps["reference", role] = target_logps(logits_of(model, whole)[-count:], labels)
        for kind in ("policy", "reference"):
            close(logps[kind, role], stored[f"{kind}_logp_{role}"], 1e-3)
            sums[kind, role] = logps[kind, role].double().sum()
            close(sums[kind, role], stored[f"sum_logp_{kind}_{role}"], 2e-3)
    whole, labels = sequence(model, stored, "gt")
    truth = target_logps(logits_of(model, whole), labels)[None]
    loss, metrics = gdpo_loss(
        sums["policy", "chosen"][None],
        sums["policy", "rejected"][None],
        sums["reference", "chosen"][None],
        sums["reference", "rejected"][None],
        truth,
        torch.ones_like(truth),
        beta=record["beta"],
        ce_weight=record["ce_weight"],
    )
    close(loss, stored["total_loss"], 5e-4)
    for ours, theirs in (
        *(("dpo", "dpo_loss"), ("ce", "ce_loss_gt")),
        *(("reward_chosen", "reward_chosen"), ("reward_rejected", "reward_rejected")),
    ):
        assert metrics[ours] == pytest.approx(float(stored[theirs]), abs=5e-4)
    assert metrics["reward_margin"] / record["beta"] == pytest.approx(record["z"], abs=4e-3)


@torch.no_grad()
def test_golden_gdpo_logits_of_policy_reference_and_merged(trained):
    model, _, stored = trained
    whole, labels = sequence(model, stored, "gt")
    close(logits_of(model, whole)[-16:], stored["logits_last16_gt_policy"], 1e-3)
    with lora_disabled(model):
        reference = logits_of(model, whole)
    close(reference[-16:], stored["logits_last16_gt_reference"], 1e-3)
    close(-target_logps(reference, labels).mean(), stored["ce_loss_gt_reference"], 5e-4)
    merge_lora(model)
    # Merging changes nothing but rounding; the references of v1 may have no array of its own for it.
    close(logits_of(model, whole)[-16:], stored.get("logits_last16_gt_merged", stored["logits_last16_gt_policy"]), 1e-3)


@torch.no_grad()
def test_golden_gdpo_answers_scored_from_one_prefix(trained):
    """The verb `score` gives the answers' part of the released log-probabilities."""
    model, _, stored = trained
    answers, prompts = [], []
    for role in ("chosen", "rejected"):
        ids, labels = stored[f"input_ids_{role}"], stored[f"labels_{role}"]
        first = int(np.flatnonzero(labels == -100)[-1]) + 1
        answers.append(ids[first:].tolist())
        prompts.append(ids[:first].tolist())
    assert prompts[0] == prompts[1]
    prefix = model.encode([prompt(model, stored, prompts[0], float(stored["real_time"]), places(stored))])
    (scores,) = model.score(prefix, [answers])
    for role, score, answer in zip(("chosen", "rejected"), scores, answers, strict=True):
        close(score, stored[f"policy_logp_{role}"][-len(answer) :], 1e-3)
