"""The offline vLLM engine against a fake `vllm` that records what it is asked and answers with a tiny model.

Nothing here shows that the real vLLM takes these calls; docs/rollouts.md says what was run with it.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avocet.errors import ConfigError
from avocet.media import open_clip
from avocet.models.lora import add_lora, lora_parameters
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.models.registry import load_model
from avocet.models.salmonn2.tiny import tiny_plus
from avocet.records import ClipRef, Sampling
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training.finetune.export import load_adapter_folder
from avocet.training.grpo.rollouts import RolloutError, WeightUpdate
from avocet.training.grpo.rollouts.in_process import InProcessEngine
from avocet.training.grpo.rollouts.parity import check_parity
from avocet.training.grpo.rollouts.vllm_offline import VllmOfflineEngine, VllmSettings, compact_ids

SAMPLING = Sampling(max_new_tokens=6, temperature=1.0, repetition_guard="off")


@dataclasses.dataclass
class Wish:
    """`vllm.SamplingParams`."""

    fields: dict[str, Any]


class FakeLlm:
    """`vllm.LLM`: it is handed the prompts of the test instead of reading media."""

    made: FakeLlm
    prompts: dict[int, Any]
    """Number of compact tokens -> the prompt that they stand for."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.calls: list[tuple[str, Any]] = []
        self.inputs: list[Any] = []
        self.wishes: list[Wish] = []
        self.model: Any = tiny_model()
        self.is_broken = False
        FakeLlm.made = self

    def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))

    def wake_up(self) -> None:
        self.calls.append(("wake_up", None))

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        if self.is_broken:
            raise RuntimeError("worker died")
        self.calls.append((method, kwargs))
        self.model = load_model(kwargs["weights_path"], device="cpu", dtype="float32").model

    def reset_prefix_cache(self) -> None:
        self.calls.append(("reset_prefix_cache", None))

    def reset_mm_cache(self) -> None:
        self.calls.append(("reset_mm_cache", None))

    def generate(self, inputs: list[Any], wishes: list[Wish], *, use_tqdm: bool, lora_request: Any) -> list[Any]:
        self.calls.append(("generate", None if lora_request is None else lora_request.fields))
        self.inputs, self.wishes = inputs, wishes
        model = self.model
        if lora_request is not None:
            model = tiny_model()
            load_adapter_folder(model, Path(lora_request.fields[2]))
        return [self._one(model, given, wish.fields) for given, wish in zip(inputs, wishes, strict=True)]

    def _one(self, model: Any, given: dict[str, Any], wish: dict[str, Any]) -> Any:
        prompt = FakeLlm.prompts[len(given["prompt_token_ids"])]
        sampling = dataclasses.replace(SAMPLING, max_new_tokens=wish["max_tokens"])
        engine = InProcessEngine(model)
        group = engine.sample([prompt], [None], [""], wish["n"], sampling, [wish["seed"]])[0]  # type: ignore[list-item]
        outputs = [
            types.SimpleNamespace(
                token_ids=one.token_ids,
                text=one.text,
                finish_reason="stop" if one.stop_reason == "end" else "length",
                logprobs=[
                    {token: types.SimpleNamespace(logprob=value)}
                    for token, value in zip(one.token_ids, one.log_probs or (), strict=True)
                ],
            )
            for one in group
        ]
        return types.SimpleNamespace(prompt_token_ids=list(prompt.token_ids), outputs=outputs)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("vllm")
    module.__spec__ = types.SimpleNamespace(name="vllm")
    module.LLM = FakeLlm
    module.SamplingParams = lambda **fields: Wish(fields)
    request: Any = types.ModuleType("vllm.lora.request")
    request.LoRARequest = lambda *fields: types.SimpleNamespace(fields=fields)
    for name, value in (("vllm", module), ("vllm.lora", types.ModuleType("vllm.lora")), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, value)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[ClipRef]:
    folder = tmp_path_factory.mktemp("clips")
    stage(make_script(81, level=1), folder / "81.mp4")
    return [
        ClipRef(id="sound", path=str(folder / "81.mp4"), end_seconds=3.0),
        ClipRef(id="mute", path=str(folder / "81.mp4"), end_seconds=2.5, meta={"audio_policy": "ignore"}),
    ]


def policy() -> Any:
    model = tiny_model()
    model.requires_grad_(False)
    add_lora(model, 2, 4.0)
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return model


def prompts_of(model: Any, clips: list[ClipRef]) -> list[Any]:
    prompts = []
    for clip, question in zip(clips, ("Describe it.", "Describe the video and all its sounds."), strict=True):
        policy_ = clip.meta.get("audio_policy", "auto")
        opened = open_clip(clip.path, fps=2.0, end_seconds=clip.end_seconds, audio=policy_, clip_id=clip.id)
        prompts.append(model.prepare(opened, question))
    FakeLlm.prompts = {len(compact_ids(model.tokenizer, prompt)): prompt for prompt in prompts}
    return prompts


def settings(folder: Path, **changes: Any) -> VllmSettings:
    given: dict[str, Any] = {"model": "base", "folder": str(folder), "dtype": "float32", "adapter_renames": ()}
    return VllmSettings(**given | changes)


