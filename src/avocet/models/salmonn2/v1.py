"""video-SALMONN 2 7B as released ("v1"): LLaVA-OneVision's SigLIP and Qwen2, given hearing by Whisper and a Q-Former.

    frames -> vision (SigLIP) -> visual_projection -> pool -> newline after each row --\\
                                                                                        > frame by frame -> decoder
    sound -> audio (Whisper, norm, Q-Former, projection, MLP) -> + segment position ---/

Towers and decoder are transformers' classes. The towers run clip by clip, so that a clip's features do not depend on
the rest of the batch. Where each token goes is decided in `released_v1_layout`, and which ids stand for it in
`v1_prompts`.

Shapes: F frames, P patches per frame, R rows and columns of pooled patches, G segments of 30 s, B prompts, L positions,
D decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from avocet.errors import CheckpointError, ConfigError, LayoutError
from avocet.models import chatml
from avocet.models.clip_media import ClipMedia
from avocet.models.decoder import Decoder
from avocet.models.interface import Prefix, Prompt
from avocet.models.salmonn2 import processing, towers
from avocet.models.salmonn2.audio_branch import AudioBranch, segment_mels
from avocet.models.salmonn2.released_layout import ReleasedPlan, sync_drift_seconds
from avocet.models.salmonn2.released_model import ReleasedModel
from avocet.models.salmonn2.released_v1_layout import v1_layout, v1_num_samples, v1_time_texts, v1_token_kinds
from avocet.models.salmonn2.saving import TIED_KEY, write_model
from avocet.models.salmonn2.v1_config import V1Config
from avocet.models.salmonn2.v1_prompts import (
    AUDIO_PLACEHOLDER,
    FIRST_PLACEHOLDER,
    RELEASED_PLACEHOLDER,
    VISUAL_PLACEHOLDER,
    check_media,
    insert_media,
)
from avocet.models.trunks import Trunk
from avocet.records import SAMPLE_RATE, Clip

_FRAMES_PER_BATCH = 16
_SEGMENTS_PER_BATCH = 8
"""How many frames or segments pass a tower at once, which bounds the memory of long clips."""

_NOTICEABLE_DRIFT_SECONDS = 0.5


class V1Model(ReleasedModel):
    """A `CaptionModel`; `v1_loading.load_v1` loads one."""

    def __init__(self, config: V1Config, tokenizer: Any = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        width = config.decoder.hidden_size
        self.vision = towers.build_vision(config.vision)
        # Released but never run: the visual path takes what comes before it.
        self.vision.post_layernorm.requires_grad_(False)
        self.visual_projection = _projection(config.vision.hidden_size, width, config.projector_depth)
        self.newline = nn.Parameter(torch.zeros(width))
        self.audio = AudioBranch(config.audio, config.qformer, width, with_norm=True, with_mlp=config.final_mlp)
        self.decoder = towers.build_decoder(config.decoder)
        self.stop_ids = (config.turn_end_id,) if tokenizer is None else chatml.stop_ids(tokenizer)

    # What callers need to know before the first verb.

    @property
    def device(self) -> torch.device:
        return self.newline.device

    @property
    def reading(self) -> V1Config:
        return self.config

    @property
    def layout_rule(self) -> str:
        return f"salmonn2_v1/{self.config.layout}"

    @property
    def min_frames(self) -> int:
        """Two: the released model has never seen a clip of one frame."""
        return min(2, self.max_frames)

    @property
    def max_pixels(self) -> int | None:
        """None: any frame is resized to the encoder's square, so decoding need not shrink it first."""
        return None

    # The four verbs.

    def read_clip(self, clip: Clip) -> ClipMedia:
        """Resize and compute the spectrogram.

        Layout `released` hears no more sound than the clip is long, as the released code does.

        Raises:
            ConfigError: the sound is longer than the table of segment positions.
        """
        warnings = list(clip.warnings)
        if clip.num_frames > self.max_frames:
            warnings.append(f"{clip.num_frames} frames given, the model is made for at most {self.max_frames}")
        mel, num_samples = None, 0
        if clip.waveform is not None and len(clip.waveform):
            num_samples = len(clip.waveform)
            if self.config.layout == "released" and clip.num_frames > 1:
                num_samples = v1_num_samples(num_samples, clip.duration_seconds)
            mel = self.log_mel(clip.waveform[:num_samples])
        frames = self.resize_frames(clip.frames)
        return ClipMedia.of(clip, frames, clip.sample_times_seconds, mel, num_samples, tuple(warnings))

    def lay_out(self, media: ClipMedia, instruction: str) -> Prompt:
        return self.prompt_from_tensors(
            media.clip_id,
            instruction,
            media.frames,
            media.times_seconds,
            media.mel,
            media.duration_seconds,
            audio_seconds=media.num_samples / SAMPLE_RATE,
            is_image=media.is_image and len(media.frames) == 1,
            warnings=media.warnings,
        )

    def prompt_from_tensors(
        self,
        clip_id: str,
        instruction: str,
        frames: torch.Tensor | None,
        frame_times_seconds: np.ndarray,
        mel: torch.Tensor | None,
        duration_seconds: float,
        *,
        audio_seconds: float | None = None,
        is_image: bool = False,
        warnings: tuple[str, ...] = (),
    ) -> Prompt:
        """The prompt of a clip that is already in the model's form; arguments as in `prompt_from_ids`."""
        if self.tokenizer is None:
            raise ConfigError("this checkpoint has no tokenizer files, so it cannot read an instruction")
        before, after = chatml.turns(self.tokenizer, self.config.system_prompt, "\n" + instruction)
        # One line break belongs to the media, the next one begins the instruction; each is a token of its own.
        ids = (*before, RELEASED_PLACEHOLDER, *chatml.plain_ids(self.tokenizer, "\n"), *after)
        return self.prompt_from_ids(
            clip_id,
            ids,
            frames,
            frame_times_seconds,
            mel,
            duration_seconds,
            audio_seconds=audio_seconds,
            instruction=instruction,
            is_image=is_image,
            warnings=warnings,
        )

    def prompt_from_ids(
        self,
        clip_id: str,
        token_ids: Sequence[int],
        frames: torch.Tensor | None,
        frame_times_seconds: np.ndarray,
        mel: torch.Tensor | None,
        duration_seconds: float,
        *,
        audio_seconds: float | None = None,
        instruction: str = "",
        is_image: bool = False,
        warnings: tuple[str, ...] = (),
    ) -> Prompt:
        """The prompt of ids as the released code has them, with one -200 where the media go.

        Args:
            token_ids: any text, before and after the media.
            frames: uint8 (F, 3, S, S) at the model's image size, or None.
            frame_times_seconds: (F,), from the start of the clip.
            mel: float32 (mel bins, G * 3000) from `log_mel`, or None.
            duration_seconds: of the clip.
            audio_seconds: real length of the sound; None: as long as the clip, as far as the mel goes.

        Raises:
            LayoutError: neither frames nor sound, shapes that do not fit the model, or not exactly one -200.
            ConfigError: time texts are needed and the checkpoint has no tokenizer, or there is too much sound.
        """
        config = self.config
        if frames is None:
            frames = self.resize_frames(np.zeros((0, 3, 1, 1), np.uint8))
        num_samples = check_media(
            config, clip_id, frames, len(frame_times_seconds), mel, duration_seconds, audio_seconds
        )
        texts = [] if num_samples or not config.time_tokens else self._time_texts(len(frames), duration_seconds)
        kinds = v1_token_kinds(config.rows, config.rows, max(map(len, texts), default=0))
        released = v1_layout(
            config.layout, frame_times_seconds, len(kinds), num_samples, duration_seconds, config.windows
        )
        ids = insert_media(token_ids, released.plan, kinds, texts, config.decoder.vocab_size)
        return Prompt(
            clip_id=clip_id,
            instruction=instruction,
            token_ids=ids,
            layout=released.plan,
            frames=frames,
            mel=mel,
            audio_source=released.audio_source if mel is not None else None,
            is_image=is_image,
            media={"tokens_per_frame": len(kinds), "audio_tokens_heard": len(np.unique(released.audio_source))},
            warnings=(*warnings, *released.warnings, *self._warnings(released, len(ids), num_samples)),
        )

    def encode(self, prompts: Sequence[Prompt]) -> Prefix:
        """Towers and interleaving of a batch; differentiable when gradients are enabled."""
        rows = [self._embed(prompt) for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        empty = self.newline.new_zeros((0, 0, len(self.newline)))
        return Prefix(
            clip_ids=tuple(prompt.clip_id for prompt in prompts),
            embeddings=nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else empty,
            lengths=lengths,
        )

    def language_decoder(self) -> Decoder:
        return Decoder(backbone=self.decoder.model, lm_head=self.decoder.lm_head)

    def trunks(self) -> dict[str, Trunk]:
        vision, audio = str(self.newline.dtype), str(self.audio.query_tokens.dtype)
        return {
            "vision": Trunk(name="vision", module=self.vision, aligners=("post_layernorm",), reading=vision),
            "audio": Trunk(name="audio", module=self.audio.encoder, reading=audio),
        }

    def reading_settings(self) -> dict[str, Any]:
        return {"family": "salmonn2_v1", **self.config.to_dict()}

    # The parts of `prepare` and `encode`.

    def resize_frames(self, frames: np.ndarray) -> torch.Tensor:
        """uint8 (F, 3, H, W) -> uint8 (F, 3, S, S), the aspect ratio not kept."""
        return processing.resize_frames(frames, self.config.vision.image_size)

    def log_mel(self, waveform: np.ndarray) -> torch.Tensor:
        """float32 (samples,) at 16 kHz -> float32 (mel bins, G * 3000): whole segments, silence at the end.

        Raises:
            ConfigError: an empty waveform, or more segments than the model has positions for.
        """
        if waveform.ndim != 1 or len(waveform) == 0:
            raise ConfigError(f"log_mel needs a waveform (S,) with at least one sample, got shape {waveform.shape}")
        processing.check_segments(-(-len(waveform) // self.config.audio.segment_samples), self.config.audio)
        return torch.cat(list(segment_mels(waveform, self.config.audio)), dim=1)

    def vision_features(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (F, 3, S, S) -> (F, P, vision width): before SigLIP's own last norm."""
        features = []
        for part in torch.split(frames, _FRAMES_PER_BATCH):
            pixels = processing.normalise_frames(part.to(self.device), self.newline.dtype)
            embedded = self.vision.embeddings(pixels)
            features.append(self.vision.encoder(inputs_embeds=embedded).last_hidden_state)
        return torch.cat(features)

    def align_visual(self, features: torch.Tensor) -> torch.Tensor:
        """(F, P, vision width) -> (F, R * (R + 1), D): projected, pooled, a newline vector after each row."""
        if not self.config.pool_after_projection:
            features = self._pool(features)
        tokens = self.visual_projection(features)
        if self.config.pool_after_projection:
            tokens = self._pool(tokens)
        rows = tokens.reshape(len(tokens), self.config.rows, self.config.rows, -1)
        newline = self.newline.expand(*rows.shape[:2], 1, -1)
        return torch.cat([rows, newline], dim=2).flatten(1, 2)

    def audio_features(self, mels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(mel bins, G * 3000) each -> (G * 1500, audio width) each: Whisper's output after its own norm."""
        outputs = []
        for mel in mels:
            segments = mel.reshape(len(mel), -1, self.config.audio.segment_mel_frames).transpose(0, 1)
            parts = [self.audio.encode(part) for part in torch.split(segments, _SEGMENTS_PER_BATCH)]
            outputs.append(torch.cat(parts).flatten(0, 1))
        return outputs

    def align_audio(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(G * 1500, audio width) each -> (G * tokens per segment, D) each, with the positions of their segments."""
        aligned = []
        for clip in features:
            tokens = self.audio.align(clip.reshape(-1, self.config.audio.segment_frames, clip.shape[1]))
            segments = segment_positions(len(tokens) // self.audio.tokens_per_segment, tokens.shape[1])
            aligned.append(tokens + segments.to(tokens).repeat_interleave(self.audio.tokens_per_segment, dim=0))
        return aligned

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config, tokenizer and weights in Avocet's layout, into a folder without weights.

        Raises:
            CheckpointError: the folder holds weights already, or an adapter is attached.
        """
        state = self.state_dict()
        if any(".lora_" in name for name in state):
            raise CheckpointError("an adapter is attached to the decoder; merge_lora it first, or remove it")
        if self.config.decoder.tie_embeddings:
            del state[TIED_KEY]
        write_model(folder, self.config.to_dict(), self.tokenizer, state, dtype)

    # Internals.

    def _pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """(F, P, width) -> (F, R * R, width)."""
        stride, side = self.config.pool_stride, self.config.vision.grid_size
        if stride == 1:
            return tokens
        grid = tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
        pooled = F.max_pool2d(grid, stride) if self.config.pool_mode == "max" else F.avg_pool2d(grid, stride)
        return pooled.flatten(2).transpose(1, 2)

    def _embed(self, prompt: Prompt) -> torch.Tensor:
        """(L, D): embeddings of the ids with the features at their placeholders.

        Raises:
            LayoutError: placeholders and features disagree in number.
        """
        ids = torch.tensor(prompt.token_ids, device=self.device)
        is_text = ids < FIRST_PLACEHOLDER
        row = self.language_decoder().embed(ids * is_text) * is_text[:, None]
        visual = audio = row[:0]
        if len(prompt.frames):
            (features,) = self.trunk_output("vision", prompt, lambda one: (self.vision_features(one.frames),))
            visual = self.align_visual(features).flatten(0, 1)
        if prompt.mel is not None:
            mels = [prompt.mel]
            audio = self.align_audio(self.trunk_output("audio", prompt, lambda _: tuple(self.audio_features(mels))))[0]
            if prompt.audio_source is not None:
                audio = audio[torch.from_numpy(prompt.audio_source).to(audio.device)]
        for name, placeholder, tokens in (
            ("visual", VISUAL_PLACEHOLDER, visual),
            ("audio", AUDIO_PLACEHOLDER, audio),
        ):
            place = (ids == placeholder).nonzero().squeeze(-1)
            if len(place) != len(tokens):
                raise LayoutError(
                    f"clip {prompt.clip_id!r}: {len(tokens)} {name} features for {len(place)} placeholders"
                )
            row = row.index_copy(0, place, tokens.to(row))
        return row

    def _time_texts(self, num_frames: int, duration_seconds: float) -> list[list[int]]:
        """Token ids of each frame's time text."""
        if self.tokenizer is None and num_frames:
            raise ConfigError(
                "clips without sound carry their frames' times as text, and this checkpoint has no tokenizer files; "
                "load it with tokenizer=..."
            )
        return [chatml.plain_ids(self.tokenizer, text) for text in v1_time_texts(num_frames, duration_seconds)]

    def _warnings(self, released: ReleasedPlan, num_tokens: int, num_samples: int) -> list[str]:
        """What a caption of this prompt should be read with."""
        warnings = []
        drift = sync_drift_seconds(released.plan, num_samples / SAMPLE_RATE)
        if drift > _NOTICEABLE_DRIFT_SECONDS:
            warnings.append(f"the layout places picture and sound up to {drift:.1f} s apart (rule {self.layout_rule})")
        most = self.language_decoder().max_positions
        if most - num_tokens < self.config.max_new_tokens:
            text = f"the prompt of {num_tokens} tokens leaves {max(most - num_tokens, 0)} for the caption"
            warnings.append(f"{text} (the decoder has {most})")
        return warnings


def segment_positions(num_segments: int, width: int) -> torch.Tensor:
    """float32 (num_segments, width): zeros, then interleaved sines and cosines of positions 0, 1, 2, ... (base 10000).

    Computed in float32 throughout, as the released code does (`video_salmonn_2.py`).
    """
    position = torch.arange(max(num_segments - 1, 0), dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * -(torch.log(torch.tensor(10000.0)) / width))
    table = torch.zeros(num_segments, width)
    table[1:, 0::2] = torch.sin(position * frequency)
    table[1:, 1::2] = torch.cos(position * frequency)
    return table


def _projection(width_in: int, width_out: int, depth: int) -> nn.Sequential:
    """Linear layers with GELU between them."""
    layers: list[nn.Module] = [nn.Linear(width_in, width_out)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(width_out, width_out)]
    return nn.Sequential(*layers)
