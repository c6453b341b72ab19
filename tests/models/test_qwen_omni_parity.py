"""Our path against transformers' own, and what transformers gets wrong: these tests fail when it no longer does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import WhisperFeatureExtractor

from avocet.errors import ConfigError
from avocet.models.layout import AUDIO, VISUAL
from avocet.models.loading import quiet_transformers
from avocet.models.qwen_omni import modeling, processing
from avocet.models.qwen_omni.parity import CASES, EQUAL, INSTRUCTION, TOLERANCE, Case, check_parity, compare, make_clip
from avocet.models.qwen_omni.reference import (
    reference_inputs,
    reference_positions,
    reference_processor,
    reference_text,
)
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.records import Sampling

FAMILY_NAMES = ("qwen2.5-omni", "qwen3-omni")
SHORT = Case(name="short", seconds=5.5)


@pytest.fixture(scope="module")
def tiny_models():
    return {name: tiny_model(name) for name in FAMILY_NAMES}


@pytest.fixture
def tiny(tiny_models, family):
    return tiny_models[family]


REPEATS = {("qwen3-omni", "299.9 s"), ("qwen3-omni", "300 s, 256 frames")}
"""Cases that show nothing in this family that "300 s" does not."""


def rows_of_the_table():
    for family in FAMILY_NAMES:
        for case in CASES:
            marks = [pytest.mark.slow] if (family, case.name) in REPEATS else []
            yield pytest.param(family, case, id=f"{family}-{case.name}", marks=marks)


@pytest.mark.parametrize(("family", "case"), rows_of_the_table())
def test_the_table(tiny, family, case):
    row = compare(tiny, case)
    assert row.passed, row
    assert (row.family, row.case) == (family, case.name)
    if case.expected(family) == EQUAL:
        assert row.ids_equal
        assert row.positions_equal
        assert row.max_logit_difference <= TOLERANCE
    else:
        assert row.expected.startswith("transformers ")


def test_the_command_behind_the_table(tiny_models, tmp_path, model):
    rows = list(check_parity(cases=["image", "no sound track"]))
    assert [(row.family, row.case) for row in rows] == [
        (family, case) for family in FAMILY_NAMES for case in ("image", "no sound track")
    ]
    tiny_models["qwen3-omni"].save(tmp_path / "omni")
    (row,) = check_parity(str(tmp_path / "omni"), cases=["image"])
    assert (row.family, row.passed) == ("qwen3-omni", True)
    with pytest.raises(ConfigError, match=r"unknown parity cases \['sand'\]; there are: 1 s, 5\.5 s"):
        next(check_parity(cases=["sand"]))
    model.save(tmp_path / "other")
    with pytest.raises(ConfigError, match="the parity test is of the Qwen-Omni family"):
        next(check_parity(str(tmp_path / "other")))


def test_the_table_would_see_an_error(tiny, monkeypatch):
    """One wrong thing at a time in our path must not go unnoticed."""
    case = Case(name="a", seconds=5.6)
    assert compare(tiny, case).passed
    log_mel, prompt_positions, resize = processing.log_mel, modeling.prompt_positions, modeling.resize_frames

    def fails() -> bool:
        return not compare(tiny, case).passed

    with monkeypatch.context() as patch:  # the other generation's way to end a spectrogram: one mel frame
        patch.setattr(processing, "log_mel", lambda wave, bins, pad: log_mel(wave, bins, pad=not pad))
        assert fails()
    with monkeypatch.context() as patch:  # a spectrogram off by one in 1,000
        patch.setattr(processing, "log_mel", lambda wave, bins, pad: log_mel(wave, bins, pad=pad) * 1.001)
        assert fails()
    with monkeypatch.context() as patch:
        flip = {"shared_markers": not tiny.family.shared_markers}
        patch.setattr(modeling, "prompt_positions", lambda *given, **named: prompt_positions(*given, **flip))
        assert fails()
    with monkeypatch.context() as patch:  # a picture one grey level brighter
        calls = []

        def brighter(frames, height, width):
            calls.append(height)
            frames = resize(frames, height, width)
            return frames.clamp(max=254) + 1 if len(calls) == 1 else frames

        patch.setattr(modeling, "resize_frames", brighter)  # the reference has its own
        assert fails()
        assert len(calls) == 1


@pytest.mark.parametrize(
    "case",
    [
        SHORT,
        Case(name="no sound track", seconds=5.5, has_sound=False),
        Case(name="sound only", seconds=3.3, has_picture=False),
        Case(name="image", seconds=0.5, has_sound=False, is_image=True),
    ],
    ids=lambda case: case.name,
)
def test_greedy_completions_are_those_of_transformers(tiny, case):
    clip = make_clip(case)
    prompt = tiny.prepare(clip, INSTRUCTION)
    assert greedy(tiny, prompt) == transformers_greedy(tiny, reference_inputs(tiny, clip, prompt))


def greedy(model, prompt) -> list[int]:
    ((completion,),) = model.generate(model.encode([prompt]), 1, Sampling(max_new_tokens=8))
    return list(completion.token_ids)


def transformers_greedy(model, inputs) -> list[int]:
    ends = {"eos_token_id": model.stop_ids[0], "pad_token_id": model.stop_ids[-1]}
    with quiet_transformers(), torch.no_grad():
        tokens = model.thinker.generate(**inputs, max_new_tokens=8, do_sample=False, **ends)
    return tokens[0, inputs["input_ids"].shape[1] :].tolist()


def test_sound_that_ends_first(tiny):
    """6.04 s of sound in 8 s: text and completion go on after the sound, though the picture is further in one family.

    So it is when transformers generates, and when it is trained with prompt and answer in one sequence.
    """
    clip = make_clip(Case(name="a", seconds=8))
    clip = dataclasses.replace(clip, waveform=clip.waveform[: round(6.04 * 16_000)])
    prompt = tiny.prepare(clip, "?")
    inputs = reference_inputs(tiny, clip, prompt)
    assert inputs["input_ids"][0].tolist() == list(prompt.token_ids)
    torch.testing.assert_close(reference_positions(tiny, inputs).double(), torch.from_numpy(prompt.positions))
    if tiny.family.name == "qwen2.5-omni":
        assert prompt.positions[0].max() > prompt.positions[0, -1] + 1
    tokens = greedy(tiny, prompt)
    assert tokens == transformers_greedy(tiny, inputs)
    whole = inputs | {"input_ids": torch.cat([inputs["input_ids"], torch.tensor([tokens])], dim=1)}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    with torch.no_grad():
        logits = tiny.thinker(**whole).logits[0, len(prompt.token_ids) - 1 : -1]
        (scores,) = tiny.score(tiny.encode([prompt]), [[tokens]])[0]
    theirs = logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None]).squeeze(-1)
    torch.testing.assert_close(scores, theirs, atol=1e-4, rtol=1e-4)


# What transformers gets wrong.


def batch_positions(model, rows) -> torch.Tensor:
    """(3, B, L) that transformers computes for a left-padded batch of (inputs, has sound)."""
    longest = max(inputs["input_ids"].shape[1] for inputs in rows)
    ids, mask = (
        torch.cat([F.pad(inputs[name], (longest - inputs[name].shape[1], 0)) for inputs in rows])
        for name in ("input_ids", "attention_mask")
    )
    sound = [inputs["feature_attention_mask"].sum(-1) for inputs in rows if "feature_attention_mask" in inputs]
    positions, _ = model.thinker.get_rope_index(
        ids,
        None,
        torch.cat([inputs["video_grid_thw"] for inputs in rows]),
        mask,
        True,
        torch.cat(sound),
        torch.cat([torch.as_tensor(inputs["video_second_per_grid"]) for inputs in rows]),
    )
    return positions


def test_a_silent_video_beside_one_with_sound(tiny):
    """transformers has one `use_audio_in_video` for a batch, and takes the silent video's tokens for text."""
    clips = [make_clip(SHORT), make_clip(dataclasses.replace(SHORT, name="silent", has_sound=False))]
    prompts = [tiny.prepare(clip, INSTRUCTION) for clip in clips]
    inputs = [reference_inputs(tiny, clip, prompt) for clip, prompt in zip(clips, prompts, strict=True)]
    theirs = batch_positions(tiny, inputs)
    with_sound, silent = (len(prompt.token_ids) for prompt in prompts)
    torch.testing.assert_close(theirs[:, 0, -with_sound:].double(), torch.from_numpy(prompts[0].positions))
    assert theirs[:, 1, -silent:].tolist() == [list(range(silent))] * 3
    # Ours are those of the clip alone, in a batch too.
    alone = reference_positions(tiny, inputs[1])
    ours = tiny.encode(prompts).positions[:, 1, :silent]
    torch.testing.assert_close(ours.double(), alone.double())
    assert not torch.equal(ours.double(), torch.arange(silent).double().expand(3, -1))


