from __future__ import annotations

import hashlib

import pytest

from avocet.errors import CheckpointError, ModelNotFoundError
from avocet.models.registry import load_model, model_names


def test_a_local_folder(model, tmp_path):
    folder = tmp_path / "mine"
    model.save(folder)
    loaded = load_model(str(folder), device="cpu")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (loaded.model_id, loaded.revision) == ("mine", digest[:12])
    assert loaded.model.max_frames == 8
    assert load_model(str(folder), device="cpu", revision=digest[:12]).revision == digest[:12]
    with pytest.raises(ModelNotFoundError, match=f"in revision {digest[:12]}, not in abc"):
        load_model(str(folder), revision="abc")


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_model(str(tmp_path))


def test_names_that_cannot_be_loaded_yet():
    for name in model_names():
        if name != "nano":
            with pytest.raises(
                ModelNotFoundError, match="has no loader yet; this version loads 'nano' and local folders"
            ):
                load_model(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nono", "model 'nono': unknown name; this version loads"),
        ("org/model", "no such folder, and loading from the hub is not available yet"),
        ("server:gpt@http://localhost", "captioning through a server is not available yet"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ModelNotFoundError, match=message):
        load_model(name)


def test_nano_without_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("avocet.models.registry.resources.files", lambda package: tmp_path)
    with pytest.raises(ModelNotFoundError, match="holds no weights; reinstall the package, or train it"):
        load_model("nano")
