"""Qwen2.5-Omni (AVoCaDO) and Qwen3-Omni thinkers behind the four verbs.

    frames -> visual (+ deepstack in Qwen3-Omni) --\\
                                                    > interleave (TMRoPE) -> decoder
    sound -> audio_tower ---------------------------/

The weights and towers are transformers' own classes; what is ours is everything between a clip and the decoder: frame
sizes, spectrogram, token order, positions. The towers run clip by clip, so that a clip's features do not depend on what
else is in the batch.

Shapes: B prompts, L positions, D decoder width, N media tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from avocet.errors import LayoutError
from avocet.models import chatml, trunks
from avocet.models.base import DecoderModel
from avocet.models.clip_media import ClipMedia
from avocet.models.decoder import Decoder
from avocet.models.features import Outputs
from avocet.models.interface import Prefix, Prompt
from avocet.models.layout import AUDIO, VISUAL, TokenPlan
from avocet.models.loading import quiet_transformers
from avocet.models.patches import patchify, resize_frames
from avocet.models.qwen_omni import processing, prompts, towers
from avocet.models.qwen_omni.config import SETTINGS_FILE, Family, ReadingSettings, time_axis
from avocet.models.tmrope import position_drift_seconds, prompt_positions, tmrope
from avocet.models.trunks import Trunk, require_values
from avocet.records import SAMPLE_RATE, Clip, Sampling

_MIN_FRAMES = 4
_NOTICEABLE_DRIFT_SECONDS = 0.5


class QwenOmniModel(DecoderModel):
    """A `CaptionModel` around a transformers thinker; `checkpoint` loads one."""

    world = None
    adapter_root = "thinker."

    def __init__(self, thinker: Any, tokenizer: Any, family: Family, settings: ReadingSettings) -> None:
        super().__init__()
        self.thinker = thinker
        self.tokenizer = tokenizer
        self.family = family
        self.settings = settings
        self.sizes = towers.read_sizes(thinker.config)
        config = thinker.config
        self.axis = time_axis(family, config.position_id_per_seconds, getattr(config, "seconds_per_chunk", 2.0))
        self.ids = prompts.media_ids(config, tokenizer)
        self.stop_ids = chatml.stop_ids(tokenizer)

    # What callers need to know before the first verb.

    @property
    def decoder(self) -> nn.Module:
        """The language model, where LoRA goes."""
        module: nn.Module = towers.language_model(self.thinker)
        return module

    @property
    def device(self) -> torch.device:
        device: torch.device = self.language_decoder().embed_device
        return device

    @property
    def default_instruction(self) -> str:
        return self.settings.default_instruction

    @property
    def default_sampling(self) -> Sampling:
        return Sampling(max_new_tokens=self.settings.max_new_tokens)

    @property
    def layout_rule(self) -> str:
        return "tmrope" if self.settings.layout == "tmrope" else "tmrope_released"

    @property
    def clip_fps(self) -> float:
        return self.settings.fps

    @property
    def max_frames(self) -> int:
        return self.settings.max_frames

    @property
    def min_frames(self) -> int:
        """As in the released data loaders."""
        return min(_MIN_FRAMES, self.settings.max_frames)

    @property
    def max_pixels(self) -> int | None:
        """Twice what a frame is resized to at most: decoding larger costs memory and shows nothing more."""
        return 2 * self.settings.max_patch_tokens * self.sizes.factor**2

    # The four verbs.

    def read_clip(self, clip: Clip) -> ClipMedia:
        """Resize within the budget and compute the spectrogram."""
        warnings = list(clip.warnings)
        mel = self._sound(clip, warnings)
        frames = torch.zeros((0, 3, 0, 0), dtype=torch.uint8)
        if clip.num_frames:
            size = self._frame_size(clip.num_frames, *clip.frames.shape[2:])
            frames = resize_frames(clip.frames, size.height, size.width)
        num_samples = 0 if mel is None or clip.waveform is None else len(clip.waveform)
        return ClipMedia.of(clip, frames, clip.sample_times_seconds, mel, num_samples, tuple(warnings))

    def lay_out(self, media: ClipMedia, instruction: str) -> Prompt:
        warnings = list(media.warnings)
        num_audio_tokens = 0
        if media.mel is not None:
            num_audio_tokens = towers.num_audio_tokens(media.mel.shape[1], self.family, self.sizes)
        times, rows, columns = np.zeros(0), 0, 0
        facts: dict[str, Any] = {"max_video_tokens": self.settings.max_video_tokens}
        if len(media.frames):
            size = self._frame_size(len(media.frames), *media.frame_size)
            times = processing.patch_times(media.times_seconds)
            rows, columns = size.height // self.sizes.factor, size.width // self.sizes.factor
            facts |= {"tokens_per_patch": size.tokens_per_patch, "max_tokens_per_patch": size.budget_tokens}
            warnings += self._size_warnings(size)
        plan = tmrope(
            self.axis,
            times,
            rows,
            columns,
            num_audio_tokens,
            media.duration_seconds,
            assumed=self.settings.layout == "released",
        )
        drift = max(position_drift_seconds(plan, self.axis))
        if drift > _NOTICEABLE_DRIFT_SECONDS:
            warnings.append(f"the layout places picture and sound up to {drift:.1f} s apart (rule {self.layout_rule})")
        return self._prompt(media, instruction, plan, facts, tuple(warnings))

    def encode(self, prompts: Sequence[Prompt]) -> Prefix:
        """Towers and interleaving of a batch; differentiable when gradients are enabled."""
        decoder = self.language_decoder()
        lengths = torch.tensor([len(prompt.token_ids) for prompt in prompts], dtype=torch.long)
        size = int(lengths.max()) if prompts else 0
        ids = torch.full((len(prompts), size), self.stop_ids[-1])
        positions = torch.zeros((3, len(prompts), size), dtype=torch.float64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt.token_ids)] = torch.tensor(prompt.token_ids)
            if prompt.positions is None:
                raise LayoutError(f"clip {prompt.clip_id!r}: the prompt has no positions; it is of another model")
            positions[:, row, : len(prompt.token_ids)] = torch.from_numpy(prompt.positions)
        real = (torch.arange(size) < lengths[:, None]).to(decoder.embed_device)
        embeddings = decoder.embed(ids.to(decoder.embed_device)) * real[..., None]
        rows, deepstack = self._insert_media(prompts, embeddings)
        whole = torch.long if self.axis.whole_positions else torch.float32
        # Not after the largest: in training the answer goes on from the last token of the prompt, too.
        nexts = [positions[0, row, int(lengths[row]) - 1] + 1 for row in range(len(prompts))]
        return Prefix(
            clip_ids=tuple(prompt.clip_id for prompt in prompts),
            embeddings=torch.stack(rows) if rows else embeddings,
            lengths=lengths,
            positions=positions.to(embeddings.device, whole),
            next_positions=torch.tensor(nexts).to(whole),
            deepstack=deepstack,
        )

    def trunks(self) -> dict[str, Trunk]:
        core = towers.core_of(self.thinker)
        scale = f"{self.family.image_mean} {self.family.image_std}"
        return {
            "vision": Trunk(
                name="vision", module=core.visual, aligners=trunks.qwen_aligners(core.visual), reading=scale
            ),
            "audio": Trunk(name="audio", module=core.audio_tower, aligners=trunks.qwen_aligners(core.audio_tower)),
        }

    def reading_settings(self) -> dict[str, Any]:
        return {"family": self.family.name, **self.settings.to_dict(), **dataclasses.asdict(self.sizes)}

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the thinker (weights in `dtype`; None: as they are), the tokenizer and the reading settings."""
        folder = Path(folder)
        state = self.thinker.state_dict()
        if dtype is not None:
            state = {name: part.to(dtype) if part.is_floating_point() else part for name, part in state.items()}
        with quiet_transformers():
            self.thinker.save_pretrained(folder, state_dict=state)
            self.tokenizer.save_pretrained(folder)
        (folder / SETTINGS_FILE).write_text(self.settings.to_json_line() + "\n", encoding="utf-8")

    # Internals.

    def language_decoder(self) -> Decoder:
        return towers.decoder_of(self.thinker)

    def _sound(self, clip: Clip, warnings: list[str]) -> torch.Tensor | None:
        if clip.waveform is None or not len(clip.waveform):
            return None
        mel = processing.log_mel(clip.waveform, self.sizes.num_mel_bins, pad=self.family.pad_sound)
        if towers.num_audio_tokens(mel.shape[1], self.family, self.sizes) == 0:
            warnings.append(f"the sound of {len(clip.waveform) / SAMPLE_RATE:.3f} s is too short for an audio token")
            return None
        return mel

    def _frame_size(self, num_frames: int, height: int, width: int) -> processing.FrameSize:
        return processing.plan_size(height, width, num_frames, self.sizes.factor, self.settings)

    def _size_warnings(self, size: processing.FrameSize) -> list[str]:
        """What the total budget did to the frames."""
        if size.budget_tokens >= self.settings.max_patch_tokens:
            return []
        text = (
            f"frames shrunk to {size.width}x{size.height}: {size.num_patches} temporal patches share "
            f"{self.settings.max_video_tokens} visual tokens ({size.tokens_per_patch} each)"
        )
        if size.tokens_per_patch < self.settings.min_patch_tokens:
            text += f", under the {self.settings.min_patch_tokens} that the model was trained with"
        return [text]

    def _prompt(
        self,
        media: ClipMedia,
        instruction: str,
        plan: TokenPlan,
        facts: dict[str, Any],
        warnings: tuple[str, ...],
    ) -> Prompt:
        frames, mel = media.frames, media.mel
        is_image = media.is_image and len(frames) == 1 and mel is None
        system = self.family.system_prompt if self.settings.system_prompt is None else self.settings.system_prompt
        before, after = chatml.turns(self.tokenizer, system, instruction)
        opening, closing = prompts.markers(self.ids, has_picture=len(frames) > 0, has_sound=mel is not None)
        visual = self.ids.image if is_image else self.ids.video
        placeholders = np.where(plan.stream == VISUAL, visual, self.ids.audio).tolist()
        positions = prompt_positions(
            plan, len(before), len(after), len(opening), shared_markers=self.family.shared_markers
        )
        room = self.language_decoder().max_positions - positions.shape[1]
        if room < self.settings.max_new_tokens:
            text = f"the prompt of {positions.shape[1]} tokens leaves {max(room, 0)} for the caption"
            warnings = (*warnings, f"{text} (the decoder has {self.language_decoder().max_positions})")
        return Prompt(
            clip_id=media.clip_id,
            instruction=instruction,
            token_ids=(*before, *opening, *placeholders, *closing, *after),
            layout=plan,
            frames=frames,
            mel=mel,
            positions=positions,
            is_image=is_image,
            media=facts,
            warnings=warnings,
        )

    def _insert_media(
        self, prompts: Sequence[Prompt], embeddings: torch.Tensor
    ) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
        """Rows (L, D) of the embeddings with every feature at its placeholder, and the deepstack levels (B, L, D)."""
        rows: list[torch.Tensor] = []
        levels: list[tuple[torch.Tensor, ...]] = []
        for prompt, row in zip(prompts, embeddings, strict=True):
            tokens = {VISUAL: row[:0], AUDIO: row[:0]}
            deepstack: tuple[torch.Tensor, ...] = ()
            if len(prompt.frames):
                tokens[VISUAL], deepstack = self._visual_tokens(prompt)
            if prompt.mel is not None:
                tokens[AUDIO] = self._audio_tokens(prompt)
            places = {stream: self._places(prompt, stream, len(tokens[stream])) for stream in (VISUAL, AUDIO)}
            for stream, place in places.items():
                row = row.index_copy(0, place.to(row.device), tokens[stream].to(row.device, row.dtype))
            visual_place = places[VISUAL].to(row.device)
            zeros = torch.zeros_like(row)
            levels.append(tuple(zeros.index_copy(0, visual_place, level.to(row)) for level in deepstack))
            rows.append(row)
        return rows, _stack_levels(rows, levels)

    def _visual_tokens(self, prompt: Prompt) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """(V, D) and deepstack levels: through the feature store the tower runs up to its mergers, else as a whole."""
        if self.stores("vision"):
            trunk = self.trunk_output("vision", prompt, self._vision_trunk)
            return trunks.align_vision(towers.core_of(self.thinker).visual, trunk)
        return towers.vision_tokens(self.thinker, *self._patches(prompt))

    def _audio_tokens(self, prompt: Prompt) -> torch.Tensor:
        """(audio tokens, D), as `_visual_tokens`."""
        if self.stores("audio"):
            trunk = self.trunk_output("audio", prompt, self._audio_trunk)
            return trunks.align_audio(towers.core_of(self.thinker).audio_tower, trunk)
        return towers.audio_tokens(self.thinker, self._mel(prompt), prompt.num_audio_tokens, self.family)

    def _vision_trunk(self, prompt: Prompt) -> Outputs:
        return towers.vision_trunk(self.thinker, *self._patches(prompt))

    def _audio_trunk(self, prompt: Prompt) -> Outputs:
        return towers.audio_trunk(self.thinker, self._mel(prompt), self.family)

    def _mel(self, prompt: Prompt) -> torch.Tensor:
        assert prompt.mel is not None
        return require_values(prompt.mel, "audio").to(self.device)

    def _patches(self, prompt: Prompt) -> tuple[torch.Tensor, tuple[int, int, int]]:
        frames = require_values(prompt.frames, "vision").to(self.device)
        return patchify(frames, self.family.image_mean, self.family.image_std, self.sizes.patch, self.sizes.merge)

    def _places(self, prompt: Prompt, stream: int, num_features: int) -> torch.Tensor:
        """Where in the prompt the stream's features go, in the order of the features.

        Raises:
            LayoutError: placeholders, plan and features disagree in number.
        """
        wanted = (self.ids.audio,) if stream == AUDIO else (self.ids.image, self.ids.video)
        place = np.flatnonzero(np.isin(prompt.token_ids, wanted))
        index = prompt.layout.index[prompt.layout.stream == stream]
        if not len(place) == len(index) == num_features:
            name = "audio" if stream == AUDIO else "visual"
            raise LayoutError(
                f"clip {prompt.clip_id!r}: {len(place)} {name} placeholders, {len(index)} planned, "
                f"{num_features} features"
            )
        ordered = np.empty_like(place)
        ordered[index] = place
        return torch.from_numpy(ordered)


def _stack_levels(rows: list[torch.Tensor], levels: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """(L, D) per row and level -> (B, L, D) per level; rows without a picture add nothing."""
    depth = max((len(row_levels) for row_levels in levels), default=0)
    return tuple(
        torch.stack(
            [
                row_levels[level] if row_levels else torch.zeros_like(row)
                for row, row_levels in zip(rows, levels, strict=True)
            ]
        )
        for level in range(depth)
    )
