"""The command line: a table of commands, each a module that is imported only when it is called.

Exit codes: 0 done, 2 wrong usage or something could not be done (one line on stderr says what), 130 interrupted, 141
nobody reads the output any more.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from types import MappingProxyType

from avocet import __version__
from avocet.errors import AvocetError

COMMANDS = MappingProxyType(
    {
        "caption": "caption video files or folders, with their sound",
        "inspect": "show what is read from a media file: frames, times, sound, warnings",
        "probe": "does a model use sound and picture? (--parity: is our path transformers' own?)",
        "evaluate": "measure a captioner on a benchmark",
        "calibrate-judge": "how wrong is a judge? its verdicts on captions whose errors are known",
        "theatre": "make or show clips of the procedural theatre, with their exact truth",
        "demo": "stage unseen clips, caption and judge them, write a page with the videos",
        "convert": "write a checkpoint in another layout, with adapters merged",
        "curate": "make training data from raw videos, by the pipelines of both papers",
        "data": "check and convert training data in every released format",
        "train": "train a captioner from a recipe, stage by stage",
    }
)
"""Command -> what it does; the module is `avocet.cli.<command>`, "_" for "-", with `main(argv) -> int`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. With --debug before it, errors come with their traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = arguments[:1] == ["--debug"]
    arguments = arguments[debug:]
    name = arguments[0] if arguments else ""
    try:
        code = _run(name, arguments[1:])
        sys.stdout.flush()  # here, where a reader that has gone can still be answered
    except BrokenPipeError:
        return _leave_quietly()
    except KeyboardInterrupt:
        print(f"avocet {name}: interrupted", file=sys.stderr)
        return 130
    except (AvocetError, OSError) as error:
        line = _one_line(error)
        if debug or line is None:
            raise
        print(f"avocet {name}: {line}", file=sys.stderr)
        return 2
    return code


def _run(name: str, arguments: list[str]) -> int:
    if name in ("", "-h", "--help", "help"):
        print(_help())
        return 0
    if name in ("-V", "--version"):
        print(f"avocet {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"avocet: {_unknown(name)}", file=sys.stderr)
        return 2
    try:
        code: int = importlib.import_module(f"avocet.cli.{name.replace('-', '_')}").main(arguments)
    except SystemExit as stop:  # how the argument parser ends a call, with its own message
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return code


def _one_line(error: AvocetError | OSError) -> str | None:
    """What to say of an error; None where it names no path that a user could have given, and so may be ours."""
    if isinstance(error, AvocetError):
        return " ".join(str(error).split())
    if error.filename is None:
        return None
    return f"{os.fsdecode(error.filename)!r} cannot be used: {error.strerror}; name another path"


def _leave_quietly() -> int:
    """`avocet ... | head`: nobody reads on. What is buffered goes nowhere, so that exiting does not fail on it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141  # what a shell reports of a program that SIGPIPE ended


def _help() -> str:
    lines = [
        "usage: avocet COMMAND [ARGUMENTS]",
        "",
        "Caption videos with their sound, measure captions, train captioners.",
    ]
    lines += ["", "commands:", *(f"  {name:<16} {what}" for name, what in COMMANDS.items())]
    lines += ["", "options:", "  -h, --help           show this, or the help of a command: avocet COMMAND --help"]
    lines += ["  -V, --version        show the version"]
    lines += ["  --debug COMMAND ...  show errors with their traceback instead of in one line"]
    return "\n".join(lines)


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown command {name!r}; {hint}commands are {', '.join(COMMANDS)}"
