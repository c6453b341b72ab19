"""Whole GRPO runs whose captions come from a server: two processes, clips that cannot be sent, new addresses."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from policy_server import PolicyServer
from vowels import Interrupted, figures, read_lines, rubric

from avocet.errors import ConfigError
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.records import Sampling
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings
from avocet.training.grpo.config import Grpo
from avocet.training.grpo.driver import EngineMaker, run_grpo
from avocet.training.grpo.rollouts import ServerEngine, ServerSettings

PORTS = {"merged": 29641, "adapter": 29642}


@pytest.fixture
def server_plan(plan: Grpo, staged_clips: Path, tmp_path: Path) -> Grpo:
    """A tiny Qwen-Omni on the first two seconds of three clips."""
    tiny_model().save(tmp_path / "tiny", torch.float32)
    write_examples(tmp_path / "train.jsonl", [(f"clip-{seed}", staged_clips / f"{seed}.mp4") for seed in range(3)])
    return dataclasses.replace(
        plan,
        model=str(tmp_path / "tiny"),
        sources=(DataSource(path=str(tmp_path / "train.jsonl")),),
        trainable=(),
        batch=BatchSettings(max_examples=3, micro_examples=1),
        sampling=Sampling(temperature=1.0, max_new_tokens=6, repetition_guard="off"),
        max_steps=2,
        gradient_checkpointing=False,
    )


def write_examples(path: Path, clips: list[tuple[str, Path]]) -> None:
    lines = [
        {"clip": {"id": name, "path": str(file)}, "task": "caption", "instruction": "", "target": "x"}
        for name, file in clips
    ]
    for line in lines[:3]:
        line["clip"]["end_seconds"] = 2.0  # type: ignore[index]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def still_picture(path: Path) -> Path:
    """Four frames, the third of which stands still for three seconds: they lie on no regular grid."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("ffv1", rate=2)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "bgr0"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, milliseconds in enumerate((0, 500, 1000, 4000)):
            picture = np.full((64, 64, 3), 60 * number, np.uint8)
            frame: Any = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def engine_of(server: PolicyServer, folder: Path, **changes: Any) -> EngineMaker:
    settings: dict[str, Any] = {"base_url": server.base_url, "model": "policy", "folder": str(folder)}
    settings |= {"dtype": "float32", "max_retries": 0, "adapter_renames": ()}
    return lambda model: ServerEngine(ServerSettings(**settings | changes), model)


def chats(server: PolicyServer) -> int:
    return server.paths().count("/v1/chat/completions")


def test_a_clip_that_cannot_be_sent_is_counted_and_the_run_goes_on(
    server_plan: Grpo, staged_clips: Path, tmp_path: Path
) -> None:
    clips = [(f"clip-{seed}", staged_clips / f"{seed}.mp4") for seed in range(3)]
    write_examples(tmp_path / "train.jsonl", [*clips, ("still", still_picture(tmp_path / "still.mkv"))])
    plan = dataclasses.replace(server_plan, batch=BatchSettings(max_examples=1, micro_examples=1), max_steps=4)
    with PolicyServer(tiny_model) as server:
        folder = run_grpo(plan, tmp_path / "run", rubric()[0], rollouts=engine_of(server, tmp_path / "w"), parity=False)
    lines = figures(folder)
    [missing] = [line for line in lines if line["rollouts/rollouts_missing"]]
    assert missing["rejected/frames_not_on_a_grid"] == missing["rollouts/rollouts_missing"] == 3
    assert (missing["lessons"], missing["rollouts/groups_too_small"]) == (0, 1)
    assert sum(line["lessons"] for line in lines) == 3


