"""From a model's name to the model.

This version loads `nano` (shipped in the package) and local folders in Avocet's own format. The other names of the
papers are known, so that asking for one says what is missing instead of guessing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from avocet.errors import ConfigError, ModelNotFoundError
from avocet.records import Record

if TYPE_CHECKING:
    from avocet.models.interface import CaptionModel

_NANO = "nano"
_KNOWN = MappingProxyType(
    {
        "avocado": "AVoCaDO (AVoCaDO-Captioner/AVoCaDO)",
        "qwen2.5-omni-7b": "Qwen2.5-Omni 7B",
        "qwen3-omni-30b": "Qwen3-Omni 30B",
        "salmonn2": "video-SALMONN 2 7B",
        "salmonn2-plus-3b": "video-SALMONN 2+ 3B",
        "salmonn2-plus-7b": "video-SALMONN 2+ 7B",
        "salmonn2-plus-72b": "video-SALMONN 2+ 72B",
    }
)
_LOADABLE = "this version loads 'nano' and local folders with config.json, tokenizer.json and model.safetensors"
_REVISION_DIGITS = 12


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
    """First 12 hex digits of the SHA-256 of the weight file."""


def model_names() -> tuple[str, ...]:
    """Every name this version knows, loadable or not."""
    return (_NANO, *_KNOWN)


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    options: ModelOptions | None = None,
) -> LoadedModel:
    """Load a model by name or folder.

    Args:
        name: `nano` or a folder that `save_checkpoint` wrote.
        device: "auto" takes a GPU when there is one.
        dtype: "auto" is float32 on a CPU, bfloat16 on a GPU.
        revision: when given, the weights must be these.
        options: changes to how the model reads clips.

    Raises:
        ConfigError: an option that the model does not have.
        ModelNotFoundError: no such weights here, or not of that revision.
        CheckpointError: the folder is broken.
    """
    folder = _folder_of(name)
    weights = folder / "model.safetensors"
    found = file_revision(weights) if weights.is_file() else None
    if revision is not None and found is not None and not found.startswith(revision[:_REVISION_DIGITS]):
        raise ModelNotFoundError(f"model {name!r} is here in revision {found}, not in {revision}")
    # Imported late: naming a model that is not here must not cost the import of PyTorch and transformers.
    from avocet.models.salmonn2.checkpoint import load_checkpoint

    if options is not None and options.given():
        raise ConfigError(f"model {name!r} has no settings {', '.join(options.given())}")
    model = load_checkpoint(folder, device=device, dtype=dtype)
    return LoadedModel(model=model, model_id=name if name == _NANO else folder.name, revision=found or "")


def file_revision(path: Path) -> str:
    """First 12 hex digits of the file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_REVISION_DIGITS]


def _folder_of(name: str) -> Path:
    if name == _NANO:
        folder = Path(str(resources.files("avocet"))) / "assets" / _NANO
        if not (folder / "model.safetensors").is_file():
            raise ModelNotFoundError(
                f"model 'nano': {folder} holds no weights; reinstall the package, or train it with recipes/nano"
            )
        return folder
    if name in _KNOWN:
        raise ModelNotFoundError(f"model {name!r} ({_KNOWN[name]}) has no loader yet; {_LOADABLE}")
    if name.startswith("server:"):
        raise ModelNotFoundError(f"model {name!r}: captioning through a server is not available yet; {_LOADABLE}")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    kind = "no such folder, and loading from the hub is not available yet" if "/" in name else "unknown name"
    raise ModelNotFoundError(f"model {name!r}: {kind}; {_LOADABLE}")
