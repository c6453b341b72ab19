"""Rollouts from an OpenAI-compatible server (vLLM, SGLang) that holds a copy of the policy.

    settings = ServerSettings(base_url="http://127.0.0.1:8000/v1", model="policy", folder="runs/mine/weights")
    engine = ServerEngine(settings, model)

One request per prompt asks for the whole group with token ids and log-probabilities. Weights go by a merged checkpoint
that the server is told to load, or by LoRA adapters under names that hold the version, so that no request can meet an
older one. Trainer and server need one file system in common. How to start the servers: docs/rollouts.md.
"""

from __future__ import annotations

import base64
import dataclasses
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from avocet.errors import ConfigError
from avocet.models.interface import Prompt
from avocet.records import ClipRef, Record, Sampling
from avocet.training.grpo.rollouts.base import Rollout, RolloutError, WeightUpdate, check_request
from avocet.training.grpo.rollouts.copies import Asked, CopyEngine
from avocet.training.grpo.rollouts.http_calls import HttpCalls
from avocet.training.grpo.rollouts.media import (
    NotSendable,
    SeenMedia,
    matroska,
    png,
    processor_arguments,
    seen_media,
    wav,
)
from avocet.training.grpo.rollouts.replies import Rejected, read_choice
from avocet.training.grpo.rollouts.weights import DTYPES

