"""Pages that quote measured or computed tables are up to date, and benchmark scripts run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_layout_table_of_the_docs_is_what_the_rules_give():
    page = (ROOT / "docs" / "qwen_omni.md").read_text(encoding="utf-8")
    for line in load_script("layout_drift").rows():
        assert line in page


def test_the_speed_benchmark_runs_on_a_tiny_model(tmp_path):
    out = tmp_path / "speed.json"
    arguments = ["--size", "tiny", "--device", "cpu", "--seconds", "4", "--num-tokens", "8", "--num-samples", "2"]
    script = ROOT / "benchmarks" / "qwen_omni_speed.py"
    subprocess.run([sys.executable, "-W", "ignore", script, *arguments, "--out", out], check=True, capture_output=True)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["same_first_tokens"] == 8
    # 4 s at 2 frames per second: 4 temporal patches of 2 x 3 tokens, 25 audio tokens per second.
    assert result["avocet"]["visual_tokens"] == 24
    assert result["avocet"]["audio_tokens"] == 100
    assert result["avocet"]["prompt_tokens"] == result["transformers"]["prompt_tokens"]


def test_the_drifts_of_the_released_layout_in_the_docs():
    import numpy as np

    from avocet.models.salmonn2.released_layout import sync_drift_seconds
    from avocet.models.salmonn2.released_v1_layout import v1_layout

    drifts = {}
    for seconds in (10, 45, 65, 110, 30, 90):
        times = np.arange(seconds, dtype=float)
        released = v1_layout("released", times, 182, seconds * 16_000, float(seconds))
        drifts[seconds] = sync_drift_seconds(released.plan, seconds)
    page = " ".join((ROOT / "docs" / "salmonn2.md").read_text(encoding="utf-8").split())
    assert f"{drifts[10]} s in a clip of 10 s, {drifts[45]} s at 45 s, {drifts[65]} s at 65 s," in page
    assert f"{drifts[110]} s at 110 s, nothing at 30 and 90 s" in page
    assert drifts[30] == drifts[90] == 0


def test_the_sft_step_benchmark_runs_on_a_tiny_model(tmp_path):
    """With and without gradient checkpointing, which changes no loss."""
    out = tmp_path / "step.json"
    script = ROOT / "benchmarks" / "sft_step_7b.py"
    arguments = ["--tiny", "--steps", "2", "--target-tokens", "20"]
    subprocess.run([sys.executable, "-W", "ignore", script, *arguments, "--out", out], check=True, capture_output=True)
    result = json.loads(out.read_text(encoding="utf-8"))
    first, second = result["runs"]
    assert [first["gradient_checkpointing"], second["gradient_checkpointing"]] == [True, False]
    assert first["losses"] == second["losses"]
    assert result["matmul"]["tflop_per_second"] > 0
    for run in result["runs"]:
        assert (run["visual_tokens"], run["audio_tokens"], run["target_tokens"]) == (24, 100, 20)
        assert run["refused_steps"] == 0
        # LoRA of rank 4 in 2 layers, width 64: q to 64, k and v to 32 each; A holds 4 x 64, B 4 x the output.
        assert run["trained_parameters"] > 2 * 4 * (3 * 64 + 64 + 32 + 32)
        tokens = run["prompt_tokens"] + 20
        assert abs(run["tokens_per_second"] * run["seconds_per_step"] / tokens - 1) < 1e-9
        taken = sum(run["needed_tflop"].values()) / run["seconds_per_step"]
        assert abs(run["share_of_matmul_rate"] * result["matmul"]["tflop_per_second"] / taken - 1) < 1e-9


def test_the_operations_of_a_step_are_those_that_pytorch_counts(monkeypatch):
    import argparse

    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = load_script("sft_step_7b")
    config = script.make_config(argparse.Namespace(rank=4, steps=1), checkpointing=False)
    engine = script.Engine(config, cpu=True)
    model = script.tiny_model("qwen2.5-omni")
    engine.prepare(model, script.set_trainable(model, config.trainable, config.lora))
    script.set_modes(model, script.backbone_of(model))
    item = script.make_item(model, 4.0, 20, None)
    # Without a fused kernel, attention is products that PyTorch counts on a CPU too.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        engine.step((script.MicroBatch(items=(item,)),), 0, 1e-5)
    with sdpa_kernel(SDPBackend.MATH):
        needed = script.decoder_tflop(model, item) + script.towers_tflop(model, item)
    tokens = len(item.prompt.token_ids) + 20
    # PyTorch does the half of attention that the mask hides, too: 2 layers, 6 products of 2 x tokens^2 x 64, half.
    hidden = 2 * 6 * 2 * tokens**2 * 64 / 2
    assert torch.is_grad_enabled()
    assert abs((counter.get_total_flops() - hidden) / (needed * 1e12) - 1) < 0.03
