"""video-SALMONN 2 as the paper describes it, every size configurable, behind the four verbs.

    frames -> vision -> (merge) -> visual_aligner ------------------\
                                                                     > interleave (Eq. 6-8) -> decoder
    sound -> audio_encoder -> + segment_embedding (Eq. 3) -> qformer per window -> audio_projection

The *audio aligner* is segment_embedding + query_tokens + qformer + audio_projection.

Shapes: N frames of all prompts, P patches, V visual tokens per frame, B prompts, L positions, D decoder width,
T_i encoder frames of prompt i, W windows of all prompts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from avocet.errors import ConfigError, LayoutError
from avocet.models.base import DecoderModel
from avocet.models.clip_media import ClipMedia
from avocet.models.decoder import Decoder
from avocet.models.features import Outputs
from avocet.models.interface import Prefix, Prompt
from avocet.models.layout import AUDIO, VISUAL, plan_layout
from avocet.models.salmonn2 import processing, towers
from avocet.models.salmonn2.config import Salmonn2Config
from avocet.models.salmonn2.saving import write_folder
from avocet.models.salmonn2.tokenizer import AUDIO_PAD, PAD, SPECIAL_TOKENS, TURN_END, TURN_START, VIDEO_PAD
from avocet.models.scoring import token_log_probs
from avocet.models.trunks import Trunk, require_values
from avocet.records import SAMPLE_RATE, Clip, Sampling


class Salmonn2Model(DecoderModel):
    """A `CaptionModel`. Built with random weights fit for training from scratch; see `checkpoint` for loading."""

    def __init__(self, config: Salmonn2Config, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        if len(tokenizer) > config.decoder.vocab_size:
            raise ConfigError(
                f"the tokenizer has {len(tokenizer)} tokens, the decoder's vocab_size is {config.decoder.vocab_size}"
            )
        self.config = config
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self._special_ids = {token: vocabulary[token] for token in SPECIAL_TOKENS}
        self.stop_ids = (self._special_ids[TURN_END],)
        vision, audio, qformer, decoder = config.vision, config.audio, config.qformer, config.decoder
        self.vision = towers.build_vision(vision)
        self.visual_aligner = nn.Sequential(
            nn.Linear(vision.merge**2 * vision.hidden_size, decoder.hidden_size),
            nn.GELU(),
            nn.Linear(decoder.hidden_size, decoder.hidden_size),
        )
        self.audio_encoder = towers.build_audio_encoder(audio)
        self.segment_embedding = nn.Embedding(audio.max_segments, audio.hidden_size)
        self.query_tokens = nn.Parameter(torch.empty(1, qformer.num_queries, qformer.hidden_size))
        self.qformer = towers.build_qformer(qformer, audio.hidden_size)
        self.audio_projection = nn.Linear(qformer.hidden_size, decoder.hidden_size)
        self.decoder = towers.build_decoder(decoder)
        towers.initialise_for_scratch(self, decoder.num_layers)
        nn.init.zeros_(self.segment_embedding.weight)
        nn.init.normal_(self.query_tokens, std=0.2)

    # What callers need to know before the first verb.

    @property
    def device(self) -> torch.device:
        return self.query_tokens.device

    @property
    def default_instruction(self) -> str:
        return self.config.default_instruction

    @property
    def default_sampling(self) -> Sampling:
        return Sampling(max_new_tokens=self.config.default_max_new_tokens)

    @property
    def layout_rule(self) -> str:
        return self.config.layout_rule

    @property
    def clip_fps(self) -> float:
        return self.config.clip_fps

    @property
    def max_frames(self) -> int:
        return self.config.max_frames

    @property
    def max_pixels(self) -> int | None:
        """None: any frame is resized to the encoder's square, so decoding need not shrink it first."""
        return None

    @property
    def world(self) -> str | None:
        return self.config.world

    @property
    def stop_id(self) -> int:
        """The token that ends a completion."""
        return self._special_ids[TURN_END]

    # The four verbs.

    def read_clip(self, clip: Clip) -> ClipMedia:
        """Resize and compute the spectrogram. Raises `ConfigError` for more sound than there are segment positions."""
        warnings = list(clip.warnings)
        if clip.num_frames > self.max_frames:
            warnings.append(f"{clip.num_frames} frames given, the model is made for at most {self.max_frames}")
        mel, num_samples = None, 0
        if clip.waveform is not None and len(clip.waveform):
            mel, num_samples = self.log_mel(clip.waveform), len(clip.waveform)
        times = clip.frame_times_seconds - clip.start_seconds
        return ClipMedia.of(clip, self.resize_frames(clip.frames), times, mel, num_samples, tuple(warnings))

    def lay_out(self, media: ClipMedia, instruction: str) -> Prompt:
        return self.prompt_from_tensors(
            media.clip_id,
            instruction,
            media.frames,
            media.times_seconds,
            media.mel,
            media.duration_seconds,
            audio_seconds=media.num_samples / SAMPLE_RATE,
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
        warnings: tuple[str, ...] = (),
    ) -> Prompt:
        """The prompt of a clip that is already in the model's form.

        Args:
            frames: uint8 (T, 3, S, S) at the model's image size, or None.
            frame_times_seconds: (T,), from the start of the clip.
            mel: (mel bins, mel frames) from `log_mel`, or None.
            duration_seconds: of the clip.
            audio_seconds: real length of the sound; only needed with `pad_segments`, whose mel is longer than that.

        Raises:
            LayoutError: neither frames nor sound, or shapes that do not fit the model.
        """
        size = self.config.vision.image_size
        if frames is None:
            frames = torch.zeros((0, 3, size, size), dtype=torch.uint8)
        if frames.dtype != torch.uint8 or frames.shape != (len(frame_times_seconds), 3, size, size):
            raise LayoutError(
                f"clip {clip_id!r}: frames must be uint8 ({len(frame_times_seconds)}, 3, {size}, {size}), got "
                f"{frames.dtype} {tuple(frames.shape)}"
            )
        num_windows = 0 if mel is None else self._num_windows(clip_id, mel, audio_seconds)
        layout = plan_layout(
            self.config.layout_rule,
            frame_times_seconds,
            self.config.vision.tokens_per_frame,
            num_windows * self.config.qformer.num_queries,
            self.config.audio_token_seconds,
            duration_seconds,
        )
        placeholder = np.where(layout.stream == VISUAL, self._special_ids[VIDEO_PAD], self._special_ids[AUDIO_PAD])
        before, after = self._turns(instruction)
        return Prompt(
            clip_id=clip_id,
            instruction=instruction,
            token_ids=(*before, *placeholder.tolist(), *after),
            layout=layout,
            frames=frames,
            mel=mel,
            warnings=warnings,
        )

    def encode(self, prompts: Sequence[Prompt]) -> Prefix:
        """Towers, aligners and interleaving of a batch; differentiable when gradients are enabled."""
        audio = iter(self._prompts_sound([prompt for prompt in prompts if prompt.mel is not None]))
        silent = self.segment_embedding.weight.new_zeros((0, self.config.audio.hidden_size))
        audio_features = [silent if prompt.mel is None else next(audio) for prompt in prompts]
        audio_tokens = torch.cat(self.align_audio(audio_features)) if prompts else silent
        vision_features = self._prompts_picture([prompt for prompt in prompts if len(prompt.frames)])
        visual_tokens = None if vision_features is None else self.align_visual(vision_features).flatten(0, 1)
        features: dict[str, Any] = {"vision": vision_features, "audio": audio_features}
        embeddings, lengths = self._interleave(prompts, visual_tokens, audio_tokens)
        return Prefix(
            clip_ids=tuple(prompt.clip_id for prompt in prompts),
            embeddings=embeddings,
            lengths=lengths,
            features=features,
        )

    def trunks(self) -> dict[str, Trunk]:
        dtype = str(self.query_tokens.dtype)
        return {
            "vision": Trunk(name="vision", module=self.vision, reading=dtype),
            "audio": Trunk(name="audio", module=self.audio_encoder, reading=dtype),
        }

    def reading_settings(self) -> dict[str, Any]:
        return {"family": "salmonn2", **self.config.to_dict()}

    # The parts of `prepare` and `encode`, for training with auxiliary losses.

    def resize_frames(self, frames: np.ndarray) -> torch.Tensor:
        """uint8 (T, 3, H, W) -> uint8 (T, 3, S, S)."""
        return processing.resize_frames(frames, self.config.vision.image_size)

    def log_mel(self, waveform: np.ndarray) -> torch.Tensor:
        """float32 (samples,) -> float32 (mel bins, mel frames)."""
        return processing.log_mel(waveform, self.config)

    def vision_features(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, S, S) -> (N, P, vision width)."""
        pixels = processing.normalise_frames(frames.to(self.device), self.query_tokens.dtype)
        features: torch.Tensor = self.vision(pixels).last_hidden_state
        return features

    def align_visual(self, features: torch.Tensor) -> torch.Tensor:
        """(N, P, vision width) -> (N, V, D)."""
        tokens: torch.Tensor = self.visual_aligner(towers.merge_patches(features, self.config.vision.merge))
        return tokens

    def audio_features(
        self, mels: Sequence[torch.Tensor], num_windows: Sequence[int] | None = None
    ) -> list[torch.Tensor]:
        """(mel bins, mel frames) each -> (T_i, audio width) each, T_i in whole windows.

        Segments of equal length, of whichever clip, pass the encoder in one batch. `num_windows` cuts each output to
        its real length (None: as long as the mel).
        """
        audio = self.config.audio
        segments = [list(torch.split(mel, audio.segment_mel_frames, dim=1)) for mel in mels]
        for parts in segments:
            processing.check_segments(len(parts), audio)
        flat = [segment for parts in segments for segment in parts]
        encoded: list[torch.Tensor] = [torch.empty(0)] * len(flat)
        for length in {segment.shape[1] for segment in flat}:
            places = [place for place, segment in enumerate(flat) if segment.shape[1] == length]
            batch = torch.stack([flat[place] for place in places]).to(self.device, self.query_tokens.dtype)
            for place, output in zip(places, self.audio_encoder(batch).unbind(), strict=True):
                encoded[place] = output
        outputs = iter(encoded)
        joined = [torch.cat(list(itertools.islice(outputs, len(parts)))) for parts in segments]
        if num_windows is None:
            return joined
        return [clip[: count * audio.window_frames] for clip, count in zip(joined, num_windows, strict=True)]

    def align_audio(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(T_i, audio width) each -> (audio tokens, D) each: segment positions, windowed Q-Former, projection."""
        audio = self.config.audio
        lengths = [len(clip) for clip in features]
        if any(length % audio.window_frames for length in lengths):
            raise LayoutError(f"audio features must be whole windows of {audio.window_frames} frames, got {lengths}")
        sizes = [length // audio.window_frames * self.config.qformer.num_queries for length in lengths]
        if not sum(lengths):
            empty = self.query_tokens.new_zeros((0, self.config.decoder.hidden_size))
            return [empty for _ in lengths]
        segment = torch.cat([torch.arange(length) for length in lengths]) // audio.segment_frames
        frames = torch.cat(list(features)) + self.segment_embedding(segment.to(self.device))
        windows = frames.view(-1, audio.window_frames, audio.hidden_size)
        queries = self.query_tokens.expand(len(windows), -1, -1)
        hidden = self.qformer(query_embeds=queries, encoder_hidden_states=windows).last_hidden_state
        return list(torch.split(self.audio_projection(hidden).flatten(0, 1), sizes))

    def text_log_probs(self, token_ids: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """float32 (T - 1,) per text without media: log-probability of each token but the first."""
        lengths = [len(text) for text in token_ids]
        padded = torch.full((len(lengths), max(lengths)), self._special_ids[PAD])
        for row, text in enumerate(token_ids):
            padded[row, : len(text)] = torch.tensor(text)
        padded = padded.to(self.device)
        hidden = self.decoder.model(input_ids=padded, use_cache=False).last_hidden_state
        real = torch.arange(1, max(lengths), device=self.device) < torch.tensor(lengths, device=self.device)[:, None]
        logps = token_log_probs(self.language_decoder(), hidden[:, :-1][real], padded[:, 1:][real])
        return list(torch.split(logps, [length - 1 for length in lengths]))

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json`, `tokenizer.json` and `model.safetensors` (weights in `dtype`; None: as they are)."""
        write_folder(folder, self.config, self.tokenizer, self.state_dict(), dtype)

    # Internals.

    def language_decoder(self) -> Decoder:
        return Decoder(backbone=self.decoder.model, lm_head=self.decoder.lm_head)

    def _prompts_picture(self, prompts: Sequence[Prompt]) -> torch.Tensor | None:
        """(N, P, vision width) of all frames, None without any: in one batch, or clip by clip from the store."""
        if not prompts:
            return None
        if not self.stores("vision"):
            return self.vision_features(torch.cat([require_values(prompt.frames, "vision") for prompt in prompts]))
        parts = [self.trunk_output("vision", each, lambda one: (self.vision_features(one.frames),)) for each in prompts]
        return torch.cat([part for (part,) in parts])

    def _prompts_sound(self, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        """(T_i, audio width) of each prompt with sound: in one batch, or clip by clip from the store."""
        windows = [prompt.num_audio_tokens // self.config.qformer.num_queries for prompt in prompts]
        mels = [prompt.mel for prompt in prompts if prompt.mel is not None]
        if not self.stores("audio"):
            return self.audio_features([require_values(mel, "audio") for mel in mels], windows)
        # The same spectrogram may be cut to different lengths.
        details = [str(count) for count in windows]
        return [
            self.trunk_output("audio", each, self._sound_of_one, detail)[0]
            for each, detail in zip(prompts, details, strict=True)
        ]

    def _sound_of_one(self, prompt: Prompt) -> Outputs:
        assert prompt.mel is not None
        return tuple(self.audio_features([prompt.mel], [prompt.num_audio_tokens // self.config.qformer.num_queries]))

    def _num_windows(self, clip_id: str, mel: torch.Tensor, audio_seconds: float | None) -> int:
        audio = self.config.audio
        if mel.ndim != 2 or mel.shape[0] != audio.num_mel_bins or mel.shape[1] == 0:
            raise LayoutError(f"clip {clip_id!r}: mel must be ({audio.num_mel_bins}, frames), got {tuple(mel.shape)}")
        covered, rest = divmod(mel.shape[1], 2 * audio.window_frames)
        if rest or (audio.pad_segments and mel.shape[1] % audio.segment_mel_frames):
            unit = audio.segment_mel_frames if audio.pad_segments else 2 * audio.window_frames
            raise LayoutError(f"clip {clip_id!r}: {mel.shape[1]} mel frames are no multiple of {unit}; use log_mel")
        if audio_seconds is None:
            if audio.pad_segments:
                raise LayoutError(f"clip {clip_id!r}: a mel with padded segments needs audio_seconds, its real length")
            return covered
        count = processing.num_audio_windows(round(audio_seconds * SAMPLE_RATE), audio)
        if not 0 < count <= covered:
            raise LayoutError(
                f"clip {clip_id!r}: {audio_seconds} s of sound are {count} windows, the mel covers {covered}"
            )
        return count

    def _turns(self, instruction: str) -> tuple[list[int], list[int]]:
        """ChatML around the media: token ids before and after them."""
        start, end, newline = [self._special_ids[TURN_START]], [self.stop_id], self.encode_text("\n")
        system = []
        if self.config.system_prompt:
            text = self.encode_text(f"system\n{self.config.system_prompt}")
            system = [*start, *text, *end, *newline]
        before = [*system, *start, *self.encode_text("user\n")]
        after = [*newline, *self.encode_text(instruction), *end, *newline, *start, *self.encode_text("assistant\n")]
        return before, after

    def _interleave(
        self, prompts: Sequence[Prompt], visual_tokens: torch.Tensor | None, audio_tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put every feature at its placeholder: embeddings (B, L, D) and lengths (B,).

        Raises:
            LayoutError: placeholders, plan and features disagree in number.
        """
        lengths = torch.tensor([len(prompt.token_ids) for prompt in prompts], dtype=torch.long)
        size = int(lengths.max()) if prompts else 0
        ids = np.full((len(prompts), size), self._special_ids[PAD], dtype=np.int64)
        places: dict[int, list[np.ndarray]] = {VISUAL: [], AUDIO: []}
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt.token_ids)] = prompt.token_ids
            for stream, name in ((VISUAL, VIDEO_PAD), (AUDIO, AUDIO_PAD)):
                place = np.flatnonzero(ids[row] == self._special_ids[name])
                index = prompt.layout.index[prompt.layout.stream == stream]
                if len(place) != len(index):
                    raise LayoutError(
                        f"clip {prompt.clip_id!r}: {len(place)} {name} placeholders, the plan has {len(index)}"
                    )
                ordered = np.empty_like(place)
                ordered[index] = place
                places[stream].append(ordered + row * size)
        embeddings = self.decoder.model.embed_tokens(torch.from_numpy(ids).to(self.device))
        flat = embeddings.flatten(0, 1)
        for stream, tokens in ((VISUAL, visual_tokens), (AUDIO, audio_tokens)):
            place = np.concatenate(places[stream]) if prompts else np.zeros(0, dtype=np.int64)
            num_features = 0 if tokens is None else len(tokens)
            if len(place) != num_features:
                raise LayoutError(f"{num_features} features for {len(place)} placeholders of stream {stream}")
            if tokens is not None and num_features:
                flat = flat.index_copy(0, torch.from_numpy(place).to(self.device), tokens.to(flat.dtype))
        embeddings = flat.view_as(embeddings)
        if prompts and int(lengths.min()) < size:
            real = torch.arange(size) < lengths[:, None]
            embeddings = embeddings * real[..., None].to(self.device)
        return embeddings, lengths
