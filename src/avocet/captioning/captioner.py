"""The one captioning call: media in, `Caption` records out, whichever model is behind it.

Every other stage that needs a caption (bulk runs, evaluation, the demo) goes through `Captioner`, so
the frames a model sees, the audio policy and the sampling settings are decided and recorded in one
place. Nothing here knows which model it holds: it uses the four verbs and the model's own wishes for
frame rate, frame count and picture size.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from types import MappingProxyType

import torch

from avocet.errors import AvocetError
from avocet.media import open_clip
from avocet.models.interface import CaptionModel, Completion, Prompt
from avocet.models.registry import load_model
from avocet.records import AudioPolicy, Caption, Clip, ClipRef, Failure, Sampling

_WORLDS = MappingProxyType({"theatre": ("avocet theatre", "the procedural theatre")})
"""World of a model -> (how the container tag `comment` of its clips begins, its name in words)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedClip:
    """A decoded clip and what decoding it took, ready for `Captioner.caption_batch`."""

    clip: Clip
    path: str
    media_seconds: float | None = None
    """Wall time of decoding; None when the clip was made in memory."""


Source = str | os.PathLike[str] | ClipRef | Clip | OpenedClip


class Captioner:
    """A model with its name and version, ready to caption.

    Args:
        model: any implementation of the four verbs.
        model_id: the name that captions are signed with.
        revision: the version of the weights (a hub commit or a hash of the weight file).
    """

    def __init__(self, model: CaptionModel, model_id: str, revision: str) -> None:
        self.model = model
        self.model_id = model_id
        self.revision = revision

    def open(self, source: Source, audio: AudioPolicy = "auto") -> OpenedClip:
        """Decode `source` the way the model wants to see it.

        Raises `MediaError` naming the file, the stream and the reason when it cannot be read.
        """
        if isinstance(source, OpenedClip):
            return source
        if isinstance(source, Clip):
            return OpenedClip(clip=source, path=source.source.path)
        ref = source if isinstance(source, ClipRef) else None
        path = ref.path if ref else os.fspath(source)  # type: ignore[arg-type]
        began = time.perf_counter()
        clip = open_clip(
            path,
            fps=self.model.clip_fps,
            max_frames=self.model.max_frames,
            max_pixels=self.model.max_pixels,
            start_seconds=ref.start_seconds if ref else None,
            end_seconds=ref.end_seconds if ref else None,
            audio=audio,
            clip_id=ref.id if ref else None,
        )
        return OpenedClip(clip=clip, path=path, media_seconds=time.perf_counter() - began)

    def try_open(self, source: Source, audio: AudioPolicy = "auto") -> OpenedClip | Failure:
        """Like `open`, but an unreadable source is a `Failure` value."""
        try:
            return self.open(source, audio)
        except (AvocetError, OSError) as error:
            path = source.path if isinstance(source, ClipRef | OpenedClip) else str(source)
            clip_id = source.id if isinstance(source, ClipRef) else path
            return Failure(clip_id=clip_id, path=path, stage="media", error=_one_line(error))

    def caption(
        self,
        source: Source,
        instruction: str | None = None,
        sampling: Sampling | None = None,
        *,
        audio: AudioPolicy = "auto",
    ) -> Caption:
        """Caption one clip, given as a path, a `ClipRef` or a decoded `Clip`.

        `instruction` and `sampling` default to the model's own. Raises `MediaError` when the media cannot
        be read and whatever the model raises when it cannot take the clip.
        """
        return self._run([self.open(source, audio)], instruction, sampling)[0]

    def caption_batch(
        self,
        sources: Sequence[Source | Failure],
        instruction: str | None = None,
        sampling: Sampling | None = None,
        *,
        audio: AudioPolicy = "auto",
    ) -> list[Caption | Failure]:
        """Caption several clips in one forward pass, in the order given.

        A clip that cannot be read or captioned becomes a `Failure` in its place and does not disturb the
        others; failures among `sources` are passed through. The whole list goes through the model at
        once, so its length is the batch size (`captioning.bulk` cuts long lists).
        """
        outcomes: list[Caption | Failure | OpenedClip] = [
            source if isinstance(source, Failure) else self.try_open(source, audio) for source in sources
        ]
        opened = [outcome for outcome in outcomes if isinstance(outcome, OpenedClip)]
        captions = iter(self._run_or_fail(opened, instruction, sampling) if opened else [])
        return [next(captions) if isinstance(outcome, OpenedClip) else outcome for outcome in outcomes]

    def world_warning(self, clip: Clip) -> str | None:
        """What to say when the model knows only one world and `clip` does not come from it."""
        world = self.model.world
        if world is None or world not in _WORLDS:
            return None
        mark, name = _WORLDS[world]
        if clip.source.tags.get("comment", "").startswith(mark):
            return None
        return f"{self.model_id} knows only {name}; on any other video its caption is not to be trusted"

    def _run_or_fail(
        self, opened: Sequence[OpenedClip], instruction: str | None, sampling: Sampling | None
    ) -> list[Caption | Failure]:
        try:
            return list(self._run(opened, instruction, sampling))
        except (AvocetError, RuntimeError) as error:  # torch reports bad shapes and lack of memory as RuntimeError
            if len(opened) == 1:
                item = opened[0]
                return [Failure(clip_id=item.clip.id, path=item.path, stage="model", error=_one_line(error))]
        # One clip spoils a whole batch, so each gets its own chance.
        return [outcome for item in opened for outcome in self._run_or_fail([item], instruction, sampling)]

    @torch.no_grad()
    def _run(self, opened: Sequence[OpenedClip], instruction: str | None, sampling: Sampling | None) -> list[Caption]:
        instruction = self.model.default_instruction if instruction is None else instruction
        sampling = sampling or self.model.default_sampling
        marks = [time.perf_counter()]
        prompts = [self.model.prepare(item.clip, instruction) for item in opened]
        marks.append(time.perf_counter())
        prefix = self.model.encode(prompts)
        marks.append(time.perf_counter())
        completions = self.model.generate(prefix, 1, sampling)
        marks.append(time.perf_counter())
        # Shared steps are split evenly over the batch, so summing over the records gives wall time.
        shares = {
            verb: (marks[index + 1] - marks[index]) / len(opened)
            for index, verb in enumerate(("prepare", "encode", "generate"))
        }
        return [
            self._record(item, prompt, samples[0], instruction, sampling, shares)
            for item, prompt, samples in zip(opened, prompts, completions, strict=True)
        ]

    def _record(
        self,
        item: OpenedClip,
        prompt: Prompt,
        completion: Completion,
        instruction: str,
        sampling: Sampling,
        shares: dict[str, float],
    ) -> Caption:
        clip, warnings = item.clip, [*item.clip.warnings, *prompt.warnings]
        if completion.stop_reason == "length":
            warnings.append(f"the caption was cut off after max_new_tokens={sampling.max_new_tokens} tokens")
        if not completion.text.strip():
            warnings.append("the caption is empty")
        if (world_warning := self.world_warning(clip)) is not None:
            warnings.append(world_warning)
        timings = ({} if item.media_seconds is None else {"media": item.media_seconds}) | shares
        return Caption(
            clip_id=clip.id,
            path=item.path,
            text=completion.text,
            model=self.model_id,
            revision=self.revision,
            instruction=instruction,
            sampling=sampling,
            stop_reason=completion.stop_reason,
            num_tokens=len(completion.token_ids),
            audio_used=prompt.num_audio_tokens > 0,
            audio_status=clip.audio_status,
            num_frames=clip.num_frames,
            fps=clip.fps,
            start_seconds=clip.start_seconds,
            end_seconds=clip.end_seconds,
            layout_rule=self.model.layout_rule,
            timings_seconds={name: round(seconds, 6) for name, seconds in timings.items()},
            warnings=tuple(dict.fromkeys(warnings)),
        )


def load_captioner(
    name: str = "nano", device: str = "auto", dtype: str = "auto", revision: str | None = None
) -> Captioner:
    """Load a model by name and make it ready to caption.

    `name` is a registered name (`nano` is shipped with the package) or a checkpoint folder; `device` and
    `dtype` "auto" choose for this machine. Raises `ModelNotFoundError` saying what is missing and how to
    get it.
    """
    loaded = load_model(name, device=device, dtype=dtype, revision=revision)
    return Captioner(loaded.model, loaded.model_id, loaded.revision)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, AvocetError) else f"{type(error).__name__}: {text}"
