from __future__ import annotations

import math

import pytest
import torch

from avocet.errors import ConfigError
from avocet.models.generation import choose_tokens, top_p_filter
from avocet.records import Sampling

GREEDY = Sampling(max_new_tokens=12)
SAMPLED = Sampling(max_new_tokens=12, temperature=1.0, seed=3)


def naive_greedy(model, prefix, row, steps):
    tokens = []
    embedded = prefix.embeddings[row, : int(prefix.lengths[row])]
    for _ in range(steps):
        token = int(model.decoder(inputs_embeds=embedded[None]).logits[0, -1].argmax())
        tokens.append(token)
        if token == model.stop_id:
            break
        embedded = torch.cat([embedded, model.decoder.model.embed_tokens(torch.tensor([token]))])
    return tuple(tokens)


def token_ids(samples):
    return [[completion.token_ids for completion in row] for row in samples]


def test_greedy_is_the_argmax_of_full_forwards(model, make_prefix):
    prefix = make_prefix((3, 1.0), (1, None), (0, 2.4))
    samples = model.generate(prefix, 1, GREEDY)
    assert token_ids(samples) == [[naive_greedy(model, prefix, row, 12)] for row in range(3)]


def test_a_batch_of_unequal_prompts_is_each_alone(model, make_prefix):
    prefix = make_prefix((3, 1.0), (1, None), (2, 0.4))
    assert len(set(prefix.lengths.tolist())) == 3
    for sampling in (GREEDY, SAMPLED):
        together = model.generate(prefix, 2, sampling)
        alone = [model.generate(prefix.select([row]), 2, sampling)[0] for row in range(3)]
        assert token_ids(together) == token_ids(alone)


def test_seeds(model, make_prefix):
    prefix = make_prefix((2, 1.0), (1, 0.4))
    first = token_ids(model.generate(prefix, 3, SAMPLED))
    assert token_ids(model.generate(prefix, 3, SAMPLED)) == first
    other = Sampling(max_new_tokens=12, temperature=1.0, seed=4)
    assert token_ids(model.generate(prefix, 3, other)) != first
    assert len({tuple(tokens) for row in first for tokens in row}) == 6
    # More samples of the same seed begin with the same ones.
    assert [row[:3] for row in token_ids(model.generate(prefix, 5, SAMPLED))] == first
    # torch's own generator is neither read nor moved.
    state = torch.get_rng_state()
    model.generate(prefix, 1, SAMPLED)
    assert torch.equal(torch.get_rng_state(), state)


def test_n_samples_from_one_prefill(model, make_prefix):
    prefix = make_prefix((3, 1.0), (1, None))
    shapes = []
    handle = model.decoder.model.layers[0].register_forward_hook(
        lambda module, args, output: shapes.append(tuple(args[0].shape[:2]))
    )
    model.generate(prefix, 4, SAMPLED)
    handle.remove()
    assert shapes[0] == (2, prefix.embeddings.shape[1])
    assert all(length == 1 for _, length in shapes[1:])
    assert shapes[1][0] == 8


def test_log_probabilities_are_those_of_score(model, make_prefix):
    prefix = make_prefix((3, 1.0), (1, None))
    samples = model.generate(prefix, 3, Sampling(max_new_tokens=9, temperature=0.7, top_p=0.9, seed=1))
    scores = model.score(prefix, [[completion.token_ids for completion in row] for row in samples])
    for row, row_scores in zip(samples, scores, strict=True):
        for completion, score in zip(row, row_scores, strict=True):
            torch.testing.assert_close(completion.logps, score.detach(), atol=1e-4, rtol=1e-4)


def test_score_takes_what_generate_gives(model, make_prefix):
    prefix = make_prefix((2, 1.0), (1, None))
    rows = model.generate(prefix, 3, Sampling(temperature=1.0, max_new_tokens=6, seed=1))
    mixed = [[row[0], list(row[1].token_ids), row[2]] for row in rows]
    for scored, row in zip(model.score(prefix, mixed), rows, strict=True):
        for logps, completion in zip(scored, row, strict=True):
            torch.testing.assert_close(logps.detach(), completion.logps, atol=1e-5, rtol=1e-4)


def test_stop_reasons(model, make_prefix):
    prefix = make_prefix((1, None))
    (cut,) = model.generate(prefix, 1, Sampling(max_new_tokens=3))[0]
    assert (cut.stop_reason, len(cut.token_ids)) == ("length", 3)
    # Let the stop token take over as the third token: its logit becomes a little more than that of the winner there.
    third = cut.token_ids[2]
    with torch.no_grad():
        model.decoder.lm_head.weight[model.stop_id] = 1.01 * model.decoder.lm_head.weight[third]
    (ended,) = model.generate(prefix, 1, GREEDY)[0]
    assert ended.stop_reason == "end"
    assert ended.token_ids[-1] == model.stop_id
    assert model.stop_id not in ended.token_ids[:-1]
    assert len(ended.logps) == len(ended.token_ids)
    assert "<|im_end|>" not in ended.text


