"""From a model's name to the model.

A name is one of `model_names()`, a hub id (`owner/name`), a local folder, or `NAME@FOLDER`: the weights of FOLDER read
with the settings of NAME (a folder alone does not say that it is AVoCaDO and not plain Qwen2.5-Omni). The folder of an
exported adapter is its base, which it names, with the adapter added to the weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from avocet.errors import CheckpointError, ConfigError, ModelNotFoundError
from avocet.models.loading import REVISION_DIGITS, listed, read_config, weights_revision
from avocet.records import Record

if TYPE_CHECKING:
    from avocet.models.interface import CaptionModel

_NANO = "nano"
_HUB = MappingProxyType(
    {
        "avocado": "AVoCaDO-Captioner/AVoCaDO",
        "qwen2.5-omni-7b": "Qwen/Qwen2.5-Omni-7B",
        "qwen3-omni-30b": "Qwen/Qwen3-Omni-30B-A3B-Instruct",
        "salmonn2": "tsinghua-ee/video-SALMONN-2",
        "salmonn2-plus-3b": "tsinghua-ee/video-SALMONN2_plus_3B_full",
        "salmonn2-plus-7b": "tsinghua-ee/video-SALMONN2_plus_7B_full",
        "salmonn2-plus-72b": "tsinghua-ee/video-SALMONN2_plus_72B_full",
    }
)
"""Name -> hub id."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
"""What is fetched of a hub repository: configuration, tokenizer and safe weights; no code, no pickles."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions(Record):
    """What a caller may change of how a model reads clips; None keeps the model's own value.

    A model that has no such setting refuses it with a `ConfigError`.
    """

    layout: str | None = None
    """Name of the model's layout rule to use ("tmrope" or "released" for the Qwen-Omni family)."""
    fps: float | None = None
    """Frames per second to sample from a clip."""
    max_frames: int | None = None
    """The most frames of a clip."""
    patch_pixels: int | None = None
    """The most pixels of a temporal patch (two frames of the Qwen family)."""
    total_pixels: int | None = None
    """The most pixels of all temporal patches of a clip together."""

    def given(self) -> dict[str, Any]:
        """Only what is not None."""
        return {name: value for name, value in self.to_dict().items() if value is not None}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A model with what its captions are signed with."""

    model: CaptionModel
    model_id: str
    revision: str
    """The hub commit, or a hash of the weights (`loading.weights_revision`): 12 hex digits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Source:
    """Where weights are and what they are called."""

    folder: Path
    model_id: str
    settings_of: str
    """The registered name whose settings apply, "" for the family's."""
    commit: str = ""


def model_names() -> tuple[str, ...]:
    """Every name this version knows."""
    return (_NANO, *_HUB)


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    options: ModelOptions | None = None,
) -> LoadedModel:
    """Load a model by name, hub id or folder.

    Args:
        name: see the module's description. Hub models are taken from the local cache or downloaded.
        device: "auto" takes a GPU when there is one.
        dtype: "auto" is float32 on a CPU, bfloat16 on a GPU.
        revision: the hub commit, branch or tag to load; for local weights, what their version must begin with.
        options: changes to how the model reads clips.

    Raises:
        ModelNotFoundError: no such weights here, or not of that revision.
        CheckpointError: the folder is broken or of a model that Avocet does not know.
        ConfigError: no name, or an option that the model does not have.
    """
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"no model is named: {name!r}; {_loadable()}")
    if (adapter := _adapter_folder(name)) is not None:
        return _load_adapted(adapter, device, dtype, revision, options)
    source = _find(name, revision)
    found = source.commit or weights_revision(source.folder)
    if revision is not None and not source.commit and not found.startswith(revision[:REVISION_DIGITS]):
        raise ModelNotFoundError(f"model {name!r} is here in revision {found or '(no weights)'}, not in {revision}")
    model = _load(source, device, dtype, options or ModelOptions())
    return LoadedModel(model=model, model_id=source.model_id, revision=found)


def _adapter_folder(name: str) -> Path | None:
    """The folder of a PEFT adapter without a model."""
    folder = Path(name).expanduser()
    has_adapter = (folder / "adapter_config.json").is_file()
    return folder.resolve() if has_adapter and not (folder / "config.json").is_file() else None


