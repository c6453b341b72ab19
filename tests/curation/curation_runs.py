"""Runs of `avocet curate` against a loopback server: the plays, what goes wrong with them, the command, its output."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from judge_server import JudgeServer
from scripted_teachers import PRICE, Faults, ScriptedTeachers

from avocet.curation.data_card import DataCard
from avocet.records import TrainingExample
from avocet.theatre import make_script

SEEDS = (2, 6, 9, 10, 11, 16, 23, 28)
"""Plays of level 1 in each of which somebody speaks, 4 to 7 s long."""

VS2_FAULTS = Faults(
    misheard=frozenset({9}),
    generic=frozenset({10}),
    nonsense=frozenset({11}),
    no_speech=frozenset({16}),
    invents_sound=frozenset({23}),
    contradicts=frozenset({28}),
    unread_once=frozenset({28}),
)
AVOCADO_FAULTS = Faults(
    loses_once=frozenset({6}),
    loses_always=frozenset({9}),
    incomplete=frozenset({10}),
    repeats=frozenset({11}),
    unread_always=frozenset({16}),
    invents_sound=frozenset({23}),
    contradicts=frozenset({28}),
)


def make_corpus(folder: Path, stage_play: Callable[..., Path], static_play: Path, seeds: Sequence[int] = SEEDS) -> Path:
    """A manifest of good plays (eight if not told otherwise) and four clips that each have one thing wrong."""
    folder.mkdir()
    for seed in seeds:
        shutil.copy(stage_play(seed), folder / f"play{seed:02d}.mp4")
    shutil.copy(stage_play(2), folder / "duplicate.mp4")
    shutil.copy(stage_play(8, muted=True), folder / "silent.mp4")
    shutil.copy(static_play, folder / "static.mp4")
    whole = stage_play(8).read_bytes()
    (folder / "corrupt.mp4").write_bytes(whole[: len(whole) // 3])
    lines = []
    for path in sorted(folder.glob("*.mp4")):
        # With sources of their own, the split does not follow from where the test runs.
        row: dict[str, Any] = {"id": path.stem, "path": path.name, "source_id": path.stem, "licence": "CC0-1.0"}
        lines.append(json.dumps(row | ({"url": "https://example.org/6"} if path.stem == "play06" else {})))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "manifest.jsonl"


@contextlib.contextmanager
def teaching(faults: Faults, seeds: Sequence[int] = SEEDS) -> Iterator[tuple[JudgeServer, ScriptedTeachers]]:
    teachers = ScriptedTeachers([make_script(seed) for seed in seeds], faults)
    with JudgeServer(teachers) as server:
        yield server, teachers


def command(
    pipeline: str, corpus: Path, out: Path, server: JudgeServer, *more: str, cache: str = "cache.sqlite"
) -> list[str]:
    roles = ("visual", "audio", "asr", "fuse", "check") if pipeline == "vs2" else ("visual", "audio", "fuse", "check")
    words = ["curate", pipeline, str(corpus), "--out", str(out), "--cache", str(out.parent / cache), "--workers", "4"]
    words += [f"--teacher={role}=teacher@{server.base_url}" for role in roles]
    words += [f"--teacher-price=teacher={PRICE}", "--min-seconds", "3", "--max-seconds", "20"]
    words += ["--local-seconds", "3"] if pipeline == "vs2" else []
    if pipeline == "avocado":
        words += ["--judge", "judge", "--base-url", server.base_url, "--price", PRICE]
    return [*words, *more]


def dropped(out: Path) -> dict[str, str]:
    """Id -> stage and reason."""
    found = {}
    for path in out.glob("stages/*/dropped.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            assert row["id"] not in found
            found[row["id"]] = f"{row['stage']}:{row['reason']}"
    return found


def examples(path: Path) -> list[TrainingExample]:
    return [TrainingExample.from_json(line) for line in path.read_text().splitlines()]


def card(out: Path) -> DataCard:
    return DataCard.from_json((out / "card.json").read_text())


def files_of(out: Path) -> dict[str, bytes]:
    """The output: what people and trainers read."""
    names = ["train.jsonl", "val.jsonl", "card.json", "card.md", "run.json"]
    paths = [*(out / name for name in names), *sorted(out.glob("stages/*/*"))]
    kept = [path for path in paths if path.name not in ("results.jsonl", "attempts.jsonl", "summary.json")]
    return {str(path.relative_to(out)): path.read_bytes() for path in kept}
