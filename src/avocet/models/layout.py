"""From times to tokens: which media token stands where, and which seconds it stands for.

Pure functions of frame times and audio length; no tensors and no model. Rule `salmonn2_paper`
(video-SALMONN 2, Eq. 6-8): with n frames and l audio tokens, frame i (1-based) is followed by the audio
tokens from alpha_{i-1} to alpha_i, where alpha_i = l * i / n. The paper gives no rounding; here it is to the
nearest integer, halves up: alpha_i = floor(l * i / n + 1/2), in integer arithmetic. l counts the tokens of the
*real* sound, never those of the silence that fills a Whisper segment.

    n = 2 frames, l = 5 audio tokens: alpha = 0, 3, 5
    V1 V1 V1 V1 A0 A1 A2 V2 V2 V2 V2 A3 A4      (4 tokens per frame)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from avocet.errors import ConfigError, LayoutError

VISUAL = 0
AUDIO = 1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TokenPlan:
    """The media tokens of one prompt, in the order the decoder reads them."""

    stream: np.ndarray
    """uint8 (N,): 0 visual, 1 audio."""
    index: np.ndarray
    """int64 (N,): the token's place within its own stream."""
    start_seconds: np.ndarray
    """float64 (N,), from the start of the clip."""
    end_seconds: np.ndarray
    """float64 (N,), half-open end."""
    positions: np.ndarray | None = None
    """float64 (3, N): rotary positions (time, height, width) of rules that have them, from 0 at the first media
    token; None where a token's position is its place in the sequence."""
    end_position: float | None = None
    """With `positions`: the position of the token after the media."""

    def __post_init__(self) -> None:
        shapes = {array.shape for array in (self.stream, self.index, self.start_seconds, self.end_seconds)}
        if len(shapes) != 1 or self.stream.ndim != 1:
            raise LayoutError(f"the arrays of a TokenPlan must be 1-D and of one length, got shapes {sorted(shapes)}")
        if len(self) == 0:
            raise LayoutError("a TokenPlan without tokens: the clip has neither frames nor sound")
        for stream, name in ((VISUAL, "visual"), (AUDIO, "audio")):
            used = self.index[self.stream == stream]
            if not np.array_equal(np.sort(used), np.arange(len(used))):
                raise LayoutError(f"each {name} token must stand exactly once in a TokenPlan, got indices {used}")
        if self.num_visual_tokens + self.num_audio_tokens != len(self):
            raise LayoutError(f"streams of a TokenPlan are 0 (visual) and 1 (audio), got {np.unique(self.stream)}")
        if bool(np.any(self.end_seconds < self.start_seconds)):
            raise LayoutError("a token of a TokenPlan ends before it starts")
        if (self.positions is None) != (self.end_position is None):
            raise LayoutError("a TokenPlan has both positions and end_position, or neither")
        if self.positions is not None and self.positions.shape != (3, len(self)):
            raise LayoutError(f"positions must be (3, {len(self)}), got {self.positions.shape}")

    def __len__(self) -> int:
        return len(self.stream)

    @property
    def num_visual_tokens(self) -> int:
        return int(np.count_nonzero(self.stream == VISUAL))

    @property
    def num_audio_tokens(self) -> int:
        return int(np.count_nonzero(self.stream == AUDIO))

    def __repr__(self) -> str:
        return f"TokenPlan(num_visual_tokens={self.num_visual_tokens}, num_audio_tokens={self.num_audio_tokens})"


def audio_boundaries(num_audio_tokens: int, num_frames: int) -> np.ndarray:
    """alpha_0 ... alpha_n of Eq. 7: int64 (n + 1,), nearest integers of l * i / n with halves rounded up."""
    steps = np.arange(num_frames + 1, dtype=np.int64)
    return (2 * num_audio_tokens * steps + num_frames) // (2 * num_frames)


