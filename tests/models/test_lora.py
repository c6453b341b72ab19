from __future__ import annotations

import pytest
import torch

from avocet.errors import ConfigError
from avocet.models.lora import add_lora, lora_disabled, lora_parameters, merge_lora


@pytest.fixture
def score(model, make_prefix):
    prefix = make_prefix((2, 1.0)).detach()
    tokens = model.encode_text("a red circle slides", end=True)
    return lambda: model.score(prefix, [[tokens]])[0][0].detach()


def randomise(model):
    torch.manual_seed(1)
    for parameter in lora_parameters(model):
        torch.nn.init.normal_(parameter, std=0.2)


def test_a_fresh_adapter_changes_nothing(model, score):
    before = score()
    parameters = add_lora(model, rank=4, alpha=8)
    torch.testing.assert_close(score(), before, atol=0, rtol=0)
    # 2 layers of 7 linear layers, an A and a B each.
    assert len(parameters) == 28
    assert {id(p) for p in parameters} == {id(p) for p in model.decoder.parameters() if p.requires_grad}
    # What is outside of the decoder stays trainable.
    assert model.audio_projection.weight.requires_grad
    assert model.vision.post_layernorm.weight.requires_grad


def test_merged_is_what_the_adapter_was(model, score):
    add_lora(model, rank=4, alpha=8)
    before = score()
    randomise(model)
    adapted = score()
    assert not torch.allclose(adapted, before, atol=1e-2)
    keys_before = {name for name in model.state_dict() if "lora" not in name}
    merge_lora(model)
    torch.testing.assert_close(score(), adapted, atol=1e-4, rtol=1e-4)
    assert not lora_parameters(model)
    assert {name.replace(".base_layer", "") for name in keys_before} == set(model.state_dict())


def test_merge_by_hand(model):
    weight = model.decoder.model.layers[0].self_attn.q_proj.weight.detach().clone()
    add_lora(model, rank=4, alpha=8, target_modules=["q_proj"])
    randomise(model)
    layer = model.decoder.model.layers[0].self_attn.q_proj
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    merge_lora(model)
    # Scale = alpha / rank = 2.
    torch.testing.assert_close(model.decoder.model.layers[0].self_attn.q_proj.weight, weight + 2.0 * delta)


def test_switched_off_it_is_the_model_before(model, score):
    before = score()
    add_lora(model, rank=4, alpha=8)
    randomise(model)
    adapted = score()
    with lora_disabled(model):
        torch.testing.assert_close(score(), before, atol=0, rtol=0)
    torch.testing.assert_close(score(), adapted, atol=0, rtol=0)


def test_round_after_round(model, score):
    for _ in range(2):
        before = score()
        add_lora(model, rank=2, alpha=4)
        torch.testing.assert_close(score(), before, atol=0, rtol=0)
        randomise(model)
        merge_lora(model)


def test_gradients_reach_the_adapter_only(model, make_prefix):
    parameters = add_lora(model, rank=4, alpha=8)
    randomise(model)
    model.score(make_prefix((2, 1.0)).detach(), [[[5, 6, 7]]])[0][0].sum().backward()
    assert all(parameter.grad is not None for parameter in parameters)
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if ".lora_" not in name)


def test_refusals(model):
    with pytest.raises(ConfigError, match="no adapter to merge"):
        merge_lora(model)
    with pytest.raises(ConfigError, match="rank must be >= 1, got 0"):
        add_lora(model, rank=0, alpha=1)
    with pytest.raises(ConfigError, match=r"no decoder layer named qkv; there are: \['down_proj'"):
        add_lora(model, rank=1, alpha=1, target_modules=["qkv"])
    with pytest.raises(ConfigError, match="none given"):
        add_lora(model, rank=1, alpha=1, target_modules=[])
    add_lora(model, rank=1, alpha=1)
    with pytest.raises(ConfigError, match="already has an adapter"):
        add_lora(model, rank=1, alpha=1)
