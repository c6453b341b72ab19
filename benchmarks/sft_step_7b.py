"""One SFT step with LoRA of Qwen2.5-Omni at its true 7B size, in a long context: speed, memory, share of the hardware.

    python benchmarks/sft_step_7b.py --out benchmarks/results/sft_step_7b.json       (a GPU with 80 GB or more)
    python benchmarks/sft_step_7b.py --tiny                                          (a CPU, in seconds)

NOT RUN YET AT 7B: no GPU was at hand when this was written. `--tiny` runs the same code and is tested.

The weights are random, made on the device in bfloat16; nothing is downloaded and no media file is decoded (PyAV is not
needed). One clip of noise fills AVoCaDO's budget of 25,600 visual tokens; with its sound and the instruction the prompt
has about 28,000 tokens, the target has 1,400. The step is `Engine.step`: towers, decoder, loss over target tokens,
backward, clipping, AdamW. What is trained: LoRA on q, k, v of rank 128 and both aligners, in float32, computed under
bfloat16 autocast. Each run takes one step that is not measured and `--steps` that are.

`share of matmul rate` = `needed_tflop` / seconds / (rate of a large square bfloat16 product, measured here).
`needed_tflop` counts multiplications and additions that any implementation must do: in the decoder's layers 2 per
weight and token forward, 2 for the gradient of the input, 2 more for weights that are trained; half of the square of
attention (it is causal), backward twice the forward; the output layer on target tokens; the towers forward, as PyTorch
counts them. What gradient checkpointing does again is not in it.

Without gradient checkpointing the step may not fit; that is recorded, and the clip is halved until it does.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from qwen_omni_speed import build_7b, enlarge
from torch.utils.flop_counter import FlopCounterMode

from avocet.models.qwen_omni.modeling import QwenOmniModel
from avocet.models.qwen_omni.parity import INSTRUCTION, Case, make_clip
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings
from avocet.training.finetune.engine import Engine
from avocet.training.finetune.module import Item, MicroBatch, backbone_of
from avocet.training.finetune.parts import decoder_layers, set_modes, set_trainable

TARGETS = ("q_proj", "k_proj", "v_proj")
TRAINABLE = ("visual_aligner", "audio_aligner")
SECONDS_7B = 100.0
"""200 frames in 100 patches of 252 visual tokens, 2,500 tokens of sound: with the text 27,863 tokens."""
FRAME_SIZE_7B = (360, 640)
"""Large enough that the budget decides how many tokens a patch has."""


def matmul_rate(device: str, size: int, repeats: int = 10) -> float:
    """TFLOP/s of size x size bfloat16 products of random numbers, the mean of `repeats` after three."""
    left, right = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        left @ right
    wait(device)
    return 2 * size**3 * repeats / (time.perf_counter() - began) / 1e12


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def make_item(model: QwenOmniModel, seconds: float, target_tokens: int, size: tuple[int, int] | None) -> Item:
    """A prompt of one clip of noise (of frames of (height, width), None: small ones), and a target of random words."""
    clip = make_clip(Case(name="benchmark", seconds=seconds, max_frames=model.max_frames))
    if size is not None:
        clip = dataclasses.replace(clip, frames=enlarge(clip, *size))
    ids = np.random.default_rng(0).integers(0, model.tokenizer.vocab_size // 2, target_tokens - 1)
    target = (*map(int, ids), model.stop_ids[0])
    return Item(index=0, task="caption", prompt=model.prepare(clip, INSTRUCTION), target=target)


def make_config(arguments: argparse.Namespace, checkpointing: bool) -> FineTune:
    return FineTune(
        name="step",
        stage="sft",
        model="random",
        sources=(DataSource(path="memory"),),
        trainable=TRAINABLE,
        lora=LoraSettings(rank=arguments.rank, alpha=2 * arguments.rank, dropout=0.05, targets=TARGETS),
        optimizer=FineTuneOptimizer(learning_rate=2e-5),
        batch=BatchSettings(max_examples=1),
        max_steps=1 + arguments.steps,
        precision="bfloat16",
        gradient_checkpointing=checkpointing,
    )


@torch.no_grad()
def towers_tflop(model: QwenOmniModel, item: Item) -> float:
    """Forward pass of both towers over the clip, as PyTorch counts it."""
    with FlopCounterMode(display=False) as counter, torch.autocast(model.device.type, torch.bfloat16):
        model.encode([item.prompt])
    return float(counter.get_total_flops()) / 1e12


def decoder_tflop(model: QwenOmniModel, item: Item) -> float:
    """What the decoder needs for one step; see the module's text."""
    backbone: Any = backbone_of(model)
    tokens, targets = len(item.prompt.token_ids) + len(item.target), len(item.target)
    total = 0.0
    for layer in decoder_layers(backbone):
        for parameter in layer.parameters():
            if parameter.ndim == 2:
                total += tokens * parameter.numel() * (6 if parameter.requires_grad else 4)
        width = layer.self_attn.head_dim * backbone.config.num_attention_heads
        # Two products of tokens x tokens x width, 2 operations each, half of them needed; backward four such products.
        total += (2 + 4) * 2 * tokens**2 * width / 2
    total += 4 * targets * model.thinker.lm_head.weight.numel()
    return total / 1e12


