"""Filters over the facts that `ProbeStage` and `MeasureStage` left: each drops a clip with a reason, or keeps it.

They open no media, so other thresholds are tried in seconds. The defaults that come from the papers say so; the others
were set on the theatre's clips and on a few real ones, and are meant to be looked at with the facts of one's own data.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Dropped, Kept, Outcome
from avocet.curation.stage import Stage
from avocet.errors import ConfigError, RecordError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactsFilter(Stage):
    """Base of the filters: looks at the facts of the stage `facts_of`."""

    facts_of: str = "measure"

    @property
    def reads(self) -> tuple[str, ...] | None:
        return (self.facts_of,)

    @property
    def reads_media(self) -> bool:
        return False

    def process(self, clip: ManifestClip) -> Outcome:
        """Raises `RecordError` for a clip without the facts: the stages stand in the wrong order."""
        if self.facts_of not in clip.facts:
            raise RecordError(
                f"stage {self.name}: clip {clip.id!r} has no facts of {self.facts_of!r}, only of "
                f"{', '.join(clip.facts) or 'no stage'}; run that stage before"
            )
        return self.judge(clip.facts[self.facts_of], clip) or Kept()

    def judge(self, facts: dict[str, Any], clip: ManifestClip) -> Dropped | None:
        """Why the clip is dropped; None to keep it."""
        raise NotImplementedError

    def fact(self, facts: dict[str, Any], name: str, clip: ManifestClip) -> float:
        """A number among the facts. Raises `RecordError` when it is not there."""
        value = facts.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecordError(
                f"stage {self.name}: clip {clip.id!r}: {name!r} of {self.facts_of!r} is {value!r}, expected a number"
            )
        return float(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthFilter(Stage):
    """Drops `too_short` and `too_long` clips.

    AVoCaDO takes up to 100 s, video-SALMONN 2 30 to 60 s. The length is the one that a stage measured, else that of
    the interval.
    """

    name: str = "length"
    min_seconds: float = 0.0
    max_seconds: float = 100.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ConfigError(
                f"LengthFilter: needs 0 <= min_seconds < max_seconds, got {self.min_seconds} and {self.max_seconds}"
            )

    @property
    def reads(self) -> tuple[str, ...] | None:
        return None

    @property
    def reads_media(self) -> bool:
        return False

    def process(self, clip: ManifestClip) -> Outcome:
        """Raises `RecordError` for a clip whose length nobody knows."""
        seconds = clip.duration_seconds
        if seconds is None:
            raise RecordError(f"stage {self.name}: the length of clip {clip.id!r} is not known; run ProbeStage before")
        if seconds < self.min_seconds:
            return Dropped(reason="too_short", detail=f"{seconds:g} s, at least {self.min_seconds:g}")
        if seconds > self.max_seconds:
            return Dropped(reason="too_long", detail=f"{seconds:g} s, at most {self.max_seconds:g}")
        return Kept()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormatFilter(FactsFilter):
    """Drops `no_video`, `too_small`, `too_large`, `too_narrow`, `low_fps` and `odd_fps` files by their header."""

    name: str = "format"
    facts_of: str = "probe"
    min_side: int = 96
    """Pixels of the shorter side."""
    max_pixels: int = 7680 * 4320
    max_aspect: float = 4.0
    """Longer side over shorter one."""
    min_fps: float = 5.0
    max_fps: float = 240.0
    """Headers with more are mostly wrong."""

    def judge(self, facts: dict[str, Any], clip: ManifestClip) -> Dropped | None:
        if facts.get("video_codec") is None or not facts.get("width") or not facts.get("height"):
            return Dropped(reason="no_video", detail="the file has no pictures whose size is known")
        width, height = self.fact(facts, "width", clip), self.fact(facts, "height", clip)
        size = f"{width:g} x {height:g}"
        if min(width, height) < self.min_side:
            return Dropped(reason="too_small", detail=f"{size}, the shorter side at least {self.min_side}")
        if width * height > self.max_pixels:
            return Dropped(reason="too_large", detail=f"{size}, at most {self.max_pixels} pixels")
        if max(width, height) > self.max_aspect * min(width, height):
            return Dropped(reason="too_narrow", detail=f"{size}, sides at most {self.max_aspect:g} to 1")
        if facts.get("average_fps") is None:
            return None
        fps = self.fact(facts, "average_fps", clip)
        if fps < self.min_fps:
            return Dropped(reason="low_fps", detail=f"{fps:g} frames per second, at least {self.min_fps:g}")
        if fps > self.max_fps:
            return Dropped(reason="odd_fps", detail=f"{fps:g} frames per second, at most {self.max_fps:g}")
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureFilter(FactsFilter):
    """Drops `no_video`, `black` and `static` clips.

    Black is more than `max_black_share` of frames with nothing brighter than black; static is more than
    `max_static_share` of neighbouring frames (0.5 s apart) between which no part of the picture changes.
    """

    name: str = "picture"
    max_black_share: float = 0.8
    max_static_share: float = 0.95

    def __post_init__(self) -> None:
        _check_shares(self, "max_black_share", "max_static_share")

    def judge(self, facts: dict[str, Any], clip: ManifestClip) -> Dropped | None:
        if not facts.get("has_video"):
            return Dropped(reason="no_video", detail="no frame is shown in the clip")
        black = self.fact(facts, "black_share", clip)
        if black > self.max_black_share:
            return Dropped(reason="black", detail=f"{black:.2f} of the frames, at most {self.max_black_share:g}")
        static = self.fact(facts, "static_share", clip)
        if static > self.max_static_share:
            return Dropped(reason="static", detail=f"{static:.2f} of the time, at most {self.max_static_share:g}")
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundFilter(FactsFilter):
    """Drops `no_audio`, `audio_undecodable`, `silent`, `mostly_silent` and `too_quiet` clips.

    Silent is a peak under -60 dBFS (see `avocet.media`), or an RMS level under `min_rms_dbfs` ("too_quiet").
    """

    name: str = "sound"
    min_rms_dbfs: float = -55.0
    max_silent_share: float = 0.9
    """Of the time; silent are 50 ms under -50 dBFS."""

    def __post_init__(self) -> None:
        _check_shares(self, "max_silent_share")

    def judge(self, facts: dict[str, Any], clip: ManifestClip) -> Dropped | None:
        status = facts.get("audio_status")
        if status == "absent":
            return Dropped(reason="no_audio", detail="there is no sound in the clip")
        if status == "undecodable":
            detail = "; ".join(str(warning) for warning in facts.get("warnings", ()) if "audio" in str(warning))
            return Dropped(reason="audio_undecodable", detail=detail)
        rms = self.fact(facts, "rms_dbfs", clip)
        if status == "silent":
            return Dropped(reason="silent", detail=f"RMS {rms:g} dBFS, peak {facts.get('peak_dbfs')} dBFS")
        if rms < self.min_rms_dbfs:
            return Dropped(reason="too_quiet", detail=f"RMS {rms:g} dBFS, at least {self.min_rms_dbfs:g}")
        silent = self.fact(facts, "silent_share", clip)
        if silent > self.max_silent_share:
            return Dropped(
                reason="mostly_silent", detail=f"{silent:.2f} of the time, at most {self.max_silent_share:g}"
            )
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechLikePrefilter(FactsFilter):
    """Drops clips with `nothing_like_speech`, before a recogniser is paid for.

    A cheap pre-filter by level, band, pitch and rhythm (`avocet.curation.sound_measures`), not a detector of speech:
    music may pass, whispering may not. What is said is decided by the transcript.
    """

    name: str = "speech_like"
    min_share: float = 0.05
    """Of the seconds."""

    def __post_init__(self) -> None:
        _check_shares(self, "min_share")

    def judge(self, facts: dict[str, Any], clip: ManifestClip) -> Dropped | None:
        share = self.fact(facts, "speech_like_share", clip) if facts.get("audio_status") == "present" else 0.0
        if share < self.min_share:
            return Dropped(
                reason="nothing_like_speech", detail=f"{share:.2f} of the seconds, at least {self.min_share:g}"
            )
        return None


def _check_shares(stage: Stage, *names: str) -> None:
    for name in names:
        value = getattr(stage, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"{type(stage).__name__}: {name} is a share from 0 to 1, got {value}")
