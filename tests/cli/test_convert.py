"""`avocet convert`: layouts there and back, adapters merged, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from avocet.cli import main
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.models.salmonn2 import load_checkpoint
from avocet.models.salmonn2.tiny import tiny_plus

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_plus().save(tmp_path / "model", torch.bfloat16)
    return tmp_path / "model"


def test_the_type_of_the_weights_is_kept_or_changed(folder, tmp_path, capsys):
    assert main(["convert", str(folder), str(tmp_path / "same")]) == 0
    assert "PlusModel in the layout 'avocet'" in capsys.readouterr().out
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "same"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert main(["convert", str(folder), str(tmp_path / "wide"), "--dtype", "float32"]) == 0
    wide: Any = load_checkpoint(tmp_path / "wide")
    assert wide.audio.query_tokens.dtype == torch.float32


def test_qwen_omni_changes_its_type_only(tmp_path, capsys):
    tiny_model("qwen2.5-omni").save(tmp_path / "omni")
    assert main(["convert", str(tmp_path / "omni"), str(tmp_path / "half"), "--dtype", "float16"]) == 0
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert main(["convert", str(tmp_path / "omni"), str(tmp_path / "x"), "--to", "released"]) == 2
    assert "has one layout" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "released"], "does not know the config.json of a release"),
        (["--adapter", "nowhere"], "no adapter_config.json"),
        (["--training-file", "run.bin"], "pass --allow-pickle"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
    ],
)
def test_what_cannot_be_done(arguments, message, folder, tmp_path, capsys):
    assert main(["convert", str(folder), str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_nothing_is_overwritten(folder, tmp_path, capsys):
    assert main(["convert", str(folder), str(folder)]) == 2
    assert "holds weights already" in capsys.readouterr().err


def test_nano_was_never_released_otherwise(tmp_path, capsys):
    nano = REPOSITORY / "src" / "avocet" / "assets" / "nano"
    assert main(["convert", str(nano), str(tmp_path / "out"), "--to", "released"]) == 2
    assert "never released in another layout" in capsys.readouterr().err
    assert main(["convert", str(nano), str(tmp_path / "adapted"), "--adapter", "x"]) == 2
    assert "no readable adapter" in capsys.readouterr().err


def test_a_broken_folder(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    assert main(["convert", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "pickled weights are not read" in capsys.readouterr().err
