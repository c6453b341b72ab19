"""The part of a step that runs inside DDP, FSDP2 or ZeRO: prompts -> encode -> target log-probabilities -> sums.

Everything that reads a weight is in one `forward`, since that is where these engines hook in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from avocet.models.interface import Prefix, Prompt
from avocet.records import SAMPLE_RATE, Clip, SourceFacts
from avocet.training.finetune.losses import LanguageDecoder, chunked_token_log_probs, target_states
from avocet.training.finetune.parts import decoder_layers


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One example, ready for the model."""

    index: int
    """In the stage's data; -1 for a filler."""
    task: str
    prompt: Prompt
    target: tuple[int, ...]
    """Token ids of the answer and the token that ends it."""

    @property
    def num_tokens(self) -> int:
        """Prompt and target together."""
        return len(self.prompt.token_ids) + len(self.target)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatch:
    """What passes the model at once on one process."""

    items: tuple[Item, ...]
    is_filler: bool = False
    """Only there so that all processes make equally many passes; it counts nothing."""

    @property
    def num_targets(self) -> int:
        """Target tokens that count."""
        return 0 if self.is_filler else sum(len(item.target) for item in self.items)


class FineTunable(Protocol):
    """What fine-tuning needs of a model beside the four verbs (and that it is an `nn.Module`)."""

    @property
    def stop_ids(self) -> tuple[int, ...]: ...

    @property
    def clip_fps(self) -> float: ...

    @property
    def default_instruction(self) -> str: ...

    def language_decoder(self) -> Any: ...

    def prepare(self, clip: Clip, instruction: str) -> Prompt: ...

    def encode(self, prompts: Sequence[Prompt]) -> Prefix: ...

    def encode_text(self, text: str, *, end: bool = False) -> list[int]: ...


class FineTuneModule(nn.Module):
    """A model with its loss as `forward`."""

    def __init__(self, model: nn.Module, loss_chunk: int) -> None:
        super().__init__()
        self.model = model
        self._loss_chunk = loss_chunk
        layers = decoder_layers(backbone_of(model))
        in_layers = {id(parameter) for layer in layers for parameter in layer.parameters()}
        self._maybe_unused = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and id(parameter) not in in_layers
        ]

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """float64 (B,): negative log-likelihood of each item's target, summed over its tokens."""
        model: Any = self.model
        decoder: LanguageDecoder = model.language_decoder()
        prefix = model.encode([item.prompt for item in batch.items])
        targets = [item.target for item in batch.items]
        hidden, tokens = target_states(decoder, prefix, targets)
        log_probs = chunked_token_log_probs(decoder, hidden, tokens, self._loss_chunk)
        rows = torch.tensor([row for row, target in enumerate(targets) for _ in target], device=log_probs.device)
        zeros = torch.zeros(len(targets), dtype=torch.float64, device=log_probs.device)
        return zeros.index_add(0, rows, -log_probs.double()) + self._touch()

    def _touch(self) -> torch.Tensor | float:
        """Zero, with a graph to every trained parameter outside of the decoder's layers.

        A batch without sound does not run the audio aligner. Its gradient then is zero and not missing, so that all
        processes reduce the same gradients, and one process does what many do.
        """
        if not torch.is_grad_enabled():
            return 0.0
        parameters = [self.model.get_parameter(name) for name in self._maybe_unused]
        # ZeRO-3 keeps a share of each, which must not be read outside of the module that owns it.
        whole = [parameter for parameter in parameters if not hasattr(parameter, "ds_id")]
        if not whole:
            return 0.0
        return torch.stack([parameter.reshape(-1)[0].float() * 0.0 for parameter in whole]).sum()


def backbone_of(model: Any) -> nn.Module:
    """The decoder without its output layer."""
    backbone: nn.Module = model.language_decoder().backbone
    return backbone


def filler(model: FineTunable) -> MicroBatch:
    """The shortest thing that any model can read: black frames with silence, answered by nothing."""
    frames = 4
    step = 1 / model.clip_fps
    clip = Clip(
        id="filler",
        frames=np.zeros((frames, 3, 56, 56), np.uint8),
        frame_times_seconds=np.arange(frames) * step,
        waveform=np.zeros(round(frames * step * SAMPLE_RATE), np.float32),
        start_seconds=0.0,
        duration_seconds=frames * step,
        audio_status="silent",
        source=SourceFacts(path="filler", container="memory", duration_seconds=frames * step),
        sampling_step_seconds=step,
    )
    item = Item(index=-1, task="", prompt=model.prepare(clip, model.default_instruction), target=(model.stop_ids[0],))
    return MicroBatch(items=(item,), is_filler=True)
