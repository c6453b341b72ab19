"""One DPO step with LoRA on a video with sound: TRL's DPOTrainer against shared-prefix scoring.

    OMP_NUM_THREADS=1 python benchmarks/dpo_step_trl.py --out benchmarks/results/dpo_step_trl.json

Needs TRL. A Qwen2.5-Omni thinker with random weights, a decoder of about 6 M parameters and tiny towers; one prompt of
about 2,000 tokens, two answers of 100 (20:1). Both sides start from media that are read and laid out, and compute in
float32. The adapter is trained, the reference is the model without it.

    trl       a step of DPOTrainer: rows [prompt, chosen] and [prompt, rejected], each with its own media, run through
              towers and decoder once with and once without the adapter. TRL has no collator for sound; this is ours.
    compact   the same, with logits for the answers alone, as TRL computes them where it has Triton (GPUs); here it
              would compute them for the prompt too. Speeds are compared with this one.
    avocet    the same work, with the prompt encoded and read once for both answers
    stored    a step of `avocet train`, which scores the reference once, before the first step, and keeps the numbers
              (TRL can do so for text only)

Some steps that are not counted, then `--repeats` steps in turn. `cpu_seconds` is the processor time of all threads. The
losses of the first steps are compared: both sides train the same adapter in the same way. `peak_bytes` is the most that
a step added to the memory of the process (Linux).
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from avocet.models.lora import DEFAULT_TARGETS, add_lora
from avocet.models.prefix import reference_log_probs
from avocet.models.qwen_omni.config import QWEN25
from avocet.models.qwen_omni.modeling import QwenOmniModel
from avocet.models.qwen_omni.parity import INSTRUCTION, Case, make_clip
from avocet.models.qwen_omni.reference import reference_inputs, reference_processor
from avocet.models.qwen_omni.tiny import TINY_SETTINGS, tiny_model
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings
from avocet.training.finetune.config import PreferenceSettings
from avocet.training.finetune.engine import Engine
from avocet.training.finetune.module import Item, MicroBatch, PairTokens
from avocet.training.finetune.preference import GuidedDpo

BETA = 0.1
RANK, ALPHA = 16, 32
LEARNING_RATE = 1e-4
CLIP_NORM = 1.0
VOCABULARY = 2048


def build_model(width: int, layers: int) -> QwenOmniModel:
    """A tiny thinker with a larger decoder, whose heads are 64 wide."""
    small = tiny_model("qwen2.5-omni")
    config = copy.deepcopy(small.thinker.config)
    text = config.text_config
    text.hidden_size, text.intermediate_size = width, 4 * width
    text.num_attention_heads, text.num_key_value_heads = width // 64, max(width // 128, 1)
    text.num_hidden_layers, text.layer_types = layers, ["full_attention"] * layers
    text.rope_parameters = text.rope_parameters | {"mrope_section": [8, 12, 12]}
    text.vocab_size = VOCABULARY
    config.vision_config.out_hidden_size = config.audio_config.output_dim = width
    torch.manual_seed(0)
    thinker = Qwen2_5OmniThinkerForConditionalGeneration(config).float()
    return QwenOmniModel(thinker, small.tokenizer, QWEN25, TINY_SETTINGS).eval()


class TrlSide:
    """DPOTrainer's own loss, with the optimizer step of its `training_step`."""

    def __init__(self, model: QwenOmniModel, batch: dict[str, Any], folder: str) -> None:
        settings = trl.DPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
            remove_unused_columns=False,
            beta=BETA,
            report_to="none",
            save_strategy="no",
        )
        layers = rf".*language_model.*\.({'|'.join(DEFAULT_TARGETS)})"
        self.batch = batch
        self.trainer: Any = trl.DPOTrainer(
            model.thinker,
            args=settings,
            data_collator=lambda _: batch,
            train_dataset=Dataset.from_dict({"images": [0]}),
            processing_class=reference_processor(model),
            peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=layers),
        )
        named = self.trainer.model.named_parameters()
        self.adapter = {name.partition("language_model.")[2]: part for name, part in named if ".lora_" in name}
        self.optimizer = torch.optim.AdamW(self.adapter.values(), lr=LEARNING_RATE, weight_decay=0.0)

    def step(self) -> float:
        self.trainer.model.train()
        self.optimizer.zero_grad()
        loss = self.trainer.compute_loss(self.trainer.model, self.batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.adapter.values(), CLIP_NORM)
        self.optimizer.step()
        return float(loss)

    def compact_step(self) -> float:
        with mock.patch("trl.trainer.utils._use_triton", return_value=True):
            return self.step()


