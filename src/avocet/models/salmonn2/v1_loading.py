"""Reading video-SALMONN 2 7B: the released layout (`model_type` video_salmonn_2) and Avocet's own.

Constant buffers that a released file may hold are compared with what they must be, and not loaded: the `position_ids`
of the Q-Former and of SigLIP (0, 1, 2, ...) and rotary frequencies. The Q-Former's is in the public code and is written
back; the other two come from older library versions and are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from avocet.errors import CheckpointError, ConfigError, RecordError
from avocet.models.loading import folder_tokenizer, read_config, resolve_device, resolve_dtype
from avocet.models.registry import ModelOptions
from avocet.models.salmonn2 import towers
from avocet.models.salmonn2.released_keys import POSITION_IDS, KeyMap, Rules
from avocet.models.salmonn2.saving import TIED_KEY, write_model
from avocet.models.salmonn2.v1 import V1Model
from avocet.models.salmonn2.v1_config import QFORMER_PREFIX, VISION_PREFIX, V1Config, V1Rule, read_v1_config
from avocet.models.weights import StoredTensors, fill_model, stored_tensors

OUR_QFORMER_PREFIX = "audio.qformer."
RULES: Rules = (
    (VISION_PREFIX, "vision."),
    ("model.mm_projector.", "visual_projection."),
    ("model.image_newline", "newline"),
    ("speech_encoder.", "audio.encoder."),
    ("ln_speech.", "audio.norm."),
    ("speech_query_tokens", "audio.query_tokens"),
    ("speech_llama_proj.", "audio.projection."),
    ("final_linear.", "audio.mlp."),
    ("model.", "decoder.model."),
    ("lm_head.", "decoder.lm_head."),
)
"""Released name -> ours, for all but the Q-Former."""

_ROTARY = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
_NUMBERED = (QFORMER_PREFIX + POSITION_IDS, VISION_PREFIX + "embeddings.position_ids")


KEYS = KeyMap(
    rules=RULES,
    released_qformer=QFORMER_PREFIX,
    our_qformer=OUR_QFORMER_PREFIX,
    constants=re.compile("|".join([*map(re.escape, _NUMBERED), _ROTARY.pattern])),
)
our_name, released_name = KEYS.ours, KEYS.released


def load_v1(
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    layout: V1Rule | None = None,
    tokenizer: Any = None,
    sizes: Mapping[str, int] | None = None,
    options: ModelOptions | None = None,
) -> V1Model:
    """Read a checkpoint folder, in evaluation mode.

    Args:
        folder: `config.json`, safetensors (one file or indexed shards) and, for captioning, tokenizer files.
        device: "auto" takes a GPU when there is one.
        dtype: a torch dtype, its name, or "auto": float32 on a CPU, bfloat16 on a GPU.
        layout: see `V1Config.layout`; None keeps the folder's own or what produced the published numbers.
        tokenizer: instead of the folder's.
        sizes: what no file of a release says, where it is not the real model's; see `v1_config.SIZES`.
        options: changes to how clips are read.

    Raises:
        CheckpointError: files are missing or unreadable, or keys, shapes or constants differ.
        ConfigError: an option that the model does not have, or `sizes` are needed or do not fit.
    """
    folder = Path(folder)
    data = read_config(folder)
    own = data.get("model_type") == "avocet-salmonn2"
    with stored_tensors(folder) as stored:
        config = _own_config(data, folder, sizes) if own else released_config(data, stored, folder, sizes)
        config = reading_config(config, layout, options)
        model = empty_model(config, tokenizer or folder_tokenizer(folder), device, dtype)
        fill_model(model, stored, folder, (lambda name: name) if own else our_name, skipped=tied_keys(config))
    return model.eval()


def released_config(
    data: Mapping[str, Any], stored: StoredTensors, place: Path, sizes: Mapping[str, int] | None
) -> V1Config:
    """The config of released weights, whose constants are checked. Raises as `load_v1`."""
    shapes = {name: stored.shape(name) for name in stored.names()}
    try:
        config = read_v1_config(data, shapes, sizes)
    except CheckpointError as error:
        raise CheckpointError(f"{place}: {error}") from error
    _check_constants(stored, config, place)
    return config


def reading_config(config: V1Config, layout: V1Rule | None, options: ModelOptions | None) -> V1Config:
    """With what a caller wants otherwise."""
    config = config.changed(options or ModelOptions())
    return config if layout is None else config.changed(ModelOptions(layout=layout))


def empty_model(
    config: V1Config,
    tokenizer: Any,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    *,
    allocate: bool = True,
) -> V1Model:
    """The model without weights; without `allocate` on the meta device, which takes no memory."""
    place = resolve_device(device)
    with torch.device("meta"):
        model = V1Model(config, tokenizer).to(resolve_dtype(dtype, place))
    if not allocate:
        return model
    model = model.to_empty(device=place)
    model.decoder.tie_weights()
    towers.restore_buffers(model.vision, model.decoder, place)
    return model


def released_state_dict(model: V1Model) -> dict[str, torch.Tensor]:
    """The weights under their released names, constant buffer included.

    Raises:
        CheckpointError: a tensor has no place in the release (an adapter is attached).
    """
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        released = None if ".lora_" in name else released_name(name)
        if released is None:
            raise CheckpointError(f"{name} has no place in the released layout; merge_lora adapters first")
        if name not in tied_keys(model.config):
            state[released] = tensor
    if model.config.num_position_ids:
        state[QFORMER_PREFIX + POSITION_IDS] = torch.arange(model.config.num_position_ids)[None]
    return state


def write_released(model: V1Model, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write the layout of the release: its config, its key names, its constant buffer.

    Raises:
        CheckpointError: the model was not made from a released checkpoint, an adapter is attached, or the folder holds
            weights already.
    """
    if not model.config.released:
        raise CheckpointError("this model does not know the config.json of a release, so its layout cannot be written")
    write_model(folder, model.config.released, model.tokenizer, released_state_dict(model), dtype)


def tied_keys(config: V1Config) -> frozenset[str]:
    """Names of our state that a checkpoint need not have."""
    return frozenset({TIED_KEY}) if config.decoder.tie_embeddings else frozenset()


def _own_config(data: Mapping[str, Any], folder: Path, sizes: Mapping[str, int] | None) -> V1Config:
    if sizes:
        raise ConfigError(f"{folder}: sizes are for released folders; this one's config.json says them all")
    try:
        return V1Config.from_dict(data)
    except RecordError as error:
        raise CheckpointError(f"{folder}: config.json: {error}") from error


def _check_constants(stored: StoredTensors, config: V1Config, place: Path) -> None:
    """Raise `CheckpointError` where a constant is not what the model computes in its stead."""
    decoder = config.decoder
    for name in sorted(stored.names()):
        if name in _NUMBERED:
            found = stored.read(name).flatten()
            is_right = torch.equal(found.long(), torch.arange(len(found)))
        elif _ROTARY.fullmatch(name):
            found = stored.read(name).double()
            exponents = torch.arange(0, decoder.hidden_size // decoder.num_heads, 2).double()
            expected = decoder.rope_theta ** -(exponents * decoder.num_heads / decoder.hidden_size)
            # Half precision keeps 8 bits.
            is_right = found.shape == expected.shape and torch.allclose(found, expected, rtol=2**-7, atol=0)
        elif config.decoder.tie_embeddings and name == "lm_head.weight":
            is_right = torch.equal(stored.read(name), stored.read("model.embed_tokens.weight"))
        else:
            continue
        if not is_right:
            raise CheckpointError(f"{place}: {name} is not the constant that the model computes in its place")
