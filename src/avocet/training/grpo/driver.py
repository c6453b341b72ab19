"""A GRPO run from start to end: sample -> judge -> advantages -> update -> log -> save.

    run_grpo(plan, Path("runs/nano_grpo"), make_rubric(plan.rewards, judge=None, exact=True))

Each prompt is prefilled once for its whole group, when sampling and when scoring; the judge works beside the rollouts.
Resuming continues to the last digit: seeds are functions of (seed, step, clip), rollouts and rewards are on file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from avocet.errors import ConfigError
from avocet.models.features import FeatureStore
from avocet.rewards.rubric import BackgroundScorer, Rubric
from avocet.training.checkpoints import checkpoints
from avocet.training.data.mixture import load_mixture
from avocet.training.finetune.checkpoints import load_weights, restore_optimizer, save_checkpoint
from avocet.training.finetune.engine import Engine
from avocet.training.finetune.inputs import (
    LEFT_OUT_FILE,
    BatchReader,
    StageData,
    left_out_before,
    read_stage_data,
    write_left_out,
)
from avocet.training.finetune.loop import build_model, check_same_run, learning_rate, stage_facts
from avocet.training.finetune.module import backbone_of
from avocet.training.finetune.parts import describe_trainable, set_modes, set_trainable
from avocet.training.finetune.watch import METRICS_FILE, Watch, cut_metrics
from avocet.training.grpo.alarms import Alarms
from avocet.training.grpo.books import Books
from avocet.training.grpo.config import Grpo
from avocet.training.grpo.objective import GroupPolicy, Reference
from avocet.training.grpo.rollouts.base import RolloutEngine, WeightUpdate
from avocet.training.grpo.rollouts.in_process import InProcessEngine
from avocet.training.grpo.rollouts.parity import check_parity
from avocet.training.grpo.steps import Sampled, StepMaker
from avocet.training.inputs.plan import LengthPlan
from avocet.training.inputs.prefetch import Prefetcher
from avocet.training.run_folder import RUN_FILE, read_run, write_run, write_uncommitted

EngineMaker = Callable[[Any], RolloutEngine]
"""From the trained model to what samples from it."""

_WATCHING = ("mismatch_limit", "log_ratio_limit", "on_mismatch", "max_idle_steps")
"""Settings that change nothing that is learnt; another start may have others."""


def run_grpo(
    plan: Grpo,
    run_dir: Path,
    rubric: Rubric,
    *,
    rollouts: EngineMaker | None = None,
    parity: bool = True,
    resume: bool = False,
    engine: str = "auto",
) -> Path:
    """Run it and return the stage's folder, whose newest checkpoint is the result.

    Args:
        plan: the run.
        run_dir: the stage's folder is made in it.
        rubric: what captions are worth.
        rollouts: makes what samples; None: the trained model itself.
        parity: refuse to train on samples of an engine that does not agree with the trained model.
        resume: go on with the run that is there.
        engine: how training is spread over processes, "auto", "ddp" or "deepspeed:2".

    Raises:
        ConfigError: the folder holds a run and `resume` is False, or one of other settings or judges; wrong settings;
            labels that cannot be judged by, naming the clip.
        RolloutError: the rollout engine failed.
        NonFiniteLossError: too many refused steps in a row.
        NothingLearntError: too many steps in a row without anything to learn from.
        JudgeStop: the judge refuses everything, or the cost ceiling is reached; go on with `resume`.
    """
    config = plan.stage()
    folder = run_dir / plan.name
    existing = checkpoints(folder)
    if (existing or (folder / RUN_FILE).exists()) and not resume:
        raise ConfigError(f"{folder} already holds a run; add --resume to go on with it, or choose another --run-dir")
    rubric.check(load_mixture(plan.sources)[0])
    runner = Engine(config, engine, folder=str(folder))
    if runner.is_fsdp or engine == "deepspeed:3":
        raise ConfigError("GRPO needs whole weights in each process; use ddp or deepspeed:2")
    loaded = build_model(config, run_dir, (), device=str(runner.device))
    model: Any = loaded.model
    facts = stage_facts(plan, loaded.revision, runner) | {"judges": rubric.identity}
    is_new = not (folder / RUN_FILE).exists()
    if not is_new:
        _check_same(folder, facts)
    folder.mkdir(parents=True, exist_ok=True)
    data = runner.on_main(lambda: _group_data(plan, model, folder, is_new=is_new))
    steps_per_epoch = data.plan(config, runner.num_processes).steps_per_epoch
    facts |= {"data": data.identity(), "num_steps": config.num_steps(steps_per_epoch)}
    if not is_new:
        _check_same(folder, facts)
    torch.manual_seed(config.seed)  # all processes must draw the same adapter
    names = set_trainable(model, config.trainable, config.lora)
    reference = Reference(model, names) if plan.policy.kl_weight else None
    if config.read.feature_store_bytes:
        model.feature_store = FeatureStore(run_dir / "features", config.read.feature_store_bytes)
    if existing:
        load_weights(existing[-1][1], model, names)
    runner.prepare(model, names, GroupPolicy(plan.policy, plan.sampling.max_new_tokens))
    set_modes(model, backbone_of(model))
    first_step = restore_optimizer(existing[-1][1], runner) if existing else 0
    if runner.is_main:
        cut_metrics(folder / METRICS_FILE, first_step)
        _announce(plan, data, model, names, runner, rubric)
    sampler = rollouts(model) if rollouts else InProcessEngine(model, autocast=runner.uses_autocast)
    try:
        if runner.is_main and is_new:
            write_left_out(folder / LEFT_OUT_FILE, data.left_out)
            write_uncommitted(folder)
            write_run(folder, facts | {"rollouts": sampler.identity})
        if rollouts and parity:
            _check_parity(plan, sampler, runner, data, first_step)
        _train(plan, folder, runner, data, reference, sampler, rubric, first_step)
    finally:
        sampler.close()
    return folder


def _check_parity(plan: Grpo, sampler: RolloutEngine, engine: Engine, data: StageData, first_step: int) -> None:
    """Compare the engine with the trained model on a few clips, the longest and the shortest among them."""
    order = sorted(range(len(data.examples)), key=data.lengths.__getitem__)
    places = sorted({order[0], order[len(order) // 2], order[-1]})
    example = data.examples[places[0]]
    version = first_step * plan.updates_per_batch
    sampler.sync(WeightUpdate(version=version, model=engine.model, on_main=engine.on_main))

    def check() -> None:
        report = check_parity(
            sampler,
            engine.model,
            [data.examples[place].clip for place in places],
            instruction=example.instruction or None,
            sampling=plan.sampling,
        )
        report.require()

    engine.on_main(check)


def _train(
    plan: Grpo,
    folder: Path,
    engine: Engine,
    data: StageData,
    reference: Reference | None,
    sampler: RolloutEngine,
    rubric: Rubric,
    first_step: int,
) -> None:
    config = engine.config
    batches = data.plan(config, engine.num_processes)
    num_steps = config.num_steps(batches.steps_per_epoch)
    reader = BatchReader(data, batches, config, engine.model, autocast=engine.uses_autocast)
    books = Books(
        folder,
        rank=engine.rank,
        num_processes=engine.num_processes,
        first_step=first_step,
        settings={"sampling": plan.sampling.to_dict(), "group_size": plan.group_size, "engine": sampler.identity},
    )
    steps = range(first_step, num_steps)
    reading = Prefetcher(lambda step: reader.step(step, engine.rank), steps, depth=config.read.prefetch_steps)
    try:
        with (
            books,
            reading,
            BackgroundScorer(rubric) as scorer,
            Watch(engine, folder, config.name, num_steps, first_step) as watch,
        ):
            maker = StepMaker(plan, engine, data.examples, reference, sampler, scorer, books, first_step)
            alarms = Alarms(plan, watch.say)
            for step, sampled in _sampled_steps(plan, maker, steps, reading, batches, sampler, engine):
                result, figures = maker.update(sampled, learning_rate(config, step, num_steps))
                done, is_last = step + 1, step + 1 == num_steps
                if sampled.failures:
                    write_left_out(folder / LEFT_OUT_FILE, list(sampled.failures), done)
                left_out = int(engine.total([len(sampled.failures)])[0])
                if result is not None:
                    rate = learning_rate(config, step, num_steps)
                    watch.step(done, result, rate, left_out, log=done % max(config.log_every, 1) == 0 or is_last)
                watch.write({"step": done, **figures})
                alarms.step(done, result, figures)
                if (config.save_every and done % config.save_every == 0) or is_last:
                    save_checkpoint(folder, engine, done, config.keep)
    finally:
        reader.close()


def _sampled_steps(
    plan: Grpo,
    maker: StepMaker,
    steps: range,
    reading: Iterator[Any],
    batches: LengthPlan,
    sampler: RolloutEngine,
    engine: Engine,
) -> Iterator[tuple[int, Sampled]]:
    """The steps with their rollouts; with `overlap="next"` one is sampled before the one before it is learnt from."""
    waiting: tuple[int, Sampled] | None = None
    for step, (parts, failures) in zip(steps, reading, strict=True):
        sampler.sync(WeightUpdate(version=maker.version, model=engine.model, on_main=engine.on_main))
        sampled = maker.sample(step, parts, failures, batches.batch(step))
        if plan.overlap == "within":
            yield step, sampled
            continue
        if waiting is not None:
            yield waiting
        waiting = (step, sampled)
    if waiting is not None:
        yield waiting


def _group_data(plan: Grpo, model: Any, folder: Path, *, is_new: bool) -> StageData:
    """The examples, measured as prompts with a whole group of completions; what was left out at first stays out."""
    without = frozenset() if is_new else left_out_before(folder)
    data = read_stage_data(plan.sources, plan.stage(), model, folder, without)
    room = plan.group_size * plan.sampling.max_new_tokens
    own = [data.lessons.length(place, model) for place in range(len(data.examples))]
    lengths = tuple(length - target + room for length, target in zip(data.lengths, own, strict=True))
    return dataclasses.replace(data, lengths=lengths)


def _check_same(folder: Path, facts: dict[str, Any]) -> None:
    """Raise `ConfigError` when the run in `folder` is of other settings or judges, or its record cannot be read."""
    check_same_run(folder, facts, free=_WATCHING)
    before = read_run(folder)
    if before["judges"] != facts["judges"]:
        names = sorted(before["judges"].keys() | facts["judges"].keys())
        changed = [name for name in names if before["judges"].get(name) != facts["judges"].get(name)]
        told = "; ".join(f"{name} by {before['judges'].get(name)}, now {facts['judges'].get(name)}" for name in changed)
        raise ConfigError(
            f"{folder} was begun with other judges ({told}), whose rewards cannot be mixed; put them back, or choose "
            "another --run-dir"
        )


def _announce(plan: Grpo, data: StageData, model: Any, names: Sequence[str], engine: Engine, rubric: Rubric) -> None:
    batches = data.plan(engine.config, engine.num_processes)
    weights = ", ".join(f"{name} {weight:g}" for name, weight in rubric.weights.items())
    lines = [
        *data.report,
        *describe_trainable(model, tuple(names)),
        f"{plan.name}: {engine.config.num_steps(batches.steps_per_epoch)} steps of {plan.batch.max_examples} prompts x "
        f"{plan.group_size} captions; rewards {weights}",
        *plan.notices,
    ]
    print("\n".join(lines), flush=True)
