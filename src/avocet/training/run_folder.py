"""Recipes and run folders: which plan was run, with which code, seed and library versions."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError
from avocet.training.config import Recipe, StageConfig

_PACKAGES = ("avocet", "torch", "transformers", "tokenizers", "numpy", "av")
_TRAINERS = ("accelerate", "peft", "safetensors", "deepspeed", "bitsandbytes", "liger-kernel")
"""Packages whose versions matter where they are installed."""


def recipe_path(name_or_path: str) -> Path:
    """`nano` -> `recipes/nano/recipe.py`; a path to a recipe file or folder is taken as it is.

    Raises `ConfigError` when there is no such recipe.
    """
    given = Path(name_or_path)
    candidates = (given, given / "recipe.py", Path("recipes") / name_or_path / "recipe.py")
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    known = sorted(path.parent.name for path in Path("recipes").glob("*/recipe.py"))
    raise ConfigError(f"no recipe {name_or_path!r}; give a recipe file, or one of {known} below ./recipes")


def load_recipe(path: Path) -> Recipe:
    """Run a recipe file and return its `recipe()`. A recipe is code: run only recipes you trust."""
    spec = importlib.util.spec_from_file_location(f"avocet_recipe_{path.parent.name}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, "recipe", None)
    if function is None:
        raise ConfigError(f"{path} has no function recipe(); see recipes/nano/recipe.py")
    recipe = function()
    if not isinstance(recipe, Recipe):
        raise ConfigError(
            f"recipe() of {path} must return an avocet.training.config.Recipe, got {type(recipe).__name__}"
        )
    return recipe


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(("git", *arguments), capture_output=True, text=True, timeout=10, check=True)  # noqa: S603, S607
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def describe_run(recipe: Recipe, stage_name: str) -> dict[str, Any]:
    """The resolved config, commit, versions and machine of a run, as JSON types."""
    config = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    config["build_model"] = getattr(recipe.build_model, "__qualname__", repr(recipe.build_model))
    for part in ("data", "towers", "align", "sft"):
        config[part] = [_fields(item) for item in config[part]]
    return {"stage": stage_name, "recipe": config, **_code_facts()}


def run_facts(config: Any) -> dict[str, Any]:
    """The configuration (a frozen dataclass), commit, versions and machine of a fine-tuning run, as JSON types."""
    facts = _code_facts()
    facts["versions"] |= {name: metadata.version(name) for name in _TRAINERS if _is_installed(name)}
    return {"config": dataclasses.asdict(config), **facts}


def _code_facts() -> dict[str, Any]:
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": bool(_git("status", "--porcelain")),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _fields(item: Any) -> dict[str, Any]:
    """The fields of a frozen config as JSON types."""
    return {field.name: _plain(getattr(item, field.name)) for field in dataclasses.fields(item)}


def check_same_stage(folder: Path, stage: StageConfig) -> None:
    """Raise `ConfigError` when the run in `folder` was started with other settings of this stage: going on with it
    would be neither the one run nor the other."""
    recorded = json.loads((folder / "run.json").read_text())["recipe"]
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
    (folder / "run.json").write_text(json.dumps(describe_run(recipe, stage_name), indent=2))
    write_uncommitted(folder)


def write_uncommitted(folder: Path) -> None:
    """Write the uncommitted diff of the working folder, when there is one, to `uncommitted.diff`."""
    diff = _git("diff", "HEAD")
    if diff:
        (folder / "uncommitted.diff").write_text(diff + "\n")


def claim_run(folder: Path, plan: Any, free: frozenset[str] = frozenset()) -> None:
    """Write `run.json` and the uncommitted change, or compare the plan with that of the run which is there.

    Args:
        folder: of the run; it must exist.
        plan: a frozen configuration.
        free: fields that may differ from the run that is there.

    Raises `ConfigError` for a folder of another plan.
    """
    facts = json.loads(json.dumps(run_facts(plan), default=dict))
    path = folder / "run.json"
    if not path.exists():
        path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        write_uncommitted(folder)
        return
    before = json.loads(path.read_text(encoding="utf-8"))["config"]
    changed = sorted(name for name in facts["config"] if name not in free and facts["config"][name] != before.get(name))
    if changed:
        raise ConfigError(
            f"{folder} was started with another plan ({', '.join(changed)} changed); put it back, or choose another "
            "--run-dir"
        )
