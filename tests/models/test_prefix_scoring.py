"""Shared-prefix scoring against separate forwards, for the decoder of every model family.

The yardstick (`separate`) is written here: one forward without cache, mask or padding per completion, and a softmax.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2Config, Qwen2ForCausalLM
from v1_models import build, tiny_config

from avocet.errors import ConfigError
from avocet.models import packed_row
from avocet.models import prefix as prefix_module
from avocet.models.base import DecoderModel
from avocet.models.decoder import Decoder
from avocet.models.interface import Prefix
from avocet.models.lora import add_lora, lora_parameters
from avocet.models.prefix import (
    checkpointing_active,
    completion_states,
    reference_log_probs,
    score_shared,
    self_check,
)
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.models.salmonn2.tiny import tiny_plus
from avocet.models.scoring import score_completions
from avocet.records import Clip

FAMILIES = ("salmonn2", "v1", "plus", "qwen2.5-omni", "qwen3-omni")
TEXTS = [
    [[11, 12, 13, 14, 15], [16, 11], [13, 9, 12, 9, 10, 11, 14]],
    [[12], [], [14, 15, 16, 10]],
    [[15, 15, 9]],
]
"""Unequal completions, one of one token, an empty one, and a prompt with one completion."""


@pytest.fixture(params=FAMILIES)
def any_model(request: pytest.FixtureRequest, tokenizer: Any) -> DecoderModel:
    """A tiny model of each family; the first has the architecture of nano, that is of the paper."""
    name = request.param
    if name == "salmonn2":
        model: DecoderModel = request.getfixturevalue("model")
    elif name == "v1":
        model = build(tiny_config(len(tokenizer)), tokenizer)
    elif name == "plus":
        model = tiny_plus()
    else:
        model = tiny_model(name)
    return model.eval()


@pytest.fixture
def clips(make_clip: Callable[..., Clip]) -> list[Clip]:
    """With sound, without, and sound alone is longest: prompts of three lengths."""
    return [
        make_clip("sound", 4, 1.0, seed=1),
        make_clip("silent", 2, None, seed=2),
        make_clip("long", 6, 3.0, seed=3),
    ]


def encode(model: DecoderModel, clips: list[Clip]) -> Prefix:
    coder: Any = model
    return coder.encode([model.prepare(clip, "Describe the video.") for clip in clips])


def separate(model: DecoderModel, prefix: Prefix, completions: list[list[list[int]]]) -> list[list[torch.Tensor]]:
    """[prompt, completion] alone through the bare decoder, every position through the output layer."""
    decoder = model.language_decoder()
    scores: list[list[torch.Tensor]] = []
    for row, texts in enumerate(completions):
        length = int(prefix.lengths[row])
        scores.append([])
        for text in texts:
            ids = torch.tensor(text, dtype=torch.long)
            inputs = torch.cat([prefix.embeddings[row, :length], decoder.embed(ids)])[None]
            positions = None
            if prefix.positions is not None and prefix.next_positions is not None:
                after = prefix.next_positions[row] + torch.arange(len(text))
                positions = torch.cat([prefix.positions[:, row, :length], after.expand(3, -1)], dim=1)[:, None]
            levels = tuple(F.pad(level[row : row + 1, :length], (0, 0, 0, len(text))) for level in prefix.deepstack)
            hidden, _ = decoder.run(inputs, positions=positions, deepstack=levels)
            logps = decoder.logits(hidden)[0].log_softmax(-1)
            scores[-1].append(logps[length - 1 : length - 1 + len(text)].gather(-1, ids[:, None]).squeeze(-1))
    return scores


def flat(scores: list[list[torch.Tensor]]) -> torch.Tensor:
    return torch.cat([score for texts in scores for score in texts])


def randomise_adapter(model: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def gradients(model: DecoderModel, scores: list[list[torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Of a weighted sum, so that no two tokens count the same, by parameter (those that it reaches)."""
    model.zero_grad()
    values = flat(scores)
    (values * torch.linspace(1.0, 2.0, len(values))).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, atol=1e-5 * largest, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def enable_checkpointing(model: Any, **settings: Any) -> None:
    """In training mode, as the training engine does."""
    backbone = model.language_decoder().backbone
    enable = getattr(backbone, "activation_checkpointing_enable", None) or backbone.gradient_checkpointing_enable
    enable(settings or None)
    model.train()


