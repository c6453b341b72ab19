"""Shared-prefix scoring: one differentiable forward over a prompt and all its completions, with exact results.

    row        [ prompt 1 | completion 1 | completion 2 | prompt 2 | completion 1 | ... ]     no padding anywhere
    positions    0 ... L-1  L, L+1, ...    L, L+1, ...    0 ...
    attention  a prompt token sees its prompt up to itself; a completion token sees its whole prompt and its own
               completion up to itself

Separate forwards of K completions of n tokens read K (L + n) tokens, this reads L + K n: at L : n = 20 : 1, 2.7 times
fewer for K = 3 and 6 times for K = 8, in the backward pass too. Nothing of it is an approximation: rotary attention
depends on positions, and everything else in a decoder acts on each token alone.

Kernel "split" runs the prompt through the fused causal kernel and the completions against it under a small mask, on
every device; kernel "flex" gives the whole row to FlexAttention (CUDA; it has no backward pass on CPUs). See
`avocet.models.packed_row`.

Dropout is drawn per token of the row: with dropout, the completions of a prompt share the prompt's draw.

Shapes: B prompts, L prompt tokens, T tokens of a completion, M targets, D width.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol, get_args
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from avocet.errors import ConfigError
from avocet.models.decoder import Decoder
from avocet.models.interface import Prefix
from avocet.models.lora import lora_disabled
from avocet.models.packed_row import Kernel, Tokens, checkpointed_layers, pack_row
from avocet.models.scoring import score_completions, token_log_probs

Method = Literal["auto", "packed", "cached", "plain"]

_log = logging.getLogger(__name__)


def score_shared(
    decoder: Decoder,
    prefix: Prefix,
    completions: Sequence[Sequence[Tokens]],
    *,
    method: Method = "auto",
    kernel: Kernel = "split",
    chunk: int | None = None,
) -> list[list[torch.Tensor]]:
    """Per prompt, per completion: float32 (T,) log-probabilities, differentiable.

    Methods:
        plain: one forward for each completion; the yardstick.
        packed: one forward for everything; see the head of this module.
        cached: each prompt once into a key-value cache, which its completions read; the cache is copied for each
            completion. Not under gradient checkpointing, where transformers drops the cache.
        auto: prompts with one completion each (nothing to share) in one padded batch; else packed, once `self_check`
            has found it right for this decoder, device, dtype and checkpointing (the first call checks); else plain.

    Args:
        decoder: the language model.
        prefix: the encoded prompts, of any lengths.
        completions: per prompt, any number of token lists; an empty one scores as an empty tensor.
        method: how; the results are the same.
        kernel: of "packed" and "auto": "split" runs everywhere, "flex" needs CUDA.
        chunk: the most tokens whose logits exist at once, see `scoring.token_log_probs`; None: all.

    Raises:
        ConfigError: the number of lists is not the number of prompts, an unknown method or kernel, or "cached" under
            gradient checkpointing.
    """
    _check_count(prefix, completions)
    _check_choice("method", method, get_args(Method))
    _check_choice("kernel", kernel, get_args(Kernel))
    if method == "auto":
        if max((len(texts) for texts in completions), default=0) <= 1:
            return score_completions(decoder, prefix, completions, chunk=chunk)
        method = _verdict(decoder, prefix, completions, kernel).method
    if method == "plain":
        return _score_plain(decoder, prefix, completions, chunk)
    if method == "cached":
        if checkpointing_active(decoder):
            raise ConfigError(
                'method "cached" does not work under gradient checkpointing, where transformers drops the key-value '
                'cache; use "packed" or "auto"'
            )
        return score_completions(decoder, prefix, completions, chunk=chunk)
    return _score_packed(decoder, prefix, completions, kernel, chunk)


class AdaptedModel(Protocol):
    """A model whose language model can be run without its adapter (`avocet.models.base.DecoderModel`)."""

    @property
    def decoder(self) -> nn.Module: ...

    def language_decoder(self) -> Decoder: ...

    def evaluating(self) -> AbstractContextManager[None]: ...


def reference_log_probs(
    model: AdaptedModel,
    prefix: Prefix,
    completions: Sequence[Sequence[Tokens]],
    *,
    method: Method = "auto",
    kernel: Kernel = "split",
    chunk: int | None = None,
) -> list[list[torch.Tensor]]:
    """`score_shared` of the model without its LoRA adapter: no gradients, no dropout.

    The reference of preference training as long as the prefix too is the reference's: where an aligner trains, encode
    it at the start of the round and keep these numbers.
    """
    with model.evaluating(), lora_disabled(model):
        return score_shared(
            model.language_decoder(), prefix.detach(), completions, method=method, kernel=kernel, chunk=chunk
        )


def completion_states(
    decoder: Decoder, prefix: Prefix, completions: Sequence[Sequence[Tokens]], *, kernel: Kernel = "split"
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Packed forward without output layer: for losses that never hold all logits at once.

    Returns:
        Hidden states (M, D) that predict the tokens of all completions in order, those tokens (M,), and the number of
        tokens of each completion. The completions of all prompts follow each other.

    Raises:
        ConfigError: the number of lists is not the number of prompts, or no completion has a token.
    """
    _check_count(prefix, completions)
    _check_choice("kernel", kernel, get_args(Kernel))
    if not any(len(text) for texts in completions for text in texts):
        raise ConfigError("completion_states needs a completion of at least one token, got none")
    row = pack_row(decoder, prefix, completions, kernel)
    return row.run(decoder), row.targets, [len(text) for texts in completions for text in texts]


