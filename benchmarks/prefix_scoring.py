"""Shared-prefix scoring against separate forwards: time and peak memory of a preference step and of a GRPO group.

    OMP_NUM_THREADS=2 python benchmarks/prefix_scoring.py --out benchmarks/results/prefix_scoring.json

A Qwen2 decoder of about 5 M parameters with random weights and a LoRA adapter, one prompt of 2,000 tokens, completions
of 100 (20:1). A step is what training does: reference log-probabilities (adapter off, no gradients), the policy's
forward and the backward pass. "preference": 3 completions (chosen, rejected, ground truth); "group": 8.

Each method runs in a process of its own: a first step that is not counted, then `--repeats` steps in turn with the
other methods (round after round, so that a busy machine disturbs all alike). The median is reported, with all times,
and the processor time of all threads, which a busy machine disturbs less.
Peak memory is the largest resident size during a step minus the size before the first. Log-probabilities and gradients
of the methods are compared. `--device cuda` measures a GPU, there with `--kernel flex` too.
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

METHODS = ("plain", "batched", "packed", "cached")
"""One forward per completion; one batch of [prompt, completion] rows, as TRL's trainers do; shared in two ways."""
WORKLOADS = {"preference": 3, "group": 8}
_STATUS = Path("/proc/self/status")


def _status_bytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} does not say {name}; this benchmark needs Linux")


