"""What the engine is made of: accelerate's set-up, the optimizer, fused kernels; all that may not be installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from avocet.errors import ConfigError, MissingExtraError
from avocet.training.finetune.config import FineTune, FineTuneOptimizer

ENGINES = ("auto", "ddp", "fsdp2", "deepspeed:2", "deepspeed:3")


def make_optimizer(model: nn.Module, names: Sequence[str], settings: FineTuneOptimizer) -> torch.optim.Optimizer:
    """AdamW over the named parameters; biases, norms and single vectors are not decayed.

    Raises `MissingExtraError` for the 8-bit kind without bitsandbytes.
    """
    parameters = [model.get_parameter(name) for name in names]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    shared: dict[str, Any] = {"lr": settings.learning_rate, "betas": settings.betas, "eps": settings.eps}
    if settings.kind == "adamw":
        return torch.optim.AdamW(groups, **shared)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("the 8-bit optimizer", "gpu")
    library: Any = importlib.import_module("bitsandbytes")
    optimizer: torch.optim.Optimizer = library.optim.AdamW8bit(groups, **shared)
    return optimizer


def use_liger(backbone: Any) -> None:
    """Swap norms, rotary positions and feed-forward of a decoder for Liger's fused kernels.

    The loss is chunked already, so that of Liger is not used.

    Raises:
        MissingExtraError: Liger is not installed.
        ConfigError: no GPU, or a decoder that Liger does not know.
    """
    if importlib.util.find_spec("liger_kernel") is None:
        raise MissingExtraError("Liger kernels", "gpu")
    if not torch.cuda.is_available():
        raise ConfigError("Liger kernels need a GPU; set liger=False")
    patches: Any = importlib.import_module("liger_kernel.transformers.monkey_patch")
    kind = backbone.config.model_type
    if kind not in patches.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ConfigError(f"Liger has no kernels for decoders of type {kind!r}; set liger=False")
    patches._apply_liger_kernel_to_instance(backbone, cross_entropy=False, fused_linear_cross_entropy=False)


def make_accelerator(config: FineTune, engine: str, cpu: bool | None, folder: str) -> Any:
    """An `accelerate.Accelerator`; see `Engine` for the arguments and what it raises."""
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtraError("fine-tuning", "train")
    from accelerate import Accelerator

    _check_trackers(config)
    arguments: dict[str, Any] = {
        "cpu": (not torch.cuda.is_available()) if cpu is None else cpu,
        "mixed_precision": "no",
        "log_with": list(config.trackers) or None,
        "project_dir": folder,
    }
    if engine.startswith("deepspeed"):
        # Told to use the CPU, accelerate would leave DeepSpeed out; it finds the device by itself.
        arguments["cpu"] = False
        arguments["deepspeed_plugin"] = _deepspeed_plugin(config, int(engine.rpartition(":")[2]))
    return Accelerator(**arguments)


def _deepspeed_plugin(config: FineTune, stage: int) -> Any:
    if importlib.util.find_spec("deepspeed") is None:
        raise MissingExtraError("training with DeepSpeed", "deepspeed")
    from accelerate.utils import DeepSpeedPlugin

    settings: dict[str, Any] = {
        "zero_optimization": {"stage": stage},
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if config.optimizer.clip_norm:
        settings["gradient_clipping"] = config.optimizer.clip_norm
    if config.precision == "bfloat16":
        settings["bf16"] = {"enabled": True}
    return DeepSpeedPlugin(hf_ds_config=settings)


def _check_trackers(config: FineTune) -> None:
    modules = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}
    for tracker in config.trackers:
        if importlib.util.find_spec(modules[tracker]) is None:
            raise ConfigError(f"tracker {tracker!r} is not installed; pip install {modules[tracker]}, or drop it")
