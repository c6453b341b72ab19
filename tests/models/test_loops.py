from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avocet.models.decoder import Decoder
from avocet.models.generation import penalise, sample_completions
from avocet.models.interface import Prefix
from avocet.models.loops import CHECK_EVERY, loop_period
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.models.qwen_omni.towers import decoder_of
from avocet.records import Sampling

BARK = [5, 9, 7, 8]  # the dog barks ,


@pytest.mark.parametrize(
    ("tokens", "period"),
    [
        ([], None),
        ([3] * 63, None),  # 63 tokens are too few
        ([3] * 64, 1),
        (BARK * 15, None),
        (BARK * 16, 4),
        (BARK * 16 + BARK[:2], 4),  # ends in the middle of a block
        ([1, 2, 3, 4, 5] * 3 + BARK * 16, 4),  # something else before
        (BARK * 16 + [1], None),  # something else after
        (BARK * 16 + [1] + BARK * 15, None),
        ([*range(20)] * 3, None),  # a refrain sung three times
        (([*range(20)] * 4)[1:], None),  # 79 tokens
        ([*range(20)] * 4, 20),
        ([1, 2] * 32, 2),  # not 4
        ([*range(256)] * 4, 256),
        ([*range(257)] * 4, None),  # longer blocks are not looked for
        ([1, 1, 1, 2] * 16, 4),
    ],
)
def test_loops_by_hand(tokens, period):
    assert loop_period(tokens) == period


@given(
    before=st.lists(st.integers(0, 3), max_size=30),
    block=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    num_tokens=st.integers(0, 120),
)
def test_the_shortest_block_that_fills_the_tail(before, block, num_tokens):
    tokens = before + list(itertools.islice(itertools.cycle(block), num_tokens))
    expected = None
    for period in range(256, 0, -1):
        span = max(4 * period, 64)
        tail = tokens[-span:]
        if len(tokens) >= span and tail == (tail[:period] * span)[:span]:
            expected = period
    assert loop_period(tokens) == expected
    if num_tokens >= max(4 * len(block), 64):
        assert expected is not None


WIDTH = 64
STOP = 63


def chain_decoder(edges: dict[tuple[int, int], float]) -> Decoder:
    """A real decoder that only looks at the last token: logits {(last token, next token): weight}, all others 0.

    Embeddings are orthogonal, and attention and feed-forward layers add nothing, so that the hidden state is the
    embedding of the last token.
    """
    decoder = decoder_of(tiny_model("qwen2.5-omni").thinker)
    with torch.no_grad():
        for layer in decoder.backbone.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding = decoder.backbone.get_input_embeddings().weight
        embedding.zero_()
        embedding[:WIDTH] = torch.eye(WIDTH)
        decoder.lm_head.weight.zero_()
        for (last, following), weight in edges.items():
            # The norm before the output layer turns a unit vector into one of length sqrt(width) = 8.
            decoder.lm_head.weight[following, last] = weight / 8
    return decoder


def prompt_ending_with(*tokens: int) -> Prefix:
    rows = torch.stack([torch.eye(WIDTH)[[WIDTH - 2, token]] for token in tokens])
    number = len(tokens)
    return Prefix(
        clip_ids=tuple(f"clip{token}" for token in tokens),
        embeddings=rows,
        lengths=torch.full((number,), 2),
        positions=torch.arange(2).expand(3, number, 2),
        next_positions=torch.full((number,), 2),
    )


def complete(decoder: Decoder, prefix: Prefix, n: int = 1, **sampling):
    return sample_completions(
        decoder,
        prefix,
        n,
        Sampling(**({"max_new_tokens": 200} | sampling)),
        stop_ids=[STOP],
        pad_id=0,
        decode=lambda ids: " ".join(map(str, ids)),
    )


def cycle(*tokens: int, weight: float = 1.0) -> dict[tuple[int, int], float]:
    return dict.fromkeys(zip(tokens, [*tokens[1:], tokens[0]], strict=True), weight)


@pytest.mark.parametrize(
    ("period", "lead", "stopped_after"),
    [
        (1, 0, 64),
        (3, 0, 64),
        (16, 0, 64),
        (17, 0, 80),  # 4 * 17 = 68
        (20, 0, 80),
        (21, 0, 96),  # 84
        (3, 1, 80),  # 1 + 64 tokens
        (3, 16, 80),
        (3, 17, 96),
    ],
)
def test_a_looping_completion_is_ended(period, lead, stopped_after):
    loop = list(range(period))
    approach = list(range(30, 30 + lead))
    steps = [62, *approach, loop[0]]
    edges = cycle(*loop) | dict.fromkeys(itertools.pairwise(steps), 1.0)
    decoder, prefix = chain_decoder(edges), prompt_ending_with(62)
    ((completion,),) = complete(decoder, prefix)
    expected = approach + loop * 200
    assert completion.stop_reason == "repetition"
    assert stopped_after % CHECK_EVERY == 0
    assert list(completion.token_ids) == expected[:stopped_after]
    assert len(completion.logps) == stopped_after
    ((unguarded,),) = complete(decoder, prefix, repetition_guard="off")
    assert (unguarded.stop_reason, list(unguarded.token_ids)) == ("length", expected[:200])
    # "retry" is the captioner's: here it ends the loop like "stop".
    ((retried,),) = complete(decoder, prefix, repetition_guard="retry")
    assert (retried.stop_reason, len(retried.token_ids)) == ("repetition", stopped_after)


