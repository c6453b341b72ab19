"""Models of both families small enough to run in milliseconds, and clips for them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from avocet.models.qwen_omni.modeling import QwenOmniModel
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.models.salmonn2 import Salmonn2Config, Salmonn2Model, build_word_tokenizer
from avocet.models.salmonn2.config import AudioSettings, DecoderSettings, QFormerSettings, VisionSettings
from avocet.records import SAMPLE_RATE, Clip, SourceFacts

WORDS = ["user assistant system", "Describe the video and its sound.", "a bell rings, red circle slides left"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Handing matrices this small from thread to thread takes longer than multiplying them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer():
    return build_word_tokenizer(WORDS)


@pytest.fixture
def tiny_config(tokenizer) -> Salmonn2Config:
    """4 visual tokens per frame, 5 audio tokens per second, segments of 2 s (10 tokens), 3 segments."""
    return Salmonn2Config(
        vision=VisionSettings(
            image_size=16,
            patch_size=4,
            hidden_size=16,
            num_layers=1,
            num_heads=2,
            intermediate_size=32,
            stem_channels=(8,),
            merge=2,
        ),
        audio=AudioSettings(
            num_mel_bins=16,
            hop_length=320,
            n_fft=512,
            hidden_size=16,
            num_layers=1,
            num_heads=2,
            intermediate_size=32,
            segment_seconds=2,
            pad_segments=False,
            max_segments=3,
        ),
        qformer=QFormerSettings(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32),
        decoder=DecoderSettings(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            intermediate_size=64,
            max_positions=256,
        ),
        clip_fps=2.0,
        max_frames=8,
        default_max_new_tokens=12,
    )


@pytest.fixture
def model(tiny_config, tokenizer) -> Salmonn2Model:
    torch.manual_seed(0)
    tiny = Salmonn2Model(tiny_config, tokenizer).eval()
    with torch.no_grad():
        # Segment positions start at zero; here they must be visible.
        tiny.segment_embedding.weight.normal_(std=0.5)
        # Sharper than at initialisation, so that greedy decoding does not hang on rounding.
        tiny.decoder.lm_head.weight.mul_(6)
    return tiny


@pytest.fixture
def padded_model(tiny_config, tokenizer) -> Salmonn2Model:
    """The same sizes with Whisper's own padding to full segments."""
    torch.manual_seed(0)
    audio = dataclasses.replace(tiny_config.audio, pad_segments=True)
    return Salmonn2Model(dataclasses.replace(tiny_config, audio=audio), tokenizer).eval()


@pytest.fixture
def make_clip() -> Callable[..., Clip]:
    def make(
        clip_id: str = "clip",
        num_frames: int = 2,
        audio_seconds: float | None = 1.0,
        *,
        seed: int = 0,
        start_seconds: float = 0.0,
        duration_seconds: float | None = None,
    ) -> Clip:
        rng = np.random.default_rng(seed)
        waveform = None
        if audio_seconds is not None:
            waveform = rng.normal(0, 0.1, round(audio_seconds * 16_000)).astype(np.float32)
        duration = duration_seconds or max(num_frames / 2, audio_seconds or 0.0)
        return Clip(
            id=clip_id,
            frames=rng.integers(0, 256, (num_frames, 3, 20, 30), dtype=np.uint8),
            frame_times_seconds=start_seconds + np.arange(num_frames) / 2,
            waveform=waveform,
            start_seconds=start_seconds,
            duration_seconds=duration,
            audio_status="absent" if waveform is None else "present",
            source=SourceFacts(path=f"{clip_id}.mp4", container="mp4", duration_seconds=duration),
        )

    return make


@pytest.fixture
def make_prefix(model, make_clip):
    """Prefix of prompts with (frames, audio seconds) each."""

    def make(*sizes: tuple[int, float | None]):
        clips = [make_clip(f"clip{i}", frames, seconds, seed=i) for i, (frames, seconds) in enumerate(sizes)]
        return model.encode([model.prepare(clip, "Describe the video.") for clip in clips])

    return make


@pytest.fixture(params=["qwen2.5-omni", "qwen3-omni"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def omni(family) -> QwenOmniModel:
    """A tiny Qwen-Omni of each generation: 12 visual tokens per temporal patch, 1,200 per clip."""
    return tiny_model(family)


@pytest.fixture(scope="session")
def media_clip() -> Callable[..., Clip]:
    """Noise in picture and sound; `sound_seconds` None is a clip without sound track, 0 frames one without picture."""

    def make(
        clip_id: str = "clip",
        seconds: float = 3.0,
        *,
        fps: float = 2.0,
        num_frames: int | None = None,
        sound_seconds: float | None = -1.0,
        size: tuple[int, int] = (58, 90),
        is_image: bool = False,
        silent: bool = False,
        seed: int = 0,
    ) -> Clip:
        rng = np.random.default_rng(seed)
        count = math.ceil(seconds * fps - 1e-9) if num_frames is None else num_frames
        waveform = None
        if sound_seconds is not None:
            length = round((seconds if sound_seconds < 0 else sound_seconds) * SAMPLE_RATE)
            waveform = np.zeros(length, np.float32) if silent else rng.normal(0, 0.1, length).astype(np.float32)
        status = "absent" if waveform is None else "silent" if silent else "present"
        return Clip(
            id=clip_id,
            frames=rng.integers(0, 256, (count, 3, *size), dtype=np.uint8),
            frame_times_seconds=np.arange(count) / fps,
            waveform=waveform,
            start_seconds=0.0,
            duration_seconds=seconds,
            audio_status=status,
            source=SourceFacts(path=clip_id, container="memory", duration_seconds=seconds, is_image=is_image),
            sampling_step_seconds=1 / fps,
        )

    return make


@pytest.fixture
def mixed(media_clip) -> list[Clip]:
    """Clips of every kind, each of another length."""
    return [
        media_clip("sound", 3.2, seed=1),
        media_clip("no track", 4.0, sound_seconds=None, seed=2),
        media_clip("silent", 2.0, silent=True, seed=3),
        media_clip("sound only", 1.6, num_frames=0, seed=4),
        media_clip("image", 0.5, num_frames=1, sound_seconds=None, is_image=True, seed=5),
        media_clip("one frame", 0.5, num_frames=1, seed=6),
        media_clip("long sound", 1.0, sound_seconds=4.4, seed=7),
    ]
