"""A Whisper model through transformers as the `asr` teacher.

Long sound is cut into windows of at most 30 s, each ended at the quietest moment of its last 5 s, so that no word is
cut in two. Windows without any sound are not asked about: Whisper answers silence with phrases that it has learned.
Where the model knows time tokens, the answer carries segments with their times. Decoding is greedy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avocet.curation.outcomes import Cost
from avocet.curation.teachers._local import LocalReply, kept_or_made
from avocet.curation.teachers.media_parts import MediaSettings, open_task_clip, plan_parts
from avocet.curation.teachers.replies import check_task, prompt_version
from avocet.curation.teachers.roles import NO_SPEECH, Answer, Preview, SpokenSegment, TeacherTask
from avocet.errors import CheckpointError, ConfigError, ModelNotFoundError
from avocet.judging.cache import ReplyCache
from avocet.models.loading import resolve_device, resolve_dtype, weights_revision
from avocet.records import SAMPLE_RATE

WINDOW_SECONDS = 30.0
"""What Whisper hears at once."""
SEARCH_SECONDS = 5.0
_HOP_SECONDS = 0.1
_SILENT_PEAK = 1e-3
"""-60 dBFS."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Heard:
    """What one window says; seconds from its start, None without time tokens."""

    text: str
    segments: tuple[SpokenSegment, ...]
    num_tokens: int


