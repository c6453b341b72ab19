"""TRL's own trainers as the yardstick of our supervised and preference losses, on a tiny Qwen2.5-Omni.

TRL knows no sound, and its collators drop videos (`test_the_stock_collator_...`); but its trainers hand everything that
a collator returns to the model. The collator here pads [prompt, completion] rows and adds what transformers' own
processor makes of each clip, so that of both sides only weights and token ids are shared.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from avocet.models.interface import Prompt
from avocet.models.lora import add_lora
from avocet.models.prefix import reference_log_probs
from avocet.models.qwen_omni.modeling import QwenOmniModel
from avocet.models.qwen_omni.parity import Case, make_clip
from avocet.models.qwen_omni.reference import reference_inputs, reference_processor, reference_text
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.records import Clip
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer
from avocet.training.finetune.engine import Engine
from avocet.training.finetune.module import Item, MicroBatch
from avocet.training.losses import gdpo_loss

pytestmark = pytest.mark.slow

INSTRUCTION = "Describe this video in full detail."
LEARNING_RATE = 1e-3
NUM_STEPS = 3
BETA = 0.1
RANK, ALPHA = 4, 8
IGNORED = -100
LORA_LAYERS = ("q_proj", "v_proj", "down_proj")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A clip as a prompt with two answers."""

    clip: Clip
    prompt: Prompt
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """TRL is there; one thread; what its trainers leave in the environment is taken away."""
    pytest.importorskip("trl")
    before, num_threads = dict(os.environ), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
    os.environ.clear()
    os.environ.update(before)


def make_clips() -> tuple[tuple[Clip, ...], ...]:
    """Two batches: sound and silence; no sound track. transformers has one flag per batch for sound in video."""
    silent = make_clip(Case(name="silent", seconds=2.0))
    assert silent.waveform is not None
    silent = dataclasses.replace(silent, waveform=np.zeros_like(silent.waveform), audio_status="silent")
    muted = [make_clip(Case(name=f"no track, {seconds} s", seconds=seconds, has_sound=False)) for seconds in (2.6, 1.0)]
    return (make_clip(Case(name="sound", seconds=4.5)), silent), tuple(muted)


def make_pairs(model: QwenOmniModel) -> tuple[tuple[Pair, ...], ...]:
    """Of each batch of `make_clips`; no two answers have the same length."""
    answers = iter(
        [
            ("a dog barks while a red ball rolls to the left", "a dog"),
            ("the ball", "a red ball rolls while the dog barks and barks and barks"),
            ("a ball rolls to the left, then to the right and stops there", "the dog barks."),
            ("nothing", "left and left again, and left"),
        ]
    )

    def make(clip: Clip) -> Pair:
        chosen, rejected = (tuple(model.encode_text(text, end=True)) for text in next(answers))
        return Pair(clip=clip, prompt=model.prepare(clip, INSTRUCTION), chosen=chosen, rejected=rejected)

    pairs = tuple(tuple(make(clip) for clip in batch) for batch in make_clips())
    lengths = [len(text) for batch in pairs for pair in batch for text in (pair.chosen, pair.rejected)]
    assert len(set(lengths)) == len(lengths)
    return pairs