class Worker:
    """The decoder and one workload, in its own process."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM

        from avocet.models.interface import Prefix
        from avocet.models.lora import add_lora

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
        self.model: Any = torch.nn.Module()
        self.model.decoder = Qwen2ForCausalLM(config).to(options.device, getattr(torch, options.dtype))
        self.num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        parameters = add_lora(self.model, rank=16, alpha=32)
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(torch.randn(parameter.shape) * 0.02)
        self.parameters = parameters
        self.model.train()
        if options.checkpointing:
            backbone = self.model.decoder.model
            getattr(backbone, "activation_checkpointing_enable", backbone.gradient_checkpointing_enable)()
        embeddings = torch.randn(1, options.prompt, options.width).to(options.device, getattr(torch, options.dtype))
        # As from an aligner in training.
        self.embeddings = embeddings.requires_grad_()
        self.prefix = Prefix(
            clip_ids=("clip",), embeddings=self.embeddings, lengths=torch.tensor([options.prompt], dtype=torch.long)
        )
        count = WORKLOADS[options.workload]
        self.completions = [torch.randint(0, 2048, (count, options.completion)).tolist()]

    def step(self, method: str) -> dict[str, Any]:
        """One preference step; seconds and numbers to compare."""
        import torch

        from avocet.models.decoder import Decoder
        from avocet.models.lora import lora_disabled

        decoder = Decoder(backbone=self.model.decoder.model, lm_head=self.model.decoder.lm_head)
        for parameter in (self.embeddings, *self.parameters):
            parameter.grad = None
        self._wait()
        start, start_cpu = time.perf_counter(), time.process_time()
        with torch.no_grad(), lora_disabled(self.model):
            reference = self._score(decoder, method)
        policy = self._score(decoder, method)
        weights = range(1, len(policy) + 1)
        scores = zip(weights, policy, reference, strict=True)
        margin = torch.stack([weight * (score - base).mean() for weight, score, base in scores])
        loss = -torch.nn.functional.logsigmoid(margin).mean()
        loss.backward()
        self._wait()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        gradients = torch.cat([parameter.grad.flatten().float() for parameter in (self.embeddings, *self.parameters)])
        return {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "peak_bytes": self._peak(),
            "loss": loss.item(),
            "gradient_norm": gradients.norm().item(),
            "gradient_sum": gradients.abs().double().sum().item(),
        }

    def _score(self, decoder: Any, method: str) -> list[Any]:
        from avocet.models.prefix import score_shared
        from avocet.models.scoring import score_completions

        if method == "batched":
            texts = self.completions[0]
            rows = score_completions(decoder, self.prefix.select([0] * len(texts)), [[text] for text in texts])
            return [row[0] for row in rows]
        settings: dict[str, Any] = {"method": method, "kernel": self.options.kernel}
        return score_shared(decoder, self.prefix, self.completions, **settings)[0]

    def reset_peak(self) -> None:
        """The peak starts anew from here."""
        if self.options.device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _status_bytes("VmRSS")

    def _peak(self) -> int:
        if self.options.device == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() - self.before
        return _status_bytes("VmHWM") - self.before

    def _wait(self) -> None:
        if self.options.device == "cuda":
            import torch

            torch.cuda.synchronize()


def serve(options: argparse.Namespace) -> None:
    """A worker process: a line in, a step, a line of JSON out."""
    worker = Worker(options)
    worker.reset_peak()
    worker.step(options.method)
    print(json.dumps({"num_parameters": worker.num_parameters}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(worker.step(options.method)), flush=True)


def measure(workload: str, options: argparse.Namespace) -> dict[str, Any]:
    """All methods of one workload, their steps taking turns."""
    passed = [f"--{name}={getattr(options, name)}" for name in ("prompt", "completion", "width", "layers")]
    passed += [f"--{name}={getattr(options, name)}" for name in ("device", "dtype", "kernel")]
    passed += ["--checkpointing"] * options.checkpointing
    methods = [method for method in METHODS if not (options.checkpointing and method == "cached")]
    workers = {}
    for method in methods:
        command = [sys.executable, __file__, f"--workload={workload}", f"--method={method}", *passed]
        workers[method] = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        ready = _answer(workers[method])
    steps: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for _ in range(options.repeats):
        for method, worker in workers.items():
            assert worker.stdin is not None
            worker.stdin.write("step\n")
            worker.stdin.flush()
            steps[method].append(_answer(worker))
    for worker in workers.values():
        worker.communicate()
    results = {method: _summary(measured) for method, measured in steps.items()}
    plain = results["plain"]
    for method, result in results.items():
        result["speedup"] = round(plain["median_seconds"] / result["median_seconds"], 3)
        result["speedup_of_fastest"] = round(plain["fastest_seconds"] / result["fastest_seconds"], 3)
        result["speedup_of_cpu_seconds"] = round(plain["median_cpu_seconds"] / result["median_cpu_seconds"], 3)
        result["peak_ratio"] = round(plain["peak_bytes"] / result["peak_bytes"], 3)
        for name in ("loss", "gradient_norm", "gradient_sum"):
            difference = abs(steps[method][0][name] - steps["plain"][0][name]) / abs(steps["plain"][0][name])
            result[f"{name}_relative_difference"] = difference
    count = WORKLOADS[workload]
    return {
        "num_completions": count,
        "num_parameters": ready["num_parameters"],
        "token_ratio": round(
            count * (options.prompt + options.completion) / (options.prompt + count * options.completion), 3
        ),
        "results": results,
    }


def _answer(worker: subprocess.Popen[str]) -> dict[str, Any]:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker ended with code {worker.wait()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _summary(steps: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [step["seconds"] for step in steps]
    return {
        "median_seconds": statistics.median(seconds),
        "fastest_seconds": min(seconds),
        "median_cpu_seconds": statistics.median(step["cpu_seconds"] for step in steps),
        "slowest_over_fastest": round(max(seconds) / min(seconds), 3),
        "all_seconds": [round(value, 4) for value in seconds],
        "peak_bytes": max(step["peak_bytes"] for step in steps),
        "loss": steps[0]["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workload", choices=WORKLOADS)
    parser.add_argument("--method", choices=METHODS, help="internal: be a worker of this method")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--kernel", choices=("split", "flex"), default="split")
    parser.add_argument("--checkpointing", action="store_true")
    for name, value in (("prompt", 2000), ("completion", 100), ("width", 256), ("layers", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    if options.method:
        serve(options)
        return
    report = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python " + " ".join(["benchmarks/prefix_scoring.py", *sys.argv[1:]]),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
            "load_before": [round(value, 2) for value in os.getloadavg()],
        },
        **{
            name: getattr(options, name)
            for name in ("prompt", "completion", "device", "dtype", "kernel", "checkpointing", "repeats")
        },
        "workloads": {
            workload: measure(workload, options)
            for workload in ([options.workload] if options.workload else list(WORKLOADS))
        },
    }
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
