"""transformers' own path from a clip to a model's inputs, for the parity self-test.

Its video processors need torchvision, which must not be installed; a small stand-in gives the same patches. The
processor classes only accept their own parts, so the check is overridden here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, Qwen2_5OmniProcessor, Qwen3OmniMoeProcessor, WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from avocet.models.interface import Prompt
from avocet.models.loading import quiet_transformers
from avocet.models.patches import TEMPORAL_PATCH, patchify, resize_frames
from avocet.models.qwen_omni.config import QWEN25, Family
from avocet.models.qwen_omni.modeling import QwenOmniModel
from avocet.models.qwen_omni.towers import Sizes
from avocet.records import SAMPLE_RATE, Clip


class _VisionProcessor:
    """Stands for transformers' image and video processors."""

    temporal_patch_size = TEMPORAL_PATCH
    valid_kwargs = None

    def __init__(self, family: Family, sizes: Sizes, kind: str) -> None:
        self.family, self.sizes, self.kind = family, sizes, kind
        self.merge_size = sizes.merge
        self.model_input_names = {
            "images": ["pixel_values", "image_grid_thw"],
            "videos": ["pixel_values_videos", "video_grid_thw"],
        }[kind]

    def __call__(self, clips: Any = None, size: Any = None, **given: Any) -> BatchFeature:
        pixels, grids = [], []
        for clip in given[self.kind] if clips is None else clips:
            frames = torch.as_tensor(np.asarray(clip))
            frames = frames if frames.ndim == 4 else frames[None]  # an image
            height, width = smart_resize(
                frames.shape[2],
                frames.shape[3],
                factor=self.sizes.factor,
                min_pixels=size["shortest_edge"],
                max_pixels=size["longest_edge"],
            )
            resized = resize_frames(frames.numpy(), height, width)
            patches, grid = patchify(
                resized, self.family.image_mean, self.family.image_std, self.sizes.patch, self.sizes.merge
            )
            pixels.append(patches)
            grids.append(grid)
        names = self.model_input_names
        return BatchFeature({names[0]: torch.cat(pixels), names[1]: torch.tensor(grids)})

    def fetch_images(self, images: Any) -> Any:
        """Decoded already."""
        return images

    fetch_videos = fetch_images

    def to_dict(self) -> dict[str, Any]:
        return {}


class _Processor25(Qwen2_5OmniProcessor):
    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        return type(argument)


class _Processor3(Qwen3OmniMoeProcessor):
    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        return type(argument)


def reference_processor(model: QwenOmniModel) -> Any:
    """The processor class of the model's generation around its tokenizer."""
    kind: Any = _Processor25 if model.family is QWEN25 else _Processor3
    extractor: Any = WhisperFeatureExtractor
    return kind(
        image_processor=_VisionProcessor(model.family, model.sizes, "images"),
        video_processor=_VisionProcessor(model.family, model.sizes, "videos"),
        feature_extractor=extractor(
            feature_size=model.sizes.num_mel_bins, chunk_length=300, return_attention_mask=True
        ),
        tokenizer=model.tokenizer,
    )


def reference_text(model: QwenOmniModel, clip: Clip, instruction: str) -> str:
    """The chat text with one placeholder, as the chat templates of the checkpoints write it."""
    tokenizer = model.tokenizer
    if clip.source.is_image or clip.num_frames:
        middle = tokenizer.image_token if clip.source.is_image else tokenizer.video_token
        media = f"{tokenizer.vision_bos_token}{middle}{tokenizer.vision_eos_token}"
    else:
        media = f"{tokenizer.audio_bos_token}{tokenizer.audio_token}{tokenizer.audio_eos_token}"
    system = model.family.system_prompt
    turn = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{turn}<|im_start|>user\n{media}{instruction}<|im_end|>\n<|im_start|>assistant\n"


def reference_inputs(model: QwenOmniModel, clip: Clip, prompt: Prompt) -> dict[str, Any]:
    """What transformers' processor makes of the clip, ready for the thinker's forward.

    The frame size of the budget and the true frame rate are passed, which its defaults would get wrong.
    """
    factor = model.sizes.factor**2
    num_patches = max(1, math.ceil(clip.num_frames / TEMPORAL_PATCH))
    settings = model.settings
    most = min(settings.max_patch_tokens, settings.max_video_tokens / num_patches)
    size = {"shortest_edge": int(min(settings.min_patch_tokens, most) * factor), "longest_edge": int(most * factor)}
    arguments: dict[str, Any] = {"text": [reference_text(model, clip, prompt.instruction)], "padding": True}
    with_sound = clip.waveform is not None
    if with_sound:
        arguments |= {"audio": [clip.waveform], "audio_kwargs": {"sampling_rate": SAMPLE_RATE}}
    if clip.source.is_image:
        arguments |= {"images": [clip.frames[0]], "images_kwargs": {"size": size}}
    elif clip.num_frames:
        step = clip.sampling_step_seconds or 1.0
        arguments |= {"videos": [clip.frames], "size": size, "fps": 1 / step}
        if with_sound:
            arguments |= {"use_audio_in_video": True, "audio_from_video_indices": [0]}
    with quiet_transformers():
        inputs = dict(reference_processor(model)(return_tensors="pt", **arguments))
    inputs.pop("num_audio_tokens", None)
    if with_sound and clip.num_frames:
        inputs["use_audio_in_video"] = True
    return {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in inputs.items()}


def reference_positions(model: QwenOmniModel, inputs: dict[str, Any]) -> torch.Tensor:
    """(3, L) that transformers' model computes, on the CPU."""
    mask = inputs.get("feature_attention_mask")
    seconds = inputs.get("video_second_per_grid")
    positions, _ = model.thinker.get_rope_index(
        inputs["input_ids"],
        inputs.get("image_grid_thw"),
        inputs.get("video_grid_thw"),
        inputs["attention_mask"],
        bool(inputs.get("use_audio_in_video", False)),
        None if mask is None else mask.sum(-1),
        None if seconds is None else torch.as_tensor(seconds),
    )
    result: torch.Tensor = positions[:, 0].cpu()
    return result
