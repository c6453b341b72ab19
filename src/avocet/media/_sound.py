"""Decoded audio to one waveform: 16 kHz mono, each sample at its true time.

The channels are mixed with FFmpeg's downmix matrix, scaled so that a full-scale signal in all channels
stays full scale (stereo: half left plus half right); this is what `ffmpeg -ac 1` writes to 16-bit files.
The LFE channel is not part of that mix. Sound is laid out by its timestamps: a late start or a gap becomes
silence, overlapping sound replaces what it overlaps.
"""

from __future__ import annotations

import dataclasses
import math
from types import MappingProxyType
from typing import Any, cast

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.filter import Graph

from avocet.media._streams import Clock
from avocet.records import SAMPLE_RATE

SILENT_BELOW = 1e-3
"""Peak (-60 dBFS) under which sound counts as silent: 33 steps of 16 bit, above dither and codec noise (a few
steps) and below the quietest recorded rooms (about -55 dBFS)."""

_GAP_SECONDS = 0.04
"""Timestamps may stray this far from the sample count before a gap is made: more than containers round
(1 ms) or jitter, less than anyone notices between picture and sound (45 ms, ITU-R BT.1359)."""

_LONGEST_GAP_SECONDS = 3600.0
_LONGEST_STEP_BACK_SECONDS = 1.0
"""Timestamps that jump further than these are damaged, not sound that stands elsewhere."""

_LEAD_IN_SECONDS = 0.25
"""Sound before the interval that is resampled too, so that the filter has settled when the interval begins."""

_PULL_EVERY = 32
"""Frames pushed into the filter graph between two pulls; each pull that finds nothing costs an exception."""

_OUTPUT_FRAME_SAMPLES = 8_000
"""Samples per frame that leaves the resampler: few large frames cost less than many small ones."""

_FULL_SCALE = MappingProxyType({"u8": 128.0, "s16": 2.0**15, "s32": 2.0**31, "flt": 1.0, "dbl": 1.0})


@dataclasses.dataclass
class _Run:
    """Sound without a gap: sample n of it plays at origin + n / rate."""

    origin_seconds: float
    rate: int
    num_samples: int = 0
    graph: Graph | None = None
    first_output: int = 0
    """Position of the first output sample, counted at 16 kHz from the origin."""
    pending: int = 0
    chunks: list[np.ndarray] = dataclasses.field(default_factory=list)

    def take(self, num_samples: int) -> tuple[float, float]:
        """Count the samples of the next frame; returns when it begins and ends."""
        begin = self.origin_seconds + self.num_samples / self.rate
        self.num_samples += num_samples
        return begin, self.origin_seconds + self.num_samples / self.rate


