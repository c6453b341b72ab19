"""TRL's own trainers as the yardstick of our supervised and preference losses, on a tiny Qwen2.5-Omni.

TRL knows no sound, and its collators drop videos (the last test); but its trainers hand everything that
a collator returns to the model. The collator here pads [prompt, completion] rows and adds what transformers' own
processor makes of each clip, so that of both sides only weights and token ids are shared.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
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
from avocet.models.qwen_omni.reference import reference_inputs, reference_processor
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.records import Clip
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer
from avocet.training.finetune.config import PreferenceSettings
from avocet.training.finetune.engine import Engine, StepResult
from avocet.training.finetune.module import Item, MicroBatch, PairTokens
from avocet.training.finetune.preference import GuidedDpo
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


def train(
    model: QwenOmniModel, batches: Sequence[MicroBatch], preference: PreferenceSettings | None = None
) -> list[StepResult]:
    """Steps of the engine that runs `avocet train`, on every parameter that has a gradient."""
    stage = FineTune(
        name="oracle",
        stage="sft" if preference is None else "dpo",
        model="avocado",
        sources=(DataSource(path="unread.jsonl"),),
        trainable=("decoder",),
        optimizer=FineTuneOptimizer(learning_rate=LEARNING_RATE),
        batch=BatchSettings(max_examples=4),
        preference=preference,
        precision="float32",
        gradient_checkpointing=False,
        loss_chunk=7,
        max_steps=NUM_STEPS,
    )
    engine = Engine(stage, cpu=True)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    engine.prepare(model, names, None if preference is None else GuidedDpo(preference))
    return [engine.step(batches, step, LEARNING_RATE) for step in range(NUM_STEPS)]


def test_steps_of_sft_trainer(tmp_path: Path) -> None:
    """The loss before training and after each optimizer step.

    Both divide by the number of target tokens of the whole step, over all its batches (transformers'
    `num_items_in_batch`). Asked for the loss of one batch alone, TRL divides by that batch's targets; the mean of such
    means is another number.
    """
    model = tiny_model()
    pairs = make_pairs(model)
    trainer = sft_trainer(model, Collator(model, pairs), tmp_path)
    with torch.no_grad():
        collated = [trainer.data_collator([{"batch": index}]) for index in range(len(pairs))]
        alone = [trainer.compute_loss(trainer.model, inputs).item() for inputs in collated]
    trainer.train()
    theirs = logged(trainer, "loss")
    batches = [
        MicroBatch(items=tuple(Item(index=0, task="caption", prompt=pair.prompt, target=pair.chosen) for pair in batch))
        for batch in pairs
    ]
    ours = [result.loss for result in train(tiny_model(), batches)]
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


def sums(scores: Sequence[Sequence[torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(pairs,) summed log-probabilities of the chosen answers, and of the rejected ones."""
    chosen, rejected = (torch.stack([row[place].sum() for row in scores]) for place in (0, 1))
    return chosen, rejected


def compare_preference(
    trainer: Any, model: QwenOmniModel, pairs: Sequence[Sequence[Pair]], reference: Sequence[Sequence[torch.Tensor]]
) -> None:
    """The loss by `gdpo_loss` before training, then loss and rewards of the steps of TRL and of our engine.

    `reference` are log-probabilities of [chosen, rejected] of all pairs. Both sides take means over pairs of sums over
    tokens; these batches are equally large, so that TRL's mean over batches is the mean over pairs.
    """
    every = [pair for batch in pairs for pair in batch]
    completions = [[pair.chosen, pair.rejected] for pair in every]
    with torch.no_grad():
        policy = model.score(model.encode([pair.prompt for pair in every]), completions)
    loss, _ = gdpo_loss(*sums(policy), *sums(reference), None, None, beta=BETA, ce_weight=0.0)
    trainer.train()
    theirs = logged(trainer, "loss")
    assert loss.item() == pytest.approx(theirs[0], abs=1e-5)
    assert abs(theirs[0] - np.log(2)) > 1e-3

    known = iter(zip(*(column.tolist() for column in sums(reference)), strict=True))
    batches = [MicroBatch(items=tuple(pair_item(pair, *next(known)) for pair in batch)) for batch in pairs]
    results = train(model, batches, PreferenceSettings(beta=BETA, variant="dpo"))
    assert [result.loss for result in results] == pytest.approx(theirs, abs=1e-5)
    assert theirs[-1] < theirs[0] - 0.01
    names = {"chosen_reward": "chosen", "rejected_reward": "rejected", "margin": "margins", "accuracy": "accuracies"}
    for name, rewards in names.items():
        figures = [result.figures[name] for result in results]
        assert figures == pytest.approx(logged(trainer, f"rewards/{rewards}"), abs=1e-5), name