def test_a_frame_rate_that_nobody_told(tiny, family):
    """Without `fps` transformers assumes 2 frames per second, or 1 in Qwen3-Omni: our rule `released`."""
    true_fps = 1.0 if family == "qwen2.5-omni" else 2.0
    clip = make_clip(Case(name="a", seconds=8, fps=true_fps, has_sound=False))
    prompt = tiny.prepare(clip, INSTRUCTION)
    size = {"shortest_edge": 4 * tiny.sizes.factor**2, "longest_edge": 12 * tiny.sizes.factor**2}
    with quiet_transformers():
        inputs = reference_processor(tiny)(
            text=[reference_text(tiny, clip, INSTRUCTION)], videos=[clip.frames], size=size, return_tensors="pt"
        )
    assumed = 1.0 if family == "qwen2.5-omni" else 2.0
    assert [float(seconds) for seconds in inputs["video_second_per_grid"]] == [assumed]
    theirs = reference_positions(tiny, dict(inputs)).double()
    ours = torch.from_numpy(prompt.positions)
    released = tiny_model(family)
    released.settings = dataclasses.replace(released.settings, layout="released")
    torch.testing.assert_close(theirs, torch.from_numpy(released.prepare(clip, INSTRUCTION).positions))
    # Patches are 2 s apart, or 1 s: theirs lie at half, or at twice their seconds.
    video = np.isin(prompt.token_ids, tiny.ids.video)
    first = ours[0, video].min()
    factor = 0.5 if family == "qwen2.5-omni" else 2.0
    torch.testing.assert_close(theirs[0, video] - first, (ours[0, video] - first) * factor)
    assert prompt.layout.start_seconds.max() == (6.0 if family == "qwen2.5-omni" else 7.0)


