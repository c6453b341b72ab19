"""video-SALMONN 2 under transformers' Auto classes, for folders in Avocet's layout; no code from the folder is run.

import avocet.models.salmonn2                        # registers the classes
model = transformers.AutoModel.from_pretrained("converted/")
model.caption_model.prepare(clip, "Describe ...")    # the four verbs
model.save_pretrained("copy/")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from avocet.errors import ConfigError
from avocet.models.loading import read_config
from avocet.models.salmonn2.checkpoint import OWN_TYPE, find_variant, load_checkpoint

_HUB_ARGUMENTS = frozenset(
    {
        *("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder"),
        *("_commit_hash", "adapter_kwargs"),
    }
)
"""What AutoModel hands on and a local folder has no use for."""


class Salmonn2AutoConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """The `config.json` of a folder in Avocet's layout, as transformers holds it."""

    model_type = OWN_TYPE

    def to_dict(self) -> dict[str, Any]:
        """What the folder holds, without transformers' own fields."""
        return dict(self.avocet) if hasattr(self, "avocet") else super().to_dict()

    @classmethod
    def from_folder(cls, folder: Path) -> Salmonn2AutoConfig:
        """Read a folder's config; Avocet's fields are in `avocet`."""
        config = cls()
        config.avocet = read_config(folder)
        return config


class Salmonn2AutoModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Holds one of Avocet's models; `caption_model` is the model itself, a `CaptionModel`."""

    config_class = Salmonn2AutoConfig

    def __init__(self, config: Salmonn2AutoConfig, caption_model: Any) -> None:
        super().__init__(config)
        self.caption_model = caption_model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Salmonn2AutoModel:
        """Load a local folder; takes `dtype` (or `torch_dtype`) and `device_map` as one device.

        Raises:
            ConfigError: an argument that has no meaning here.
            CheckpointError: see `load_checkpoint`.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; only local folders can be loaded this way")
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None) or "auto"
        device = kwargs.pop("device_map", None) or "cpu"
        kwargs.pop("torch_dtype", None)
        kwargs.pop("config", None)
        kwargs.pop("trust_remote_code", None)
        unknown = sorted(set(kwargs) - _HUB_ARGUMENTS)
        if unknown or args or not isinstance(device, str | torch.device):
            given = unknown or args or device
            raise ConfigError(f"from_pretrained of {OWN_TYPE} takes dtype and device_map (one device), not {given}")
        find_variant(folder)
        model = load_checkpoint(folder, device=device, dtype=dtype)
        return cls(Salmonn2AutoConfig.from_folder(folder), model)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write the folder in Avocet's layout."""
        self.caption_model.save(Path(save_directory))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Not the way in: raises `ConfigError` naming it."""
        raise ConfigError("use caption_model: prepare, encode, generate and score")


def register() -> None:
    """Make the Auto classes know these; called when the package is imported."""
    AutoConfig.register(OWN_TYPE, Salmonn2AutoConfig, exist_ok=True)
    AutoModel.register(Salmonn2AutoConfig, Salmonn2AutoModel, exist_ok=True)


register()
