"""Rollout engines of GRPO: one interface, the trainer's own model or a copy in vLLM or SGLang behind it.

`base` is the interface; `in_process`, `server` and `vllm_offline` are the engines; `parity` asks before training starts
whether trainer and engine are the same model. See docs/rollouts.md.
"""

from __future__ import annotations

from avocet.training.grpo.rollouts.base import (
    Inspection,
    Rollout,
    RolloutEngine,
    RolloutError,
    WeightUpdate,
    rollout_seed,
)
from avocet.training.grpo.rollouts.in_process import InProcessEngine
from avocet.training.grpo.rollouts.parity import ParityReport, check_parity
from avocet.training.grpo.rollouts.server import EndpointCall, ServerEngine, ServerSettings
from avocet.training.grpo.rollouts.vllm_offline import VllmOfflineEngine, VllmSettings

__all__ = [
    "EndpointCall",
    "InProcessEngine",
    "Inspection",
    "ParityReport",
    "Rollout",
    "RolloutEngine",
    "RolloutError",
    "ServerEngine",
    "ServerSettings",
    "VllmOfflineEngine",
    "VllmSettings",
    "WeightUpdate",
    "check_parity",
    "rollout_seed",
]
