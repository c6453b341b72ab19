"""`open_clip`: a media file to a `Clip`, or one `MediaError` that names the file, the stream and the reason.

Rules, in one place:

* Times are on the player's timeline: zero is the start of the earliest audio or video stream.
* Targets are start + k/fps before the end; at each target the frame on screen is taken (the first one, if none
  is yet), each frame once, with its true time. The frame on screen at the start may have begun before it.
* More targets than `max_frames`: `max_frames` targets spread evenly from the start to the end of the video; fewer
  than `min_frames`: so many, likewise.
* A file is refused when more than half of a stream's packets in the interval are damaged, or when the stream
  ends more than 0.5 s and 5 % short of what its header states (within the interval). Less damage is a warning.
* A picture of more than 250 million pixels is refused before it is decoded.
* A still image (PNG, JPEG, WebP, BMP, TIFF, AVIF) is a clip of one frame at 0 s without sound that lasts 1/fps,
  the time that one sampled frame stands for. A damaged image is refused. GIF and APNG are videos.
* Sound never fails a clip that has pictures unless `audio="require"`: its state is `audio_status`.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import get_args

import numpy as np
from av.container import InputContainer

from avocet.errors import ConfigError, MediaError
from avocet.media._decode import Decoded, Wanted, decode_interval
from avocet.media._probe import duration_is_stated, header_end, read_to_end, require_media, source_facts
from avocet.media._sampling import Grid, count_targets, plan_grid
from avocet.media._sound import SILENT_BELOW
from avocet.media._source import MAX_SOURCE_PIXELS, Watchdog, open_container
from avocet.media._still import Still, is_still, read_still, still_clip
from avocet.media._streams import Streams, choose_streams
from avocet.records import AudioPolicy, AudioStatus, Clip, SourceFacts

_SHORT_SECONDS = 0.5
_SHORT_FRACTION = 0.05
"""A stream that misses more than both of these of its stated length is refused."""

_NOTICEABLE_SECONDS = 0.1
"""Differences between the ends of picture, sound and interval under this go without a warning."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Request:
    """The checked arguments of `open_clip`."""

    path: str
    fps: float
    max_frames: int
    min_frames: int
    max_pixels: int | None
    start_seconds: float
    end_seconds: float
    audio: AudioPolicy

    def __post_init__(self) -> None:
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise ConfigError(f"fps must be a number > 0, got {self.fps}")
        if self.max_frames < 1:
            raise ConfigError(f"max_frames must be >= 1, got {self.max_frames}")
        if not 1 <= self.min_frames <= self.max_frames:
            raise ConfigError(f"min_frames must be from 1 to max_frames={self.max_frames}, got {self.min_frames}")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ConfigError(f"max_pixels must be >= 1 or None, got {self.max_pixels}")
        if not (self.start_seconds >= 0 and math.isfinite(self.start_seconds)):
            raise ConfigError(f"start_seconds must be >= 0, got {self.start_seconds}")
        if not self.end_seconds > self.start_seconds:
            raise ConfigError(
                f"end_seconds must be larger than start_seconds, got [{self.start_seconds}, {self.end_seconds})"
            )
        if self.audio not in get_args(AudioPolicy):
            raise ConfigError(f"audio must be one of {', '.join(get_args(AudioPolicy))}, got {self.audio!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Promise:
    """What the header states, as far as it can be trusted; None where it cannot."""

    video_end_seconds: float | None = None
    audio_end_seconds: float | None = None
    file_end_seconds: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Reading:
    """A finished pass and what was known before it."""

    decoded: Decoded
    facts: SourceFacts
    promise: _Promise
    grid: Grid
    span_end_seconds: float
    """Where the grid was planned to end."""
    has_video: bool
    has_audio: bool
    audio_has_decoder: bool
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sound:
    """The verdict on the audio stream."""

    status: AudioStatus
    reason: str = ""
    """Why there is no usable sound."""
    waveform: np.ndarray | None = None
    warnings: tuple[str, ...] = ()


def open_clip(
    path: str | os.PathLike[str],
    fps: float = 2.0,
    max_frames: int = 768,
    max_pixels: int | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    audio: AudioPolicy = "auto",
    *,
    min_frames: int = 1,
    clip_id: str | None = None,
    timeout_seconds: float = 120.0,
) -> Clip:
    """Decode frames and sound of one file, or of the interval [start_seconds, end_seconds) of it.

    Args:
        path: a local file, or an http, https or file URL.
        fps: frames per second to sample; see the module's rules for which frames these are.
        max_frames: the most frames to return; longer clips are sampled more sparsely, evenly.
        max_pixels: the most pixels of a frame. Larger pictures are scaled down with their aspect kept, both sides
            rounded down; smaller ones are never scaled up.
        audio: "auto" uses the sound if there is any, "require" raises without usable sound, "ignore" returns
            no waveform but still reports `audio_status`.
        min_frames: the fewest targets to sample for; shorter clips are sampled more densely. Each frame still once.
        clip_id: the clip's id; the path by default.
        timeout_seconds: the longest wait for data, and how much longer than half the playing time reading may take.

    Returns:
        A `Clip`: frames uint8 (T, 3, H, W) turned upright with square pixels, their times, and the waveform float32
        (S,) at 16 kHz mono whose sample i plays at start_seconds + i / 16000. A still image gives one frame at 0 s,
        no sound, `source.is_image`, and a duration of 1/fps. What is transparent is shown over white.

    Raises:
        ConfigError: an argument is outside of what is allowed.
        MediaError: the file cannot be read as asked; names the file, the stream and the reason. Asking a still
            image for an interval or, by audio="require", for sound is such an error, too.
    """
    request = _Request(
        path=os.fsdecode(path),
        fps=fps,
        max_frames=max_frames,
        min_frames=min_frames,
        max_pixels=max_pixels,
        start_seconds=0.0 if start_seconds is None else float(start_seconds),
        end_seconds=math.inf if end_seconds is None else float(end_seconds),
        audio=audio,
    )
    try:
        reading = _read(request, Watchdog(request.path, timeout_seconds))
    except MemoryError as error:
        remedy = "lower max_frames or max_pixels, or give an interval"
        raise MediaError(request.path, "container", f"the decoded clip does not fit into memory; {remedy}") from error
    name = request.path if clip_id is None else clip_id
    if isinstance(reading, Still):
        return still_clip(reading, request.fps, name)
    _check_video(request, reading)
    sound = _judge_sound(request, reading)
    if sound.status == "undecodable" and not reading.has_video:
        raise MediaError(request.path, "audio", sound.reason)
    return _assemble(request, reading, sound, name)


def _read(request: _Request, watchdog: Watchdog) -> _Reading | Still:
    """One pass; repeated only where a seek led too far or the stated end, which spread the frames, was wrong."""
    known_end: float | None = None
    allow_seek = True
    while True:
        with open_container(request.path, watchdog) as container:
            if is_still(container):
                _check_still_request(request)
                return read_still(request.path, container, request.max_pixels)
            reading = _pass(request, container, watchdog, known_end, allow_seek)
        if reading.decoded.landed_late:
            allow_seek = False
            continue
        corrected_end = _corrected_end(request, reading) if known_end is None else None
        if corrected_end is None:
            return reading
        known_end = corrected_end


def _check_still_request(request: _Request) -> None:
    if request.start_seconds > 0 or math.isfinite(request.end_seconds):
        reason = "a still image has no times; leave out start_seconds and end_seconds"
        raise MediaError(request.path, "video", reason)
    if request.audio == "require":
        raise MediaError(request.path, "audio", "a still image has no sound, but audio='require' asks for sound")


def _pass(
    request: _Request, container: InputContainer, watchdog: Watchdog, known_end: float | None, allow_seek: bool
) -> _Reading:
    streams = choose_streams(container)
    require_media(request.path, streams)
    if streams.video is not None and streams.video.codec_context is None:
        raise MediaError(request.path, "video", "there is no decoder for its codec")
    file_end = header_end(container, streams) or read_to_end(request.path, watchdog)
    promise = _promise(container, streams)
    if promise.file_end_seconds is not None:
        _check_start(request, promise.file_end_seconds)
    span_end = min(request.end_seconds, known_end or streams.end_seconds(streams.video) or file_end)
    grid = plan_grid(request.start_seconds, span_end, request.fps, request.max_frames, request.min_frames)
    num_targets = count_targets(request.start_seconds, span_end, 1 / grid.step_seconds)
    wanted = Wanted(
        path=request.path,
        start_seconds=request.start_seconds,
        end_seconds=request.end_seconds,
        grid=grid,
        num_frames=min(num_targets, request.max_frames),
        max_pixels=request.max_pixels,
    )
    decoded = decode_interval(container, streams, wanted, watchdog, allow_seek)
    return _Reading(
        decoded=decoded,
        facts=source_facts(request.path, container, streams, file_end, decoded.orientation, decoded.shown_size),
        promise=promise,
        grid=grid,
        span_end_seconds=span_end,
        has_video=streams.video is not None,
        has_audio=streams.audio is not None,
        audio_has_decoder=streams.audio is not None and streams.audio.codec_context is not None,
        warnings=streams.warnings,
    )


def _corrected_end(request: _Request, reading: _Reading) -> float | None:
    """The real end of the video, if frames spread over it would be other frames; else None."""
    decoded, grid = reading.decoded, reading.grid
    if decoded.video_end_seconds is None or decoded.video_health.mostly_damaged:
        return None
    span_end = min(request.end_seconds, decoded.video_end_seconds)
    needed = plan_grid(request.start_seconds, span_end, request.fps, request.max_frames, request.min_frames)
    wrong_span = grid.spread and abs(span_end - reading.span_end_seconds) > grid.step_seconds
    return decoded.video_end_seconds if needed.spread != grid.spread or wrong_span else None


def _promise(container: InputContainer, streams: Streams) -> _Promise:
    if not duration_is_stated(container, streams):
        return _Promise()
    return _Promise(
        video_end_seconds=streams.end_seconds(streams.video),
        audio_end_seconds=streams.end_seconds(streams.audio),
        file_end_seconds=header_end(container, streams),
    )


def _check_start(request: _Request, file_end_seconds: float) -> None:
    if request.start_seconds >= file_end_seconds:
        raise MediaError(
            request.path,
            "container",
            f"start_seconds={request.start_seconds:g} is not before the end of the file at {file_end_seconds:.3f} s",
        )


def _check_video(request: _Request, reading: _Reading) -> None:
    """Refuse files whose pictures are missing, mostly damaged or cut off."""
    decoded = reading.decoded
    health = decoded.video_health
    if reading.has_video:
        if health.mostly_damaged:
            # FFmpeg forgets the size that it finds too large.
            too_large = f", or its pictures have more than {MAX_SOURCE_PIXELS} pixels"
            remark = too_large if reading.facts.width is None else ""
            raise MediaError(request.path, "video", f"{health.summary()}; the file is damaged or encrypted{remark}")
        if decoded.video_end_seconds is None:
            reason = health.last_error or "nothing to read in the interval; the file is cut off or damaged"
            raise MediaError(request.path, "video", f"no frame could be decoded ({reason})")
        _check_length(request, "video", decoded.video_end_seconds, reading.promise.video_end_seconds)
    file_end = _file_end(decoded)
    if file_end is None:
        return
    if not reading.has_video or reading.promise.video_end_seconds is None:
        _check_length(request, "container", file_end, reading.promise.file_end_seconds)
    _check_start(request, file_end)


def _file_end(decoded: Decoded) -> float | None:
    ends = [end for end in (decoded.video_end_seconds, decoded.audio_end_seconds) if end is not None]
    return max(ends, default=None)


def _missing(request: _Request, end_seconds: float, stated_seconds: float | None) -> float:
    """Seconds that the interval lacks because the stream ends before the header says, 0 if tolerable."""
    if stated_seconds is None:
        return 0.0
    wanted = min(request.end_seconds, stated_seconds)
    missing = wanted - max(end_seconds, request.start_seconds)
    tolerated = max(_SHORT_SECONDS, _SHORT_FRACTION * (wanted - request.start_seconds))
    return missing if missing > tolerated else 0.0


def _check_length(request: _Request, stream: str, end_seconds: float, stated_seconds: float | None) -> None:
    if _missing(request, end_seconds, stated_seconds):
        raise MediaError(request.path, stream, _cut_off(end_seconds, stated_seconds))


def _cut_off(end_seconds: float, stated_seconds: float | None) -> str:
    return (
        f"decodes only to {end_seconds:.2f} s of the {stated_seconds:.2f} s its header states; "
        "the file is cut off or damaged (set end_seconds to use what is there)"
    )


def _judge_sound(request: _Request, reading: _Reading) -> _Sound:
    """Status, waveform and warnings of the audio stream. Raises `MediaError` under audio="require"."""
    sound = _examine_sound(request, reading)
    if request.audio == "require" and sound.status in ("absent", "undecodable"):
        raise MediaError(request.path, "audio", f"{sound.reason}, but audio='require' asks for sound")
    if request.audio == "ignore":
        return dataclasses.replace(sound, waveform=None, warnings=())
    return dataclasses.replace(sound, warnings=(sound.reason,)) if sound.reason else sound


def _examine_sound(request: _Request, reading: _Reading) -> _Sound:
    decoded, health = reading.decoded, reading.decoded.audio_health
    end = decoded.audio_end_seconds
    if not reading.has_audio:
        return _Sound(status="absent", reason="there is no audio stream")
    if not reading.audio_has_decoder:
        return _Sound(status="undecodable", reason="there is no decoder for the codec of the audio stream")
    if health.mostly_damaged:
        return _Sound(status="undecodable", reason=f"the audio stream cannot be decoded: {health.summary()}")
    if end is not None and _missing(request, end, reading.promise.audio_end_seconds):
        reason = f"the audio stream {_cut_off(end, reading.promise.audio_end_seconds)}"
        return _Sound(status="undecodable", reason=reason)
    if not len(decoded.waveform):
        return _Sound(status="absent", reason="the audio stream has no sound in the interval")
    warnings: list[str] = []
    waveform = decoded.waveform
    if not np.isfinite(waveform).all():
        waveform = np.nan_to_num(waveform, copy=False, nan=0.0)
        warnings.append("the sound contains samples that are not numbers; they were set to 0")
    peak = float(np.abs(waveform).max())
    if peak >= SILENT_BELOW:
        return _Sound(status="present", waveform=waveform, warnings=tuple(warnings))
    level = f"peak {20 * math.log10(peak):.0f} dBFS" if peak > 0 else "all samples are 0"
    warnings.append(f"the sound is silent ({level})")
    if decoded.channel_peak >= SILENT_BELOW:
        warnings.append("its channels are not silent but cancel each other, or are left out, when mixed to mono")
    return _Sound(status="silent", waveform=waveform, warnings=tuple(warnings))


def _assemble(request: _Request, reading: _Reading, sound: _Sound, clip_id: str) -> Clip:
    decoded = reading.decoded
    file_end = _file_end(decoded)
    if not len(decoded.frames) and sound.waveform is None:
        reason = "nothing is left of an audio-only file with audio='ignore'"
        if reading.has_video or not reading.has_audio or request.audio != "ignore":
            reason = "nothing is shown or heard in the interval"
        raise MediaError(request.path, "container", reason)
    assert file_end is not None
    end = min(request.end_seconds, file_end)
    return Clip(
        id=clip_id,
        frames=decoded.frames,
        frame_times_seconds=decoded.frame_times_seconds,
        waveform=sound.waveform,
        start_seconds=request.start_seconds,
        duration_seconds=end - request.start_seconds,
        audio_status=sound.status,
        source=reading.facts,
        sampling_step_seconds=reading.grid.step_seconds,
        warnings=(*reading.warnings, *decoded.warnings, *sound.warnings, *_timing_warnings(request, reading, end)),
    )


def _timing_warnings(request: _Request, reading: _Reading, end_seconds: float) -> list[str]:
    decoded, grid = reading.decoded, reading.grid
    video_end, audio_end = decoded.video_end_seconds, decoded.audio_end_seconds
    warnings: list[str] = []
    if math.isfinite(request.end_seconds) and end_seconds < request.end_seconds - _NOTICEABLE_SECONDS:
        warnings.append(f"end_seconds={request.end_seconds:g} is past the end of the file at {end_seconds:.3f} s")
    if grid.thinned and reading.has_video:
        warnings.append(
            f"sampled at {1 / grid.step_seconds:.3g} instead of {request.fps:g} frames per second "
            f"to keep to max_frames={request.max_frames}"
        )
    if reading.has_video and not len(decoded.frames):
        warnings.append("no frame is shown in the interval: the video begins after it")
    if video_end is not None and video_end < end_seconds - _NOTICEABLE_SECONDS:
        warnings.append(f"the video ends at {video_end:.3f} s, before the end at {end_seconds:.3f} s")
    if audio_end is not None and audio_end < end_seconds - _NOTICEABLE_SECONDS and request.audio != "ignore":
        warnings.append(f"the sound ends at {audio_end:.3f} s, before the end at {end_seconds:.3f} s")
    if decoded.read_error is not None:
        warnings.append(f"reading stopped at {_file_end(decoded) or 0.0:.3f} s: {decoded.read_error}")
    return warnings
