"""Sampling a group of captions: one prefill for all against transformers' `generate` with `num_return_sequences`.

    OMP_NUM_THREADS=1 python benchmarks/group_sampling.py --out benchmarks/results/group_sampling.json

A Qwen2 decoder of about 6 M parameters with random weights, one prompt of 2,000 embedded tokens, 8 completions of 100
tokens at temperature 1 (nothing ends one early). `generate` repeats the prompt for each sequence before its prefill.
After a first run that is not counted, `--repeats` runs of each in turn; medians of wall and of processor time. Peak
memory is the largest resident size of a process of its own minus the size before.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

METHODS = ("transformers", "avocet")


class Workload:
    """A decoder, a prompt, and the two ways to sample after it."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM

        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=2048,
            hidden_size=options.width,
            intermediate_size=4 * options.width,
            num_hidden_layers=options.layers,
            num_attention_heads=options.width // 64,
            num_key_value_heads=max(options.width // 128, 1),
            max_position_embeddings=65536,
            tie_word_embeddings=False,
        )
        self.options = options
        self.decoder = Qwen2ForCausalLM(config).eval()
        self.embeddings = torch.randn(1, options.prompt, options.width)

    def run(self, method: str) -> int:
        """Sample the group; the number of tokens."""
        import torch

        from avocet.models.decoder import Decoder
        from avocet.models.generation import sample_completions
        from avocet.models.interface import Prefix
        from avocet.records import Sampling

        options = self.options
        if method == "transformers":
            with torch.no_grad():
                found = self.decoder.generate(
                    inputs_embeds=self.embeddings,
                    attention_mask=torch.ones(1, options.prompt, dtype=torch.long),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    num_return_sequences=options.group,
                    min_new_tokens=options.completion,
                    max_new_tokens=options.completion,
                    pad_token_id=0,
                )
            return int(found.numel())
        groups = sample_completions(
            Decoder(backbone=self.decoder.model, lm_head=self.decoder.lm_head),
            Prefix(clip_ids=("clip",), embeddings=self.embeddings, lengths=torch.tensor([options.prompt])),
            options.group,
            Sampling(temperature=1.0, max_new_tokens=options.completion, repetition_guard="off"),
            stop_ids=(),
            pad_id=0,
            decode=lambda ids: "",
        )
        return sum(len(one.token_ids) for one in groups[0])


def status_bytes(name: str) -> int:
    """A size of this process, as Linux counts it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def peak_of(method: str, options: argparse.Namespace) -> int:
    """Bytes of a process that samples once."""
    command = [sys.executable, __file__, "--peak", method]
    for name in ("prompt", "completion", "group", "width", "layers"):
        command += [f"--{name}", str(getattr(options, name))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603  # this file


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times and memory of both."""
    workload = Workload(options)
    expected = options.group * options.completion
    times: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    for number in range(options.repeats + 1):
        for method in METHODS:
            began, began_cpu = time.perf_counter(), time.process_time()
            if workload.run(method) != expected:
                raise RuntimeError(f"{method} did not sample {expected} tokens")
            if number:
                times[method].append((time.perf_counter() - began, time.process_time() - began_cpu))
    results: dict[str, Any] = {}
    for method, pairs in times.items():
        results[method] = {
            "median_seconds": statistics.median(wall for wall, _ in pairs),
            "median_cpu_seconds": statistics.median(cpu for _, cpu in pairs),
            "all_seconds": [round(wall, 3) for wall, _ in pairs],
            "peak_bytes": peak_of(method, options),
        }
    for key in ("median_seconds", "median_cpu_seconds", "peak_bytes"):
        results["avocet"][f"ratio_of_{key}"] = round(results["transformers"][key] / results["avocet"][key], 3)
    return results


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", choices=METHODS, help="internal: sample once and print the memory it took")
    sizes = {"prompt": 2000, "completion": 100, "group": 8, "width": 256, "layers": 5}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    if options.peak:
        workload = Workload(options)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, where the size is now
        before = status_bytes("VmRSS")
        workload.run(options.peak)
        print(max(status_bytes("VmHWM") - before, 1))
        return
    load = os.getloadavg()
    report = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python benchmarks/group_sampling.py " + " ".join(sys.argv[1:]),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
            "load_before": [round(value, 2) for value in load],
        },
        **{name: getattr(options, name) for name in sizes},
        "repeats": options.repeats,
        "results": measure(options),
    }
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
