"""video-SALMONN 2 7B as a caption model, by hand; `test_golden_v1` compares it with the release."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from v1_models import build, tiny_config

from avocet.errors import CheckpointError, ConfigError, LayoutError
from avocet.media import open_clip
from avocet.models.interface import Prefix
from avocet.models.layout import AUDIO, VISUAL
from avocet.models.lora import add_lora
from avocet.models.registry import ModelOptions
from avocet.models.salmonn2.v1 import V1Model, segment_positions
from avocet.models.salmonn2.v1_config import V1Config
from avocet.models.salmonn2.v1_prompts import AUDIO_PLACEHOLDER, VISUAL_PLACEHOLDER, ZERO_PLACEHOLDER
from avocet.records import Sampling

ASKED = "Describe the video."
V, A, Z = VISUAL_PLACEHOLDER, AUDIO_PLACEHOLDER, ZERO_PLACEHOLDER


@pytest.fixture
def config(tokenizer) -> V1Config:
    return tiny_config(len(tokenizer))


@pytest.fixture
def model(config, tokenizer) -> V1Model:
    return build(config, tokenizer)


@pytest.fixture
def clip(media_clip):
    """One frame per second, as the model samples."""

    def make(*args, **kwargs):
        return media_clip(*args, **({"fps": 1.0} | kwargs))

    return make


# Features


def test_segment_positions_by_hand():
    table = segment_positions(4, 4)
    expected = [
        [0, 0, 0, 0],
        [0, 1, 0, 1],
        [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)],
        [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)],
    ]
    torch.testing.assert_close(table, torch.tensor(expected))
    assert segment_positions(1, 4).tolist() == [[0, 0, 0, 0]]


@torch.no_grad()
def test_pooling_and_newlines_by_hand(config, tokenizer, monkeypatch):
    """Patches numbered 0 ... 24: blocks (0 1 5 6), (2 3 7 8), (10 11 15 16), (12 13 17 18); the rest is dropped."""
    patches = torch.arange(25.0)[None, :, None].expand(1, 25, 32)
    for mode, expected in (("max", [6, 8, 16, 18]), ("average", [3, 5, 13, 15])):
        pooling = build(dataclasses.replace(config, pool_mode=mode), tokenizer)
        monkeypatch.setattr(pooling, "visual_projection", nn.Identity())
        tokens = pooling.align_visual(patches)[0]
        assert tokens[[0, 1, 3, 4], 0].tolist() == expected
        assert torch.equal(tokens[[2, 5]], pooling.newline.expand(2, -1))


@torch.no_grad()
def test_pooling_before_the_projection(config, tokenizer):
    features = torch.randn(2, 25, 16)
    before = build(dataclasses.replace(config, pool_after_projection=False), tokenizer)
    after = build(config, tokenizer)
    grid = features.transpose(1, 2).reshape(2, 16, 5, 5)
    pooled = F.max_pool2d(grid, 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(before.align_visual(features)[:, [0, 1, 3, 4]], before.visual_projection(pooled))
    assert not torch.allclose(before.align_visual(features), after.align_visual(features))
    whole = build(dataclasses.replace(config, pool_stride=1), tokenizer)
    assert whole.align_visual(features).shape == (2, 5 * 6, 32)


@torch.no_grad()
def test_vision_features_come_before_the_last_norm(model):
    frames = torch.randint(0, 256, (17, 3, 32, 32), dtype=torch.uint8)
    features = model.vision_features(frames)
    assert features.shape == (17, 25, 16)
    pixels = frames.float() / 127.5 - 1
    torch.testing.assert_close(model.vision.post_layernorm(features), model.vision(pixels).last_hidden_state)
    # More frames than go through the tower at once.
    torch.testing.assert_close(features[16:], model.vision_features(frames[16:]))


@torch.no_grad()
def test_segments_are_told_apart(model):
    """Two equal segments: their tokens differ by the position of the second one alone."""
    second = torch.rand(16, 200).repeat(1, 2)
    (tokens,) = model.align_audio(model.audio_features([second]))
    assert tokens.shape == (8, 32)
    torch.testing.assert_close(tokens[4:] - tokens[:4], segment_positions(2, 32)[1].expand(4, -1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_every_feature_lands_where_the_plan_says(model, clip, monkeypatch):
    prompts = [
        model.prepare(clip("a", seconds=3.0), ASKED),
        model.prepare(clip("b", seconds=10.0, sound_seconds=None), ASKED),
        model.prepare(clip("c", seconds=3.0, num_frames=0), ASKED),
    ]

    def number(count: int, offset: int) -> torch.Tensor:
        return (offset + torch.arange(count, dtype=torch.float32))[:, None].expand(count, 32)

    # Visual token k of a clip becomes 100 + k, audio token k of the encoder 1000 + k.
    monkeypatch.setattr(model, "align_visual", lambda features: number(len(features) * 6, 100).reshape(-1, 6, 32))
    monkeypatch.setattr(model, "align_audio", lambda features: [number(len(features[0]) // 25, 1000)])
    prefix = model.encode(prompts)
    for prompt, row, length in zip(prompts, prefix.embeddings, prefix.lengths.tolist(), strict=True):
        assert length == len(prompt.token_ids)
        assert not row[length:].any()
        visual, audio = iter(range(100, 1000)), iter([] if prompt.mel is None else prompt.audio_source)
        for token, vector in zip(prompt.token_ids, row, strict=False):
            if token == V:
                assert vector.tolist() == [next(visual)] * 32
            elif token == A:
                assert vector.tolist() == [1000 + next(audio)] * 32
            elif token == Z:
                assert not vector.any()
            else:
                assert torch.equal(vector, model.decoder.model.embed_tokens.weight[token])
        assert list(audio) == []


@torch.no_grad()
def test_a_frame_and_a_window_reach_only_their_tokens(model, clip):
    prompt = model.prepare(clip(seconds=3.0), ASKED)
    start = prompt.token_ids.index(V)
    before = model.encode([prompt]).embeddings[0]
    frames = prompt.frames.clone()
    frames[1] = 255 - frames[1]
    after = model.encode([dataclasses.replace(prompt, frames=frames)]).embeddings[0]
    moved = (before - after).abs().amax(-1).gt(1e-6).nonzero().flatten() - start
    # Frame 1 is 6 visual and 3 audio tokens in; of its own tokens, those behind rows are newline vectors.
    assert moved.tolist() == [9, 10, 12, 13]
    mel = prompt.mel.clone()
    mel[:, 200:] += 1.0
    after = model.encode([dataclasses.replace(prompt, mel=mel)]).embeddings[0]
    moved = (before - after).abs().amax(-1).gt(1e-6).nonzero().flatten() - start
    heard = np.flatnonzero(prompt.layout.stream == AUDIO)[prompt.audio_source >= 4]
    assert moved.tolist() == heard.tolist()


def test_a_prompt_of_another_clip_is_refused(model, clip):
    prompt = model.prepare(clip(seconds=2.0), ASKED)
    with pytest.raises(LayoutError, match="clip 'clip': 6 visual features for 12 placeholders"):
        model.encode([dataclasses.replace(prompt, frames=prompt.frames[:1])])
    with pytest.raises(LayoutError, match="0 audio features for 4 placeholders"):
        model.encode([dataclasses.replace(prompt, mel=None)])


# Verbs


@pytest.fixture
def prompts(model, clip):
    """Clips of every kind, each of another length."""
    clips = [
        clip("a", seconds=3.0),
        clip("b", seconds=10.0, sound_seconds=None, seed=1),
        clip("c", seconds=2.5, num_frames=0, seed=2),
        clip("d", seconds=1.0, num_frames=1, is_image=True, seed=3),
        clip("e", seconds=4.0, sound_seconds=0.3, seed=4),
    ]
    return [model.prepare(one, ASKED) for one in clips]


@torch.no_grad()
def test_batching_changes_nothing(model, prompts):
    together = model.encode(prompts)
    assert together.clip_ids == ("a", "b", "c", "d", "e")
    for row, prompt in enumerate(prompts):
        alone = model.encode([prompt])
        assert torch.equal(together.embeddings[row, : len(prompt.token_ids)], alone.embeddings[0])
    sampling = Sampling(max_new_tokens=6)
    batch = model.generate(together, 1, sampling)
    single = [model.generate(model.encode([prompt]), 1, sampling)[0] for prompt in prompts]
    assert [row[0].token_ids for row in batch] == [row[0].token_ids for row in single]
    assert model.encode([]).embeddings.shape == (0, 0, 32)


@torch.no_grad()
def test_score_equals_a_plain_forward(model, prompts):
    prefix = model.encode(prompts)
    texts = [[[7, 8, 9], [3]], [[1, 2]], [[4, 5, 6, 7], [8, 9], [2]], [[3, 3]], [[9, 8, 7]]]
    shared = model.score(prefix, texts)
    single = model.score(prefix, [row[:1] for row in texts])
    embed, decoder = model.decoder.model.embed_tokens, model.decoder
    for row, (prompt, completions) in enumerate(zip(prompts, texts, strict=True)):
        start = len(prompt.token_ids)
        for number, completion in enumerate(completions):
            sequence = torch.cat([prefix.embeddings[row, :start], embed(torch.tensor(completion))])
            logits = decoder(inputs_embeds=sequence[None]).logits[0, start - 1 : -1]
            expected = logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
            torch.testing.assert_close(shared[row][number], expected, atol=1e-5, rtol=0)
            if number == 0:
                torch.testing.assert_close(single[row][0], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_samples_come_from_one_prefill(model, prompts, monkeypatch):
    prefix = model.encode(prompts[:1])
    shapes, forward = [], model.decoder.model.forward

    def counted(**arguments):
        shapes.append(tuple(arguments["inputs_embeds"].shape[:2]))
        return forward(**arguments)

    monkeypatch.setattr(model.decoder.model, "forward", counted)
    sampling = Sampling(max_new_tokens=5, temperature=1.0, seed=3, repetition_guard="off")
    (samples,) = model.generate(prefix, 4, sampling)
    assert [shape for shape in shapes if shape[1] > 1] == [(1, len(prompts[0].token_ids))]
    assert len({sample.token_ids for sample in samples}) > 1
    scores = model.score(prefix, [[sample.token_ids for sample in samples]])[0]
    for sample, score in zip(samples, scores, strict=True):
        torch.testing.assert_close(sample.logps, score, atol=1e-5, rtol=0)


def test_gradients_reach_every_part_that_runs(model, clip):
    prompts = [model.prepare(clip(seconds=3.0), ASKED)]
    ids = model.encode_text("a bell", end=True)
    assert ids[-1] == model.stop_ids[0]
    score = model.score(model.encode(prompts), [[ids]])[0][0]
    (-score.sum()).backward()
    without = {name for name, part in model.named_parameters() if part.requires_grad and part.grad is None}
    assert without == set()
    assert not model.vision.post_layernorm.weight.requires_grad


@torch.no_grad()
def test_half_precision(config, tokenizer, clip):
    half = build(config, tokenizer).to(torch.bfloat16)
    prefix = half.encode([half.prepare(clip(seconds=3.0), ASKED)])
    assert prefix.embeddings.dtype == torch.bfloat16
    exact = build(config, tokenizer).encode([half.prepare(clip(seconds=3.0), ASKED)])
    torch.testing.assert_close(prefix.embeddings.float(), exact.embeddings, atol=0.1, rtol=0.1)
    assert len(half.generate(prefix, 2, Sampling(max_new_tokens=3))[0]) == 2


def test_five_minutes(config, tokenizer, clip):
    """Whisper's own segments: 300 s are ten of them, 40 tokens here; 110 frames of them at most."""
    long = dataclasses.replace(config, audio=dataclasses.replace(config.audio, segment_seconds=30, max_segments=200))
    model = build(long, tokenizer)
    made = clip(seconds=300.0, num_frames=5)
    prompt = model.prepare(made, ASKED)
    assert prompt.num_audio_tokens == 10 * 60
    assert prompt.layout.num_visual_tokens == 5 * 6
    prefix = model.encode([prompt])
    assert isinstance(prefix, Prefix)
    assert int(prefix.lengths[0]) == len(prompt.token_ids)
    assert np.count_nonzero(prompt.layout.stream == VISUAL) == 30


