"""Clips as parts of a message: pictures as JPEG, sound as WAV, or one video.

Which of them a server takes is a setting (`MediaSettings.media_as`). Sound alone always goes as `input_audio`. The same
clip gives the same bytes on one machine, so a question is found in the cache again; its key covers the bytes, so a file
that has changed is asked about anew.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import os
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from avocet.curation.manifest import file_size
from avocet.curation.outcomes import Failed, media_outcome
from avocet.curation.teachers.roles import Media, TeacherError, TeacherTask
from avocet.errors import ConfigError, MediaError
from avocet.judging.messages import MAX_INLINE_BYTES, AudioPart, ImagePart, Part, VideoPart
from avocet.records import SAMPLE_RATE, AudioPolicy, Clip, ClipRef, Record, is_url

MediaAs = Literal["images+audio", "video_url"]

_VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm")
_SAME_BYTES = {"crf": "23", "threads": "1", "x264-params": "mbtree=0"}
_VIDEO_TIME_BASE = Fraction(1, 90_000)
_JPEG_BYTES_PER_PIXEL = 0.2
_VIDEO_BYTES_PER_PIXEL = 0.1
"""For previews, on the high side: films came to 0.06 to 0.18 as JPEG and to 0.01 to 0.14 as H.264 at 1 fps."""
_AAC_BYTES_PER_SECOND = 8_000
_WAV_HEAD_BYTES = 44


@dataclasses.dataclass(frozen=True, kw_only=True)
class MediaSettings(Record):
    """How media are sent."""

    media_as: MediaAs = "images+audio"
    """Pictures as `image_url` and sound as `input_audio`, or both as one `video_url`."""
    fps: float = 1.0
    """Pictures per second where the task does not say; the least of a video that has to be cut out."""
    max_frames: int = 128
    """Longer clips are sampled more sparsely, evenly."""
    max_pixels: int = 401_408
    """Of a picture (512 x 28 x 28); larger ones are scaled down."""
    jpeg_quality: int = 85
    max_bytes: int = MAX_INLINE_BYTES
    """Of the media of one question, before base64."""

    def __post_init__(self) -> None:
        if self.media_as not in get_args(MediaAs):
            raise ConfigError(f"media_as must be one of {', '.join(get_args(MediaAs))}, got {self.media_as!r}")
        if not (self.fps > 0 and self.max_frames >= 1 and self.max_pixels >= 1 and 1 <= self.jpeg_quality <= 100):
            raise ConfigError(
                "MediaSettings: fps must be > 0, max_frames and max_pixels >= 1 and jpeg_quality from 1 to 100, got "
                f"{self.fps}, {self.max_frames}, {self.max_pixels} and {self.jpeg_quality}"
            )
        if not 1 <= self.max_bytes <= MAX_INLINE_BYTES:
            raise ConfigError(f"MediaSettings: max_bytes must be from 1 to {MAX_INLINE_BYTES:,}, got {self.max_bytes}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MediaParts:
    """What goes with a question, and how the prompt speaks of it."""

    parts: tuple[Part, ...] = ()
    note: str = ""
    num_bytes: int = 0
    """On the wire: base64."""
    num_images: int = 0
    sound_seconds: float = 0.0
    video_seconds: float = 0.0


def media_parts(task: TeacherTask, settings: MediaSettings) -> MediaParts:
    """Decode the task's clip and encode what its `media` names.

    Raises `TeacherError`: `media_error`, `media_unavailable`, `no_sound`, `no_picture`, `too_large`.
    """
    if task.clip is None:
        return MediaParts()
    if settings.media_as == "video_url" and task.media != "sound":
        if _goes_as_it_is(task.clip, task.media, settings):
            return _whole_file(task.clip)
        return _cut_video(open_task_clip(task, settings), settings)
    clip = open_task_clip(task, settings)
    pictures = [] if task.media == "sound" else [_jpeg(frame, settings.jpeg_quality) for frame in clip.frames]
    sound = None if task.media == "frames" or clip.waveform is None else wav_bytes(clip.waveform)
    _check_bytes(sum(map(len, pictures)) + len(sound or b""), settings)
    parts: list[Part] = [ImagePart.from_bytes(picture) for picture in pictures]
    seconds = 0.0
    if sound is not None and clip.waveform is not None:
        seconds = len(clip.waveform) / SAMPLE_RATE
        parts.append(AudioPart.from_bytes(sound, "wav", seconds))
    return MediaParts(
        parts=tuple(parts),
        note=_note(clip, len(pictures), None if sound is None else seconds),
        num_bytes=sum(map(_base64_bytes, map(len, [*pictures, *([] if sound is None else [sound])]))),
        num_images=len(pictures),
        sound_seconds=seconds,
    )


def plan_parts(task: TeacherTask, settings: MediaSettings) -> MediaParts:
    """Like `media_parts`, but from the header alone: the parts are empty and the numbers are estimates.

    Raises `TeacherError`: `media_error`, `media_unavailable`.
    """
    if task.clip is None:
        return MediaParts()
    seconds, pixels = _header(task.clip, settings)
    sound_bytes = _base64_bytes(_WAV_HEAD_BYTES + 2 * round(seconds * SAMPLE_RATE))
    if task.media == "sound":
        part = AudioPart(data="", format="wav", duration_seconds=seconds)
        return MediaParts(parts=(part,), num_bytes=sound_bytes, sound_seconds=seconds)
    fps = task.fps or settings.fps
    num_images = max(1, min(settings.max_frames, math.ceil(seconds * fps - 1e-6)))
    if settings.media_as == "video_url":
        size = file_size(task.clip.path) if _goes_as_it_is(task.clip, task.media, settings) else None
        if size is None:
            sound_rate = _AAC_BYTES_PER_SECOND if task.media == "both" else 0
            size = round(num_images * pixels * _VIDEO_BYTES_PER_PIXEL + seconds * sound_rate)
        video = VideoPart(url="", duration_seconds=seconds)
        return MediaParts(parts=(video,), num_bytes=_base64_bytes(size), video_seconds=seconds)
    parts: list[Part] = [ImagePart(url="")] * num_images
    num_bytes = num_images * _base64_bytes(round(pixels * _JPEG_BYTES_PER_PIXEL))
    if task.media == "both":
        parts.append(AudioPart(data="", format="wav", duration_seconds=seconds))
        num_bytes += sound_bytes
    return MediaParts(
        parts=tuple(parts),
        num_bytes=num_bytes,
        num_images=num_images,
        sound_seconds=seconds if task.media == "both" else 0.0,
    )


def open_task_clip(task: TeacherTask, settings: MediaSettings) -> Clip:
    """Decode what the task names of its clip. Raises `TeacherError` as `media_parts` does."""
    from avocet.media import open_clip

    assert task.clip is not None
    ref = task.clip
    try:
        clip = open_clip(
            ref.path,
            fps=task.fps or settings.fps,
            max_frames=1 if task.media == "sound" else settings.max_frames,
            max_pixels=settings.max_pixels,
            start_seconds=ref.start_seconds,
            end_seconds=ref.end_seconds,
            audio=audio_policy(task.media),
            clip_id=ref.id,
        )
    except MediaError as error:
        raise media_failure(error) from error
    check_streams(clip, task.media)
    return clip


def audio_policy(media: Media) -> AudioPolicy:
    """What is not asked for is not decoded."""
    return "ignore" if media == "frames" else "auto"


def check_streams(clip: Clip, media: Media) -> None:
    """Raises `TeacherError` when there is nothing to send: "sound" needs sound, everything else needs pictures."""
    if media == "sound" and (clip.waveform is None or not len(clip.waveform)):
        raise TeacherError("no_sound", f"clip {clip.id!r}: its audio is {clip.audio_status}", at_once=False)
    if media != "sound" and not clip.num_frames:
        raise TeacherError("no_picture", f"clip {clip.id!r} has no pictures", at_once=False)


def media_failure(error: MediaError) -> TeacherError:
    """The error of a question whose clip cannot be read."""
    outcome = media_outcome(error)
    at_once = isinstance(outcome, Failed) and outcome.at_once
    return TeacherError(outcome.reason, outcome.detail, at_once, media_error=error)


def wav_bytes(waveform: np.ndarray) -> bytes:
    """float32 (S,) at 16 kHz as a mono 16-bit WAV file."""
    samples = np.round(np.clip(waveform, -1.0, 1.0) * 32_767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def _jpeg(frame: np.ndarray, quality: int) -> bytes:
    """uint8 (3, H, W), RGB."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _note(clip: Clip, num_images: int, sound_seconds: float | None) -> str:
    sentences = []
    if num_images:
        times = ", ".join(f"{seconds:.1f}" for seconds in clip.sample_times_seconds)
        sentences.append(
            f"{num_images} pictures of the video follow, taken at these seconds from its start: {times}. "
            f"It lasts {clip.duration_seconds:.1f} seconds."
        )
        if sound_seconds is not None:
            sentences.append(f"After them follows its sound, {sound_seconds:.1f} seconds from the same start.")
    elif sound_seconds is not None:
        sentences.append(f"{sound_seconds:.1f} seconds of sound follow.")
    return " ".join(sentences)


