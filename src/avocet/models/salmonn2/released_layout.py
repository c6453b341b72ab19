"""What the layouts of the released video-SALMONN 2 models share: audio windows, plans, and their drift.

The rules themselves are in `released_v1_layout` and `released_plus_layout`. Each family has a faithful rule, which puts
every token where the released code puts it (so that released weights see what they saw in training), and a corrected
one, without that code's faults. Pure functions of counts and times; no tensors and no model.

Both families hear alike. Sound is cut into segments of 30 s, the last one filled up with silence; Whisper's encoder
makes 1500 frames of each, and the Q-Former one token of each window of 25 frames (0.5 s), never across segments. The
faithful rules show the decoder all 60 tokens of a segment, those of the filling silence too. The corrected rules show
only tokens of real sound.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from avocet.errors import ConfigError, LayoutError
from avocet.models.layout import AUDIO, VISUAL, TokenPlan
from avocet.records import SAMPLE_RATE


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioWindows:
    """The Q-Former's windows over the encoder frames of one segment, one audio token each."""

    kernel_frames: int
    stride_frames: int
    segment_frames: int = 1500
    segment_seconds: int = 30

    def __post_init__(self) -> None:
        if self.kernel_frames < 1 or self.stride_frames < 1 or self.kernel_frames > self.segment_frames:
            raise ConfigError(
                f"windows of {self.kernel_frames} encoder frames every {self.stride_frames} do not fit into segments "
                f"of {self.segment_frames}; window and stride must be at least one frame, the window at most a segment"
            )

    @classmethod
    def from_seconds(
        cls, window_seconds: float, stride_seconds: float, *, segment_frames: int = 1500, segment_seconds: int = 30
    ) -> AudioWindows:
        """Rounded to whole frames as the released code does (`video_salmonn_2.py`, `modeling_whisper.py`).

        0.5 s are 25 frames; a stride of 0.25 s is 12.5 and becomes 12 (halves go to the even number).
        """
        if not (0 < window_seconds < math.inf and 0 < stride_seconds < math.inf):
            raise ConfigError(f"window and stride must be finite and > 0 s, got {window_seconds} and {stride_seconds}")
        return cls(
            kernel_frames=round(segment_frames * window_seconds / segment_seconds),
            stride_frames=round(segment_frames * stride_seconds / segment_seconds),
            segment_frames=segment_frames,
            segment_seconds=segment_seconds,
        )

    @property
    def num_windows(self) -> int:
        """Windows, and audio tokens, per segment."""
        return (self.segment_frames - self.kernel_frames) // self.stride_frames + 1

    @property
    def starts(self) -> np.ndarray:
        """int64 (windows,): the first encoder frame of each."""
        return np.arange(self.num_windows, dtype=np.int64) * self.stride_frames

    @property
    def num_dropped_frames(self) -> int:
        """Frames at the end of every segment that no window reads."""
        return self.segment_frames - int(self.starts[-1]) - self.kernel_frames

    @property
    def _segment_samples(self) -> int:
        return self.segment_seconds * SAMPLE_RATE

    def num_segments(self, num_samples: int) -> int:
        """Segments that the encoder reads; none without sound, one for anything up to 30 s."""
        return -(-_checked_samples(num_samples) // self._segment_samples)

    def num_tokens(self, num_samples: int) -> int:
        """Audio tokens of the released code: of whole segments, silence at the end included.

        That code also fills up sound below 1 s to 1 s, which changes nothing: the segment is filled up anyway.
        """
        return self.num_segments(num_samples) * self.num_windows

    def num_real_tokens(self, num_samples: int) -> int:
        """Audio tokens whose window begins within the sound; they are the first ones of the encoder's."""
        whole, rest = divmod(_checked_samples(num_samples), self._segment_samples)
        stride_samples = self.stride_frames * self._segment_samples // self.segment_frames
        return whole * self.num_windows + min(self.num_windows, -(-rest // stride_samples))

    def seconds(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 (A,) audio tokens -> float64 (A,) true start and end seconds of the windows that they stand for."""
        segment, window = np.divmod(tokens, self.num_windows)
        frames = segment * self.segment_frames + window * self.stride_frames
        scale = self.segment_seconds / self.segment_frames
        return frames * scale, (frames + self.kernel_frames) * scale


RELEASED_WINDOWS = AudioWindows.from_seconds(0.5, 0.5)
"""Of every released checkpoint: 60 tokens per segment."""


def _checked_samples(num_samples: int) -> int:
    if num_samples < 0:
        raise LayoutError(f"the number of audio samples must be >= 0 (0 for no sound), got {num_samples}")
    return num_samples


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ReleasedPlan:
    """A plan, and which of the encoder's audio tokens each audio placeholder shows."""

    plan: TokenPlan
    """The seconds of an audio placeholder are the true ones of the token that it shows."""
    audio_source: np.ndarray
    """int64 (A,): audio placeholder k shows audio token `audio_source[k]`. v1 shows some tokens several times;
    elsewhere this is 0, 1, 2, ... Tokens of the encoder that are not named are not shown."""
    warnings: tuple[str, ...] = ()
    """Where the released code would have failed on this clip."""

    def __post_init__(self) -> None:
        if self.audio_source.shape != (self.plan.num_audio_tokens,):
            raise LayoutError(
                f"a plan with {self.plan.num_audio_tokens} audio placeholders needs as many sources, got "
                f"{self.audio_source.shape}"
            )
        if len(self.audio_source) and (self.audio_source[0] < 0 or bool(np.any(np.diff(self.audio_source) < 0))):
            raise LayoutError("the sources of audio placeholders must be >= 0 and in order")

    def __repr__(self) -> str:
        shown = len(np.unique(self.audio_source))
        return f"ReleasedPlan(plan={self.plan!r}, audio tokens shown={shown}, warnings={list(self.warnings)})"


def interleave(
    picture_times_seconds: np.ndarray,
    tokens_per_picture: int,
    picture_of_audio: np.ndarray,
    audio_source: np.ndarray,
    windows: AudioWindows,
    duration_seconds: float,
) -> TokenPlan:
    """Each picture's visual tokens, then the audio tokens that belong to it; without positions.

    Args:
        picture_times_seconds: (P,) when each frame (v1) or pair of frames (plus) is first shown; may be empty.
        tokens_per_picture: visual tokens of each.
        picture_of_audio: int64 (A,), not decreasing: the picture that each audio placeholder follows.
        audio_source: int64 (A,): the audio token that each placeholder shows.
        windows: the seconds of audio tokens.
        duration_seconds: of the clip; the last picture stands until then.

    Raises:
        LayoutError: neither pictures nor sound, pictures without tokens, or times that do not increase.
    """
    times = np.asarray(picture_times_seconds, dtype=np.float64)
    if len(times) == 0 and len(audio_source) == 0:
        raise LayoutError("nothing to lay out: the clip has neither frames nor sound")
    if len(times) and tokens_per_picture < 1:
        raise LayoutError(f"a picture needs at least one token, got {tokens_per_picture}")
    if not bool(np.all(np.diff(times) > 0)):
        raise LayoutError(f"frame times must increase strictly, got {times}")
    visual_index = np.arange(len(times) * tokens_per_picture, dtype=np.int64)
    picture = visual_index // max(tokens_per_picture, 1)
    ends = np.append(times[1:], max(duration_seconds, times[-1])) if len(times) else times
    audio_starts, audio_ends = windows.seconds(audio_source)
    stream = np.repeat(np.array([VISUAL, AUDIO], dtype=np.uint8), [len(visual_index), len(audio_source)])
    # Stable: visual tokens, first in the concatenation, stay before the audio tokens of their picture.
    order = np.argsort(np.concatenate([picture, picture_of_audio]), kind="stable")
    return TokenPlan(
        stream=stream[order],
        index=np.concatenate([visual_index, np.arange(len(audio_source), dtype=np.int64)])[order],
        start_seconds=np.concatenate([times[picture], audio_starts])[order],
        end_seconds=np.concatenate([ends[picture], audio_ends])[order],
    )


def sync_drift_seconds(plan: TokenPlan, sound_seconds: float = math.inf) -> float:
    """How far, at most, a sound stands from the picture that it follows, in seconds.

    For one audio token: the gap between its own seconds and those of the picture before it, 0 where they overlap. A
    plan without pictures or without sound has no drift. `sound_seconds` leaves out tokens that begin later than that,
    those of silence behind the sound.
    """
    audio = np.flatnonzero((plan.stream == AUDIO) & (plan.start_seconds < sound_seconds))
    visual = np.flatnonzero(plan.stream == VISUAL)
    if not len(audio) or not len(visual):
        return 0.0
    before = visual[np.maximum(np.searchsorted(visual, audio) - 1, 0)]
    late = plan.start_seconds[audio] - plan.end_seconds[before]
    early = plan.start_seconds[before] - plan.end_seconds[audio]
    return float(np.maximum(late, early).max(initial=0.0))
