"""The page of the performance figures, made of the committed JSON files.

python benchmarks/performance.py --page docs/performance.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
Rows = list[tuple[str, str]]
"""What was measured, and the figure."""


def prefix_scoring(found: dict[str, Any]) -> Rows:
    rows = []
    names = {"preference": "a preference step", "group": "an update of a GRPO group"}
    for workload, one in found["workloads"].items():
        for method in ("batched", "packed", "cached"):
            result = one["results"][method]
            what = f"{names[workload]}, {one['num_completions']} completions: {method} against separate forwards"
            rows.append((what, f"{result['speedup']:.2f}x time, {result['peak_ratio']:.2f}x peak memory"))
        rows.append((f"{names[workload]}: tokens of separate forwards / tokens of one", f"{one['token_ratio']:.2f}x"))
    return rows


def dpo_step_trl(found: dict[str, Any]) -> Rows:
    results, compact = found["results"], found["results"]["compact"]
    names = {
        "trl": "TRL's step as it is here",
        "avocet": "the same work from one prefix",
        "stored": "a step of `avocet train`, reference stored",
    }
    rows = []
    for name, text in names.items():
        speed, memory = results[name]["speedup_of_median_seconds"], compact["peak_bytes"] / results[name]["peak_bytes"]
        rows.append((f"{text}, against TRL's compact step", f"{speed:.2f}x time, {memory:.2f}x peak memory"))
    return [*rows, ("largest difference of a loss", f"{found['largest_loss_difference']:.0e}")]


def group_sampling(found: dict[str, Any]) -> Rows:
    ours = found["results"]["avocet"]
    what = f"sampling {found['group']} completions from one prefill, against generate(num_return_sequences)"
    return [(what, f"{ours['ratio_of_median_seconds']:.2f}x time, {ours['ratio_of_peak_bytes']:.2f}x peak memory")]


def judge_overlap(found: dict[str, Any]) -> Rows:
    results = found["results"]
    what = f"a GRPO step with a judge of {found['judge_seconds']:g} s over one with a free judge, overlap"
    return [(f"{what} {way!r}", f"{results[f'{way}/slow_over_free']:.3f}x") for way in ("next", "within")]


def sft_memory(found: dict[str, Any]) -> Rows:
    what = f"peak memory with logits of every position over chunked targets, vocabulary {found['vocabulary']:,}"
    return [(what, f"{found['naive_over_chunked']:.1f}x")]


def feature_store(found: dict[str, Any]) -> Rows:
    rows = []
    for name, run in found["runs"].items():
        figures = run["second epoch faster than first"], run["second epoch faster than without store"]
        rows.append((f"second epoch, {name}: over the first / over none", f"{figures[0]:.2f}x / {figures[1]:.2f}x"))
    return rows


def judge_speed(found: dict[str, Any]) -> Rows:
    first, second = found["passes"]["first"], found["passes"]["second"]
    memory = first["memory_mib"]
    return [
        (f"{found['what']}: of the most that is possible", f"{100 * found['share_of_most']:.1f} %"),
        (
            "memory over these calls, first and last reading",
            f"{memory[0]} and {memory[-1]} MiB",
        ),
        ("the same again, from the cache", f"{second['calls_per_second']:,.0f} calls/s, {second['sent']} sent"),
    ]


def curation_manifest(found: dict[str, Any]) -> Rows:
    return [
        (
            f"{name}: {found['what']}",
            f"{one['clips_per_second']:.0f} clips/s, {one['memory_mib_after']:.0f} MiB at the end",
        )
        for name, one in found["pipelines"].items()
    ]


def clip_loading(found: dict[str, Any]) -> Rows:
    rows = []
    for one in found["loaders"]:
        work = one["with_work"]
        figure = f"{one['taking_only']['clips_per_second']:.0f} / {work['clips_per_second']:.0f} clips/s"
        rows.append((f"{one['num_workers']} worker processes: clips taken only / worked on", figure))
        rows.append((f"{one['num_workers']} worker processes: time spent waiting", f"{100 * work['waiting']:.0f} %"))
    return rows


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], Rows]]] = {
    "prefix_scoring": ("Shared-prefix scoring (prompt : completion 20 : 1)", prefix_scoring),
    "dpo_step_trl": ("A DPO step on a video with sound, against TRL", dpo_step_trl),
    "group_sampling": ("Group rollouts", group_sampling),
    "judge_overlap": ("Judging behind the next rollouts", judge_overlap),
    "sft_memory": ("The loss of SFT", sft_memory),
    "feature_store": ("Feature store", feature_store),
    "clip_loading": ("Decoding", clip_loading),
    "judge_speed": ("Judge client", judge_speed),
    "curation_manifest": ("Curation", curation_manifest),
}


def page() -> str:
    """The Markdown page."""
    lines = [
        "# Performance",
        "",
        "Made by `benchmarks/performance.py` of the JSON files in `benchmarks/results`. All on a CPU: no figure of a",
        "GPU has been measured yet. What each script measures, and how, is at its head.",
        "",
    ]
    for name, (title, rows_of) in SECTIONS.items():
        found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        command = found.get("command") or f"python benchmarks/{name}.py --out benchmarks/results/{name}.json"
        lines += [
            f"## {title}",
            "",
            f"`{command}`, {machine(found)}, {found['date']}.",
            "",
            "| what | figure |",
            "|---|---|",
        ]
        lines += [f"| {what} | {figure} |" for what, figure in rows_of(found)]
        lines.append("")
    return "\n".join(lines)


def machine(found: dict[str, Any]) -> str:
    """Where it was measured, in words."""
    given = found.get("machine") or found.get("hardware")
    if isinstance(given, dict):
        threads = given.get("threads")
        return given["processor"] + (f", {threads} thread{'s' if str(threads) != '1' else ''}" if threads else "")
    return str(given)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, required=True)
    options = parser.parse_args()
    options.page.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
