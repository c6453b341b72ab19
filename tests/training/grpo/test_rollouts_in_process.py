"""The in-process engine: one prefill, the policy's own numbers, the same again from the same seeds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from avocet.errors import ConfigError
from avocet.media import open_clip
from avocet.models.lora import add_lora, lora_disabled, lora_parameters
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.models.salmonn2.tiny import tiny_plus
from avocet.records import ClipRef, Sampling
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training.grpo.rollouts import Rollout, WeightUpdate, rollout_seed
from avocet.training.grpo.rollouts.in_process import InProcessEngine

SAMPLING = Sampling(max_new_tokens=12, temperature=1.0, repetition_guard="off")
SEEDS = (5, 6)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[ClipRef]:
    folder = tmp_path_factory.mktemp("clips")
    for seed in (81, 82):
        stage(make_script(seed, level=1), folder / f"{seed}.mp4")
    return [ClipRef(id=str(seed), path=str(folder / f"{seed}.mp4"), end_seconds=3.0) for seed in (81, 82)]


def prompts_of(model: Any, clips: list[ClipRef], instruction: str = "Describe the video.") -> list[Any]:
    reading = {"fps": model.clip_fps, "max_frames": model.max_frames, "max_pixels": model.max_pixels}
    opened = [open_clip(clip.path, end_seconds=clip.end_seconds, clip_id=clip.id, **reading) for clip in clips]
    return [model.prepare(clip, instruction) for clip in opened]


@pytest.fixture(params=["qwen2.5-omni", "plus"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_plus() if request.param == "plus" else tiny_model(request.param)


def sample(engine: InProcessEngine, model: Any, clips: list[ClipRef], n: int = 8, **changes: Any) -> Any:
    arguments = {"sampling": SAMPLING, "seeds": SEEDS} | changes
    return engine.sample(prompts_of(model, clips), clips, ["Describe the video."] * len(clips), n, **arguments)


def test_eight_from_one_prefill_are_eight_alone(model: Any, clips: list[ClipRef]) -> None:
    lengths: list[int] = []
    decoder = model.language_decoder()
    hook = decoder.backbone.register_forward_pre_hook(
        lambda _, __, given: lengths.append(given["inputs_embeds"].shape[1]), with_kwargs=True
    )
    together = sample(InProcessEngine(model), model, clips)
    longest = max(len(prompt.token_ids) for prompt in prompts_of(model, clips))
    assert Counter(length > 1 for length in lengths)[True] == 1
    assert lengths[0] == longest
    alone = sample(InProcessEngine(model, samples_at_once=1), model, clips)
    hook.remove()
    assert Counter(length > 1 for length in lengths)[True] == 1 + 8
    for group, single in zip(together, alone, strict=True):
        assert [one.token_ids for one in group] == [one.token_ids for one in single]
        for one, other in zip(group, single, strict=True):
            torch.testing.assert_close(torch.tensor(one.log_probs), torch.tensor(other.log_probs))
    assert len({one.token_ids for one in together[0]}) > 4
    # Fewer rollouts are the first of more, and a prompt is the same alone.
    few = sample(InProcessEngine(model, samples_at_once=2), model, clips[1:], 3, seeds=SEEDS[1:])
    assert [one.token_ids for one in few[0]] == [one.token_ids for one in together[1][:3]]


def test_log_probs_are_those_of_the_policy_at_temperature_one(model: Any, clips: list[ClipRef]) -> None:
    hot = Sampling(max_new_tokens=8, temperature=0.7, top_p=0.9, repetition_guard="off")
    add_lora(model, 2, 4.0)
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    groups = sample(InProcessEngine(model), model, clips, 3, sampling=hot)
    prompts = prompts_of(model, clips)
    with torch.no_grad():
        scores = model.score(model.encode(prompts), [[one.token_ids for one in group] for group in groups])
        with lora_disabled(model):
            before = model.score(model.encode(prompts), [[one.token_ids for one in group] for group in groups])
    for group, wanted, other in zip(groups, scores, before, strict=True):
        for rollout, log_probs, base in zip(group, wanted, other, strict=True):
            torch.testing.assert_close(torch.tensor(rollout.log_probs), log_probs.cpu(), atol=1e-4, rtol=0)
            assert (log_probs - base).abs().max() > 0.01
            assert rollout.text == model.decode(rollout.token_ids)
            assert (rollout.stop_reason == "end") == (rollout.token_ids[-1] in model.stop_ids)


def test_seeds_say_everything(clips: list[ClipRef]) -> None:
    model = tiny_model()
    engine = InProcessEngine(model)
    first = sample(engine, model, clips)
    torch.manual_seed(99)
    assert sample(engine, model, clips) == first
    assert sample(engine, model, clips, seeds=(5, 7))[0] == first[0]
    assert sample(engine, model, clips, seeds=(5, 7))[1] != first[1]
    # Not of the sampling's own seed, and one seed says something else of each clip.
    other = Sampling(**{**SAMPLING.to_dict(), "seed": 77})
    assert sample(engine, model, clips, sampling=other) == first
    same = engine.sample(prompts_of(model, clips), clips, [""] * 2, 4, SAMPLING, (5, 5))
    assert same[0] != same[1]


def test_the_seed_of_a_group() -> None:
    assert rollout_seed(0, 3, "a") == rollout_seed(0, 3, "a")
    seeds = {rollout_seed(seed, step, clip) for seed in (0, 1) for step in (0, 1, 10) for clip in ("a", "b", "1/0")}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_modes_gradients_and_dropout(clips: list[ClipRef]) -> None:
    model = tiny_model()
    add_lora(model, 2, 4.0, dropout=0.5)
    wanted = sample(InProcessEngine(model), model, clips)
    model.decoder.train()
    modes = [module.training for module in model.modules()]
    assert sample(InProcessEngine(model), model, clips) == wanted
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_refused(clips: list[ClipRef]) -> None:
    model = tiny_model()
    engine = InProcessEngine(model)
    add_lora(model, 2, 4.0)
    with lora_disabled(model), pytest.raises(ConfigError, match="adapter is switched off"):
        sample(engine, model, clips)
    with pytest.raises(ConfigError, match="2 prompts came with 2 clips, 2 instructions and 1 seeds"):
        sample(engine, model, clips, seeds=(5,))
    with pytest.raises(ConfigError, match="n >= 1"):
        sample(engine, model, clips, 0)
    with pytest.raises(ConfigError, match="samples_at_once"):
        InProcessEngine(model, samples_at_once=-1)
    with pytest.raises(ConfigError, match="another model"):
        engine.sync(WeightUpdate(version=0, model=tiny_model()))
    with pytest.raises(ConfigError, match="counts its steps"):
        WeightUpdate(version=-1, model=model)
    with pytest.raises(ConfigError, match="2 tokens has 1 log"):
        Rollout(token_ids=(1, 2), text="", stop_reason="end", log_probs=(0.0,))
    engine.sync(WeightUpdate(version=0, model=model))
    assert engine.sample([], [], [], 2, SAMPLING, []) == []
    engine.close()


def test_autocast_is_the_trainings(clips: list[ClipRef], tmp_path: Path) -> None:
    model = tiny_model()
    plain = sample(InProcessEngine(model), model, clips, 1)[0][0]
    cast = sample(InProcessEngine(model, autocast=True), model, clips, 1)[0][0]
    assert plain.log_probs != cast.log_probs
    assert plain.log_probs is not None
    assert cast.log_probs is not None
    assert abs(plain.log_probs[0] - cast.log_probs[0]) < 2
