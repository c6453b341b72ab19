"""The package's public names, and that looking at scripts loads neither PyTorch nor the media libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_importing_stays_light() -> None:
    heavy = ("torch", "transformers", "av", "PIL", "pydantic")
    code = f"import sys, avocet.theatre; print([name for name in {heavy!r} if name in sys.modules])"
    assert run(code) == "[]"


@pytest.mark.parametrize("first", ["avocet.theatre", "avocet.theatre.stage", "avocet.theatre.judge"])
def test_functions_are_not_hidden_by_the_modules_of_their_name(first: str) -> None:
    code = (
        f"import {first}; from avocet.theatre import stage, judge; from avocet.theatre.stage import stage as staged;"
        "import avocet; print(callable(stage), stage is staged is avocet.theatre.stage, callable(avocet.theatre.judge))"
    )
    assert run(code) == "True True True"


def test_public_names_are_there() -> None:
    import avocet.theatre

    for name in avocet.theatre.__all__:
        assert callable(getattr(avocet.theatre, name))
    assert set(avocet.theatre.__all__) <= set(dir(avocet.theatre))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        avocet.theatre.no_such_name  # noqa: B018
