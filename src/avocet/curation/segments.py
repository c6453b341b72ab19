"""Cut long videos into clips: at shot boundaries (PySceneDetect), or every so many seconds.

PySceneDetect (`pip install 'avocet[curate]'`, without a display library) only judges; frames are read by
`avocet.media`, like everywhere, so hostile files meet one decoder and cuts stand at the true times of frames, also in
videos of variable frame rate. Its `AdaptiveDetector` compares the change from frame to frame with that around it, and
so tells cuts from fast camera movement. Fades and dissolves are not found.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from avocet.curation.manifest import ManifestClip
from avocet.curation.measure import clip_duration
from avocet.curation.outcomes import Dropped, Kept, Outcome, Piece, Split, media_outcome
from avocet.curation.stage import Stage
from avocet.errors import ConfigError, MediaError, MissingExtraError
from avocet.media import open_clip, probe
from avocet.records import SourceFacts

Interval = tuple[float, float]
"""Half-open, seconds on the file's timeline."""

SEGMENT_SECONDS = 10.0
"""Of video-SALMONN 2's labelling (appendix C)."""

_LOOK_PIXELS = 9_216
_LOOK_SECONDS = 60.0
"""Frames of so long are in memory at once: 50 MB at 30 frames per second."""
_SHORTEST_LOOK_SECONDS = 10.0
_FALLBACK_FPS = 25.0
_TOLERANCE_SECONDS = 1e-6


def fixed_segments(
    start_seconds: float, end_seconds: float, seconds: float = SEGMENT_SECONDS, min_last_seconds: float = 1.0
) -> list[Interval]:
    """Consecutive intervals of `seconds` that cover [start_seconds, end_seconds).

    A rest shorter than `min_last_seconds` is added to the interval before it; if it is all there is, it stands alone.

    Worked: 0 to 31.4 s in tens gives 0-10, 10-20, 20-30, 30-31.4; with min_last_seconds=2 the last two are 20-31.4.

    Raises `ConfigError` for an empty interval or impossible lengths.
    """
    if not end_seconds > start_seconds >= 0:
        raise ConfigError(f"fixed_segments: the interval [{start_seconds}, {end_seconds}) is empty or negative")
    if not 0 <= min_last_seconds <= seconds or not seconds > 0:
        raise ConfigError(
            f"fixed_segments: needs seconds > 0 and min_last_seconds from 0 to seconds, got {seconds} and "
            f"{min_last_seconds}"
        )
    count = max(1, math.ceil((end_seconds - start_seconds) / seconds - _TOLERANCE_SECONDS))
    if count > 1 and end_seconds - (start_seconds + (count - 1) * seconds) < min_last_seconds - _TOLERANCE_SECONDS:
        count -= 1
    bounds = [start_seconds + index * seconds for index in range(count)] + [end_seconds]
    return list(itertools.pairwise(bounds))


def group_shots(shots: Sequence[Interval], min_seconds: float, max_seconds: float) -> list[Interval]:
    """Join consecutive shots into clips of min_seconds to max_seconds that begin and end at cuts.

    Shots are joined until they last `min_seconds`; a shot longer than `max_seconds` is cut into equal parts. What
    cannot be made long enough is left out: a group that the next part would make too long, and a rest at the end that
    the clip before has no room for.

    Worked with 5 to 12 s: shots of 3, 4, 20, 2 and 1 s give 3+4 = 7 s, twice 10 s, and the rest of 3 s is left out,
    since 10 + 3 is too long.
    """
    if not 0 < min_seconds <= max_seconds:
        raise ConfigError(f"clips need 0 < min_seconds <= max_seconds, got {min_seconds} and {max_seconds}")
    groups: list[Interval] = []
    open_group: Interval | None = None
    for start, end in _parts(shots, max_seconds):
        if open_group is not None and end - open_group[0] > max_seconds + _TOLERANCE_SECONDS:
            open_group = None
        open_group = (start if open_group is None else open_group[0], end)
        if open_group[1] - open_group[0] >= min_seconds - _TOLERANCE_SECONDS:
            groups.append(open_group)
            open_group = None
    if open_group is not None and groups and groups[-1][1] == open_group[0]:
        start = groups[-1][0]
        if open_group[1] - start <= max_seconds + _TOLERANCE_SECONDS:
            groups[-1] = (start, open_group[1])
    return groups


