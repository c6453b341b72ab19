"""Reading video-SALMONN 2+ checkpoints: the released layout (3B, 7B, 72B, `_full` or `audioAlign`) and Avocet's own."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avocet.errors import CheckpointError, RecordError
from avocet.models.loading import folder_tokenizer, read_config, resolve_device, resolve_dtype
from avocet.models.registry import ModelOptions
from avocet.models.salmonn2.plus import PlusModel
from avocet.models.salmonn2.plus_config import PlusConfig, PlusLayout, read_plus_config
from avocet.models.salmonn2.released_keys import POSITION_IDS, KeyMap, Rules
from avocet.models.salmonn2.saving import write_model
from avocet.models.weights import StoredTensors, fill_model, stored_tensors

TIED_KEY = "decoder.lm_head.weight"
QFORMER_PREFIX = "audio.qformer."
NUM_POSITION_IDS = 512

RULES: Rules = (
    ("audio.q_tokens", "audio.query_tokens"),
    ("audio.audio_proj.", "audio.projection."),
    ("audio.", "audio.encoder."),
    ("visual.", "visual."),
    ("model.", "decoder.model."),
    ("lm_head.", "decoder.lm_head."),
)
"""Released name -> ours, for all but the Q-Former."""


KEYS = KeyMap(
    rules=RULES,
    released_qformer=QFORMER_PREFIX,
    our_qformer=QFORMER_PREFIX,
    constants=re.compile(re.escape(QFORMER_PREFIX + POSITION_IDS)),
)
our_name, released_name = KEYS.ours, KEYS.released


def load_plus(
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    layout: PlusLayout | None = None,
    tokenizer: Any = None,
    options: ModelOptions | None = None,
) -> PlusModel:
    """Read a checkpoint folder, in evaluation mode.

    Args:
        folder: `config.json`, safetensors (one file or indexed shards) and, for captioning, tokenizer files.
        device: "auto" takes a GPU when there is one.
        dtype: a torch dtype, its name, or "auto": float32 on a CPU, bfloat16 on a GPU.
        layout: see `PlusConfig.layout`; None keeps the folder's own or what produced the published numbers.
        tokenizer: instead of the folder's.
        options: changes to how clips are read.

    Raises:
        CheckpointError: files are missing or unreadable, or keys or shapes differ.
        ConfigError: an option that the model does not have.
    """
    folder = Path(folder)
    data = read_config(folder)
    own = data.get("model_type") == "avocet-salmonn2"
    try:
        config = PlusConfig.from_dict(data) if own else read_plus_config(data)
    except RecordError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    config = config.changed(options or ModelOptions())
    if layout is not None:
        config = config.changed(ModelOptions(layout=layout))
    place = resolve_device(device)
    tokenizer = tokenizer or _tokenizer(folder, config)
    model = empty_model(config, tokenizer, place, resolve_dtype(dtype, place))
    with stored_tensors(folder) as stored:
        if not own:
            check_position_ids(stored, QFORMER_PREFIX + POSITION_IDS, folder)
        tied = frozenset({TIED_KEY}) if config.tie_embeddings else frozenset()
        fill_model(model, stored, folder, (lambda name: name) if own else our_name, skipped=tied)
    return model.eval()


def write_released(model: PlusModel, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write the layout of the release: its config, its key names, its constant buffer.

    Raises:
        CheckpointError: the model was not made from a released checkpoint, or the folder holds weights already.
    """
    if not model.config.released:
        raise CheckpointError("this model does not know the config.json of a release, so its layout cannot be written")
    state: dict[str, torch.Tensor] = {
        QFORMER_PREFIX + POSITION_IDS: torch.arange(NUM_POSITION_IDS)[None],
    }
    for name, tensor in model.state_dict().items():
        released = released_name(name)
        if released is None:
            raise CheckpointError(f"{name} has no place in the released layout; merge adapters first")
        if not (name == TIED_KEY and model.config.tie_embeddings):
            state[released] = tensor
    write_model(folder, model.config.released, model.tokenizer, state, dtype)


def empty_model(
    config: PlusConfig, tokenizer: Any, device: torch.device, dtype: torch.dtype, *, allocate: bool = True
) -> PlusModel:
    """The model without weights; without `allocate` on the meta device, which takes no memory."""
    from avocet.models.attention import ATTENTION

    attention = ATTENTION if device.type == "cpu" else "sdpa"
    with torch.device("meta"):
        model = PlusModel(config, tokenizer, attention).to(dtype)
    if not allocate:
        return model
    model = model.to_empty(device=device)
    if config.tie_embeddings:
        model.decoder.tie()
    for parent, name in ((model.decoder.model, "rotary_emb"), (model.visual, "rotary_pos_emb")):
        setattr(parent, name, _fresh_rotary(getattr(parent, name), parent.config).to(device))
    return model


def _fresh_rotary(module: nn.Module, config: Any) -> nn.Module:
    """A rotary embedding with its table computed anew: checkpoints do not store it; float32 whatever the weights are.

    transformers 5.20 and later build the vision tower's from the config, earlier versions from the size of half a head.
    """
    kind: Any = type(module)
    if "config" in inspect.signature(kind).parameters:
        fresh: nn.Module = kind(config=config)
    else:
        fresh = kind(config.hidden_size // config.num_heads // 2)
    return fresh


def check_position_ids(stored: StoredTensors, name: str, folder: Path) -> None:
    """The buffer must be what it always is: 0 ... 511. Anything else is another Q-Former."""
    if name not in stored.names():
        return
    found = stored.read(name)
    if found.shape != (1, NUM_POSITION_IDS) or not torch.equal(found.long()[0], torch.arange(NUM_POSITION_IDS)):
        raise CheckpointError(f"{folder}: {name} is not the numbers 0 to {NUM_POSITION_IDS - 1}")


def _tokenizer(folder: Path, config: PlusConfig) -> Any:
    """The folder's tokenizer with the audio placeholder, None without tokenizer files."""
    tokenizer = folder_tokenizer(folder)
    if tokenizer is None:
        return None
    if "<|audio_pad|>" not in tokenizer.get_vocab():
        tokenizer.add_tokens(["<|audio_pad|>"], special_tokens=True)
    found = tokenizer.get_vocab()["<|audio_pad|>"]
    if found != config.audio_token_id:
        raise CheckpointError(
            f"{folder}: <|audio_pad|> is token {found} of the tokenizer, config.json says {config.audio_token_id}"
        )
    return tokenizer
