"""The loss against transformers' own, against plain logits, and across micro-batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from avocet.errors import ConfigError
from avocet.media import open_clip
from avocet.models.interface import Prefix
from avocet.models.qwen_omni.reference import reference_inputs
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.models.salmonn2.tiny import tiny_plus
from avocet.models.scoring import token_log_probs
from avocet.training.data import read_examples
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, ReadSettings
from avocet.training.finetune.inputs import ClipReader, heard, open_arguments
from avocet.training.finetune.loop import fine_tune
from avocet.training.finetune.losses import target_states
from avocet.training.finetune.module import FineTuneModule, Item, MicroBatch, filler


class Linear:
    """The smallest decoder: states are embeddings, logits one matrix."""

    def __init__(self, vocabulary: int, width: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(vocabulary, width, generator=generator).requires_grad_()
        self.chunks: list[int] = []

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        self.chunks.append(len(hidden))
        return hidden @ self.weight.T


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_change_neither_value_nor_gradient(chunk: int) -> None:
    decoder = Linear(vocabulary=50, width=8)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 8, generator=generator).requires_grad_()
    targets = torch.randint(50, (7,), generator=generator)
    plain = -F.cross_entropy(hidden @ decoder.weight.T, targets, reduction="none")
    expected = torch.autograd.grad(plain.sum(), (hidden, decoder.weight))
    found = token_log_probs(decoder, hidden, targets, chunk)
    gradients = torch.autograd.grad(found.sum(), (hidden, decoder.weight))
    torch.testing.assert_close(found, plain, atol=1e-6, rtol=0)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert max(decoder.chunks) == min(chunk, 7)


def test_a_target_without_tokens_is_refused() -> None:
    prefix = Prefix(clip_ids=("a",), embeddings=torch.zeros(1, 2, 4), lengths=torch.tensor([2]))
    with pytest.raises(ConfigError, match=r"1 prompts need as many targets of at least one token, got lengths \[0\]"):
        target_states(Linear(5, 4), prefix, [[]])


def make_items(model, staged: Path) -> list[Item]:
    items = []
    for index, example in enumerate(read_examples(staged / "train.jsonl").examples):
        clip = open_clip(
            example.clip.path, clip_id=example.clip.id, end_seconds=example.clip.end_seconds, **open_arguments(model)
        )
        prompt = model.prepare(heard(clip, example), example.instruction)
        target = tuple(model.encode_text(example.target, end=True))
        items.append(Item(index=index, task=example.task, prompt=prompt, target=target))
    return items


def test_the_loss_is_that_of_transformers_with_labels(staged: Path) -> None:
    """Each clip alone through transformers' processor and thinker, labels -100 on the prompt."""
    model = tiny_model("qwen2.5-omni")
    module = FineTuneModule(model, loss_chunk=16)
    items = make_items(model, staged)
    ours = module(MicroBatch(items=tuple(items)))[:, 0] / torch.tensor([len(item.target) for item in items])
    for item, example, loss in zip(items, read_examples(staged / "train.jsonl").examples, ours, strict=True):
        clip = open_clip(example.clip.path, end_seconds=example.clip.end_seconds, **open_arguments(model))
        inputs = reference_inputs(model, clip, item.prompt)
        assert inputs["input_ids"][0].tolist() == list(item.prompt.token_ids)
        target = torch.tensor([item.target])
        labels = torch.cat([torch.full_like(inputs["input_ids"], -100), target], dim=1)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], target], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        theirs = model.thinker(**inputs, labels=labels).loss
        assert loss.item() == pytest.approx(theirs.item(), abs=1e-6)


def test_the_gradient_is_that_of_transformers_with_labels(staged: Path) -> None:
    model = tiny_model("qwen2.5-omni")
    module = FineTuneModule(model, loss_chunk=5)
    item = make_items(model, staged)[0]
    (module(MicroBatch(items=(item,))).sum() / len(item.target)).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    example = read_examples(staged / "train.jsonl").examples[0]
    clip = open_clip(example.clip.path, end_seconds=example.clip.end_seconds, **open_arguments(model))
    inputs = reference_inputs(model, clip, item.prompt)
    target = torch.tensor([item.target])
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), target], dim=1)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], target], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    model.thinker(**inputs, labels=labels).loss.backward()
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(theirs) > 50
    for name, gradient in theirs.items():
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(ours[name], gradient, atol=1e-5 * scale, rtol=0)