def test_patches_more_than_two_seconds_apart(tiny_models):
    """10 frames of 60 s, 12 s to a patch: transformers puts the second patch after 2 s of sound."""
    tiny = tiny_models["qwen2.5-omni"]
    clip = make_clip(Case(name="a", seconds=60, max_frames=10))
    prompt = tiny.prepare(clip, INSTRUCTION)
    theirs = reference_inputs(tiny, clip, prompt)["input_ids"][0].tolist()

    def sounds_before_second_patch(ids) -> int:
        media = [i for i in ids if i in (tiny.ids.video, tiny.ids.audio)]
        per_patch = media.count(tiny.ids.video) // 5
        second = [place for place, i in enumerate(media) if i == tiny.ids.video][per_patch]
        return media[:second].count(tiny.ids.audio)

    assert sorted(theirs) == sorted(prompt.token_ids)
    assert sounds_before_second_patch(theirs) == 50
    assert sounds_before_second_patch(prompt.token_ids) == 12 * 25


def test_sound_over_five_minutes(tiny_models):
    tiny = tiny_models["qwen2.5-omni"]
    clip = make_clip(Case(name="a", seconds=302, has_picture=False))
    prompt = tiny.prepare(clip, INSTRUCTION)
    inputs = reference_inputs(tiny, clip, prompt)
    assert int((inputs["input_ids"] == tiny.ids.audio).sum()) == 7500
    assert prompt.num_audio_tokens == 302 * 25


