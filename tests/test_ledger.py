"""The append-only result file: resuming, repair, refusal, and a writer that is really killed."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avocet.errors import ConfigError, RecordError
from avocet.ledger import Ledger
from avocet.records import Failure

WRITER = """
import sys
from avocet.ledger import Ledger

with Ledger(sys.argv[1], key="id") as ledger:
    for number in range(10_000_000):
        if str(number) not in ledger:
            ledger.append({"id": str(number), "text": "x" * (number % 5000)})
"""


def test_reopening_knows_what_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "results.jsonl"
    with Ledger(path, key="id") as ledger:
        ledger.append({"id": "a", "value": 1})
        ledger.append({"id": "b", "value": "é\nü"})
    with Ledger(path, key="id") as ledger:
        assert list(ledger.keys()) == ["a", "b"]
        assert "a" in ledger
        assert "c" not in ledger
        assert len(ledger) == 2
        assert list(ledger.records()) == [{"id": "a", "value": 1}, {"id": "b", "value": "é\nü"}]
        assert ledger.num_repaired == 0
        ledger.append({"id": "c"})
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3


def test_records_and_key_functions(tmp_path: Path) -> None:
    failure = Failure(clip_id="x", path="x.mp4", stage="media", error="broken")
    with Ledger(tmp_path / "f.jsonl", key=lambda record: f"{record['clip_id']}/{record['stage']}") as ledger:
        ledger.append(failure)
        assert "x/media" in ledger
        assert next(ledger.records()) == failure.to_dict()


def test_a_record_is_on_file_when_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Ledger(path, key="id", fsync=True) as ledger:
        ledger.append({"id": "a"})
        assert path.read_text() == '{"id": "a"}\n'


def test_duplicates_are_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r.jsonl", key="id") as ledger:
        ledger.append({"id": "a"})
        with pytest.raises(RecordError, match=r"'a' is already recorded in line 1"):
            ledger.append({"id": "a"})
        assert len(ledger) == 1


@pytest.mark.parametrize("record", [{}, {"id": ""}, {"id": 3}])
def test_a_record_needs_its_key(tmp_path: Path, record: dict[str, object]) -> None:
    with Ledger(tmp_path / "r.jsonl", key="id") as ledger, pytest.raises(RecordError, match="has no key"):
        ledger.append(record)


@pytest.mark.parametrize("tail", ['{"id": "b", "te', "{", '{"id": "b"', "\0\0\0\0", '"b"', '{"id": "\xc3'])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, tail: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"id": "a"}\n' + tail.encode("latin-1"))
    with caplog.at_level(logging.WARNING), Ledger(path, key="id") as ledger:
        assert list(ledger.keys()) == ["a"]
        assert ledger.num_repaired == 1
        ledger.append({"id": "b"})
    assert "cut off a torn last line" in caplog.text
    assert path.read_text() == '{"id": "a"}\n{"id": "b"}\n'


def test_a_last_line_that_lacks_only_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b"}')
    with Ledger(path, key="id") as ledger:
        assert list(ledger.keys()) == ["a", "b"]
        assert ledger.num_repaired == 1
        ledger.append({"id": "c"})
    assert path.read_text() == '{"id": "a"}\n{"id": "b"}\n{"id": "c"}\n'


@pytest.mark.parametrize("damage", ["{broken", "", "[1]"])
def test_damage_in_the_middle_names_file_and_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(f'{{"id": "a"}}\n{damage}\n{{"id": "b"}}\n')
    with pytest.raises(RecordError, match=r"r\.jsonl:2: not a JSON object"):
        Ledger(path, key="id")
    assert path.read_text().count("\n") == 3, "a damaged file is left as it was"


def test_a_repeated_key_in_the_file_names_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b"}\n{"id": "a"}\n')
    with pytest.raises(RecordError, match=r"r\.jsonl:3: 'a' was already recorded in line 1"):
        Ledger(path, key="id")


def test_two_writers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Ledger(path, key="id"), pytest.raises(ConfigError, match="another process is writing"):
        Ledger(path, key="id")
    Ledger(path, key="id").close()


def test_a_closed_ledger_takes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "r.jsonl", key="id")
    ledger.close()
    ledger.close()
    with pytest.raises(RecordError, match="closed"):
        ledger.append({"id": "a"})


def test_a_failed_write_leaves_no_partial_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.jsonl"
    real_write = os.write

    def disk_full_after_five_bytes(fd: int, data: bytes) -> int:
        if len(data) <= 5:
            raise OSError(28, "No space left on device")
        return real_write(fd, data[:5])

    with Ledger(path, key="id") as ledger:
        ledger.append({"id": "a"})
        monkeypatch.setattr(os, "write", disk_full_after_five_bytes)
        with pytest.raises(OSError, match="No space left"):
            ledger.append({"id": "b", "text": "long enough to be cut"})
        monkeypatch.undo()
        assert "b" not in ledger
        ledger.append({"id": "b"})
    assert path.read_text() == '{"id": "a"}\n{"id": "b"}\n'


def test_killed_writers_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    finished_before = 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        deadline = time.monotonic() + 20
        grown = path.stat().st_size + 200_000 if path.exists() else 200_000
        while not path.exists() or path.stat().st_size < grown:
            assert time.monotonic() < deadline, "the writer wrote nothing"
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.wait()
        with Ledger(path, key="id") as ledger:
            assert len(ledger) > finished_before
            finished_before = len(ledger)
    ids = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    assert ids == [str(number) for number in range(len(ids))]
