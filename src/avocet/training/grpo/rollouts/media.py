"""What the trainer's model sees and hears of a clip, packed for an engine in another process.

Sending the file itself would leave the choice of frames, their size and the decoding of the sound to the engine, and
none of that would be what the gradients are computed on. So the frames that the trainer's model was given (after its
own resize) and the sound go as a small lossless Matroska file: FFV1 pictures at the sampled rate, float PCM. Engines
then have nothing left to choose; `parity` shows whether they agree.
"""

from __future__ import annotations

import dataclasses
import io
import struct
from fractions import Fraction
from typing import Any

import numpy as np

from avocet.media import open_clip
from avocet.models.interface import Prompt
from avocet.records import SAMPLE_RATE, Clip, ClipRef
from avocet.training.data.formats_common import audio_policy

_GRID_TOLERANCE_SECONDS = 0.01
_SOUND_CHUNK = 8192


class NotSendable(Exception):
    """The engine could not be told what the trainer's model sees; `reason` is counted as a rejection."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SeenMedia:
    """Picture and sound of one prompt."""

    frames: np.ndarray
    """uint8 (T, 3, H, W), as the model's towers get them; T is 0 without picture."""
    waveform: np.ndarray | None
    """float32 (S,) at 16 kHz, None without sound."""
    fps: float
    """Frames per second of the grid that the frames lie on."""
    is_image: bool = False


def seen_media(model: Any, prompt: Prompt, ref: ClipRef) -> SeenMedia:
    """Read the clip again as the trainer did.

    Raises:
        NotSendable: frames that lie on no regular grid, which no engine can be told, or another number of frames than
            the prompt has (the file has changed).
        MediaError: the file cannot be read.
    """
    clip = open_clip(
        ref.path,
        fps=model.clip_fps,
        max_frames=model.max_frames,
        min_frames=model.min_frames,
        max_pixels=model.max_pixels,
        start_seconds=ref.start_seconds,
        end_seconds=ref.end_seconds,
        audio=audio_policy(ref),
        clip_id=ref.id,
    )
    if clip.num_frames != len(prompt.frames):
        raise NotSendable("other_number_of_frames")
    # With a feature store the prompt holds shapes only.
    frames = model.read_clip(clip).frames if prompt.frames.is_meta else prompt.frames
    return SeenMedia(
        frames=frames.cpu().numpy(),
        waveform=clip.waveform if prompt.num_audio_tokens else None,
        fps=_grid_fps(clip),
        is_image=prompt.is_image,
    )


def _grid_fps(clip: Clip) -> float:
    times = clip.sample_times_seconds
    if len(times) < 2:
        return 1 / (clip.sampling_step_seconds or 1.0)
    step = clip.sampling_step_seconds or float(times[1] - times[0])
    if np.abs(times - np.arange(len(times)) * step).max() > _GRID_TOLERANCE_SECONDS:
        raise NotSendable("frames_not_on_a_grid")
    return 1 / step


def even_frames(media: SeenMedia) -> np.ndarray:
    """uint8 (T, 3, H, W), an odd last frame repeated as towers that read pairs do; vLLM would drop it."""
    if media.is_image or not len(media.frames) % 2:
        return media.frames
    return np.concatenate([media.frames, media.frames[-1:]])


def processor_arguments(media: SeenMedia) -> dict[str, Any]:
    """What vLLM's processor must be told lest it choose for itself."""
    if not len(media.frames):
        return {}
    pixels = int(media.frames.shape[2] * media.frames.shape[3])
    size = {"size": {"shortest_edge": pixels, "longest_edge": pixels}}
    if media.is_image:
        return size
    return {
        **size,
        "use_audio_in_video": media.waveform is not None,
        "fps": media.fps,
        "do_sample_frames": False,
        # Seconds of a patch of two frames: sound is laid out by this, and vLLM does not derive it from the rate.
        "second_per_grid_ts": [2 / media.fps],
    }


def matroska(media: SeenMedia) -> bytes:
    """Frames, and sound if there is any, as one lossless file."""
    import av

    buffer = io.BytesIO()
    rate = Fraction(media.fps).limit_denominator(1_000_000)
    with av.open(buffer, "w", format="matroska") as output:
        video: Any = output.add_stream("ffv1", rate=rate)
        video.height, video.width = media.frames.shape[2:]
        video.pix_fmt = "bgr0"
        sound: Any = None
        if media.waveform is not None:
            sound = output.add_stream("pcm_f32le", rate=SAMPLE_RATE, layout="mono")
        for index, frame in enumerate(even_frames(media)):
            picture: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.transpose(1, 2, 0)), format="rgb24")
            picture.pts, picture.time_base = index, 1 / rate
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
        if media.waveform is not None:
            for start in range(0, len(media.waveform), _SOUND_CHUNK):
                samples = np.ascontiguousarray(media.waveform[None, start : start + _SOUND_CHUNK])
                chunk: Any = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
                chunk.pts, chunk.sample_rate, chunk.time_base = start, SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
                output.mux(sound.encode(chunk))
            output.mux(sound.encode(None))
    return buffer.getvalue()


def wav(waveform: np.ndarray) -> bytes:
    """A WAV file of 32-bit floats, mono, 16 kHz (`wave` of the standard library knows whole numbers only)."""
    data = np.ascontiguousarray(waveform, dtype="<f4").tobytes()
    form = struct.pack("<HHIIHHH", 3, 1, SAMPLE_RATE, SAMPLE_RATE * 4, 4, 32, 0)  # 3: IEEE float
    chunks = [(b"fmt ", form), (b"fact", struct.pack("<I", len(waveform))), (b"data", data)]
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(chunk)) + chunk for name, chunk in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def png(frame: np.ndarray) -> bytes:
    """uint8 (3, H, W) as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()
