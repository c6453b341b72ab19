"""Verdicts survive a killed process, and old ones are never taken for new captions or prompts."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

from avocet.errors import ConfigError
from avocet.evaluation.verdicts import LEDGER_FILE, VERDICTS_FILE, Case, collect_verdicts, item_digest
from avocet.judging.judge import Judge
from avocet.records import Verdict


@dataclasses.dataclass(frozen=True)
class Text:
    clip_id: str
    caption: str


class Counter(Judge[Text]):
    """Finds how long a caption is; cannot judge empty ones."""

    name = "length"

    def __init__(
        self, version: str = "1", *, temperature: float = 0.0, server: str = "a", is_done: bool = True
    ) -> None:
        self.calls: list[tuple[str, int]] = []
        self._version = version
        self._temperature = temperature
        self._server = server
        self._is_done = is_done

    @property
    def settings(self) -> dict[str, Any]:
        return {"temperature": self._temperature}

    @property
    def server(self) -> str:
        return self._server

    def is_final(self, item: Text, verdict: Verdict) -> bool:
        return self._is_done and super().is_final(item, verdict)

    @property
    def identity(self) -> str:
        return f"{self.name}/{self._version}"

    async def judge(self, item: Text, run_index: int = 0) -> Verdict:
        self.calls.append((item.clip_id, run_index))
        facts = {"clip_id": item.clip_id, "judge": self.identity, "run_index": run_index}
        if not item.caption:
            return Verdict(**facts, status="unscored", reason="the caption is empty")
        return Verdict(**facts, findings={"length": len(item.caption) + run_index})


def cases(*captions: str) -> list[Case[Text]]:
    return [Case(key=f"clip {k}", item=Text(f"clip {k}", caption)) for k, caption in enumerate(captions)]


def test_runs_of_every_case_in_order(tmp_path):
    judge = Counter()
    judged = collect_verdicts(judge, cases("abc", "", "hello"), runs=2, folder=tmp_path)
    lengths = [[verdict.findings.get("length") for verdict in each.verdicts] for each in judged]
    assert lengths == [[3, 4], [None, None], [5, 6]]
    lines = [json.loads(line) for line in (tmp_path / VERDICTS_FILE).read_text().splitlines()]
    assert [(line["key"], line["run_index"], line["status"]) for line in lines] == [
        (f"clip {k}", run, "unscored" if k == 1 else "scored") for k in range(3) for run in range(2)
    ]


def test_only_what_is_missing_is_judged_again(tmp_path):
    collect_verdicts(Counter(), cases("abc", "", "hello"), folder=tmp_path)
    again = Counter()
    progress: list[tuple[int, int]] = []
    collect_verdicts(
        again, cases("abc", "", "hello"), runs=2, folder=tmp_path, progress=lambda *done: progress.append(done)
    )
    # The second run of all, and the first of the one that was not scored.
    assert again.calls == [("clip 1", 0), ("clip 0", 1), ("clip 1", 1), ("clip 2", 1)]
    assert progress == [(3, 6), (4, 6), (5, 6), (6, 6)]
    changed = Counter()
    judged = collect_verdicts(changed, cases("abcd", "x", "hello"), folder=tmp_path)
    assert changed.calls == [("clip 0", 0), ("clip 1", 0)]
    assert [each.verdicts[0].findings["length"] for each in judged] == [4, 1, 5]
    other = Counter("2")
    collect_verdicts(other, cases("abcd"), folder=tmp_path)
    assert other.calls == [("clip 0", 0)]


def test_other_settings_and_servers_are_other_judges(tmp_path):
    for given, num_calls in (({}, 1), ({}, 0), ({"temperature": 1.0}, 1), ({"server": "b"}, 1), ({}, 0)):
        judge = Counter(**given)
        collect_verdicts(judge, cases("abc"), folder=tmp_path)
        assert len(judge.calls) == num_calls, given


def test_a_ledger_that_does_not_say_how_the_judge_was_asked_is_not_trusted(tmp_path):
    """As written by versions before, whose keys were "item|run|judge|content"."""
    (case,) = cases("abc")
    stale = Verdict(clip_id=case.key, judge="length/1", run_index=0, findings={"length": 99})
    key = f"{case.key}|run 0|length/1|{item_digest(case.item)}"
    (tmp_path / LEDGER_FILE).write_text(json.dumps({"key": key, "verdict": stale.to_dict()}) + "\n")
    judged = collect_verdicts(Counter(), [case], folder=tmp_path)
    assert judged[0].verdicts[0].findings == {"length": 3}


def test_verdicts_that_are_not_final_are_judged_again(tmp_path):
    collect_verdicts(Counter(is_done=False), cases("abc"), folder=tmp_path)
    again = Counter()
    collect_verdicts(again, cases("abc"), folder=tmp_path)
    assert len(again.calls) == 1
    third = Counter()
    collect_verdicts(third, cases("abc"), folder=tmp_path)
    assert third.calls == []


def test_wrong_arguments(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/x/verdicts.ledger.jsonl cannot be written: Not a directory; choose"):
        collect_verdicts(Counter(), cases("a"), folder=tmp_path / "file" / "x")
    with pytest.raises(ConfigError, match="runs must be >= 1"):
        collect_verdicts(Counter(), cases("a"), runs=0)
    with pytest.raises(ConfigError, match="2 with 1 different"):
        collect_verdicts(Counter(), [*cases("a"), *cases("b")])


SCRIPT = """
    import asyncio, dataclasses, sys
    from pathlib import Path
    from avocet.evaluation.verdicts import Case, collect_verdicts
    from avocet.judging.judge import Judge
    from avocet.records import Verdict

    @dataclasses.dataclass(frozen=True)
    class Text:
        clip_id: str

    class Slow(Judge):
        name = "slow"
        concurrency = 4

        async def judge(self, item, run_index=0):
            await asyncio.sleep(0.01)
            with open(sys.argv[2], "a") as calls:
                calls.write(item.clip_id + "\\n")
            return Verdict(clip_id=item.clip_id, judge="slow", run_index=run_index, findings={"n": len(item.clip_id)})

    cases = [Case(key=str(k), item=Text(str(k))) for k in range(200)]
    collect_verdicts(Slow(), cases, folder=Path(sys.argv[1]))
"""


def test_a_killed_run_goes_on(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")

    def start(folder: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, script, tmp_path / folder, tmp_path / f"{folder}.calls"])

    assert start("whole").wait(timeout=60) == 0
    for _ in range(3):
        process = start("killed")
        ledger = tmp_path / "killed" / LEDGER_FILE
        before = ledger.stat().st_size if ledger.exists() else 0
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and (not ledger.exists() or ledger.stat().st_size < before + 3000):
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
        assert not (tmp_path / "killed" / VERDICTS_FILE).exists()
    assert start("killed").wait(timeout=60) == 0
    assert (tmp_path / "killed" / VERDICTS_FILE).read_bytes() == (tmp_path / "whole" / VERDICTS_FILE).read_bytes()
    calls = (tmp_path / "killed.calls").read_text().split()
    # At most the four that were on their way at each kill are asked twice.
    assert set(calls) == {str(k) for k in range(200)}
    assert len(calls) <= 200 + 3 * 4
