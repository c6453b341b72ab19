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
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from avocet.captioning.instructions import Instruction, InstructionChoice, InstructionRule, instruction_rule
from avocet.captioning.retry import Answer, generate_guarded
from avocet.errors import AvocetError, ConfigError
from avocet.media import open_clip
from avocet.models.interface import CaptionModel, Prompt
from avocet.models.registry import ModelOptions, load_model
from avocet.records import AudioPolicy, Caption, Clip, ClipRef, Failure, Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class _World:
    """What a model of a closed world was trained on."""

    comment: str
    """How the container tag `comment` of its clips begins."""
    name: str
    instructions: tuple[str, ...]
    """How its instructions begin."""


_WORLDS = MappingProxyType(
    {
        "theatre": _World(
            comment="avocet theatre",
            name="the procedural theatre",
            instructions=(
                "Describe the video.",
                "Describe the video and its sound",
                "What is seen and heard",
                "Tell what happens",
                "Write a caption of the video",
                "Describe the sound.",
                "What is heard?",
                "Tell which sounds",
                "Write down what is said.",
                "Which words are spoken?",
                "Transcribe the speech.",
                "Answer the question",
                "Watch, listen",
            ),
        )
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedClip:
    """A decoded clip and what decoding it took, ready for `Captioner.caption_batch`."""

    clip: Clip
    path: str
    media_seconds: float | None = None
    """Wall time of decoding; None when the clip was made in memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """A decoded clip and what is asked about it."""

    item: OpenedClip
    instruction: Instruction


Source = str | os.PathLike[str] | ClipRef | Clip | OpenedClip


class Captioner:
    """A model with its name and version, ready to caption.

    Args:
        model: any implementation of the four verbs.
        model_id: the name that captions are signed with.
        revision: the version of the weights (a hub commit or a hash of the weight file).
        options: what the model was loaded with, for the records; it is not applied here.
    """

    def __init__(self, model: CaptionModel, model_id: str, revision: str, options: ModelOptions | None = None) -> None:
        self.model = model
        self.model_id = model_id
        self.revision = revision
        self.options = options or ModelOptions()

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
            min_frames=self.model.min_frames,
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
        path_or_clip: Source,
        instruction: InstructionChoice = None,
        sampling: Sampling | None = None,
        *,
        audio: AudioPolicy = "auto",
        keep_logps: bool = False,
    ) -> Caption:
        """Caption one clip.

        Args:
            path_or_clip: a path, a `ClipRef` or a decoded `Clip`.
            instruction: a text, an `Instruction`, a rule that finds one for the clip (`StyleRule`,
                `InstructionFile`), or None for the model's own.
            sampling: None for the model's own.
            keep_logps: keep the log-probability of each token in the record.

        Raises `MediaError` when the media cannot be read, `ConfigError` when there is no instruction for the
        clip or the model has no log-probabilities to keep, and whatever the model raises when it cannot take
        the clip.
        """
        rule = self.rule(instruction)
        item = self.open(path_or_clip, audio)
        return self._run([_Job(item=item, instruction=_ask(rule, item))], sampling, keep_logps)[0]

    def caption_batch(
        self,
        sources: Sequence[Source | Failure],
        instruction: InstructionChoice = None,
        sampling: Sampling | None = None,
        *,
        audio: AudioPolicy = "auto",
        keep_logps: bool = False,
    ) -> list[Caption | Failure]:
        """Caption several clips in one forward pass, in the order given; arguments as of `caption`.

        A clip that cannot be read or captioned, or for which there is no instruction, becomes a `Failure` in
        its place and does not disturb the others; failures among `sources` are passed through. The whole list
        goes through the model at once, so its length is the batch size (`captioning.bulk` cuts long lists).
        """
        rule = self.rule(instruction)
        outcomes: list[_Job | Failure] = []
        for source in sources:
            item = source if isinstance(source, Failure) else self.try_open(source, audio)
            outcomes.append(item if isinstance(item, Failure) else _try_ask(rule, item))
        jobs = [outcome for outcome in outcomes if isinstance(outcome, _Job)]
        captions = iter(self._run_or_fail(jobs, sampling, keep_logps) if jobs else [])
        return [next(captions) if isinstance(outcome, _Job) else outcome for outcome in outcomes]

    def rule(self, instruction: InstructionChoice) -> InstructionRule:
        """What `instruction` asks about each clip. Raises `ConfigError` for an empty text."""
        return instruction_rule(instruction, self.model.default_instruction)

    def world_warning(self, clip: Clip) -> str | None:
        """What to say when the model knows only one world and `clip` does not come from it."""
        world = self.model.world
        if world is None or world not in _WORLDS:
            return None
        known = _WORLDS[world]
        if clip.source.tags.get("comment", "").startswith(known.comment):
            return None
        return f"{self.model_id} knows only {known.name}; on any other video its caption is not to be trusted"

    def instruction_warning(self, instruction: str) -> str | None:
        """What to say when the model was trained on a few instructions and `instruction` is none of them."""
        world = self.model.world
        if world is None or world not in _WORLDS or instruction.startswith(_WORLDS[world].instructions):
            return None
        return (
            f"{self.model_id} knows only instructions like {self.model.default_instruction!r}; asked in other words it "
            "leaves things out"
        )

    def _run_or_fail(
        self, jobs: Sequence[_Job], sampling: Sampling | None, keep_logps: bool
    ) -> list[Caption | Failure]:
        try:
            return list(self._run(jobs, sampling, keep_logps))
        except (AvocetError, RuntimeError) as error:  # torch reports bad shapes and lack of memory as RuntimeError
            if len(jobs) == 1:
                return [_failure(jobs[0].item, error)]
        # One clip spoils a whole batch, so each gets its own chance.
        return [outcome for job in jobs for outcome in self._run_or_fail([job], sampling, keep_logps)]

    @torch.no_grad()
    def _run(self, jobs: Sequence[_Job], sampling: Sampling | None, keep_logps: bool) -> list[Caption]:
        sampling = sampling or self.model.default_sampling
        marks = [time.perf_counter()]
        prompts = [self.model.prepare(job.item.clip, job.instruction.text) for job in jobs]
        marks.append(time.perf_counter())
        prefix = self.model.encode(prompts)
        marks.append(time.perf_counter())
        answers = generate_guarded(self.model, prefix, sampling)
        marks.append(time.perf_counter() - sum(answer.retry_seconds or 0.0 for answer in answers))
        # Shared steps are split evenly over the batch, so summing over the records gives wall time.
        shares = {
            verb: (marks[index + 1] - marks[index]) / len(jobs)
            for index, verb in enumerate(("prepare", "encode", "generate"))
        }
        return [
            self._record(job, prompt, answer, shares, keep_logps)
            for job, prompt, answer in zip(jobs, prompts, answers, strict=True)
        ]

    def _record(
        self, job: _Job, prompt: Prompt, answer: Answer, shares: Mapping[str, float], keep_logps: bool
    ) -> Caption:
        item, clip, completion = job.item, job.item.clip, answer.completion
        warnings = [*clip.warnings, *prompt.warnings, *answer.warnings]
        of_world = (self.world_warning(clip), self.instruction_warning(job.instruction.text))
        warnings += [warning for warning in of_world if warning is not None]
        timings = {"media": item.media_seconds, **shares, "retry": answer.retry_seconds}
        return Caption(
            clip_id=clip.id,
            path=item.path,
            text=completion.text,
            model=self.model_id,
            revision=self.revision,
            instruction=job.instruction.text,
            instruction_source=job.instruction.source,
            sampling=answer.sampling,
            stop_reason=completion.stop_reason,
            num_tokens=len(completion.token_ids),
            audio_used=prompt.num_audio_tokens > 0,
            audio_status=clip.audio_status,
            num_frames=clip.num_frames,
            fps=clip.fps,
            start_seconds=clip.start_seconds,
            end_seconds=clip.end_seconds,
            layout_rule=self.model.layout_rule,
            media=self._media(clip, prompt),
            token_logps=self._logps(answer) if keep_logps else (),
            timings_seconds={name: round(seconds, 6) for name, seconds in timings.items() if seconds is not None},
            warnings=tuple(dict.fromkeys(warnings)),
        )

    def _media(self, clip: Clip, prompt: Prompt) -> dict[str, Any]:
        """`Caption.media`: what the model says of the prompt, what the prompt holds, and how clips are sampled."""
        height, width = (int(size) for size in prompt.frames.shape[2:])
        has_frames = len(prompt.frames) > 0
        return {
            **prompt.media,
            "is_image": clip.source.is_image,
            "num_visual_tokens": prompt.layout.num_visual_tokens,
            "num_audio_tokens": prompt.layout.num_audio_tokens,
            "num_prompt_tokens": len(prompt.token_ids),
            "frame_width": width if has_frames else None,
            "frame_height": height if has_frames else None,
            "sampling_fps": self.model.clip_fps,
            "max_frames": self.model.max_frames,
            "options": self.options.given(),
        }

    def _logps(self, answer: Answer) -> tuple[float, ...]:
        if answer.completion.logps is None:
            raise ConfigError(f"model {self.model_id!r} gives no log-probabilities of its tokens; do not ask for them")
        return tuple(answer.completion.logps.tolist())


def load_captioner(
    name: str = "nano",
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    options: ModelOptions | None = None,
) -> Captioner:
    """Load a model by name and make it ready to caption.

    Args:
        name: a registered name (`nano` is shipped with the package), a hub id, a folder, or NAME@FOLDER.
        device: "auto" takes a GPU where there is one.
        dtype: "auto" is what fits the device.
        revision: the version of the weights, None for whichever is there.
        options: changes to how the model reads clips (frames per second, pixel budgets, layout).

    Raises `ModelNotFoundError` saying what is missing and how to get it, `ConfigError` for options that the
    model does not have.
    """
    loaded = load_model(name, device=device, dtype=dtype, revision=revision, options=options)
    return Captioner(loaded.model, loaded.model_id, loaded.revision, options)


def clip_name(clip_id: str, path: str) -> ClipRef:
    """What an `InstructionRule` is asked with: the same at captioning and when a run is resumed."""
    return ClipRef(id=clip_id, path=path or clip_id)  # a clip made in memory may have no path


def _ask(rule: InstructionRule, item: OpenedClip) -> Instruction:
    return rule(clip_name(item.clip.id, item.path))


def _try_ask(rule: InstructionRule, item: OpenedClip) -> _Job | Failure:
    try:
        return _Job(item=item, instruction=_ask(rule, item))
    except AvocetError as error:
        return _failure(item, error)


def _failure(item: OpenedClip, error: BaseException) -> Failure:
    return Failure(clip_id=item.clip.id, path=item.path, stage="model", error=_one_line(error))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, AvocetError) else f"{type(error).__name__}: {text}"