class WhisperTeacher:
    """A loaded Whisper model.

    Args:
        model: `WhisperForConditionalGeneration`.
        processor: the `WhisperProcessor` that belongs to it.
        name: what answers are signed with.
        cache: where transcripts are kept; without one every question is answered anew.
        language: such as "en"; None lets a multilingual model find out, per window.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        name: str,
        *,
        cache: ReplyCache | None = None,
        language: str | None = None,
    ) -> None:
        self._model = model.eval()
        self._processor = processor
        self._cache = cache
        self._language = language
        self._lock = threading.Lock()
        self.name = name

    @classmethod
    def load(
        cls,
        folder_or_id: str,
        *,
        cache: ReplyCache | None = None,
        language: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> WhisperTeacher:
        """Load a local folder, or a hub id from the local cache or the hub.

        Args:
            device: "auto" takes a GPU where there is one.
            dtype: "auto" is float32 on a CPU, bfloat16 on a GPU.

        Raises `ModelNotFoundError` where there is no whole model, `CheckpointError` for one of another kind.
        """
        from transformers import AutoConfig, WhisperForConditionalGeneration, WhisperProcessor

        place = resolve_device(device)
        numbers = resolve_dtype(dtype, place)
        try:
            config = AutoConfig.from_pretrained(folder_or_id)
            if config.model_type != "whisper":
                raise CheckpointError(
                    f"{folder_or_id}: holds a model of type {config.model_type!r}, not a Whisper model"
                )
            processor = WhisperProcessor.from_pretrained(folder_or_id)
            model: Any = WhisperForConditionalGeneration.from_pretrained(
                folder_or_id, dtype=numbers, use_safetensors=True
            )
        except (OSError, ValueError) as error:  # what transformers raises for absent and for unknown models
            reason = " ".join(str(error).split())[:200]
            raise ModelNotFoundError(
                f"Whisper model {folder_or_id!r} is not on this machine, or not whole, and could not be fetched "
                f"({reason}); give a folder with config.json, model.safetensors and the processor's files, or a hub id "
                "such as openai/whisper-large-v3"
            ) from error
        revision = getattr(config, "_commit_hash", None) or weights_revision(Path(folder_or_id))
        name = f"{Path(folder_or_id).name if Path(folder_or_id).is_dir() else folder_or_id}@{revision[:12]}"
        return cls(model.to(place), processor, name, cache=cache, language=language)

    @property
    def reads_texts(self) -> bool:
        """See `Teacher.reads_texts`."""
        return False

    @property
    def version(self) -> str:
        """12 hex digits over the model and how it is asked."""
        settings = [self.name, self._language, WINDOW_SECONDS, SEARCH_SECONDS, _SILENT_PEAK]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]

    def ask(self, task: TeacherTask) -> Answer:
        """See `Teacher.ask`. Raises `ConfigError` for anything but `asr`."""
        self._check(task)
        clip = open_task_clip(task, MediaSettings())
        assert clip.waveform is not None  # what "sound" has been checked for
        waveform = clip.waveform
        digest = hashlib.sha256(waveform.tobytes()).hexdigest()

        def transcribe() -> LocalReply:
            return self._transcribe(waveform)

        asked = ["whisper", self.name, self.version, digest, task.index]
        reply, cached = kept_or_made(self._cache, asked, model=self.name, judge=task.prompt, make=transcribe)
        content = json.loads(reply.text)
        return Answer(
            text=content["text"] or NO_SPEECH,
            cost=Cost(),
            teacher=self.name,
            prompt_version=prompt_version(task.prompt),
            cached=cached,
            segments=tuple(SpokenSegment.from_dict(segment) for segment in content["segments"]),
        )

    def preview(self, task: TeacherTask) -> Preview:
        """See `Teacher.preview`."""
        self._check(task)
        seconds = plan_parts(task, MediaSettings()).sound_seconds
        windows = math.ceil(seconds / WINDOW_SECONDS)
        room = int(self._model.config.max_target_positions)
        return Preview(tokens=0, reply_tokens=windows * room, bytes=0, sound_seconds=seconds)

    def close(self) -> None:
        """Nothing to give back: the cache belongs to whoever opened it."""

    def _check(self, task: TeacherTask) -> None:
        check_task(task)
        if task.prompt != "asr" or task.media != "sound":
            raise ConfigError(
                f"{self.name} only recognises speech: ask it 'asr' with media 'sound', not {task.prompt!r} with "
                f"media {task.media!r}"
            )

    def _transcribe(self, waveform: np.ndarray) -> LocalReply:
        began = time.monotonic()
        texts: list[str] = []
        segments: list[SpokenSegment] = []
        num_tokens = 0
        for start, end in speech_windows(waveform):
            if np.abs(waveform[start:end]).max() < _SILENT_PEAK:
                continue
            heard = self._hear(waveform[start:end])
            texts.append(heard.text)
            segments += [_moved(segment, start / SAMPLE_RATE) for segment in heard.segments]
            num_tokens += heard.num_tokens
        content = {
            "text": " ".join(text for text in texts if text),
            "segments": [segment.to_dict() for segment in segments],
        }
        return LocalReply(
            text=json.dumps(content, ensure_ascii=False),
            prompt_tokens=0,
            completion_tokens=num_tokens,
            seconds=time.monotonic() - began,
        )

    def _hear(self, window: np.ndarray) -> _Heard:
        import torch

        inputs = self._processor(window, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True)
        tells_times = self._first_time_token is not None
        options: dict[str, Any] = {"return_timestamps": tells_times, "return_segments": tells_times}
        if getattr(self._model.generation_config, "is_multilingual", False):
            options |= {"task": "transcribe", "language": self._language}
        with self._lock, torch.no_grad():
            found = self._model.generate(
                inputs.input_features.to(self._model.device, self._model.dtype),
                attention_mask=inputs.attention_mask.to(self._model.device),
                do_sample=False,
                num_beams=1,
                **options,
            )
        if not tells_times:
            ids = found[0].tolist()
            return _Heard(text=self._decode(ids), segments=(), num_tokens=len(ids))
        segments = [self._segment(segment, len(window) / SAMPLE_RATE) for segment in found["segments"][0]]
        spoken = tuple(segment for segment in segments if segment.text)
        text = " ".join(segment.text for segment in spoken)
        return _Heard(text=text, segments=spoken, num_tokens=len(found["sequences"][0]))

    @property
    def _first_time_token(self) -> int | None:
        """Id of the token for 0.00 s; None for a model without time tokens."""
        without_times = getattr(self._model.generation_config, "no_timestamps_token_id", None)
        return None if without_times is None else without_times + 1

    def _segment(self, found: Mapping[str, Any], window_seconds: float) -> SpokenSegment:
        # The model may name times after the end of a window, which it sees filled up with silence to 30 s.
        start, end = (min(float(found[name]), window_seconds) for name in ("start", "end"))
        return SpokenSegment(
            start_seconds=start, end_seconds=max(start, end), text=self._decode(found["tokens"].tolist())
        )

    def _decode(self, ids: list[int]) -> str:
        first_time = self._first_time_token
        words = [token for token in ids if first_time is None or token < first_time]
        return " ".join(str(self._processor.tokenizer.decode(words, skip_special_tokens=True)).split())


def speech_windows(waveform: np.ndarray) -> list[tuple[int, int]]:
    """Intervals of samples that cover a waveform float32 (S,), each at most 30 s long; see the module."""
    longest, hop = round(WINDOW_SECONDS * SAMPLE_RATE), round(_HOP_SECONDS * SAMPLE_RATE)
    windows = []
    start = 0
    while len(waveform) - start > longest:
        search_from = start + longest - round(SEARCH_SECONDS * SAMPLE_RATE)
        hops = waveform[search_from : start + longest].reshape(-1, hop)
        quietest = int(np.square(hops.astype(np.float64)).mean(axis=1).argmin())
        end = search_from + quietest * hop + hop // 2
        windows.append((start, end))
        start = end
    windows.append((start, len(waveform)))
    return windows


def _moved(segment: SpokenSegment, seconds: float) -> SpokenSegment:
    return SpokenSegment(
        start_seconds=round(segment.start_seconds + seconds, 3),
        end_seconds=round(segment.end_seconds + seconds, 3),
        text=segment.text,
    )