def salmonn2_paper(
    frame_times_seconds: np.ndarray,
    tokens_per_frame: int,
    num_audio_tokens: int,
    audio_token_seconds: float,
    duration_seconds: float,
) -> TokenPlan:
    """Eq. 6-8: each frame's tokens, then its share of the audio tokens.

    Args:
        frame_times_seconds: (n,) when each frame is first shown, from the start of the clip.
        tokens_per_frame: visual tokens of one frame.
        num_audio_tokens: tokens of the real sound, 0 without sound.
        audio_token_seconds: window of one audio token.
        duration_seconds: length of the clip; the last frame is shown until then.

    Without frames the plan is all audio, without sound all visual. Visual tokens carry [t_i, t_{i+1}), audio
    token k carries [k, k + 1) windows: the true seconds, also where sound and picture differ in length.

    Raises:
        LayoutError: neither frames nor sound, or frame times that do not increase.
    """
    times = np.asarray(frame_times_seconds, dtype=np.float64)
    num_frames = len(times)
    if num_frames == 0 and num_audio_tokens == 0:
        raise LayoutError("nothing to lay out: the clip has neither frames nor sound")
    if tokens_per_frame < 1 or num_audio_tokens < 0:
        raise LayoutError(
            f"tokens_per_frame must be >= 1 and num_audio_tokens >= 0, got {tokens_per_frame} and {num_audio_tokens}"
        )
    if num_frames > 1 and not bool(np.all(np.diff(times) > 0)):
        raise LayoutError(f"frame times must increase strictly, got {times}")

    audio_index = np.arange(num_audio_tokens, dtype=np.int64)
    visual_index = np.arange(num_frames * tokens_per_frame, dtype=np.int64)
    frame_of_visual = visual_index // tokens_per_frame
    if num_frames:
        alpha = audio_boundaries(num_audio_tokens, num_frames)
        frame_of_audio = np.searchsorted(alpha, audio_index, side="right") - 1
        visual_ends = np.append(times[1:], max(duration_seconds, times[-1]))
    else:
        frame_of_audio = np.zeros_like(audio_index)
        visual_ends = times
    stream = np.concatenate([np.full(len(visual_index), VISUAL), np.full(num_audio_tokens, AUDIO)]).astype(np.uint8)
    # A stable sort by frame keeps the visual tokens, which come first in the concatenation, before the audio tokens.
    order = np.argsort(np.concatenate([frame_of_visual, frame_of_audio]), kind="stable")
    starts = np.concatenate([times[frame_of_visual], audio_index * audio_token_seconds])
    ends = np.concatenate([visual_ends[frame_of_visual], (audio_index + 1) * audio_token_seconds])
    return TokenPlan(
        stream=stream[order],
        index=np.concatenate([visual_index, audio_index])[order],
        start_seconds=starts[order],
        end_seconds=ends[order],
    )


_RULES: dict[str, Callable[[np.ndarray, int, int, float, float], TokenPlan]] = {"salmonn2_paper": salmonn2_paper}

LAYOUT_RULES = tuple(_RULES)

_RULES_OF_FAMILIES = (
    "tmrope in avocet.models.tmrope, salmonn2_v1 as v1_layout in avocet.models.salmonn2.released_v1_layout, "
    "salmonn2_plus as plus_layout in avocet.models.salmonn2.released_plus_layout"
)


def plan_layout(
    rule: str,
    frame_times_seconds: np.ndarray,
    tokens_per_frame: int,
    num_audio_tokens: int,
    audio_token_seconds: float,
    duration_seconds: float,
) -> TokenPlan:
    """Lay out a clip by the rule of that name: one that frame times and numbers of tokens are enough for.

    Raises `ConfigError` for any other.
    """
    if rule not in _RULES:
        raise ConfigError(
            f"unknown layout rule {rule!r}; available: {', '.join(LAYOUT_RULES)}. Rules that need more of a clip are "
            f"functions of their own: {_RULES_OF_FAMILIES}"
        )
    return _RULES[rule](frame_times_seconds, tokens_per_frame, num_audio_tokens, audio_token_seconds, duration_seconds)
