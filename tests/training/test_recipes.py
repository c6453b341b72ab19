"""Settings of recipes from the command line, and every shipped recipe with its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from avocet.cli import main
from avocet.errors import ConfigError
from avocet.training.recipes import load_recipe, parse_settings, recipe_path

RECIPES = Path(__file__).resolve().parents[2] / "recipes"

RECIPE = """
from typing import Literal
from avocet.training.config import Recipe

def recipe(data: str = "here", size: int = 1, rate: float = 0.5, big: bool = False, kind: Literal["a", "b"] = "a",
           several: tuple[str, ...] = ()):
    return Recipe(name=repr((data, size, rate, big, kind)))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


def test_settings_are_parameters(file: Path) -> None:
    assert load_recipe(file).name == "('here', 1, 0.5, False, 'a')"
    settings = parse_settings(["data=x=y", "size=3", "rate=1e-3", "big=Yes", "kind=b"])
    assert load_recipe(file, settings).name == "('x=y', 3, 0.001, True, 'b')"


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["size"], r"--set takes NAME=VALUE, got 'size'"),
        (["=1"], r"--set takes NAME=VALUE"),
        (["size=1", "size=2"], r"--set size is given twice: '1' and '2'"),
        (["sizes=1"], r"has no setting sizes; it has data \('here'\), size \(1\)"),
        (["size=1.5"], r"--set size: '1.5' is not of type int"),
        (["big=perhaps"], r"--set big: 'perhaps' is not true or false"),
        (["kind=c"], r"--set kind: 'c' is none of a, b"),
        (["several=a"], r"--set several: recipes take settings of text"),
    ],
)
def test_wrong_settings(file: Path, assignments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(file, parse_settings(assignments))


def test_settings_on_the_command_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mrdpo", str(file), "--set", "nothing=1", "--judge", "exact"]) == 2
    assert "has no setting nothing" in capsys.readouterr().err
    assert main(["train", "sft", str(RECIPES / "nano"), "--set", "a=b"]) == 2
    assert "has no setting a; it has none" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_recipes_are_plans(path: Path) -> None:
    assert load_recipe(path).name


def test_questions_in_the_rounds_of_nano() -> None:
    plan = load_recipe(recipe_path(str(RECIPES / "nano_mrdpo")), {"questions": "mixed_in", "data": "d", "model": "m"})
    assert plan.mrdpo is not None
    assert [source.path for source in plan.mrdpo.held_out] == ["d/held_out.jsonl", "d/held_out_qa.jsonl"]
    assert [source.path for source in plan.mrdpo.mixed_in] == ["d/train_qa.jsonl"]
    assert plan.mrdpo.model == "m"
    (sft,) = plan.fine_tunes()
    assert [source.path for source in sft.sources] == ["d/train.jsonl", "d/train_qa.jsonl", "d/more_qa.jsonl"]
    watched = load_recipe(recipe_path(str(RECIPES / "nano_mrdpo")), {"questions": "watched"}).mrdpo
    assert watched is not None
    assert (len(watched.held_out), watched.mixed_in) == (2, ())
    reborn = load_recipe(recipe_path(str(RECIPES / "nano_rebirth")), {"questions": "yes"}).rebirth
    assert reborn is not None
    assert reborn.round is not None
    assert (len(reborn.beside), len(reborn.round.mixed_in), len(reborn.round.held_out)) == (2, 1, 2)