def _load_adapted(
    folder: Path, device: str, dtype: str, revision: str | None, options: ModelOptions | None
) -> LoadedModel:
    from avocet.models.adapters import load_adapter_folder, read_adapter_config

    base = read_adapter_config(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or (base and _adapter_folder(base) is not None):
        raise CheckpointError(f"{folder}: an adapter must name its model in base_model_name_or_path, got {base!r}")
    loaded = load_model(base, device=device, dtype=dtype, options=options)
    versions = f"{loaded.revision} {weights_revision(folder)}"
    found = hashlib.sha256(versions.encode()).hexdigest()[:REVISION_DIGITS]
    if revision is not None and not found.startswith(revision[:REVISION_DIGITS]):
        raise ModelNotFoundError(f"model {str(folder)!r} is here in revision {found}, not in {revision}")
    load_adapter_folder(loaded.model, folder)
    return LoadedModel(model=loaded.model, model_id=folder.name, revision=found)


def _load(source: _Source, device: str, dtype: str, options: ModelOptions) -> CaptionModel:
    # Imported late: naming a model that is not here must not cost the import of PyTorch and transformers.
    if str(read_config(source.folder).get("model_type", "")).startswith(("qwen2_5_omni", "qwen3_omni")):
        from avocet.models.qwen_omni.checkpoint import load_checkpoint as load_omni
        from avocet.models.qwen_omni.config import SETTINGS

        settings = SETTINGS.get(source.settings_of)
        return load_omni(source.folder, device=device, dtype=dtype, settings=settings, options=options)
    from avocet.models.salmonn2.checkpoint import load_checkpoint

    return load_checkpoint(source.folder, device=device, dtype=dtype, options=options)


def _find(name: str, revision: str | None) -> _Source:
    if name == _NANO:
        folder = Path(str(resources.files("avocet"))) / "assets" / _NANO
        if not (folder / "model.safetensors").is_file():
            raise ModelNotFoundError(
                f"model 'nano': {folder} holds no weights; reinstall the package, or train it with recipes/nano"
            )
        return _Source(folder=folder, model_id=_NANO, settings_of="")
    if name in _HUB:
        return _from_hub(name, _HUB[name], revision, settings_of=name)
    if name.startswith("server:"):
        raise ModelNotFoundError(f"model {name!r}: captioning through a server is not available yet; {_loadable()}")
    given, _, place = name.partition("@")
    if place and given in model_names():
        return dataclasses.replace(_from_folder(name, place), model_id=given, settings_of=given)
    if Path(name).expanduser().is_dir():
        return _from_folder(name, name)
    if _HUB_ID.fullmatch(name):
        return _from_hub(name, name, revision, settings_of="")
    raise ModelNotFoundError(f"model {name!r}: unknown name and no such folder; {_loadable()}")


def _from_folder(name: str, place: str) -> _Source:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise ModelNotFoundError(f"model {name!r}: no such folder: {folder}")
    folder = folder.resolve()
    return _Source(folder=folder, model_id=folder.name, settings_of="")


def _from_hub(name: str, repository: str, revision: str | None, settings_of: str) -> _Source:
    from huggingface_hub import snapshot_download

    arguments: dict[str, Any] = {"repo_id": repository, "revision": revision, "allow_patterns": list(_HUB_FILES)}
    try:
        folder = _cached(snapshot_download, arguments) or Path(snapshot_download(**arguments))
        if missing := _missing_shards(folder):  # what the client hands out where it has no network
            raise FileNotFoundError(f"an earlier download was cut short and lacks {listed(missing, 2)}")
    except Exception as error:  # the hub client raises its own, its transport's and the operating system's errors
        reason = " ".join(str(error).split())[:200]
        raise ModelNotFoundError(
            f"model {name!r}: {repository} is not on this machine and could not be downloaded ({reason}); where there "
            f"is a network fetch it with 'hf download {repository}', or give a folder: {settings_of or 'NAME'}@FOLDER"
        ) from error
    return _Source(
        folder=folder, model_id=name, settings_of=settings_of, commit=folder.resolve().name[:REVISION_DIGITS]
    )


def _cached(download: Any, arguments: dict[str, Any]) -> Path | None:
    """The snapshot of an earlier download, if it has all the shards that its index names."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(download(local_files_only=True, **arguments))
    except LocalEntryNotFoundError:
        return None
    return folder if any(folder.glob("*.safetensors")) and not _missing_shards(folder) else None


def _missing_shards(folder: Path) -> list[str]:
    """Names in the folder's index of weights that have no file."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sorted(shard for shard in shards if not (folder / shard).is_file())


def _loadable() -> str:
    return f"this version loads {_NANO}, {', '.join(_HUB)}, hub ids (owner/name) and local folders"
