"""`avocet probe` end to end: the verdict, its exit code, and the parity table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from avocet.cli import main
from avocet.models.qwen_omni import parity
from avocet.models.salmonn2.modeling import Salmonn2Model
from avocet.theatre import make_script, stage


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("probe") / "theatre.mp4"
    stage(make_script(990_002, level=1), path)
    return str(path)


def test_a_model_that_uses_both(clip, capsys):
    assert main(["probe", "nano", clip, "--max-tokens", "12"]) == 0
    out, err = capsys.readouterr()
    assert "sound: used" in out
    assert "order of the frames: used" in out
    assert not err


def test_a_deaf_model_fails_loudly(clip, capsys, monkeypatch):
    prepare = Salmonn2Model.prepare

    def deaf(self: Salmonn2Model, clip: Any, instruction: str) -> Any:
        import dataclasses

        return prepare(self, dataclasses.replace(clip, waveform=None, audio_status="absent"), instruction)

    monkeypatch.setattr(Salmonn2Model, "prepare", deaf)
    assert main(["probe", "nano", clip, "--max-tokens", "6", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["sound_used"] is False
    assert err.startswith("avocet probe: the sound changes nothing: nano answers as if the clip had none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", "nano"], "name a model and one media file"),
        (["probe", "nano", "missing.mp4"], "missing.mp4"),
        (["probe", "--parity", "nano", "x.mp4"], "--parity takes no MODEL CLIP"),
        (["probe", "--parity", "--model", "nano"], "'nano' is another model"),
    ],
)
def test_wrong_use(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_parity_prints_a_row_per_case(capsys, monkeypatch):
    chosen = [case for case in parity.CASES if case.name in ("5.5 s", "sound only", "still picture from 3.2 s to 9 s")]
    monkeypatch.setattr(parity, "CASES", tuple(chosen))
    assert main(["probe", "--parity"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * 3
    assert lines[1].split() == ["qwen2.5-omni", "5.5", "s", "336", "equal", "equal", lines[1].split()[6], "right"]
    assert "wrong: transformers takes one frame rate" in lines[3]


def test_a_failed_parity_case_is_an_error(capsys, monkeypatch):
    case = next(case for case in parity.CASES if case.name == "5.5 s")
    import dataclasses

    wrong = dataclasses.replace(case, wrong=(("qwen2.5-omni", "it is not, for once"),))
    monkeypatch.setattr(parity, "CASES", (wrong,))
    assert main(["probe", "--parity", "--json"]) == 2
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["passed"] for row in rows] == [False, True]
    assert "1 parity cases did not pass" in err