def pair_item(pair: Pair, reference_chosen: float, reference_rejected: float) -> Item:
    tokens = PairTokens(
        chosen=pair.chosen,
        rejected=pair.rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
    )
    return Item(index=0, task="caption", prompt=pair.prompt, target=(), pair=tokens)


def reference_scores(model: QwenOmniModel, pairs: Sequence[Sequence[Pair]]) -> list[list[torch.Tensor]]:
    """Of a model without adapter: as it is; with one: without it."""
    every = [pair for batch in pairs for pair in batch]
    with torch.no_grad():
        prefix = model.encode([pair.prompt for pair in every])
        return reference_log_probs(model, prefix, [[pair.chosen, pair.rejected] for pair in every])


def test_steps_of_dpo_trainer(tmp_path: Path) -> None:
    """Every parameter trained, the reference a frozen copy."""
    model, frozen = tiny_model(), tiny_model()
    pairs = make_pairs(model)
    perturb(list(model.parameters()))
    twin = copy.deepcopy(model)
    trainer = dpo_trainer(model, Collator(frozen, pairs), tmp_path, ref_model=copy.deepcopy(frozen.thinker))
    compare_preference(trainer, twin, pairs, reference_scores(frozen, pairs))


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
    compare_preference(trainer, twin, pairs, reference_scores(twin, pairs))


CHAT_TEMPLATE = """{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{% if part.type == "video" %}<|vision_bos|><|VIDEO|><|vision_eos|>{% else %}{{ part.text }}{% endif %}\
{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def test_stock_collators_of_dpo_trainer_drop_the_clip(tmp_path: Path) -> None:
    """Given a video in a message, TRL reads it, keeps its placeholders, forgets its pixels, and trains.

    Sound is not even looked for. With the column `images` TRL takes its collator for pictures, which never reads the
    video; there transformers notices.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, frozen = tiny_model(), tiny_model()
    clip = make_clips()[0][0]
    processor = reference_processor(model)
    processor.chat_template = CHAT_TEMPLATE
    reads = []

    class Reader(type(processor.video_processor)):
        def __call__(self, clips: Any, **given: Any) -> Any:
            reads.append(clips)
            return super().__call__([clip.frames for _ in clips], **given)

    processor.video_processor.__class__ = Reader
    question = [
        {"type": "video", "video": "clip.mp4", "text": None},
        {"type": "text", "video": None, "text": INSTRUCTION},
    ]
    answers = {name: [[{"role": "assistant", "content": text}]] for name, text in (("chosen", "a"), ("rejected", "b"))}
    row = {"prompt": [[{"role": "user", "content": question}]], **answers}

    def trainer(dataset: Dataset) -> Any:
        return DPOTrainer(
            model.thinker,
            ref_model=frozen.thinker,
            args=DPOConfig(**trl_settings(tmp_path, 1)),
            train_dataset=dataset,
            processing_class=processor,
        )

    blind = trainer(Dataset.from_dict(row))
    assert reads
    (batch,) = blind.get_train_dataloader()
    assert set(batch) == {"input_ids", "attention_mask", "completion_mask"}
    assert ((batch["input_ids"] == model.ids.video).sum(dim=1) > 100).all()
    assert not (batch["input_ids"] == model.ids.audio).any()
    blind.train()
    losses = logged(blind, "loss")
    assert losses[-1] < losses[0]

    pictures = trainer(Dataset.from_dict({**row, "images": [[]]}))
    with pytest.raises(ValueError, match="no videos were passed"):
        next(iter(pictures.get_train_dataloader()))


def test_the_step_benchmark_compares_equal_steps(tmp_path: Path) -> None:
    out = tmp_path / "dpo_step.json"
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "dpo_step_trl.py"
    arguments = ["--seconds", "3", "--completion", "5", "--width", "64", "--layers", "2", "--repeats", "1"]
    subprocess.run([sys.executable, "-W", "ignore", script, *arguments, "--out", out], check=True, capture_output=True)
    report = json.loads(out.read_text(encoding="utf-8"))
    # Two rows of [prompt, 5 tokens] against one of [prompt, 5 tokens, 5 tokens].
    prompt = report["prompt_tokens"]
    assert report["token_ratio"] == pytest.approx((2 * prompt + 10) / (prompt + 10), abs=1e-3)
    assert report["largest_loss_difference"] < 1e-5
    assert report["losses"]["trl"][-1] < report["losses"]["trl"][0]
    assert set(report["results"]) == {"trl", "compact", "avocet", "stored"}
