"""The server engine against a real server with a tiny model in it: same tokens, same numbers, weights in step."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from avocet.errors import ConfigError
from avocet.media import open_clip
from avocet.models.lora import add_lora, lora_parameters
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.records import ClipRef, Sampling
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training.data.formats_common import POLICY_KEY
from avocet.training.grpo.rollouts import RolloutError, WeightUpdate
from avocet.training.grpo.rollouts.in_process import InProcessEngine
from avocet.training.grpo.rollouts.parity import check_parity
from avocet.training.grpo.rollouts.server import EndpointCall, ServerEngine, ServerSettings, system_prompt

sys.path.insert(0, str(Path(__file__).parent))
from policy_server import PolicyServer, Reply

SAMPLING = Sampling(max_new_tokens=10, temperature=1.0, repetition_guard="off")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[ClipRef]:
    """With sound; a stretch of it with an odd number of frames; without sound."""
    folder = tmp_path_factory.mktemp("clips")
    for seed in (81, 82):
        stage(make_script(seed, level=1), folder / f"{seed}.mp4")
    first, second = str(folder / "81.mp4"), str(folder / "82.mp4")
    return [
        ClipRef(id="81", path=first, end_seconds=3.0),
        ClipRef(id="81b", path=first, start_seconds=0.5, end_seconds=3.0),
        ClipRef(id="82", path=second, end_seconds=2.0, meta={POLICY_KEY: "ignore"}),
    ]


def prompts_of(model: Any, clips: list[ClipRef]) -> list[Any]:
    reading = {"fps": model.clip_fps, "max_frames": model.max_frames, "max_pixels": model.max_pixels}
    return [
        model.prepare(
            open_clip(
                clip.path,
                start_seconds=clip.start_seconds,
                end_seconds=clip.end_seconds,
                audio=clip.meta.get(POLICY_KEY, "auto"),
                clip_id=clip.id,
                **reading,
            ),
            asked(clip),
        )
        for clip in clips
    ]


def asked(clip: ClipRef) -> str:
    return f"Describe {clip.id}."


def policy(shift: float = 0.3) -> Any:
    """The base with an adapter that has learnt something."""
    model = tiny_model()
    model.requires_grad_(False)
    add_lora(model, 2, 4.0)
    move(model, shift)
    return model


def move(model: Any, shift: float, seed: int = 1) -> None:
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=source) * shift)


OPEN: list[ServerEngine] = []


@pytest.fixture(autouse=True)
def _engines_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture
def server(clips: list[ClipRef]) -> Iterator[PolicyServer]:
    with PolicyServer(tiny_model) as running:
        running.clip_of = {asked(clip): clip.id for clip in clips}
        yield running


def engine_of(server: PolicyServer, model: Any, folder: Path, **changes: Any) -> ServerEngine:
    settings: dict[str, Any] = {
        "base_url": server.base_url,
        "model": "policy",
        "folder": str(folder),
        "dtype": "float32",
        "max_retries": 2,
        "backoff_base_seconds": 0.01,
        "adapter_renames": (),
    }
    OPEN.append(ServerEngine(ServerSettings(**settings | changes), model, api_key="secret-key"))
    return OPEN[-1]


def sample(engine: Any, model: Any, clips: list[ClipRef], n: int = 4, sampling: Sampling = SAMPLING) -> Any:
    questions = [asked(clip) for clip in clips]
    return engine.sample(prompts_of(model, clips), clips, questions, n, sampling, [7 + k for k in range(len(clips))])


def same(groups: Any, wanted: Any) -> None:
    assert [[one.token_ids for one in group] for group in groups] == [[one.token_ids for one in g] for g in wanted]
    for group, other in zip(groups, wanted, strict=True):
        for one, two in zip(group, other, strict=True):
            assert (one.text, one.stop_reason) == (two.text, two.stop_reason)
            torch.testing.assert_close(torch.tensor(one.log_probs), torch.tensor(two.log_probs), atol=1e-4, rtol=0)


@pytest.mark.parametrize("sync", ["merged", "adapter"])
def test_the_same_as_in_process_while_the_policy_moves(
    server: PolicyServer, clips: list[ClipRef], tmp_path: Path, sync: str
) -> None:
    model = policy()
    engine = engine_of(server, model, tmp_path, sync=sync)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine.sync(WeightUpdate(version=0, model=model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    first = sample(engine, model, clips)
    same(first, sample(InProcessEngine(model), model, clips))
    assert check_parity(engine, model, clips, 1e-3).passed
    move(model, 0.3, seed=2)
    engine.sync(WeightUpdate(version=1, model=model))
    second = sample(engine, model, clips)
    same(second, sample(InProcessEngine(model), model, clips))
    assert second != first
    assert sum(engine.rejections.values()) == 0
    # Only the newest version is kept.
    assert [path.name for path in tmp_path.iterdir()] == ["version-00000001"]
    num_calls = len(server.calls)
    engine.sync(WeightUpdate(version=1, model=model))
    assert len(server.calls) == num_calls


def test_what_a_request_says(server: PolicyServer, clips: list[ClipRef], tmp_path: Path) -> None:
    model = policy()
    engine = engine_of(server, model, tmp_path, extra_body={"priority": 3}, processor_arguments={"cap": 1})
    engine.sync(WeightUpdate(version=0, model=model))
    sample(engine, model, clips[:1], n=4)
    body = server.calls[-1][1]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"] == model.family.system_prompt
    assert system_prompt(model, prompts_of(model, clips[:1])[0]) == model.family.system_prompt
    # Everything that a generation_config.json could say otherwise.
    wanted = {"n": 4, "seed": 7, "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    wanted |= {"max_tokens": 10, "logprobs": True, "return_token_ids": True, "priority": 3}
    assert {name: body[name] for name in wanted} == wanted
    assert body["stop_token_ids"] == list(model.stop_ids)
    assert body["media_io_kwargs"] == {"video": {"num_frames": -1, "fps": 2.0}}
    frames = prompts_of(model, clips[:1])[0].frames
    pixels = frames.shape[2] * frames.shape[3]
    assert body["mm_processor_kwargs"] == {
        "size": {"shortest_edge": pixels, "longest_edge": pixels},
        "use_audio_in_video": True,
        "fps": 2.0,
        "do_sample_frames": False,
        "second_per_grid_ts": [1.0],
        "cap": 1,
    }


def test_calls_of_an_adapter(server: PolicyServer, clips: list[ClipRef], tmp_path: Path) -> None:
    model = policy()
    renames = (("thinker.model.language_model.", "thinker.model."),)
    engine = engine_of(server, model, tmp_path, sync="adapter", adapter_renames=renames, keep_versions=2)
    server.ignores_weights = True  # the names are not ours any more
    for version in (0, 1, 5):
        engine.sync(WeightUpdate(version=version, model=model))
    sample(engine, model, clips[:1], n=1)
    loads = [body for path, body in server.calls if path == "/v1/load_lora_adapter"]
    assert [body["lora_name"] for body in loads] == ["policy-00000000", "policy-00000001", "policy-00000005"]
    assert loads[2] == {
        "lora_name": "policy-00000005",
        "lora_path": str(tmp_path / "version-00000005"),
        "load_inplace": True,
    }
    assert [body["lora_name"] for path, body in server.calls if path.startswith("/v1/unload")] == [
        "policy-00000000",
        "policy-00000001",
    ]
    assert server.calls[-1][1]["model"] == "policy-00000005"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["version-00000001", "version-00000005"]
    names = load_file(tmp_path / "version-00000005" / "adapter_model.safetensors").keys()
    assert all(name.startswith("base_model.model.thinker.model.layers.") for name in names)
    settings = json.loads((tmp_path / "version-00000005" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (2, 4.0, 0.0)


def test_calls_of_a_merged_checkpoint(server: PolicyServer, tmp_path: Path) -> None:
    model = policy()
    engine_of(server, model, tmp_path / "a").sync(WeightUpdate(version=3, model=model))
    folder = str(tmp_path / "a" / "version-00000003")
    assert server.calls[0][1] == {"method": "reload_weights", "kwargs": {"weights_path": folder}}
    assert server.paths() == ["/collective_rpc", "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"]
    config = json.loads((Path(folder) / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("qwen2_5_omni", ["Qwen2_5OmniModel"])
    assert all(name.startswith("thinker.") for name in load_file(Path(folder) / "model.safetensors"))
    server.calls.clear()
    engine_of(server, model, tmp_path / "b", dialect="sglang").sync(WeightUpdate(version=3, model=model))
    assert server.calls == [("/update_weights_from_disk", {"model_path": str(tmp_path / "b" / "version-00000003")})]
    refusing = engine_of(server, model, tmp_path / "c", reload=(EndpointCall(path="/refuse"),))
    with pytest.raises(RolloutError, match="/refuse: the server did not do it"):
        refusing.sync(WeightUpdate(version=0, model=model))


def test_a_server_without_token_ids(clips: list[ClipRef], tmp_path: Path) -> None:
    """Canonical texts are taken, others counted: what is handed out is what was sampled."""
    model = policy()
    with PolicyServer(tiny_model, dialect="sglang") as server:
        server.clip_of = {asked(clip): clip.id for clip in clips}
        engine = engine_of(server, model, tmp_path, dialect="sglang")
        engine.sync(WeightUpdate(version=0, model=model))
        wanted = sample(InProcessEngine(model), model, clips, 8, Sampling(max_new_tokens=2, temperature=1.0))
        groups = sample(engine, model, clips, 8, Sampling(max_new_tokens=2, temperature=1.0))
    handed_out = [one.token_ids for group in groups for one in group]
    sampled = [one.token_ids for group in wanted for one in group]
    rejected = engine.rejections["text_differs_from_tokens"]
    assert set(handed_out) <= set(sampled)
    assert len(handed_out) + rejected == 24
    assert rejected > 0
    assert len(handed_out) > 0


def _no_end(reply: Reply) -> Reply:
    for choice in reply["choices"]:
        choice["finish_reason"] = "stop"
        choice["token_ids"] = choice["token_ids"][:3]
        choice["logprobs"]["content"] = choice["logprobs"]["content"][:3]
    return reply | {"choices": [_with_text(choice) for choice in reply["choices"]]}


def _with_text(choice: Reply) -> Reply:
    text = tiny_model().decode(choice["token_ids"])
    return choice | {"message": {"content": text}}


def _other_ids(reply: Reply) -> Reply:
    for choice in reply["choices"]:
        choice["token_ids"][0] = 300 if choice["token_ids"][0] != 300 else 301
    return reply


def _few_numbers(reply: Reply) -> Reply:
    for choice in reply["choices"]:
        choice["logprobs"]["content"].pop()
    return reply


def _nothing(reply: Reply) -> Reply:
    for choice in reply["choices"]:
        del choice["token_ids"], choice["logprobs"]
    return reply


def _filtered(reply: Reply) -> Reply:
    return reply | {"choices": [choice | {"finish_reason": "content_filter"} for choice in reply["choices"]]}


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (_no_end, "no_end_token"),
        (_other_ids, "text_differs_from_tokens"),
        (_few_numbers, "log_probs_do_not_fit"),
        (_nothing, "no_token_ids"),
        (_filtered, "finish_reason"),
    ],
)
def test_rollouts_that_are_not_certain_are_rejected(
    server: PolicyServer, clips: list[ClipRef], tmp_path: Path, lie: Callable[[Reply], Reply], reason: str
) -> None:
    model = policy()
    engine = engine_of(server, model, tmp_path)
    engine.sync(WeightUpdate(version=0, model=model))
    server.change = lie
    assert sample(engine, model, clips[:1]) == [[]]
    assert engine.rejections == {reason: 4}
    assert not check_parity(engine, model, clips[:1]).passed


def test_failures_that_pass_and_failures_that_stay(server: PolicyServer, clips: list[ClipRef], tmp_path: Path) -> None:
    model = policy()
    engine = engine_of(server, model, tmp_path)
    with pytest.raises(ConfigError, match="call sync first"):
        sample(engine, model, clips)
    engine.sync(WeightUpdate(version=0, model=model))
    wanted = sample(engine, model, clips[:1])
    server.failures = [503, 0]
    assert sample(engine, model, clips[:1]) == wanted
    server.failures = [500, 429, 500]
    with pytest.raises(RolloutError, match=r"HTTP 500: told to fail with 500 \(after 3 attempts\)"):
        sample(engine, model, clips[:1])
    server.failures = [400]
    with pytest.raises(RolloutError, match=r"HTTP 400: told to fail with 400$"):
        sample(engine, model, clips[:1])
    server.failures = [404]
    with pytest.raises(RolloutError, match="check the base URL and the model's name"):
        sample(engine, model, clips[:1])
    server.failures = [401]
    with pytest.raises(RolloutError, match="check the API key"):
        sample(engine, model, clips[:1])
    # A sync that fails leaves an engine that samples nothing.
    server.failures = [400]
    with pytest.raises(RolloutError, match="collective_rpc"):
        engine.sync(WeightUpdate(version=1, model=model))
    with pytest.raises(ConfigError, match="call sync first"):
        sample(engine, model, clips[:1])
    engine.sync(WeightUpdate(version=1, model=model))
    server.change = lambda reply: reply | {"choices": reply["choices"][:1]}
    with pytest.raises(RolloutError, match="asked for 4 samples, got 1"):
        sample(engine, model, clips[:1])


def test_a_server_that_is_slow_or_away(server: PolicyServer, clips: list[ClipRef], tmp_path: Path) -> None:
    model = policy()
    engine = engine_of(
        server, model, tmp_path, timeout_seconds=1.0, max_retries=0, reload=(EndpointCall(path="/reset_x"),)
    )
    engine.sync(WeightUpdate(version=0, model=model))

    def slowly(reply: Reply) -> Reply:
        time.sleep(1.5)
        return reply

    server.change = slowly
    with pytest.raises(RolloutError, match=r"chat/completions: no reply within 1 s \(after 1 attempts\)"):
        sample(engine, model, clips[:1], n=1)
    away = engine_of(server, model, tmp_path / "b", base_url="http://127.0.0.1:9/v1", max_retries=1)
    with pytest.raises(RolloutError, match=r"http://127.0.0.1:9/collective_rpc: ConnectError.*\(after 2 attempts\)"):
        away.sync(WeightUpdate(version=0, model=model))


def test_settings(tmp_path: Path) -> None:
    good: dict[str, Any] = {"base_url": "http://h:1/v1", "model": "policy", "folder": str(tmp_path)}
    assert ServerSettings(**good).root == "http://h:1"
    for changes, said in (
        ({"base_url": "h:1/v1"}, "base_url must look like"),
        ({"base_url": "http://h:1"}, "base_url must look like"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout_seconds": 0.0}, "timeout_seconds must be > 0"),
        ({"dtype": "int8"}, "unknown dtype"),
        ({"dialect": "openai"}, "set reload"),
    ):
        with pytest.raises(ConfigError, match=said):
            ServerSettings(**good | changes)


def test_an_adapter_must_hold_all_that_is_trained(server: PolicyServer, tmp_path: Path) -> None:
    model = tiny_model()
    engine = engine_of(server, model, tmp_path, sync="adapter")
    with pytest.raises(ConfigError, match="no adapter"):
        engine.sync(WeightUpdate(version=0, model=model))
    add_lora(model, 2, 4.0)
    with pytest.raises(ConfigError, match=r'weights beside the adapter are trained .* Set sync="merged"'):
        engine.sync(WeightUpdate(version=0, model=model))


def test_own_files_and_urls(server: PolicyServer, clips: list[ClipRef], tmp_path: Path) -> None:
    model = policy()
    engine = engine_of(server, model, tmp_path, media="path")
    engine.sync(WeightUpdate(version=0, model=model))
    with pytest.raises(ConfigError, match="interval"):
        sample(engine, model, clips[:1], n=1)
    whole = [ClipRef(id="81", path=clips[0].path)]
    other = engine_of(server, model, tmp_path / "b", media="url")
    other.sync(WeightUpdate(version=0, model=model))
    with pytest.raises(ConfigError, match="no URL"):
        sample(other, model, whole, n=1)
