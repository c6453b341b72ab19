from __future__ import annotations

import hashlib
import json
import socket

import pytest
from huggingface_hub import constants

from avocet.errors import CheckpointError, ConfigError, ModelNotFoundError
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.models.registry import ModelOptions, load_model, model_names

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_IDS = {
    "avocado": "AVoCaDO-Captioner/AVoCaDO",
    "qwen2.5-omni-7b": "Qwen/Qwen2.5-Omni-7B",
    "qwen3-omni-30b": "Qwen/Qwen3-Omni-30B-A3B-Instruct",
    "salmonn2": "tsinghua-ee/video-SALMONN-2",
    "salmonn2-plus-3b": "tsinghua-ee/video-SALMONN2_plus_3B_full",
    "salmonn2-plus-7b": "tsinghua-ee/video-SALMONN2_plus_7B_full",
    "salmonn2-plus-72b": "tsinghua-ee/video-SALMONN2_plus_72B_full",
}


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network: whoever reaches for it fails the test."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    calls = []

    def refuse(*arguments, **named):
        calls.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield cache
    assert not calls


def put_into_cache(cache, repository, fill):
    """A finished download as the hub's client leaves it."""
    place = cache / f"models--{repository.replace('/', '--')}"
    folder = place / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    fill(folder)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    return folder


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


def test_models_without_these_options_refuse_them(model, tmp_path):
    model.save(tmp_path / "mine")
    with pytest.raises(ConfigError, match="model 'mine' has no settings layout, fps"):
        load_model(str(tmp_path / "mine"), options=ModelOptions(layout="tmrope", fps=1.0))


def test_the_names():
    assert model_names() == ("nano", *HUB_IDS)


@pytest.mark.parametrize("name", [*HUB_IDS, "org/model"])
def test_hub_models_that_are_not_here(name):
    with pytest.raises(ModelNotFoundError) as error:
        load_model(name)
    message = str(error.value)
    repository = HUB_IDS.get(name, name)
    assert message.startswith(
        f"model {name!r}: {repository} is not on this machine and could not be downloaded (Cannot"
    )
    assert f"fetch it with 'hf download {repository}', or give a folder: " in message
    assert message.endswith(f"{name if name in HUB_IDS else 'NAME'}@FOLDER")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nono", "model 'nono': unknown name and no such folder; this version loads nano, avocado"),
        ("server:gpt@http://localhost", "captioning through a server is not available yet"),
        ("avocado@/nowhere", "no such folder: /nowhere"),
        ("nono@/tmp", "unknown name and no such folder"),
        ("a/b/c", "unknown name and no such folder"),
        ("../x", "unknown name and no such folder"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ModelNotFoundError, match=message):
        load_model(name)


@pytest.mark.parametrize("name", ["", "  ", None])
def test_no_name(name):
    with pytest.raises(ConfigError, match=f"no model is named: {name!r}; this version loads nano, "):
        load_model(name)


def test_a_hub_model_from_the_cache(hub_cache):
    put_into_cache(hub_cache, "some-org/Omni.v1", tiny_model().save)
    loaded = load_model("some-org/Omni.v1", device="cpu")
    assert (loaded.model_id, loaded.revision) == ("some-org/Omni.v1", COMMIT[:12])
    assert load_model("some-org/Omni.v1", device="cpu", revision=COMMIT).revision == COMMIT[:12]
    with pytest.raises(ModelNotFoundError, match=r"some-org/Omni\.v1 is not on this machine"):
        load_model("some-org/Omni.v1", revision="f" * 40)


def test_registered_names_bring_their_settings(hub_cache):
    put_into_cache(hub_cache, HUB_IDS["avocado"], tiny_model().save)
    loaded = load_model("avocado", device="cpu")
    assert (loaded.model_id, loaded.revision) == ("avocado", COMMIT[:12])
    # AVoCaDO's appendix C, not the 12 tokens that the tiny model was saved with.
    assert (loaded.model.settings.max_patch_tokens, loaded.model.settings.max_video_tokens) == (512, 25_600)


def test_a_download_that_was_cut_short_is_not_used(hub_cache):
    def half(folder):
        tiny_model().save(folder)
        weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        (folder / "model.safetensors").rename(folder / weights["a"])
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))

    folder = put_into_cache(hub_cache, "org/half", half)
    with pytest.raises(ModelNotFoundError, match=r"cut short and lacks model-00002-of-00002\.safetensors\); where"):
        load_model("org/half")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(ModelNotFoundError, match="org/half is not on this machine"):
        load_model("org/half")


def test_a_name_with_a_folder_has_the_settings_of_the_name(tmp_path):
    folder = tmp_path / "weights"
    tiny_model().save(folder)
    plain = load_model(str(folder), device="cpu")
    named = load_model(f"avocado@{folder}", device="cpu")
    assert (plain.model_id, named.model_id) == ("weights", "avocado")
    assert plain.revision == named.revision
    assert plain.model.settings.max_patch_tokens == 12
    assert named.model.settings.max_patch_tokens == 512
    options = ModelOptions(layout="released", patch_pixels=200 * 784)
    changed = load_model(f"avocado@{folder}", device="cpu", options=options).model
    assert (changed.layout_rule, changed.settings.max_patch_tokens) == ("tmrope_released", 200)
    assert changed.settings.max_video_tokens == 25_600


def test_nano_without_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("avocet.models.registry.resources.files", lambda package: tmp_path)
    with pytest.raises(ModelNotFoundError, match="holds no weights; reinstall the package, or train it"):
        load_model("nano")