def measure(arguments: argparse.Namespace, seconds: float, checkpointing: bool, rate: float) -> dict[str, Any] | None:
    """One run; None when it does not fit into the device's memory."""
    result = None
    try:
        result = run(arguments, seconds, checkpointing, rate)
    except torch.OutOfMemoryError:
        print(f"out of memory: {seconds:g} s, gradient checkpointing {checkpointing}", flush=True)
    # Outside of the handler, whose traceback holds the tensors.
    gc.collect()
    if arguments.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return result


def run(arguments: argparse.Namespace, seconds: float, checkpointing: bool, rate: float) -> dict[str, Any]:
    on_gpu = arguments.device.startswith("cuda")
    config = make_config(arguments, checkpointing)
    engine = Engine(config, cpu=not on_gpu)
    torch.manual_seed(0)
    model = tiny_model("qwen2.5-omni") if arguments.tiny else build_7b(arguments.device, arguments.attention)
    names = set_trainable(model, config.trainable, config.lora)
    engine.prepare(model, names)
    set_modes(model, backbone_of(model))
    item = make_item(model, seconds, arguments.target_tokens, None if arguments.tiny else FRAME_SIZE_7B)
    batches = (MicroBatch(items=(item,)),)
    weights = torch.cuda.memory_allocated() / 2**30 if on_gpu else None
    engine.step(batches, 0, config.optimizer.learning_rate)
    wait(arguments.device)
    began = time.perf_counter()
    results = [engine.step(batches, 1 + step, config.optimizer.learning_rate) for step in range(arguments.steps)]
    wait(arguments.device)
    taken = (time.perf_counter() - began) / arguments.steps
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
    needed = {"decoder_and_output": decoder_tflop(model, item), "towers": towers_tflop(model, item)}
    layout = item.prompt.layout
    return {
        "gradient_checkpointing": checkpointing,
        "clip_seconds": seconds,
        "prompt_tokens": len(item.prompt.token_ids),
        "visual_tokens": layout.num_visual_tokens,
        "audio_tokens": layout.num_audio_tokens,
        "target_tokens": len(item.target),
        "trained_parameters": sum(model.get_parameter(name).numel() for name in names),
        "seconds_per_step": taken,
        "tokens_per_second": results[-1].num_tokens / taken,
        "gib_before_the_first_step": weights,
        "peak_gib": peak,
        "needed_tflop": needed,
        "share_of_matmul_rate": sum(needed.values()) / taken / rate,
        "losses": [result.loss for result in results],
        "gradient_norms": [result.gradient_norm for result in results],
        "refused_steps": sum(result.refused for result in results),
    }


def all_runs(arguments: argparse.Namespace, rate: float) -> list[dict[str, Any]]:
    """With gradient checkpointing, then without; on a clip that fits both where the whole one does not."""
    runs = []
    for checkpointing in (True, False):
        seconds = arguments.seconds
        while (result := measure(arguments, seconds, checkpointing, rate)) is None:
            runs.append({"gradient_checkpointing": checkpointing, "clip_seconds": seconds, "out_of_memory": True})
            seconds /= 2
            if seconds < 1:
                return runs
        runs.append(result)
    if seconds < arguments.seconds and (again := measure(arguments, seconds, True, rate)) is not None:
        runs.append(again)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, clip and target on the CPU")
    parser.add_argument("--seconds", type=float, help=f"of the clip; {SECONDS_7B:g} if not given, 4 with --tiny")
    parser.add_argument("--target-tokens", type=int, help="1400 if not given, 48 with --tiny")
    parser.add_argument("--rank", type=int, help="of LoRA; 128 if not given, 4 with --tiny")
    parser.add_argument("--steps", type=int, default=3, help="measured steps")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.device = "cpu"
    sizes = (4.0, 48, 4, 256) if arguments.tiny else (SECONDS_7B, 1400, 128, 8192)
    arguments.seconds = arguments.seconds or sizes[0]
    arguments.target_tokens = arguments.target_tokens or sizes[1]
    arguments.rank = arguments.rank or sizes[2]
    rate = matmul_rate(arguments.device, sizes[3])
    report = {
        "what": f"one SFT step of Qwen2.5-Omni {'tiny' if arguments.tiny else '7B'}, random weights, LoRA on q, k, v",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "attention": arguments.attention,
        "rank": arguments.rank,
        "measured_steps": arguments.steps,
        "matmul": {"size": sizes[3], "dtype": "bfloat16", "tflop_per_second": rate},
        "runs": all_runs(arguments, rate),
    }
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
