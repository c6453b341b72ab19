"""One training stage from start to end: batch -> loss -> backward -> step -> log -> evaluate -> save.

Resuming continues to the bit: batches and augmentations are functions of (seed, step), the optimizer's
moments are in the checkpoint, and nothing else is random.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from avocet.errors import AvocetError, ConfigError
from avocet.training import checkpoints
from avocet.training.batches import BatchPlan, Example, make_example
from avocet.training.config import Recipe, StageConfig
from avocet.training.dev import dev_scores
from avocet.training.model import TrainableModel, as_module
from avocet.training.objectives import (
    AuxiliaryHeads,
    LossAndMetrics,
    TrainingModule,
    encoder_ctc_step,
    frame_labels_step,
    token_step,
)
from avocet.training.parallel import Group, launch
from avocet.training.recipes import load_recipe
from avocet.training.run_folder import check_same_stage, write_run_facts
from avocet.training.store import ClipStore, StoredClip


class NonFiniteLossError(AvocetError):
    """The loss or the gradient is not a number; nothing was stepped."""


def run_stage(recipe_path: Path, name: str, run_dir: Path, *, resume: bool) -> Path:
    """Train the stage `name` of a recipe and return its folder, whose newest checkpoint is the result.

    Raises `ConfigError` when the folder already holds a run and `resume` is False.
    """
    config = find_stage(load_recipe(recipe_path), name)
    folder = run_dir / name
    if checkpoints.checkpoints(folder):
        if not resume:
            raise ConfigError(
                f"{folder} already holds a run; add --resume to go on with it, or choose another --run-dir"
            )
        check_same_stage(folder, config)
    if config.num_processes == 1:
        _run(Group(), recipe_path, name, run_dir)
    else:
        launch(config.num_processes, _run, recipe_path, name, run_dir)
    return folder


def find_stage(recipe: Recipe, name: str) -> StageConfig:
    """The stage called `name`. Raises `ConfigError` with the names there are."""
    for stage in recipe.stages():
        if stage.name == name:
            return stage
    raise ConfigError(f"recipe {recipe.name!r} has no stage {name!r}; it has {[s.name for s in recipe.stages()]}")


def _run(group: Group, recipe_path: Path, name: str, run_dir: Path) -> None:
    """Build, load, train: the same in every process."""
    recipe = load_recipe(recipe_path)
    config, folder = find_stage(recipe, name), run_dir / name
    existing = checkpoints.checkpoints(folder)
    torch.manual_seed(config.seed)
    model = recipe.build_model()
    module = TrainingModule(as_module(model), build_heads(model))
    for earlier in config.starts_from:
        _load_stage(recipe, run_dir, earlier, module)
    trained = set_trainable(module, config.trainable)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        lr=config.optimizer.learning_rate,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
    )
    first_step = 0
    if existing:
        first_step = checkpoints.restore(existing[-1][1], module, optimizer)
    if group.rank == 0:
        _cut_log(folder / "log.jsonl", first_step)
        write_run_facts(folder, recipe, config.name)
        print(f"{name}: training {', '.join(trained)}; from step {first_step} of {config.max_steps}", flush=True)
    _train(group, config, run_dir, model, module, optimizer, first_step)


def _train(
    group: Group,
    config: StageConfig,
    run_dir: Path,
    model: TrainableModel,
    module: TrainingModule,
    optimizer: torch.optim.Optimizer,
    first_step: int,
) -> None:
    folder = run_dir / config.name
    plan = BatchPlan([ClipStore(run_dir / "data" / name) for name in config.stores], config.batch_size, config.seed)
    module.train()
    clock, clips = time.perf_counter(), 0
    for step in range(first_step, config.max_steps):
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate(config, step)
        batch = plan.batch(step)
        examples = draw_examples(group, config, batch, step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.autocast):
            loss, metrics = stage_loss(model, module.heads, config, examples)
        # The mean over all answer tokens of the whole batch, whichever process holds them.
        weight = metrics.get("num_tokens", 1.0)
        share = weight / group.total(weight)
        metrics["gradient_norm"] = optimizer_step(config, group, module, optimizer, loss, share, step)
        clips += len(batch)
        done, is_last = step + 1, step + 1 == config.max_steps
        if group.rank == 0 and (_due(config.log_every, done) or is_last):
            speed = clips / (time.perf_counter() - clock)
            _log(
                folder,
                {"step": done, "loss": loss.item(), **metrics, "lr": parameters["lr"], "clips_per_second": speed},
            )
            clock, clips = time.perf_counter(), 0
        if group.rank == 0 and _due(config.evaluate_every, done):
            assert config.evaluate_store is not None
            scores = dev_scores(model, ClipStore(run_dir / "data" / config.evaluate_store), config.evaluate_clips)
            _log(folder, {"step": done, **{f"dev_{key}": value for key, value in scores.items()}})
            clock, clips = time.perf_counter(), 0
        if group.rank == 0 and (_due(config.save_every, done) or is_last):
            checkpoints.save_checkpoint(folder, module, optimizer, done)


def _due(every: int, done: int) -> bool:
    """Whether something that happens every so many steps happens after step `done`; 0 is never."""
    return every > 0 and done % every == 0


def draw_examples(group: Group, config: StageConfig, batch: list[StoredClip], step: int) -> list[Example]:
    """This process's examples of batch `step`.

    One generator per clip: what is drawn does not depend on how many processes share the batch.
    """
    return [
        make_example(clip, config.mixture, np.random.default_rng([config.seed, 1, step, place]), config.spec_augment)
        for place, clip in group.share(list(enumerate(batch)))
    ]


def stage_loss(
    model: TrainableModel,
    heads: AuxiliaryHeads,
    config: StageConfig,
    examples: list[Example],
) -> LossAndMetrics:
    """The loss of one batch under the stage's objective."""
    if config.objective == "ctc":
        return encoder_ctc_step(model, heads, examples)
    if config.objective == "frame_labels":
        return frame_labels_step(model, heads, examples)
    return token_step(model, heads, examples, config)