class AvocetSide:
    """The engine of `avocet train`, with the reference scored in each step or before the first."""

    def __init__(self, model: QwenOmniModel, item: Item) -> None:
        self.model, self.item = model, item
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        add_lora(model, rank=RANK, alpha=ALPHA)
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.adapter = {name.partition("language_model.")[2]: model.get_parameter(name) for name in trained}
        preference = PreferenceSettings(beta=BETA, variant="dpo")
        stage = FineTune(
            name="step",
            stage="dpo",
            model="random",
            sources=(DataSource(path="memory"),),
            trainable=(),
            optimizer=FineTuneOptimizer(learning_rate=LEARNING_RATE, clip_norm=CLIP_NORM),
            batch=BatchSettings(max_examples=1),
            preference=preference,
            lora=LoraSettings(rank=RANK, alpha=ALPHA),
            max_steps=1,
            precision="float32",
            gradient_checkpointing=False,
        )
        self.engine = Engine(stage, cpu=True)
        self.engine.prepare(model, trained, GuidedDpo(preference))
        self.stored = self.with_reference()

    def with_reference(self) -> Item:
        pair = self.item.pair
        assert pair is not None
        with torch.no_grad():
            prefix = self.model.encode([self.item.prompt])
            ((chosen, rejected),) = reference_log_probs(self.model, prefix, [[pair.chosen, pair.rejected]])
        sums = {"reference_chosen": float(chosen.sum()), "reference_rejected": float(rejected.sum())}
        tokens = PairTokens(chosen=pair.chosen, rejected=pair.rejected, **sums)
        return Item(index=0, task="caption", prompt=self.item.prompt, target=(), pair=tokens)

    def step(self) -> float:
        return self._step(self.with_reference())

    def stored_step(self) -> float:
        return self._step(self.stored)

    def _step(self, item: Item) -> float:
        return self.engine.step([MicroBatch(items=(item,))], 0, LEARNING_RATE).loss


def make_item(model: QwenOmniModel, seconds: float, completion: int) -> tuple[Item, dict[str, Any]]:
    """A pair of random answers to a clip of noise, and TRL's batch of it: the chosen row, then the rejected one."""
    clip = make_clip(Case(name="benchmark", seconds=seconds))
    prompt = model.prepare(clip, INSTRUCTION)
    # Above the tokenizer's own ids, where no placeholder is.
    ids = np.random.default_rng(0).integers(len(model.tokenizer), VOCABULARY, (2, completion)).tolist()
    pair = PairTokens(chosen=tuple(ids[0]), rejected=tuple(ids[1]))
    media = reference_inputs(model, clip, prompt)
    if media["input_ids"][0].tolist() != list(prompt.token_ids):
        raise RuntimeError("transformers' processor and the prompt disagree on the token ids")
    rows = torch.cat([media.pop("input_ids").expand(2, -1), torch.tensor(ids)], dim=1)
    del media["attention_mask"]
    batch = {
        "input_ids": rows,
        "attention_mask": torch.ones_like(rows),
        "completion_mask": F.pad(torch.ones(2, completion, dtype=torch.long), (len(prompt.token_ids), 0)),
        **{name: value if value is True else torch.cat([torch.as_tensor(value)] * 2) for name, value in media.items()},
    }
    return Item(index=0, task="caption", prompt=prompt, target=(), pair=pair), batch


def measure(steps: dict[str, Callable[[], float]], repeats: int) -> dict[str, dict[str, Any]]:
    """Each step `repeats` times, in turn."""
    found: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "cpu_seconds": []} for name in steps}
    peaks: dict[str, list[int]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the last step freed goes back
            Path("/proc/self/clear_refs").write_text("5")  # and the peak starts anew from here
            before = _status_bytes("VmRSS")
            began, began_cpu = time.perf_counter(), time.process_time()
            step()
            found[name]["seconds"].append(time.perf_counter() - began)
            found[name]["cpu_seconds"].append(time.process_time() - began_cpu)
            peaks[name].append(_status_bytes("VmHWM") - before)
    results: dict[str, dict[str, Any]] = {}
    for name, figures in found.items():
        medians = {f"median_{key}": round(statistics.median(values), 4) for key, values in figures.items()}
        results[name] = medians | {"all_seconds": [round(value, 4) for value in figures["seconds"]]}
        results[name]["peak_bytes"] = max(peaks[name])
    for result in results.values():
        for key in ("median_seconds", "median_cpu_seconds"):
            result[f"speedup_of_{key}"] = round(results["compact"][key] / result[key], 3)
    return results


def _status_bytes(field: str) -> int:
    """A size in kB of this process, as Linux keeps it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def compare_losses(theirs: TrlSide, ours: AvocetSide, num_steps: int = 3) -> dict[str, list[float]]:
    """Losses of steps from the same adapter, which is not the identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in ours.adapter.items():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
            theirs.adapter[name].copy_(parameter)
    return {
        "trl": [theirs.step() for _ in range(num_steps)],
        "avocet": [ours.step() for _ in range(num_steps)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=58.0, help="of the clip; about 31 prompt tokens each")
    parser.add_argument("--completion", type=int, default=100)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=5)
    options = parser.parse_args()
    model, twin = (build_model(options.width, options.layers) for _ in range(2))
    item, batch = make_item(model, options.seconds, options.completion)
    load = [round(value, 2) for value in os.getloadavg()]
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = TrlSide(model, batch, folder), AvocetSide(twin, item)
    losses = compare_losses(theirs, ours)
    theirs.compact_step()
    ours.stored_step()
    steps = {"trl": theirs.step, "compact": theirs.compact_step, "avocet": ours.step, "stored": ours.stored_step}
    results = measure(steps, options.repeats)
    prompt = len(item.prompt.token_ids)
    report = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": " ".join(["python benchmarks/dpo_step_trl.py", *sys.argv[1:]]),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "load_before": load,
        },
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__},
        "decoder_parameters": sum(
            part.numel() for name, part in twin.decoder.named_parameters() if ".lora_" not in name
        ),
        "prompt_tokens": prompt,
        "completion_tokens": options.completion,
        "token_ratio": round(2 * (prompt + options.completion) / (prompt + 2 * options.completion), 3),
        "losses": losses,
        "largest_loss_difference": max(abs(a - b) for a, b in zip(losses["trl"], losses["avocet"], strict=True)),
        "results": results,
    }
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
