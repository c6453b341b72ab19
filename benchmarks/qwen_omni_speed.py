"""Speed and memory of Qwen2.5-Omni at its true size with random weights, against transformers' own path.

    python benchmarks/qwen_omni_speed.py --out benchmarks/results/qwen_omni_speed.json  (a GPU with 40 GB or more)
    python benchmarks/qwen_omni_speed.py --size tiny                      (anywhere, to try the script)

Nothing is downloaded: the model is built on the device. One clip of 60 s at 2 frames per second fills AVoCaDO's budget
of 25,600 visual tokens. Both paths start from the decoded clip and answer greedily with the same number of tokens; the
second of two runs is reported. Peak memory counts weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from avocet.models.qwen_omni.config import QWEN25, SETTINGS
from avocet.models.qwen_omni.modeling import QwenOmniModel
from avocet.models.qwen_omni.parity import INSTRUCTION, Case, make_clip
from avocet.models.qwen_omni.reference import reference_inputs
from avocet.models.qwen_omni.tiny import TINY_SETTINGS, tiny_model, tiny_tokenizer
from avocet.records import Clip, Sampling

VISION_7B = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
TEXT_7B = {
    "vocab_size": 152064,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": False,
}
"""Sizes of Qwen2.5-Omni-7B where they differ from the defaults of transformers' config classes."""


def build_7b(device: str, attention: str) -> QwenOmniModel:
    """Random bfloat16 weights, made on the device."""
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    tokenizer = tiny_tokenizer("qwen2.5-omni")
    small = tiny_model("qwen2.5-omni").thinker.config
    names = [name for name in small.to_dict() if name.endswith(("_token_id", "_token_index")) and "user" not in name]
    config = Qwen2_5OmniThinkerConfig(
        text_config=TEXT_7B | {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id},
        vision_config=VISION_7B,
        tie_word_embeddings=False,
        **{name: getattr(small, name) for name in names},
    )
    config._attn_implementation = attention
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            thinker = Qwen2_5OmniThinkerForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    return QwenOmniModel(thinker, tokenizer, QWEN25, SETTINGS["avocado"]).eval()


def measure(run: Callable[[], Any], device: str) -> tuple[Any, float, float | None]:
    """Result, seconds and peak memory in GiB (None without a GPU) of the second of two runs."""
    run()
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    result = run()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return result, seconds, torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None


@torch.no_grad()
def run_avocet(model: QwenOmniModel, clip: Clip, device: str, num_tokens: int, num_samples: int) -> dict[str, Any]:
    sampling = Sampling(max_new_tokens=num_tokens, repetition_guard="off")
    one = dataclasses.replace(sampling, max_new_tokens=1)
    hot = dataclasses.replace(sampling, temperature=1.0)
    prompt, prepare, _ = measure(lambda: model.prepare(clip, INSTRUCTION), device)
    prefix, encode, encode_peak = measure(lambda: model.encode([prompt]), device)
    _, prefill, prefill_peak = measure(lambda: model.generate(prefix, 1, one), device)
    answer, total, peak = measure(lambda: model.generate(prefix, 1, sampling), device)
    samples, many, many_peak = measure(lambda: model.generate(prefix, num_samples, hot), device)
    tokens = answer[0][0].token_ids
    sampled = sum(len(sample.token_ids) for sample in samples[0])
    return {
        "prepare_seconds": prepare,
        "encode_seconds": encode,
        "prefill_seconds": prefill,
        "prefill_tokens_per_second": len(prompt.token_ids) / prefill,
        "decode_tokens_per_second": (len(tokens) - 1) / (total - prefill),
        "samples_tokens_per_second": sampled / many,
        "peak_gib": max(encode_peak or 0, prefill_peak or 0, peak or 0) or None,
        "samples_peak_gib": many_peak,
        "prompt_tokens": len(prompt.token_ids),
        "visual_tokens": prompt.layout.num_visual_tokens,
        "audio_tokens": prompt.layout.num_audio_tokens,
        "answer": list(tokens),
    }


@torch.no_grad()
def run_transformers(
    model: QwenOmniModel, clip: Clip, device: str, num_tokens: int, num_samples: int
) -> dict[str, Any]:
    prompt = model.prepare(clip, INSTRUCTION)
    inputs, prepare, _ = measure(lambda: reference_inputs(model, clip, prompt), device)
    length = inputs["input_ids"].shape[1]

    def generate(count: int, **settings: Any) -> Any:
        limits = {"max_new_tokens": count, "min_new_tokens": count, "use_audio_in_video": True}
        return model.thinker.generate(**(inputs | limits | settings))

    _, first, first_peak = measure(lambda: generate(1, do_sample=False), device)
    answer, total, peak = measure(lambda: generate(num_tokens, do_sample=False), device)
    samples, many, many_peak = measure(
        lambda: generate(num_tokens, do_sample=True, num_return_sequences=num_samples), device
    )
    return {
        "prepare_seconds": prepare,
        "encode_and_prefill_seconds": first,
        "decode_tokens_per_second": (num_tokens - 1) / (total - first),
        "samples_tokens_per_second": samples[:, length:].numel() / many,
        "peak_gib": max(first_peak or 0, peak or 0) or None,
        "samples_peak_gib": many_peak,
        "prompt_tokens": length,
        "answer": answer[0, length:].tolist(),
    }


def agreement(ours: list[int], theirs: list[int]) -> int:
    """How many first tokens are the same."""
    pairs = zip(ours, theirs, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("7b", "tiny"), default="7b")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--num-tokens", type=int, default=256)
    parser.add_argument("--num-samples", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    tiny = arguments.size == "tiny"
    model = tiny_model("qwen2.5-omni").to(arguments.device) if tiny else build_7b(arguments.device, arguments.attention)
    clip = make_clip(Case(name="benchmark", seconds=arguments.seconds, max_frames=model.max_frames))
    if not tiny:
        clip = dataclasses.replace(clip, frames=enlarge(clip, 720, 1280))
    sizes = (arguments.device, arguments.num_tokens, arguments.num_samples)
    ours = run_avocet(model, clip, *sizes)
    theirs = run_transformers(model, clip, *sizes)
    settings = TINY_SETTINGS if tiny else SETTINGS["avocado"]
    result = {
        "what": f"Qwen2.5-Omni {arguments.size}, random weights, one clip of {arguments.seconds:g} s",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.processor(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "attention": arguments.attention,
        "max_video_tokens": settings.max_video_tokens,
        "num_tokens": arguments.num_tokens,
        "num_samples": arguments.num_samples,
        "same_first_tokens": agreement(ours.pop("answer"), theirs.pop("answer")),
        "avocet": ours,
        "transformers": theirs,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


def enlarge(clip: Clip, height: int, width: int) -> Any:
    """The same noise as larger frames, so that resizing has something to do."""
    from avocet.models.patches import resize_frames

    return resize_frames(clip.frames, height, width).numpy()


if __name__ == "__main__":
    main()
