"""`avocet evaluate BENCHMARK`: captions in (or a model and its videos), scores with errors out.

avocet evaluate vs2 --captions captions.jsonl --judge gpt-4.1 --out runs/vs2
avocet evaluate ugc --model avocado --videos clips/ --judge gpt-4o --out runs/ugc
avocet evaluate vs2 --compare runs/sft runs/grpo
avocet evaluate theatre --level 1 --model nano --json
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.cli._judge_options import JudgeOptions
from avocet.cli._shared import counter, find_annotations
from avocet.errors import ConfigError

if TYPE_CHECKING:
    from avocet.evaluation.captions import CaptionSet
    from avocet.evaluation.evaluate import BenchmarkRun, Evaluation
    from avocet.judging.client import JudgeClient

Name = Literal["vs2", "vs2-local", "ugc", "daily-omni", "worldsense", "vdc", "dream1k", "videomme"]

PAGE_FILE = "report.html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Measure captions, or a captioner, on a benchmark."""

    benchmark: Annotated[Positional[Name], arg(metavar="{theatre,vs2,vs2-local,ugc,daily-omni,...}")]
    """What to measure on. The theatre has options of its own: avocet evaluate theatre --help."""
    captions: tuple[Path, ...] = ()
    """Files or folders with captions: ours, the released scripts', plain JSON, CSV."""
    annotations: Path | None = None
    """The benchmark's annotation file; if not given, it is looked for in the folder AVOCET_BENCHMARK_DATA."""
    judging: Annotated[JudgeOptions, arg(name="")] = dataclasses.field(default_factory=JudgeOptions)
    runs: int | None = None
    """How often each caption is judged; as published if not given (7 for events, else 1)."""
    protocol: Literal["paper", "released"] = "paper"
    """Of event rates: median per caption, then mean (paper); or pooled, the run of median total (released)."""
    out: Path | None = None
    """Keep verdicts, items, report and page here; an interrupted run goes on where it stopped."""
    compare: tuple[Path, Path] | None = None
    """Two folders of earlier runs: compare their scores item by item, and judge nothing."""
    json: bool = False
    """Print one JSON object instead of Markdown."""
    video_field: str | None = None
    """Field or column of the caption files that names the video, where it is not a usual one."""
    caption_field: str | None = None
    """Likewise of the caption."""
    sample: int | None = None
    """Where the files hold several captions of a video: judge the one with this number, from 1. Without it they are an
    error."""
    limit: int | None = None
    """Only the first so many items of the benchmark, for a try."""
    model: str | None = None
    """Caption the videos with this model first; needs --videos and --out."""
    videos: Path | None = None
    """Folder with the benchmark's videos, searched recursively."""
    device: str = "auto"
    """Of the captioner: auto, cpu, cuda, cuda:1, ..."""
    dtype: str = "auto"
    """Of the captioner: auto, float32, bfloat16 or float16."""
    revision: str | None = None
    """Version of the captioner's weights, for models that have several."""
    batch_size: int = 8
    """Clips per forward pass of the captioner."""
    max_new_tokens: int | None = None
    """Longest caption in tokens."""
    temperature: float | None = None
    """Of the captioner; 0 is greedy decoding."""
    top_p: float | None = None
    """Of the captioner: the probability mass that is kept."""
    sampling_seed: int | None = None
    """Of the captioner's sampling."""


def main(argv: list[str]) -> int:
    """Run `avocet evaluate`. Returns 0 once the report is printed, 2 when nothing could be scored."""
    if "theatre" in argv[:1]:
        from avocet.cli import _evaluate_theatre

        return _evaluate_theatre.main(argv)
    if argv and not argv[0].startswith("-") and argv[0] not in get_args(Name):
        raise ConfigError(f"there is no benchmark {argv[0]!r}; there are theatre, {', '.join(get_args(Name))}")
    arguments = tyro.cli(
        EvaluateArguments,
        args=argv,
        prog="avocet evaluate",
        config=(FlagCreatePairsOff,),
        description="Captions in (or a model and its videos), scores with errors out.",
    )
    if arguments.compare is not None:
        return _compare(arguments)
    _check(arguments)
    run = _benchmark_run(arguments)
    began = time.time()
    captions = _captions(arguments, run)
    with contextlib.ExitStack() as stack:
        client = arguments.judging.open_client(stack) if run.scorer.needs_model else None
        if arguments.judging.dry_run:
            return _dry_run(arguments, run, captions, client)
        try:
            evaluation = run.evaluate(
                captions,
                client,
                parameters=arguments.judging.parameters(),
                folder=arguments.out,
                progress=counter("verdicts"),
            )
        finally:
            # Also of a run that stopped: it was paid for.
            costs = [] if client is None else client.summary().lines()
            print("\n".join(costs), file=sys.stderr)
        _keep(arguments, evaluation, client, costs, time.time() - began)
    _print(arguments, evaluation)
    return 0 if evaluation.report.num_scored else 2


def _check(arguments: EvaluateArguments) -> None:
    if bool(arguments.captions) == (arguments.model is not None):
        raise ConfigError("give either --captions FILE or --model NAME with --videos DIR")
    if arguments.model is not None and (arguments.videos is None or arguments.out is None):
        raise ConfigError("--model needs --videos DIR (the benchmark's videos) and --out DIR (where captions are kept)")
    if arguments.limit is not None and arguments.limit < 1:
        raise ConfigError(f"--limit must be >= 1, got {arguments.limit}")
    if arguments.out is not None and not arguments.judging.dry_run:
        # Before anything is captioned or paid for.
        try:
            arguments.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the folder --out {arguments.out} cannot be made: {error.strerror or error}; choose another"
            ) from error