def test_a_server_gets_a_step_at_once_and_may_move(server_plan: Grpo, tmp_path: Path) -> None:
    sizes: list[int] = []

    def counting(make: EngineMaker) -> Callable[[Any], Any]:
        class Counting(ServerEngine):
            def sample(self, prompts: Any, *arguments: Any) -> Any:
                sizes.append(len(prompts))
                return super().sample(prompts, *arguments)

        def made(model: Any) -> Any:
            engine = make(model)
            assert isinstance(engine, ServerEngine)
            return Counting(engine.settings, model)

        return made

    with PolicyServer(tiny_model) as server:
        # Stopped in the second step, whose captions are on file by then.
        with pytest.raises(Interrupted):
            run_grpo(
                server_plan,
                tmp_path / "run",
                rubric(stop_at=12)[0],
                rollouts=counting(engine_of(server, tmp_path / "w")),
                parity=False,
            )
        assert sizes == [3, 3]
        assert chats(server) == 6
    with PolicyServer(tiny_model) as elsewhere:
        maker = engine_of(elsewhere, tmp_path / "w")
        folder = run_grpo(server_plan, tmp_path / "run", rubric()[0], rollouts=maker, parity=False, resume=True)
        assert chats(elsewhere) == 0
    assert {line["settings"]["engine"] for line in read_lines(folder / "rollouts.jsonl")} == {"server:policy"}
    assert json.loads((folder / "run.json").read_text())["rollouts"] == "server:policy"


def test_captions_of_another_engine_are_refused_where_they_would_be_used(server_plan: Grpo, tmp_path: Path) -> None:
    stopped = dataclasses.replace(server_plan, max_steps=3)
    with PolicyServer(tiny_model) as server:
        maker = engine_of(server, tmp_path / "w")
        with pytest.raises(Interrupted):
            run_grpo(stopped, tmp_path / "run", rubric(stop_at=12)[0], rollouts=maker, parity=False)
        with pytest.raises(ConfigError, match=r"of step 1, which is still to be learnt from, .*server:policy"):
            run_grpo(stopped, tmp_path / "run", rubric()[0], resume=True)
        with pytest.raises(Interrupted):
            # 9 captions to finish the second step, 3 of the third.
            run_grpo(stopped, tmp_path / "run", rubric(stop_at=9)[0], rollouts=maker, parity=False, resume=True)
    for path in (tmp_path / "run" / "grpo").glob("rollouts*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if json.loads(line)["step"] < 2))
    # What was learnt from before is history.
    folder = run_grpo(stopped, tmp_path / "run", rubric()[0], resume=True)
    engines = {line["settings"]["engine"] for line in read_lines(folder / "rollouts.jsonl")}
    assert engines == {"server:policy", "in_process"}


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
from vowels import rubric
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.data import DataSource
from avocet.records import Sampling
from avocet.training.grpo.config import Grpo, PolicySettings
from avocet.training.grpo.driver import run_grpo
from avocet.training.grpo.rollouts import ServerEngine, ServerSettings

torch.set_num_threads(1)
settings = ServerSettings(
    base_url={url!r}, model="policy", folder={weights!r}, sync={sync!r}, dtype="float32", max_retries=0,
    adapter_renames=())
run_grpo({plan!r}, Path({run!r}), rubric()[0], rollouts=lambda model: ServerEngine(settings, model), engine="ddp")
"""


@pytest.mark.parametrize("sync", ["merged", "adapter"])
def test_two_processes_share_a_server(server_plan: Grpo, tmp_path: Path, sync: str) -> None:
    """One writes each version and has it loaded, once; both sample, from that version."""
    plan = dataclasses.replace(server_plan, batch=BatchSettings(max_examples=2, micro_examples=1), max_steps=3)
    with PolicyServer(tiny_model) as server:
        names = {"tests": str(Path(__file__).parent), "url": server.base_url, "weights": str(tmp_path / "w")}
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(**names, sync=sync, plan=plan, run=str(tmp_path / "run")))
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={PORTS[sync]}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [*launcher, str(script)], capture_output=True, text=True, env=environment, timeout=110, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        if sync == "merged":
            assert server.paths().count("/collective_rpc") == 3
        else:
            loaded = [body["lora_name"] for path, body in server.calls if path == "/v1/load_lora_adapter"]
            assert loaded == [f"policy-{version:08d}" for version in range(3)]
            assert list(server.adapters) == ["policy-00000002"]
    lines = figures(tmp_path / "run" / "grpo")
    # Three clips, of which one is a step of its own: one process has nothing then.
    assert sorted(line["rollouts/groups"] for line in lines) == [1, 2, 2]
    assert all(line["reward_n/total"] == 3 * line["rollouts/groups"] for line in lines)
    # Both sampled from the policy that was trained.
    metrics = read_lines(tmp_path / "run" / "grpo" / "metrics.jsonl")
    assert max(line["mean/mismatch"] for line in metrics if "loss" in line) < 1e-3
