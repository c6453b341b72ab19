"""video-SALMONN 2+: Qwen2.5-VL given hearing by Whisper and a windowed Q-Former, behind the four verbs.

    frames -> visual (Qwen2.5-VL's tower) ---\\
                                              > grid by grid, two audio tokens per second -> decoder (3-axis positions)
    sound -> audio (Whisper, Q-Former, proj) -/

Towers and decoder are transformers' classes. The towers run clip by clip, so that a clip's features do not depend on
the rest of the batch. Layouts and positions are in `released_plus_layout`.

Shapes: G segments of sound, B prompts, L positions, D decoder width.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLTextModel,
)

from avocet.errors import ConfigError, LayoutError
from avocet.models import chatml, trunks
from avocet.models.attention import ATTENTION
from avocet.models.clip_media import ClipMedia
from avocet.models.decoder import Decoder
from avocet.models.features import Outputs
from avocet.models.interface import Prefix, Prompt
from avocet.models.layout import VISUAL
from avocet.models.patches import CLIP_MEAN, CLIP_STD, TEMPORAL_PATCH, patchify, resize_frames
from avocet.models.salmonn2.audio_branch import AudioBranch, segment_mels
from avocet.models.salmonn2.plus_config import PlusConfig, PlusLayout
from avocet.models.salmonn2.released_layout import AudioWindows, ReleasedPlan
from avocet.models.salmonn2.released_model import ReleasedModel
from avocet.models.salmonn2.released_plus_layout import (
    plus_frame_pixels,
    plus_grid_size,
    plus_layout,
    plus_seconds_per_grid,
)
from avocet.models.salmonn2.saving import write_model
from avocet.models.tmrope import prompt_positions
from avocet.models.trunks import Trunk, require_values
from avocet.records import Clip

_RULES: MappingProxyType[PlusLayout, str] = MappingProxyType(
    {"released": "released_generate", "train": "train", "corrected": "corrected"}
)
_FALLBACK_STOP = (151645, 151643)
"""<|im_end|> and <|endoftext|> of Qwen2.5, for a checkpoint that names neither and has no tokenizer."""


class CausalDecoder(nn.Module):
    """Backbone and output layer, named as in the other families so that LoRA finds them."""

    def __init__(self, config: Any, *, tied: bool) -> None:
        super().__init__()
        self.model = Qwen2_5_VLTextModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if tied:
            self.tie()

    def tie(self) -> None:
        """Make the output layer share the embeddings."""
        self.lm_head.weight = self.model.embed_tokens.weight


class PlusModel(ReleasedModel):
    """A `CaptionModel`; `plus_loading.load_plus` loads one."""

    def __init__(self, config: PlusConfig, tokenizer: Any = None, attention: str = ATTENTION) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.replaced: dict[str, torch.Tensor] = {}
        """The base's tensors of modules that an attached adapter replaced."""
        vision_config: Any = Qwen2_5_VLVisionConfig(**copy.deepcopy(config.vision))  # it changes what it is given
        text_config: Any = Qwen2_5_VLTextConfig(**copy.deepcopy(config.text))
        vision_config._attn_implementation = text_config._attn_implementation = attention
        self.visual = Qwen2_5_VisionTransformerPretrainedModel(vision_config)
        self.audio = AudioBranch(config.audio, config.qformer, text_config.hidden_size, with_norm=False, with_mlp=False)
        self.decoder = CausalDecoder(text_config, tied=config.tie_embeddings)
        if tokenizer is not None:
            self.stop_ids = chatml.stop_ids(tokenizer)
        else:
            named = config.text.get("eos_token_id")
            stops = named if isinstance(named, list) else [named]
            self.stop_ids = tuple(int(token) for token in stops if token is not None) or _FALLBACK_STOP

    # What callers need to know before the first verb.

    @property
    def device(self) -> torch.device:
        return self.audio.query_tokens.device

    @property
    def reading(self) -> PlusConfig:
        return self.config

    @property
    def layout_rule(self) -> str:
        return f"salmonn2_plus/{_RULES[self.config.layout]}"

    @property
    def min_frames(self) -> int:
        return self.config.min_frames

    @property
    def max_pixels(self) -> int | None:
        """Twice what a frame of the shortest clip is resized to at most."""
        return int(2 * plus_frame_pixels(self.config.min_frames, self.config.max_frames, self.config.frame_pixels))

    @property
    def windows(self) -> AudioWindows:
        """The Q-Former's windows."""
        seconds = self.config.audio.window_seconds
        return AudioWindows.from_seconds(seconds, seconds)

    # The four verbs.

    def read_clip(self, clip: Clip) -> ClipMedia:
        """Resize within the budget and compute spectrograms."""
        frames, _, _ = self.resize(clip.frames)
        mel, num_samples = None, 0
        if clip.waveform is not None and len(clip.waveform):
            mel, num_samples = (
                torch.cat(list(segment_mels(clip.waveform, self.config.audio)), dim=1),
                len(clip.waveform),
            )
        return ClipMedia.of(clip, frames, clip.sample_times_seconds, mel, num_samples, clip.warnings)

    def lay_out(self, media: ClipMedia, instruction: str) -> Prompt:
        rows, columns = (side // self.config.factor for side in media.frames.shape[2:])
        seconds_per_grid = 1.0
        if len(media.frames):
            seconds_per_grid = plus_seconds_per_grid(len(media.frames), media.duration_seconds)
        released = plus_layout(
            _RULES[self.config.layout],
            media.times_seconds[::TEMPORAL_PATCH],
            rows,
            columns,
            media.num_samples,
            seconds_per_grid,
            media.duration_seconds,
            windows=self.windows,
        )
        return self._prompt(media, instruction, released)

    def encode(self, prompts: Sequence[Prompt]) -> Prefix:
        """Towers and interleaving of a batch; differentiable when gradients are enabled."""
        rows = []
        for prompt in prompts:
            visual, audio = None, None
            if len(prompt.frames):
                visual = self._visual_tokens(prompt)
            if prompt.mel is not None:
                audio = self.audio.align(self.trunk_output("audio", prompt, self._audio_trunk)[0])
                audio = audio if prompt.audio_source is None else audio[torch.from_numpy(prompt.audio_source)]
            rows.append(self.embed(prompt.token_ids, visual, audio))
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        size = int(lengths.max()) if rows else 0
        positions = torch.zeros((3, len(rows), size), dtype=torch.long)
        nexts = []
        for row, prompt in enumerate(prompts):
            if prompt.positions is None:
                raise LayoutError(f"clip {prompt.clip_id!r}: the prompt has no positions; it is of another model")
            positions[:, row, : lengths[row]] = torch.from_numpy(prompt.positions).long()
            # Text goes on after the last token, which is text; what stands before it may reach further on an axis.
            nexts.append(int(prompt.positions[0, -1]) + 1)
        width = self.decoder.lm_head.in_features
        empty = torch.zeros((0, 0, width), device=self.device)
        return Prefix(
            clip_ids=tuple(prompt.clip_id for prompt in prompts),
            embeddings=nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else empty,
            lengths=lengths,
            positions=positions.to(self.device),
            next_positions=torch.tensor(nexts, dtype=torch.long),
        )

    def language_decoder(self) -> Decoder:
        return Decoder(backbone=self.decoder.model, lm_head=self.decoder.lm_head, num_axes=3)

    def trunks(self) -> dict[str, Trunk]:
        dtype = str(self.audio.query_tokens.dtype)
        return {
            "vision": Trunk(
                name="vision", module=self.visual, aligners=trunks.qwen_aligners(self.visual), reading=f"CLIP {dtype}"
            ),
            "audio": Trunk(name="audio", module=self.audio.encoder, reading=dtype),
        }

    def reading_settings(self) -> dict[str, Any]:
        return {"family": "salmonn2_plus", **self.config.to_dict()}

    # The parts of `prepare` and `encode`.

    def resize(self, frames: np.ndarray) -> tuple[torch.Tensor, int, int]:
        """uint8 (T, 3, H, W) -> the same within the budget, and rows and columns of visual tokens of a grid."""
        if not len(frames):
            return torch.zeros((0, 3, 0, 0), dtype=torch.uint8), 0, 0
        factor = self.config.factor
        budget = plus_frame_pixels(len(frames), self.config.max_frames, self.config.frame_pixels)
        height, width = frames.shape[2:]
        rows, columns = plus_grid_size(height, width, budget, token_pixels=factor)
        return resize_frames(frames, rows * factor, columns * factor), rows, columns

    def patches(self, frames: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """uint8 (T, 3, H, W) at the model's size -> normalised patches and their grid (t, h, w)."""
        vision = self.config.vision
        sizes = (int(vision["patch_size"]), int(vision["spatial_merge_size"]))
        return patchify(frames.to(self.device), CLIP_MEAN, CLIP_STD, *sizes)

    def vision_features(self, patches: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:
        """(patches, values) and their grids (n, 3) -> visual tokens (V, D) in the order of the picture."""
        output = self.visual(patches.to(self.audio.query_tokens), grid_thw=grid_thw.to(self.device))
        tokens: torch.Tensor = output.pooler_output
        return tokens

    def audio_tokens(self, mels: torch.Tensor) -> torch.Tensor:
        """(mel bins, G, mel frames) -> audio tokens (G * windows, D), those of silence at the end included."""
        return self.audio.align(self.audio.encode(mels.transpose(0, 1).contiguous()))

    def embed(self, token_ids: Sequence[int], visual: torch.Tensor | None, audio: torch.Tensor | None) -> torch.Tensor:
        """(L, D): embeddings of the ids with the features at their placeholders, in order.

        Raises:
            LayoutError: placeholders and features disagree in number.
        """
        ids = torch.tensor(list(token_ids), device=self.device)
        embeddings = self.language_decoder().embed(ids)
        config = self.config
        streams = (
            ("visual", torch.isin(ids, torch.tensor([config.video_token_id, config.image_token_id]).to(ids)), visual),
            ("audio", ids == config.audio_token_id, audio),
        )
        for name, place, tokens in streams:
            count = 0 if tokens is None else len(tokens)
            if int(place.sum()) != count:
                raise LayoutError(f"{count} {name} tokens for {int(place.sum())} placeholders")
            if tokens is not None and count:
                embeddings = embeddings.index_copy(0, place.nonzero().squeeze(-1), tokens.to(embeddings))
        return embeddings

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config, tokenizer and weights in Avocet's layout, into a folder without weights."""
        state = self.state_dict()
        if self.config.tie_embeddings:
            del state["decoder.lm_head.weight"]
        write_model(folder, self.config.to_dict(), self.tokenizer, state, dtype)

    # Internals.

    def _visual_tokens(self, prompt: Prompt) -> torch.Tensor:
        """(V, D): through the feature store the tower runs up to its merger, else as a whole."""
        if self.stores("vision"):
            return trunks.align_vision(self.visual, self.trunk_output("vision", prompt, self._vision_trunk))[0]
        patches, grid = self.patches(require_values(prompt.frames, "vision"))
        return self.vision_features(patches, torch.tensor([grid]))

    def _vision_trunk(self, prompt: Prompt) -> Outputs:
        patches, grid = self.patches(prompt.frames)
        pixels, grid_thw = patches.to(self.audio.query_tokens), torch.tensor([grid], device=self.device)
        return trunks.vision_trunk(self.visual, lambda: self.visual(pixels, grid_thw=grid_thw))

    def _audio_trunk(self, prompt: Prompt) -> Outputs:
        assert prompt.mel is not None
        segments = prompt.mel.view(len(prompt.mel), -1, self.config.audio.segment_mel_frames)
        return (self.audio.encode(segments.transpose(0, 1).contiguous()),)

    def _prompt(self, clip: ClipMedia, instruction: str, released: ReleasedPlan) -> Prompt:
        if self.tokenizer is None:
            raise ConfigError("this checkpoint has no tokenizer files, so it cannot read an instruction")
        config, plan = self.config, released.plan
        before, after = chatml.turns(self.tokenizer, config.system_prompt, "\n" + instruction)
        is_image = clip.is_image and len(clip.frames) == 1
        visual = config.image_token_id if is_image else config.video_token_id
        placeholders = np.where(plan.stream == VISUAL, visual, config.audio_token_id).tolist()
        ids = (*before, config.vision_start_token_id, *placeholders, config.vision_end_token_id, *after)
        media: dict[str, Any] = {"frame_pixels": config.frame_pixels, "audio_tokens_shown": plan.num_audio_tokens}
        warnings = [*clip.warnings, *released.warnings, *config.notes]
        room = self.language_decoder().max_positions - len(ids)
        if room < config.max_new_tokens:
            warnings.append(
                f"the prompt of {len(ids)} tokens leaves {max(room, 0)} for the caption (the decoder has "
                f"{self.language_decoder().max_positions})"
            )
        return Prompt(
            clip_id=clip.clip_id,
            instruction=instruction,
            token_ids=ids,
            layout=plan,
            frames=clip.frames,
            mel=clip.mel,
            positions=prompt_positions(plan, len(before), len(after), 1, shared_markers=False),
            audio_source=released.audio_source if plan.num_audio_tokens else None,
            is_image=is_image,
            media=media,
            warnings=tuple(warnings),
        )

    def add_notes(self, notes: Sequence[str]) -> None:
        """Warnings that every caption of this model carries from now on, also after saving and loading."""
        self.config = dataclasses.replace(self.config, notes=tuple(dict.fromkeys((*self.config.notes, *notes))))
