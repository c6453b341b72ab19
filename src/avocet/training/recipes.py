"""Recipes: Python files whose function `recipe` returns a whole plan.

What a user may want to change from the command line are parameters of that function:

    def recipe(data: str = "data/mrdpo", variant: Literal["dpo", "gdpo"] = "dpo") -> Recipe: ...

    avocet train mrdpo nano_mrdpo --set variant=gdpo --set data=/data/clips
"""

from __future__ import annotations

import importlib.util
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

from avocet.errors import ConfigError
from avocet.training.config import Recipe

_BOOLS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


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


def load_recipe(path: Path, settings: Mapping[str, str] | None = None) -> Recipe:
    """Run a recipe file and return its `recipe(...)`. A recipe is code: run only recipes you trust.

    Args:
        path: of the file.
        settings: parameters of `recipe` by name, as text; the others keep their defaults.

    Raises `ConfigError` for a file without `recipe`, for settings that it does not have, and for values of the wrong
    kind.
    """
    function = getattr(_load_module(path), "recipe", None)
    if function is None:
        raise ConfigError(f"{path} has no function recipe(); see recipes/nano/recipe.py")
    recipe = function(**_arguments(path, function, settings or {}))
    if not isinstance(recipe, Recipe):
        raise ConfigError(
            f"recipe() of {path} must return an avocet.training.config.Recipe, got {type(recipe).__name__}"
        )
    return recipe


def parse_settings(assignments: Iterable[str]) -> dict[str, str]:
    """{"a": "b"} of ["a=b"]. Raises `ConfigError` for what is no assignment, and for a name that comes twice."""
    settings: dict[str, str] = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or not name:
            raise ConfigError(f"--set takes NAME=VALUE, got {assignment!r}")
        if name in settings:
            raise ConfigError(f"--set {name} is given twice: {settings[name]!r} and {value!r}")
        settings[name] = value
    return settings


def _load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"avocet_recipe_{path.parent.name}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _arguments(path: Path, function: Callable[..., Any], settings: Mapping[str, str]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    unknown = sorted(set(settings) - set(parameters))
    if unknown:
        known = ", ".join(f"{name} ({parameter.default!r})" for name, parameter in parameters.items())
        raise ConfigError(f"recipe {path} has no setting {', '.join(unknown)}; it has {known or 'none'}")
    if not settings:
        return {}
    kinds = typing.get_type_hints(function)
    return {name: _value(name, value, kinds.get(name, str)) for name, value in settings.items()}


def _value(name: str, text: str, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        if text in get_args(kind):
            return text
        raise ConfigError(f"--set {name}: {text!r} is none of {', '.join(get_args(kind))}")
    if kind is bool:
        if text.lower() in _BOOLS:
            return _BOOLS[text.lower()]
        raise ConfigError(f"--set {name}: {text!r} is not true or false")
    if kind not in (str, int, float):
        raise ConfigError(f"--set {name}: recipes take settings of text, numbers, truth values and Literal, not {kind}")
    try:
        return kind(text)
    except ValueError as error:
        raise ConfigError(f"--set {name}: {text!r} is not of type {kind.__name__}") from error