def optimizer_step(
    config: StageConfig,
    group: Group,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: torch.Tensor,
    share: float,
    step: int,
) -> float:
    """Backward of this process's `share` of the loss, all-reduce, clip, step.

    Returns the gradient's norm before clipping. Raises `NonFiniteLossError` before anything is stepped.
    """
    optimizer.zero_grad(set_to_none=True)
    (loss * share).backward()  # type: ignore[no-untyped-call]
    group.add_gradients(module.parameters())
    parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
    norm = nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_norm).item()
    if not math.isfinite(loss.item()) or not math.isfinite(norm):
        raise NonFiniteLossError(
            f"{config.name}: loss {loss.item()} and gradient norm {norm} at step {step}; resume from the last "
            "checkpoint with a lower learning rate"
        )
    optimizer.step()
    return norm


def learning_rate(config: StageConfig, step: int) -> float:
    """Linear warm-up, then cosine down to `final_fraction` of the peak at the end of the decay."""
    optimizer = config.optimizer
    end = optimizer.decay_steps or config.max_steps
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    progress = (step - optimizer.warmup_steps) / max(1, end - optimizer.warmup_steps)
    floor = optimizer.final_fraction
    return optimizer.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def build_heads(model: TrainableModel) -> AuxiliaryHeads:
    """Heads of the right widths for `model`, found by asking the model for the features of a blank input."""
    frames = model.resize_frames(np.zeros((1, 3, 8, 8), np.uint8))
    with torch.no_grad():
        vision = model.vision_features(frames)
        tokens = model.align_visual(vision)
        audio = model.audio_features([model.log_mel(np.zeros(16_000, np.float32))])[0]
    return AuxiliaryHeads(
        audio_width=audio.shape[-1],
        vision_width=vision.shape[-1],
        pair_width=2 * tokens.shape[-2] * tokens.shape[-1],
        token_width=tokens.shape[-1],
    )


def set_trainable(module: TrainingModule, names: tuple[str, ...]) -> list[str]:
    """Freeze all but the model's modules (or parameters) called `names` and the heads; returns what is trained.

    Raises `ConfigError` for a name the model does not have.
    """
    known = {name.split(".", 1)[0] for name, _ in module.model.named_parameters()}
    unknown = set(names) - known
    if unknown:
        raise ConfigError(f"trainable names {sorted(unknown)} are not parts of the model; it has {sorted(known)}")
    for name, parameter in module.model.named_parameters():
        # Whisper's sinusoid positions come frozen and stay so.
        parameter.requires_grad_(parameter.requires_grad and name.split(".", 1)[0] in names)
    return sorted(names)


def _load_stage(recipe: Recipe, run_dir: Path, name: str, module: TrainingModule) -> None:
    """Load what stage `name` trained (its modules and its heads) from its newest checkpoint."""
    stage = find_stage(recipe, name)
    found = checkpoints.checkpoints(run_dir / name)
    if not found:
        raise ConfigError(f"stage {name!r} has no checkpoint below {run_dir}; run it first")
    heads = {"ctc": ("heads.symbols.",), "frame_labels": ("heads.patches.", "heads.motions.")}.get(
        stage.objective, ("heads.",)
    )
    prefixes = (*(f"model.{part}" for part in stage.trainable), *heads)
    checkpoints.load_weights(found[-1][1], module, prefixes)


def _log(folder: Path, values: dict[str, float]) -> None:
    rounded = {key: value if isinstance(value, int) else float(f"{value:.6g}") for key, value in values.items()}
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(rounded) + "\n")
    print(" ".join(f"{key}={value}" for key, value in rounded.items()), flush=True)


def _cut_log(path: Path, step: int) -> None:
    """Drop the log lines after the checkpoint that a resumed run goes on from."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in lines))