@torch.no_grad()
@pytest.mark.parametrize(("seconds", "tone", "frames"), [(2.6, 440.0, 3), (0.5, 440.0, 2), (2.6, None, 3)])
def test_files(model, clip_writer, tmp_path, seconds, tone, frames):
    """From an mp4 to captions: with sound, shorter than two frame steps, and without a sound track."""
    path = clip_writer(tmp_path / "clip.mp4", seconds=seconds, tone_hertz=tone)
    opened = open_clip(path, fps=model.clip_fps, min_frames=model.min_frames, max_frames=model.max_frames)
    prompt = model.prepare(opened, ASKED)
    assert len(prompt.frames) == frames
    assert (prompt.num_audio_tokens > 0) == (tone is not None)
    (samples,) = model.generate(model.encode([prompt]), 2, Sampling(max_new_tokens=4, temperature=1.0))
    assert [bool(sample.token_ids) for sample in samples] == [True, True]


# Settings


def test_what_callers_ask_first(model):
    assert (model.clip_fps, model.min_frames, model.max_frames, model.max_pixels) == (1.0, 2, 110, None)
    assert model.layout_rule == "salmonn2_v1/released"
    assert model.default_sampling == Sampling(max_new_tokens=12)
    assert model.default_instruction == model.config.default_instruction
    assert model.world is None
    assert model.device == torch.device("cpu")