def detect_shots(
    path: str,
    start_seconds: float,
    end_seconds: float,
    *,
    whole_file: bool = True,
    average_fps: float | None = None,
    adaptive_threshold: float = 3.0,
    min_content: float = 15.0,
    max_fps: float = 30.0,
    timeout_seconds: float = 120.0,
) -> list[Interval]:
    """The shots between `start_seconds` and `end_seconds`, without gaps; one shot where there is no cut.

    Args:
        whole_file: `end_seconds` is the end of the file, which is then read to wherever it ends.
        average_fps: of the file, as its header states it.
        adaptive_threshold, min_content: of PySceneDetect's `AdaptiveDetector`: how many times the change around it a
            change must be, and how large at least (0 to 255).
        max_fps: frames per second that are looked at; cuts are exact to one of these.

    Raises `MissingExtraError` without PySceneDetect and `MediaError` for unreadable media.
    """
    fps = min(max_fps, average_fps or _FALLBACK_FPS)
    detector = _ShotDetector(fps, adaptive_threshold, min_content)
    frames = _frames(path, start_seconds, end_seconds, fps, whole_file=whole_file, timeout_seconds=timeout_seconds)
    for frame, seconds in frames:
        detector.look(frame, seconds)
    cuts = [cut for cut in detector.cuts() if start_seconds < cut < end_seconds]
    bounds = [start_seconds, *cuts, end_seconds]
    return list(itertools.pairwise(bounds))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShotStage(Stage):
    """Cut videos at shot boundaries into clips of min_seconds to max_seconds.

    Facts of each clip: duration_seconds, num_shots, cuts_seconds (inside of it). A video that is one such clip is kept
    whole. Drops `no_clip_of_length` (no group of shots is long enough), `no_video`, `media_error`.
    """

    name: str = "shots"
    min_seconds: float = 5.0
    max_seconds: float = 100.0
    adaptive_threshold: float = 3.0
    min_content: float = 15.0
    max_fps: float = 30.0
    timeout_seconds: float = 120.0

    def __post_init__(self) -> None:
        group_shots([], self.min_seconds, self.max_seconds)
        if not (self.max_fps > 0 and self.adaptive_threshold > 0 and self.min_content >= 0):
            raise ConfigError(
                "ShotStage: needs max_fps > 0, adaptive_threshold > 0 and min_content >= 0, got "
                f"{self.max_fps}, {self.adaptive_threshold} and {self.min_content}"
            )

    def process(self, clip: ManifestClip) -> Outcome:
        _scenedetect()
        try:
            found = probe(clip.path, timeout_seconds=self.timeout_seconds)
            if found.video_codec is None or found.is_image:
                return Dropped(reason="no_video", detail=f"{clip.path} holds no video")
            start = clip.start_seconds or 0.0
            duration = clip_duration(clip, found)
            if duration <= 0:
                return Dropped(
                    reason="outside_of_file", detail=f"begins at {start:g} s of {found.duration_seconds:g} s"
                )
            shots = detect_shots(
                clip.path,
                start,
                start + duration,
                whole_file=clip.end_seconds is None or clip.end_seconds >= found.duration_seconds,
                average_fps=found.average_fps,
                adaptive_threshold=self.adaptive_threshold,
                min_content=self.min_content,
                max_fps=self.max_fps,
                timeout_seconds=self.timeout_seconds,
            )
        except MediaError as error:
            return media_outcome(error)
        return _cut(shots, group_shots(shots, self.min_seconds, self.max_seconds))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedStage(Stage):
    """Cut media every `seconds`; see `fixed_segments`. Only the header is read.

    Facts of each clip: duration_seconds. Drops `outside_of_file`, `media_error`.
    """

    name: str = "segments"
    seconds: float = SEGMENT_SECONDS
    min_last_seconds: float = 1.0
    timeout_seconds: float = 120.0

    def __post_init__(self) -> None:
        fixed_segments(0.0, 1.0, self.seconds, self.min_last_seconds)

    def process(self, clip: ManifestClip) -> Outcome:
        try:
            found = probe(clip.path, timeout_seconds=self.timeout_seconds)
        except MediaError as error:
            return media_outcome(error)
        start = clip.start_seconds or 0.0
        duration = clip_duration(clip, found)
        if duration <= 0:
            return _outside(start, found)
        segments = fixed_segments(start, start + duration, self.seconds, self.min_last_seconds)
        return _pieces(segments, [{} for _ in segments])


def _outside(start_seconds: float, found: SourceFacts) -> Dropped:
    detail = f"begins at {start_seconds:g} s of a file of {found.duration_seconds:.3f} s"
    return Dropped(reason="outside_of_file", detail=detail)


