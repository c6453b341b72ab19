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

from avocet.models.decoder import Decoder
from avocet.models.interface import Prefix, Prompt
from avocet.models.scoring import token_log_probs
from avocet.records import SAMPLE_RATE, Clip, SourceFacts
from avocet.training.finetune.losses import target_states
from avocet.training.finetune.parts import decoder_layers


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PairTokens:
    """Two answers to one prompt, the first better than the second."""

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    reference_chosen: float = 0.0
    """Summed log-probability under the reference: the model as the stage began."""
    reference_rejected: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GroupTokens:
    """Answers that the policy itself sampled for one prompt, and what each was worth (GRPO)."""

    completions: tuple[tuple[int, ...], ...]
    advantages: tuple[float, ...]
    reference: tuple[torch.Tensor, ...] | None
    """float32 (T,) of each completion: log-probabilities under the reference; None: there is no KL term."""
    old: tuple[torch.Tensor, ...] | None = None
    """The same under the policy that sampled; None: that is the policy of this very pass."""
    sampled: tuple[torch.Tensor | None, ...] | None = None
    """The same as the engine that sampled gave them, where it did."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One example, ready for the model."""

    index: int
    """In the stage's data; -1 for a filler."""
    task: str
    prompt: Prompt
    target: tuple[int, ...]
    """Token ids of the answer and the token that ends it; of a pair the ground truth, () for none."""
    pair: PairTokens | None = None
    is_guide: bool = False
    """Whether it is a ground truth that guides pairs of other clips."""
    group: GroupTokens | None = None

    @property
    def num_tokens(self) -> int:
        """Prompt and answers together."""
        answers = len(self.target)
        if self.pair is not None:
            answers += len(self.pair.chosen) + len(self.pair.rejected)
        if self.group is not None:
            answers = sum(map(len, self.group.completions))
        return len(self.prompt.token_ids) + answers


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One thing that is summed over items and divided by a count over all of the step."""

    name: str
    weight: float
    """Of its mean in the loss; 0 for what is only watched."""


class Objective(Protocol):
    """What a stage minimises: the weighted sum of its columns' means."""

    @property
    def columns(self) -> Sequence[Column]: ...

    def counts(self, item: Item) -> Sequence[int]:
        """By how much an item raises each column's divisor."""

    def module(self, model: nn.Module, loss_chunk: int) -> FineTuneModule:
        """The model with the columns as `forward`: MicroBatch -> float64 (B, columns)."""


class Supervised:
    """Cross-entropy per target token."""

    columns = (Column(name="loss", weight=1.0),)

    def counts(self, item: Item) -> Sequence[int]:
        return (len(item.target),)

    def module(self, model: nn.Module, loss_chunk: int) -> FineTuneModule:
        return FineTuneModule(model, loss_chunk)


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
        self.loss_chunk = loss_chunk
        layers = decoder_layers(backbone_of(model))
        in_layers = {id(parameter) for layer in layers for parameter in layer.parameters()}
        self._maybe_unused = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and id(parameter) not in in_layers
        ]

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """float64 (B, 1): negative log-likelihood of each item's target, summed over its tokens."""
        model: Any = self.model
        decoder: Decoder = model.language_decoder()
        prefix = self.encode(batch)
        targets = [item.target for item in batch.items]
        hidden, tokens = target_states(decoder, prefix, targets)
        log_probs = token_log_probs(decoder, hidden, tokens, self.loss_chunk)
        rows = torch.tensor([row for row, target in enumerate(targets) for _ in target], device=log_probs.device)
        zeros = torch.zeros(len(targets), 1, dtype=torch.float64, device=log_probs.device)
        return zeros.index_add(0, rows, -log_probs.double()[:, None])

    def encode(self, batch: MicroBatch) -> Prefix:
        """The prompts as the decoder reads them, with a graph to every trained parameter outside of its layers.

        The zero of `touch` is added here and not to the loss: FSDP2 reduces the gradients of a layer when those of its
        input are there, so on all processes the input of the first layer must have some, or none may.
        """
        model: Any = self.model
        prefix: Prefix = model.encode([item.prompt for item in batch.items])
        zero = self.touch()
        if not isinstance(zero, torch.Tensor):
            return prefix
        embeddings = prefix.embeddings + zero.to(prefix.embeddings)
        return dataclasses.replace(prefix, embeddings=embeddings)

    def touch(self) -> torch.Tensor | float:
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
