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


def test_what_the_rounds_do_to_answers_is_in_the_figures() -> None:
    """Rounds and rebirth keep the answers of the model that they began with, to three points."""
    rounds = json.loads(RESULTS.read_text(encoding="utf-8"))["rounds"]
    before = rounds["questions watched"]["rounds"][0]["qa_accuracy"]
    assert before > 0.6
    for name in ("questions watched", "questions mixed in", "rebirth with questions"):
        found = rounds[name]["rounds"]
        assert all(before - one["qa_accuracy"] <= 0.03 for one in found)
        assert found[rounds[name]["best"]]["total"] < found[0]["total"]


def test_what_the_rewards_claim_is_in_the_figures() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    reports, loops = results["reports"], results["loops"]
    sft, full = reports["SFT on faulty captions"], reports["GRPO, dialogue + checklist + length"]
    assert full["total"] <= sft["total"] * 2 / 3
    assert reports["more of that SFT"]["total"] > sft["total"] * 0.9
    assert full["dialogue_f1"] > sft["dialogue_f1"]
    with_length, without = (loops[f"GRPO, dialogue + checklist{more}"] for more in (" + length", ""))
    assert with_length["collapse"] < without["collapse"]
    sampled = loops["GRPO, dialogue + checklist + length, temperature 1"]
    assert sampled["collapse"] < loops["SFT, temperature 1"]["collapse"]