def test_limit_and_stop_token_come_before_the_guard():
    decoder, prefix = chain_decoder(cycle(0, 1) | {(62, 0): 1.0}), prompt_ending_with(62)
    ((completion,),) = complete(decoder, prefix, max_new_tokens=63)
    assert (completion.stop_reason, len(completion.token_ids)) == ("length", 63)
    ((completion,),) = complete(decoder, prefix, max_new_tokens=64)
    assert (completion.stop_reason, len(completion.token_ids)) == ("length", 64)
    decoder = chain_decoder(dict.fromkeys(itertools.pairwise([62, 0, 1, 2, STOP]), 1.0))
    ((completion,),) = complete(decoder, prefix)
    assert (completion.stop_reason, completion.token_ids) == ("end", (0, 1, 2, STOP))


def test_rows_beside_a_loop_go_on():
    # 62 leads into a loop of 2 at once, 61 after a walk of 40, 60 to the end of the text after 50.
    walk = list(range(2, 42))
    edges = cycle(0, 1) | {(62, 0): 1.0} | dict.fromkeys(itertools.pairwise([61, *walk, 0]), 1.0)
    edges |= dict.fromkeys(itertools.pairwise([60, *range(45, 60), STOP]), 1.0)
    decoder = chain_decoder(edges)
    samples = complete(decoder, prompt_ending_with(62, 61, 60))
    reasons = [(row[0].stop_reason, len(row[0].token_ids)) for row in samples]
    # 40 + 64 = 104 tokens are first seen at 112.
    assert reasons == [("repetition", 64), ("repetition", 112), ("end", 16)]
    assert list(samples[1][0].token_ids[:40]) == walk


def test_penalty_by_hand():
    logits = torch.tensor([[2.0, -2.0, 0.5, 0.0], [2.0, -2.0, 0.5, 0.0]])
    seen = torch.tensor([[True, True, False, True], [False, False, True, False]])
    assert penalise(logits, seen, 2.0).tolist() == [[1.0, -4.0, 0.5, 0.0], [2.0, -2.0, 0.25, 0.0]]
    # Below 1 repetition is made more likely.
    assert penalise(logits, seen, 0.5)[0].tolist() == [4.0, -1.0, 0.5, 0.0]


def test_the_penalty_leads_out_of_a_loop():
    """Of three tokens each, cycles at weight 1.0; from the last of each a way on at weight 0.8."""
    edges = {(62, 0): 1.0}
    for first in range(0, 24, 3):
        edges |= cycle(first, first + 1, first + 2)
        edges[first + 2, first + 3 if first < 21 else STOP] = 0.8
    decoder, prefix = chain_decoder(edges), prompt_ending_with(62)
    ((looping,),) = complete(decoder, prefix)
    assert looping.stop_reason == "repetition"
    ((free,),) = complete(decoder, prefix, repetition_penalty=1.5)
    # 1.0 / 1.5 = 0.67 is below 0.8 as soon as the cycle's first token was said.
    assert (free.stop_reason, list(free.token_ids)) == ("end", [*range(24), STOP])
    ((weak,),) = complete(decoder, prefix, repetition_penalty=1.2)
    assert weak.stop_reason == "repetition"  # 1.0 / 1.2 = 0.83 is not


def test_log_probabilities_are_those_without_the_penalty():
    decoder, prefix = chain_decoder(cycle(0, 1) | {(62, 0): 1.0, (1, 2): 0.8, (2, STOP): 1.0}), prompt_ending_with(62)
    ((free,),) = complete(decoder, prefix, repetition_penalty=2.0)
    assert free.token_ids == (0, 1, 2, STOP)
    size = decoder.lm_head.weight.shape[0]
    # Token 2 had logit 0.8 beside one of 1.0 and zeros elsewhere.
    expected = 0.8 - torch.tensor([1.0, 0.8] + [0.0] * (size - 2)).logsumexp(0)
    torch.testing.assert_close(free.logps[2], expected, atol=1e-5, rtol=1e-5)


def test_tokens_of_other_samples_are_not_penalised():
    """The first row says 5 at once; the second, one step later, must not be kept from it."""
    edges = dict.fromkeys([(62, 5), (5, 8), (8, STOP), (61, 7), (7, 5)], 1.0) | {(7, 6): 0.8, (6, STOP): 1.0}
    samples = complete(chain_decoder(edges), prompt_ending_with(62, 61), repetition_penalty=9.0)
    assert [row[0].token_ids for row in samples] == [(5, 8, STOP), (7, 5, 8, STOP)]


def test_samples_that_loop_are_ended_too():
    # Weight 60 makes any other token impossible at temperature 1.
    decoder = chain_decoder(cycle(0, 1, 2, weight=60.0) | {(62, 0): 60.0})
    (samples,) = complete(decoder, prompt_ending_with(62), n=3, temperature=1.0)
    assert [(sample.stop_reason, len(sample.token_ids)) for sample in samples] == [("repetition", 64)] * 3
