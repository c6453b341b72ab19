"""An attention function for transformers models: the fastest exact one for the device at hand.

PyTorch's fused kernel is right on GPUs and for float32. On CPUs its bfloat16 kernel is several times slower than two
matrix products when sequences are short: 192 x 5 heads x 36 positions take 65 ms forward and backward against 6 ms
(2 cores, AVX-512 bf16). Importing this module registers the function under `ATTENTION`.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "avocet"
"""Name for a config's `attn_implementation`."""

_MAX_SCORES = 512 * 512
"""Above this many scores per head the fused kernel wins again, and saves the memory of the scores."""


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """(B, heads, Q, d), (B, kv heads, K, d) twice, bool mask (B, 1, Q, K) or None -> (B, Q, heads, d)."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    short = num_queries * num_keys <= _MAX_SCORES and query.device.type == "cpu"
    # Rotary positions turn queries into float32; the fused kernel would cast them back under autocast.
    half = query.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
    if not (short and half) or dropout > 0:
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
        return output
    causal = is_causal if is_causal is not None else bool(getattr(module, "is_causal", True))
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif causal and num_queries > 1:
        future = torch.ones(num_queries, num_keys, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return (weights @ value).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attention_forward)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
