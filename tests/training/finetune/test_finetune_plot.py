"""The page of training curves: what is drawn, at which scale, and how long runs are thinned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from avocet.errors import ConfigError
from avocet.training.finetune.plot import write_plot


def stage(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def figure(page: str, title: str) -> str:
    """The SVG below a heading."""
    found = re.search(rf"<h2>{re.escape(title)}</h2>(<svg.*?</svg>)", page)
    assert found is not None, f"no figure {title!r}"
    return found[1]


def labels(svg: str, anchor: str) -> list[str]:
    return re.findall(rf'text-anchor="{anchor}">([^<]*)<', svg)


def test_ticks_are_round_numbers_in_readable_units(tmp_path: Path) -> None:
    memory = [{"step": 1, "peak_memory_bytes": 2**30}, {"step": 10, "peak_memory_bytes": 5 * 2**30}]
    rates = [{"step": 2, "learning_rate": 2e-5}, {"step": 9, "learning_rate": 0.0, "tokens_per_second": 12_500}]
    run = stage(tmp_path / "run" / "sft", memory + rates)
    page = write_plot([run]).read_text()
    assert labels(figure(page, "Peak memory, GiB"), "end") == ["1", "2", "3", "4", "5", "step"]
    assert labels(figure(page, "Peak memory, GiB"), "middle") == ["0", "2", "4", "6", "8", "10"]
    # The learning rate ends at step 9.
    rate = figure(page, "Learning rate")
    assert labels(rate, "end") == ["0.000000", "0.000005", "0.000010", "0.000015", "0.000020", "step"]
    assert labels(rate, "middle") == ["0", "2", "4", "6", "8"]
    # One point is a dot between two ticks.
    speed = figure(page, "Tokens per second")
    assert "<circle" in speed
    assert labels(speed, "end") == ["10,000", "15,000", "step"]


def test_values_are_where_the_axis_says(tmp_path: Path) -> None:
    """The plot is 672 wide from 64 and 198 high from 12; losses from 0 to 4, the last step is 4."""
    losses = [
        {"step": 1, "loss": 4.0},
        {"step": 2, "loss": float("nan")},
        {"step": 3, "loss": None},
        {"step": 4, "loss": 0.0},
    ]
    page = write_plot([stage(tmp_path / "sft", losses)]).read_text()
    assert '<polyline points="232.0,12.0 736.0,210.0"' in figure(page, "Loss per target token")


def test_stages_are_named_from_the_folder_they_share(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 1.0, "loss/caption": 1.0, "refused_steps": 0, "left_out": 0}]
    stage(tmp_path / "run" / "align", lines)
    stage(tmp_path / "run" / "<sft>", [*lines, {"step": 2, "refused_steps": 2, "left_out": 1}])
    out = tmp_path / "page.html"
    assert write_plot([tmp_path / "run"], out) == out
    page = out.read_text()
    assert re.findall(r"</span> ([^/]*)</li>", page) == ["&lt;sft&gt; (refused steps: 2, clips left out: 1)", "align"]
    # With one task its loss is the loss.
    assert "Loss per target token, caption" not in page
    other = stage(tmp_path / "other" / "sft", [{"step": 1, "loss/asr": 2.0, "mean/margin": 0.5}])
    page = write_plot([tmp_path / "run", other], out).read_text()
    assert "</span> run/align</li>" in page
    assert "</span> other/sft</li>" in page
    for title in ("Loss per target token, caption", "Loss per target token, asr", "margin"):
        assert "<circle" in figure(page, title)


def test_long_runs_are_means_in_a_band(tmp_path: Path) -> None:
    """1,000 steps are 334 stretches of three (the last of one): losses 0, 1, 5 have mean 2."""
    lines = [{"step": step + 1, "loss": (0.0, 1.0, 5.0)[step % 3]} for step in range(1000)]
    page = write_plot([stage(tmp_path / "sft", lines)]).read_text()
    svg = figure(page, "Loss per target token")
    line = re.search(r'<polyline points="([^"]*)"', svg)
    band = re.search(r'<polygon points="([^"]*)"', svg)
    assert line is not None
    assert band is not None
    heights = [float(point.split(",")[1]) for point in line[1].split()]
    assert len(heights) == 334
    # 12 + 198 * (1 - 2 / 5); the last step of all has loss 0.
    assert set(heights[:-1]) == {130.8}
    assert heights[-1] == 210.0
    assert {point.split(",")[1] for point in band[1].split()} == {"12.0", "210.0"}
    assert "means of neighbouring steps" in page


def test_a_folder_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no metrics"):
        write_plot([tmp_path])