def test_targets_score_as_the_model_scores_them(staged: Path) -> None:
    """`score` is the verb that evaluation uses."""
    model = tiny_plus()
    items = make_items(model, staged)
    with torch.no_grad():
        sums = FineTuneModule(model, loss_chunk=4)(MicroBatch(items=tuple(items)))
        scores = model.score(model.encode([item.prompt for item in items]), [[item.target] for item in items])
    expected = torch.stack([-row[0].sum() for row in scores])
    torch.testing.assert_close(sums[:, 0].float(), expected, atol=1e-4, rtol=1e-6)


def test_micro_batches_of_any_size_make_the_same_step(make_stage, tmp_path, losses) -> None:
    """Targets of different length: a mean of means would differ by percents."""
    settings = {"lora": None, "trainable": ("audio_aligner", "decoder"), "max_steps": 3}
    found = []
    for size in (4, 3, 1):
        batch = BatchSettings(max_examples=4, micro_examples=size)
        optimizer = FineTuneOptimizer(learning_rate=1e-3)
        config = make_stage("plus", batch=batch, optimizer=optimizer, **settings)
        found.append([loss for _, loss in losses(fine_tune(config, tmp_path / str(size)))])
    assert found[0][0] != pytest.approx(found[0][2], rel=1e-3)
    for others in found[1:]:
        np.testing.assert_allclose(others, found[0], rtol=2e-6)


def test_every_trained_parameter_has_a_gradient_without_sound(staged: Path) -> None:
    model = tiny_plus()
    silent = make_items(model, staged)[2]
    assert silent.prompt.mel is None
    module = FineTuneModule(model, loss_chunk=64)
    module(MicroBatch(items=(silent,))).sum().backward()
    assert model.audio.query_tokens.grad is not None
    assert not model.audio.query_tokens.grad.any()
    assert model.decoder.lm_head.weight.grad.any()


@pytest.mark.parametrize("family", ["paper", "v1", "plus", "omni"])
def test_a_filler_passes_any_model_and_counts_nothing(family, model_folders) -> None:
    from avocet.models.registry import load_model

    folder = model_folders[family]
    model = load_model(f"avocado@{folder}" if family == "omni" else str(folder), device="cpu", dtype="float32").model
    batch = filler(model)
    assert batch.num_targets == 0
    assert torch.isfinite(FineTuneModule(model, loss_chunk=64)(batch)).all()


def test_worker_processes_read_what_this_process_reads(staged: Path) -> None:
    model = tiny_plus()
    examples = list(enumerate(read_examples(staged / "train.jsonl").examples))
    found = []
    for workers in (0, 2):
        reader = ClipReader(model, ReadSettings(num_workers=workers))
        try:
            found.append([*reader.read(examples), *reader.read(examples[:1])])
        finally:
            reader.close()
    here, there = found
    assert [item.index for item in here] == [0, 1, 2, 3, 0]
    for ours, theirs in zip(here, there, strict=True):
        assert (ours.target, ours.prompt.token_ids) == (theirs.target, theirs.prompt.token_ids)
        assert torch.equal(ours.prompt.frames, theirs.prompt.frames)


def test_losses_of_tasks_are_told_apart(make_stage, staged, tmp_path) -> None:
    from avocet.training.data import DataSource
    from avocet.training.finetune.watch import METRICS_FILE, read_metrics

    lines = [json.loads(line) for line in (staged / "train.jsonl").read_text().splitlines()]
    for line, task in zip(lines, ("caption", "asr", "caption", "qa"), strict=True):
        line["task"] = task
    path = staged / "tasks.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    batch = BatchSettings(max_examples=4, micro_examples=1)
    config = make_stage("plus", sources=(DataSource(path=str(path)),), batch=batch, max_steps=1)
    (line,) = read_metrics(fine_tune(config, tmp_path) / METRICS_FILE)
    assert {key for key in line if key.startswith("loss/")} == {"loss/caption", "loss/asr", "loss/qa"}
    assert line["examples"] == 4
    parts = [line[f"loss/{task}"] for task in ("caption", "asr", "qa")]
    assert min(parts) < line["loss"] < max(parts)
