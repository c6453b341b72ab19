from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from avocet.models import attention


class Layer(nn.Module):
    def __init__(self, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.num_key_value_groups = 2


def tensors(dtype, num_queries=7, num_keys=7):
    torch.manual_seed(0)
    shapes = ((2, 4, num_queries, 8), (2, 2, num_keys, 8), (2, 2, num_keys, 8))
    return [torch.randn(shape).to(dtype) for shape in shapes]


@pytest.mark.parametrize("causal", [True, False])
def test_short_half_precision_attention_is_the_same_attention(causal):
    query, key, value = tensors(torch.bfloat16)
    ours, _ = attention.attention_forward(Layer(causal), query, key, value, None, scaling=0.3)
    exact, _ = sdpa_attention_forward(Layer(causal), query.float(), key.float(), value.float(), None, scaling=0.3)
    torch.testing.assert_close(ours.float(), exact, atol=2e-2, rtol=2e-2)
    assert ours.dtype == torch.bfloat16


def test_masks_and_one_query(monkeypatch):
    query, key, value = tensors(torch.bfloat16, num_queries=1)
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., :4] = False
    for used in (mask, None):
        ours, _ = attention.attention_forward(Layer(True), query, key, value, used)
        exact, _ = sdpa_attention_forward(Layer(True), query.float(), key.float(), value.float(), used)
        torch.testing.assert_close(ours.float(), exact, atol=2e-2, rtol=2e-2)


def test_autocast_counts_as_half_precision(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the fused kernel was called")

    monkeypatch.setattr(attention, "sdpa_attention_forward", refuse)
    query, key, value = tensors(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention.attention_forward(Layer(True), query, key, value, None)
    with pytest.raises(AssertionError, match="fused"):
        attention.attention_forward(Layer(True), query, key, value, None)
    monkeypatch.setattr(attention, "_MAX_SCORES", 10)
    with pytest.raises(AssertionError, match="fused"):
        attention.attention_forward(Layer(True), query.bfloat16(), key.bfloat16(), value.bfloat16(), None)
