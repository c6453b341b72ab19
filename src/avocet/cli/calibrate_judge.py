"""`avocet calibrate-judge`: how wrong is a judge? Its verdicts on captions whose errors are known.

avocet calibrate-judge --judge gpt-4.1 --annotations video_salmonn2_test.json --out runs/judge
avocet calibrate-judge --judge gpt-4.1 --against gpt-4o --set vs2 --num-clips 50 --out runs/judges
avocet calibrate-judge --judge gpt-4.1 --set theatre --dry-run
avocet calibrate-judge --judge exact --json
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, arg

from avocet.cli._judge_options import EXACT, JudgeOptions
from avocet.cli._shared import counter, find_annotations
from avocet.errors import ConfigError

if TYPE_CHECKING:
    from avocet.evaluation.judge_calibration import CalibrationPlan
    from avocet.judging.client import JudgeClient
    from avocet.judging.judge import Judge


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrateArguments:
    """Show a judge captions with planted errors and compare what it finds with what is planted."""

    judging: Annotated[JudgeOptions, arg(name="")] = dataclasses.field(default_factory=JudgeOptions)
    against: str | None = None
    """A second judge, for a table of what changes with the judge; exact is the theatre's own."""
    against_base_url: str | None = None
    """Address of the second judge's server; the first one's if not given."""
    against_price: str | None = None
    """Like --price, for the second judge."""
    captions: Annotated[Literal["theatre", "vs2", "both"] | None, arg(name="set")] = None
    """Where the captions come from: staged scripts, or the reference captions and events of the benchmark vs2. Both if
    not given; the theatre alone for the judge exact, which knows scripts only."""
    annotations: Path | None = None
    """The annotation file of vs2; if not given, it is looked for in the folder AVOCET_BENCHMARK_DATA."""
    num_clips: int = 20
    """Scripts, and videos of vs2. Each gives one caption per kind of error."""
    runs: int = 3
    """How often each caption is judged."""
    seed: int = 0
    """Which scripts and videos, and what is planted."""
    level: int = 2
    """Of the theatre's scripts."""
    errors: tuple[str, ...] = ()
    """Kinds of error; all if not given."""
    no_references: bool = False
    """Leave out the pairs of reference captions with and without a change."""
    out: Path | None = None
    """Keep verdicts, items and report here; an interrupted run goes on where it stopped."""
    json: bool = False
    """Print one JSON object instead of Markdown."""


def main(argv: list[str]) -> int:
    """Run `avocet calibrate-judge`. Returns 0 once the report is printed, 2 when nothing could be scored."""
    arguments = tyro.cli(
        CalibrateArguments,
        args=argv,
        prog="avocet calibrate-judge",
        config=(FlagCreatePairsOff,),
        description="How wrong is a judge? Its verdicts on captions whose errors are known.",
    )
    names = _names(arguments)
    plan = _plan(arguments, names)
    with contextlib.ExitStack() as stack:
        clients = [_client(arguments, stack, name, is_second=place > 0) for place, name in enumerate(names)]
        judges = [_judge(arguments, client) for client in clients]
        if arguments.judging.dry_run:
            return _dry_run(arguments, plan, judges, clients)
        try:
            report = plan.calibrate(judges, folder=arguments.out, progress=counter("verdicts"))
        finally:
            # Also of a run that stopped: it was paid for.
            costs = {client.model: client.summary() for client in clients if client is not None}
            for model, summary in costs.items():
                print("\n".join(f"{model}: {line}" for line in summary.lines()), file=sys.stderr)
    report = dataclasses.replace(report, costs={model: summary.to_dict() for model, summary in costs.items()})
    text = report.to_markdown([f"{model}: {line}" for model, each in costs.items() for line in each.lines()])
    if arguments.out is not None:
        report.write(arguments.out, text)
    print(json.dumps(report.to_dict(), ensure_ascii=False) if arguments.json else text)
    return 0 if report.num_scored else 2


def _names(arguments: CalibrateArguments) -> list[str]:
    """The judges, the first one first."""
    judge = arguments.judging.judge
    if judge is None:
        raise ConfigError("name the judge's model with --judge, for example --judge gpt-4.1, or --judge exact")
    if arguments.against == judge:  # the cache does not tell servers apart
        raise ConfigError(f"--against must be another judge than {judge}")
    return [judge] if arguments.against is None else [judge, arguments.against]


def _plan(arguments: CalibrateArguments, names: Sequence[str]) -> CalibrationPlan:
    from avocet.evaluation.benchmarks import load_benchmark
    from avocet.evaluation.judge_calibration import make_plan

    captions = arguments.captions or ("theatre" if EXACT in names else "both")
    if EXACT in names and captions != "theatre":
        raise ConfigError(f"the judge exact knows scripts of the theatre only, got --set {captions}")
    items = []
    if captions != "theatre":
        vs2 = load_benchmark("vs2")
        path = arguments.annotations or find_annotations(vs2, otherwise=", or --set theatre to do without")
        items = vs2.read(path)
    return make_plan(
        None if captions == "theatre" else items,
        theatre_level=None if captions == "vs2" else arguments.level,
        num_clips=arguments.num_clips,
        runs=arguments.runs,
        seed=arguments.seed,
        errors=arguments.errors or None,
        references=not arguments.no_references,
        repeated_is_error=names == [EXACT],
    )


def _client(
    arguments: CalibrateArguments, stack: contextlib.ExitStack, name: str, *, is_second: bool
) -> JudgeClient | None:
    if name == EXACT:
        return None
    options = arguments.judging
    if is_second:
        options = dataclasses.replace(
            options, base_url=arguments.against_base_url or options.base_url, price=arguments.against_price
        )
    return options.open_client(stack, name)


def _judge(arguments: CalibrateArguments, client: JudgeClient | None) -> Judge[Any]:
    from avocet.evaluation.exact_judge import ExactEventJudge
    from avocet.judging.events import EventJudge

    return ExactEventJudge() if client is None else EventJudge(client, parameters=arguments.judging.parameters())


def _dry_run(
    arguments: CalibrateArguments,
    plan: CalibrationPlan,
    judges: Sequence[Judge[Any]],
    clients: Sequence[JudgeClient | None],
) -> int:
    """Say what a run would cost; nothing is sent and nothing is written."""
    asking = [(judge, client) for judge, client in zip(judges, clients, strict=True) if client is not None]
    for judge, _ in asking:
        plan.judge_all(judge)
    summaries = {client.model: client.summary() for _, client in asking}
    if arguments.json:
        print(json.dumps({model: summary.to_dict() for model, summary in summaries.items()}))
    else:
        for model, summary in summaries.items():
            print("\n".join(f"{model}: {line}" for line in summary.lines()))
        print(f"{plan.num_captions} captions, {plan.runs} runs" + ("" if asking else ": no judge that is asked"))
    return 0
