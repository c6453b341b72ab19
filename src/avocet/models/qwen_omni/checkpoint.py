"""A Qwen-Omni folder: `config.json`, tokenizer files, safetensors shards, and `avocet.json` if Avocet wrote it.

Full checkpoints (weights under `thinker.`, talker beside it) and thinker-only ones load alike; transformers' own loader
reads the shards one by one. Missing, unexpected and misshapen keys are errors, never a silent random layer.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from avocet.errors import CheckpointError, ConfigError, MissingExtraError
from avocet.models.loading import listed, quiet_transformers, read_config, resolve_device, resolve_dtype
from avocet.models.qwen_omni.config import FAMILIES, QWEN3, SETTINGS_FILE, Family, ReadingSettings
from avocet.models.qwen_omni.modeling import QwenOmniModel
from avocet.models.qwen_omni.towers import read_sizes
from avocet.models.registry import ModelOptions

_SPREAD = "balanced"
_SPEECH_OUTPUT = ("talker.", "token2wav.", "code2wav.")
"""Parts of full checkpoints that captioning does not need."""
FOUR_BIT = "4bit"


def load_checkpoint(
    folder: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    settings: ReadingSettings | None = None,
    options: ModelOptions | None = None,
) -> QwenOmniModel:
    """Read a model folder, in evaluation mode.

    Args:
        folder: a full or thinker-only checkpoint of Qwen2.5-Omni or Qwen3-Omni.
        device: "auto" takes a GPU when there is one, "balanced" spreads the layers over all GPUs.
        dtype: a torch dtype, its name, "auto" (float32 on a CPU, bfloat16 on a GPU) or "4bit" (bitsandbytes nf4,
            computing in bfloat16).
        settings: how clips are read; None takes the folder's own, or the family's defaults.
        options: changes to `settings`.

    Raises:
        CheckpointError: files are missing or unreadable, the config is of another model, or keys or shapes differ.
        ConfigError: an option or device that does not fit.
        MissingExtraError: accelerate or bitsandbytes is needed and not installed.
    """
    folder = Path(folder)
    family, config = _read_config(folder)
    tokenizer = _load_tokenizer(folder)
    thinker = _load_thinker(folder, config, is_qwen3=family is QWEN3, device=device, dtype=dtype)
    chosen = settings or _stored_settings(folder) or ReadingSettings()
    if options is not None:
        chosen = chosen.changed(options, read_sizes(thinker.config).factor ** 2)
    return QwenOmniModel(thinker, tokenizer, family, chosen).eval()


def choose_attention(device: torch.device, dtype: torch.dtype) -> str:
    """The fastest attention that is installed: FlashAttention for half precision on GPUs, else PyTorch's own."""
    half = dtype in (torch.float16, torch.bfloat16)
    if device.type == "cuda" and half and importlib.util.find_spec("flash_attn") is not None:
        return "flash_attention_2"
    return "sdpa"


def _read_config(folder: Path) -> tuple[Family, dict[str, Any]]:
    """The family and the thinker's config, which full checkpoints hold inside theirs."""
    data = read_config(folder)
    model_type = data.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(f"{folder}: model_type {model_type!r} is none of {', '.join(FAMILIES)}")
    thinker = data.get("thinker_config", data)
    if not isinstance(thinker, dict) or not isinstance(thinker.get("text_config"), dict):
        # transformers would take the sizes of the 7B instead, tens of gigabytes of random weights.
        raise CheckpointError(f"{folder}: config.json describes no thinker with a text_config")
    return FAMILIES[model_type], thinker


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its many parsers raise
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({_one_line(error)})") from error


def _load_thinker(
    folder: Path, data: dict[str, Any], *, is_qwen3: bool, device: str | torch.device, dtype: str | torch.dtype
) -> Any:
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration, Qwen3OmniMoeThinkerForConditionalGeneration

    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder}: no safetensors files; pickled weights (.bin, .pt) are not read")
    placed, arguments = _placement(device, dtype)
    kind: Any = Qwen3OmniMoeThinkerForConditionalGeneration if is_qwen3 else Qwen2_5OmniThinkerForConditionalGeneration
    try:
        with quiet_transformers():
            config = kind.config_class.from_dict(data)
            thinker, info = kind.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below with names instead of a page of text
                **arguments,
            )
    except Exception as error:  # whatever transformers, safetensors and the config classes raise
        raise CheckpointError(f"{folder}: the weights cannot be read ({_one_line(error)})") from error
    _check_keys(folder, info)
    return thinker if "device_map" in arguments else thinker.to(placed)


def _placement(device: str | torch.device, dtype: str | torch.dtype) -> tuple[torch.device, dict[str, Any]]:
    """Where the model goes and the arguments of `from_pretrained` that take it there."""
    spread = device == _SPREAD
    if spread and torch.cuda.device_count() < 1:
        raise ConfigError("device='balanced' spreads a model over GPUs, and there is none; use 'auto' or 'cpu'")
    placed = resolve_device("auto" if spread else device)
    four_bit = dtype == FOUR_BIT
    torch_dtype = torch.bfloat16 if four_bit else resolve_dtype(dtype, placed)
    arguments: dict[str, Any] = {"dtype": torch_dtype, "attn_implementation": choose_attention(placed, torch_dtype)}
    if spread or placed.type == "cuda" or four_bit:
        if importlib.util.find_spec("accelerate") is None:
            raise MissingExtraError("loading onto a GPU", "train")
        # Straight onto the device: no copy of all weights in the host's memory.
        arguments["device_map"] = "auto" if spread else {"": placed}
    if four_bit:
        arguments["quantization_config"] = _four_bit()
    return placed, arguments


def _four_bit() -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("dtype='4bit'", "gpu")
    from transformers import BitsAndBytesConfig

    settings: Any = BitsAndBytesConfig
    return settings(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        # Towers are small and sensitive; only the decoder is quantised.
        llm_int8_skip_modules=["lm_head", "visual", "audio_tower"],
    )


def _stored_settings(folder: Path) -> ReadingSettings | None:
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return None
    try:
        return ReadingSettings.from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8, or a RecordError
        raise CheckpointError(f"{path}: {error}") from error


def _check_keys(folder: Path, info: Any) -> None:
    problems = []
    for label in ("missing", "unexpected", "mismatched"):
        names = [name if isinstance(name, str) else str(name[0]) for name in info.get(f"{label}_keys", ())]
        names = [name for name in names if not name.startswith(_SPEECH_OUTPUT)]
        if names:
            problems.append(f"{len(names)} {label} keys: {listed(sorted(names))}")
    if info.get("error_msgs"):
        problems.append(_one_line(RuntimeError("; ".join(info["error_msgs"]))))
    if problems:
        raise CheckpointError(f"{folder}: the weights do not fit the config: {'; '.join(problems)}")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
