"""One fine-tuning stage from start to end: read -> forward -> backward -> step -> log -> evaluate -> save.

Resuming continues to the last digit: see `checkpoints`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avocet.errors import ConfigError
from avocet.models.features import FeatureStore
from avocet.models.lora import merge_lora
from avocet.models.registry import LoadedModel, load_model
from avocet.training.checkpoints import checkpoints
from avocet.training.finetune.checkpoints import (
    EMA_FILE,
    WEIGHTS_FILE,
    load_weights,
    restore_optimizer,
    save_checkpoint,
)
from avocet.training.finetune.config import FineTune
from avocet.training.finetune.engine import Engine
from avocet.training.finetune.inputs import (
    LEFT_OUT_FILE,
    BatchReader,
    StageData,
    left_out_before,
    read_stage_data,
    write_left_out,
)
from avocet.training.finetune.module import backbone_of
from avocet.training.finetune.parts import describe_trainable, set_modes, set_trainable
from avocet.training.finetune.preference import REFERENCE_FILE, GuidedDpo, score_reference
from avocet.training.finetune.watch import METRICS_FILE, Watch, cut_metrics
from avocet.training.inputs.prefetch import Prefetcher
from avocet.training.run_folder import read_run, run_facts, write_run, write_uncommitted


def fine_tune(
    config: FineTune,
    run_dir: Path,
    earlier: tuple[FineTune, ...] = (),
    *,
    resume: bool = False,
    engine: str = "auto",
) -> Path:
    """Run a stage and return its folder, whose newest checkpoint is the result.

    Args:
        config: the stage.
        run_dir: the stage's folder is made in it.
        earlier: stages that `starts_from` may name.
        resume: go on with the run that is there.
        engine: see `engine.ENGINES`.

    Raises:
        ConfigError: the folder holds a run and `resume` is False, or one of other settings; and wrong settings.
        NonFiniteLossError: too many refused steps in a row.
    """
    folder = run_dir / config.name
    existing = checkpoints(folder)
    if existing and not resume:
        raise ConfigError(f"{folder} already holds a run; add --resume to go on with it, or choose another --run-dir")
    runner = Engine(config, engine, folder=str(folder))
    loaded = build_model(config, run_dir, earlier, device=str(runner.device))
    model: Any = loaded.model
    origins = runner.on_main(lambda: origins_of(config, run_dir, earlier))
    facts = stage_facts(config, loaded.revision, runner) | {"starts_from": origins}
    if existing:
        check_same_run(folder, facts)
    folder.mkdir(parents=True, exist_ok=True)
    data, held_out = _read_data(config, model, folder, runner, is_new=not existing)
    steps_per_epoch = data.plan(config, runner.num_processes).steps_per_epoch
    facts |= {"data": data.identity(), "num_steps": config.num_steps(steps_per_epoch)}
    if existing:
        check_same_run(folder, facts)
    names = _make_trainable(config, model, run_dir)
    if config.preference is not None:
        # Before a checkpoint is put in: the reference is the model as the stage began.
        data, held_out = runner.on_main(
            lambda: _with_references(data, held_out, config, model, folder, loaded.revision)
        )
    if existing:
        load_weights(existing[-1][1], model, names)
    if runner.is_main:
        _announce(config, model, names, data, runner)
        if not existing:
            _write_start(folder, facts, data)
    runner.prepare(model, names, None if config.preference is None else GuidedDpo(config.preference))
    set_modes(model, backbone_of(model))
    first_step = restore_optimizer(existing[-1][1], runner) if existing else 0
    if runner.is_main:
        cut_metrics(folder / METRICS_FILE, first_step)
    _train(config, folder, runner, data, held_out, model, first_step)
    return folder


def _read_data(
    config: FineTune, model: Any, folder: Path, engine: Engine, *, is_new: bool
) -> tuple[StageData, StageData | None]:
    """What is trained on and what is held out; clips that were left out when the run began stay left out."""
    without = frozenset() if is_new else left_out_before(folder)
    data = engine.on_main(lambda: read_stage_data(config.sources, config, model, folder, without))
    data.check_lengths(config.batch)
    if not config.evaluation:
        return data, None
    held_out = engine.on_main(lambda: read_stage_data(config.evaluation, config, model, folder))
    held_out.check_lengths(config.batch)
    return data, held_out


def _make_trainable(config: FineTune, model: Any, run_dir: Path) -> tuple[str, ...]:
    """The model as the stage begins, of which nothing is trained but what is named."""
    # All processes must draw the same adapter.
    torch.manual_seed(config.seed)
    names = set_trainable(model, config.trainable, config.lora)
    if config.initial is not None:
        load_weights(Path(config.initial), model, names)
    if config.read.feature_store_bytes:
        model.feature_store = FeatureStore(run_dir / "features", config.read.feature_store_bytes)
    return names


def _with_references(
    data: StageData, held_out: StageData | None, config: FineTune, model: Any, folder: Path, revision: str
) -> tuple[StageData, StageData | None]:
    referenced = with_reference(data, config, model, folder, revision)
    return referenced, None if held_out is None else with_reference(held_out, config, model, folder, revision)


def _write_start(folder: Path, facts: dict[str, Any], data: StageData) -> None:
    """What the run is, and what it leaves out."""
    write_run(folder, facts)
    write_uncommitted(folder)
    # Of a start that was killed before its first checkpoint.
    (folder / LEFT_OUT_FILE).unlink(missing_ok=True)
    write_left_out(folder / LEFT_OUT_FILE, data.left_out)


def with_reference(data: StageData, config: FineTune, model: Any, folder: Path, revision: str) -> StageData:
    """The data with the reference's log-probabilities of all pairs; see `preference.score_reference`."""
    reader = BatchReader(data, data.plan(config, 1), config, model)
    try:
        pairs = score_reference(model, reader.items, data.lessons.pairs, folder / REFERENCE_FILE, revision=revision)
    finally:
        reader.close()
    return dataclasses.replace(data, lessons=dataclasses.replace(data.lessons, pairs=pairs))


