"""The theatre as a benchmark: staged mp4 files in, exact figures out.

    avocet evaluate theatre --level 1 --model nano --num-clips 200 --seed 990000 --json

Differs from the papers' caption test in that no language model judges: the truth of each clip is known,
so a parser counts, and the figures are the same on every run. Each caption is judged once; the rates are means over
captions (protocol `paper` with a single run), beside which the pooled counts are reported.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from avocet.captioning.captioner import Captioner
from avocet.errors import ConfigError
from avocet.evaluation.benchmarks.theatre_staging import Control, stage_scripts
from avocet.evaluation.report import TheatreReport
from avocet.evaluation.runner import JudgedItem, caption_and_judge
from avocet.records import ClipRef, Sampling
from avocet.theatre.judge import TheatreFindings, judge
from avocet.theatre.script import make_script

TheatreItem = JudgedItem[TheatreFindings]


def evaluate_theatre(
    captioner: Captioner,
    level: int,
    num_clips: int,
    seed: int,
    *,
    control: Control = "none",
    out_dir: str | Path | None = None,
    sampling: Sampling | None = None,
    workers: int = 2,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> TheatreReport:
    """Measure `captioner` on the scripts of seeds `seed` ... `seed + num_clips - 1`.

    Args:
        control: spoil one stream of each file (see `theatre_staging`); captions are still judged against
            their own script.
        out_dir: keeps the clips, `items.jsonl` (caption and findings per clip) and `report.json`; a second run
            with the same settings does only what is missing. Without it everything is temporary.
        workers: processes that stage clips; more than 1 needs the caller's `__main__` guard.
        progress: called with (finished, all) after each caption.

    Raises `ConfigError` for a wrong level, seed, number of clips or control, or when `out_dir` holds captions
    that were made with other settings.
    """
    if num_clips < 1:
        raise ConfigError(f"num_clips must be >= 1, got {num_clips}")
    scripts = [make_script(seed + index, level) for index in range(num_clips)]
    with contextlib.ExitStack() as stack:
        if out_dir is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="avocet-theatre-")))
        else:
            folder = Path(out_dir)
        began = time.perf_counter()
        paths = stage_scripts(scripts, folder / "clips", control=control, workers=workers)
        staged = time.perf_counter()
        clips = [ClipRef(id=path.stem, path=str(path)) for path in paths]
        script_of = {clip.id: script for clip, script in zip(clips, scripts, strict=True)}
        items = caption_and_judge(
            captioner,
            clips,
            lambda text, clip: judge(text, script_of[clip.id]),
            items_path=None if out_dir is None else folder / "items.jsonl",
            batch_size=batch_size,
            sampling=sampling,
            progress=progress,
        )
        seconds = {"staging": staged - began, "captioning": time.perf_counter() - staged}
        report = build_report(captioner, scripts, items, control, sampling, seconds)
        if out_dir is not None:
            (folder / "report.json").write_text(report.to_json_line() + "\n", encoding="utf-8")
    return report