Dialect = Literal["vllm", "sglang", "openai"]
MediaForm = Literal["lossless", "path", "url"]
THINKER_RENAMES = (("thinker.model.language_model.", "thinker.model."),)
"""Our names of decoder layers of the Qwen-Omni family -> those of their checkpoints, which vLLM's loader expects."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointCall(Record):
    """One POST after new weights were written; "{folder}" in its texts is where they are."""

    path: str
    body: dict[str, Any] = dataclasses.field(default_factory=dict)


RELOAD = MappingProxyType(
    {
        # Keys, values and encoder outputs of the old weights must go, too.
        "vllm": (
            EndpointCall(
                path="/collective_rpc", body={"method": "reload_weights", "kwargs": {"weights_path": "{folder}"}}
            ),
            EndpointCall(path="/reset_prefix_cache"),
            EndpointCall(path="/reset_mm_cache"),
            EndpointCall(path="/reset_encoder_cache"),
        ),
        "sglang": (EndpointCall(path="/update_weights_from_disk", body={"model_path": "{folder}"}),),
        "openai": (),
    }
)
"""What each kind of server is told by default."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSettings(Record):
    """Where the server is and how it is spoken to."""

    base_url: str
    """Ends in "/v1"."""
    model: str
    """The name that the server knows the model by."""
    folder: str
    """Where weights are written; the server sees it under the same path."""
    sync: Literal["merged", "adapter"] = "merged"
    reload: tuple[EndpointCall, ...] | None = None
    """Calls that make the server load a merged checkpoint; None takes the dialect's (`RELOAD`)."""
    dialect: Dialect = "vllm"
    """Which fields beyond the standard the server takes."""
    media: MediaForm = "lossless"
    """"lossless" sends what the trainer's model sees, "path" a file:// URL and "url" the clip's own URL, which the
    server reads in its own way."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of merged checkpoints."""
    keep_versions: int = 1
    """Written versions that are kept."""
    system_prompt: str | None = None
    """None reads it from the prompt; "" sends none."""
    adapter_renames: tuple[tuple[str, str], ...] = THINKER_RENAMES
    processor_arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Added to vLLM's `mm_processor_kwargs`."""
    extra_body: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Added to every request for rollouts."""
    concurrency: int = 16
    timeout_seconds: float = 1800.0
    max_retries: int = 5
    backoff_base_seconds: float = 0.5
    backoff_cap_seconds: float = 30.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc or not parts.path.rstrip("/").endswith("/v1"):
            raise ConfigError(f"base_url must look like http://host:port/v1, got {self.base_url!r}")
        if self.concurrency < 1 or self.keep_versions < 1 or self.max_retries < 0:
            raise ConfigError("concurrency and keep_versions must be >= 1, max_retries >= 0")
        for name in ("timeout_seconds", "backoff_base_seconds", "backoff_cap_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.dtype not in DTYPES:
            raise ConfigError(f"unknown dtype {self.dtype!r}; allowed: {', '.join(DTYPES)}")
        if self.sync == "merged" and not self.reload_calls:
            raise ConfigError(
                "a server of dialect 'openai' must be told how to load merged weights: set reload, or sync=\"adapter\""
            )

    @property
    def reload_calls(self) -> tuple[EndpointCall, ...]:
        return RELOAD[self.dialect] if self.reload is None else self.reload

    @property
    def root(self) -> str:
        return self.base_url.rstrip("/").removesuffix("/v1")


class ServerEngine(CopyEngine):
    """`RolloutEngine` of a server.

    Args:
        settings: see there.
        model: the trainer's, for its tokenizer and for how it reads clips.
        api_key: where the server wants one.
    """

    def __init__(self, settings: ServerSettings, model: Any, *, api_key: str | None = None) -> None:
        identity = f"server:{settings.model}"
        super().__init__(
            f"{identity}@{settings.base_url}", identity, settings, model, keep_versions=settings.keep_versions
        )
        self.settings = settings
        self._served = settings.model
        self._calls = HttpCalls(
            settings.root,
            api_key or "none",
            timeout_seconds=settings.timeout_seconds,
            max_retries=settings.max_retries,
            backoff_base_seconds=settings.backoff_base_seconds,
            backoff_cap_seconds=settings.backoff_cap_seconds,
        )

    def close(self) -> None:
        """Close the connections; the server goes on."""
        self._calls.close()

    def _load_merged(self, folder: Path, weights: WeightUpdate) -> None:
        def load() -> None:
            for call in self.settings.reload_calls:
                self._reload(call, folder)

        weights.on_main(load)

    def _reload(self, call: EndpointCall, folder: Path) -> None:
        reply = self._calls.post(call.path, _filled(call.body, str(folder)))
        # Both kinds of server answer 200 to a reload that they did not do.
        if '"success":false' in reply.replace(" ", "").lower():
            raise RolloutError(f"{self.settings.root}{call.path}: the server did not do it: {reply[:200]}")

    def _load_adapter(self, folder: Path, weights: WeightUpdate, before: int | None) -> None:
        name = f"{self.settings.model}-{weights.version:08d}"

        def load() -> None:
            # In place, since an attempt that seemed lost may have loaded it.
            body = {"lora_name": name, "lora_path": str(folder), "load_inplace": True}
            self._calls.post("/v1/load_lora_adapter", body)
            if before is not None:
                self._calls.post("/v1/unload_lora_adapter", {"lora_name": f"{self.settings.model}-{before:08d}"})

        weights.on_main(load)
        self._served = name

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
        if self._version is None:
            raise ConfigError(f"{self.name} was never given the policy's weights; call sync first")

        def ask(place: int) -> tuple[list[Rollout], tuple[int, ...] | None, Counter[str]]:
            return self._ask(prompts[place], clips[place], instructions[place], n, sampling, seeds[place])

        pool = ThreadPoolExecutor(max_workers=self.settings.concurrency, thread_name_prefix="rollouts")
        try:
            answers = list(pool.map(ask, range(len(prompts))))
        finally:
            pool.shutdown(cancel_futures=True)
        for _, _, rejected in answers:
            self.rejections += rejected
        return [(group, ids) for group, ids, _ in answers]

    def _ask(
        self, prompt: Prompt, clip: ClipRef, instruction: str, n: int, sampling: Sampling, seed: int
    ) -> tuple[list[Rollout], tuple[int, ...] | None, Counter[str]]:
        rejected: Counter[str] = Counter()
        try:
            body = self._body(prompt, clip, instruction, n, sampling, seed)
        except NotSendable as error:
            return [], None, Counter({error.reason: n})
        data = self._calls.post_json("/v1/chat/completions", body)
        choices = data.get("choices")
        if not isinstance(choices, list) or len(choices) != n:
            count = len(choices) if isinstance(choices, list) else 0
            raise RolloutError(f"{self.name}: asked for {n} samples, got {count}")
        rollouts = []
        for choice in sorted(choices, key=lambda choice: choice.get("index", 0)):
            try:
                rollouts.append(read_choice(self._model, choice, sampling))
            except Rejected as error:
                rejected[error.reason] += 1
        ids = data.get("prompt_token_ids")
        return rollouts, tuple(ids) if isinstance(ids, list) else None, rejected

    def _body(
        self, prompt: Prompt, clip: ClipRef, instruction: str, n: int, sampling: Sampling, seed: int
    ) -> dict[str, Any]:
        settings = self.settings
        parts, processor = self._media(prompt, clip)
        system = system_prompt(self._model, prompt) if settings.system_prompt is None else settings.system_prompt
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": [*parts, {"type": "text", "text": instruction}]})
        body: dict[str, Any] = {
            "model": self._served,
            "messages": messages,
            "n": n,
            "seed": seed,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "logprobs": True,
        }
        if settings.dialect != "openai":
            # All that the server would else take from the checkpoint's generation_config.json.
            body |= {"top_k": -1, "min_p": 0.0, "repetition_penalty": sampling.repetition_penalty}
            body |= {"stop_token_ids": list(self._model.stop_ids)}
        if settings.dialect == "vllm":
            body |= {"top_logprobs": 0, "return_token_ids": True, "return_tokens_as_token_ids": True}
            body |= {"mm_processor_kwargs": processor | settings.processor_arguments}
            # By default it would look at 32 frames of a file, or at 2 frames per second.
            rate = processor.get("fps", self._model.clip_fps)
            body |= {"media_io_kwargs": {"video": {"num_frames": -1, "fps": rate}}}
        return body | settings.extra_body

    def _media(self, prompt: Prompt, clip: ClipRef) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The media parts of the message, and what vLLM's processor is told of them."""
        if self.settings.media != "lossless":
            has_picture = len(prompt.frames) > 0
            kind = "image_url" if prompt.is_image else "video_url" if has_picture else "audio_url"
            processor = {"use_audio_in_video": has_picture and prompt.num_audio_tokens > 0, "fps": self._model.clip_fps}
            return [_part(kind, _own_url(clip, self.settings.media))], processor
        media = seen_media(self._model, prompt, clip)
        return [_lossless_part(media)], processor_arguments(media)


