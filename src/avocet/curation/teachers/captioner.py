"""Avocet's own captioners as teachers: what they see alone, what they hear alone, or both.

They answer `visual_caption` and `audio_caption` with the instruction that they were trained on and at their own frame
rate, whatever the task asks for; questions about texts are not for them. One question is with the model at a time;
clips are decoded meanwhile. Captions are kept in the same kind of file as the replies of servers, under a key of the
decoded clip, model, sampling and instruction.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import threading
import time

from avocet.captioning.captioner import Captioner
from avocet.captioning.probe import drop_picture
from avocet.curation.outcomes import Cost
from avocet.curation.teachers._local import LocalReply, clip_digest, kept_or_made
from avocet.curation.teachers.media_parts import MediaSettings, audio_policy, check_streams, media_failure, plan_parts
from avocet.curation.teachers.replies import check_task, prompt_version, render_prompt
from avocet.curation.teachers.roles import Answer, Preview, TeacherError, TeacherTask
from avocet.errors import AvocetError, ConfigError, MediaError
from avocet.judging.cache import ReplyCache
from avocet.judging.messages import TextPart
from avocet.records import Caption, Clip, Sampling


class CaptionerTeacher:
    """A loaded captioner.

    Args:
        captioner: the model.
        cache: where captions are kept; without one every question is answered anew.
        sampling: None for the model's own. The task's index is added to its seed.
        use_prompts: ask with the text of the prompt in place of the model's own instruction, for models that follow
            instructions.
    """

    def __init__(
        self,
        captioner: Captioner,
        *,
        cache: ReplyCache | None = None,
        sampling: Sampling | None = None,
        use_prompts: bool = False,
    ) -> None:
        self._captioner = captioner
        self._cache = cache
        self._sampling = sampling or captioner.model.default_sampling
        self._use_prompts = use_prompts
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Model and revision."""
        return f"{self._captioner.model_id}@{self._captioner.revision}"

    @property
    def version(self) -> str:
        """12 hex digits over the model, how it reads clips, its sampling and its instruction."""
        model = self._captioner.model
        reading = [model.clip_fps, model.min_frames, model.max_frames, model.max_pixels, model.layout_rule]
        asked = "prompt" if self._use_prompts else model.default_instruction
        settings = [self.name, reading, self._captioner.options.to_dict(), self._sampling.to_dict(), asked]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def reads_texts(self) -> bool:
        """See `Teacher.reads_texts`."""
        return False

    def ask(self, task: TeacherTask) -> Answer:
        """See `Teacher.ask`. Raises `ConfigError` for questions about texts."""
        instruction = self._instruction(task)
        clip = self._open(task)
        sampling = dataclasses.replace(self._sampling, seed=self._sampling.seed + task.index)
        asked = [self.name, self.version, instruction, sampling.to_dict(), task.media, clip_digest(clip)]
        version = prompt_version(task.prompt)

        def caption() -> LocalReply:
            return self._caption(clip, instruction, sampling)

        reply, cached = kept_or_made(self._cache, asked, model=self.name, judge=task.prompt, make=caption)
        return Answer(text=reply.text.strip(), cost=Cost(), teacher=self.name, prompt_version=version, cached=cached)

    def preview(self, task: TeacherTask) -> Preview:
        """See `Teacher.preview`. Tokens are those of the instruction; what a clip takes depends on the model."""
        model = self._captioner.model
        reading = MediaSettings(fps=model.clip_fps, max_frames=model.max_frames)
        plan = plan_parts(dataclasses.replace(task, fps=None), reading)
        return Preview(
            tokens=math.ceil(len(self._instruction(task).encode()) / 3),
            reply_tokens=self._sampling.max_new_tokens,
            bytes=0,
            images=plan.num_images,
            sound_seconds=plan.sound_seconds,
        )

    def close(self) -> None:
        """Nothing to give back: the cache belongs to whoever opened it."""

    def _instruction(self, task: TeacherTask) -> str:
        check_task(task)
        if task.fields or task.clip is None:
            raise ConfigError(
                f"{self.name} is a captioner: it describes clips and reads no texts, so it cannot be asked "
                f"{task.prompt!r}; bind the role to MODEL@https://HOST/v1"
            )
        if not self._use_prompts:
            return self._captioner.model.default_instruction
        parts = (part for message in render_prompt(task.prompt, {}).messages for part in message.parts)
        return "\n\n".join(part.text for part in parts if isinstance(part, TextPart))

    def _open(self, task: TeacherTask) -> Clip:
        assert task.clip is not None
        try:
            clip = self._captioner.open(task.clip, audio=audio_policy(task.media)).clip
        except MediaError as error:
            raise media_failure(error) from error
        check_streams(clip, task.media)
        return drop_picture(clip) if task.media == "sound" else clip

    def _caption(self, clip: Clip, instruction: str, sampling: Sampling) -> LocalReply:
        began = time.monotonic()
        try:
            with self._lock:
                caption: Caption = self._captioner.caption(clip, instruction, sampling)
        except (AvocetError, RuntimeError) as error:  # torch reports bad shapes and lack of memory as RuntimeError
            detail = " ".join(str(error).split())
            raise TeacherError("model_refused", f"{self.name}: {detail}", at_once=False) from error
        if caption.stop_reason != "end":
            reason = "cut_off" if caption.stop_reason == "length" else "repetition"
            detail = f"{self.name}: the caption was ended after {caption.num_tokens} tokens ({caption.stop_reason})"
            raise TeacherError(reason, detail, at_once=False)
        if not caption.text.strip():
            raise TeacherError("empty", f"{self.name}: the caption is empty", at_once=False)
        prompt_tokens = int(caption.media.get("num_prompt_tokens", 0))
        return LocalReply(
            text=caption.text,
            prompt_tokens=prompt_tokens,
            completion_tokens=caption.num_tokens,
            seconds=time.monotonic() - began,
        )