class SoundTrack:
    """Collects the frames of one audio stream that fall into [start, end).

    Args:
        clock: the stream's clock.
        start_seconds, end_seconds: the interval on the timeline; the end may be infinite.
        stream_start_seconds: where the stream begins, when the header says so. After a seek the resampler is
            kept in step with a decode from there, so that a cropped waveform equals the slice of the full one.
    """

    def __init__(
        self, clock: Clock, start_seconds: float, end_seconds: float, stream_start_seconds: float | None
    ) -> None:
        self._clock = clock
        self._start = start_seconds
        self._end = end_seconds
        self._stream_start = stream_start_seconds
        self._run: _Run | None = None
        self._pieces: list[tuple[int, np.ndarray]] = []
        self._mix_peak = 0.0
        self.end_seconds: float | None = None
        """Where the last decoded sound ends, also outside of the interval."""
        self.channel_peak = 0.0
        """Peak of any channel, measured as long as the mix is silent."""
        self.num_gaps = 0

    def add(self, frame: AudioFrame, seeked: bool) -> None:
        """Take the next frame. `seeked` says that decoding began in the middle of the stream.

        Raises `ValueError` for a timestamp that cannot be true, leaving the frame out.
        """
        if frame.samples == 0 or frame.sample_rate <= 0:
            return
        time = self._time_of(frame)
        run = self._run
        self._check_jump(time)
        if run is not None:
            drift = time - (run.origin_seconds + run.num_samples / run.rate)
            if abs(drift) > _GAP_SECONDS:
                self.num_gaps += 1
                run = None
            elif frame.sample_rate != run.rate:
                run = None
        if run is None:
            self._close()
            run = self._run = self._begin(time, frame.sample_rate, seeked)
        begin, end = run.take(frame.samples)
        if self.end_seconds is None or end > self.end_seconds:
            self.end_seconds = end
        if end <= self._start - _LEAD_IN_SECONDS or begin >= self._end:
            return
        if self._mix_peak < SILENT_BELOW and begin >= self._start:
            self.channel_peak = max(self.channel_peak, _peak(frame))
        try:
            self._push(run, frame)
        except av.error.ArgumentError:
            # The channel layout or sample format changed: a new resampler takes over at this frame.
            self._close()
            run = self._run = _Run(origin_seconds=begin, rate=frame.sample_rate)
            run.take(frame.samples)
            self._push(run, frame)

    def waveform(self, end_limit_seconds: float | None) -> np.ndarray:
        """float32 (S,): the sound from the interval's start to its last sample, empty when there is none.

        `end_limit_seconds` is where the last packet says that it ends; codecs decode whole frames past it.
        """
        self._close()
        stop = self._end
        if end_limit_seconds is not None and self.end_seconds is not None and end_limit_seconds < self.end_seconds:
            self.end_seconds = end_limit_seconds
            stop = min(stop, end_limit_seconds)
        origin = nearest_sample(self._start)
        limit = nearest_sample(stop) - origin if math.isfinite(stop) else None
        length = max((position + len(piece) for position, piece in self._pieces), default=origin) - origin
        length = max(0, length if limit is None else min(length, limit))
        waveform = np.zeros(length, dtype=np.float32)
        for position, piece in self._pieces:
            begin = position - origin
            skip = max(0, -begin)
            part = piece[skip : max(skip, length - begin)]
            waveform[begin + skip : begin + skip + len(part)] = part
        np.clip(waveform, -1.0, 1.0, out=waveform)
        return waveform

    def _time_of(self, frame: AudioFrame) -> float:
        timestamp = frame.pts if frame.pts is not None else frame.dts
        if timestamp is not None:
            return self._clock.seconds(timestamp)
        if self._run is not None:
            return self._run.origin_seconds + self._run.num_samples / self._run.rate
        return self._stream_start or 0.0

    def _check_jump(self, time: float) -> None:
        expected = max(self._stream_start or 0.0, self._start) if self.end_seconds is None else self.end_seconds
        if time > expected + _LONGEST_GAP_SECONDS:
            raise ValueError(f"a timestamp jumps ahead by {time - expected:.0f} s")
        if self.end_seconds is not None and time < expected - _LONGEST_STEP_BACK_SECONDS:
            raise ValueError(f"a timestamp jumps back by {expected - time:.0f} s")

    def _begin(self, time: float, rate: int, seeked: bool) -> _Run:
        if seeked and not self._pieces and self._stream_start is not None:
            skipped = round((time - self._stream_start) * rate)
            return _Run(origin_seconds=time - skipped / rate, rate=rate, num_samples=skipped)
        return _Run(origin_seconds=time, rate=rate)

    def _push(self, run: _Run, frame: AudioFrame) -> None:
        if run.graph is None:
            # Output samples fall onto input samples every `period`; only there may the resampler start, or its
            # grid would shift against that of a decode from the beginning.
            first = run.num_samples - frame.samples
            divisor = math.gcd(run.rate, SAMPLE_RATE)
            period = run.rate // divisor
            skip = -first % period
            if skip >= frame.samples:
                return
            run.graph = _mono_graph(frame)
            run.first_output = (first + skip) // period * (SAMPLE_RATE // divisor)
            frame = _without_head(frame, skip) if skip else frame
        run.graph.push(frame)
        run.pending += 1
        if run.pending == _PULL_EVERY:
            self._pull(run)

    def _pull(self, run: _Run) -> None:
        run.pending = 0
        for samples in _drain(run.graph):
            run.chunks.append(samples)
            self._mix_peak = max(self._mix_peak, float(np.abs(samples).max(initial=0.0)))

    def _close(self) -> None:
        """End the current run: flush the resampler and note where its sound stands (sample counts from zero)."""
        run, self._run = self._run, None
        if run is None or run.graph is None:
            return
        run.graph.push(None)
        self._pull(run)
        if run.chunks:
            position = nearest_sample(run.origin_seconds) + run.first_output
            self._pieces.append((position, np.concatenate(run.chunks)))


def nearest_sample(seconds: float) -> int:
    """The 16 kHz sample nearest to a time, halves up."""
    return math.floor(seconds * SAMPLE_RATE + 0.5)


def _peak(frame: AudioFrame) -> float:
    """Peak of any channel, 1.0 being full scale; 0 for mono, which has nothing to cancel."""
    full_scale = _FULL_SCALE.get(frame.format.name.removesuffix("p"))
    if full_scale is None or len(frame.layout.channels) < 2:
        return 0.0
    samples = frame.to_ndarray().astype(np.float64)
    centre = full_scale if frame.format.name.startswith("u8") else 0.0
    return float(np.abs(samples - centre).max()) / full_scale


def _mono_graph(frame: AudioFrame) -> Graph:
    rate = frame.sample_rate
    graph = Graph()
    source = graph.add(
        "abuffer",
        sample_rate=str(rate),
        sample_fmt=frame.format.name,
        channel_layout=frame.layout.name,
        time_base=str(frame.time_base or f"1/{rate}"),
    )
    mixer = graph.add("aresample", osr=str(SAMPLE_RATE), ochl="mono", osf="flt", rematrix_maxval="1.0")
    sink = graph.add("abuffersink")
    source.link_to(mixer)
    mixer.link_to(sink)
    graph.configure()
    graph.set_audio_frame_size(_OUTPUT_FRAME_SAMPLES)
    return graph


def _drain(graph: Graph | None) -> list[np.ndarray]:
    chunks: list[np.ndarray] = []
    while graph is not None:
        try:
            chunks.append(cast(AudioFrame, graph.pull()).to_ndarray()[0])
        except (av.error.BlockingIOError, av.error.EOFError):
            break
    return chunks


def _without_head(frame: AudioFrame, skip: int) -> AudioFrame:
    width = 1 if frame.format.is_planar else len(frame.layout.channels)
    rest = np.ascontiguousarray(frame.to_ndarray()[:, skip * width :])
    trimmed = AudioFrame.from_ndarray(cast(Any, rest), format=frame.format.name, layout=frame.layout.name)
    trimmed.sample_rate = frame.sample_rate
    trimmed.time_base = frame.time_base
    if frame.pts is not None and frame.time_base is not None:
        trimmed.pts = frame.pts + round(skip / frame.sample_rate / frame.time_base)
    return trimmed
