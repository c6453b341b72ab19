"""What several commands do alike."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import UseAppendAction, arg

from avocet.errors import ConfigError

if TYPE_CHECKING:
    from avocet.evaluation.items import Benchmark

DATA_VARIABLE = "AVOCET_BENCHMARK_DATA"

RecipeSettings = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(
        name="set",
        metavar="NAME=VALUE",
        help="A setting of the recipe: a parameter of its function `recipe`. May be given several times.",
    ),
]


def find_annotations(benchmark: Benchmark, otherwise: str = "") -> Path:
    """The annotation file of a benchmark in the folder that AVOCET_BENCHMARK_DATA names, under a name that it goes by.

    Raises `ConfigError` when it is not there; `otherwise` is added to the advice.
    """
    folder, names = os.environ.get(DATA_VARIABLE), benchmark.file_names
    for name in names if folder else ():
        path = Path(folder or "") / name
        if path.is_file():
            return path
    where = f"not in {folder} ({DATA_VARIABLE})" if folder else f"{DATA_VARIABLE} is not set"
    raise ConfigError(
        f"the annotation file of {benchmark.name} ({' or '.join(names)}) is needed and {where}; give --annotations "
        f"FILE{otherwise}"
    )


def counter(what: str) -> Callable[[int, int], None] | None:
    """Counts on the terminal; None where nobody watches."""
    if not sys.stderr.isatty():
        return None

    def show(finished: int, total: int) -> None:
        print(f"\r{finished:,}/{total:,} {what}", end="\n" if finished == total else "", file=sys.stderr, flush=True)

    return show
