"""The committed page of the training methods is made of the committed figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "nano_methods.json"


def test_the_page_is_that_of_the_figures(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    script = ROOT / "benchmarks" / "nano_methods.py"
    command = [sys.executable, str(script), "--out", str(RESULTS), "--page", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    assert out.read_text(encoding="utf-8") == (ROOT / "docs" / "nano_methods.md").read_text(encoding="utf-8")


def test_what_the_rounds_claim_is_in_the_figures() -> None:
    """Held-out Total at least halved, repetition not above the start, and the control behind."""
    rounds = json.loads(RESULTS.read_text(encoding="utf-8"))["rounds"]
    dpo = rounds["dpo"]["rounds"]
    best = dpo[rounds["dpo"]["best"]]
    assert len(dpo) >= 4
    assert best["total"] <= dpo[0]["total"] / 2
    assert best["repetition"] <= dpo[0]["repetition"]
    control = rounds["ce"]["rounds"][rounds["ce"]["best"]]
    assert control["total"] > best["total"]
    assert any(one["decision"] == "refused" for one in rounds["fast"]["rounds"])
