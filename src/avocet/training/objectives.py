"""Losses of the supervised stages: CTC on the audio encoder, labels on the vision encoder, answer tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avocet.models.interface import Prefix, Prompt
from avocet.theatre import world
from avocet.training.batches import Example
from avocet.training.config import StageConfig
from avocet.training.labels import PATCH_LABEL_SIZES, SOUND_SYMBOLS
from avocet.training.model import TrainableModel

LossAndMetrics = tuple[Tensor, dict[str, float]]


class AuxiliaryHeads(nn.Module):
    """Read-outs that exist during training only; they are never part of a released model.

    `symbols`: audio encoder frame -> CTC alphabet. `token_symbols`: aligned audio token -> the same.
    `patches`: vision encoder patch -> every label column.
    `motions`: aligned visual tokens of two neighbouring frames -> which motions go on (multi-label).
    """

    def __init__(self, audio_width: int, vision_width: int, pair_width: int, token_width: int) -> None:
        super().__init__()
        self.token_symbols = nn.Linear(token_width, len(SOUND_SYMBOLS))
        self.symbols = nn.Linear(audio_width, len(SOUND_SYMBOLS))
        self.patches = nn.Linear(vision_width, sum(PATCH_LABEL_SIZES))
        self.motions = nn.Sequential(nn.Linear(pair_width, 192), nn.GELU(), nn.Linear(192, len(world.MOTIONS)))


class TrainingModule(nn.Module):
    """The model and its auxiliary heads under one roof, so that checkpoints hold both."""

    def __init__(self, model: nn.Module, heads: AuxiliaryHeads) -> None:
        super().__init__()
        self.model = model
        self.heads = heads


def ctc_loss(head: nn.Module, features: Sequence[Tensor], symbols: Sequence[list[int]]) -> LossAndMetrics:
    """CTC loss per symbol over clips in which something is heard.

    Args:
        head: from features to logits over `SOUND_SYMBOLS`.
        features: audio encoder output (or aligned tokens) per clip, (T_i, width).
        symbols: indices into `SOUND_SYMBOLS` per clip; clips without any are left out.
    """
    pairs = [(feature, target) for feature, target in zip(features, symbols, strict=True) if target]
    if not pairs:
        return torch.zeros(()), {}
    logits = [head(feature).float() for feature, _ in pairs]
    log_probs = nn.utils.rnn.pad_sequence(logits).log_softmax(-1)  # (T, B, symbols)
    lengths = torch.tensor([len(feature) for feature, _ in pairs])
    targets = torch.tensor([symbol for _, target in pairs for symbol in target])
    target_lengths = torch.tensor([len(target) for _, target in pairs])
    loss = F.ctc_loss(log_probs, targets, lengths, target_lengths, reduction="sum", zero_infinity=True)
    loss = loss / target_lengths.sum()
    return loss, {"ctc": loss.item()}


def ctc_error(heads: AuxiliaryHeads, features: Sequence[Tensor], symbols: Sequence[list[int]]) -> float:
    """Edit distance of the greedy CTC decoding to the truth, per true symbol."""
    from rapidfuzz.distance import Levenshtein

    errors, total = 0, 0
    for feature, target in zip(features, symbols, strict=True):
        best = heads.symbols(feature).argmax(-1).tolist()
        decoded = [s for i, s in enumerate(best) if s != 0 and (i == 0 or s != best[i - 1])]
        errors += Levenshtein.distance(decoded, target)
        total += len(target)
    return errors / max(total, 1)


def patch_loss(heads: AuxiliaryHeads, features: Tensor, labels: Tensor) -> LossAndMetrics:
    """Cross-entropy of all label columns.

    Most patches show nothing: labelled patches and empty ones are averaged apart, the empty ones at weight 0.3.

    Args:
        features: (N, P, width); labels: (N, P, columns) integer.
    """
    logits = heads.patches(features).float().split(list(PATCH_LABEL_SIZES), dim=-1)
    loss = torch.zeros(())
    metrics = {}
    for column, (logit, name) in enumerate(zip(logits, ("colour", "shape", "word", "scene"), strict=True)):
        target = labels[..., column].long()
        losses = F.cross_entropy(logit.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
        shown = target > 0
        if shown.any():
            loss = loss + losses[shown].mean()
            metrics[f"{name}_accuracy"] = (logit.argmax(-1)[shown] == target[shown]).float().mean().item()
        if (~shown).any():
            loss = loss + 0.3 * losses[~shown].mean()
    return loss, metrics


def motion_loss(heads: AuxiliaryHeads, tokens: Tensor, pairs: Tensor) -> LossAndMetrics:
    """Multi-label loss of the motions between neighbouring frames.

    Args:
        tokens: aligned visual tokens of several clips of equal length, (B, T, V, width).
        pairs: (B, T) bit masks, the last entry of each clip is meaningless.
    """
    both = torch.cat([tokens[:, :-1].flatten(2), tokens[:, 1:].flatten(2)], dim=-1)
    logits = heads.motions(both).float()
    bits = torch.arange(len(world.MOTIONS))
    targets = (pairs[:, :-1, None].long() >> bits) & 1
    loss = F.binary_cross_entropy_with_logits(logits, targets.float(), pos_weight=torch.tensor(4.0))
    moving = targets.sum(-1) == 1
    accuracy = (logits.argmax(-1) == targets.argmax(-1))[moving].float().mean().item() if moving.any() else float("nan")
    return 4 * loss, {"motion_accuracy": accuracy}


def encoder_ctc_step(model: TrainableModel, heads: AuxiliaryHeads, examples: list[Example]) -> LossAndMetrics:
    """Objective `ctc`: the audio encoder alone."""
    heard = [example for example in examples if example.mel is not None]
    mels = [to_tensor(e.mel.T, np.float32) for e in heard if e.mel is not None]
    features = model.audio_features(mels)
    loss, metrics = ctc_loss(heads.symbols, features, [example.symbols for example in heard])
    return loss, metrics


def frame_labels_step(model: TrainableModel, heads: AuxiliaryHeads, examples: list[Example]) -> LossAndMetrics:
    """Objective `frame_labels`: the vision encoder and the visual aligner."""
    clips = [example.clip for example in examples]
    frames = torch.from_numpy(np.concatenate([clip.frames for clip in clips]))
    features = model.vision_features(frames)
    loss, metrics = patch_loss(heads, features, torch.from_numpy(np.concatenate([clip.patches for clip in clips])))
    tokens = model.align_visual(features)
    tokens = tokens.view(len(clips), -1, *tokens.shape[1:])
    moving, motion_metrics = motion_loss(heads, tokens, torch.from_numpy(np.stack([clip.pairs for clip in clips])))
    return loss + moving, {**metrics, **motion_metrics}


def token_step(
    model: TrainableModel,
    heads: AuxiliaryHeads,
    examples: list[Example],
    config: StageConfig,
) -> LossAndMetrics:
    """Objective `tokens`: cross-entropy per answer token, plus weighted auxiliary losses on the encoders.

    The loss is the mean over all answer tokens of the batch (not the mean of per-clip means).
    """
    spoken = [example for example in examples if example.kind != "text"]
    texts = [model.encode_text(example.target, end=True) for example in examples if example.kind == "text"]
    log_probs = model.text_log_probs(texts) if texts else []
    metrics: dict[str, float] = {}
    auxiliary = torch.zeros(())
    if spoken:
        prompts = [_prompt(model, example) for example in spoken]
        prefix = model.encode(prompts)
        scored = model.score(prefix, [[model.encode_text(example.target, end=True)] for example in spoken])
        log_probs = [*log_probs, *(completions[0] for completions in scored)]
        loss, found = _heard_loss(model, heads, config, prefix, spoken)
        auxiliary = auxiliary + loss
        metrics.update(found)
        seen = [example for example in spoken if example.frames is not None]
        if config.frame_weight and seen:
            labels = np.concatenate(
                [e.clip.patches * (0 if e.kind == "caption_black" else 1) for e in seen if e.frames is not None]
            )
            features_seen = prefix.features["vision"]
            assert isinstance(features_seen, Tensor)
            loss, found = patch_loss(heads, features_seen, torch.from_numpy(labels))
            auxiliary = auxiliary + config.frame_weight * loss
            metrics.update(found)
    tokens = torch.cat([value.float() for value in log_probs])
    loss = -tokens.mean()
    metrics["tokens_loss"] = loss.item()
    metrics["num_tokens"] = float(len(tokens))
    return loss + auxiliary, metrics


def _heard_loss(
    model: TrainableModel, heads: AuxiliaryHeads, config: StageConfig, prefix: Prefix, examples: list[Example]
) -> LossAndMetrics:
    """Weighted CTC losses on the audio encoder's frames and on the audio tokens."""
    features = [feature for feature in prefix.features["audio"] if len(feature)]
    symbols = [example.symbols for example in examples if example.mel is not None]
    total, metrics = torch.zeros(()), {}
    if config.ctc_weight:
        loss, found = ctc_loss(heads.symbols, features, symbols)
        total = total + config.ctc_weight * loss
        metrics.update(found)
    if config.token_ctc_weight:
        loss, found = ctc_loss(heads.token_symbols, model.align_audio(features), symbols)
        total = total + config.token_ctc_weight * loss
        metrics.update({f"token_{name}": value for name, value in found.items()})
    return total, metrics


def to_tensor(array: np.ndarray, dtype: type[np.generic]) -> Tensor:
    """A tensor with a copy of `array`: views of mapped files are read-only, which PyTorch does not support."""
    return torch.from_numpy(np.array(array, dtype=dtype, order="C"))


def _prompt(model: TrainableModel, example: Example) -> Prompt:
    mel = None if example.mel is None else to_tensor(example.mel.T, np.float32)
    frames = None if example.frames is None else to_tensor(example.frames, np.uint8)
    return model.prompt_from_tensors(
        clip_id=str(example.clip.seed),
        instruction=example.instruction,
        frames=frames,
        frame_times_seconds=example.clip.frame_times_seconds if frames is not None else np.zeros(0),
        mel=mel,
        duration_seconds=example.clip.duration_seconds,
    )
