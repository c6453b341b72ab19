"""Whether a slow judge costs GRPO time: steps with a judge of 2 seconds against steps with one that answers at once.

    OMP_NUM_THREADS=1 python benchmarks/judge_overlap.py --out benchmarks/results/judge_overlap.json

`nano` on 32 staged clips, 16 prompts x 8 captions a step; the judge is a reward that sleeps. With "next" the judge
works while the next step is sampled, which takes longer than it does here; with "within" only the last micro-batch of a
step is waited for. The first and the last step of each run are left out (the one fills, the other drains).
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from avocet.records import Sampling
from avocet.rewards.rubric import RewardItem, Rubric, Unscored, WeightedReward
from avocet.theatre.language import reference_caption
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.finetune.watch import METRICS_FILE, read_metrics
from avocet.training.grpo.config import Grpo
from avocet.training.grpo.driver import run_grpo

PARTS = ("seconds/rollouts", "seconds/judge_wait", "seconds/update")


class SlowReward:
    """Share of the letter e, after a while."""

    name = "slow"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def score(self, items: Sequence[RewardItem]) -> list[float | Unscored]:
        await asyncio.sleep(self.seconds)
        return [item.text.count("e") / max(len(item.text), 1) for item in items]


def make_clips(folder: Path, count: int) -> Path:
    """Staged clips as training examples."""
    lines = []
    for seed in range(count):
        script = make_script(10_000_000 + seed, 1)
        stage(script, folder / f"{seed}.mp4")
        example = {
            "clip": {"id": str(seed), "path": f"{seed}.mp4"},
            "task": "caption",
            "instruction": "",
            "target": reference_caption(script),
        }
        lines.append(json.dumps(example) + "\n")
    path = folder / "train.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def measure(data: Path, folder: Path, seconds: float, overlap: Literal["within", "next"], steps: int) -> dict[str, Any]:
    """Median seconds of the parts of a step."""
    plan = Grpo(
        name="grpo",
        model="nano",
        sources=(DataSource(path=str(data)),),
        trainable=(),
        lora=LoraSettings(rank=16, alpha=32),
        optimizer=FineTuneOptimizer(learning_rate=1e-5),
        batch=BatchSettings(max_examples=16, micro_examples=8),
        rewards={"slow": 1.0},
        sampling=Sampling(temperature=1.0, max_new_tokens=96, repetition_guard="off"),
        overlap=overlap,
        max_steps=steps,
        precision="float32",
        gradient_checkpointing=False,
        read=ReadSettings(num_workers=1, feature_store_bytes=2**30),
        save_every=0,
    )
    out = run_grpo(plan, folder, Rubric([WeightedReward(reward=SlowReward(seconds))]))
    lines = [line for line in read_metrics(out / METRICS_FILE) if PARTS[0] in line][1:-1]
    parts = {name: statistics.median(line[name] for line in lines) for name in PARTS}
    # Of a step with `next`, the rollouts were made beside the judge of the step before.
    return {"median_step_seconds": statistics.median(sum(line[name] for name in PARTS) for line in lines), **parts}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--judge-seconds", type=float, default=2.0)
    options = parser.parse_args()
    load = [round(value, 2) for value in os.getloadavg()]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        data = make_clips(Path(place), 32)
        for overlap in ("next", "within"):
            for name, seconds in (("free", 0.0), ("slow", options.judge_seconds)):
                run_dir = Path(place) / f"{overlap}-{name}"
                results[f"{overlap}/{name}"] = measure(data, run_dir, seconds, overlap, options.steps)
    for overlap in ("next", "within"):
        free, slow = (results[f"{overlap}/{name}"]["median_step_seconds"] for name in ("free", "slow"))
        results[f"{overlap}/slow_over_free"] = round(slow / free, 3)
    report = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python benchmarks/judge_overlap.py " + " ".join(sys.argv[1:]),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
            "load_before": load,
        },
        "judge_seconds": options.judge_seconds,
        "steps": options.steps,
        "results": results,
    }
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
