"""What `avocet curate` does once its options are read: load teachers, show what will be sent, run, write."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from avocet.captioning.formats import printable
from avocet.cli.curate import CurateArguments, OutputFormat, show, teacher_cache
from avocet.curation._stage_types import Progress
from avocet.curation.data_card import make_card, write_card
from avocet.curation.manifest import ManifestClip, find_manifest_clips, read_manifest
from avocet.curation.outputs import SPLITS, OutputSettings, check_parquet, read_native, write_examples, write_parquet
from avocet.curation.pipelines.dry_run import PreviewJudge, PreviewTeachers, preview_pipeline
from avocet.curation.pipelines.plan import PipelineSettings, Step, annotation_steps, pipeline_steps, plan_notes
from avocet.curation.pipelines.run import RunRecord, StageRunner, last_manifest, run_steps, write_run_record
from avocet.curation.pipelines.session import JudgeSettings, LazyJudge, LazyTeachers
from avocet.curation.stage import StageSummary, run_stage
from avocet.curation.teachers import ROLES, Role
from avocet.curation.teachers.bindings import TeacherOptions, parse_bindings
from avocet.curation.teachers.media_parts import MediaSettings
from avocet.errors import ConfigError
from avocet.judging.client import ClientSettings
from avocet.judging.costs import Price, parse_price
from avocet.judging.messages import CallParameters
from avocet.provenance import code_facts
from avocet.records import Record, is_url

if TYPE_CHECKING:
    from avocet.curation.pipelines.captions_in import CaptionsIn


def run_pipeline(arguments: CurateArguments, out: Path, settings: PipelineSettings, stack: contextlib.ExitStack) -> int:
    """`avocet curate avocado` and `vs2`."""
    output = _output(arguments)
    teachers, judge = _teachers(arguments, stack), None
    if settings.pipeline == "avocado" and settings.min_completeness:
        judge = _judge(arguments, teachers, stack)
    steps = pipeline_steps(settings, teachers, judge)
    notes = plan_notes(settings, teachers)
    runner, merged = _runner(arguments), list[str]()
    front = _preview(arguments, out, settings, teachers, find_manifest_clips(arguments.paths, merged), runner, stack)
    if merged:
        _tell([f"{len(merged)} clips are named by more than one input and are taken once, such as {merged[0]}"])
    _tell(notes)
    if arguments.judging.dry_run:
        return 0
    record = RunRecord(
        pipeline=settings.pipeline,
        settings=settings.to_dict(),
        teachers=teachers.versions(),
        judge=None if judge is None else judge.identity,
        stages=tuple(step.name for step in steps),
        asking=_asking(arguments),
        inputs=_inputs(arguments.paths),
        notes=notes,
        output={**output.to_dict(), "formats": list(arguments.format)},
        code=code_facts(),
    )
    write_run_record(out, record)
    summaries = _run(arguments, steps, (), out, runner, front)
    return _finish(arguments, out, record, output, summaries)


def annotate(arguments: CurateArguments, out: Path, stack: contextlib.ExitStack) -> int:
    """`avocet curate annotate`."""
    if len(arguments.paths) != 1:
        raise ConfigError(f"give one file of captions: avocet curate annotate FILE; got {len(arguments.paths)}")
    from avocet.curation.pipelines.captions_in import annotated, caption_clips

    teachers = _teachers(arguments, stack)
    given = _captions(arguments, out)
    clips = list(caption_clips(given.examples))
    steps = annotation_steps(arguments.annotations, teachers, arguments.num_questions)
    preview = PreviewTeachers(teachers)
    preview_pipeline(annotation_steps(arguments.annotations, preview, arguments.num_questions), clips, out)
    _tell([total.line() for total in preview.totals], result=arguments.judging.dry_run)
    if arguments.judging.dry_run:
        return 0
    record = RunRecord(
        pipeline="annotate",
        settings={"annotations": list(arguments.annotations), "num_questions": arguments.num_questions},
        teachers=teachers.versions(),
        judge=None,
        stages=tuple(step.name for step in steps),
        asking=_asking(arguments),
        inputs=_inputs(arguments.paths),
        left_out=dict(sorted(Counter(one.reason for one in given.left_out).items())),
        code=code_facts(),
    )
    write_run_record(out, record)
    summaries = _run(arguments, list(steps), clips, out, _runner(arguments))
    manifest = read_manifest(last_manifest(out, record.stages))
    count = _write_lines(out / "annotated.jsonl", annotated(given.examples, manifest))
    _tell([f"{out / 'annotated.jsonl'}: {count} examples"])
    card = make_card(out, None, {})
    write_card(out, card)
    show(arguments, card.markdown(), card.to_json_line())
    return 1 if any(summary.num_failed for summary in summaries) or record.left_out.get("unreadable") else 0


def _output(arguments: CurateArguments) -> OutputSettings:
    """What is to be written, checked before anything is paid."""
    if "parquet" in arguments.format:
        check_parquet()
    return OutputSettings(tasks=arguments.tasks, val_fraction=arguments.val_fraction, seed=arguments.seed)


def _inputs(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(path if is_url(path) else os.path.abspath(path) for path in paths)


def _asking(arguments: CurateArguments) -> dict[str, Any]:
    """What else decides the answers; for the record of the run."""
    sampling = _sampling(arguments.teacher_temperature)
    return {
        "media_as": arguments.media_as,
        "teachers": {role: parameters.to_dict() for role, parameters in sampling.items()},
        "judge": arguments.judging.parameters().to_dict(),
    }


def _teachers(arguments: CurateArguments, stack: contextlib.ExitStack) -> LazyTeachers:
    judging = arguments.judging
    cache = teacher_cache(arguments)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder of the cache {cache} cannot be made: {error.strerror or error}") from error
    options = TeacherOptions(
        cache=cache,
        settings=_client_settings(arguments),
        parameters=_sampling(arguments.teacher_temperature),
        media=MediaSettings(media_as=arguments.media_as),
        price=_prices(arguments.teacher_price),
        max_cost_usd=judging.max_cost,
    )
    teachers = LazyTeachers(parse_bindings(arguments.teacher), options)
    stack.callback(teachers.close)
    return teachers


def _sampling(temperature: float) -> dict[Role, CallParameters]:
    """How each role samples; see `CurateArguments.teacher_temperature`."""
    again = CallParameters(temperature=None if temperature < 0 else temperature)
    once = CallParameters(temperature=None if temperature < 0 else 0.0)
    return {role: again if role in ("fuse", "check") else once for role in ROLES}


def _client_settings(arguments: CurateArguments) -> ClientSettings:
    judging = arguments.judging
    return ClientSettings(
        concurrency=judging.concurrency,
        requests_per_minute=judging.requests_per_minute,
        tokens_per_minute=judging.tokens_per_minute,
        attempt_timeout_seconds=judging.attempt_timeout,
        deadline_seconds=judging.deadline,
    )


def _prices(texts: Iterable[str]) -> dict[str, Price]:
    prices = {}
    for text in texts:
        model, equals, price = text.rpartition("=")
        if not equals or not model:
            raise ConfigError(f"a teacher's price is MODEL=IN,OUT, for example my-model=2,8; got {text!r}")
        prices[model] = parse_price(price)
    return prices


def _judge(arguments: CurateArguments, teachers: LazyTeachers, stack: contextlib.ExitStack) -> LazyJudge:
    judging = arguments.judging
    if judging.judge is None:
        raise ConfigError(
            "avocado keeps captions by their completeness: name the judge's model with --judge, for example --judge "
            "gpt-4.1, or do without it: --min-completeness 0"
        )
    settings = JudgeSettings(
        model=judging.judge,
        base_url=judging.base_url,
        client=_client_settings(arguments),
        cache=teacher_cache(arguments),
        price=None if judging.price is None else parse_price(judging.price),
        max_cost_usd=judging.max_cost,
        parameters=judging.parameters(),
    )
    judge = LazyJudge(settings, teachers)
    stack.callback(judge.close)
    return judge


def _runner(arguments: CurateArguments) -> StageRunner:
    if not arguments.ray:
        return run_stage
    from avocet.curation.ray_run import RayRunner

    return RayRunner(num_actors=arguments.ray_actors, address=arguments.ray_address)


def _preview(
    arguments: CurateArguments,
    out: Path,
    settings: PipelineSettings,
    teachers: LazyTeachers,
    clips: Iterable[ManifestClip],
    runner: StageRunner,
    stack: contextlib.ExitStack,
) -> list[StageSummary]:
    """Go through the stages that cost nothing, and say how much the others will send and cost at most.

    Returns what the first ones did.
    """
    preview, judge, client = PreviewTeachers(teachers), None, None
    if settings.pipeline == "avocado" and settings.min_completeness:
        client = dataclasses.replace(
            arguments.judging, dry_run=True, max_cost=None, cache=teacher_cache(arguments)
        ).open_client(stack)
        judge = PreviewJudge(client)
        stack.callback(judge.close)
    count, front = preview_pipeline(
        pipeline_steps(settings, preview, judge),
        clips,
        out,
        runner=runner,
        workers=arguments.workers,
        max_attempts=arguments.max_attempts,
        progress=_terminal(),
    )
    _tell([summary.line() for summary in front])
    lines = [f"{count} clips would be asked about; at most, as if nothing was in the cache:"]
    lines += [total.line() for total in preview.totals]
    lines += [f"judge: {line}" for line in client.summary().lines()[:1]] if client is not None else []
    _tell(lines, result=arguments.judging.dry_run)
    return front


def _run(
    arguments: CurateArguments,
    steps: list[Step],
    clips: Iterable[ManifestClip],
    out: Path,
    runner: StageRunner,
    front: Sequence[StageSummary] = (),
) -> list[StageSummary]:
    summaries = run_steps(
        steps,
        clips,
        out,
        gone_through=front,
        runner=runner,
        workers=arguments.workers,
        max_attempts=arguments.max_attempts,
        progress=_terminal(),
    )
    _tell([summary.line() for summary in summaries[len(front) :]])
    return summaries


def _terminal() -> Progress | None:
    return _TerminalLine() if sys.stderr.isatty() else None


class _TerminalLine:
    """Keeps one line of the terminal up to date."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, summary: StageSummary) -> None:
        end = "\n" if self._stage not in ("", summary.stage) else ""
        self._stage = summary.stage
        print(f"{end}\r{printable(summary.line())}\x1b[K", end="", file=sys.stderr, flush=True)


