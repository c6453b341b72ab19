"""Peak memory of one SFT step: logits of target tokens in chunks, against the logits of the whole sequence.

    python benchmarks/sft_memory.py --out benchmarks/results/sft_memory.json

A prompt of 2,000 tokens, a target of 200, a vocabulary of 150,000, a small decoder of the real class on the CPU in
float32: what the logits take dominates, as it does on a GPU. Each method runs in a process of its own; its peak is the
largest resident size during forward and backward minus the size before. The losses are compared too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

METHODS = ("chunked", "targets only", "naive")
_STATUS = Path("/proc/self/status")


def _status_bytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} does not say {name}; this benchmark needs Linux")


def measure(method: str, prompt: int, target: int, vocabulary: int, width: int, chunk: int) -> dict[str, Any]:
    """One step in this process."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from avocet.models.decoder import Decoder
    from avocet.models.interface import Prefix
    from avocet.models.scoring import token_log_probs
    from avocet.training.finetune.losses import target_states

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config).train()
    model.requires_grad_(False)
    model.model.layers.requires_grad_(True)  # as in LoRA training: table and output layer are frozen
    embeddings = torch.randn(1, prompt, width)
    tokens = torch.randint(0, vocabulary, (target,)).tolist()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _status_bytes("VmRSS")
    if method == "naive":
        ids = torch.tensor([tokens])
        inputs = torch.cat([embeddings, model.get_input_embeddings()(ids)], dim=1)
        labels = torch.cat([torch.full((1, prompt), -100), ids], dim=1)
        loss = model(inputs_embeds=inputs, labels=labels).loss
    else:
        decoder = Decoder(backbone=model.model, lm_head=model.lm_head)
        prefix = Prefix(clip_ids=("clip",), embeddings=embeddings, lengths=torch.tensor([prompt]))
        hidden, targets = target_states(decoder, prefix, [tokens])
        size = chunk if method == "chunked" else target
        loss = -token_log_probs(decoder, hidden, targets, size).mean()
    loss.backward()
    return {"loss": loss.item(), "peak_bytes": _status_bytes("VmHWM") - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--method", choices=METHODS, help="run only this one, here; print JSON")
    for name, value in (("prompt", 2000), ("target", 200), ("vocabulary", 150_000), ("width", 64), ("chunk", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    sizes = {name: getattr(arguments, name) for name in ("prompt", "target", "vocabulary", "width", "chunk")}
    if arguments.method:
        print(json.dumps(measure(arguments.method, **sizes)))
        return
    results = {}
    for method in METHODS:
        options = [f"--{name}={value}" for name, value in sizes.items()]
        command = [sys.executable, __file__, "--method", method, *options]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
        results[method] = json.loads(output)
    report = {
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/sft_memory.py --out benchmarks/results/sft_memory.json",
        "machine": {"processor": platform.processor() or platform.machine(), "python": platform.python_version()},
        **sizes,
        "results": results,
        "naive_over_chunked": results["naive"]["peak_bytes"] / results["chunked"]["peak_bytes"],
    }
    print(json.dumps(report, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