def system_prompt(model: Any, prompt: Prompt) -> str:
    """The system turn of a prompt in ChatML, "" without one.

    Raises `ConfigError` for a prompt in another format.
    """
    text = model.tokenizer.decode(list(prompt.token_ids[:4096]))
    opening, closing, user = "<|im_start|>system\n", "<|im_end|>", "<|im_start|>user\n"
    if text.startswith(user):
        return ""
    if not text.startswith(opening) or closing not in text:
        raise ConfigError("the prompt has no turns that a chat server knows; give system_prompt")
    found: str = text[len(opening) :].split(closing, 1)[0]
    return found


def _lossless_part(media: SeenMedia) -> dict[str, Any]:
    if media.is_image:
        return _part("image_url", _data_url("image/png", png(media.frames[0])))
    if len(media.frames):
        return _part("video_url", _data_url("video/x-matroska", matroska(media)))
    if media.waveform is None:
        raise NotSendable("no_media")
    return _part("audio_url", _data_url("audio/wav", wav(media.waveform)))


def _part(kind: str, url: str) -> dict[str, Any]:
    return {"type": kind, kind: {"url": url}}


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _own_url(clip: ClipRef, form: MediaForm) -> str:
    """Raises `ConfigError` for an interval, which a URL cannot say, and for a path where a URL is wanted."""
    if clip.start_seconds is not None or clip.end_seconds is not None:
        raise ConfigError(f'clip {clip.id!r} is an interval of its file; send it with media="lossless"')
    if form == "path":
        return Path(clip.path).absolute().as_uri()
    if not clip.path.startswith(("http://", "https://")):
        raise ConfigError(f'clip {clip.id!r} is no URL: {clip.path!r}; use media="path" or "lossless"')
    return clip.path


def _filled(value: Any, folder: str) -> Any:
    """The value with "{folder}" filled in wherever it stands."""
    fill: Callable[[Any], Any] = lambda part: _filled(part, folder)  # noqa: E731
    if isinstance(value, str):
        return value.replace("{folder}", folder)
    if isinstance(value, Mapping):
        return {name: fill(part) for name, part in value.items()}
    return [fill(part) for part in value] if isinstance(value, list | tuple) else value