def test_the_extractors_own_default_is_thirty_seconds(tiny_models):
    tiny = tiny_models["qwen2.5-omni"]
    clip = make_clip(Case(name="a", seconds=45, has_picture=False))
    extractor = WhisperFeatureExtractor(feature_size=128)
    assert extractor(clip.waveform, sampling_rate=16_000)["input_features"].shape == (1, 128, 3000)
    processor = reference_processor(tiny)
    processor.feature_extractor = extractor
    with quiet_transformers():
        inputs = processor(
            text=[reference_text(tiny, clip, INSTRUCTION)],
            audio=[clip.waveform],
            audio_kwargs={"sampling_rate": 16_000},
            return_tensors="pt",
        )
    assert int((inputs["input_ids"] == tiny.ids.audio).sum()) == 750
    assert tiny.prepare(clip, INSTRUCTION).num_audio_tokens == 45 * 25


def test_a_spectrogram_that_depends_on_its_neighbours(tiny_models):
    """Qwen3-Omni's processor pads sounds to the longest of the batch: the end of a shorter one changes."""
    tiny = tiny_models["qwen3-omni"]
    clips = [make_clip(Case(name=f"{seconds}", seconds=seconds, has_picture=False)) for seconds in (2, 3)]
    texts = [reference_text(tiny, clip, INSTRUCTION) for clip in clips]

    def features(count: int) -> torch.Tensor:
        with quiet_transformers():
            return reference_processor(tiny)(
                text=texts[:count],
                audio=[clip.waveform for clip in clips[:count]],
                audio_kwargs={"sampling_rate": 16_000},
                padding=True,
                return_tensors="pt",
            )["input_features"][0, :, :200]

    alone, together = features(1), features(2)
    changed = (alone - together).abs().amax(0) > 1e-3
    assert changed.nonzero().flatten().tolist() == [199]
    ours = tiny.encode([tiny.prepare(clip, INSTRUCTION) for clip in clips])
    torch.testing.assert_close(tiny.prepare(clips[0], INSTRUCTION).mel, alone, atol=1e-5, rtol=1e-5)
    single = tiny.encode([tiny.prepare(clips[0], INSTRUCTION)])
    length = int(single.lengths[0])
    torch.testing.assert_close(ours.embeddings[0, :length], single.embeddings[0], atol=0, rtol=0)


def test_frames_that_are_not_evenly_spaced(tiny_models):
    """The picture stands still from 3.2 to 9 s: transformers spreads what is left evenly."""
    tiny = tiny_models["qwen2.5-omni"]
    case = next(case for case in CASES if case.freeze_from_seconds is not None)
    clip = make_clip(case)
    # Sampled every 0.5 s up to 3 s, then 9 and 9.5 s: patches of (0, 0.5), (1, 1.5), (2, 2.5), (3, 9), (9.5).
    np.testing.assert_allclose(clip.sample_times_seconds, [0, 0.5, 1, 1.5, 2, 2.5, 3, 9, 9.5])
    prompt = tiny.prepare(clip, INSTRUCTION)
    plan = prompt.layout
    visual = plan.stream == VISUAL
    assert np.unique(plan.positions[0][visual]).tolist() == [0, 25, 50, 75, 237]  # 9.5 * 25 = 237.5
    assert plan.positions[0][plan.stream == AUDIO].tolist() == list(range(250))
    inputs = reference_inputs(tiny, clip, prompt)
    places = reference_positions(tiny, inputs)[0, inputs["input_ids"][0] == tiny.ids.video]
    assert torch.unique(places - places.min()).tolist() == [0, 25, 50, 75, 100]