def _goes_as_it_is(ref: ClipRef, media: Media, settings: MediaSettings) -> bool:
    """Whether the file itself can be sent: it is meant as a whole, with its sound, and servers take its kind."""
    size = file_size(ref.path)
    whole = ref.start_seconds is None and ref.end_seconds is None and not is_url(ref.path)
    suffix_taken = Path(ref.path).suffix.lower() in _VIDEO_SUFFIXES
    return whole and media == "both" and suffix_taken and size is not None and size <= settings.max_bytes


def _whole_file(ref: ClipRef) -> MediaParts:
    from avocet.media import probe

    try:
        seconds = probe(ref.path).duration_seconds
        part = VideoPart.from_file(ref.path, seconds)
    except MediaError as error:
        raise media_failure(error) from error
    except ConfigError as error:  # the file went away, or grew, since it was looked at
        raise TeacherError("media_unavailable", str(error)) from error
    num_bytes = _base64_bytes(os.path.getsize(ref.path))
    note = f"A video of {seconds:.1f} seconds follows."
    return MediaParts(parts=(part,), note=note, num_bytes=num_bytes, video_seconds=seconds)


def _cut_video(clip: Clip, settings: MediaSettings) -> MediaParts:
    data = video_bytes(clip)
    _check_bytes(len(data), settings)
    url = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
    silent = "" if clip.waveform is not None else ", without its sound"
    return MediaParts(
        parts=(VideoPart(url=url, duration_seconds=clip.duration_seconds),),
        note=f"A video of {clip.duration_seconds:.1f} seconds follows{silent}.",
        num_bytes=_base64_bytes(len(data)),
        video_seconds=clip.duration_seconds,
    )