def _train(
    config: FineTune,
    folder: Path,
    engine: Engine,
    data: StageData,
    held_out: StageData | None,
    model: Any,
    first_step: int,
) -> None:
    plan = data.plan(config, engine.num_processes)
    num_steps = config.num_steps(plan.steps_per_epoch)
    reader = BatchReader(data, plan, config, model, autocast=engine.uses_autocast)
    steps = range(first_step, num_steps)
    batches = Prefetcher(lambda step: reader.step(step, engine.rank), steps, depth=config.read.prefetch_steps)
    try:
        with batches, Watch(engine, folder, config.name, num_steps, first_step) as watch:
            for step, (parts, failures) in zip(steps, batches, strict=True):
                rate = learning_rate(config, step, num_steps)
                result = engine.step(parts, step, rate)
                done, is_last = step + 1, step + 1 == num_steps
                if failures:
                    write_left_out(folder / LEFT_OUT_FILE, failures, done)
                left_out = int(engine.total([len(failures)])[0])
                watch.step(done, result, rate, left_out, log=_due(config.log_every, done) or is_last)
                if result.refused:
                    watch.say(f"step {done} refused: loss {result.loss}, gradient norm {result.gradient_norm}")
                if held_out is not None and (_due(config.evaluate_every, done) or is_last):
                    watch.write({"step": done, "held_out_loss": _evaluate(config, engine, held_out, model)})
                if _due(config.save_every, done) or is_last:
                    save_checkpoint(folder, engine, done, config.keep)
            if model.feature_store is not None:
                watch.say(model.feature_store.summary())
    finally:
        reader.close()


