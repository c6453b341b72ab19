"""The check before training starts finds servers that lie, and lets those pass that do not."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from avocet.errors import ConfigError
from avocet.models.lora import add_lora, lora_parameters
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.models.salmonn2.tiny import tiny_plus
from avocet.records import ClipRef, Sampling
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training.grpo.rollouts import Inspection, WeightUpdate
from avocet.training.grpo.rollouts.in_process import InProcessEngine
from avocet.training.grpo.rollouts.parity import ParityReport, check_parity
from avocet.training.grpo.rollouts.server import ServerEngine, ServerSettings

sys.path.insert(0, str(Path(__file__).parent))
from policy_server import PolicyServer, Reply


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[ClipRef]:
    folder = tmp_path_factory.mktemp("clips")
    stage(make_script(81, level=1), folder / "81.mp4")
    return [
        ClipRef(id="sound", path=str(folder / "81.mp4"), end_seconds=3.0),
        ClipRef(id="mute", path=str(folder / "81.mp4"), end_seconds=3.0, meta={"audio_policy": "ignore"}),
    ]


@pytest.fixture
def policy() -> Any:
    model = tiny_model()
    model.requires_grad_(False)
    add_lora(model, 2, 4.0)
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return model


@pytest.fixture
def served(policy: Any, tmp_path: Path) -> Iterator[tuple[PolicyServer, ServerEngine]]:
    with PolicyServer(tiny_model) as server:
        settings = ServerSettings(
            base_url=server.base_url, model="policy", folder=str(tmp_path), dtype="float32", max_retries=0
        )
        engine = ServerEngine(settings, policy)
        yield server, engine
        engine.close()


@pytest.mark.parametrize("make", [tiny_model, tiny_plus])
def test_in_process_is_itself(make: Any, clips: list[ClipRef]) -> None:
    model = make()
    report = check_parity(InProcessEngine(model), model, clips, sampling=Sampling(temperature=0.7, top_p=0.9))
    assert report.passed
    assert (report.engine, report.tolerance, report.rejections) == ("in_process", 0.001, {})
    for row in report.clips:
        assert (row.prompt_ids_equal, row.positions_equal, row.problem) == (True, True, "")
        assert row.max_difference is not None
        assert row.max_difference < 1e-4
        assert row.num_tokens >= 1
    assert "equal" in report.lines()[0]
    report.require()
    assert ParityReport.from_dict(report.to_dict()) == report


def test_an_honest_server_passes(served: Any, policy: Any, clips: list[ClipRef]) -> None:
    _, engine = served
    engine.sync(WeightUpdate(version=0, model=policy))
    modes = [module.training for module in policy.train().modules()]
    report = check_parity(engine, policy, clips)
    assert report.passed
    assert [row.positions_equal for row in report.clips] == [None, None]
    assert [module.training for module in policy.modules()] == modes


def test_stale_weights(served: Any, policy: Any, clips: list[ClipRef]) -> None:
    server, engine = served
    server.ignores_weights = True
    engine.sync(WeightUpdate(version=0, model=policy))
    report = check_parity(engine, policy, clips)
    assert not report.passed
    assert all("a log-probability differs by" in row.problem for row in report.clips)
    with pytest.raises(ConfigError, match=r"is not the trainer's model: 2 of 2 clips differ .* off-policy"):
        report.require()
    # The same weights in both, and it passes.
    assert check_parity(engine, server.base, clips).passed


def test_sound_that_does_not_arrive(served: Any, policy: Any, clips: list[ClipRef]) -> None:
    server, engine = served
    engine.sync(WeightUpdate(version=0, model=policy))
    server.is_deaf = True
    heard, muted = check_parity(engine, policy, clips).clips
    assert "the prompts differ from token" in heard.problem
    assert muted.problem == ""


def test_another_tokenisation(served: Any, policy: Any, clips: list[ClipRef]) -> None:
    server, engine = served
    engine.sync(WeightUpdate(version=0, model=policy))

    def shifted(reply: Reply) -> Reply:
        for choice in reply["choices"]:
            choice["token_ids"] = [token + 1 for token in choice["token_ids"]]
        return reply

    server.change = shifted
    report = check_parity(engine, policy, clips)
    assert [row.problem for row in report.clips] == ["its completion was rejected"] * 2
    assert report.rejections == {"text_differs_from_tokens": 2}


def test_log_probs_of_the_sampler(served: Any, policy: Any, clips: list[ClipRef]) -> None:
    """Half of each: as after a temperature of 2, roughly."""
    server, engine = served
    engine.sync(WeightUpdate(version=0, model=policy))

    def flattened(reply: Reply) -> Reply:
        for choice in reply["choices"]:
            for entry in choice["logprobs"]["content"]:
                entry["logprob"] /= 2
        return reply

    server.change = flattened
    report = check_parity(engine, policy, clips)
    assert not report.passed
    assert all(row.mean_difference is not None and row.mean_difference < 0 for row in report.clips)


def test_what_the_engine_does_not_tell(policy: Any, clips: list[ClipRef]) -> None:
    class Quiet(InProcessEngine):
        name = "quiet"

        def inspect(self, *arguments: Any) -> list[Inspection]:
            found = super().inspect(*arguments)
            quiet = [dataclasses.replace(one.rollout, log_probs=None) for one in found if one.rollout is not None]
            return [Inspection(rollout=one) for one in quiet]

    class Displaced(InProcessEngine):
        def inspect(self, *arguments: Any) -> list[Inspection]:
            found = super().inspect(*arguments)
            return [dataclasses.replace(one, positions=one.positions + 0.5) for one in found]  # type: ignore[operator]

    rows = check_parity(Quiet(policy), policy, clips).clips
    assert [row.problem for row in rows] == ["the engine gives no log-probabilities, so nothing can be compared"] * 2
    assert [row.prompt_ids_equal for row in rows] == [None, None]
    rows = check_parity(Displaced(policy), policy, clips).clips
    assert [row.problem for row in rows] == ["the rotary positions of the prompt differ"] * 2
    with pytest.raises(ConfigError, match="at least one clip"):
        check_parity(InProcessEngine(policy), policy, [])
