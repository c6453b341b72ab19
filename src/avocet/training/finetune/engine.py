"""One step of training on one device, DDP, FSDP2 or DeepSpeed ZeRO, through accelerate.

The loss of a step is the mean over all its target tokens, on whichever process and in whichever micro-batch they are:
their number is counted before the first forward pass, and every sum is divided by it. What is random (dropout) is a
function of (seed, step, process, micro-batch), so there is no generator state to keep.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from torch import nn

from avocet.errors import AvocetError, ConfigError
from avocet.records import Task
from avocet.training.finetune.config import FineTune
from avocet.training.finetune.devices import ENGINES, make_accelerator, make_optimizer, use_liger
from avocet.training.finetune.module import FineTuneModule, Item, MicroBatch, Objective, Supervised, backbone_of
from avocet.training.finetune.parts import decoder_layers

_TASKS: tuple[str, ...] = get_args(Task)
_RANDOM_STREAM = 0x5EED
_T = TypeVar("_T")


class NonFiniteLossError(AvocetError):
    """Several steps in a row had a loss or a gradient that is not finite; none of them was taken."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step did; the same on all processes but for `prompt_tokens`."""

    loss: float
    """Of supervised stages the mean over the target tokens of the step; NaN where there was none."""
    figures: Mapping[str, float]
    """Mean of each column of the objective that has anything in this step, where there are several columns."""
    task_losses: Mapping[str, float]
    gradient_norm: float
    """Before clipping."""
    num_targets: int
    num_tokens: int
    """Prompt and target tokens."""
    num_examples: int
    refused: bool
    """Whether loss or gradient were not finite, and nothing was stepped."""


_NOTHING = StepResult(
    loss=float("nan"),
    figures={},
    task_losses={},
    gradient_norm=float("nan"),
    num_targets=0,
    num_tokens=0,
    num_examples=0,
    refused=False,
)
"""Of a step without any example that could be read: there is no loss, and nothing is stepped."""


