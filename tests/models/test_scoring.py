from __future__ import annotations

import pytest
import torch

from avocet.errors import ConfigError
from avocet.models.scoring import score_completions

TEXTS = ["a red circle", "a bell rings, a bell rings", "", "red", "the video slides left"]


def naive(model, prefix, row, tokens):
    """One full forward without cache or padding, log-softmax of every position."""
    length = int(prefix.lengths[row])
    embedded = model.decoder.model.embed_tokens(torch.tensor(tokens, dtype=torch.long))
    inputs = torch.cat([prefix.embeddings[row, :length], embedded])[None]
    logits = model.decoder(inputs_embeds=inputs).logits[0].float()
    logps = logits.log_softmax(-1)
    return torch.stack([logps[length - 1 + step, token] for step, token in enumerate(tokens)])


def ids(model, text):
    return model.encode_text(text, end=True)


@pytest.mark.parametrize("counts", [(1, 1, 1), (1, 0, 1), (3, 1, 2), (0, 5, 0), (2, 2, 2)])
def test_scores_are_those_of_a_full_forward(model, make_prefix, counts):
    prefix = make_prefix((3, 1.0), (1, None), (2, 0.4))
    texts = iter(TEXTS * 3)
    completions = [[ids(model, next(texts)) for _ in range(count)] for count in counts]
    scores = model.score(prefix, completions)
    assert [len(row) for row in scores] == list(counts)
    for row, texts_of_row in enumerate(completions):
        for score, tokens in zip(scores[row], texts_of_row, strict=True):
            assert score.dtype == torch.float32
            torch.testing.assert_close(score, naive(model, prefix, row, tokens), atol=2e-5, rtol=1e-4)


def test_prompts_of_one_length_need_no_mask(model, make_prefix):
    prefix = make_prefix((2, 1.0), (2, 1.0))
    completions = [[ids(model, text) for text in TEXTS[:2]], [ids(model, text) for text in TEXTS[2:]]]
    for row, scores in enumerate(model.score(prefix, completions)):
        for score, tokens in zip(scores, completions[row], strict=True):
            torch.testing.assert_close(score, naive(model, prefix, row, tokens), atol=2e-5, rtol=1e-4)


def test_gradients_through_the_shared_prefix_are_exact(model, make_prefix):
    completions = [[ids(model, text) for text in TEXTS[:3]], [ids(model, text) for text in TEXTS[3:]]]
    prefix = make_prefix((2, 1.0), (1, 0.4))
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(scores):
        loss = sum((score * (k + 1)).sum() for k, score in enumerate(scores))
        return torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)

    shared = [score for row in model.score(prefix, completions) for score in row]
    full = [naive(model, prefix, row, tokens) for row, texts in enumerate(completions) for tokens in texts]
    ours, theirs = gradients(shared), gradients(full)
    largest = max(float(gradient.abs().max()) for gradient in theirs if gradient is not None)
    for mine, exact in zip(ours, theirs, strict=True):
        assert (mine is None) == (exact is None)
        if exact is not None:
            torch.testing.assert_close(mine, exact, atol=1e-6 * largest, rtol=1e-3)


def test_a_shared_prefix_is_forwarded_once(model, make_prefix):
    prefix = make_prefix((3, 1.0), (1, None))
    shapes = []
    handle = model.decoder.model.layers[0].register_forward_hook(lambda m, args, out: shapes.append(args[0].shape[:2]))
    score_completions(model.language_decoder(), prefix, [[[5, 6, 7], [8, 9]], [[5]]])
    handle.remove()
    # The prefill of both prompts, then at most the first two tokens of each of the three completions.
    assert [tuple(shape) for shape in shapes] == [(2, prefix.embeddings.shape[1]), (3, 2)]


def test_empty_completions(model, make_prefix):
    prefix = make_prefix((1, None))
    assert [len(score) for score in model.score(prefix, [[[]]])[0]] == [0]
    assert [len(score) for score in model.score(prefix, [[[], [5]]])[0]] == [0, 1]
    assert model.score(prefix, [[]]) == [[]]


def test_one_list_per_prompt(model, make_prefix):
    with pytest.raises(ConfigError, match="completions for 2 prompts, the prefix holds 1"):
        model.score(make_prefix((1, None)), [[[1]], [[2]]])


def test_texts_without_media(model):
    texts = [ids(model, text) for text in TEXTS]
    for tokens, logps in zip(texts, model.text_log_probs(texts), strict=True):
        logits = model.decoder(input_ids=torch.tensor([tokens])).logits[0].float()
        expected = logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(tokens[1:], dtype=torch.long)[:, None])
        torch.testing.assert_close(logps, expected.squeeze(-1), atol=2e-5, rtol=1e-4)
