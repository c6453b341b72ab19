"""Shared fixtures: small real media files, and a caption model whose answers are scripted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from shared_files import require, shared_folder

from avocet.errors import LayoutError
from avocet.models.interface import Completion, Prefix, Prompt
from avocet.models.layout import plan_layout
from avocet.records import Clip, Sampling

FPS = 10
RATE = 16_000


def write_clip(path: Path, seconds: float = 1.0, comment: str | None = None, tone_hertz: float | None = 440.0) -> Path:
    """A small mp4: a grey level per frame, and a tone (no sound track when `tone_hertz` is None)."""
    with av.open(str(path), "w") as output:
        if comment is not None:
            output.metadata["comment"] = comment
        video = output.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = None if tone_hertz is None else output.add_stream("aac", rate=RATE, layout="mono")
        for index in range(round(seconds * FPS)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if audio is not None:
            wave = 0.3 * np.sin(2 * np.pi * tone_hertz * np.arange(round(seconds * RATE)) / RATE)
            for start in range(0, len(wave), 1024):
                samples = wave[None, start : start + 1024].astype(np.float32)
                sound = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                sound.pts, sound.sample_rate, sound.time_base = start, RATE, Fraction(1, RATE)
                output.mux(audio.encode(sound))
            output.mux(audio.encode(None))
    return path


class ScriptedModel:
    """A caption model that answers by clip id and remembers what it was asked; it looks at nothing."""

    tokenizer: Any = None
    device = torch.device("cpu")
    default_instruction = "Describe the video."
    default_sampling = Sampling(max_new_tokens=50)
    layout_rule = "salmonn2_paper"
    clip_fps = 2.0
    min_frames = 1
    max_frames = 16
    max_pixels = None

    def __init__(self, answer: Callable[[str], str] | None = None, world: str | None = None) -> None:
        self.answer = answer or (lambda clip_id: f"A caption of {clip_id}.")
        self.world = world
        self.batches: list[list[str]] = []
        self.refused: frozenset[str] = frozenset()
        """Clips that `prepare` refuses."""
        self.spoils_batch: frozenset[str] = frozenset()
        """Clips that make `encode` fail."""

    def prepare(self, clip: Clip, instruction: str) -> Prompt:
        if clip.id in self.refused:
            raise LayoutError(f"{clip.id} is refused")
        num_audio_tokens = 0 if clip.waveform is None else len(clip.waveform) // 3200
        layout = plan_layout(
            self.layout_rule,
            clip.frame_times_seconds - clip.start_seconds,
            tokens_per_frame=1,
            num_audio_tokens=num_audio_tokens,
            audio_token_seconds=0.2,
            duration_seconds=clip.duration_seconds,
        )
        return Prompt(
            clip_id=clip.id,
            instruction=instruction,
            token_ids=(1,) * len(layout),
            layout=layout,
            frames=torch.from_numpy(clip.frames),
            mel=None,
            warnings=("prompt warning",) if "warned" in clip.id else (),
        )

    def encode(self, prompts: Sequence[Prompt]) -> Prefix:
        ids = [prompt.clip_id for prompt in prompts]
        self.batches.append(ids)
        if self.spoils_batch & set(ids):
            raise RuntimeError("out of\nmemory")
        lengths = torch.tensor([len(prompt.token_ids) for prompt in prompts])
        return Prefix(clip_ids=tuple(ids), embeddings=torch.zeros(len(ids), int(lengths.max()), 2), lengths=lengths)

    def generate(self, prefix: Prefix, n: int, sampling: Sampling) -> list[list[Completion]]:
        completions = []
        for clip_id in prefix.clip_ids:
            words = self.answer(clip_id).split(" ")
            cut = words[: sampling.max_new_tokens]
            stop_reason = "end" if len(words) <= sampling.max_new_tokens else "length"
            completions.append(
                [Completion(token_ids=tuple(range(len(cut))), text=" ".join(cut), stop_reason=stop_reason)] * n
            )
        return completions

    def score(
        self, prefix: Prefix, completions: Sequence[Sequence[Completion | Sequence[int]]]
    ) -> list[list[torch.Tensor]]:
        ids = [[one.token_ids if isinstance(one, Completion) else one for one in row] for row in completions]
        return [[torch.zeros(len(tokens)) for tokens in row] for row in ids]


@pytest.fixture(scope="session")
def media_dir() -> Path:
    """Folder of real media files."""
    folder = shared_folder("AVOCET_MEDIA_DIR", "media")
    require(folder.is_dir(), folder)
    return folder


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """Folder of the benchmarks' own files."""
    folder = shared_folder("AVOCET_BENCHMARK_DATA", "data")
    require(folder.is_dir(), folder)
    return folder


@pytest.fixture
def scripted_model() -> type[ScriptedModel]:
    return ScriptedModel


@pytest.fixture
def clip_writer() -> Callable[..., Path]:
    return write_clip


@pytest.fixture
def media_folder(tmp_path: Path) -> Path:
    """Three good clips (one without sound, one in a subfolder) and a file that is no media."""
    folder = tmp_path / "media"
    (folder / "sub").mkdir(parents=True)
    write_clip(folder / "a.mp4", seconds=1.0)
    write_clip(folder / "b.mp4", seconds=1.5, tone_hertz=None)
    write_clip(folder / "sub" / "c.mp4", seconds=2.0)
    (folder / "notes.txt").write_text("no media")
    return folder


@pytest.fixture
def broken_files(tmp_path: Path) -> list[Path]:
    """A truncated, an empty and a text file, all named .mp4."""
    folder = tmp_path / "broken"
    folder.mkdir()
    whole = write_clip(folder / "whole.mp4").read_bytes()
    (folder / "whole.mp4").unlink()
    truncated, empty, text = folder / "truncated.mp4", folder / "empty.mp4", folder / "text.mp4"
    truncated.write_bytes(whole[: len(whole) // 2])
    empty.write_bytes(b"")
    text.write_text("this is no video\n" * 100)
    return [truncated, empty, text]


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the real model class, a few thousand random weights, knowing the theatre's words."""
    from avocet.models.salmonn2 import Salmonn2Config, Salmonn2Model, build_word_tokenizer, save_checkpoint
    from avocet.theatre.language import vocabulary_text

    tokenizer = build_word_tokenizer(vocabulary_text())
    small = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}
    config = Salmonn2Config.nano(vocab_size=len(tokenizer))
    config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, **small, image_size=48, stem_channels=(4, 8)),
        audio=dataclasses.replace(config.audio, **small, num_mel_bins=16),
        qformer=dataclasses.replace(config.qformer, **small),
        decoder=dataclasses.replace(config.decoder, **small, num_kv_heads=2),
        default_max_new_tokens=12,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(Salmonn2Model(config, tokenizer).eval(), folder)
    return folder