def _benchmark_run(arguments: EvaluateArguments) -> BenchmarkRun:
    from avocet.evaluation.benchmarks import load_benchmark
    from avocet.evaluation.evaluate import BenchmarkRun

    benchmark = load_benchmark(arguments.benchmark)
    items = benchmark.read(arguments.annotations or find_annotations(benchmark))
    return BenchmarkRun(
        benchmark=benchmark, items=items[: arguments.limit], runs=arguments.runs, protocol=arguments.protocol
    )


def _captions(arguments: EvaluateArguments, run: BenchmarkRun) -> CaptionSet:
    from avocet.captioning.bulk import failures_path
    from avocet.evaluation.captions import read_captions, take_sample

    paths = list(arguments.captions)
    if arguments.model is not None:
        made = _earlier_captions(arguments) if arguments.judging.dry_run else _caption(arguments, run)
        paths = [path for path in (made, failures_path(made)) if path.is_file() and path.stat().st_size]
        if not paths:
            raise ConfigError(f"no item of {run.benchmark.name} could be captioned")
    captions = read_captions(
        paths,
        several="refuse" if arguments.sample is None else "keep",
        video_field=arguments.video_field,
        caption_field=arguments.caption_field,
    )
    return captions if arguments.sample is None else take_sample(captions, arguments.sample)


def _earlier_captions(arguments: EvaluateArguments) -> Path:
    """What an earlier run has captioned: a dry run makes no captions."""
    from avocet.evaluation.captioning import CAPTIONS_FILE

    assert arguments.out is not None
    path = arguments.out / CAPTIONS_FILE
    if not path.is_file() or not path.stat().st_size:
        raise ConfigError(
            f"--dry-run captions nothing, and {path} holds no captions whose judging could be counted; give captions "
            "with --captions FILE, or run without --dry-run"
        )
    print(f"counting the captions of {path}; nothing is captioned", file=sys.stderr)
    return path


def _caption(arguments: EvaluateArguments, run: BenchmarkRun) -> Path:
    from avocet.captioning.captioner import load_captioner
    from avocet.evaluation.captioning import caption_items

    assert arguments.model is not None
    assert arguments.videos is not None
    assert arguments.out is not None
    captioner = load_captioner(arguments.model, arguments.device, arguments.dtype, arguments.revision)
    given: dict[str, Any] = {
        "max_new_tokens": arguments.max_new_tokens,
        "temperature": arguments.temperature,
        "top_p": arguments.top_p,
        "seed": arguments.sampling_seed,
    }
    return caption_items(
        run.benchmark,
        run.items,
        captioner,
        arguments.videos,
        arguments.out,
        sampling=dataclasses.replace(
            captioner.model.default_sampling, **{name: value for name, value in given.items() if value is not None}
        ),
        batch_size=arguments.batch_size,
        progress=counter("captions"),
    )


def _dry_run(arguments: EvaluateArguments, run: BenchmarkRun, captions: CaptionSet, client: JudgeClient | None) -> int:
    """Say what a run would cost; nothing is sent and nothing is written."""
    if client is None:
        print(f"{run.benchmark.name} needs no judge: nothing would be sent")
        return 0
    run.evaluate(captions, client, parameters=arguments.judging.parameters())
    summary = client.summary()
    print(json.dumps(summary.to_dict()) if arguments.json else "\n".join(summary.lines()))
    return 0


def _keep(
    arguments: EvaluateArguments, evaluation: Evaluation, client: JudgeClient | None, costs: list[str], seconds: float
) -> None:
    """The page, and the facts of this run that no two runs share."""
    if arguments.out is None:
        return
    from avocet import __version__
    from avocet.evaluation.evaluate import RUN_FILE
    from avocet.review.evaluation_page import write_evaluation_page

    write_evaluation_page(evaluation.report, evaluation.outcomes, arguments.out / PAGE_FILE, cost_lines=costs)
    settings = dataclasses.asdict(arguments)
    facts = {
        "avocet": __version__,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(seconds, 3),
        "arguments": settings,
        "base_url": None if client is None else client.base_url,
        "costs": None if client is None else client.summary().to_dict(),
    }
    text = json.dumps(facts, ensure_ascii=False, indent=1, default=str)
    (arguments.out / RUN_FILE).write_text(text + "\n", encoding="utf-8")


def _print(arguments: EvaluateArguments, evaluation: Evaluation) -> None:
    report = evaluation.report
    print(json.dumps(report.to_dict(), ensure_ascii=False) if arguments.json else report.to_markdown())
    if any("unreadable reply" in why for why in (*report.unscored_reasons, *report.unscored_questions)):
        print("replies that cannot be read stay in the cache; --ask-again asks for others", file=sys.stderr)
    if arguments.out is None:
        print("nothing was kept but the judge's replies; --out DIR keeps verdicts, items and a page", file=sys.stderr)
    else:
        print(f"page: {arguments.out / PAGE_FILE}", file=sys.stderr)


def _compare(arguments: EvaluateArguments) -> int:
    from avocet.evaluation.compare import compare_runs

    assert arguments.compare is not None
    comparison = compare_runs(*arguments.compare, arguments.benchmark)
    print(json.dumps(comparison.to_dict(), ensure_ascii=False) if arguments.json else comparison.to_markdown())
    return 0 if comparison.scores else 2