class Engine:
    """A trained module on its devices. Make it first, since it starts the process group; then `prepare`."""

    def __init__(self, config: FineTune, engine: str = "auto", *, cpu: bool | None = None, folder: str = ".") -> None:
        """
        Args:
            config: the stage.
            engine: one of `ENGINES`; "auto" takes what `accelerate launch` was configured for, else DDP.
            cpu: train on the CPU; None: when there is no GPU.
            folder: where trackers write.

        Raises:
            ConfigError: an unknown engine, or settings that it cannot do.
            MissingExtraError: accelerate, DeepSpeed or a tracker is not installed.
        """
        if engine not in ENGINES:
            raise ConfigError(f"unknown engine {engine!r}; engines are {', '.join(ENGINES)}")
        self.config = config
        self.accelerator = make_accelerator(config, engine, cpu, folder)
        kind = str(self.accelerator.distributed_type.value)
        self.is_deepspeed = kind == "DEEPSPEED"
        self.is_fsdp = engine == "fsdp2" or kind == "FSDP"
        if engine.startswith("deepspeed") and not self.is_deepspeed:
            raise ConfigError(f"{engine} was asked for, but accelerate set up {kind}; start it with torchrun")
        if self.is_fsdp and not torch.distributed.is_initialized():
            raise ConfigError("fsdp2 shards over processes; start them with torchrun or `accelerate launch`")
        if self.is_deepspeed and config.ema_decay is not None:
            raise ConfigError("ema_decay is not supported with DeepSpeed; use ddp or fsdp2")
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started != self.num_processes:
            raise ConfigError(
                f"{started} processes were started, but accelerate set up {self.num_processes} with {kind} on "
                f"{self.device}; several processes on CPUs need ddp or fsdp2"
            )
        self.module: Any = None
        self.objective: Objective = Supervised()
        self.optimizer: Any = None
        self.names: tuple[str, ...] = ()
        self.ema: dict[str, torch.Tensor] = {}
        self.refused_in_a_row = 0

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def num_processes(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    @property
    def model(self) -> Any:
        """The model inside of the wrappers."""
        return self.accelerator.unwrap_model(self.module).model

    @property
    def uses_autocast(self) -> bool:
        """Whether forward passes run under bfloat16 autocast; DeepSpeed casts by itself."""
        return self.config.precision == "bfloat16" and not self.is_deepspeed

    def on_main(self, function: Callable[[], _T]) -> _T:
        """What a call on the first process returns, for all of them; it may take days. Raises what it raises."""
        if self.num_processes == 1:
            return function()
        # The group of the gradients gives up after minutes, as it should.
        patient: Any = torch.distributed.new_group(backend="gloo", timeout=datetime.timedelta(days=7))
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box = [function(), None]
            except AvocetError as error:
                box = [None, error]
        torch.distributed.broadcast_object_list(box, src=0, group=patient)
        torch.distributed.destroy_process_group(patient)
        if box[1] is not None:
            raise box[1]
        result: _T = box[0]
        return result

    def prepare(self, model: nn.Module, names: Sequence[str], objective: Objective | None = None) -> None:
        """Wrap a model whose trained parameters have these names, and make its optimizer."""
        self.names = tuple(names)
        self.objective = objective or Supervised()
        for name in self.names:
            parameter = model.get_parameter(name)
            parameter.data = parameter.data.float()
        module = self.objective.module(model.to(self.device), self.config.loss_chunk)
        if self.config.gradient_checkpointing:
            backbone: Any = backbone_of(model)
            # The non-reentrant kind also works when nothing that enters a layer needs a gradient.
            enable = getattr(backbone, "activation_checkpointing_enable", None)
            enable = enable or backbone.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        if self.config.liger:
            use_liger(backbone_of(model))
        if self.is_fsdp:
            # accelerate shards on GPUs only, PyTorch's own call also on CPUs.
            self._shard(module)
            self.module = module
            self.optimizer = make_optimizer(model, self.names, self.config.optimizer)
        else:
            optimizer = make_optimizer(model, self.names, self.config.optimizer)
            self.module, self.optimizer = self.accelerator.prepare(module, optimizer)
        if self.config.ema_decay is not None:
            self.ema = {name: parameter.detach().clone() for name, parameter in self.parameters().items()}

    def _shard(self, module: FineTuneModule) -> None:
        """Each decoder layer by itself, then the rest; frozen towers stay whole, so that a feature store can use them.

        Gradients are averaged in float32 whatever the layers compute in.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy()
        if self.config.precision == "bfloat16":
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        model: Any = module.model
        whole = [trunk.module for trunk in model.trunks().values() if not _has_trained(trunk.module)]
        settings: dict[str, Any] = {
            "mesh": init_device_mesh(self.device.type, (self.num_processes,)),
            "mp_policy": policy,
            "ignored_params": {parameter for tower in whole for parameter in tower.parameters()},
        }
        for layer in decoder_layers(backbone_of(model)):
            fully_shard(layer, **settings)
        fully_shard(module, **settings)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trained parameters by their name in the model: whole ones, or this process's shares."""
        inner = self.accelerator.unwrap_model(self.module)
        return {name: inner.get_parameter(f"model.{name}") for name in self.names}

    def step(self, batches: Sequence[MicroBatch], step: int, learning_rate: float) -> StepResult:
        """Forward and backward over the micro-batches of this process, then one step of the optimizer.

        Raises:
            NonFiniteLossError: after `max_refused_steps` refused ones in a row, or on DeepSpeed when gradients of the
                step are in its buffers already.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        totals = self._totals(batches)
        if not any(total for column, total in zip(self.objective.columns, totals, strict=True) if column.weight):
            return _NOTHING
        scale = self._scale(totals)
        self.optimizer.zero_grad()
        sums: list[tuple[Item, list[float]]] = []
        healthy = True
        for place, batch in enumerate(batches):
            is_last = place == len(batches) - 1
            self._seed(step, place)
            with self._synchronised(is_last):
                values = self._forward(batch)
                if self.is_deepspeed and not self._healthy_everywhere(values, place, step):
                    healthy = False
                    break
                loss = (values * scale).sum() * (0.0 if batch.is_filler else self.num_processes)
                self._backward(loss, is_last)
            if not batch.is_filler:
                sums += zip(batch.items, values.detach().tolist(), strict=True)
        return self._finish(sums, totals, healthy, step)

    def _totals(self, batches: Sequence[MicroBatch]) -> list[int]:
        """The divisor of each column, over all processes."""
        items = [item for batch in batches if not batch.is_filler for item in batch.items]
        counts = [self.objective.counts(item) for item in items]
        own = [float(sum(count[k] for count in counts)) for k in range(len(self.objective.columns))]
        return [int(value) for value in self.total(own)]

    def _scale(self, totals: Sequence[int]) -> torch.Tensor:
        """float64 (columns,): weight / divisor."""
        scale = [column.weight / max(total, 1) for column, total in zip(self.objective.columns, totals, strict=True)]
        return torch.tensor(scale, dtype=torch.float64, device=self.device)

    def _finish(
        self, sums: Sequence[tuple[Item, list[float]]], totals: Sequence[int], healthy: bool, step: int
    ) -> StepResult:
        columns = self.objective.columns
        tasks = list(_TASKS)
        # Of tasks, the first column: its sum and its divisor.
        of_tasks = [sum(row[0] for item, row in sums if item.task == name) for name in tasks]
        of_tasks += [
            float(sum(self.objective.counts(item)[0] for item, _ in sums if item.task == name)) for name in tasks
        ]
        own = [float(sum(item.num_tokens for item, _ in sums)), float(len(sums))]
        own += [sum(row[k] for _, row in sums) for k in range(len(columns))]
        numbers = self.total([*own, *of_tasks])
        means = [value / max(total, 1) for value, total in zip(numbers[2:], totals, strict=False)]
        loss = sum(column.weight * mean for column, mean in zip(columns, means, strict=True) if column.weight)
        loss = loss if healthy else float("nan")
        norm = self._gradient_norm() if healthy else float("nan")
        refused = not (np.isfinite(loss) and np.isfinite(norm))
        if not refused and not self.is_deepspeed:
            self.optimizer.step()
            self._update_ema()
        self.optimizer.zero_grad()
        self._count_refusal(refused, step, loss, norm)
        task_sums, task_counts = numbers[-2 * len(tasks) : -len(tasks)], numbers[-len(tasks) :]
        return StepResult(
            loss=loss,
            figures={
                column.name: mean
                for column, mean, total in zip(columns, means, totals, strict=True)
                if total and len(columns) > 1
            },
            task_losses={
                name: float(value / count)
                for name, value, count in zip(tasks, task_sums, task_counts, strict=True)
                if count
            },
            gradient_norm=norm,
            num_targets=totals[0],
            num_tokens=int(numbers[0]),
            num_examples=int(numbers[1]),
            refused=refused,
        )

    def evaluate(self, batches: Iterator[tuple[MicroBatch, ...]]) -> float:
        """The loss over all items, without gradients and without dropout."""
        inner = self.accelerator.unwrap_model(self.module)
        modes = [(module, module.training) for module in inner.modules()]
        inner.eval()
        num_columns = len(self.objective.columns)
        sums = [0.0] * (2 * num_columns)
        with torch.no_grad():
            for parts in batches:
                for batch in parts:
                    values = self._forward(batch)
                    if not batch.is_filler:
                        rows = zip(values.tolist(), map(self.objective.counts, batch.items), strict=True)
                        for row, counts in rows:
                            sums = [total + value for total, value in zip(sums, [*row, *counts], strict=True)]
        for module, training in modes:
            module.training = training
        numbers = self.total(sums)
        return sum(
            column.weight * numbers[k] / max(numbers[num_columns + k], 1.0)
            for k, column in enumerate(self.objective.columns)
        )

    def _forward(self, batch: MicroBatch) -> torch.Tensor:
        # Not through accelerate, which fixes one precision for the life of the process.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.uses_autocast):
            losses: torch.Tensor = self.module(batch)
        return losses

    def total(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes."""
        if self.num_processes == 1:
            return [float(value) for value in values]
        device = self.device if self.device.type == "cuda" else torch.device("cpu")
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def _seed(self, step: int, place: int) -> None:
        state = np.random.SeedSequence([_RANDOM_STREAM, self.config.seed, step, self.rank, place])
        torch.manual_seed(int(state.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    @contextlib.contextmanager
    def _synchronised(self, is_last: bool) -> Iterator[None]:
        """DDP adds the gradients up before it reduces them once; FSDP2 must not keep whole ones."""
        if is_last or self.is_fsdp or self.is_deepspeed:
            yield
        else:
            with self.accelerator.no_sync(self.module):
                yield

    def _backward(self, loss: torch.Tensor, is_last: bool) -> None:
        if self.is_deepspeed:
            self.accelerator.deepspeed_engine_wrapped.backward(loss, sync_gradients=is_last)
        else:
            loss.backward()  # type: ignore[no-untyped-call]

    def _healthy_everywhere(self, losses: torch.Tensor, place: int, step: int) -> bool:
        """DeepSpeed steps within its backward pass, so a bad loss must be found before."""
        bad = self.total([float(not bool(torch.isfinite(losses).all()))])[0]
        if bad and place:
            raise NonFiniteLossError(
                f"step {step}: the loss is not finite in micro-batch {place}; DeepSpeed cannot drop the gradients of "
                "the micro-batches before it. Go on from the last checkpoint, or train with ddp or fsdp2"
            )
        return not bad

    def _gradient_norm(self) -> float:
        limit = self.config.optimizer.clip_norm or float("inf")
        norm: Any = self.accelerator.clip_grad_norm_(list(self.parameters().values()), limit)
        if norm is None:
            return 0.0
        if hasattr(norm, "full_tensor"):
            norm = norm.full_tensor()
        return float(norm)

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = self.config.ema_decay
        if decay is None:
            return
        for name, parameter in self.parameters().items():
            self.ema[name].lerp_(parameter.detach(), 1 - decay)

    def _count_refusal(self, refused: bool, step: int, loss: float, norm: float) -> None:
        self.refused_in_a_row = self.refused_in_a_row + 1 if refused else 0
        if self.refused_in_a_row >= self.config.max_refused_steps:
            raise NonFiniteLossError(
                f"{self.refused_in_a_row} steps in a row up to step {step} were refused (loss {loss}, gradient norm "
                f"{norm}); lower the learning rate, clip harder, or look for broken examples"
            )


def _has_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