@pytest.mark.usefixtures("fake")
def test_a_step_with_merged_weights(clips: list[ClipRef], tmp_path: Path) -> None:
    model = policy()
    prompts = prompts_of(model, clips)
    engine = VllmOfflineEngine(settings(tmp_path, engine_arguments={"enforce_eager": True}), model)
    llm = FakeLlm.made
    assert llm.arguments["model"] == "base"
    assert (llm.arguments["enable_sleep_mode"], llm.arguments["enforce_eager"]) == (True, True)
    with pytest.raises(ConfigError, match="call sync first"):
        engine.sample(prompts, clips, ["", ""], 3, SAMPLING, [7, 8])
    engine.sync(WeightUpdate(version=4, model=model))
    groups = engine.sample(prompts, clips, ["", ""], 3, SAMPLING, [7, 8])
    folder = str(tmp_path / "version-00000004")
    assert llm.calls == [
        *(("sleep", 1), ("wake_up", None)),
        ("reload_weights", {"weights_path": folder}),
        *(("reset_prefix_cache", None), ("reset_mm_cache", None)),
        *(("sleep", 1), ("wake_up", None), ("generate", None), ("sleep", 1)),
    ]
    wanted = InProcessEngine(model).sample(prompts, clips, ["", ""], 3, SAMPLING, [7, 8])
    assert [[one.token_ids for one in group] for group in groups] == [[one.token_ids for one in g] for g in wanted]
    torch.testing.assert_close(
        torch.tensor(groups[0][0].log_probs), torch.tensor(wanted[0][0].log_probs), atol=1e-4, rtol=0
    )
    fields = llm.wishes[1].fields
    assert (fields["n"], fields["seed"], fields["logprobs"], fields["temperature"], fields["top_p"]) == (3, 8, 0, 1, 1)
    assert (fields["top_k"], fields["repetition_penalty"], fields["stop_token_ids"]) == (0, 1.0, list(model.stop_ids))
    engine.close()
    with pytest.raises(ConfigError, match="nothing after close"):
        engine.sample(prompts, clips, ["", ""], 3, SAMPLING, [7, 8])


@pytest.mark.usefixtures("fake")
def test_what_it_is_given(clips: list[ClipRef], tmp_path: Path) -> None:
    model = policy()
    prompts = prompts_of(model, clips)
    engine = VllmOfflineEngine(settings(tmp_path, sleep=False), model)
    engine.sync(WeightUpdate(version=0, model=model))
    engine.sample(prompts, clips, ["", ""], 1, SAMPLING, [7, 8])
    heard, muted = FakeLlm.made.inputs
    frames, facts = heard["multi_modal_data"]["video"]
    assert np.array_equal(frames, prompts[0].frames.permute(0, 2, 3, 1).numpy())
    assert facts["fps"] == 2.0
    assert heard["multi_modal_data"]["audio"][1] == 16_000
    assert heard["mm_processor_kwargs"]["use_audio_in_video"] is True
    # Five frames: the last one is repeated, which is what the trainer's towers do.
    assert len(prompts[1].frames) == 5
    assert len(muted["multi_modal_data"]["video"][0]) == 6
    assert "audio" not in muted["multi_modal_data"]
    assert muted["mm_processor_kwargs"]["use_audio_in_video"] is False
    # system, user, <|vision_bos|><|VIDEO|><|vision_eos|>, question: without the markers of the sound.
    text = model.tokenizer.decode(heard["prompt_token_ids"])
    assert "user\n<|vision_bos|><|VIDEO|><|vision_eos|>Describe it.<|im_end|>" in text
    assert ("sleep", 1) not in FakeLlm.made.calls


@pytest.mark.usefixtures("fake")
def test_adapters_and_parity(clips: list[ClipRef], tmp_path: Path) -> None:
    model = policy()
    engine = VllmOfflineEngine(settings(tmp_path, sync="adapter"), model)
    assert FakeLlm.made.arguments["enable_lora"] is True
    for version in (0, 3):
        engine.sync(WeightUpdate(version=version, model=model))
    assert [path.name for path in tmp_path.iterdir()] == ["version-00000003"]
    prompts = prompts_of(model, clips)
    engine.sample(prompts, clips, ["", ""], 1, SAMPLING, [7, 8])
    request = ("policy-00000003", 4, str(tmp_path / "version-00000003"))
    assert ("generate", request) in FakeLlm.made.calls
    opened = open_clip(clips[0].path, fps=2.0, end_seconds=3.0, clip_id="sound", max_pixels=model.max_pixels)
    prompt = model.prepare(opened, model.default_instruction)
    FakeLlm.prompts = {len(compact_ids(model.tokenizer, prompt)): prompt}
    assert check_parity(engine, model, clips[:1]).passed
    # An engine that never saw the adapter is found out.
    engine._adapter = None
    assert not check_parity(engine, model, clips[:1]).passed


@pytest.mark.usefixtures("fake")
def test_what_goes_wrong(clips: list[ClipRef], tmp_path: Path) -> None:
    model = policy()
    engine = VllmOfflineEngine(settings(tmp_path), model)
    FakeLlm.made.is_broken = True
    with pytest.raises(RolloutError, match=r"did not load .*version-00000000: RuntimeError: worker died"):
        engine.sync(WeightUpdate(version=0, model=model))
    for changes in ({"dtype": "int8"}, {"gpu_memory_utilization": 0.0}):
        with pytest.raises(ConfigError):
            settings(tmp_path, **changes)
    plus = tiny_plus()
    opened = open_clip(clips[0].path, fps=2.0, end_seconds=1.0)
    prompt = tiny_model().prepare(opened, "x")
    plus.tokenizer.video_token = None
    with pytest.raises(ConfigError, match="vLLM engines take models of the Qwen-Omni family"):
        compact_ids(plus.tokenizer, prompt)


def test_without_vllm(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install vllm"):
        VllmOfflineEngine(settings(tmp_path), tiny_model())
