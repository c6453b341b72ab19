"""Imports go one way only, stages do not know which model they hold, and start-up stays light."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "avocet"

ORDER = (
    *("errors", "_record", "provenance", "records", "ledger", "media", "models", "captioning", "metrics", "judging"),
    *("theatre", "evaluation", "rewards", "curation", "training", "review", "cli", "__main__"),
)
"""Each part may import itself and what stands before it."""

MODEL_BLIND = ("captioning", "evaluation", "training")
"""Parts that get their model from outside: by registry name, or built by a recipe."""

MODEL_NEUTRAL = (
    *("interface", "layout", "registry", "prefix", "features", "lora", "adapters", "decoder", "scoring", "loops"),
)
"""What the model-blind parts may use of `avocet.models`."""

OF_THE_THEATRE = (
    *("rewards.exact", "cli.theatre", "cli.demo"),
    *(f"training.{name}" for name in ("render", "labels", "batches", "objectives", "dev")),
)
"""What stands below evaluation and exists for the theatre: exact rewards, two commands, and the stages of nano, which
learns from rendered plays."""

HEAVY = ("torch", "transformers", "av", "tyro", "pydantic", "rich", "numpy")

FILES = sorted(PACKAGE.rglob("*.py"))


def module_parts(path: Path) -> tuple[str, ...]:
    """src/avocet/media/clip.py -> ("media", "clip"); the package's own __init__ -> ()."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported_modules(tree: ast.AST, own_package: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Every imported dotted name with its line; `from a import b` gives a.b, since b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                kept = own_package[: len(own_package) - (node.level - 1)]
                base = ".".join(("avocet", *kept, *([base] if base else [])))
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def avocet_imports(path: Path) -> list[tuple[tuple[str, ...], int]]:
    """The avocet modules that a file imports anywhere in it, without the leading "avocet"."""
    parts = module_parts(path)
    own_package = parts if path.name == "__init__.py" else parts[:-1]
    names = imported_modules(ast.parse(path.read_text(encoding="utf-8")), own_package)
    return [(tuple(name.split(".")[1:]), line) for name, line in names if name.split(".")[0] == "avocet"]


def wrong_directions(path: Path) -> list[str]:
    own = module_parts(path)
    if not own:  # the package's __init__ only forwards names, lazily
        return []
    assert own[0] in ORDER, f"{path}: {own[0]!r} has no place in the order of the layout; add it to ORDER"
    problems = []
    for target, line in avocet_imports(path):
        if target and target[0] in ORDER and ORDER.index(target[0]) > ORDER.index(own[0]):
            problems.append(f"{path}:{line}: {own[0]} must not import {target[0]}, which comes after it")
        if not target:
            problems.append(f"{path}:{line}: import from the module that defines the name, not from avocet itself")
        elif target[0] not in ORDER and target[0] != "__version__":
            problems.append(f"{path}:{line}: import {target[0]!r} from the module that defines it")
    return problems


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_the_layout_only(path: Path) -> None:
    assert wrong_directions(path) == []


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if module_parts(path)[:1] and module_parts(path)[0] in MODEL_BLIND],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_stages_do_not_know_which_model_they_hold(path: Path) -> None:
    concrete = [
        f"{path}:{line}: imports avocet.{'.'.join(target)}"
        for target, line in avocet_imports(path)
        if target[:1] == ("models",) and (len(target) < 2 or target[1] not in MODEL_NEUTRAL)
    ]
    assert concrete == []


def test_only_what_exists_for_the_theatre_imports_it() -> None:
    """All else works on any clips: whoever wants the theatre's exact judge passes it in."""
    below = ORDER[ORDER.index("evaluation") + 1 :]
    users = {
        ".".join(parts)
        for path in FILES
        if (parts := module_parts(path)) and parts[0] in below
        for target, _ in avocet_imports(path)
        if target[:1] == ("theatre",)
    }
    assert users == set(OF_THE_THEATRE)


def test_nothing_imports_the_command_line() -> None:
    problems = [
        f"{path}:{line}"
        for path in FILES
        if module_parts(path)[0:1] not in (("cli",), ("__main__",))
        for target, line in avocet_imports(path)
        if target[:1] == ("cli",)
    ]
    assert problems == []


def test_the_checker_sees_what_it_must(tmp_path: Path) -> None:
    source = "import avocet.cli.main\nfrom avocet import media\nfrom . import clip\nfrom ..models import layout\n"
    found = list(imported_modules(ast.parse(source), ("media",)))
    assert found == [
        ("avocet.cli.main", 1),
        ("avocet.media", 2),
        ("avocet.media.clip", 3),
        ("avocet.models.layout", 4),
    ]


@pytest.mark.parametrize("module", ["avocet", "avocet.cli", "avocet.errors"])
def test_start_up_stays_light(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


PUBLIC_PATHS = (
    *("avocet.open_clip", "avocet.load_captioner", "avocet.metrics.event_rates", "avocet.theatre.stage"),
    *("avocet.models.salmonn2.load_checkpoint", "avocet.training.losses.gdpo_loss"),
    *("avocet.training.pairs.select_pair", "avocet.rewards.dialogue_reward", "avocet.curation.Cost"),
)


@pytest.mark.parametrize("path", PUBLIC_PATHS)
def test_public_paths_work_from_a_single_import(path: str) -> None:
    code = f"import avocet; print({path}.__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == path.rsplit(".", 1)[1]


def test_public_parameters_have_their_names() -> None:
    import avocet

    names = {
        avocet.theatre.judge: ("caption_text", "script"),
        avocet.theatre.make_script: ("seed", "level"),
        avocet.theatre.stage: ("script", "path"),
        avocet.Captioner.caption: ("self", "path_or_clip", "instruction", "sampling"),
        avocet.load_captioner: ("name", "device", "dtype", "revision"),
    }
    for function, expected in names.items():
        assert tuple(inspect.signature(function).parameters)[: len(expected)] == expected


def test_public_names_are_there() -> None:
    import avocet

    for name in avocet.__all__:
        assert getattr(avocet, name) is not None
    assert set(avocet.__all__) <= set(dir(avocet))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        avocet.no_such_name  # noqa: B018


def test_public_functions_are_not_hidden_by_modules_of_the_same_name() -> None:
    """`avocet.theatre.stage` is a function and a module; importing the module must not hide the function."""
    code = (
        "import avocet; from avocet.theatre.stage import stage_arrays; import avocet.theatre.judge; "
        "print([callable(f) for f in (avocet.theatre.stage, avocet.theatre.stage, avocet.theatre.judge)])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[True, True, True]"
