"""Rollouts from vLLM in the trainer's own process, sharing its GPU in turns.

    engine = VllmOfflineEngine(VllmSettings(model="/models/avocado", folder="runs/mine/weights"), model)

Where the settings say so, vLLM sleeps while the trainer computes: its weights wait in host memory and its key-value
cache is dropped. New weights come as a merged checkpoint on disk or as an adapter, as with a server. vLLM is not a
dependency of this package and is imported when the engine is made.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from avocet.errors import ConfigError
from avocet.models.interface import Prompt
from avocet.records import ClipRef, Record, Sampling
from avocet.training.grpo.rollouts.base import Rollout, RolloutError, WeightUpdate, check_request
from avocet.training.grpo.rollouts.copies import Asked, CopyEngine
from avocet.training.grpo.rollouts.media import NotSendable, SeenMedia, even_frames, processor_arguments, seen_media
from avocet.training.grpo.rollouts.replies import Rejected, read_rollout
from avocet.training.grpo.rollouts.server import THINKER_RENAMES
from avocet.training.grpo.rollouts.weights import DTYPES

INSTALL = (
    "vLLM is not installed. It needs a GPU and brings its own PyTorch, so install it first, in its own environment "
    "(pip install vllm) and this package after it; or run vLLM as a server and use the server engine"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VllmSettings(Record):
    """How vLLM is started and kept in step."""

    model: str
    """The checkpoint folder that it starts from."""
    folder: str
    """Where new weights are written."""
    sync: Literal["merged", "adapter"] = "merged"
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    keep_versions: int = 1
    """Written versions that are kept."""
    sleep: bool = True
    """Give the GPU's memory back between rollouts. Needs a GPU."""
    max_model_tokens: int = 32768
    """Positions of prompt and answer together."""
    gpu_memory_utilization: float = 0.5
    adapter_rank: int = 256
    """The largest rank of an adapter."""
    adapter_renames: tuple[tuple[str, str], ...] = THINKER_RENAMES
    engine_arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Added to those of `vllm.LLM`."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"unknown dtype {self.dtype!r}; allowed: {', '.join(DTYPES)}")
        if min(self.max_model_tokens, self.adapter_rank, self.keep_versions) < 1:
            raise ConfigError(
                "max_model_tokens, adapter_rank and keep_versions must be >= 1, got "
                f"{self.max_model_tokens}, {self.adapter_rank} and {self.keep_versions}"
            )
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(f"gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}")