def video_bytes(clip: Clip) -> bytes:
    """The clip's frames at their times, and its sound, as an MP4 file (H.264 and AAC)."""
    import av

    file = io.BytesIO()
    height, width = (size - size % 2 for size in clip.frames.shape[2:])
    if not (height and width):
        raise TeacherError("no_picture", f"clip {clip.id!r}: its pictures are one pixel wide or high", at_once=False)
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as output:
        # The same clip must give the same bytes, or its answer is paid for again: what x264 writes depends on its
        # threads, and with a macroblock tree on what lies in memory.
        video: Any = output.add_stream("libx264", rate=30, options=_SAME_BYTES)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.time_base = _VIDEO_TIME_BASE
        sound: Any = None if clip.waveform is None else output.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for image, seconds in zip(clip.frames, clip.sample_times_seconds, strict=True):
            picture = np.ascontiguousarray(image[:, :height, :width].transpose(1, 2, 0))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(seconds / _VIDEO_TIME_BASE), _VIDEO_TIME_BASE
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if sound is not None and clip.waveform is not None:
            for start in range(0, len(clip.waveform), 1024):
                samples = av.AudioFrame.from_ndarray(clip.waveform[None, start : start + 1024], "fltp", "mono")
                samples.pts, samples.sample_rate, samples.time_base = start, SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
                output.mux(sound.encode(samples))
            output.mux(sound.encode(None))
    return file.getvalue()


def _header(ref: ClipRef, settings: MediaSettings) -> tuple[float, int]:
    """Seconds and pixels per picture, of what would be sent."""
    from avocet.media import probe

    try:
        facts = probe(ref.path)
    except MediaError as error:
        raise media_failure(error) from error
    start = ref.start_seconds or 0.0
    end = facts.duration_seconds if ref.end_seconds is None else min(ref.end_seconds, facts.duration_seconds)
    pixels = (facts.width or 0) * (facts.height or 0)
    return max(0.0, end - start), min(pixels, settings.max_pixels)


def _check_bytes(num_bytes: int, settings: MediaSettings) -> None:
    if num_bytes > settings.max_bytes:
        raise TeacherError(
            "too_large",
            f"{num_bytes:,} bytes of media, at most {settings.max_bytes:,} may go with a question; send fewer or "
            "smaller frames, or a shorter interval",
            at_once=False,
        )


def _base64_bytes(num_bytes: int) -> int:
    return 4 * math.ceil(num_bytes / 3)