def checkpointing_active(decoder: Decoder) -> bool:
    """Whether the decoder's layers are computed anew in the backward pass."""
    return any(layer.training for layer in checkpointed_layers(decoder.backbone))


# The self-check.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """Packed scoring compared with separate forwards on a few tokens."""

    passed: bool
    value_error: float
    """Root mean square of the differences of the log-probabilities, over 1 + that of the log-probabilities."""
    gradient_error: float | None
    """The same of the gradient at the prompt's embeddings, relative; None where gradients are off or out of reach."""
    tolerance: float
    """Of the value error; the gradient error may be ten times as large."""
    problem: str = ""
    """The exception, if the packed forward raised one."""

    @property
    def method(self) -> Method:
        return "packed" if self.passed else "plain"

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        gradient = "not compared" if self.gradient_error is None else f"{self.gradient_error:.2g}"
        return f"value error {self.value_error:.2g} (at most {self.tolerance:.2g}), gradient error {gradient}"


_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Rounding is off by less; in float32 by 1e-7, and completions that see each other by 5e-4 even in a tiny decoder of
random weights."""
_TF32_TOLERANCE = 1e-3
"""Of float32 weights multiplied with 10 bits, which a program may allow on CUDA."""

_CHECK_SIZES = (6, 4, 1)
_verdicts: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], SelfCheck]] = WeakKeyDictionary()


def self_check(
    decoder: Decoder,
    prefix: Prefix,
    completions: Sequence[Sequence[Tokens]],
    *,
    kernel: Kernel = "split",
    num_tokens: int = 48,
) -> SelfCheck:
    """Compare packed scoring with separate forwards, values and gradients; "auto" goes by the result from then on.

    On the first `num_tokens` tokens of at most two of the prompts, with three completions made of the given tokens;
    without dropout, with gradient checkpointing where it is on. A failure is logged as a warning. Where ranks must
    forward together (FSDP), call this on all of them before the first step.
    """
    few, texts = _check_inputs(prefix, completions, num_tokens)
    with _without_dropout(decoder.backbone):
        check = _compare(decoder, few, texts, kernel, _tolerance(prefix))
    if not check.passed:
        _log.warning(
            "Shared-prefix scoring is not exact for %s (kernel %s): %s. Every completion is now scored by a forward "
            "of its own, which is right and several times slower.",
            type(decoder.backbone).__name__,
            kernel,
            check,
        )
    _verdicts.setdefault(decoder.backbone, {})[_verdict_key(decoder, prefix, kernel)] = check
    return check


def _compare(
    decoder: Decoder, prefix: Prefix, completions: list[list[list[int]]], kernel: Kernel, tolerance: float
) -> SelfCheck:
    expected, expected_gradient = _check_run(decoder, prefix, completions, "plain", kernel)
    try:
        found, found_gradient = _check_run(decoder, prefix, completions, "packed", kernel)
    except Exception as error:  # a kernel that this machine lacks raises whatever it likes
        problem = f"the packed forward failed with {type(error).__name__}: {error}"
        return SelfCheck(passed=False, value_error=math.inf, gradient_error=None, tolerance=tolerance, problem=problem)
    value_error = float(_rms(found - expected) / (1 + _rms(expected)))
    gradient_error = None
    if found_gradient is not None and expected_gradient is not None:
        gradient_error = float(_rms(found_gradient - expected_gradient) / _rms(expected_gradient).clamp(min=1e-12))
    return SelfCheck(
        # Written so that NaN fails.
        passed=value_error <= tolerance and (gradient_error is None or gradient_error <= 10 * tolerance),
        value_error=value_error,
        gradient_error=gradient_error,
        tolerance=tolerance,
    )


def _verdict(decoder: Decoder, prefix: Prefix, completions: Sequence[Sequence[Tokens]], kernel: Kernel) -> SelfCheck:
    known = _verdicts.get(decoder.backbone, {}).get(_verdict_key(decoder, prefix, kernel))
    return self_check(decoder, prefix, completions, kernel=kernel) if known is None else known


def _verdict_key(decoder: Decoder, prefix: Prefix, kernel: Kernel) -> tuple[Any, ...]:
    return (
        kernel,
        prefix.embeddings.device.type,
        _working_dtype(prefix),
        checkpointing_active(decoder),
        torch.is_grad_enabled(),
    )


def _working_dtype(prefix: Prefix) -> torch.dtype:
    device = prefix.embeddings.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else prefix.embeddings.dtype


def _tolerance(prefix: Prefix) -> float:
    dtype = _working_dtype(prefix)
    backends: Any = torch.backends
    matmul = backends.cuda.matmul
    # Once a new name is set, PyTorch raises on the old one.
    has_names = hasattr(matmul, "fp32_precision")
    tf32 = "tf32" in (matmul.fp32_precision, backends.fp32_precision) if has_names else matmul.allow_tf32
    if dtype == torch.float32 and prefix.embeddings.device.type == "cuda" and tf32:
        return _TF32_TOLERANCE
    return _TOLERANCE[dtype]


def _check_inputs(
    prefix: Prefix, completions: Sequence[Sequence[Tokens]], num_tokens: int
) -> tuple[Prefix, list[list[list[int]]]]:
    """The first tokens of at most two prompts, of unequal length, and three completions for each."""
    few = prefix.select(range(min(len(prefix), 2)))
    lengths = few.lengths.clamp(max=num_tokens)
    if len(few) == 2 and int(lengths[0]) == int(lengths[1]):
        lengths[1] = max(int(lengths[1]) - 7, 1)
    size = int(lengths.max())
    real = (torch.arange(size) < lengths[:, None]).to(few.embeddings.device)
    positions = next_positions = None
    if few.positions is not None:
        positions = few.positions[:, :, :size]
        next_positions = torch.stack([positions[0, row, int(end) - 1] + 1 for row, end in enumerate(lengths)])
    cut = Prefix(
        clip_ids=few.clip_ids,
        embeddings=few.embeddings.detach()[:, :size] * real[..., None],
        lengths=lengths,
        positions=positions,
        next_positions=next_positions,
        deepstack=tuple(level.detach()[:, :size] * real[..., None] for level in few.deepstack),
    )
    pool = [token for texts in completions for text in texts for token in text][: sum(_CHECK_SIZES)] or [0]
    # The longest first, so that a completion that saw the one before would be noticed.
    repeated = iter(pool * sum(_CHECK_SIZES) * len(cut))
    return cut, [[[next(repeated) for _ in range(size)] for size in _CHECK_SIZES] for _ in cut.clip_ids]


def _check_run(
    decoder: Decoder, prefix: Prefix, completions: list[list[list[int]]], method: Method, kernel: Kernel
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities of all tokens, and the gradient of a weighted sum of them at the embeddings."""
    embeddings = prefix.embeddings
    graph = torch.is_grad_enabled() and not embeddings.is_inference() and not _reentrant(decoder.backbone)
    embeddings = embeddings.clone().requires_grad_(graph)
    prefix = dataclasses.replace(prefix, embeddings=embeddings)
    scores = score_shared(decoder, prefix, completions, method=method, kernel=kernel)
    flat = torch.cat([score for texts in scores for score in texts])
    if not graph:
        return flat.detach(), None
    weight = torch.linspace(1.0, 2.0, len(flat), device=flat.device)
    (gradient,) = torch.autograd.grad((flat * weight).sum(), embeddings)
    return flat.detach(), gradient.float()


