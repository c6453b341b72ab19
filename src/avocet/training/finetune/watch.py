"""What a run says while it goes: a progress line, JSONL metrics, trackers."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from avocet.training.finetune.engine import Engine, StepResult

METRICS_FILE = "metrics.jsonl"


class Watch:
    """Writes metrics and shows progress; silent on all processes but the first. Use in a `with` block."""

    def __init__(self, engine: Engine, folder: Path, name: str, num_steps: int, first_step: int) -> None:
        self._engine, self._path = engine, folder / METRICS_FILE
        self._num_steps = num_steps
        self._began = time.perf_counter()
        self._tokens = 0
        # A run that goes on counts on.
        before = [line for line in read_metrics(self._path) if "refused_steps" in line] if self._path.is_file() else []
        self._refused = int(before[-1]["refused_steps"]) if before else 0
        self._left_out = int(before[-1]["left_out"]) if before else 0
        self._progress: Any = None
        self._name, self._first_step = name, first_step

    def __enter__(self) -> Watch:
        if self._engine.is_main:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[facts]}"),
            )
            self._progress = Progress(*columns)
            self._progress.start()
            self._task = self._progress.add_task(
                self._name, total=self._num_steps, completed=self._first_step, facts=""
            )
        if self._engine.config.trackers:
            config = self._engine.config
            facts = {"stage": config.name, "model": config.model, "seed": config.seed}
            facts |= {"learning_rate": config.optimizer.learning_rate, "examples_per_step": config.batch.max_examples}
            self._engine.accelerator.init_trackers("avocet", config=facts)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._engine.config.trackers:
            self._engine.accelerator.end_training()

    def step(self, done: int, result: StepResult, learning_rate: float, left_out: int, *, log: bool) -> None:
        """After each step; metrics are written when `log`, when the step was refused, or when clips were left out."""
        self._tokens += result.num_tokens
        self._refused += result.refused
        self._left_out += left_out
        if not (log or result.refused or left_out):
            return
        seconds = time.perf_counter() - self._began
        speed = self._tokens / seconds
        self.write(
            {
                "step": done,
                "loss": result.loss,
                **{f"loss/{task}": value for task, value in result.task_losses.items()},
                **{f"mean/{name}": value for name, value in result.figures.items()},
                "learning_rate": learning_rate,
                "gradient_norm": result.gradient_norm,
                "target_tokens": result.num_targets,
                "tokens": result.num_tokens,
                "examples": result.num_examples,
                "refused": result.refused,
                "refused_steps": self._refused,
                "left_out": self._left_out,
                "seconds": seconds,
                "tokens_per_second": speed,
                "peak_memory_bytes": peak_memory(),
            }
        )
        self._began, self._tokens = time.perf_counter(), 0
        if self._progress is not None:
            facts = f"loss {result.loss:.4f}  {speed:,.0f} tokens/s  {peak_memory() / 2**30:.1f} GiB"
            self._progress.update(self._task, completed=done, facts=facts)

    def write(self, metrics: dict[str, Any]) -> None:
        """One line of metrics, of which `step` is one; what is not finite, which JSON cannot say, is null."""
        known = {key: value for key, value in metrics.items() if not isinstance(value, float) or math.isfinite(value)}
        if self._engine.is_main:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict.fromkeys(metrics) | known, allow_nan=False) + "\n")
        if self._engine.config.trackers:
            numbers = {key: value for key, value in known.items() if key != "step"}
            self._engine.accelerator.log(numbers, step=metrics["step"])

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)


def peak_memory() -> int:
    """Bytes: of the GPU since the start, or of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource
    import sys

    # Linux counts kilobytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics file; one that a kill cut short is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def cut_metrics(path: Path, last_step: int) -> None:
    """Drop what was logged after the checkpoint that the run goes on from."""
    if path.is_file():
        kept = [line for line in read_metrics(path) if line["step"] <= last_step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