class Collator:
    """Token rows padded on the right, the mask of their completions, and the media of all rows.

    A data set's example is the number of a batch, so that batches stay what they are.
    """

    def __init__(self, model: QwenOmniModel, batches: Sequence[Sequence[Pair]]) -> None:
        self.batches = batches
        self._pad = int(model.tokenizer.pad_token_id)
        self._inputs = functools.cache(functools.partial(reference_inputs, model))

    def pad(self, rows: Sequence[tuple[Pair, tuple[int, ...]]]) -> dict[str, Any]:
        """(pair, completion) rows."""
        ids = [torch.tensor([*pair.prompt.token_ids, *completion]) for pair, completion in rows]
        size = max(map(len, ids))
        masks = [torch.tensor([0] * len(pair.prompt.token_ids) + [1] * len(completion)) for pair, completion in rows]
        batch: dict[str, Any] = {
            "input_ids": torch.stack([F.pad(row, (0, size - len(row)), value=self._pad) for row in ids]),
            "attention_mask": torch.stack([F.pad(torch.ones_like(row), (0, size - len(row))) for row in ids]),
            "completion_mask": torch.stack([F.pad(row, (0, size - len(row))) for row in masks]),
        }
        media = [self._inputs(pair.clip, pair.prompt) for pair, _ in rows]
        for (pair, _), inputs in zip(rows, media, strict=True):
            assert inputs["input_ids"][0].tolist() == list(pair.prompt.token_ids)
        for name in media[0].keys() - {"input_ids", "attention_mask", "use_audio_in_video"}:
            batch[name] = torch.cat([torch.as_tensor(inputs[name]) for inputs in media])
        if "use_audio_in_video" in media[0]:
            batch["use_audio_in_video"] = True
        return batch

    def supervised(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What SFTTrainer forwards: the chosen answers with labels."""
        (example,) = examples
        batch = self.pad([(pair, pair.chosen) for pair in self.batches[example["batch"]]])
        batch["labels"] = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, IGNORED)
        return batch

    def preference(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What DPOTrainer forwards: chosen rows, then rejected rows, each with its own copy of the media."""
        (example,) = examples
        pairs = self.batches[example["batch"]]
        return self.pad([(pair, pair.chosen) for pair in pairs] + [(pair, pair.rejected) for pair in pairs])


def trl_settings(folder: Path, num_batches: int) -> dict[str, Any]:
    """Of SFTConfig and DPOConfig: one step is all batches; plain AdamW at a constant rate, float32."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": None,
        "remove_unused_columns": False,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": num_batches,
        "max_steps": NUM_STEPS,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "max_grad_norm": 1.0,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "disable_tqdm": True,
        "save_strategy": "no",
        "report_to": "none",
    }


def sft_trainer(model: QwenOmniModel, collator: Collator, folder: Path) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    count = len(collator.batches)
    settings = SFTConfig(dataset_kwargs={"skip_prepare_dataset": True}, **trl_settings(folder, count))
    return SFTTrainer(
        model.thinker,
        args=settings,
        data_collator=collator.supervised,
        train_dataset=Dataset.from_dict({"batch": list(range(count))}),
        processing_class=model.tokenizer,
    )


def dpo_trainer(model: QwenOmniModel, collator: Collator, folder: Path, **given: Any) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    count = len(collator.batches)
    # The column `images` keeps TRL from tokenising texts that are not there.
    dataset = Dataset.from_dict({"batch": list(range(count)), "images": [0] * count})
    return DPOTrainer(
        model.thinker,
        args=DPOConfig(beta=BETA, **trl_settings(folder, count)),
        data_collator=collator.preference,
        train_dataset=dataset,
        processing_class=reference_processor(model),
        **given,
    )


def logged(trainer: Any, name: str) -> list[float]:
    """A figure of every step."""
    return [line[name] for line in trainer.state.log_history if name in line]


def micro_batches(pairs: Sequence[Sequence[Pair]]) -> list[MicroBatch]:
    return [
        MicroBatch(
            items=tuple(
                Item(index=index, task="caption", prompt=pair.prompt, target=pair.chosen)
                for index, pair in enumerate(batch)
            )
        )
        for batch in pairs
    ]


def fine_tune_losses(model: QwenOmniModel, batches: Sequence[MicroBatch]) -> list[float]:
    """The loss of each step of the engine that runs `avocet train`, with every parameter trained."""
    stage = FineTune(
        name="sft",
        stage="sft",
        model="avocado",
        sources=(DataSource(path="unread.jsonl"),),
        trainable=("decoder",),
        optimizer=FineTuneOptimizer(learning_rate=LEARNING_RATE),
        batch=BatchSettings(max_examples=4),
        precision="float32",
        gradient_checkpointing=False,
        loss_chunk=7,
        max_steps=NUM_STEPS,
    )
    engine = Engine(stage, cpu=True)
    engine.prepare(model, [name for name, _ in model.named_parameters()])
    return [engine.step(batches, step, LEARNING_RATE).loss for step in range(NUM_STEPS)]


def test_steps_of_sft_trainer(tmp_path: Path) -> None:
    """The loss before training and after each optimizer step.

    Both divide by the number of target tokens of the whole step, over all its batches (transformers'
    `num_items_in_batch`). Asked for the loss of one batch alone, TRL divides by that batch's targets; the mean of such
    means, which gradient accumulation gave before transformers 4.46, is another number.
    """
    model = tiny_model()
    pairs = make_pairs(model)
    trainer = sft_trainer(model, Collator(model, pairs), tmp_path)
    batches = [trainer.data_collator([{"batch": index}]) for index in range(len(pairs))]
    with torch.no_grad():
        alone = [trainer.compute_loss(trainer.model, dict(batch)).item() for batch in batches]
    trainer.train()
    theirs = logged(trainer, "loss")
    ours = fine_tune_losses(tiny_model(), micro_batches(pairs))
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert ours[-1] < ours[0] - 0.1
    counts = [sum(len(pair.chosen) for pair in batch) for batch in pairs]
    assert np.average(alone, weights=counts) == pytest.approx(ours[0], abs=1e-5)
    assert abs(np.mean(alone) - ours[0]) > 1e-3


def perturb(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Make a policy that is not its reference."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))


Reference = Callable[[Sequence[Prompt], Any], list[list[torch.Tensor]]]


def preference_steps(model: QwenOmniModel, reference: Reference, pairs: Sequence[Pair]) -> list[dict[str, float]]:
    """Losses and figures of steps on the pairs, whose answers share one forward pass over their prompt."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    prompts = [pair.prompt for pair in pairs]
    completions = [[pair.chosen, pair.rejected] for pair in pairs]
    found = []
    for _ in range(NUM_STEPS):
        policy = model.score(model.encode(prompts), completions)
        sums = [torch.stack([row[place].sum() for row in policy]) for place in (0, 1)]
        known = reference(prompts, completions)
        sums += [torch.stack([row[place].sum() for row in known]) for place in (0, 1)]
        loss, figures = gdpo_loss(*sums, None, None, beta=BETA, ce_weight=0.0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        found.append(figures)
    return found


def compare_preference(trainer: Any, ours: Sequence[dict[str, float]]) -> None:
    names = {
        "loss": "loss",
        "reward_chosen": "rewards/chosen",
        "reward_rejected": "rewards/rejected",
        "reward_margin": "rewards/margins",
        "accuracy": "rewards/accuracies",
    }
    for name, theirs in names.items():
        assert [figures[name] for figures in ours] == pytest.approx(logged(trainer, theirs), abs=1e-5), name
    assert abs(ours[0]["loss"] - np.log(2)) > 1e-3
    assert ours[-1]["loss"] < ours[0]["loss"] - 0.01


def test_steps_of_dpo_trainer(tmp_path: Path) -> None:
    """Every parameter trained, the reference a frozen copy."""
    model, frozen = tiny_model(), tiny_model()
    pairs = make_pairs(model)
    perturb(list(model.parameters()))
    twin = copy.deepcopy(model)
    trainer = dpo_trainer(model, Collator(frozen, pairs), tmp_path, ref_model=copy.deepcopy(frozen.thinker))
    trainer.train()

    def reference(prompts: Sequence[Prompt], completions: Any) -> list[list[torch.Tensor]]:
        with torch.no_grad():
            return frozen.score(frozen.encode(prompts), completions)

    compare_preference(trainer, preference_steps(twin, reference, [pair for batch in pairs for pair in batch]))


def test_steps_of_dpo_trainer_with_lora(tmp_path: Path) -> None:
    """The decoder's adapter is trained, the reference is the model without it."""
    from peft import LoraConfig

    model, twin = tiny_model(), tiny_model()
    pairs = make_pairs(model)
    layers = rf".*language_model.*\.({'|'.join(LORA_LAYERS)})"
    trainer = dpo_trainer(
        model,
        Collator(twin, pairs),
        tmp_path,
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=layers),
    )
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    trained = add_lora(twin, rank=RANK, alpha=ALPHA, target_modules=LORA_LAYERS)
    perturb(trained)
    ours = {name.partition("language_model.")[2]: value for name, value in twin.named_parameters()}
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(ours[name.partition("language_model.")[2]])
    trainer.train()

    def reference(prompts: Sequence[Prompt], completions: Any) -> list[list[torch.Tensor]]:
        with torch.no_grad():
            return reference_log_probs(twin, twin.encode(prompts), completions)

    compare_preference(trainer, preference_steps(twin, reference, [pair for batch in pairs for pair in batch]))


def test_the_stock_collator_drops_picture_and_sound() -> None:
    """Without an error: placeholders stand in the prompt, nothing replaces them, and the model runs all the same."""
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    model = tiny_model()
    (pair, _), _ = make_pairs(model)
    collator = DataCollatorForVisionPreference(processor=reference_processor(model), max_length=None)
    example = {
        "prompt": reference_text(model, pair.clip, INSTRUCTION),
        "chosen": "a dog barks",
        "rejected": "the ball",
        "images": [],
        "videos": [pair.clip.frames],
        "audio": [pair.clip.waveform],
    }
    batch = dict(collator([example]))
    assert set(batch) == {"input_ids", "attention_mask", "completion_mask"}
    placeholders = (batch["input_ids"] == model.ids.video).sum(dim=1) + (batch["input_ids"] == model.ids.audio).sum(dim=1)
    assert placeholders.tolist() == [1, 1]
    assert pair.prompt.layout.num_audio_tokens + 0 > 100
    with torch.no_grad():
        logits = model.thinker(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert logits.isfinite().all()