@pytest.mark.parametrize("method", ["auto", "packed", "cached", "plain"])
def test_values_are_those_of_separate_forwards(any_model, clips, method):
    prefix = encode(any_model, clips)
    assert len(set(prefix.lengths.tolist())) == 3
    with torch.no_grad():
        found = score_shared(any_model.language_decoder(), prefix, TEXTS, method=method)
        expected = separate(any_model, prefix, TEXTS)
    assert [[len(score) for score in texts] for texts in found] == [[len(text) for text in texts] for texts in TEXTS]
    assert all(score.dtype == torch.float32 for texts in found for score in texts)
    torch.testing.assert_close(flat(found), flat(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_gradients_are_those_of_separate_forwards(any_model, clips, lora, checkpointing):
    """Of every trainable parameter: adapter or decoder, and through the prompt's embeddings aligners and towers."""
    if lora:
        add_lora(any_model, rank=4, alpha=8)
        randomise_adapter(any_model)
    expected = gradients(any_model, separate(any_model, encode(any_model, clips), TEXTS))
    if checkpointing:
        enable_checkpointing(any_model)
        assert checkpointing_active(any_model.language_decoder())
    scores = score_shared(any_model.language_decoder(), encode(any_model, clips), TEXTS, method="packed")
    assert_same_gradients(gradients(any_model, scores), expected)
    if lora:
        assert {name for name in expected if "lora_" in name}
    assert {name for name in expected if "decoder" not in name and "language_model" not in name}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_both_ways_of_checkpointing(model, make_prefix, use_reentrant):
    texts = TEXTS[:2]
    sizes = ((3, 1.0), (1, None))
    expected = gradients(model, separate(model, make_prefix(*sizes), texts))
    enable_checkpointing(model, use_reentrant=use_reentrant)
    assert_same_gradients(gradients(model, model.score(make_prefix(*sizes), texts)), expected)


def test_cached_gradients(any_model, clips):
    expected = gradients(any_model, separate(any_model, encode(any_model, clips), TEXTS))
    scores = score_shared(any_model.language_decoder(), encode(any_model, clips), TEXTS, method="cached")
    assert_same_gradients(gradients(any_model, scores), expected)


def test_completions_do_not_see_each_other(any_model, clips):
    prefix = encode(any_model, clips)
    changed = [[[11, 12, 13, 14, 15], [9, 13], [13, 9, 12, 9, 10, 11, 14]], *TEXTS[1:]]
    with torch.no_grad():
        before = score_shared(any_model.language_decoder(), prefix, TEXTS, method="packed")
        after = score_shared(any_model.language_decoder(), prefix, changed, method="packed")
    for row, texts in enumerate(before):
        for k, score in enumerate(texts):
            if (row, k) == (0, 1):
                assert (score - after[row][k]).abs().max() > 1e-3
            else:
                torch.testing.assert_close(after[row][k], score, atol=1e-6, rtol=0)


def test_bfloat16(any_model, clips):
    half = any_model.to(torch.bfloat16)
    prefix = encode(half, clips)
    with torch.no_grad():
        found = score_shared(half.language_decoder(), prefix, TEXTS, method="packed")
        expected = separate(half, prefix, TEXTS)
    difference = flat(found) - flat(expected)
    # Logits of up to tens with 8 bits: what a token is off by is small beside what the tokens differ by.
    assert float(difference.square().mean().sqrt()) < 0.03 * (1 + float(flat(expected).square().mean().sqrt()))
    assert float(difference.abs().max()) < 1.0
    assert self_check(half.language_decoder(), prefix, TEXTS).passed
    assert self_check(half.language_decoder(), prefix, TEXTS, num_tokens=500).passed


def test_bfloat16_gradients(model, make_prefix):
    """Under autocast, as training runs: as far from float32 as separate forwards are."""
    exact = gradients(model, separate(model, make_prefix((3, 1.0)), TEXTS[:1]))
    found = []
    for method in ("packed", "plain"):
        with torch.autocast("cpu", torch.bfloat16):
            prefix = make_prefix((3, 1.0))
            scores = score_shared(model.language_decoder(), prefix, TEXTS[:1], method=method)
        found.append(gradients(model, scores))
    norm = torch.cat([gradient.flatten() for gradient in exact.values()]).norm()
    errors = [
        float(torch.cat([(half[name] - gradient).flatten() for name, gradient in exact.items()]).norm() / norm)
        for half in found
    ]
    assert errors[0] < 0.1
    assert errors[0] < 1.5 * errors[1]


def test_one_forward_of_exactly_the_real_tokens(model, make_prefix):
    prefix = make_prefix((3, 1.0), (1, None))
    self_check(model.language_decoder(), prefix, [[[5]], [[5]]])
    shapes: list[tuple[int, ...]] = []
    hook = model.decoder.model.layers[0].register_forward_hook(lambda m, args, out: shapes.append(args[0].shape[:2]))
    model.score(prefix, [[[5, 6, 7], [8, 9], []], [[5], [6]]])
    hook.remove()
    # The last token of a completion need not be read: 2 + 1 + 0 of the first prompt's, none of the second's.
    assert [tuple(shape) for shape in shapes] == [(1, int(prefix.lengths.sum()) + 3)]


def test_only_targets_pass_the_output_layer(model, make_prefix):
    prefix = make_prefix((3, 1.0), (1, None))
    rows: list[int] = []
    hook = model.decoder.lm_head.register_forward_hook(lambda m, args, out: rows.append(args[0].shape[0]))
    score_shared(model.language_decoder(), prefix, TEXTS[:2], method="packed")
    hook.remove()
    assert rows == [5 + 2 + 7 + 1 + 0 + 4]


def test_states_for_losses_in_chunks(model, make_prefix):
    prefix = make_prefix((3, 1.0), (1, None))
    decoder = model.language_decoder()
    hidden, targets, sizes = completion_states(decoder, prefix, TEXTS[:2])
    assert sizes == [5, 2, 7, 1, 0, 4]
    assert targets.tolist() == [token for texts in TEXTS[:2] for text in texts for token in text]
    logps = torch.cat(
        [
            -F.cross_entropy(decoder.logits(part[0]), part[1], reduction="none")
            for part in zip(hidden.split(4), targets.split(4), strict=True)
        ]
    )
    torch.testing.assert_close(logps, flat(separate(model, prefix, TEXTS[:2])), atol=1e-5, rtol=1e-5)


def test_nothing_to_score(model, make_prefix):
    prefix = make_prefix((1, None), (2, 0.4))
    decoder = model.language_decoder()
    for method in ("auto", "packed", "cached", "plain"):
        found = score_shared(decoder, prefix, [[[], []], []], method=method)
        assert [[len(score) for score in texts] for texts in found] == [[0, 0], []]
    assert score_shared(decoder, prefix, [[[5], []], []], method="packed")[0][0].shape == (1,)
    assert score_shared(decoder, prefix.select([]), []) == []


def test_refusals(model, make_prefix):
    prefix = make_prefix((1, None))
    decoder = model.language_decoder()
    with pytest.raises(ConfigError, match="completions for 2 prompts, the prefix holds 1"):
        score_shared(decoder, prefix, [[[1]], [[2]]])
    with pytest.raises(ConfigError, match="method 'magic' is unknown; choose one of auto, packed, cached, plain"):
        score_shared(decoder, prefix, [[[1]]], method="magic")
    with pytest.raises(ConfigError, match="kernel 'magic' is unknown; choose one of split, flex"):
        score_shared(decoder, prefix, [[[1]]], kernel="magic")
    with pytest.raises(ConfigError, match="completion_states needs a completion of at least one token, got none"):
        completion_states(decoder, prefix, [[[], []]])


@pytest.mark.parametrize("chunk", [0, -1])
def test_chunks_of_no_tokens_are_refused(model, make_prefix, chunk):
    with pytest.raises(ConfigError, match=f"chunk must be >= 1 tokens or None, got {chunk}"):
        score_shared(model.language_decoder(), make_prefix((1, None)), [[[5, 6], [7]]], chunk=chunk)


def test_the_cache_is_refused_under_checkpointing(any_model, clips):
    """There transformers drops it, and completions would be scored as if there were no prompt."""
    prefix = encode(any_model, clips)
    enable_checkpointing(any_model)
    with pytest.raises(ConfigError, match='"cached" does not work under gradient checkpointing'):
        score_shared(any_model.language_decoder(), prefix, TEXTS, method="cached")
    any_model.eval()
    score_shared(any_model.language_decoder(), prefix, TEXTS, method="cached")


def test_the_old_way_refuses_a_dropped_cache(model, make_prefix):
    prefix = make_prefix((2, 1.0))
    enable_checkpointing(model)
    with pytest.raises(ConfigError, match="kept no keys and values of the prompt, as under gradient checkpointing"):
        score_completions(model.language_decoder(), prefix, [[[5, 6], [7, 8]]])


def test_checkpointed_layers_run_again_in_the_backward_pass(model, make_prefix):
    """And every run of a layer, the second too, attends to the packed layout; afterwards all is as it was."""
    prefix = make_prefix((2, 1.0)).detach()
    enable_checkpointing(model)
    self_check(model.language_decoder(), prefix, TEXTS[:1])
    config = model.decoder.config
    before = config._attn_implementation
    kinds: list[str] = []
    for layer in model.decoder.model.layers:
        layer.self_attn.q_proj.register_forward_hook(lambda m, args, out: kinds.append(config._attn_implementation))
    scores = model.score(prefix, TEXTS[:1])
    assert kinds == ["avocet_packed"] * 2
    assert config._attn_implementation == before
    flat(scores).sum().backward()
    assert kinds == ["avocet_packed"] * 4
    assert config._attn_implementation == before
    assert all(layer._gradient_checkpointing_func.func is checkpoint for layer in model.decoder.model.layers)


def test_the_reference_is_the_model_before_the_adapter(model, make_prefix):
    model.decoder.config.attention_dropout = 0.5
    for layer in model.decoder.model.layers:
        layer.self_attn.attention_dropout = 0.5
    prefix = make_prefix((3, 1.0), (1, None))
    with torch.no_grad():
        expected = flat(separate(model, prefix, TEXTS[:2]))
    add_lora(model, rank=4, alpha=8, dropout=0.5)
    randomise_adapter(model)
    model.train()
    reference = reference_log_probs(model, prefix, TEXTS[:2])
    torch.testing.assert_close(flat(reference), expected, atol=1e-5, rtol=1e-5)
    assert not flat(reference).requires_grad
    assert model.training
    policy = flat(model.score(prefix, TEXTS[:2]))
    assert policy.requires_grad
    assert (policy - expected).abs().max() > 1e-2


def test_groups_of_completions(any_model, clips, monkeypatch):
    """Completions in groups of at most 5 read tokens, the first two then together, give the same."""
    prefix = encode(any_model, clips)
    expected = gradients(any_model, separate(any_model, encode(any_model, clips), TEXTS))
    monkeypatch.setattr(packed_row, "_MAX_GROUP_TOKENS", 5)
    scores = score_shared(any_model.language_decoder(), prefix, TEXTS, method="packed")
    assert_same_gradients(gradients(any_model, scores), expected)


@pytest.mark.filterwarnings("ignore:.*flex_attention.*")
def test_flex_attention_gives_the_same(any_model, clips, monkeypatch):
    """Uncompiled, on the CPU, where it has no backward pass; CUDA runs the compiled kernel."""
    from torch.nn.attention.flex_attention import flex_attention
    from transformers.integrations import flex_attention as integration

    def uncompiled(*args: Any, training: bool = False, **kwargs: Any) -> Any:
        return flex_attention(*args, **kwargs)

    monkeypatch.setattr(integration, "compile_friendly_flex_attention", uncompiled)
    prefix = encode(any_model, clips)
    with torch.no_grad():
        found = score_shared(any_model.language_decoder(), prefix, TEXTS, method="packed", kernel="flex")
        expected = separate(any_model, prefix, TEXTS)
    torch.testing.assert_close(flat(found), flat(expected), atol=1e-5, rtol=1e-5)


def test_flex_attention_without_a_backward_pass_falls_back(model, make_prefix, caplog):
    decoder = model.language_decoder()
    prefix = make_prefix((3, 1.0))
    with caplog.at_level(logging.WARNING):
        scores = score_shared(decoder, prefix, TEXTS[:1], kernel="flex")
    torch.testing.assert_close(flat(scores), flat(separate(model, prefix, TEXTS[:1])), atol=1e-5, rtol=1e-5)
    assert flat(scores).requires_grad
    assert "kernel flex): the packed forward failed with" in caplog.text
    # The other kernel is not blamed.
    caplog.clear()
    assert self_check(decoder, prefix, TEXTS[:1]).passed
    assert not caplog.text


def test_layers_with_a_sliding_window(tokenizer):
    """A decoder whose second layer sees the last 6 tokens only, as transformers computes it."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=6,
        layer_types=["full_attention", "sliding_attention"],
        use_sliding_window=True,
    )
    language_model = Qwen2ForCausalLM(config).eval()
    decoder = Decoder(backbone=language_model.model, lm_head=language_model.lm_head)
    prefix = Prefix(
        clip_ids=("a", "b"), embeddings=torch.randn(2, 12, 32), lengths=torch.tensor([12, 3], dtype=torch.long)
    )
    with torch.no_grad():
        plain = score_shared(decoder, prefix, TEXTS[:2], method="plain")
        packed = score_shared(decoder, prefix, TEXTS[:2], method="packed")
        torch.testing.assert_close(flat(packed), flat(plain), atol=1e-5, rtol=1e-5)
        # Among prompts of unequal length, where the cache is padded; the window counts what is real.
        cached = score_shared(decoder, prefix, TEXTS[:2], method="cached")
        torch.testing.assert_close(flat(cached), flat(plain), atol=1e-5, rtol=1e-5)
        config.layer_types = ["full_attention", "full_attention"]
        for layer in language_model.model.layers:
            layer.self_attn.sliding_window = None
        assert (flat(score_shared(decoder, prefix, TEXTS[:2], method="packed")) - flat(plain)).abs().max() > 1e-4


# The self-check.


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Each test asks anew."""
    prefix_module._verdicts.clear()
    yield
    prefix_module._verdicts.clear()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_self_check_passes(any_model, clips, caplog, checkpointing, forgotten):
    add_lora(any_model, rank=2, alpha=4, dropout=0.5)
    randomise_adapter(any_model)
    any_model.train()
    if checkpointing:
        enable_checkpointing(any_model)
    modes = [module.training for module in any_model.modules()]
    state = torch.get_rng_state()
    prefix = encode(any_model, clips)
    check = self_check(any_model.language_decoder(), prefix, TEXTS)
    assert check.passed
    assert check.method == "packed"
    assert check.value_error < 1e-5
    assert check.gradient_error is not None
    assert check.gradient_error < 1e-4
    assert "value error" in str(check)
    assert not caplog.text
    # It leaves no trace: modes, random numbers and gradients are as before.
    assert [module.training for module in any_model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in any_model.parameters())


class LeakyAttention(nn.Module):
    """An attention that never asks transformers which function to use: plain causal over the whole row."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.inner.config._attn_implementation, before = "sdpa", self.inner.config._attn_implementation
        try:
            return self.inner(*args, **kwargs)
        finally:
            self.inner.config._attn_implementation = before


def test_a_decoder_that_leaks_falls_back_with_one_warning(model, make_prefix, caplog, forgotten):
    for layer in model.decoder.model.layers:
        layer.self_attn = LeakyAttention(layer.self_attn)
    prefix = make_prefix((3, 1.0), (1, None))
    decoder = model.language_decoder()
    expected = flat(separate(model, prefix, TEXTS[:2]))
    leaky = flat(score_shared(decoder, prefix, TEXTS[:2], method="packed"))
    assert (leaky - expected).abs().max() > 1e-2
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            torch.testing.assert_close(flat(model.score(prefix, TEXTS[:2])), expected, atol=1e-5, rtol=1e-5)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert "Shared-prefix scoring is not exact for Qwen2Model (kernel split): value error" in warnings[0]
    assert "scored by a forward of its own" in warnings[0]
    check = self_check(decoder, prefix, TEXTS[:2])
    assert (check.passed, check.method) == (False, "plain")


def test_completions_that_see_each_other_are_found(any_model, clips, monkeypatch, forgotten):
    """Also in decoders of random weights, where looking at the wrong tokens changes little."""
    sees = packed_row._sees

    def sees_all_branches(query: Any, key: Any, window: int | None) -> torch.Tensor:
        return sees(query, (key[0], torch.where(key[1] < query[1], query[1], key[1]), key[2]), window)

    monkeypatch.setattr(packed_row, "_sees", sees_all_branches)
    check = self_check(any_model.language_decoder(), encode(any_model, clips), TEXTS)
    assert check.tolerance == 1e-5
    assert not check.passed


def test_wrong_gradients_alone_are_found(model, make_prefix, caplog, forgotten):
    """Checkpointing by something that does not know of the packed layout: right values, wrong backward pass."""
    original = packed_row._switched
    prefix = make_prefix((3, 1.0), (2, 0.4))
    enable_checkpointing(model)
    decoder = model.language_decoder()

    @contextmanager
    def values_only(backbone: Any, layout: Any) -> Iterator[None]:
        with original(backbone, layout):
            for layer in backbone.layers:
                layer._gradient_checkpointing_func = layer._gradient_checkpointing_func.args[0]
            yield

    packed_row._switched = values_only
    try:
        check = self_check(decoder, prefix, TEXTS[:2])
    finally:
        packed_row._switched = original
    assert not check.passed
    assert check.problem or check.gradient_error > 0.01
    assert "Shared-prefix scoring is not exact" in caplog.text


def test_without_gradients_values_alone_are_compared(model, make_prefix, forgotten):
    with torch.no_grad():
        check = self_check(model.language_decoder(), make_prefix((3, 1.0)), [[[5, 6]]])
    assert check.passed
    assert check.gradient_error is None
    assert "gradient error not compared" in str(check)
    with torch.inference_mode():
        assert self_check(model.language_decoder(), make_prefix((3, 1.0)), [[[5, 6]]]).passed


def test_auto_checks_once_per_setting(model, make_prefix, monkeypatch, forgotten):
    calls: list[bool] = []
    original = prefix_module.self_check

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        return original(*args, **kwargs)

    monkeypatch.setattr(prefix_module, "self_check", counted)
    prefix = make_prefix((3, 1.0), (1, None))
    model.score(prefix, [[[5]], [[5, 6]]])
    assert calls == []  # one completion each: nothing is shared
    for _ in range(2):
        model.score(prefix, TEXTS[:2])
        with torch.no_grad():
            model.score(prefix, TEXTS[:2])
    assert calls == [True, False]
    enable_checkpointing(model)
    model.score(prefix, TEXTS[:2])
    assert calls == [True, False, True]