def learning_rate(config: FineTune, step: int, num_steps: int) -> float:
    """Linear warm-up to the peak, then a cosine down to `final_fraction` of it."""
    settings = config.optimizer
    warmup = settings.warmup_steps
    if settings.warmup_ratio is not None:
        warmup = math.ceil(settings.warmup_ratio * num_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    end = settings.decay_steps or num_steps
    progress = min(1.0, (step - warmup) / max(1, end - warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return settings.learning_rate * (settings.final_fraction + (1 - settings.final_fraction) * cosine)


def build_model(config: FineTune, run_dir: Path, earlier: tuple[FineTune, ...], *, device: str) -> LoadedModel:
    """The model that the stage starts from: its own, with the results of the stages that `starts_from` names.

    Raises `ConfigError` for a stage that is unknown, unfinished, or of another model.
    """
    loaded = load_model(config.model, device=device, dtype=config.precision)
    model: Any = loaded.model
    known = {stage.name: stage for stage in earlier}
    for name in config.starts_from:
        if name not in known:
            raise ConfigError(f"stage {config.name!r} starts from {name!r}; the stages before it are {sorted(known)}")
        if known[name].model != config.model:
            raise ConfigError(
                f"stage {config.name!r} is of {config.model!r}, {name!r} of {known[name].model!r}; they must share it"
            )
        add_result(model, known[name], run_dir / name)
    return loaded


def add_result(model: Any, stage: FineTune, folder: Path) -> None:
    """Give the model what a finished stage learnt, its adapter merged; everything is frozen afterwards.

    Raises `ConfigError` when the stage has no checkpoint.
    """
    put_weights(model, stage, folder)
    if stage.lora is not None:
        merge_lora(model)
    module: nn.Module = model
    module.requires_grad_(False)


def put_weights(model: Any, stage: FineTune, folder: Path) -> tuple[str, ...]:
    """The weights of a stage's newest checkpoint (its average, where it kept one), the adapter attached; their names.

    They take the type of the weights that they replace. Raises `ConfigError` when the stage is not finished.
    """
    path = result_of(stage, folder)
    names = set_trainable(model, stage.trainable, stage.lora)
    kinds = {name: model.get_parameter(name).dtype for name in names}
    load_weights(path.parent, model, names, path.name)
    for name, kind in kinds.items():
        parameter = model.get_parameter(name)
        # The adapter is merged in float32.
        if ".lora_" not in name:
            parameter.data = parameter.data.to(kind)
    return names


def result_of(stage: FineTune, folder: Path) -> Path:
    """The file of a finished stage's weights. Raises `ConfigError` for a stage that has not made all of its steps."""
    found = checkpoints(folder)
    if not found:
        raise ConfigError(f"stage {stage.name!r} has no checkpoint in {folder}; train it first")
    step, path = found[-1]
    # GRPO, which may be ended at any step, says nothing.
    num_steps = read_run(folder).get("num_steps", step)
    if step < num_steps:
        raise ConfigError(
            f"stage {stage.name!r} in {folder} was cut off at step {step} of {num_steps}; finish it with --resume first"
        )
    return path / (EMA_FILE if stage.ema_decay is not None else WEIGHTS_FILE)


def origins_of(config: FineTune, run_dir: Path, earlier: tuple[FineTune, ...]) -> dict[str, str]:
    """Checkpoint and SHA-256 of all weights that the stage adds to its model before it begins, by what they are of."""
    stages = {stage.name: stage for stage in earlier}
    files = {name: result_of(stages[name], run_dir / name) for name in config.starts_from}
    if config.initial is not None:
        files["initial"] = Path(config.initial) / WEIGHTS_FILE
    found = {}
    for name, path in files.items():
        with path.open("rb") as file:
            found[name] = f"{path.parent.name} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    return found


def stage_facts(config: Any, revision: str, engine: Engine) -> dict[str, Any]:
    """What `run.json` says: configuration (a frozen dataclass), code, versions, model revision, devices."""
    return {
        **run_facts(config),
        "model_revision": revision,
        "num_processes": engine.num_processes,
        "engine": str(engine.accelerator.distributed_type.value),
        "device": str(engine.device),
    }


def check_same_run(folder: Path, facts: dict[str, Any], free: Collection[str] = ()) -> None:
    """Raise `ConfigError` when the run in `folder` is of other settings or data, or began with other weights.

    How it is logged, saved, read ahead and spread over processes may differ, and so may the settings in `free`.
    """
    before = read_run(folder)
    now = json.loads(json.dumps(facts))
    watching = {"log_every", "save_every", "evaluate_every", "evaluation", "keep", "trackers", "read", *free}
    keys = (before["config"].keys() | now["config"].keys()) - watching
    changed = sorted(key for key in keys if before["config"].get(key) != now["config"].get(key))
    if before["model_revision"] != now["model_revision"]:
        changed.append("the model's weights")
    if "starts_from" in now and before.get("starts_from") != now["starts_from"]:
        changed.append("the results of the stages that it starts from")
    if changed:
        raise ConfigError(
            f"{folder} was started with other settings ({', '.join(changed)} changed); put them back, or choose "
            "another --run-dir"
        )
    if "data" in now and before.get("data") != now["data"]:
        counts = before.get("data", {}).get("num_examples"), now["data"]["num_examples"]
        raise ConfigError(
            f"{folder} was started with other data: {counts[0]} usable examples then, {counts[1]} now, whose clips, "
            "texts or lengths differ; put them back, or choose another --run-dir"
        )


def _announce(config: FineTune, model: Any, names: tuple[str, ...], data: StageData, engine: Engine) -> None:
    plan = data.plan(config, engine.num_processes)
    kind = engine.accelerator.distributed_type.value.lower()
    lines = [
        *data.report,
        *describe_trainable(model, names),
        f"{config.name}: {config.num_steps(plan.steps_per_epoch)} steps, {plan.steps_per_epoch} per epoch, on "
        f"{engine.num_processes} x {engine.device.type}{'' if kind == 'no' else f' ({kind})'}",
    ]
    print("\n".join(lines), flush=True)


def _evaluate(config: FineTune, engine: Engine, held_out: StageData, model: Any) -> float:
    reader = BatchReader(
        held_out, held_out.plan(config, engine.num_processes), config, model, autocast=engine.uses_autocast
    )
    try:
        return engine.evaluate(reader.evaluation(engine.rank, engine.num_processes))
    finally:
        reader.close()


def _due(every: int, done: int) -> bool:
    return every > 0 and done % every == 0
