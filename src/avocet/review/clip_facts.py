"""What is known of a decoded clip, in words: for terminals and pages alike."""

from __future__ import annotations

import math

import numpy as np

from avocet.records import SAMPLE_RATE, Clip

_TIMES_SHOWN = 8


def number(value: float) -> str:
    """At most three decimals, without trailing zeros: 2.5 -> "2.5", 1.0 -> "1"."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def levels(clip: Clip) -> tuple[float | None, float | None]:
    """Peak and root mean square of the waveform in dBFS; None where there is nothing to measure."""
    if clip.waveform is None or not len(clip.waveform):
        return None, None
    peak = float(np.abs(clip.waveform).max())
    loudness = float(np.sqrt(np.mean(np.square(clip.waveform, dtype=np.float64))))
    return _decibels(peak), _decibels(loudness)


def _decibels(amplitude: float) -> float | None:
    return round(20 * math.log10(amplitude), 1) if amplitude > 0 else None


def source_rows(clip: Clip) -> list[tuple[str, str]]:
    """(name, value) each: what the file itself says. Values may hold untrusted text."""
    source = clip.source
    rows = [("container", f"{source.container}, {number(source.duration_seconds)} s")]
    if source.start_time_seconds:
        rows.append(("starts at", f"{number(source.start_time_seconds)} s (raw timestamp, shown as 0)"))
    if source.video_codec is not None:
        turned = f", turned {source.rotation_degrees} degrees counterclockwise" if source.rotation_degrees else ""
        rate = f", {number(source.average_fps)} frames/s" if source.average_fps else ""
        rows.append(("video", f"{source.video_codec}, {source.width}x{source.height}{rate}{turned}"))
    if source.audio_codec is not None:
        rows.append(("audio", f"{source.audio_codec}, {source.audio_sample_rate} Hz, {source.audio_channels} channels"))
    return rows


def clip_rows(clip: Clip) -> list[tuple[str, str]]:
    """(name, value) each: what was read of the file."""
    return [
        ("interval", f"{number(clip.start_seconds)} to {number(clip.end_seconds)} s"),
        ("frames", _frames_line(clip)),
        ("sound", _sound_line(clip)),
    ]


def _frames_line(clip: Clip) -> str:
    if not clip.num_frames:
        return "none"
    times = [number(float(time)) for time in clip.frame_times_seconds]
    if len(times) > _TIMES_SHOWN:
        times = [*times[:4], "...", *times[-2:]]
    return f"{clip.num_frames} of {clip.frames.shape[3]}x{clip.frames.shape[2]} at {' '.join(times)} s"


def _sound_line(clip: Clip) -> str:
    if clip.waveform is None:
        return clip.audio_status
    peak, loudness = levels(clip)
    loud = "digital silence" if peak is None else f"peak {peak:.1f} dBFS, RMS {loudness:.1f} dBFS"
    seconds = number(len(clip.waveform) / SAMPLE_RATE)
    return f"{clip.audio_status}, {seconds} s ({len(clip.waveform)} samples at 16 kHz mono), {loud}"