class VllmOfflineEngine(CopyEngine):
    """`RolloutEngine` around `vllm.LLM`.

    Args:
        settings: see there.
        model: the trainer's, for its tokenizer and for how it reads clips.

    Raises `ConfigError` without vLLM, saying how to install it.
    """

    def __init__(self, settings: VllmSettings, model: Any) -> None:
        self._vllm = _vllm()
        name = f"vllm:{settings.model}"
        super().__init__(name, name, settings, model, keep_versions=settings.keep_versions)
        self.settings = settings
        self._adapter: Any = None
        self._asleep = False
        arguments: dict[str, Any] = {
            "model": settings.model,
            "dtype": settings.dtype,
            "max_model_len": settings.max_model_tokens,
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "enable_sleep_mode": settings.sleep,
            "limit_mm_per_prompt": {"image": 1, "video": 1, "audio": 1},
            "max_logprobs": 1,
        }
        if settings.sync == "adapter":
            arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": settings.adapter_rank}
        self._llm: Any = self._vllm.LLM(**arguments | settings.engine_arguments)
        self._rest()

    def close(self) -> None:
        """Let vLLM go."""
        self._llm = None

    def _load_merged(self, folder: Path, weights: WeightUpdate) -> None:
        self._wake()  # every process has its own copy
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        except Exception as error:  # whatever vLLM's workers raise
            raise RolloutError(f"{self.name} did not load {folder}: {type(error).__name__}: {error}") from error
        # Keys, values and encoder outputs of the old weights.
        self._llm.reset_prefix_cache()
        self._llm.reset_mm_cache()
        self._rest()

    def _load_adapter(self, folder: Path, weights: WeightUpdate, before: int | None) -> None:
        request = importlib.import_module("vllm.lora.request").LoRARequest
        # Numbers of adapters begin at 1, versions at 0.
        self._adapter = request(f"policy-{weights.version:08d}", weights.version + 1, str(folder))

    def _ask_all(
        self,
        prompts: Sequence[Prompt],
        clips: Sequence[ClipRef],
        instructions: Sequence[str],
        n: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Asked]:
        check_request(prompts, clips, instructions, n, seeds)
        if self._version is None or self._llm is None:
            raise ConfigError(f"{self.name} holds no weights of the policy; call sync first, and nothing after close")
        results: list[Asked] = [([], None) for _ in prompts]
        places, inputs, wishes = [], [], []
        for place, (prompt, clip, seed) in enumerate(zip(prompts, clips, seeds, strict=True)):
            try:
                inputs.append(self._input(prompt, clip))
            except NotSendable as error:
                self.rejections[error.reason] += n
                continue
            places.append(place)
            wishes.append(self._wish(n, sampling, seed))
        if inputs:
            self._wake()
            try:
                outputs = self._llm.generate(inputs, wishes, use_tqdm=False, lora_request=self._adapter)
            finally:
                self._rest()
            for place, output in zip(places, outputs, strict=True):
                ids = tuple(output.prompt_token_ids) if output.prompt_token_ids is not None else None
                results[place] = (self._read(output.outputs, sampling), ids)
        return results

    def _wish(self, n: int, sampling: Sampling, seed: int) -> Any:
        return self._vllm.SamplingParams(
            n=n,
            seed=seed,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            min_p=0.0,
            repetition_penalty=sampling.repetition_penalty,
            stop_token_ids=list(self._model.stop_ids),
            logprobs=0,
        )

    def _input(self, prompt: Prompt, clip: ClipRef) -> dict[str, Any]:
        media = seen_media(self._model, prompt, clip)
        return {
            "prompt_token_ids": compact_ids(self._model.tokenizer, prompt),
            "multi_modal_data": _media_data(media),
            "mm_processor_kwargs": processor_arguments(media),
        }

    def _read(self, outputs: Sequence[Any], sampling: Sampling) -> list[Rollout]:
        rollouts = []
        for output in outputs:
            ids = [int(token) for token in output.token_ids]
            log_probs = None
            if output.logprobs is not None:
                log_probs = [
                    float(entry[token].logprob)
                    for entry, token in zip(output.logprobs, ids, strict=False)
                    if token in entry
                ]
            try:
                rollout = read_rollout(
                    self._model,
                    text=output.text,
                    token_ids=ids,
                    tokens=None,
                    log_probs=log_probs,
                    finish_reason=output.finish_reason,
                    sampling=sampling,
                )
            except Rejected as error:
                self.rejections[error.reason] += 1
            else:
                rollouts.append(rollout)
        return rollouts

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def _rest(self) -> None:
        if self.settings.sleep and not self._asleep:
            # Level 1 keeps the weights in host memory: level 2 would drop an adapter's base.
            self._llm.sleep(level=1)
            self._asleep = True


def compact_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The prompt with one placeholder for all its media, which vLLM unfolds itself.

    Where sound is interleaved with a video, vLLM also writes the markers of the sound.

    Raises `ConfigError` for a tokenizer that names no such tokens: vLLM does not know its model.
    """
    names = ("image_token", "video_token", "audio_token", "audio_bos_token", "audio_eos_token")
    found = {name: getattr(tokenizer, name, None) for name in names}
    if None in found.values():
        missing = ", ".join(name for name, token in found.items() if token is None)
        raise ConfigError(f"the model's tokenizer names no {missing}; vLLM engines take models of the Qwen-Omni family")
    image, video, audio, opening, closing = (tokenizer.convert_tokens_to_ids(found[name]) for name in names)
    ids = list(prompt.token_ids)
    places = [place for place, token in enumerate(ids) if token in (image, video, audio)]
    if not places:
        raise ConfigError(f"clip {prompt.clip_id!r}: the prompt holds no media")
    before, after = ids[: places[0]], ids[places[-1] + 1 :]
    kinds = {ids[place] for place in places}
    if kinds == {video, audio} and before[-1:] == [opening] and after[:1] == [closing]:
        before, after = before[:-1], after[1:]
    middle = video if video in kinds else image if image in kinds else audio
    return [*before, middle, *after]


def _media_data(media: SeenMedia) -> dict[str, Any]:
    from PIL import Image

    from avocet.records import SAMPLE_RATE

    data: dict[str, Any] = {}
    pictures = even_frames(media).transpose(0, 2, 3, 1)  # (T, H, W, 3)
    if media.is_image:
        data["image"] = Image.fromarray(pictures[0])
    elif len(pictures):
        facts: dict[str, Any] = {
            "fps": media.fps,
            "total_num_frames": len(pictures),
            "duration": len(pictures) / media.fps,
        }
        facts |= {"frames_indices": list(range(len(pictures))), "do_sample_frames": False, "video_backend": "memory"}
        data["video"] = (pictures, facts)
    if media.waveform is not None:
        data["audio"] = (media.waveform, SAMPLE_RATE)
    return data


def _vllm() -> Any:
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(INSTALL)
    return importlib.import_module("vllm")
