"""The two stages that open media: `ProbeStage` reads headers, `MeasureStage` decodes a clip once for all filters.

Filters and the search for duplicates (`avocet.curation.filters`, `.duplicates`) only look at the facts that these
leave, so other thresholds cost no second decode.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from avocet.curation.fingerprints import (
    PICTURE_STEP_SECONDS,
    encode_hashes,
    picture_hashes,
    sound_hashes,
)
from avocet.curation.manifest import ManifestClip, file_sha256, file_size
from avocet.curation.outcomes import Dropped, Failed, Kept, Outcome, media_outcome
from avocet.curation.picture_measures import measure_pictures
from avocet.curation.sound_measures import measure_sound
from avocet.curation.stage import Stage
from avocet.errors import ConfigError, MediaError
from avocet.media import open_clip, probe
from avocet.records import Clip, SourceFacts, is_url

_MEASURE_PIXELS = 9_216
"""Frames are measured at 128 x 72 or another shape of as many pixels: block changes and hashes average over far
larger parts."""
_ROUNDING_DIGITS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeStage(Stage):
    """What the header says, and whether the file is the one that its publisher states.

    Facts: container, duration_seconds (of the clip), file_duration_seconds, codecs, width, height, average_fps,
    file_bytes and, with `hash_file`, file_sha256. Drops `media_error` (no readable media), `still_image`,
    `outside_of_file` (the interval begins after the end) and `other_file` (the hash is not the stated one).
    """

    name: str = "probe"
    hash_file: bool = True
    """Read local files whole for their sha256: it finds exact duplicates and files that are not what they should be."""
    timeout_seconds: float = 120.0

    def process(self, clip: ManifestClip) -> Outcome:
        try:
            found = probe(clip.path, timeout_seconds=self.timeout_seconds)
        except MediaError as error:
            return media_outcome(error)
        if found.is_image:
            return Dropped(reason="still_image", detail=f"{clip.path} is a still image, not a video or a sound")
        duration = clip_duration(clip, found)
        if duration <= 0:
            detail = f"begins at {clip.start_seconds or 0.0:g} s of a file of {found.duration_seconds:.3f} s"
            return Dropped(reason="outside_of_file", detail=detail)
        facts = {"duration_seconds": round(duration, _ROUNDING_DIGITS), **_header(found)}
        if is_url(clip.path):
            return Kept(facts=facts)
        facts["file_bytes"] = file_size(clip.path)
        return self._with_hash(clip, facts) if self.hash_file else Kept(facts=facts)

    def _with_hash(self, clip: ManifestClip, facts: dict[str, Any]) -> Outcome:
        try:
            digest = file_sha256(clip.path)
        except OSError as error:
            return Failed(reason="media_unavailable", detail=f"{clip.path}: {error.strerror or error}")
        if clip.sha256 is not None and clip.sha256 != digest:
            return Dropped(reason="other_file", detail=f"sha256 is {digest}, the manifest states {clip.sha256}")
        return Kept(facts={**facts, "file_sha256": digest})


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureStage(Stage):
    """Decode the clip and measure pictures and sound.

    Facts: duration_seconds, video_codec, width, height, average_fps, has_video, audio_status, num_frames and warnings
    of the decoder; those of `PictureMeasures` where there are pictures and of `SoundMeasures` where there is sound;
    picture_hashes and sound_hashes (base64), content_sha256 (over the sampled frames and the sound) and file_sha256
    (as the clip states it, or the stage `probe_name` found).
    Drops `media_error`, and `too_long_to_measure`, since the clip is decoded in one piece.
    """

    name: str = "measure"
    max_seconds: float = 300.0
    """About 20 MB of sound and 17 MB of frames. Cut longer clips before."""
    probe_name: str = "probe"
    timeout_seconds: float = 120.0

    def __post_init__(self) -> None:
        if not 0 < self.max_seconds <= 3600:
            raise ConfigError(f"MeasureStage: max_seconds must be above 0 and at most 3600, got {self.max_seconds}")

    @property
    def reads(self) -> tuple[str, ...] | None:
        return (self.probe_name,)

    def process(self, clip: ManifestClip) -> Outcome:
        try:
            duration = clip_duration(clip, probe(clip.path, timeout_seconds=self.timeout_seconds))
            if duration > self.max_seconds:
                detail = f"lasts {duration:.3f} s; cut it into clips of at most {self.max_seconds:g} s before"
                return Dropped(reason="too_long_to_measure", detail=detail)
            opened = open_clip(
                clip.path,
                fps=1 / PICTURE_STEP_SECONDS,
                max_frames=round(self.max_seconds / PICTURE_STEP_SECONDS) + 1,
                max_pixels=_MEASURE_PIXELS,
                start_seconds=clip.start_seconds,
                end_seconds=clip.end_seconds,
                clip_id=clip.id,
                timeout_seconds=self.timeout_seconds,
            )
        except MediaError as error:
            return media_outcome(error)
        if opened.source.is_image:
            return Dropped(reason="still_image", detail=f"{clip.path} is a still image, not a video or a sound")
        facts = measure_clip(opened)
        known = clip.file_sha256
        return Kept(facts={**facts, "file_sha256": known} if known else facts)


def measure_clip(clip: Clip) -> dict[str, Any]:
    """The facts of `MeasureStage` about a clip whose frames were sampled every 0.5 s."""
    pictures = measure_pictures(clip.frames)
    sound = None if clip.waveform is None else measure_sound(clip.waveform)
    waveform = np.zeros(0, np.float32) if clip.waveform is None else clip.waveform
    return {
        "duration_seconds": round(clip.duration_seconds, _ROUNDING_DIGITS),
        "video_codec": clip.source.video_codec,
        "width": clip.source.width,
        "height": clip.source.height,
        "average_fps": _rounded(clip.source.average_fps),
        "has_video": clip.num_frames > 0,
        "audio_status": clip.audio_status,
        "num_frames": clip.num_frames,
        **({} if pictures is None else pictures.to_dict()),
        **({} if sound is None else sound.to_dict()),
        "picture_hashes": encode_hashes(_on_grid(clip, picture_hashes(clip.frames))),
        "sound_hashes": encode_hashes(sound_hashes(waveform)),
        "content_sha256": _content_sha256(clip),
        "warnings": list(clip.warnings),
    }


def clip_duration(clip: ManifestClip, found: SourceFacts) -> float:
    """Seconds of the clip inside its file; 0 or less when it begins after the end."""
    file_end = found.duration_seconds
    end = file_end if clip.end_seconds is None else min(clip.end_seconds, file_end)
    return end - (clip.start_seconds or 0.0)


def _header(found: SourceFacts) -> dict[str, Any]:
    return {
        "container": found.container,
        "file_duration_seconds": round(found.duration_seconds, _ROUNDING_DIGITS),
        "video_codec": found.video_codec,
        "audio_codec": found.audio_codec,
        "width": found.width,
        "height": found.height,
        "average_fps": _rounded(found.average_fps),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _ROUNDING_DIGITS)


def _on_grid(clip: Clip, hashes: np.ndarray) -> np.ndarray:
    """One hash per 0.5 s: a frame that stays on screen was sampled once and stands for every step until the next."""
    if not len(hashes):
        return hashes
    steps = np.round(clip.sample_times_seconds / PICTURE_STEP_SECONDS).astype(int)
    num_steps = max(int(np.ceil(clip.duration_seconds / PICTURE_STEP_SECONDS - 1e-6)), int(steps[-1]) + 1)
    shown = np.searchsorted(steps, np.arange(num_steps), side="right") - 1
    return np.where(shown >= 0, hashes[np.maximum(shown, 0)], np.uint64(0))


def _content_sha256(clip: Clip) -> str:
    digest = hashlib.sha256(repr((clip.frames.shape, clip.audio_status)).encode())
    digest.update(clip.frames.tobytes())
    if clip.waveform is not None:
        digest.update(clip.waveform.tobytes())
    return digest.hexdigest()