def _reentrant(backbone: nn.Module) -> bool:
    """Whether layers are checkpointed in the old way, which cannot give the gradient at an input alone."""
    return any(
        layer.training and getattr(layer._gradient_checkpointing_func, "keywords", {}).get("use_reentrant", True)
        for layer in checkpointed_layers(backbone)
    )


@contextmanager
def _without_dropout(backbone: nn.Module) -> Iterator[None]:
    """Evaluation mode for everything but the layers themselves, whose training mode switches checkpointing."""
    modes = [(module, module.training) for module in backbone.modules()]
    for module, _ in modes:
        if not isinstance(module, GradientCheckpointingLayer):
            module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _rms(values: torch.Tensor) -> torch.Tensor:
    return values.float().square().mean().sqrt()


# The three methods.


def _score_plain(
    decoder: Decoder, prefix: Prefix, completions: Sequence[Sequence[Tokens]], chunk: int | None
) -> list[list[torch.Tensor]]:
    return [
        [score_completions(decoder, prefix.select([row]), [[text]], chunk=chunk)[0][0] for text in texts]
        for row, texts in enumerate(completions)
    ]


def _score_packed(
    decoder: Decoder, prefix: Prefix, completions: Sequence[Sequence[Tokens]], kernel: Kernel, chunk: int | None
) -> list[list[torch.Tensor]]:
    if not any(len(text) for texts in completions for text in texts):
        empty = prefix.embeddings.flatten()[:0].float()
        return [[empty for _ in texts] for texts in completions]
    hidden, targets, sizes = completion_states(decoder, prefix, completions, kernel=kernel)
    scores = iter(torch.split(token_log_probs(decoder, hidden, targets, chunk), sizes))
    return [[next(scores) for _ in texts] for texts in completions]


def _check_count(prefix: Prefix, completions: Sequence[Sequence[Tokens]]) -> None:
    if len(completions) != len(prefix):
        raise ConfigError(f"score got completions for {len(completions)} prompts, the prefix holds {len(prefix)}")


def _check_choice(name: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        raise ConfigError(f"{name} {given!r} is unknown; choose one of {', '.join(allowed)}")