def test_rows_that_end_early_do_not_disturb_the_others(model, make_prefix):
    with torch.no_grad():
        model.decoder.lm_head.weight[model.stop_id] *= 3  # many rows end, at different lengths
    prefix = make_prefix((3, 1.0), (1, None))
    samples = model.generate(prefix, 12, Sampling(max_new_tokens=20, temperature=1.2, seed=0))
    lengths = {len(completion.token_ids) for row in samples for completion in row}
    assert len(lengths) > 3
    reasons = {completion.stop_reason for row in samples for completion in row}
    assert reasons == {"end", "length"}
    scores = model.score(prefix, [[completion.token_ids for completion in row] for row in samples])
    for row, row_scores in zip(samples, scores, strict=True):
        for completion, score in zip(row, row_scores, strict=True):
            torch.testing.assert_close(completion.logps, score.detach(), atol=1e-4, rtol=1e-4)


def test_the_decoders_last_position_ends_a_row(model, make_prefix):
    prefix = make_prefix((8, 5.9), (1, None))
    model.decoder.config.max_position_embeddings = 90
    room = 90 - int(prefix.lengths[0])
    assert 0 < room < 20
    long, short = model.generate(prefix, 1, Sampling(max_new_tokens=20))
    assert len(long[0].token_ids) == room
    assert long[0].stop_reason == "length"
    assert len(short[0].token_ids) == 20 or short[0].stop_reason == "end"


def test_prompts_that_fill_the_decoder(model, make_prefix):
    prefix = make_prefix((8, 5.9))
    model.decoder.config.max_position_embeddings = 40
    with pytest.raises(ConfigError, match="leaves no room to answer: the decoder has 40 positions"):
        model.generate(prefix, 1, GREEDY)
    with pytest.raises(ConfigError, match="n >= 1, got 0"):
        model.generate(prefix, 0, GREEDY)


def test_no_prompts(model):
    assert model.generate(model.encode([]), 2, GREEDY) == []


def test_modes_and_graph(model, make_prefix):
    model.train()
    model.vision.eval()
    prefix = make_prefix((1, None))
    (sample,) = model.generate(prefix, 1, GREEDY)[0]
    assert model.training
    assert model.decoder.training
    assert not model.vision.training
    assert not sample.logps.requires_grad


def test_top_p_keeps_the_smallest_sufficient_set():
    probabilities = torch.tensor([[0.1, 0.5, 0.15, 0.25]], dtype=torch.float64)
    assert top_p_filter(probabilities, 0.5).tolist() == [[0, 0.5, 0, 0]]
    assert top_p_filter(probabilities, 0.51).tolist() == [[0, 0.5, 0, 0.25]]
    assert top_p_filter(probabilities, 0.8).tolist() == [[0, 0.5, 0.15, 0.25]]
    assert top_p_filter(probabilities, 0.01).tolist() == [[0, 0.5, 0, 0]]


def test_choice_follows_the_uniform_number():
    logits = torch.tensor([[0.1, 0.5, 0.4]]).log()
    uniform = torch.tensor([0.0, 0.09, 0.11, 0.59, 0.61, 0.9999999999], dtype=torch.float64)

    def choose(**settings):
        sampling = Sampling(**({"temperature": 1.0} | settings))
        return choose_tokens(logits.expand(6, 3), sampling, uniform).tolist()

    assert choose() == [0, 0, 1, 1, 2, 2]
    # Without the first token the other two share the line at 5/9.
    assert choose(top_p=0.7) == [1, 1, 1, 2, 2, 2]
    # Temperature 1/2 squares the probabilities: 0.01, 0.25, 0.16 of 0.42, so borders at 0.0238 and 0.619.
    assert choose(temperature=0.5) == [0, 1, 1, 1, 1, 2]
    assert choose_tokens(logits, Sampling(), None).tolist() == [1]


def test_sampled_frequencies():
    # 20,000 draws from softmax([0, 1, 2]); three standard errors are 0.011.
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, 3)
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = choose_tokens(logits, Sampling(temperature=1.0), uniform)
    total = 1 + math.e + math.e**2
    for token, expected in enumerate((1 / total, math.e / total, math.e**2 / total)):
        assert abs(float((tokens == token).double().mean()) - expected) < 0.011