def test_options(config, tokenizer):
    changed = config.changed(ModelOptions(layout="corrected", fps=2.0, max_frames=1))
    assert (changed.layout, changed.fps, changed.max_frames) == ("corrected", 2.0, 1)
    assert V1Model(changed, tokenizer).min_frames == 1
    assert config.changed(ModelOptions()) == config
    with pytest.raises(ConfigError, match=r"has no patch_pixels, total_pixels: every frame is 32 x 32"):
        config.changed(ModelOptions(patch_pixels=1, total_pixels=1))
    with pytest.raises(ConfigError, match="layout must be one of released, corrected, got 'train'"):
        config.changed(ModelOptions(layout="train"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0.0}, "fps must be finite"),
        ({"fps": math.inf}, "fps must be finite"),
        ({"max_frames": 0}, "max_frames >= 1"),
        ({"projector_depth": 0}, "projector_depth must be >= 1"),
        ({"pool_stride": 6}, "pool_stride between 1 and the 5 patches"),
    ],
)
def test_impossible_settings(config, change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config, **change)


def test_saving_with_an_adapter_is_refused(model, tmp_path):
    add_lora(model, rank=2, alpha=4)
    with pytest.raises(CheckpointError, match="merge_lora it first"):
        model.save(tmp_path / "saved")
