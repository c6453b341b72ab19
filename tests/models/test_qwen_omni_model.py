"""Both generations of Qwen-Omni behind the four verbs: batches, scores, gradients, adapters."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from avocet.errors import LayoutError
from avocet.models import generation
from avocet.models.chatml import TURN_END
from avocet.models.interface import Prefix
from avocet.models.lora import add_lora, lora_disabled, lora_parameters, merge_lora
from avocet.models.qwen_omni.checkpoint import load_checkpoint
from avocet.models.qwen_omni.modeling import QwenOmniModel
from avocet.models.qwen_omni.towers import core_of, decoder_of
from avocet.records import Sampling

TEXT = "Describe this video."
GREEDY = Sampling(max_new_tokens=10)
SAMPLED = Sampling(max_new_tokens=9, temperature=1.0, seed=3)
TOKENS = [[40, 41, 42, 43], [50], [60, 61]]


def prompts_of(model: QwenOmniModel, clips, text: str = TEXT):
    return [model.prepare(clip, text) for clip in clips]


def full_logits(model: QwenOmniModel, prefix: Prefix, row: int, tokens: list[int]) -> torch.Tensor:
    """(prefix + tokens, V) of one forward of one row, without cache, padding or mask."""
    decoder = decoder_of(model.thinker)
    length = int(prefix.lengths[row])
    embedded = decoder.embed(torch.tensor(tokens, dtype=torch.long))
    after = prefix.next_positions[row] + torch.arange(len(tokens))
    hidden, _ = decoder.run(
        torch.cat([prefix.embeddings[row, :length], embedded])[None],
        positions=torch.cat([prefix.positions[:, row, :length], after.expand(3, -1)], dim=1)[:, None],
        deepstack=tuple(
            torch.cat([level[row, :length], torch.zeros_like(embedded)])[None] for level in prefix.deepstack
        ),
    )
    return decoder.logits(hidden)[0]


def full_scores(model: QwenOmniModel, prefix: Prefix, row: int, tokens: list[int]) -> torch.Tensor:
    logits = full_logits(model, prefix, row, tokens)[int(prefix.lengths[row]) - 1 :]
    return torch.stack([line.log_softmax(-1)[token] for line, token in zip(logits, tokens, strict=False)])


def naive_greedy(model: QwenOmniModel, prefix: Prefix, row: int, steps: int) -> tuple[int, ...]:
    tokens: list[int] = []
    while len(tokens) < steps and not set(tokens) & set(model.stop_ids):
        tokens.append(int(full_logits(model, prefix, row, tokens)[-1].argmax()))
    return tuple(tokens)


def token_ids(samples):
    return [[completion.token_ids for completion in row] for row in samples]


# Batches.


@torch.no_grad()
def test_a_batch_of_unequal_clips_is_each_alone(omni, mixed):
    # Padding must be zero whatever the embedding of the padding token is.
    decoder_of(omni.thinker).backbone.get_input_embeddings().weight[omni.stop_ids[-1]] = 1.0
    prompts = prompts_of(omni, mixed)
    assert len({len(prompt.token_ids) for prompt in prompts}) == len(prompts)
    together = omni.encode(prompts)
    assert together.positions.dtype == (torch.long if omni.family.name == "qwen2.5-omni" else torch.float32)
    scores = omni.score(together, [[TOKENS[0]]] * len(prompts))
    for row, prompt in enumerate(prompts):
        alone = omni.encode([prompt])
        length = len(prompt.token_ids)
        assert int(together.lengths[row]) == length == alone.embeddings.shape[1]
        torch.testing.assert_close(together.embeddings[row, :length], alone.embeddings[0], atol=0, rtol=0)
        assert not together.embeddings[row, length:].any()
        assert torch.equal(together.positions[:, row, :length], alone.positions[:, 0])
        assert torch.equal(together.positions[:, row, :length], torch.from_numpy(prompt.positions).to(alone.positions))
        assert together.next_positions[row] == alone.next_positions[0]
        for depth, level in enumerate(together.deepstack):
            own = alone.deepstack[depth][0] if alone.deepstack else torch.zeros(length, level.shape[2])
            torch.testing.assert_close(level[row, :length], own, atol=0, rtol=0)
            assert not level[row, length:].any()
        torch.testing.assert_close(scores[row][0], full_scores(omni, alone, 0, TOKENS[0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("longest_padded", [2048, 0])
def test_batched_completions_are_those_of_each_alone(omni, mixed, monkeypatch, longest_padded):
    """Prompts padded to one length, and (as long prompts are) forwarded row by row."""
    monkeypatch.setattr(generation, "_MAX_PADDED_PREFILL", longest_padded)
    prefix = omni.encode(prompts_of(omni, mixed)).detach()
    greedy = omni.generate(prefix, 1, GREEDY)
    alone = [naive_greedy(omni, prefix, row, 10) for row in range(len(mixed))]
    assert token_ids(greedy) == [[tokens] for tokens in alone]
    assert len(set(alone)) == len(alone)  # the answers depend on the clip
    sampled = omni.generate(prefix, 2, SAMPLED)
    for row in range(len(mixed)):
        single = prefix.select([row])
        assert token_ids(omni.generate(single, 2, SAMPLED))[0] == token_ids(sampled)[row]
    scores = omni.score(prefix, [[completion.token_ids for completion in row] for row in sampled])
    for row, row_scores in zip(sampled, scores, strict=True):
        for completion, score in zip(row, row_scores, strict=True):
            torch.testing.assert_close(completion.logps, score.detach(), atol=1e-4, rtol=1e-4)


def test_joined_prefixes_are_a_batch(omni, mixed):
    prompts = prompts_of(omni, mixed)
    batch = omni.encode(prompts).detach()
    joined = Prefix.join([omni.encode([prompt]).detach() for prompt in prompts])
    assert torch.equal(joined.embeddings, batch.embeddings)
    assert torch.equal(joined.positions, batch.positions)
    assert torch.equal(joined.next_positions, batch.next_positions)
    assert len(joined.deepstack) == len(batch.deepstack)
    for ours, theirs in zip(joined.deepstack, batch.deepstack, strict=True):
        assert torch.equal(ours, theirs)


def test_no_prompts(omni):
    assert omni.generate(omni.encode([]), 2, GREEDY) == []


# Scores.


@torch.no_grad()
def test_a_shared_prefix_scores_as_full_forwards_do(omni, mixed):
    prefix = omni.encode(prompts_of(omni, mixed[:4]))
    completions = [TOKENS, [TOKENS[1]], [], [TOKENS[2], TOKENS[0], []]]
    shared = omni.score(prefix, completions)
    assert [len(row) for row in shared] == [3, 1, 0, 3]
    for row, texts in enumerate(completions):
        for score, tokens in zip(shared[row], texts, strict=True):
            assert score.shape == (len(tokens),)
            if tokens:
                torch.testing.assert_close(score, full_scores(omni, prefix, row, tokens), atol=1e-4, rtol=1e-4)
                single = omni.score(prefix.select([row]), [[tokens]])[0][0]
                torch.testing.assert_close(score, single, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_distributions_agree_with_scores(omni, mixed):
    prefix = omni.encode(prompts_of(omni, mixed[:1]))
    distributions = omni.next_token_log_probs(prefix, TOKENS[0])
    assert distributions.shape == (4, omni.thinker.lm_head.weight.shape[0])
    torch.testing.assert_close(distributions.exp().sum(-1), torch.ones(4))
    picked = distributions.gather(-1, torch.tensor(TOKENS[0])[:, None]).squeeze(-1)
    torch.testing.assert_close(picked, omni.score(prefix, [[TOKENS[0]]])[0][0], atol=1e-5, rtol=1e-5)


def test_gradients_reach_towers_and_decoder(omni, mixed):
    omni.requires_grad_(True)
    shared = omni.score(omni.encode(prompts_of(omni, mixed[:2])), [TOKENS, TOKENS[:1]])
    sum(score.sum() for row in shared for score in row).backward()
    core, decoder = core_of(omni.thinker), decoder_of(omni.thinker)
    reached = {
        "picture": core.visual.patch_embed.proj.weight,
        "sound": core.audio_tower.layers[0].self_attn.q_proj.weight,
        "words": decoder.backbone.get_input_embeddings().weight,
        "decoder": decoder.backbone.layers[0].self_attn.k_proj.weight,
        "output": decoder.lm_head.weight,
    }
    for name, weight in reached.items():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 1e-6, name


def test_frozen_towers_leave_no_graph(omni, mixed):
    omni.requires_grad_(False)
    assert not omni.encode(prompts_of(omni, mixed[:2])).embeddings.requires_grad


def test_generating_leaves_modes_and_graph_alone(omni, mixed):
    omni.train()
    core_of(omni.thinker).visual.eval()
    prefix = omni.encode(prompts_of(omni, mixed[:1]))
    ((sample,),) = omni.generate(prefix, 1, GREEDY)
    assert omni.training
    assert not core_of(omni.thinker).visual.training
    assert not sample.logps.requires_grad


def test_completions_end_with_the_turn(omni, mixed):
    prefix = omni.encode(prompts_of(omni, mixed[:1])).detach()
    ((before,),) = omni.generate(prefix, 1, GREEDY)
    end = omni.tokenizer.convert_tokens_to_ids(TURN_END)
    with torch.no_grad():
        # Its logit becomes a little more than that of the third token.
        omni.thinker.lm_head.weight[end] = 1.01 * omni.thinker.lm_head.weight[before.token_ids[2]]
    ((ended,),) = omni.generate(prefix, 1, GREEDY)
    assert (ended.stop_reason, ended.token_ids[-1]) == ("end", end)
    assert len(ended.token_ids) <= 3
    assert TURN_END not in ended.text


# Refusals.


def test_prompts_of_another_model_are_refused(omni, mixed):
    prompt = omni.prepare(mixed[0], TEXT)
    with pytest.raises(LayoutError, match="clip 'sound': the prompt has no positions; it is of another model"):
        omni.encode([dataclasses.replace(prompt, positions=None)])


def test_placeholders_and_features_must_agree(omni, mixed):
    prompt = omni.prepare(mixed[0], TEXT)
    ids = list(prompt.token_ids)
    ids[ids.index(omni.ids.video)] = omni.stop_ids[-1]
    with pytest.raises(LayoutError, match="clip 'sound': 23 visual placeholders, 24 planned, 24 features"):
        omni.encode([dataclasses.replace(prompt, token_ids=tuple(ids))])
    with pytest.raises(LayoutError, match=r"mel frames became \d+ audio tokens, \d+ were planned"):
        omni.encode([dataclasses.replace(prompt, mel=prompt.mel[:, :200])])


# Checkpoints and adapters.


@torch.no_grad()
def test_a_saved_model_is_the_same(omni, mixed, tmp_path):
    omni.settings = dataclasses.replace(omni.settings, system_prompt="Be brief.", fps=1.0)
    omni.save(tmp_path)
    loaded = load_checkpoint(tmp_path, device="cpu")
    assert loaded.settings == omni.settings
    assert (loaded.family, loaded.sizes, loaded.axis, loaded.ids) == (omni.family, omni.sizes, omni.axis, omni.ids)
    assert not loaded.training
    assert next(loaded.parameters()).dtype == torch.float32
    ours, theirs = omni.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    prefixes = [model.encode(prompts_of(model, mixed)) for model in (omni, loaded)]
    assert torch.equal(prefixes[0].embeddings, prefixes[1].embeddings)
    assert torch.equal(prefixes[0].positions, prefixes[1].positions)
    ours, theirs = (model.generate(prefix, 1, GREEDY) for model, prefix in zip((omni, loaded), prefixes, strict=True))
    assert token_ids(ours) == token_ids(theirs)


def test_an_adapter_on_and_off(omni, mixed):
    prefix = omni.encode(prompts_of(omni, mixed[:2])).detach()

    def scores() -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([row[0] for row in omni.score(prefix, [[TOKENS[0]]] * 2)])

    before = scores()
    parameters = add_lora(omni, rank=4, alpha=8)
    # q, k, v, o in 2 layers; gate, up and down too where the feed-forward layers are dense. An A and a B each.
    assert len(parameters) == (28 if omni.family.name == "qwen2.5-omni" else 16)
    assert torch.equal(scores(), before)
    torch.manual_seed(1)
    for parameter in lora_parameters(omni):
        torch.nn.init.normal_(parameter, std=0.2)
    adapted = scores()
    assert not torch.allclose(adapted, before, atol=1e-2)
    with lora_disabled(omni):
        assert torch.equal(scores(), before)
    assert torch.equal(scores(), adapted)
    merge_lora(omni)
    torch.testing.assert_close(scores(), adapted, atol=1e-4, rtol=1e-4)
    assert not lora_parameters(omni)


def test_only_the_adapter_learns(omni, mixed):
    parameters = add_lora(omni, rank=2, alpha=4)
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.1)
    prefix = omni.encode(prompts_of(omni, mixed[:1])).detach()
    omni.score(prefix, [[TOKENS[0]]])[0][0].sum().backward()
    assert all(parameter.grad is not None for parameter in parameters)
    decoder = dict(omni.decoder.named_parameters())
    assert all(weight.grad is None for name, weight in decoder.items() if ".lora_" not in name)