def _cut(shots: Sequence[Interval], groups: Sequence[Interval]) -> Outcome:
    if not groups:
        longest = max(end - start for start, end in shots)
        detail = f"{len(shots)} shots, the longest of {longest:.2f} s, make no clip that is long enough"
        return Dropped(reason="no_clip_of_length", detail=detail)
    facts: list[dict[str, Any]] = []
    for start, end in groups:
        cuts = [round(shot[0], 3) for shot in shots if start < shot[0] < end]
        facts.append({"num_shots": len(cuts) + 1, "cuts_seconds": cuts})
    whole = (shots[0][0], shots[-1][1])
    if groups == [whole]:
        return Kept(facts={"duration_seconds": round(whole[1] - whole[0], 3), **facts[0]})
    return _pieces(groups, facts)


def _pieces(intervals: Sequence[Interval], facts: Sequence[dict[str, Any]]) -> Split:
    pieces = []
    for (start, end), found in zip(intervals, facts, strict=True):
        start, end = _milliseconds(start), _milliseconds(end)
        pieces.append(
            Piece(start_seconds=start, end_seconds=end, facts={"duration_seconds": round(end - start, 3), **found})
        )
    return Split(pieces=tuple(pieces))


def _milliseconds(seconds: float) -> float:
    """Rounded up: a millisecond before a cut the last frame of the shot before is still on screen."""
    return math.ceil(seconds * 1000 - 1e-6) / 1000


def _parts(shots: Sequence[Interval], max_seconds: float) -> Iterator[Interval]:
    for start, end in shots:
        count = max(1, math.ceil((end - start) / max_seconds - _TOLERANCE_SECONDS))
        bounds = [start + (end - start) * index / count for index in range(count)] + [end]
        yield from itertools.pairwise(bounds)


def _frames(
    path: str, start_seconds: float, end_seconds: float, fps: float, *, whole_file: bool, timeout_seconds: float
) -> Iterator[tuple[np.ndarray, float]]:
    """Small RGB frames (3, H, W) and when each is first shown, a minute of video at a time."""
    last_seconds = -math.inf
    begin = start_seconds
    while begin < end_seconds:
        # A rest of a few seconds goes with the minute before: headers are not exact about where a file ends.
        end = begin + _LOOK_SECONDS if end_seconds - begin > _LOOK_SECONDS + _SHORTEST_LOOK_SECONDS else end_seconds
        look = open_clip(
            path,
            fps=fps,
            max_frames=math.ceil((end - begin) * fps) + 1,
            max_pixels=_LOOK_PIXELS,
            start_seconds=begin,
            end_seconds=None if whole_file and end == end_seconds else end,
            audio="ignore",
            timeout_seconds=timeout_seconds,
        )
        for frame, seconds in zip(look.frames, look.frame_times_seconds.tolist(), strict=True):
            if seconds > last_seconds:  # the frame on screen where the minute begins was seen in the one before
                yield frame, seconds
                last_seconds = seconds
        begin = end


class _ShotDetector:
    """PySceneDetect's detector, fed with frames and asked for times."""

    def __init__(self, fps: float, adaptive_threshold: float, min_content: float) -> None:
        scenedetect = _scenedetect()
        self._timecode = scenedetect.FrameTimecode
        self._fps = fps
        # No shot is too short here: short shots are joined afterwards, by their true times.
        self._detector = scenedetect.AdaptiveDetector(
            adaptive_threshold=adaptive_threshold, min_content_val=min_content, min_scene_len=1
        )
        self._seconds: list[float] = []
        self._cuts: list[int] = []

    def look(self, frame: np.ndarray, seconds: float) -> None:
        number = self._timecode(len(self._seconds), fps=self._fps)
        self._seconds.append(seconds)
        bgr = np.ascontiguousarray(frame[::-1].transpose(1, 2, 0))
        self._cuts += [cut.frame_num for cut in self._detector.process_frame(number, bgr)]

    def cuts(self) -> list[float]:
        """When the first frame of each further shot is shown."""
        if self._seconds:
            last = self._timecode(len(self._seconds) - 1, fps=self._fps)
            self._cuts += [cut.frame_num for cut in self._detector.post_process(last)]
        return [self._seconds[number] for number in sorted(set(self._cuts))]


def _scenedetect() -> Any:
    try:
        return importlib.import_module("scenedetect")
    except ImportError as error:
        raise MissingExtraError("cutting at shot boundaries", "curate") from error
