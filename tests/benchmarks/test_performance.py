"""The committed page of performance figures is made of the committed figures, and says all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
ON_OTHER_PAGES = {"nano_methods", "nano_training"}


def test_the_page_is_that_of_the_figures(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    command = [sys.executable, str(ROOT / "benchmarks" / "performance.py"), "--page", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    assert out.read_text(encoding="utf-8") == (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


def test_every_committed_figure_is_on_a_page() -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    names = {path.stem for path in RESULTS.glob("*.json") if not path.stem.startswith("nano_level")} - ON_OTHER_PAGES
    for name in sorted(names):
        assert f"benchmarks/{name}.py" in page, name