def _finish(
    arguments: CurateArguments, out: Path, record: RunRecord, output: OutputSettings, summaries: list[StageSummary]
) -> int:
    """Write the data set and its card."""
    for format in get_args(OutputFormat):
        for split in SPLITS:
            # Of an earlier run: beside another split they would give validation clips to the training.
            _remove(_export_path(out, split, format))
    splits = write_examples(last_manifest(out, record.stages), out, output)
    for format in arguments.format:
        for split in SPLITS:
            if splits[split].num_clips:
                _export(out, split, format)
    card = make_card(out, output, splits)
    write_card(out, card)
    show(arguments, card.markdown(), card.to_json_line())
    return 1 if any(summary.num_failed for summary in summaries) else 0


def _export_path(out: Path, split: str, format: OutputFormat) -> Path:
    endings = {"parquet": ".parquet", "webdataset": "-shards"}
    return out / f"{split}{endings.get(format, f'.{format}.json')}"


def _export(out: Path, split: str, format: OutputFormat) -> None:
    """One side of the split in another format; it takes its name when it is complete."""
    target = _export_path(out, split, format)
    if format == "parquet":
        write_parquet(read_native(out / f"{split}.jsonl"), target)
        return
    from avocet.training.data import convert_examples, read_examples

    unfinished = out / f".{target.name}.part"
    _remove(unfinished)
    report = convert_examples(read_examples([out / f"{split}.jsonl"]), format, unfinished)
    os.replace(unfinished, target)
    lost = [f"{count} without {name}" for name, count in sorted(report.lost.items())]
    lost += [f"skipped: {one.where}: {one.reason}" for one in report.skipped[:5]]
    lost += [f"... {len(report.skipped) - 5} more skipped"] if len(report.skipped) > 5 else []
    _tell([f"{target}: {report.num_examples} examples", *lost])


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _captions(arguments: CurateArguments, out: Path) -> CaptionsIn:
    """Training examples of any format, or the captions that `avocet caption` wrote, and what is left out of them.

    All of the latter is in a file, and the first ones are said.
    """
    from avocet.curation.pipelines.captions_in import CaptionsIn, LeftOut, is_caption_file, read_captions
    from avocet.training.data import read_examples

    path, file = arguments.paths[0], out / "left_out.jsonl"
    if is_caption_file(path):
        given = read_captions(path, keep_cut_off=arguments.keep_cut_off)
    else:
        data = read_examples([path])
        rejected = (LeftOut(where=one.where, reason="unreadable", detail=one.reason) for one in data.rejected)
        given = CaptionsIn(examples=data.examples, left_out=tuple(rejected))
    file.unlink(missing_ok=True)
    if given.left_out:
        _write_lines(file, given.left_out)
        _tell([f"left out: {one.where}: {one.reason}: {one.detail}" for one in given.left_out[:10]])
        _tell([f"{len(given.left_out)} of {len(given.left_out) + len(given.examples)} are left out; all are in {file}"])
    if not given.examples:
        raise ConfigError(f"{path} holds no training examples and no captions ({len(given.left_out)} left out)")
    return given


def _write_lines(path: Path, records: Iterable[Record]) -> int:
    from avocet.curation.manifest import replacing

    count = 0
    with replacing(path) as file:
        for record in records:
            file.write(record.to_json_line() + "\n")
            count += 1
    return count


def _tell(lines: Iterable[str], *, result: bool = False) -> None:
    """To stderr, or to stdout when this is what was asked for."""
    for line in lines:
        print(printable(" ".join(line.split())), file=sys.stdout if result else sys.stderr)
