"""Run folders: which plan was run, with which code, seed and library versions."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError
from avocet.provenance import PACKAGES, code_facts, write_uncommitted
from avocet.training.config import Recipe, StageConfig

__all__ = [
    "RUN_FILE",
    "check_same_stage",
    "claim_run",
    "describe_run",
    "read_run",
    "run_facts",
    "write_run",
    "write_run_facts",
    "write_uncommitted",
]

RUN_FILE = "run.json"
_TRAINERS = ("accelerate", "peft", "safetensors", "deepspeed", "bitsandbytes", "liger-kernel")
"""Packages whose versions matter where they are installed."""


def describe_run(recipe: Recipe, stage_name: str) -> dict[str, Any]:
    """The resolved config, commit, versions and machine of a run, as JSON types."""
    config = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    config["build_model"] = getattr(recipe.build_model, "__qualname__", repr(recipe.build_model))
    for part in ("data", "towers", "align", "sft"):
        config[part] = [_fields(item) for item in config[part]]
    return {"stage": stage_name, "recipe": config, **code_facts()}


def run_facts(config: Any) -> dict[str, Any]:
    """The configuration (a frozen dataclass), commit, versions and machine of a fine-tuning run, as JSON types."""
    return {"config": dataclasses.asdict(config), **code_facts((*PACKAGES, *_TRAINERS))}


def write_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what a run is; the file is complete or as it was at any instant."""
    unfinished = folder / f"{RUN_FILE}.partial"
    unfinished.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / RUN_FILE)


def read_run(folder: Path) -> dict[str, Any]:
    """What the run in a folder is. Raises `ConfigError` when its file is missing or damaged."""
    path = folder / RUN_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{path} cannot be read ({reason}), so nobody knows what the run was; put it back, or choose another "
            "--run-dir"
        ) from error
    if not isinstance(facts, dict):
        raise ConfigError(f"{path} holds no JSON object; put it back, or choose another --run-dir")
    return facts


def _fields(item: Any) -> dict[str, Any]:
    """The fields of a frozen config as JSON types."""
    return {field.name: _plain(getattr(item, field.name)) for field in dataclasses.fields(item)}


def check_same_stage(folder: Path, stage: StageConfig) -> None:
    """Raise `ConfigError` when the run in `folder` was started with other settings of this stage: going on with it
    would be neither the one run nor the other."""
    recorded = read_run(folder)["recipe"]
    before = next(item for part in ("towers", "align", "sft") for item in recorded[part] if item["name"] == stage.name)
    now = json.loads(json.dumps(_fields(stage)))
    changed = sorted(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
    if changed:
        raise ConfigError(
            f"{folder} was started with other settings of {stage.name!r} ({', '.join(changed)} changed); give "
            "the stage another name, choose another --run-dir, or put the settings back"
        )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def write_run_facts(folder: Path, recipe: Recipe, stage_name: str) -> None:
    """Write `run.json` (and the uncommitted diff, when there is one) beside the outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    write_run(folder, describe_run(recipe, stage_name))
    write_uncommitted(folder)


def claim_run(folder: Path, plan: Any, free: frozenset[str] = frozenset(), *, begun: bool = True) -> None:
    """Write `run.json` and the uncommitted change, or compare the plan with that of the run which is there.

    Args:
        folder: of the run; it must exist.
        plan: a frozen configuration.
        free: fields that may differ from the run that is there.
        begun: whether that run has done anything; one that has not (its model was not found, say) is replaced.

    Raises `ConfigError` for a folder of another plan.
    """
    facts = json.loads(json.dumps(run_facts(plan), default=dict))
    if not (begun and (folder / RUN_FILE).exists()):
        write_run(folder, facts)
        write_uncommitted(folder)
        return
    before = read_run(folder)["config"]
    changed = sorted(name for name in facts["config"] if name not in free and facts["config"][name] != before.get(name))
    if changed:
        raise ConfigError(
            f"{folder} was started with another plan ({', '.join(changed)} changed); put it back, or choose another "
            "--run-dir"
        )
