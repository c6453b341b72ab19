"""Captions of a benchmark's videos by a model: each item asked what the benchmark asks, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import cast, get_args

from avocet.captioning.bulk import caption_clips, open_caption_ledger, write_failures
from avocet.captioning.captioner import Captioner
from avocet.captioning.instructions import Instruction, InstructionRule, choose_instruction
from avocet.captioning.styles import Style
from avocet.evaluation.benchmarks._names import VideoFolder
from avocet.evaluation.items import Benchmark, BenchmarkItem
from avocet.records import AudioPolicy, Caption, ClipRef, Failure, Sampling

CAPTIONS_FILE = "captions.jsonl"


def caption_items(
    benchmark: Benchmark,
    items: Sequence[BenchmarkItem],
    captioner: Captioner,
    videos_dir: str | Path,
    folder: Path,
    *,
    sampling: Sampling | None = None,
    audio: AudioPolicy | None = None,
    batch_size: int = 8,
    style_seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Caption every item whose video is there; returns the file with the captions.

    The file is a ledger: a killed run goes on where it stopped. Items without a video or with one that cannot be read
    stand in `captions.failures.jsonl` beside it, with the reason.

    Args:
        audio: None: as the published scores were made ("ignore" for benchmarks of the picture alone).
        style_seed: picks the paraphrase where the benchmark has no instruction of its own.

    Raises `ConfigError` when the folder of videos does not exist, two files fit one item equally well, or the file
    holds captions made in another way.
    """
    videos = VideoFolder(videos_dir)
    clips, failures = find_clips_of(benchmark, items, videos)
    rule = instruction_rule_of(benchmark, items, style_seed)
    path = folder / CAPTIONS_FILE
    policy: AudioPolicy = audio or ("auto" if benchmark.uses_audio else "ignore")
    with open_caption_ledger(path, captioner, rule, sampling) as ledger:
        num_done = sum(clip.id in ledger for clip in clips)
        made = caption_clips(
            captioner,
            clips,
            ledger=ledger,
            batch_size=batch_size,
            instruction=rule,
            sampling=sampling,
            audio=policy,
        )
        failures += _failures(made, num_done, len(clips), progress)
    write_failures(path, failures)
    return path


def find_clips_of(
    benchmark: Benchmark, items: Iterable[BenchmarkItem], videos: VideoFolder
) -> tuple[list[ClipRef], list[Failure]]:
    """A clip for each item, whose id it has, and a `Failure` for each item without a video or without an instruction.

    A model is always shown the whole video: an interval is named by the item's instruction.
    """
    clips: list[ClipRef] = []
    failures: list[Failure] = []
    for item in items:
        video = benchmark.find_video(item, videos)
        if video is None:
            reason = f"no file named {' or '.join(item.names)} in the folder of videos"
            failures.append(Failure(clip_id=item.id, path=item.video, stage="media", error=reason))
        elif benchmark.instruction_source == "item" and not (item.instruction or "").strip():
            defect = next((question.defect for question in item.questions if question.defect), "no instruction")
            failures.append(Failure(clip_id=item.id, path=str(video), stage="model", error=f"not asked: {defect}"))
        else:
            clips.append(ClipRef(id=item.id, path=str(video)))
    return clips, failures


def instruction_rule_of(benchmark: Benchmark, items: Sequence[BenchmarkItem], style_seed: int = 0) -> InstructionRule:
    """What is asked about each item, by its id: its own instruction, or a paraphrase of the benchmark's style."""
    source = benchmark.instruction_source
    asked = {item.id: item.instruction for item in items}
    if source == "item":
        return lambda clip: Instruction(text=asked[clip.id] or "", source=f"benchmark:{benchmark.name}")
    style = source.removeprefix("style:")
    assert style in get_args(Style)
    return lambda clip: choose_instruction(cast(Style, style), style_seed, clip.id)


def _failures(
    outcomes: Iterable[Caption | Failure], num_done: int, num_all: int, progress: Callable[[int, int], None] | None
) -> list[Failure]:
    failures = []
    for count, outcome in enumerate(outcomes, start=num_done + 1):
        if isinstance(outcome, Failure):
            failures.append(outcome)
        if progress is not None:
            progress(count, num_all)
    return failures
