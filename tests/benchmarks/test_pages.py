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
