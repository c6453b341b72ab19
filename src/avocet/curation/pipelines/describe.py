"""Captions of the picture, captions of the sound and transcripts: of segments, or of whole clips."""

from __future__ import annotations

import dataclasses
from typing import Literal

from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Kept, Outcome
from avocet.curation.pipelines._asking import Asking, TeacherStage, clip_seconds, media_ref
from avocet.curation.segments import SEGMENT_SECONDS, fixed_segments
from avocet.curation.teachers import NO_SPEECH, Role, TeacherError, TeacherTask
from avocet.errors import ConfigError

Sense = Literal["visual", "audio", "asr"]

_PROMPTS: dict[Sense, str] = {"visual": "visual_caption", "audio": "audio_caption", "asr": "asr"}
_STEP_DIGITS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class DescribeStage(TeacherStage):
    """Ask the teacher of one role about each segment of a clip.

    Facts: segments, each with start_seconds and end_seconds (from the start of the clip) and text, "" where nobody
    speaks. A teacher of the picture gets frames only, one of the sound and a recogniser get the sound only: what one
    sees does not leak into what the other hears. Without sound the clip is dropped (`no_sound`), or, with
    `silence_is_empty`, the segment has the text "" and nobody is asked.
    """

    sense: Sense
    segment_seconds: float | None = SEGMENT_SECONDS
    """None: the whole clip is one segment."""
    fps: float = 1.0
    """Frames per second for the teacher of the picture."""
    silence_is_empty: bool = False

    def __post_init__(self) -> None:
        if self.sense not in _PROMPTS:
            raise ConfigError(f"DescribeStage: sense must be one of {', '.join(_PROMPTS)}, got {self.sense!r}")
        if self.segment_seconds is not None:
            fixed_segments(0.0, 1.0, self.segment_seconds, min(1.0, self.segment_seconds))
        if not self.fps > 0:
            raise ConfigError(f"DescribeStage: fps must be > 0, got {self.fps}")

    @property
    def reads(self) -> tuple[str, ...] | None:
        return () if self.segment_seconds is None else ("probe", "measure")

    @property
    def questions(self) -> tuple[tuple[Role, str], ...]:
        return ((self.sense, _PROMPTS[self.sense]),)

    def look(self, clip: ManifestClip, asking: Asking) -> Outcome:
        segments = []
        for start, end in self._intervals(clip):
            task = TeacherTask(
                prompt=_PROMPTS[self.sense],
                clip=media_ref(clip, None if self.segment_seconds is None else (start, end)),
                media="frames" if self.sense == "visual" else "sound",
                fps=self.fps if self.sense == "visual" else None,
            )
            text = self._text(task, asking)
            begin = clip.start_seconds or 0.0
            segments.append(
                {
                    "start_seconds": round(start - begin, _STEP_DIGITS),
                    "end_seconds": round(end - begin, _STEP_DIGITS),
                    "text": text,
                }
            )
        return Kept(facts={"segments": segments}, cost=asking.cost)

    def _text(self, task: TeacherTask, asking: Asking) -> str:
        try:
            text = asking.text(self.sense, task)
        except TeacherError as error:
            if self.silence_is_empty and error.reason == "no_sound":
                return ""
            raise
        return "" if text.strip() == NO_SPEECH else text

    def _intervals(self, clip: ManifestClip) -> list[tuple[float, float]]:
        start, end = clip_seconds(clip, self.name)
        if self.segment_seconds is None:
            return [(start, end)]
        # To the millisecond, rounded down at the end: no teacher is sent a moment after the clip.
        bounds = fixed_segments(start, end, self.segment_seconds, min(1.0, self.segment_seconds))
        return [(round(first, _STEP_DIGITS), round(last, _STEP_DIGITS)) for first, last in bounds]
